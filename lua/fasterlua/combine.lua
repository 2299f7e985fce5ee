-- Futures made of futures: `gather`, `race`, `all_settled`, `timeout`.
--
--     local user, orders = await(combine.gather(fetch_user(id), fetch_orders(id)))
--
-- A combinator subscribes to its children and settles when they have; when it is cancelled, or has
-- what it needs, those that nobody else wants are abandoned.

local future = require "fasterlua.future"
local units = require "fasterlua.units"

local new, settle, fail, done = future.new, future.settle, future.fail, future.done
local subscribe, unsubscribe = future.subscribe, future.unsubscribe
local is_future = future.is_future
local PENDING, VALUE, FAILED = future.PENDING, future.VALUE, future.FAILED
local NIL_ERROR = future.NIL_ERROR
local error, ipairs, select, setmetatable, type, unpack =
  error, ipairs, select, setmetatable, type, unpack

local combine = {}

---@class fasterlua.Timeout: an error: `fl.timeout` ended first
---@field kind "timeout"
---@field status 504
---@field seconds number
local Timeout = { __name = "fasterlua.timeout" }

function Timeout.__tostring(self)
  return ("timed out after %g s"):format(self.seconds)
end

function Timeout.__crossing(self)
  return "fasterlua.combine", self.seconds
end

--- What a Timeout error of another state becomes here.
---@param seconds number
---@return fasterlua.Timeout
function combine.from_crossing(seconds)
  return setmetatable({ kind = "timeout", status = 504, seconds = seconds }, Timeout)
end

local function abandon_children(self, reason)
  for _, child in ipairs(self._children) do
    unsubscribe(child, reason)
  end
end

local function combined(children)
  local self = new()
  self._children = children
  self._on_cancel = abandon_children
  return self
end

-- When results of children may be taken back (locks, items), so may what is made of them.
local function settle_combined(self, ...)
  for _, child in ipairs(self._children) do
    if child._undo then
      self._undo = abandon_children
    end
  end
  settle(self, ...)
end

local function fail_combined(self, err, traceback)
  fail(self, err, traceback)
  abandon_children(self)
end

local function error_of(self)
  local err = self._value
  if err == NIL_ERROR then
    err = nil
  end
  return err, self._traceback
end

local function first_value(self)
  if self._state == VALUE then
    return self._value
  end
  return self._value[1]
end

-- Values among the futures count as futures that are done.
local function as_futures(values, count)
  local children = {}
  for index = 1, count do
    local value = values[index]
    children[index] = is_future(value) and value or done(value)
  end
  return children
end

-- The futures of a call `f(a, b, …)` or `f { a, b, … }`, and whether it was a list.
local function children_of(...)
  local count, first = select("#", ...), ...
  if count == 1 and type(first) == "table" and not is_future(first) then
    return as_futures(first, #first), true
  end
  return as_futures({ ... }, count), false
end

local function settle_gathered(self, gathering)
  if gathering.is_list then
    settle_combined(self, gathering.values)
  else
    settle_combined(self, unpack(gathering.values, 1, gathering.count))
  end
end

local function gathered(waiter, child)
  local gathering = waiter.gathering
  local self = gathering.future
  if self._state ~= PENDING then
    return
  end
  if child._state == FAILED then
    return fail_combined(self, error_of(child))
  end
  gathering.values[waiter.index] = first_value(child)
  gathering.left = gathering.left - 1
  if gathering.left == 0 then
    settle_gathered(self, gathering)
  end
end

local function subscribe_all(children, shared, notify_waiter)
  for index, child in ipairs(children) do
    subscribe(child, { notify = notify_waiter, index = index, gathering = shared })
  end
end

--- The future of all results in order: several values, or one list when a list of futures is given.
--- The first error cancels the rest and is raised.
---@param ... fasterlua.Future|fasterlua.Future[]
---@return fasterlua.Future
function combine.gather(...)
  local children, is_list = children_of(...)
  local self = combined(children)
  local gathering =
    { future = self, values = {}, left = #children, count = #children, is_list = is_list }
  if #children == 0 then
    settle_gathered(self, gathering)
  end
  subscribe_all(children, gathering, gathered)
  return self
end

local function outcome(child)
  if child._state == FAILED then
    return { ok = false, error = (error_of(child)) }
  end
  return { ok = true, value = first_value(child) }
end

local function one_settled(waiter, child)
  local gathering = waiter.gathering
  gathering.values[waiter.index] = outcome(child)
  gathering.left = gathering.left - 1
  if gathering.left == 0 then
    settle_combined(gathering.future, gathering.values)
  end
end

--- The future of a list of `{ ok = true, value = … }` and `{ ok = false, error = … }`, in order.
---@param ... fasterlua.Future|fasterlua.Future[]
---@return fasterlua.Future
function combine.all_settled(...)
  local children = children_of(...)
  local self = combined(children)
  if #children == 0 then
    settle(self, {})
  end
  subscribe_all(children, { future = self, values = {}, left = #children }, one_settled)
  return self
end

local function copy(self, child)
  if child._state == FAILED then
    return fail(self, error_of(child))
  elseif child._state == VALUE then
    return settle_combined(self, child._value)
  end
  return settle_combined(self, unpack(child._value, 1, child._value.n))
end

local function abandon_losers(self, winner)
  for _, child in ipairs(self._children) do
    if child ~= winner then
      unsubscribe(child)
    end
  end
  self._children = { winner }
end

local function race_settled(waiter, child)
  local self = waiter.gathering.future
  if self._state == PENDING then
    copy(self, child)
    abandon_losers(self, child)
  end
end

--- The future of whichever settles first, well or badly; the others are cancelled.
---@param ... fasterlua.Future|fasterlua.Future[]
---@return fasterlua.Future
function combine.race(...)
  local children = children_of(...)
  if #children == 0 then
    error("race: at least one future expected", 2)
  end
  local self = combined(children)
  subscribe_all(children, { future = self }, race_settled)
  return self
end

local function timed(waiter, child)
  local self, timer = waiter.future, waiter.timer
  if self._state ~= PENDING then
    return
  end
  if child ~= timer then
    copy(self, child)
    self._children = { child }
    return unsubscribe(timer)
  end
  fail(self, combine.from_crossing(waiter.seconds), false)
  unsubscribe(waiter.child, "timeout")
end

--- The same future, but after so many seconds it is cancelled and a Timeout error is raised.
---@param seconds number|string
---@param child fasterlua.Future
---@return fasterlua.Future
function combine.timeout(seconds, child)
  if not is_future(child) then
    error(("timeout: a future expected, got %s"):format(type(child)), 2)
  end
  local given = seconds
  seconds = units.seconds(given)
  if not seconds or not (seconds >= 0 and seconds < 4e9) then
    error(('timeout: seconds from 0, or a time as "500ms", expected, got %s'):format(
      tostring(given)), 2)
  end
  local timer = future.sleep(seconds)
  local self = combined { child, timer }
  local waiter = { notify = timed, future = self, timer = timer, child = child, seconds = seconds }
  subscribe(child, waiter)
  if self._state == PENDING then
    subscribe(timer, waiter)
  end
  return self
end

return combine
