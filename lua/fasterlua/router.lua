-- Routers: routes declared together, included into an app or another router under a prefix.
--
--     local items = fl.router { prefix = "/items" }
--     items:get("/{id:int}", function(req) return find(req.params.id) end)
--     app:include(items)
--
-- A router only collects; `boot` flattens the tree into C's list of routes when the app has loaded,
-- so the order of `use`, `include` and routes in the file does not matter.

local suggest = require "fasterlua.suggest"
local units = require "fasterlua.units"
local url = require "fasterlua.url"

local router = {}

---@class fasterlua.RouteOptions
---@field name? string for `app:url_for`
---@field timeout? number|string seconds to the first byte of the answer, or "500ms"; 0 for none
---@field max_body? integer|string bytes of the request's body, or "10MB"
---@field cancel? boolean stop the handler when the client leaves; default only for GET and HEAD
---@field replay? boolean may run once more when its Lua state had to be replaced
---@field stuck? number|string|false seconds of CPU before the handler counts as stuck
---@field blocked? number|string|false seconds without running or waiting for a processor, likewise
---@field run_in? "cpu"|"blocking"|fasterlua.Pool the pool in whose states the handler runs

---@class fasterlua.Router
---@field prefix string
---@field private _entries table routes and included routers, in order
---@field private _middlewares function[]
local Router = { __name = "fasterlua.router" }
local methods = {}
Router.__index = methods
router.methods = methods

local function is_limit(value)
  return type(value) == "number" and value >= 0 and value == value
end

local function is_limit_or_off(value)
  return value == false or (is_limit(value) and value > 0)
end

local function is_flag(value)
  return type(value) == "boolean"
end

-- Without loading the module: an app that makes no pool has none to give.
local function is_place(value)
  local metatable = getmetatable(value)
  return value == "cpu" or value == "blocking"
    or (type(metatable) == "table" and metatable.__name == "fasterlua.pool")
end

-- What each route option must be: a check, its words, and how a text is read.
local options_known = {
  name = { function(value) return type(value) == "string" and value ~= "" end, "a string" },
  timeout = { is_limit, 'seconds, or a time as "500ms"; 0 for none', units.seconds },
  max_body = { function(value) return is_limit(value) and value % 1 == 0 end,
    'a number of bytes, or a size as "10MB"', units.bytes },
  cancel = { is_flag, "true or false" },
  replay = { is_flag, "true or false" },
  stuck = { is_limit_or_off, 'seconds, a time as "500ms", or false', units.seconds },
  blocked = { is_limit_or_off, 'seconds, a time as "500ms", or false', units.seconds },
  run_in = { is_place, '"cpu", "blocking" or a pool' },
}

local option_names = {}
for name in pairs(options_known) do
  option_names[#option_names + 1] = name
end
table.sort(option_names)

--- The value of a known option, times in seconds and sizes in bytes.
---@param label string whose option it is, for the error
---@param option string
---@param value any
---@return any
function router.read_option(label, option, value)
  local known = options_known[option]
  local read = value
  if known[3] and type(value) == "string" then
    read = known[3](value)
  end
  if not known[1](read) then
    local message = "%s: option %q must be %s, got %s"
    error(message:format(label, option, known[2], tostring(value)), 0)
  end
  return read
end

local function read_options(label, options)
  local read = {}
  for option, value in pairs(options) do
    if not options_known[option] then
      local hint = suggest.hint(tostring(option), option_names)
      error(("%s: unknown option %q%s"):format(label, tostring(option), hint), 0)
    end
    read[option] = router.read_option(label, option, value)
  end
  return read
end

local function check_path(label, path)
  if type(path) ~= "string" then
    error(("%s: the path must be a string, got %s"):format(label, type(path)), 0)
  elseif path ~= "" and path:sub(1, 1) ~= "/" then
    error(('%s: the path must start with "/"'):format(label), 0)
  end
  url.parse(path)
end

local function check_handler(label, handler)
  if type(handler) ~= "function" then
    error(("%s: the handler must be a function, got %s"):format(label, type(handler)), 0)
  end
end

local function new_route(method, path, options, handler)
  if handler == nil and type(options) ~= "table" then
    options, handler = {}, options
  end
  local label = ("route %q"):format(("%s %s"):format(method, tostring(path)))
  check_path(label, path)
  if type(options) ~= "table" then
    error(("%s: options must be a table, got %s"):format(label, type(options)), 0)
  end
  check_handler(label, handler)
  return { method = method, path = path, options = read_options(label, options),
    handler = handler }
end

-- Errors of declarations point at the app's line that called the public function.
local function at_caller(fn, ...)
  local ok, result = pcall(fn, ...)
  if not ok then
    error(result, 3)
  end
  return result
end

-- `app.get("/", fn)` is the same mistake each time.
local function check_self(self, name)
  if type(self) ~= "table" or not self._entries then
    error(("%s: call it with a colon, as app:%s(…)"):format(name, name), 3)
  end
end

local function declare(self, route)
  self._entries[#self._entries + 1] = route
  self._named = false
  return self
end

for _, method in ipairs { "GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS" } do
  local name = method:lower()
  methods[name] = function(self, path, options, handler)
    check_self(self, name)
    declare(self, at_caller(new_route, method, path, options, handler))
    return self
  end
end

-- Of RFC 9110 and RFC 5789. CONNECT makes a tunnel, which the server does not offer.
local methods_known =
  { "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE" }

local function check_method(method)
  local name = type(method) == "string" and method:upper() or tostring(method)
  for _, known in ipairs(methods_known) do
    if name == known then
      return name
    end
  end
  local hint = suggest.hint(name, methods_known)
  error(("route: unknown method %q%s"):format(tostring(method), hint), 0)
end

--- Declares a route for several methods, or for TRACE, which has no function of its own.
---@param list string|string[]
---@param path string
---@param options? fasterlua.RouteOptions|function
---@param handler? function
---@return fasterlua.Router self
function methods:route(list, path, options, handler)
  check_self(self, "route")
  for _, name in ipairs(type(list) == "table" and list or { list }) do
    local method = at_caller(check_method, name)
    declare(self, at_caller(new_route, method, path, options, handler))
  end
  return self
end

--- Adds a middleware around all routes: `fn(req, next)` returns a response, usually what
--- `next(req)` returned. The first added is the outermost.
---@param fn fun(req: fasterlua.Request, next: function): any
---@return fasterlua.Router self
function methods:use(fn)
  check_self(self, "use")
  if type(fn) ~= "function" then
    error(("use: a function expected, got %s"):format(type(fn)), 2)
  end
  self._middlewares[#self._middlewares + 1] = fn
  return self
end

local function contains(tree, wanted)
  if tree == wanted then
    return true
  end
  for _, entry in ipairs(tree._entries) do
    if entry.router and contains(entry.router, wanted) then
      return true
    end
  end
  return false
end

local function check_prefix(prefix)
  if type(prefix) ~= "string" or (prefix ~= "" and prefix:sub(1, 1) ~= "/") then
    error(('a prefix must be a string that starts with "/", got %s'):format(tostring(prefix)), 0)
  end
  return (prefix:gsub("/$", ""))
end

--- Adds the routes of a router. The same one may be included more than once.
---@param included fasterlua.Router
---@param options? { prefix?: string } a prefix before the router's own
---@return fasterlua.Router self
function methods:include(included, options)
  check_self(self, "include")
  if getmetatable(included) ~= Router then
    error(("include: a router expected, got %s"):format(type(included)), 2)
  elseif contains(included, self) then
    error("include: the router would include itself", 2)
  end
  for option in pairs(options or {}) do
    if option ~= "prefix" then
      local hint = suggest.hint(tostring(option), { "prefix" })
      error(("include: unknown option %q%s"):format(tostring(option), hint), 2)
    end
  end
  local prefix = at_caller(check_prefix, options and options.prefix or "")
  return declare(self, { router = included, prefix = prefix })
end

--- The fields every collector of routes has.
---@param prefix? string
---@return table
function router.fields(prefix)
  return { prefix = check_prefix(prefix or ""), _entries = {}, _middlewares = {}, _named = false }
end

--- Makes a router.
---@param options? string|{ prefix?: string } the prefix of its routes
---@return fasterlua.Router
function router.new(options)
  if type(options) == "string" then
    options = { prefix = options }
  end
  for option in pairs(options or {}) do
    if option ~= "prefix" then
      local hint = suggest.hint(tostring(option), { "prefix" })
      error(("fl.router: unknown option %q%s"):format(tostring(option), hint), 2)
    end
  end
  return setmetatable(at_caller(router.fields, options and options.prefix), Router)
end

-- Appends to `list` each route below `tree` with its whole pattern and middlewares.
local function flatten(tree, prefix, middlewares, list)
  prefix = prefix .. tree.prefix
  if #tree._middlewares > 0 then
    local own = {}
    for index, fn in ipairs(middlewares) do
      own[index] = fn
    end
    for _, fn in ipairs(tree._middlewares) do
      own[#own + 1] = fn
    end
    middlewares = own
  end
  for _, entry in ipairs(tree._entries) do
    if entry.router then
      flatten(entry.router, prefix .. entry.prefix, middlewares, list)
    else
      local pattern = prefix .. entry.path
      list[#list + 1] =
        { route = entry, pattern = pattern == "" and "/" or pattern, middlewares = middlewares }
    end
  end
  return list
end

--- All routes below a router or app: `{ route, pattern, middlewares }`, in order.
---@param tree fasterlua.Router|fasterlua.App
---@return table[]
function router.flatten(tree)
  return flatten(tree, "", {}, {})
end

return router
