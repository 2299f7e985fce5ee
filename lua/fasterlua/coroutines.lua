-- Coroutines that app code makes itself: an `await` inside one passes through to the task.
--
--     local rows = coroutine.wrap(function()
--       for page = 1, 3 do coroutine.yield(await(fetch(page))) end
--     end)
--
-- A task is a coroutine of C's. Its sentinel AWAIT, yielded by a coroutine of the app's, is yielded
-- again by whoever resumed that one, until it reaches C; the answer goes back the same way.

local recursion = require "fasterlua.recursion"
local core_task = require "fasterlua.core.task"

local AWAIT = core_task.AWAIT
local raw = {
  create = coroutine.create,
  resume = coroutine.resume,
  running = coroutine.running,
  yield = coroutine.yield,
  isyieldable = coroutine.isyieldable,
}

local coroutines = { raw = raw }

--- What `yield(AWAIT)` answers when the coroutine's resumer cannot suspend.
coroutines.CANNOT_SUSPEND = "cannot suspend"

local CANNOT_SUSPEND = coroutines.CANNOT_SUSPEND
local IDLE, AWAITING = 1, 2
local states = setmetatable({}, { __mode = "k" }) -- of the coroutines that app code made
local enter

local function left(co, level, base, ok, first, ...)
  recursion.level, recursion.base = level, base
  if not ok or first ~= AWAIT then
    return ok, first, ...
  end
  if not raw.isyieldable() then
    return enter(co, CANNOT_SUSPEND)
  end
  states[co] = AWAITING
  local reason = raw.yield(AWAIT)
  states[co] = IDLE
  return enter(co, reason)
end

enter = function(co, ...)
  local level, base = recursion.level, recursion.base
  if level >= recursion.limit then
    recursion.check("coroutines", 2)
    level = recursion.level
  end
  recursion.level, recursion.base = level + 1, level + 1
  return left(co, level, base, raw.resume(co, ...))
end

local function resume(co, ...)
  if states[co] == AWAITING then
    return false, "cannot resume a coroutine that awaits a future"
  end
  return enter(co, ...)
end

local function create(fn)
  local co = raw.create(fn)
  states[co] = IDLE
  return co
end

local function unwrap(co, ok, ...)
  if ok then
    return ...
  end
  local message = ...
  if message == "cannot resume dead coroutine" then
    error(message, 2)
  end
  coroutines.on_error(message, co)
  error(message, 0)
end

local function wrap(fn)
  local co = create(fn)
  return function(...)
    return unwrap(co, resume(co, ...))
  end
end

local function yield(...)
  if not states[raw.running() or false] then
    error("coroutine.yield outside of a coroutine of your own: did you mean await?", 2)
  end
  return raw.yield(...)
end

-- Libraries key data by what this returns, so the coroutine must not serve another task later.
local function running()
  core_task.seen()
  return raw.running()
end

--- Called with the error and the coroutine when an error leaves a wrapped one. Set by `failure`,
--- which keeps the traceback.
---@param err any
---@param co thread
function coroutines.on_error(err, co) -- luacheck: ignore 212
end

--- Replaces the functions of the global table `coroutine`.
function coroutines.install()
  local replaced =
    { create = create, wrap = wrap, resume = resume, yield = yield, running = running }
  for name, fn in pairs(replaced) do
    coroutine[name] = fn -- luacheck: ignore 122
  end
end

return coroutines
