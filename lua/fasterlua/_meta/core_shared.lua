---@meta fasterlua.core.shared
-- luacheck: ignore 212 241
-- Provided by C: dictionaries in the memory that all server processes share. `fasterlua.shared`
-- adds to their methods.

---@class fasterlua.core.shared
---@field metatable table of all dictionaries; its `__index` holds their methods
local shared = {}

---@alias fasterlua.core.space "lock"|"flight" leases of either kind have names of their own

--- Raises when the dictionary has another size, or when there is no room.
---@param name string
---@param bytes? integer
---@return fasterlua.Shared
function shared.open(name, bytes) end

--- A `get` that is no use of the value, and counts neither as a hit nor as a miss.
---@param dictionary fasterlua.Shared
---@param key string
---@return any
function shared.peek(dictionary, key) end

--- Sets the number unless there is one that is not less; whether it did.
---@param dictionary fasterlua.Shared
---@param key string
---@param number number
---@return boolean
function shared.raise(dictionary, key, number) end

--- Takes a lease, which ends with this state at the latest; nil when somebody has it. One that is
--- garbage ends by its ttl.
---@param dictionary fasterlua.Shared
---@param space fasterlua.core.space
---@param key string
---@param ttl number|string
---@return number|nil token larger than any before
---@return userdata|nil lease
function shared.take(dictionary, space, key, ttl) end

--- False when it has ended, and maybe is another one's; so do the next two.
---@param lease userdata
---@param ttl number|string from now
---@return boolean
function shared.extend(lease, ttl) end

---@param lease userdata
---@return boolean
function shared.give(lease) end

---@param lease userdata
---@return boolean
function shared.check(lease) end

--- Seconds since the server was started, the same in all of its processes.
---@return number
function shared.clock() end

--- This thread takes no more work.
---@return boolean
function shared.is_draining() end

--- The state is one of a pool's, and not a web thread's.
---@return boolean
function shared.is_pooled() end

--- The running task belongs to a request, or a job, that has not ended.
---@return boolean
function shared.has_request() end

return shared
