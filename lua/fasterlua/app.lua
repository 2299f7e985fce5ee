-- The app: routes, middleware, error handlers and hooks of one Lua state.
--
--     local app = fl.app { title = "Shop" }
--     app:get("/", function() return "Hello" end)
--     return app

local router = require "fasterlua.router"
local suggest = require "fasterlua.suggest"
local url = require "fasterlua.url"

local app = {}

---@class fasterlua.App: fasterlua.Router
---@field title string
---@field version string
---@field state table whatever the app keeps, per Lua state
---@field private _error_handlers table<integer|string, function>
---@field private _start_hooks function[]
---@field private _stop_hooks function[]
---@field private _jobs fasterlua.Job[]
---@field private _mount string the prefix under which it is served
local App = { __name = "fasterlua.app" }
local methods = setmetatable({}, { __index = router.methods })
App.__index = methods

local option_names = { "blocked", "stuck", "title", "version" }
local is_limit = { blocked = true, stuck = true }

--- What `url_for` puts before every path: set by `boot` before the app's file runs.
app.mount = ""

---@class fasterlua.AppOptions
---@field title? string
---@field version? string
---@field stuck? number|string|false that of its routes which have none of their own
---@field blocked? number|string|false likewise

--- Makes an app.
---@param options? fasterlua.AppOptions
---@return fasterlua.App
function app.new(options)
  local limits = {}
  for option, value in pairs(options or {}) do
    if is_limit[option] then
      local ok, read = pcall(router.read_option, "fl.app", option, value)
      if not ok then
        error(read, 2)
      end
      limits[option] = read
    elseif option ~= "title" and option ~= "version" then
      local hint = suggest.hint(tostring(option), option_names)
      error(("fl.app: unknown option %q%s"):format(tostring(option), hint), 2)
    elseif type(value) ~= "string" then
      error(("fl.app: option %q must be a string, got %s"):format(option, type(value)), 2)
    end
  end
  local self = router.fields()
  self.title = options and options.title or "fasterlua"
  self.version = options and options.version or "0.1.0"
  self.state = {}
  self._error_handlers, self._start_hooks, self._stop_hooks = {}, {}, {}
  self._jobs = {}
  self._limits = limits
  self._mount = app.mount
  return setmetatable(self, App)
end

--- Whether the value is an app.
---@param value any
---@return boolean
function app.is_app(value)
  return getmetatable(value) == App
end

local function check_function(name, fn)
  if type(fn) ~= "function" then
    error(("%s: a function expected, got %s"):format(name, type(fn)), 3)
  end
end

--- Answers errors: by status (404, raised or the server's own), or by kind: "unhandled",
--- "timeout", "cancelled" or the field `kind` of a raised table. `fn(req, err)` returns like a
--- handler; without a status the error's is kept.
---@param key integer|string
---@param fn fun(req: fasterlua.Request, err: any): any
---@return fasterlua.App self
function methods:on_error(key, fn)
  local is_status = type(key) == "number" and key % 1 == 0 and key >= 400 and key <= 599
  if not is_status and type(key) ~= "string" then
    error(("on_error: a status from 400 or a kind expected, got %s"):format(tostring(key)), 2)
  end
  check_function("on_error", fn)
  if self._error_handlers[key] then
    error(("on_error: there is a handler for %s already"):format(tostring(key)), 2)
  end
  self._error_handlers[key] = fn
  return self
end

--- Runs when the state starts, before its first request; may await. An error ends the start.
---@param fn fun()
---@return fasterlua.App self
function methods:on_start(fn)
  check_function("on_start", fn)
  self._start_hooks[#self._start_hooks + 1] = fn
  return self
end

--- Runs when the state stops, after its last request; the last added first.
---@param fn fun()
---@return fasterlua.App self
function methods:on_stop(fn)
  check_function("on_stop", fn)
  self._stop_hooks[#self._stop_hooks + 1] = fn
  return self
end

--- Runs fn every so many seconds from the server's start on: once per server, in one of its states
--- (see fasterlua.schedule). It may await.
---@param seconds number|string or a time as "5m"
---@param fn fun()
---@param options? fasterlua.JobOptions
---@return fasterlua.App self
function methods:every(seconds, fn, options)
  require("fasterlua.schedule").every(self, seconds, fn, options)
  return self
end

--- Runs fn at the times of a cron expression (see fasterlua.cron), in the server's local time: once
--- per server. It may await.
---@param expression string "30 4 * * mon-fri", "@daily"
---@param fn fun()
---@param options? fasterlua.JobOptions
---@return fasterlua.App self
function methods:cron(expression, fn, options)
  require("fasterlua.schedule").cron(self, expression, fn, options)
  return self
end

--- Runs fn when the server starts, but not after a reload or a crash: once per server. It may
--- await; nothing waits for it.
---@param name string
---@param fn fun()
---@param options? fasterlua.JobOptions
---@return fasterlua.App self
function methods:once(name, fn, options)
  require("fasterlua.schedule").once(self, name, fn, options)
  return self
end

-- The named routes' parsed patterns.
local function named_routes(self)
  local named = {}
  for _, entry in ipairs(router.flatten(self)) do
    local name = entry.route.options.name
    if name then
      named[name] = named[name] or url.parse(entry.pattern)
    end
  end
  return named
end

local function parts_of(self, label, name)
  self._named = self._named or named_routes(self)
  local parts = self._named[name]
  if not parts and type(name) == "string" then
    self._named = named_routes(self) -- a router may have grown since
    parts = self._named[name]
  end
  if not parts then
    local names = {}
    for known in pairs(self._named) do
      names[#names + 1] = known
    end
    error(("%s: no such route%s"):format(label, suggest.hint(tostring(name), names)), 0)
  end
  return parts
end

local function build(self, name, params, query)
  local label = ("url_for(%q)"):format(tostring(name))
  local path = url.path(label, parts_of(self, label, name), params or {})
  return self._mount .. path .. url.query(label, query)
end

--- The path of a named route, with the prefix under which the app is served.
---@param name string
---@param params? table<string, any>
---@param query? table<string, string|number|boolean|table>
---@return string
function methods:url_for(name, params, query)
  local ok, result = pcall(build, self, name, params, query)
  if not ok then
    error(result, 2)
  end
  return result
end

return app
