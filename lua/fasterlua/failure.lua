-- Failures: errors on their way through tasks, with where they first happened.
--
--     local ok, err = xpcall(fn, failure.keep_traceback)
--     if not ok then failure.rethrow(err, failure.take_traceback(err)) end
--
-- An error that a task raises travels through whoever awaits that task, and through every xpcall
-- that cleans up on the way. Its traceback is joined to theirs, and is found again by the error.

local coroutines = require "fasterlua.coroutines"
local core_task = require "fasterlua.core.task"

local error, rawequal, rawget, setmetatable, type = error, rawequal, rawget, setmetatable, type
local debug_traceback, sub, xpcall = debug.traceback, string.sub, xpcall

local failure = {}

---@class fasterlua.Cancelled: an error: the task or future was cancelled
---@field kind "cancelled"
---@field reason string "cancelled", "client left", "timeout", "shutdown" …
local Cancelled = { __name = "fasterlua.cancelled" }

function Cancelled.__tostring(self)
  return self.reason == "cancelled" and "cancelled" or "cancelled: " .. self.reason
end

--- The error of a task or future that was cancelled.
---@param reason? string
---@return fasterlua.Cancelled
function failure.cancelled(reason)
  return setmetatable({ kind = "cancelled", reason = reason or "cancelled" }, Cancelled)
end

--- Raises the error of a cancelled task.
---@param reason string
function failure.raise_cancelled(reason)
  error(failure.cancelled(reason), 0)
end

--- Whether an error value says that its task was cancelled.
---@param err any
---@return boolean
function failure.is_cancelled(err)
  return type(err) == "table" and rawget(err, "kind") == "cancelled"
end

-- Where did an error that now travels through an awaiting task first happen? Error tables are found
-- by identity; for other values the last one raised is remembered, with its task.
local tracebacks = setmetatable({}, { __mode = "k" })
local last_error, last_traceback, last_task = nil, nil, nil

local function remember(err, traceback)
  if type(err) == "table" then
    tracebacks[err] = traceback or tracebacks[err]
  else
    last_error, last_traceback, last_task = err, traceback, core_task.current()
  end
end

--- The traceback of the failed future, or protected call, from which this error was raised last.
---@param err any
---@return string|nil
function failure.explain(err)
  if type(err) == "table" then
    return tracebacks[err]
  end
  if err == nil or not rawequal(err, last_error) then
    return nil
  end
  local current = core_task.current() -- none when C asks for a task that has just ended
  return (current == nil or current == last_task) and last_traceback or nil
end

--- Joins the traceback of the task that now fails to those of the tasks it awaited.
---@param err any
---@param traceback string of the running task
---@return string
function failure.traceback(err, traceback)
  local inner = failure.explain(err)
  if not inner or sub(traceback, 1, #inner) == inner then
    return traceback
  end
  return inner .. "\nawaited by\n" .. traceback
end

local handled_error, handled_traceback = nil, nil

--- The message handler of xpcalls: keeps the traceback for `take_traceback`.
---@param err any
---@return any err
function failure.keep_traceback(err)
  handled_traceback = failure.traceback(err, sub(debug_traceback("", 2), 2))
  handled_error = err
  return err
end

--- The traceback of the error that an xpcall with `keep_traceback` has just returned. When memory
--- ran out it first makes room, for whoever deals with the error must allocate.
---@param err any
---@return string|false
function failure.take_traceback(err)
  if err == "not enough memory" then
    collectgarbage()
  end
  local traceback = rawequal(err, handled_error) and handled_traceback or false
  handled_error, handled_traceback = nil, nil
  return traceback
end

local keep_traceback, take_traceback = failure.keep_traceback, failure.take_traceback

function coroutines.on_error(err, co)
  remember(err, failure.traceback(err, debug_traceback(co)))
end

--- Raises an error again, and remembers where it first happened: one that an xpcall with
--- `keep_traceback` has returned, and that `take_traceback` was asked about.
---@param err any
---@param traceback string|false
function failure.rethrow(err, traceback)
  remember(err, traceback)
  error(err, 0)
end

local rethrow = failure.rethrow

local function released(release, owner, ok, ...)
  if ok then
    release(owner)
    return ...
  end
  local err = ...
  local traceback = take_traceback(err)
  release(owner)
  return rethrow(err, traceback)
end

--- Calls fn, then `release(owner)` whether or not it raised; returns its results or raises its
--- error, whose traceback is kept.
---@param release fun(owner: any)
---@param owner any
---@param fn function
---@param ... any its arguments
---@return any ...
function failure.finally(release, owner, fn, ...)
  return released(release, owner, xpcall(fn, keep_traceback, ...))
end

return failure
