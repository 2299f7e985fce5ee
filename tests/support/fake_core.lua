-- fake_core: C's side of the border in plain Lua, so that the framework's modules can be tested
-- without a server. Time is virtual: when nothing is ready, the clock jumps to the next sleep's
-- end.
--
--     local fake = require "support.fake_core"
--     fake.install()
--     assert.equal(7, fake.run(function() return await(spawn(seven)) end))

local fake = {}

local AWAIT = newproxy()
local raw_create, raw_resume = coroutine.create, coroutine.resume
local raw_status, raw_yield = coroutine.status, coroutine.yield

local tasks, ready, timers, handle_count, current

local function make_ready(task)
  ready[#ready + 1] = task
end

local function new_task(request, fn, ...)
  handle_count = handle_count + 1
  local task = {
    handle = handle_count,
    co = raw_create(fn),
    request = request,
    arguments = { n = select("#", ...), ... },
    suspension = 0,
    shields = 0,
    is_waiting = false,
  }
  tasks[task.handle] = task
  make_ready(task)
  return task
end

-- The scheduler as Lua sees it.
local scheduler = { AWAIT = AWAIT, VERSION = "0.0.0" }

function scheduler.start(fn, ...)
  return new_task(current and current.request, fn, ...).handle
end

function scheduler.detach(fn, ...)
  return new_task(nil, fn, ...).handle
end

function scheduler.background(fn, ...)
  local request = current and current.request
  if not request or request.has_ended then
    return new_task(nil, fn, ...)
  end
  request.background[#request.background + 1] = { fn, ... }
end

function scheduler.at_end(fn, ...)
  local request = current and current.request
  if not request or request.has_ended then
    return new_task(nil, fn, ...)
  end
  request.at_end[#request.at_end + 1] = { fn, ... }
end

function scheduler.ticket()
  if not current then
    error("await outside of a task: at a module's top level nothing can wait", 2)
  end
  if current.cancelled and current.shields == 0 then
    return nil, current.cancelled
  end
  current.suspension = current.suspension + 1
  current.woken = false
  return current.handle * 2 ^ 20 + current.suspension
end

function scheduler.wake(ticket)
  local task = tasks[math.floor(ticket / 2 ^ 20)]
  if not task or task.suspension ~= ticket % 2 ^ 20 or task.woken then
    return false
  end
  task.woken = true
  if task.is_waiting then
    task.is_waiting = false
    make_ready(task)
  end
  return true
end

function scheduler.cancel(handle, reason)
  local task = tasks[handle]
  if not task or task.cancelled then
    return false
  end
  task.cancelled = reason
  if task.is_waiting and task.shields == 0 then
    task.is_waiting = false
    make_ready(task)
  end
  return true
end

function scheduler.shield(on)
  current.shields = current.shields + (on and 1 or -1)
end

function scheduler.current()
  return current and current.handle
end

function scheduler.seen()
  fake.seen = fake.seen + 1
end

local function complete(op, ...)
  if op.is_done then
    return
  end
  op.is_done, op.results = true, { n = select("#", ...), ... }
  for _, ticket in ipairs(op.tickets) do
    scheduler.wake(ticket)
  end
end

--- An operation that ends after so many virtual seconds with these results of op_take.
function fake.op(seconds, ...)
  local op = { tickets = {}, due = fake.now + seconds, results = { n = select("#", ...), ... } }
  timers[#timers + 1] = op
  return op
end

function scheduler.sleep(seconds)
  return fake.op(seconds, true)
end

function scheduler.op_done(op)
  return op.is_done or false
end

function scheduler.op_wait(op, ticket)
  if op.is_done then
    scheduler.wake(ticket)
  else
    op.tickets[#op.tickets + 1] = ticket
  end
end

function scheduler.op_await(op)
  if op.is_done then
    return
  end
  local ticket, reason = scheduler.ticket()
  if not ticket then
    return reason
  end
  op.tickets[#op.tickets + 1] = ticket
  return raw_yield(AWAIT)
end

function scheduler.op_take(op)
  if not op.is_done then
    return
  end
  return unpack(op.results, 1, op.results.n)
end

function scheduler.op_cancel(op)
  op.is_cancelled = true
  op.due = fake.now
  op.results = { n = 2, false, "the operation was cancelled" }
end

local function end_request(request)
  request.has_ended = true
  for _, task in pairs(tasks) do
    if task.request == request then
      scheduler.cancel(task.handle, "request ended")
    end
  end
  for _, list in ipairs { request.at_end, request.background } do
    for _, call in ipairs(list) do
      new_task(nil, unpack(call))
    end
  end
end

local function task_ended(task, ok, ...)
  tasks[task.handle] = nil
  task.outcome = { ok = ok, n = select("#", ...), ... }
  if task.request and task.request.main == task then
    end_request(task.request)
  elseif not ok and not task.cancelled then
    fake.unhandled[#fake.unhandled + 1] = { error = (...), traceback = debug.traceback(task.co) }
  end
end

local function resumed(task, ok, first, ...)
  if not ok or raw_status(task.co) == "dead" then
    return task_ended(task, ok, first, ...)
  end
  assert(first == AWAIT, "a task yielded something other than AWAIT")
  if task.woken or (task.cancelled and task.shields == 0) then
    make_ready(task)
  else
    task.is_waiting = true
  end
end

local function run_one()
  local task = table.remove(ready, 1)
  local arguments = task.arguments
  current, task.arguments = task, nil
  if arguments then
    resumed(task, raw_resume(task.co, unpack(arguments, 1, arguments.n)))
  else
    local reason = task.shields == 0 and task.cancelled or nil
    resumed(task, raw_resume(task.co, reason))
  end
  current = nil
end

local function by_time(a, b)
  return a.due < b.due
end

local function advance()
  table.sort(timers, by_time)
  local op = table.remove(timers, 1)
  if not op then
    return false
  end
  fake.now = math.max(fake.now, op.due)
  complete(op, unpack(op.results, 1, op.results.n))
  return true
end

local function run_all()
  repeat
    while #ready > 0 do
      run_one()
    end
  until not advance()
end

--- Starts fn as a request's main task.
---@return table request
function fake.request(fn, ...)
  local request = { at_end = {}, background = {} }
  request.main = new_task(request, fn, ...)
  return request
end

--- Cancels all tasks of a request.
function fake.cancel_request(request, reason)
  for _, task in pairs(tasks) do
    if task.request == request then
      scheduler.cancel(task.handle, reason)
    end
  end
end

--- Runs until nothing can happen any more. Raises when a task waits for ever.
function fake.finish()
  run_all()
  for handle, task in pairs(tasks) do
    tasks[handle] = nil
    error("a task waits for ever: " .. debug.traceback(task.co), 2)
  end
end

--- Runs fn as a request until everything has ended; returns its results or raises its error.
function fake.run(fn, ...)
  local request = fake.request(fn, ...)
  fake.finish()
  local outcome = request.main.outcome
  if not outcome.ok then
    error(outcome[1], 0)
  end
  return unpack(outcome, 1, outcome.n)
end

--- Begins afresh: no tasks, no lines, time 0.
function fake.reset()
  tasks, ready, timers, handle_count, current = {}, {}, {}, 0, nil
  fake.now, fake.seen, fake.unhandled, fake.lines = 0, 0, {}, {}
end

local log = {}

function log.line(level, message, fields)
  fake.lines[#fake.lines + 1] = { level = level, message = message, fields = fields }
end

function log.unhandled(err, traceback)
  local explained = require("fasterlua.failure").traceback(err, traceback)
  fake.unhandled[#fake.unhandled + 1] = { error = err, traceback = explained }
end

local reasons = { [404] = "Not Found", [500] = "Internal Server Error", [504] = "Gateway Timeout" }

local function check_header(name, value)
  if type(name) ~= "string" or not name:find "^[%w!#$%%&'*+.^_`|~-]+$" then
    error(("header %q: the name is not a token"):format(tostring(name)), 2)
  elseif type(value) ~= "string" then
    error(("header %q: value must be a string"):format(name), 2)
  elseif value:find "[\r\n]" then
    error(("header %q: value has a line break"):format(name), 2)
  end
end

local function reason_of(status)
  return reasons[status] or "Status " .. status
end

local function percent_encode(text)
  return (text:gsub("[^%w%-._~]", function(byte)
    return ("%%%02X"):format(byte:byte())
  end))
end

local function escape_html(text)
  return (text:gsub("[&<>]", { ["&"] = "&amp;", ["<"] = "&lt;", [">"] = "&gt;" }))
end

local function same(value)
  return value
end

--- Puts the fake in the place of C's modules and begins afresh.
function fake.install()
  local loaded = package.loaded
  loaded["fasterlua.core.task"] = scheduler
  loaded["fasterlua.core.log"] = log
  loaded["fasterlua.core.text"] = { percent_encode = percent_encode, escape_html = escape_html }
  loaded["fasterlua.core.response"] = {
    Response = {}, Headers = {}, HttpError = {}, check_header = check_header, reason = reason_of,
  }
  for name in pairs(loaded) do
    local is_ours = name == "fasterlua" or name:find "^fasterlua%."
    if is_ours and not name:find "^fasterlua%.core%." then
      loaded[name] = nil
    end
  end
  loaded["fasterlua.json"] = { null = AWAIT, array = same }
  loaded["fasterlua.digest"] = {}
  fake.reset()
end

local libraries = { _G, coroutine, debug, io, os, string, table }

--- Keeps the global functions as they are; the function returned puts them back.
---@return function restore
function fake.keep_globals()
  local kept = {}
  for index, library in ipairs(libraries) do
    kept[index] = {}
    for name, value in pairs(library) do
      kept[index][name] = value
    end
  end
  return function()
    for index, library in ipairs(libraries) do
      for name, value in pairs(kept[index]) do
        rawset(library, name, value)
      end
    end
  end
end

fake.scheduler = scheduler
return fake
