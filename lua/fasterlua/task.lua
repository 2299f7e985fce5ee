-- Tasks: functions that run beside others in one state, each of which may await.
--
--     local greeting = await(task.spawn(function(name) return "hello " .. name end, "you"))
--
-- A task is a coroutine of C's, which starts, resumes and cancels it; here it gets the future that
-- settles with what its function returns, or fails with what that raises.

local core = require "fasterlua.core.task"
local core_log = require "fasterlua.core.log"
local failure = require "fasterlua.failure"
local future = require "fasterlua.future"

local new, settle, fail = future.new, future.settle, future.fail
local PENDING = future.PENDING
local is_cancelled, rethrow = failure.is_cancelled, failure.rethrow
local keep_traceback, take_traceback = failure.keep_traceback, failure.take_traceback
local start, detach, new_ticket = core.start, core.detach, core.ticket
local error, type, xpcall = error, type, xpcall

local task = {}

local function finish(self, ok, ...)
  if ok then
    return settle(self, ...)
  end
  local err = ...
  local traceback = take_traceback(err)
  if self._state == PENDING then
    return fail(self, err, traceback)
  end
  if not is_cancelled(err) then -- it was cancelled, and failed while it cleaned up
    core_log.unhandled(err, traceback or "")
  end
end

local function run(self, fn, ...)
  if self._state == PENDING then
    return finish(self, xpcall(fn, keep_traceback, ...))
  end
end

local function check_function(fn, name)
  if type(fn) ~= "function" then
    error(("%s: a function expected, got %s"):format(name, type(fn)), 3)
  end
end

--- Starts a task of the current request.
---@param fn function
---@param ... any its arguments
---@return fasterlua.Future
function task.spawn(fn, ...)
  check_function(fn, "spawn")
  local self = new()
  self._task = start(run, self, fn, ...)
  return self
end

--- Starts a task that belongs to no request: it goes on when the request ends.
---@param fn function
---@param ... any its arguments
---@return fasterlua.Future
function task.detach(fn, ...)
  check_function(fn, "detach")
  local self = new()
  self._is_detached = true
  self._task = detach(run, self, fn, ...)
  return self
end

--- Starts a task after the last byte of the response was written.
---@param fn function
---@param ... any its arguments
function task.background(fn, ...)
  check_function(fn, "background")
  core.background(fn, ...)
end

--- Makes a function whose call starts a task and returns its future.
---@param fn function
---@return fun(...): fasterlua.Future
function task.async(fn)
  check_function(fn, "async")
  local spawn = task.spawn
  return function(...)
    return spawn(fn, ...)
  end
end

local function protected(ok, ...)
  if ok then
    return ...
  end
  local err = ...
  return rethrow(err, take_traceback(err))
end

local function end_shield(...)
  core.shield(false)
  return protected(...)
end

--- Calls fn in the current task, which is not interrupted meanwhile (at most 5 s after it was
--- cancelled): for roll-back and clean-up.
---@param fn function
---@param ... any its arguments
---@return any ...
function task.shield(fn, ...)
  check_function(fn, "shield")
  core.shield(true)
  return end_shield(xpcall(fn, keep_traceback, ...))
end

--- Whether the running task itself was cancelled, as opposed to something it awaited.
---@return boolean
function task.is_cancelled()
  return not new_ticket()
end

return task
