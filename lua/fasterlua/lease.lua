-- Leases: who may do something now, among all states of all server processes.
--
--     local lease = leases.take(dictionary, "lock", "import", 10) -- nil: somebody has it
--     lease:release()
--
-- A lease ends with its state, which may be given up or closed, and with its process; and by itself
-- after its ttl, so that a holder that waits is not in the way for ever. One that nobody refers to
-- any more ends by its ttl alone. Those that are kept are extended in the background until they are
-- released.

local core = require "fasterlua.core.shared"
local future = require "fasterlua.future"
local task = require "fasterlua.task"

local leases = {}

--- How long a kept lease lasts when it is not extended, and how often it is, in seconds.
leases.TTL, leases.BEAT = 5, 1.5

---@class fasterlua.Lease
---@field token integer larger than that of any earlier lease of the same name
---@field private _held userdata
local Lease = { __name = "fasterlua.lease" }
Lease.__index = Lease

--- Takes it, or returns nil when somebody has it.
---@param dictionary userdata
---@param space "lock"|"flight"
---@param key string
---@param ttl number seconds
---@return fasterlua.Lease|nil
function leases.take(dictionary, space, key, ttl)
  local token, held = core.take(dictionary, space, key, ttl)
  return token and setmetatable({ token = token, _held = held }, Lease)
end

--- Whether the value is a lease.
---@param value any
---@return boolean
function leases.is_lease(value)
  return getmetatable(value) == Lease
end

--- Ends it. False when it had ended before.
---@return boolean
function Lease:release()
  return core.give(self._held)
end

--- Makes it last so many seconds from now. False when it has ended, and maybe is another one's.
---@param ttl number|string seconds
---@return boolean
function Lease:extend(ttl)
  return core.extend(self._held, ttl)
end

--- Whether it has not ended.
---@return boolean
function Lease:is_held()
  return core.check(self._held)
end

-- One task extends all leases of the state that are kept; it is there while there are any.
local kept, keeper = {}, nil

local function extend_kept()
  while next(kept) do
    future.await(future.sleep(leases.BEAT))
    for lease in pairs(kept) do
      lease:extend(leases.TTL)
    end
  end
end

--- Extends it until it is released by `leases.drop`.
---@param lease fasterlua.Lease
---@return fasterlua.Lease lease
function leases.keep(lease)
  kept[lease] = true
  if not keeper or keeper:done() then
    keeper = task.detach(extend_kept)
  end
  return lease
end

--- Releases a lease that was kept.
---@param lease fasterlua.Lease
function leases.drop(lease)
  kept[lease] = nil
  if keeper and not next(kept) then
    keeper:cancel()
    keeper = nil
  end
  lease:release()
end

return leases
