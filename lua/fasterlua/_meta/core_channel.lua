---@meta fasterlua.core.channel
-- luacheck: ignore 212 241
-- Provided by C: queues between the states of a server process. `fasterlua.channel` adds to their
-- methods.

---@class fasterlua.core.channel
---@field metatable table of all channels; its `__index` holds their methods
local channel = {}

--- Raises when the channel has another size, or when there are too many.
---@param name string
---@param size? integer
---@return fasterlua.Channel
function channel.open(name, size) end

---@param self fasterlua.Channel
---@param ... any
---@return true|userdata|nil # true: it is in; or the operation that waits
---@return table? problem
function channel.put(self, ...) end

---@param self fasterlua.Channel
---@param ... any
---@return boolean|nil
---@return table? problem
function channel.try_put(self, ...) end

---@param self fasterlua.Channel
---@return userdata|nil op
---@return table? problem
function channel.take(self) end

---@param self fasterlua.Channel
---@return boolean|nil # nil: the problem follows
---@return any ... values
function channel.try_take(self) end

--- The item of a take has reached whom it was for; raises when it was taken back before.
---@param op userdata
function channel.received(op) end

--- The item of a take has reached nobody: the next taker gets it.
---@param op userdata
function channel.give_back(op) end

return channel
