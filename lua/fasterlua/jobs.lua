-- What runs in a pool's state around a job's function: C calls these.
--
--     jobs.describe(err, traceback) -- both, able to cross to the caller, and what the log says
--     jobs.map(fn, { 1, 2, 3 }) -- { fn(1), fn(2), fn(3) }
--     jobs.stream(fn, ...) -- what fn yields goes to the waiter, piece by piece

local core = require "fasterlua.core.pool"
local coroutines = require "fasterlua.coroutines"
local failure = require "fasterlua.failure"
local report = require "fasterlua.report"
local waiting = require "fasterlua.waiting"

-- whatever the app does to them
local getmetatable, pairs, pcall, rawget, tostring, type =
  getmetatable, pairs, pcall, rawget, tostring, type

local jobs = {}

local plain = { ["nil"] = true, boolean = true, number = true, string = true }

-- A raised table loses its metatable and what cannot cross; its text is kept as `message`.
local function plain_error(err)
  local copy = {}
  for key, value in pairs(err) do
    if type(key) == "string" and plain[type(value)] then
      copy[key] = value
    end
  end
  if copy.message == nil then
    local ok, text = pcall(tostring, err)
    copy.message = ok and text or "(error object that tostring cannot show)"
  end
  return copy
end

-- One line of a raised table, whatever its metatable does.
local function message_of(err)
  local message = rawget(err, "message")
  if type(message) == "string" then
    return message
  end
  local ok
  ok, message = pcall(report.message, err)
  return ok and type(message) == "string" and message or nil
end

--- Makes an error value fit to cross, and joins its tracebacks.
---@param err any
---@param traceback string of the job's coroutine
---@return any err
---@return string traceback
---@return string|nil message for the log
function jobs.describe(err, traceback)
  traceback = failure.traceback(err, traceback)
  if plain[type(err)] then
    return err, traceback, tostring(err)
  elseif type(err) ~= "table" then
    return tostring(err), traceback, tostring(err)
  end
  local metatable = getmetatable(err)
  if type(metatable) == "table" and metatable.__crossing then
    return err, traceback, message_of(err)
  end
  return plain_error(err), traceback, message_of(err)
end

--- Calls fn with each item of a list, in order.
---@param fn fun(item: any): any
---@param list any[]
---@return any[] results
function jobs.map(fn, list)
  local results = {}
  for index = 1, #list do
    results[index] = fn(list[index])
  end
  return results
end

-- What a coroutine did when it was resumed: true and its results at its end; what it yielded is
-- given to `emit`.
local function passed(emit, co, ok, ...)
  if not ok then
    local err = ...
    coroutines.on_error(err, co)
    error(err, 0)
  elseif coroutine.status(co) == "dead" then
    return true, ...
  end
  emit(...)
  return false
end

local function driven(emit, co, is_over, ...)
  if is_over then
    return ...
  end
  return driven(emit, co, passed(emit, co, coroutine.resume(co)))
end

--- Runs fn in a coroutine; what it yields is given to `emit`, which may wait.
---@param emit fun(...)
---@param fn function
---@param ... any its arguments
---@return any ... what fn returned
function jobs.drive(emit, fn, ...)
  local co = coroutine.create(fn)
  return driven(emit, co, passed(emit, co, coroutine.resume(co, ...)))
end

local function emit(...)
  if (...) == nil then
    error("a stream cannot yield nil, which would end the loop over it", 0)
  end
  while not core.has_room() do
    waiting.suspend(core.wait_room, nil)
  end
  core.emit(...)
end

--- Runs fn in a coroutine; what it yields goes to whoever waits for this job. Waits while too much
--- is under way.
---@param fn function
---@param ... any its arguments
function jobs.stream(fn, ...)
  jobs.drive(emit, fn, ...)
end

return jobs
