-- Leases: who may do something now, among all states of all server processes.
--
--     local lease = leases.take(dictionary, "lock", "import", 10) -- nil: somebody has it
--     lease:release()
--
-- A lease ends by itself after its ttl, so that one whose state or process is gone is not in the
-- way for ever. Those that are kept are extended in the background until they are released.

local core = require "fasterlua.core.shared"
local future = require "fasterlua.future"

local leases = {}

--- How long a kept lease outlives its state, and how often it is extended, in seconds.
leases.TTL, leases.BEAT = 5, 1.5

---@class fasterlua.Lease
---@field token integer larger than that of any earlier lease of the same name
---@field private _dictionary userdata
---@field private _space "lock"|"flight"
---@field private _key string
local Lease = { __name = "fasterlua.lease" }
Lease.__index = Lease

--- Takes it, or returns nil when somebody has it.
---@param dictionary userdata
---@param space "lock"|"flight"
---@param key string
---@param ttl number seconds
---@return fasterlua.Lease|nil
function leases.take(dictionary, space, key, ttl)
  local token = core.take(dictionary, space, key, ttl)
  if not token then
    return nil
  end
  local fields = { token = token, _dictionary = dictionary, _space = space, _key = key }
  return setmetatable(fields, Lease)
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
  return core.give(self._dictionary, self._space, self._key, self.token)
end

--- Makes it last so many seconds from now. False when it has ended, and maybe is another one's.
---@param ttl number seconds
---@return boolean
function Lease:extend(ttl)
  return core.extend(self._dictionary, self._space, self._key, self.token, ttl)
end

--- Whether it has not ended.
---@return boolean
function Lease:is_held()
  return core.check(self._dictionary, self._space, self._key, self.token)
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
    keeper = future.detach(extend_kept)
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
