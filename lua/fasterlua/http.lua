-- An HTTP client that waits without holding the thread.
--
--     local response = await(fl.http.get("https://example.org/users", { query = { page = 2 } }))
--     if response.status == 200 then return response:json() end
--
-- Every call returns a future at once. Statuses from 400 are no errors; what went wrong on the way
-- is raised as an HttpClientError. Connections are kept and used again by all requests of a state.

local driver = require "fasterlua.http.driver"
local exchange = require "fasterlua.http.exchange"
local options = require "fasterlua.http.options"
local task = require "fasterlua.task"

local http = { limits = driver.limits }

local METHODS = { "get", "head", "post", "put", "patch", "delete" }

-- Called by what the app's call ends in (a tail call leaves no level), or by the called itself.
local function checked(fn, ...)
  local ok, result = pcall(fn, ...)
  if not ok then
    error(result, 3)
  end
  return result
end

local function send(label, method, address, given, base, scope)
  given = given or {}
  checked(options.check, label, given, scope)
  local plan = checked(options.plan, label, method, address, given, base)
  return task.spawn(exchange.run, plan)
end

local function method_of(given)
  return type(given) == "table" and given.method or "GET"
end

local function without_address(given)
  local rest = {}
  for name, value in pairs(given) do
    if name ~= "url" and name ~= "method" then
      rest[name] = value
    end
  end
  return rest
end

local function request(label, given, base)
  checked(options.check, label, given, "request")
  if given.url == nil then
    error(label .. ': the option "url" is missing', 2)
  end
  local rest = without_address(given)
  local plan = checked(options.plan, label, method_of(given):upper(), given.url, rest, base)
  return task.spawn(exchange.run, plan)
end

---@alias fasterlua.HttpSend fun(self: fasterlua.HttpClient, url: string,
---  options?: fasterlua.HttpOptions): fasterlua.Future

---@class fasterlua.HttpClient
---@field get fasterlua.HttpSend
---@field head fasterlua.HttpSend
---@field post fasterlua.HttpSend
---@field put fasterlua.HttpSend
---@field patch fasterlua.HttpSend
---@field delete fasterlua.HttpSend
---@field _options fasterlua.HttpClientOptions
local Client = { __name = "fasterlua.http_client" }
local methods = {}
Client.__index = methods

function Client.__tostring(self)
  return ("fasterlua.http_client (%s)"):format(self._options.base_url and "with a base_url"
    or "without a base_url")
end

-- How it gets into another state: by its options.
function Client.__crossing(self)
  return "fasterlua.http", self._options
end

--- The client that `__crossing` named.
---@param given fasterlua.HttpClientOptions
---@return fasterlua.HttpClient
function http.from_crossing(given)
  return setmetatable({ _options = given }, Client)
end

--- A client with options of its own, which those of each request are added to.
---@param given? fasterlua.HttpClientOptions
---@return fasterlua.HttpClient
function http.client(given)
  given = given or {}
  checked(options.check, "http.client", given, "client")
  local copy = {}
  for name, value in pairs(given) do
    copy[name] = value
  end
  return http.from_crossing(copy)
end

for _, name in ipairs(METHODS) do
  local label, method = "http." .. name, name:upper()
  http[name] = function(address, given)
    return send(label, method, address, given, nil, "method")
  end
  methods[name] = function(self, address, given)
    return send(label, method, address, given, self._options, "method")
  end
end

--- Sends a request whose options name its `url` and `method`.
---@param given fasterlua.HttpRequest
---@return fasterlua.Future # fasterlua.HttpResponse
function http.request(given)
  return request("http.request", given, nil)
end

---@param given fasterlua.HttpRequest
---@return fasterlua.Future # fasterlua.HttpResponse
function methods:request(given)
  return request("http.request", given, self._options)
end

return http
