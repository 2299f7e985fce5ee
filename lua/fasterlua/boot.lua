-- Turns an app's file into what the server runs.
--
--     local loaded = require("fasterlua.boot").load(chunk, "shop", { environment = "production" })
--     loaded.routes[1].handler(req)

local app = require "fasterlua.app"
local chain = require "fasterlua.middleware.chain"
local core_log = require "fasterlua.core.log"
local failure = require "fasterlua.failure"
local globals = require "fasterlua.globals"
local guards = require "fasterlua.guards"
local router = require "fasterlua.router"
local url = require "fasterlua.url"

local boot = {}

---@class fasterlua.BootSettings
---@field environment? string "development", "production" or "test"
---@field prefix? string where the app is mounted, "/shop"
---@field root_path? string what a proxy in front has cut off

---@class fasterlua.LoadedRoute
---@field method string
---@field pattern string
---@field handler fun(req: fasterlua.Request): any
---@field name? string
---@field timeout? number
---@field max_body? integer
---@field cancel? boolean
---@field replay? boolean
---@field stuck? number|false
---@field blocked? number|false
---@field run_in? string|integer

---@class fasterlua.LoadedApp
---@field routes fasterlua.LoadedRoute[]
---@field fallback? fun(req: fasterlua.Request, status: integer, detail: any, headers?: table): any
---@field start? fun()
---@field stop? fun()

local function run_chunk(chunk, name)
  local self = chunk(name)
  if not app.is_app(self) then
    local message = "%s must return an app (fl.app { … }), it returned %s"
    error(message:format(debug.getinfo(chunk, "S").short_src,
      self == nil and "nothing" or "a " .. type(self)), 0)
  end
  return self
end

local function mount_of(settings)
  local mount = (settings.root_path or "") .. (settings.prefix or "")
  return (mount:gsub("/+$", ""))
end

-- A name belongs to one pattern; the methods of `app:route` share theirs.
local function check_name(names, entry)
  local name = entry.route.options.name
  if not name then
    return
  end
  local pattern = names[name] or entry.pattern
  if pattern ~= entry.pattern then
    error(("routes %q and %q have the same name %q"):format(pattern, entry.pattern, name), 0)
  end
  names[name] = pattern
end

local function source_of(handler)
  local info = debug.getinfo(handler, "S")
  return info.what == "C" and "C" or ("%s:%d"):format(info.short_src, info.linedefined)
end

-- The same method and pattern twice; what they call their parameters makes no difference. C's
-- router sees more: patterns that differ in writing and match the same.
local function check_taken(taken, entry)
  local pattern = entry.pattern:gsub("{[%a_][%w_]*(:?%w*)}", "{%1}")
  local key = entry.route.method .. " " .. pattern
  local first = taken[key]
  if first then
    error(("route %q (%s): taken already by %q (%s)"):format(
      entry.route.method .. " " .. entry.pattern, source_of(entry.route.handler), first.pattern,
      source_of(first.route.handler)), 0)
  end
  taken[key] = entry
end

-- A handler without a chain stays the app's own function: this is the hot path. In development
-- there always is one: it shows errors to the client.
local function handler_of(policy, entry)
  local handler = entry.route.handler
  local is_plain = #entry.middlewares == 0 and next(policy.handlers) == nil
  if is_plain and not policy.is_development then
    return handler
  end
  return chain.compile(policy, entry.middlewares, handler)
end

local function loaded_route(policy, entry, limits)
  local loaded = {}
  for option, value in pairs(limits) do
    loaded[option] = value
  end
  for option, value in pairs(entry.route.options) do
    loaded[option] = value
  end
  loaded.method, loaded.pattern = entry.route.method, entry.pattern
  if type(loaded.run_in) == "table" then
    loaded.run_in = loaded.run_in._number
  end
  loaded.handler = handler_of(policy, entry)
  return loaded
end

local function loaded_routes(self, policy)
  local names, taken, routes = {}, {}, {}
  for index, entry in ipairs(router.flatten(self)) do
    url.parse(entry.pattern)
    check_name(names, entry)
    check_taken(taken, entry)
    routes[index] = loaded_route(policy, entry, self._limits)
  end
  return routes
end

-- The module is loaded by whoever opens a database.
local function has_database()
  local db = package.loaded["fasterlua.db"]
  return db ~= nil and db.first() ~= nil
end

local function start_of(self, name)
  if #self._start_hooks == 0 and #self._jobs == 0 and not has_database() then
    return nil
  end
  return function()
    for _, hook in ipairs(self._start_hooks) do
      hook()
    end
    if has_database() then
      require("fasterlua.migrations.notice").begin(name)
    end
    if #self._jobs > 0 then
      require("fasterlua.schedule").start(self, name)
    end
  end
end

local function run_stop_hook(hook)
  local ok, err = xpcall(hook, failure.keep_traceback)
  if not ok then
    core_log.unhandled(err, failure.take_traceback(err) or "")
  end
end

local function stop_of(self)
  if #self._stop_hooks == 0 then
    return nil
  end
  return function()
    for index = #self._stop_hooks, 1, -1 do
      run_stop_hook(self._stop_hooks[index])
    end
  end
end

--- Runs the app's file and compiles its routes. Raises, with a sentence for whoever starts the
--- server, when something in it is wrong.
---@param chunk fun(name: string): fasterlua.App the file, compiled
---@param name string of the app
---@param settings? fasterlua.BootSettings
---@return fasterlua.LoadedApp
function boot.load(chunk, name, settings)
  guards.install()
  settings = settings or {}
  app.mount = mount_of(settings)
  local self = run_chunk(chunk, name)
  local policy = {
    handlers = self._error_handlers,
    is_development = settings.environment == "development",
  }
  if policy.is_development then
    globals.watch()
  end
  local has_fallback = #self._middlewares > 0 or next(policy.handlers) ~= nil
  return {
    routes = loaded_routes(self, policy),
    fallback = has_fallback and chain.compile_fallback(policy, self._middlewares) or nil,
    start = start_of(self, name),
    stop = stop_of(self),
  }
end

return boot
