-- Data that all Lua states of all server processes share. It survives reloads and crashes of server
-- processes, and is gone when the server is stopped.
--
--     local cache = fl.shared("cache", { bytes = "4MB" })
--     app:get("/", function() return { visits = cache:incr("visits") } end)
--
-- Values are copied in and out: numbers, booleans, strings, and tables of those. Each call is
-- atomic and none waits, but for those that return a future (`get_or_set`, `lock`) and `with`,
-- which awaits. Who waits for another state asks again and again, after 1 ms at first and every
-- 20 ms at last: nobody is told, and whoever asks first is served first.

local core = require "fasterlua.core.shared"
local future = require "fasterlua.future"
local leases = require "fasterlua.lease"
local suggest = require "fasterlua.suggest"
local core_task = require "fasterlua.core.task"
local failure = require "fasterlua.failure"
local task = require "fasterlua.task"
local units = require "fasterlua.units"

local await, sleep = future.await, future.sleep

local FIRST_PAUSE, LONGEST_PAUSE = 0.001, 0.02 -- seconds between two looks

local shared = {}

---@class fasterlua.Shared
---@field get fun(self: fasterlua.Shared, key: string): any nil when it is not there
---@field set fun(self: fasterlua.Shared, key: string, value: any, ttl?: number|string)
---@field add fasterlua.SharedStore sets it unless it is there
---@field replace fasterlua.SharedStore sets it if it is there
---@field incr fasterlua.SharedIncr adds `by` (1) to what is there, or to `from` (0)
---@field expire fun(self: fasterlua.Shared, key: string, ttl: number|string): boolean
---@field ttl fun(self: fasterlua.Shared, key: string): number|nil seconds; math.huge is no end
---@field delete fun(self: fasterlua.Shared, key: string): boolean
---@field keys fasterlua.SharedKeys those that begin with `prefix`; looks at all entries
---@field clear fun(self: fasterlua.Shared)
---@field stats fun(self: fasterlua.Shared): fasterlua.SharedStats
---@field name fun(self: fasterlua.Shared): string

---@alias fasterlua.Ttl number|string seconds, or "5m"
---@alias fasterlua.SharedStore
---| fun(self: fasterlua.Shared, key: string, value: any, ttl?: fasterlua.Ttl): boolean
---@alias fasterlua.SharedIncr
---| fun(d: fasterlua.Shared, key: string, by?: number, from?: number, ttl?: fasterlua.Ttl): number
---@alias fasterlua.SharedKeys
---| fun(self: fasterlua.Shared, prefix?: string, limit?: integer): string[] limit: 1,000

---@type table
local Shared = core.metatable
local methods = Shared.__index

---@class fasterlua.SharedStats
---@field entries integer some may have expired
---@field leases integer locks, and values being made by get_or_set
---@field bytes integer its size
---@field bytes_used integer
---@field evicted integer that went because it was full
---@field expired integer
---@field hits integer
---@field misses integer
---@field emptied integer parts that were emptied because a process died while it changed them

---@class fasterlua.SharedOptions
---@field bytes? integer|string its size, "4MB"; "1MB" by default

function Shared.__tostring(self)
  return ("fasterlua.shared (%s)"):format(self:name())
end

-- How it gets into another state: by its name.
function Shared.__crossing(self)
  return "fasterlua.shared", self:name()
end

--- The dictionary that `__crossing` named.
---@param name string
---@return fasterlua.Shared
function shared.from_crossing(name)
  return core.open(name)
end

local function bytes_of(name, options)
  for option in pairs(options or {}) do
    if option ~= "bytes" then
      local hint = suggest.hint(tostring(option), { "bytes" })
      error(("shared %q: unknown option %q%s"):format(name, tostring(option), hint), 3)
    end
  end
  local value = options and options.bytes
  local bytes = value ~= nil and units.bytes(value) or nil
  if value ~= nil and (not bytes or bytes % 1 ~= 0) then
    local message = "shared %q: bytes must be a size as in 65536 or \"4MB\", got %s"
    error(message:format(name, tostring(value)), 3)
  end
  return bytes
end

--- Opens a dictionary, making it when there is none of this name. Its size is decided by the first
--- that opens it; without `bytes` it is taken as it is.
---@param name string
---@param options? fasterlua.SharedOptions
---@return fasterlua.Shared
function shared.open(name, options)
  if type(name) ~= "string" then
    error(("shared: a name expected, got a %s"):format(type(name)), 2)
  end
  if name:find("^fasterlua%.") then
    error(("shared %q: names that begin with \"fasterlua.\" are the server's own"):format(name), 2)
  end
  local ok, result = pcall(core.open, name, bytes_of(name, options))
  if not ok then
    error(result, 2)
  end
  return result
end

local function is_time(value)
  local seconds = units.seconds(value)
  return seconds ~= nil and seconds > 0 and seconds <= 1e9
end

local function check(self, name, key, ttl, is_needed)
  if type(self) ~= "userdata" then
    error(("shared: %s: a dictionary expected, got %s: called with a dot, not a colon?"):format(
      name, type(self)), 3)
  end
  if type(key) ~= "string" then
    error(("shared %q: %s: a key must be a string, got %s"):format(self:name(), name, type(key)), 3)
  end
  if (ttl ~= nil or is_needed) and not is_time(ttl) then
    error(('shared %q: %s: a ttl must be seconds above 0 and up to 1e9, or a time as "5m", got %s')
      :format(self:name(), name, tostring(ttl)), 3)
  end
end

local function check_function(self, name, fn)
  if type(fn) ~= "function" then
    error(("shared %q: %s: a function expected, got a %s"):format(self:name(), name, type(fn)), 3)
  end
end

-- Returns the first of fn's results, once it is stored.
local function keep_result(self, key, ttl, value)
  if value ~= nil then
    self:set(key, value, ttl)
  end
  return value
end

local function make(self, key, ttl, fn, ...)
  local value = core.peek(self, key) -- whoever had the lease before may have set it just now
  if value ~= nil then
    return value
  end
  return keep_result(self, key, ttl, (fn(...)))
end

local function make_or_wait(self, key, ttl, fn, ...)
  local pause = FIRST_PAUSE
  while true do
    local flight = leases.take(self, "flight", key, leases.TTL)
    if flight then
      return failure.finally(leases.drop, leases.keep(flight), make, self, key, ttl, fn, ...)
    end
    await(sleep(pause))
    pause = math.min(pause * 2, LONGEST_PAUSE)
    local value = core.peek(self, key)
    if value ~= nil then
      return value
    end
  end
end

--- A future of the value. When it is not there, one caller among all states and processes runs
--- `fn(...)`, and what it returns is set with this ttl; the others wait for it. When fn raises, its
--- caller gets the error and one of those that wait runs fn in its turn; likewise when the caller's
--- request ends, its state is given up or its process dies. nil is returned and not kept.
---@param key string
---@param ttl? number|string seconds
---@param fn fun(...): any
---@param ... any its arguments
---@return fasterlua.Future
function methods:get_or_set(key, ttl, fn, ...)
  check(self, "get_or_set", key, ttl)
  check_function(self, "get_or_set", fn)
  local value = self:get(key)
  if value ~= nil then
    return future.done(value)
  end
  return task.spawn(make_or_wait, self, key, ttl, fn, ...)
end

-- A lease that reached nobody.
local function give_back(waiter)
  if leases.is_lease(waiter._value) then
    waiter._value:release()
  end
end

local function take_lock(self, key, ttl)
  local lease = leases.take(self, "lock", key, ttl)
  if lease and core.has_request() then
    core_task.at_end(lease.release, lease)
  end
  return lease
end

local function wait_for_lock(self, key, ttl, wait)
  local last = core.clock() + wait
  local pause = FIRST_PAUSE
  while true do
    local lease = take_lock(self, key, ttl)
    local left = last - core.clock()
    if lease or left <= 0 then
      return lease
    end
    await(sleep(math.min(pause, left)))
    pause = math.min(pause * 2, LONGEST_PAUSE)
  end
end

local function wait_of(self, options)
  for option in pairs(options or {}) do
    if option ~= "wait" then
      local hint = suggest.hint(tostring(option), { "wait" })
      error(("shared %q: lock: unknown option %q%s"):format(self:name(), tostring(option), hint), 3)
    end
  end
  local given = options and options.wait or math.huge
  local wait = units.seconds(given)
  if not wait or wait ~= wait or wait < 0 then
    error(("shared %q: lock: wait must be seconds from 0, or a time as \"5m\", got %s"):format(
      self:name(), tostring(given)), 3)
  end
  return wait
end

---@class fasterlua.LockOptions
---@field wait? number|string seconds after which the future is done with nil; for ever by default

--- A future of a lease: nobody else among all states and processes has one of this key until it is
--- released, its ttl is over, the request or job in which it was taken has ended, or its state is
--- given up.
---@param key string apart from the keys of values
---@param ttl number|string seconds
---@param options? fasterlua.LockOptions
---@return fasterlua.Future
function methods:lock(key, ttl, options)
  check(self, "lock", key, ttl, true)
  local wait = wait_of(self, options)
  local lease = take_lock(self, key, ttl)
  local waiter
  if lease or wait == 0 then
    waiter = future.done(lease)
  else
    waiter = task.spawn(wait_for_lock, self, key, ttl, wait)
  end
  waiter._undo = give_back
  return waiter
end

--- Locks, calls fn, releases; returns what fn returns or raises its error.
---@param key string
---@param ttl number|string seconds that fn has before others may go in
---@param fn fun(...): any ...
---@param ... any its arguments
---@return any ...
function methods:with(key, ttl, fn, ...)
  check(self, "with", key, ttl, true)
  check_function(self, "with", fn)
  local lease = await(self:lock(key, ttl))
  return failure.finally(lease.release, lease, fn, ...)
end

return shared
