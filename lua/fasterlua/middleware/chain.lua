-- Compiles a route's middlewares and handler into one function of a request.
--
-- Every level is called protected, with a traceback: an error becomes a Response where it is
-- caught, so the middlewares outside see a Response whatever happened. All closures are made when
-- the app loads, none per request.

local core_log = require "fasterlua.core.log"
local core_response = require "fasterlua.core.response"
local failure = require "fasterlua.failure"
local report = require "fasterlua.report"
local response = require "fasterlua.response"
local task = require "fasterlua.task"

local keep_traceback, take_traceback = failure.keep_traceback, failure.take_traceback
local error, getmetatable, type, xpcall = error, getmetatable, type, xpcall
local Response = core_response.Response

local chain = {}

---@class fasterlua.ErrorPolicy
---@field handlers table<integer|string, function> from app:on_error
---@field is_development boolean whether clients see errors

local function default_answer(policy, status, detail, headers, err, traceback)
  local answer = response.envelope(status, detail, headers)
  if traceback and policy.is_development then
    answer.body.error, answer.body.traceback = report.message(err), traceback
  end
  return answer
end

local function unhandled_answer(policy, err, traceback)
  return default_answer(policy, 500, core_response.reason(500), nil, err, traceback)
end

local function log_unhandled(err, traceback)
  core_log.unhandled(err, traceback or "")
  return traceback or ""
end

-- A handler's answer to an error keeps the error's status unless it says another.
local function handled(policy, status, ok, value, own_status, headers)
  if ok then
    local keeps = own_status == nil and getmetatable(value) ~= Response
    keeps = keeps and not response.is_http_error(value)
    local made, answer = pcall(response.from, value, keeps and status or own_status, headers)
    if made then
      return answer
    end
    return unhandled_answer(policy, answer, log_unhandled(answer, debug.traceback()))
  end
  local traceback = take_traceback(value)
  if response.is_http_error(value) then
    return response.from(value)
  elseif failure.is_cancelled(value) and task.is_cancelled() then
    error(value, 0)
  end
  return unhandled_answer(policy, value, log_unhandled(value, traceback))
end

local function answer_by(policy, handler, req, err, status)
  return handled(policy, status, xpcall(handler, keep_traceback, req, err))
end

local function answer_http_error(policy, req, err)
  local handler = policy.handlers[err.status]
  if handler then
    return answer_by(policy, handler, req, err, err.status)
  end
  return response.from(err)
end

local function answer_cancelled(policy, req, err, traceback)
  local is_timeout = err.reason == "timeout"
  local handlers = policy.handlers
  local handler = is_timeout and (handlers.timeout or handlers[504]) or handlers.cancelled
  if handler then
    return answer_by(policy, handler, req, err, is_timeout and 504 or 503)
  elseif is_timeout then
    return response.envelope(504, core_response.reason(504))
  elseif task.is_cancelled() then
    error(err, 0)
  end
  return unhandled_answer(policy, err, log_unhandled(err, traceback))
end

-- The status an error table asks for itself, as timeouts and full queues do.
local function status_of(err)
  local status = err.status
  if type(status) == "number" and status >= 400 and status <= 599 and status % 1 == 0 then
    return status
  end
  return 500
end

local function answer_kind(policy, req, err, traceback)
  local status = status_of(err)
  local handlers = policy.handlers
  local handler = handlers[err.kind]
  if handler then
    return answer_by(policy, handler, req, err, status)
  end
  traceback = log_unhandled(err, traceback)
  handler = handlers[status] or (status == 500 and handlers.unhandled)
  if handler then
    return answer_by(policy, handler, req, err, status)
  end
  return default_answer(policy, status, core_response.reason(status), nil, err, traceback)
end

local function answer_unhandled(policy, req, err, traceback)
  traceback = log_unhandled(err, traceback)
  local handler = policy.handlers.unhandled or policy.handlers[500]
  if handler then
    return answer_by(policy, handler, req, err, 500)
  end
  return unhandled_answer(policy, err, traceback)
end

local function answer_error(policy, req, err, traceback)
  if response.is_http_error(err) then
    return answer_http_error(policy, req, err)
  elseif failure.is_cancelled(err) then
    return answer_cancelled(policy, req, err, traceback)
  elseif type(err) == "table" and type(rawget(err, "kind")) == "string" then
    return answer_kind(policy, req, err, traceback)
  end
  return answer_unhandled(policy, req, err, traceback)
end

local function answer(policy, req, ok, value, status, headers)
  if not ok then
    return answer_error(policy, req, value, take_traceback(value))
  elseif getmetatable(value) == Response and status == nil and headers == nil then
    return value
  elseif response.is_http_error(value) then
    return answer_http_error(policy, req, value)
  end
  local made, result = pcall(response.from, value, status, headers)
  if made then
    return result
  end
  return answer_unhandled(policy, req, result, debug.traceback())
end

local function protect_handler(policy, handler)
  return function(req)
    return answer(policy, req, xpcall(handler, keep_traceback, req))
  end
end

local function answer_middleware(policy, req, ok, value, ...)
  if ok and value == nil then
    local message = 'a middleware returned nothing: did you forget "return next(req)"?'
    return answer_unhandled(policy, req, message, debug.traceback())
  end
  return answer(policy, req, ok, value, ...)
end

local function protect_middleware(policy, middleware, following)
  return function(req)
    return answer_middleware(policy, req, xpcall(middleware, keep_traceback, req, following))
  end
end

--- One function of a request that always returns a Response, unless the task was cancelled.
---@param policy fasterlua.ErrorPolicy
---@param middlewares function[] the outermost first
---@param handler function
---@return fun(req: fasterlua.Request): fasterlua.Response
function chain.compile(policy, middlewares, handler)
  local following = protect_handler(policy, handler)
  for index = #middlewares, 1, -1 do
    following = protect_middleware(policy, middlewares[index], following)
  end
  return following
end

--- The function that answers for the server itself: its 404, 405, 413, 422 and redirects, seen by
--- the middlewares like any answer.
---@param policy fasterlua.ErrorPolicy
---@param middlewares function[]
---@return fun(req: fasterlua.Request, status: integer, detail: any, headers?: table): any
function chain.compile_fallback(policy, middlewares)
  local waiting = setmetatable({}, { __mode = "k" }) -- the answer on its way to the innermost level
  local run = chain.compile(policy, middlewares, function(req)
    return waiting[req]
  end)
  return function(req, status, detail, headers)
    if status < 400 then
      waiting[req] = response.response(nil, { status = status, headers = headers })
    else
      waiting[req] = response.http_error(status, detail, headers)
    end
    return run(req)
  end
end

return chain
