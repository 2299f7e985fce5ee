-- Futures: results of work that has already begun. `await` suspends the task until one is done.
--
--     local rows, other = db:all(sql), db:all(other_sql) -- both under way
--     local first = await(rows)[1]
--
-- A future settles once: with values, or with an error. What produces it is a task (`task.spawn`),
-- an operation of C's (`from_op`), or Lua code that calls `settle` and `fail` (combinators,
-- `sync`). Operations tell only tasks that wait for them; when something else wants to know (a
-- combinator), a small task watches the operation.

local coroutines = require "fasterlua.coroutines"
local core_task = require "fasterlua.core.task"
local core_log = require "fasterlua.core.log"
local failure = require "fasterlua.failure"

local AWAIT = core_task.AWAIT
local CANNOT_SUSPEND = coroutines.CANNOT_SUSPEND
local isyieldable, raw_yield = coroutines.raw.isyieldable, coroutines.raw.yield
local new_ticket, wake = core_task.ticket, core_task.wake
local op_await, op_take, op_wait = core_task.op_await, core_task.op_take, core_task.op_wait
local cancelled, is_cancelled, rethrow = failure.cancelled, failure.is_cancelled, failure.rethrow
local keep_traceback, take_traceback = failure.keep_traceback, failure.take_traceback
local getmetatable, setmetatable, type, error = getmetatable, setmetatable, type, error
local rawset, select, unpack, xpcall = rawset, select, unpack, xpcall

local future = {}

-- No field of a future is ever nil: what is absent is `false`. Those that most futures use are
-- there from the start, eight, which is what a table has room for before it doubles; the others
-- are found as defaults. What is neither is the programmer's mistake.
--
---@class fasterlua.Future
---@field _state integer PENDING, VALUE, VALUES or FAILED
---@field _value any the value, the packed values, or the error
---@field _traceback string|false where it failed
---@field _task integer|false the task that produces it
---@field _op userdata|false the operation that produces it
---@field _waiters table|false tickets of tasks, and combinators, to be told when it settles
---@field _waiting integer how many tasks and combinators want the result now
---@field _is_awaited boolean somebody wants, or wanted, the result: its errors are theirs
---@field _is_watched boolean a task watches its operation
---@field _is_detached boolean it lives on when those who wait for it are cancelled
---@field _on_cancel function|false called when a pending one is cancelled
---@field _undo function|false takes the result back when it never reached anybody
---@field _received function|false told, beside `_undo`, that the result has reached somebody
---@field _children table|false the futures a combinator stands on
---@field _extra any what the producer keeps here
local Future = { __name = "fasterlua.future" }
local methods = {}

local defaults = {
  _traceback = false,
  _is_watched = false,
  _is_detached = false,
  _on_cancel = false,
  _received = false,
  _children = false,
  _extra = false,
}

local PENDING, VALUE, VALUES, FAILED = 1, 2, 3, 4
local NOTHING = { n = 0 } -- the packed values of a future without values
local NIL_ERROR = {} -- stands for the error value nil

local function new()
  return setmetatable({
    _state = PENDING,
    _value = false,
    _task = false,
    _op = false,
    _waiters = false,
    _waiting = 0,
    _is_awaited = false,
    _undo = false,
  }, Future)
end

local function forgotten(what)
  return function()
    error(("%s a future: did you forget await?"):format(what), 2)
  end
end

Future.__call = forgotten "calling"
Future.__concat = forgotten "concatenating"
Future.__unm = forgotten "negating"
Future.__len = forgotten "the length of"
Future.__lt = forgotten "comparing"
Future.__le = Future.__lt
for _, name in ipairs { "add", "sub", "mul", "div", "mod", "pow" } do
  Future["__" .. name] = forgotten "arithmetic on"
end

-- Methods and defaults; below them nothing but mistakes.
Future.__index = setmetatable(methods, {
  __index = function(_, key)
    error(('indexing (field "%s") a future: did you forget await?'):format(tostring(key)), 2)
  end,
})
for field, value in pairs(defaults) do
  methods[field] = value
end

function Future.__newindex(self, key, value)
  if defaults[key] == nil then
    error(('setting field "%s" of a future: did you forget await?'):format(tostring(key)), 2)
  end
  rawset(self, key, value)
end

local state_names = { "pending", "done", "done", "failed" }

function Future.__tostring(self)
  return ("fasterlua.future (%s)"):format(state_names[self._state])
end

--- Whether the value is a future.
---@param value any
---@return boolean
function future.is_future(value)
  return getmetatable(value) == Future
end

local function notify(self)
  local waiters = self._waiters
  if not waiters then
    return
  end
  self._waiters = false
  for index = 1, #waiters do
    local waiter = waiters[index]
    if type(waiter) == "number" then
      wake(waiter)
    else
      waiter.notify(waiter, self)
    end
  end
end

local function add_waiter(self, waiter)
  local waiters = self._waiters
  if waiters then
    waiters[#waiters + 1] = waiter
  else
    self._waiters = { waiter }
  end
end

--- Ends a pending future with values; one that is over already stays as it is.
---@param self fasterlua.Future
---@param ... any
local function settle(self, ...)
  if self._state ~= PENDING then
    return
  end
  local count, first = select("#", ...), ...
  if count == 1 and first ~= nil then
    self._state, self._value = VALUE, first
  else
    self._state, self._value = VALUES, count == 0 and NOTHING or { n = count, ... }
  end
  notify(self)
end

local function log_failure(self)
  if not self._is_awaited then
    self._is_awaited = true
    local err = self._value
    if err == NIL_ERROR then
      err = nil
    end
    core_log.unhandled(err, self._traceback or "")
  end
end

--- Ends a pending future with an error. It is logged when nobody awaits it until the request has
--- ended; at once when it is detached.
---@param self fasterlua.Future
---@param err any
---@param traceback string|false
local function fail(self, err, traceback)
  if self._state ~= PENDING then
    return
  end
  self._state, self._traceback = FAILED, traceback or false
  self._value = err == nil and NIL_ERROR or err
  notify(self)
  if self._is_awaited or is_cancelled(err) then
    return
  end
  if self._is_detached then
    log_failure(self)
  else
    core_task.at_end(log_failure, self)
  end
end

local function raise(self)
  local err = self._value
  if err == NIL_ERROR then
    err = nil
  end
  return rethrow(err, self._traceback)
end

-- The errors of operations: tables with `kind`, `message` and often `code`.
local OperationError = { __name = "fasterlua.operation_error" }

function OperationError.__tostring(self)
  return tostring(self.message)
end

local function settle_taken(self, ok, ...)
  if ok then
    return settle(self, ...)
  elseif ok == nil then
    return -- it is not done
  end
  local err, traceback = ...
  if type(err) == "table" and err.message and not getmetatable(err) then
    setmetatable(err, OperationError)
  end
  return fail(self, err, traceback or false)
end

-- Notices that the operation behind a pending future has ended.
local function refresh(self)
  local op = self._op
  if op and self._state == PENDING then
    settle_taken(self, op_take(op))
  end
end

-- The reasons C knows.
local task_reasons = { timeout = true, shutdown = true, ["client left"] = true }

local function cancel(self, reason)
  refresh(self)
  if self._state ~= PENDING then
    return false
  end
  self._is_awaited = true
  local producer, op, on_cancel = self._task, self._op, self._on_cancel
  fail(self, cancelled(reason), false)
  if producer then
    core_task.cancel(producer, task_reasons[reason] and reason or "cancelled")
  end
  if op then
    core_task.op_cancel(op)
  end
  if on_cancel then
    on_cancel(self, reason)
  end
  return true
end

-- Nobody wants this result any more: it is cancelled, or taken back when it reached nobody.
local function abandon(self, reason)
  refresh(self)
  if self._state == PENDING then
    if not self._is_detached then
      cancel(self, reason)
    end
  elseif self._undo then
    local undo = self._undo
    self._undo = false
    undo(self)
  end
end

-- The result has reached somebody: it cannot be taken back.
local function delivered(self)
  self._undo = false
  if self._received then
    self._received(self)
  end
  for _, child in ipairs(self._children or {}) do
    if child._undo then
      delivered(child)
    end
  end
end

--- Cancels the work: who awaits the future gets a Cancelled error at once, its task at its next
--- await. False when it was over already.
---@param reason? string
---@return boolean
function methods:cancel(reason)
  refresh(self)
  if self._state ~= PENDING and self._undo then
    abandon(self)
    self._state, self._value = FAILED, cancelled(reason)
    return true
  end
  return cancel(self, reason)
end

--- Whether it has ended, well or badly.
---@return boolean
function methods:done()
  refresh(self)
  return self._state ~= PENDING
end

local function leave_cancelled(self, reason)
  if self._waiting == 0 then
    abandon(self, reason)
  end
  error(cancelled(reason), 0)
end

local CANNOT_AWAIT = "await cannot be used here: inside a table.sort comparator, "
  .. "a gsub callback, an xpcall handler, a load reader or __gc LuaJIT cannot suspend the task"

local OUTSIDE = "await outside of a task: at a module's top level nothing can wait"

--- Raises the error of whoever awaits where nothing can be suspended.
---@param level? integer of the app's code, as for `error`
function future.refuse_await(level)
  error(core_task.current() and CANNOT_AWAIT or OUTSIDE, (level or 3) + 1)
end

-- Suspends the task until the future has settled.
local function suspend(self)
  if not isyieldable() then
    future.refuse_await(3)
  end
  repeat
    local ticket, reason = new_ticket()
    if not ticket then
      leave_cancelled(self, reason)
    end
    add_waiter(self, ticket)
    self._waiting = self._waiting + 1
    reason = raw_yield(AWAIT)
    self._waiting = self._waiting - 1
    if reason == CANNOT_SUSPEND then
      error(CANNOT_AWAIT, 3)
    elseif reason then
      leave_cancelled(self, reason)
    end
  until self._state ~= PENDING
end

-- The same until its operation is done, and takes the result.
local function suspend_on_op(self)
  if not isyieldable() then
    refresh(self)
    if self._state ~= PENDING then
      return
    end
    future.refuse_await(3)
  end
  local op = self._op
  repeat
    self._waiting = self._waiting + 1
    local reason = op_await(op)
    self._waiting = self._waiting - 1
    if reason == CANNOT_SUSPEND then
      error(CANNOT_AWAIT, 3)
    elseif reason then
      leave_cancelled(self, reason)
    elseif self._state == PENDING then
      settle_taken(self, op_take(op))
    end
  until self._state ~= PENDING
end

--- Waits until the future is done and returns its values, or raises its error. Anything that is not
--- a future is returned unchanged.
---@param self any
---@param ... any
---@return any ...
function future.await(self, ...)
  if getmetatable(self) ~= Future then
    return self, ...
  end
  if getmetatable((...)) == Future then
    error("await takes one future: use await(gather(…)) for several", 2)
  end
  self._is_awaited = true
  if self._state == PENDING then
    if self._op then
      suspend_on_op(self)
    else
      suspend(self)
    end
  end
  if self._undo then
    delivered(self)
  end
  local state = self._state
  if state == VALUE then
    return self._value
  elseif state == VALUES then
    return unpack(self._value, 1, self._value.n)
  end
  return raise(self)
end

--- The future of an operation of C's.
---@param op userdata
---@return fasterlua.Future
function future.from_op(op)
  local self = new()
  self._op = op
  return self
end

--- A future that is done after so many seconds.
---@param seconds number
---@return fasterlua.Future
function future.sleep(seconds)
  if type(seconds) ~= "number" or not (seconds >= 0 and seconds < 4e9) then
    error(('sleep: seconds from 0, or a time as "500ms", expected, got %s'):format(
      tostring(seconds)), 2)
  end
  return future.from_op(core_task.sleep(seconds))
end

local function watch_op(self)
  while self._state == PENDING do
    local ticket, reason = new_ticket()
    if ticket then
      op_wait(self._op, ticket)
      add_waiter(self, ticket)
      reason = raw_yield(AWAIT)
    end
    if reason then
      cancel(self, reason)
    end
    refresh(self)
  end
end

-- Taking a result may raise: there is no memory for it.
local function settle_raised(self, ok, err)
  if not ok then
    fail(self, err, take_traceback(err))
  end
end

local function watch(self)
  settle_raised(self, xpcall(watch_op, keep_traceback, self))
end

-- Tells `waiter` (a table with a function `notify`) when the future settles; at once if it has.
local function subscribe(self, waiter)
  self._is_awaited = true
  self._waiting = self._waiting + 1
  if self._op and self._state == PENDING then
    settle_raised(self, xpcall(refresh, keep_traceback, self))
  end
  if self._state ~= PENDING then
    return waiter.notify(waiter, self)
  end
  add_waiter(self, waiter)
  if self._op and not self._is_watched then
    self._is_watched = true
    if self._is_detached then
      core_task.detach(watch, self)
    else
      core_task.start(watch, self)
    end
  end
end

local function unsubscribe(self, reason)
  self._waiting = self._waiting - 1
  if self._waiting <= 0 then
    abandon(self, reason)
  end
end

-- For the modules that produce futures themselves.
future.new, future.settle, future.fail = new, settle, fail
future.subscribe, future.unsubscribe = subscribe, unsubscribe
future.PENDING, future.VALUE, future.FAILED = PENDING, VALUE, FAILED
future.NIL_ERROR = NIL_ERROR

--- A future that is done already.
---@param value any
---@return fasterlua.Future
function future.done(value)
  local self = new()
  settle(self, value)
  return self
end

return future
