-- Responses: what a handler returns when a value alone does not say enough, and what `next(req)`
-- returns in middleware.
--
--     return fl.response({ id = 7 }, { status = 201, headers = { location = "/items/7" } })
--
-- C knows these objects by their metatables, which core.response makes and this module fills.

local cookies = require "fasterlua.cookies"
local core = require "fasterlua.core.response"
local suggest = require "fasterlua.suggest"

local Response, Headers, HttpError = core.Response, core.Headers, core.HttpError

local response = {}

local function text_of(value)
  if type(value) == "number" and value % 1 == 0 and math.abs(value) < 2 ^ 53 then
    return ("%d"):format(value)
  end
  return type(value) == "number" and tostring(value) or value
end

-- Headers: { name1, value1, name2, value2, … }

---@class fasterlua.Headers
local headers_methods = {}
Headers.__name = "fasterlua.headers"
Headers.__index = headers_methods

--- The first value of a header, whatever the case of its name.
---@param name string
---@return string|nil
function headers_methods:get(name)
  name = name:lower()
  for index = 1, #self, 2 do
    if self[index]:lower() == name then
      return self[index + 1]
    end
  end
end

--- All values of a header.
---@param name string
---@return string[]
function headers_methods:get_all(name)
  name = name:lower()
  local values = {}
  for index = 1, #self, 2 do
    if self[index]:lower() == name then
      values[#values + 1] = self[index + 1]
    end
  end
  return values
end

--- Adds a header, also when there is one of that name.
---@param name string
---@param value string|number
function headers_methods:add(name, value)
  value = text_of(value)
  core.check_header(name, value)
  local last = #self
  self[last + 1], self[last + 2] = name, value
end

--- Removes all headers of that name.
---@param name string
function headers_methods:delete(name)
  name = name:lower()
  local kept = 0
  for index = 1, #self, 2 do
    if self[index]:lower() ~= name then
      self[kept + 1], self[kept + 2] = self[index], self[index + 1]
      kept = kept + 2
    end
  end
  for index = #self, kept + 1, -1 do
    self[index] = nil
  end
end

--- Sets a header in the place of all of that name.
---@param name string
---@param value string|number
function headers_methods:set(name, value)
  value = text_of(value)
  core.check_header(name, value)
  self:delete(name)
  self:add(name, value)
end

local function next_header(self, index)
  index = index + 2
  if self[index] then
    return index, self[index], self[index + 1]
  end
end

--- Iterates: `for _, name, value in headers:each() do`.
---@return function, fasterlua.Headers, integer
function headers_methods:each()
  return next_header, self, -1
end

local function add_map(self, map)
  for name, value in pairs(map) do
    if type(name) ~= "string" then
      error(("headers: names are strings, got %s"):format(tostring(name)), 0)
    end
    if type(value) == "table" then
      for _, one in ipairs(value) do
        self:add(name, one)
      end
    else
      self:add(name, value)
    end
  end
end

--- Headers from a table of name to value or list of values, or a copy of other Headers.
---@param map? table<string, string|number|string[]>|fasterlua.Headers
---@return fasterlua.Headers
function response.headers(map)
  local self = setmetatable({}, Headers)
  if map == nil then
    return self
  elseif type(map) ~= "table" then
    error(("headers: a table expected, got %s"):format(type(map)), 0)
  elseif getmetatable(map) == Headers then
    for _, name, value in map:each() do
      self:add(name, value)
    end
  else
    add_map(self, map)
  end
  return self
end

---@class fasterlua.Response
---@field status integer
---@field headers fasterlua.Headers
---@field body any nil, a string, or a value to be sent as JSON
---@field stream function|nil `fn(write)`
local response_methods = {}
local fields = { "status", "headers", "body", "stream" }
local is_field = { status = true, headers = true, body = true, stream = true }

Response.__name = "fasterlua.response"
Response.__index = response_methods

function Response.__newindex(self, key, value)
  if not is_field[key] then
    local hint = suggest.hint(tostring(key), fields)
    error(("a response has no field %q%s"):format(tostring(key), hint), 2)
  end
  rawset(self, key, value)
end

function Response.__tostring(self)
  return ("fasterlua.response (%s)"):format(tostring(self.status))
end

--- Adds a Set-Cookie header.
---@param name string
---@param value string
---@param options? fasterlua.CookieOptions
function response_methods:set_cookie(name, value, options)
  self.headers:add("Set-Cookie", cookies.serialise(name, value, options))
end

--- Tells the browser to delete a cookie.
---@param name string
---@param options? fasterlua.CookieOptions path and domain as it was set with
function response_methods:delete_cookie(name, options)
  self.headers:add("Set-Cookie", cookies.deletion(name, options))
end

local function is_status(status, from, to)
  return type(status) == "number" and status % 1 == 0 and status >= from and status <= to
end

local function check_status(status)
  if not is_status(status, 200, 599) then
    error(("status must be a whole number from 200 to 599, got %s"):format(tostring(status)), 0)
  end
end

local function new(status, headers, body)
  check_status(status)
  return setmetatable({ status = status, headers = headers, body = body }, Response)
end

-- Public functions let the error point at the app's line.
local function guarded(fn)
  local function returned(ok, ...)
    if ok then
      return ...
    end
    error((...), 2)
  end
  return function(...)
    return returned(pcall(fn, ...))
  end
end

local function add_cookies(self, list)
  for name, cookie in pairs(list or {}) do
    if type(cookie) == "table" then
      local options = {}
      for option, value in pairs(cookie) do
        options[option] = value
      end
      options.value = nil
      self:set_cookie(name, cookie.value, options)
    else
      self:set_cookie(name, cookie)
    end
  end
end

---@class fasterlua.ResponseOptions
---@field status? integer default 200, or 204 without a value
---@field headers? table<string, string|number|string[]>
---@field cookies? table<string, string|table> a value, or a table of `value` and cookie options

--- A response with status, headers and cookies of its own.
---@type fun(value: any, options?: fasterlua.ResponseOptions): fasterlua.Response
response.response = guarded(function(value, options)
  options = options or {}
  suggest.check_options("fl.response", options, { "status", "headers", "cookies" }, 0)
  local status = options.status or (value == nil and 204 or 200)
  local self = new(status, response.headers(options.headers), value)
  add_cookies(self, options.cookies)
  return self
end)

--- A page.
---@type fun(text: string, status?: integer, headers?: table): fasterlua.Response
response.html = guarded(function(text, status, headers)
  if type(text) ~= "string" then
    error(("fl.html: a string expected, got %s"):format(type(text)), 0)
  end
  local self = new(status or 200, response.headers(headers), text)
  if not self.headers:get "content-type" then
    self.headers:add("Content-Type", "text/html; charset=utf-8")
  end
  return self
end)

local redirect_statuses = { [301] = true, [302] = true, [303] = true, [307] = true, [308] = true }

local function percent(byte)
  return ("%%%02X"):format(byte:byte())
end

-- A browser takes "\" for "/" and forgets tabs and line breaks, which would turn a path into the
-- address of another host.
local function location(url)
  if type(url) ~= "string" or url == "" then
    error("fl.redirect: an address expected", 0)
  elseif url:find "%c" then
    error("fl.redirect: the address has a control character", 0)
  end
  return (url:gsub('[^!#$%%&\'()*+,./0-9:;=?@A-Z%[%]_a-z~-]', percent))
end

local function check_host(url, is_external)
  local scheme = url:match "^(%a[%w+.-]*):"
  if scheme and scheme:lower() ~= "https" and scheme:lower() ~= "http" then
    error(("fl.redirect: scheme %q is refused"):format(scheme), 0)
  end
  if (scheme or url:sub(1, 2) == "//") and not is_external then
    error("fl.redirect: the address of another host needs { external = true }", 0)
  end
end

---@class fasterlua.RedirectOptions
---@field status? integer default 307; 303 turns a POST into a GET
---@field external? boolean allows the address of another host
---@field headers? table

--- Sends the client elsewhere: to a path, or with `external` to another host.
---@type fun(url: string, options?: integer|fasterlua.RedirectOptions): fasterlua.Response
response.redirect = guarded(function(url, options)
  if type(options) == "number" then
    options = { status = options }
  end
  options = options or {}
  suggest.check_options("fl.redirect", options, { "status", "external", "headers" }, 0)
  local status = options.status or 307
  if not redirect_statuses[status] then
    error(("fl.redirect: status %s is no redirect"):format(tostring(status)), 0)
  end
  local target = location(url)
  check_host(target, options.external)
  local self = new(status, response.headers(options.headers), nil)
  self.headers:set("Location", target)
  return self
end)

---@class fasterlua.StreamOptions
---@field status? integer default 200
---@field headers? table
---@field content_type? string default "application/octet-stream"

--- A body written piece by piece: `fn(write)` runs when the head is sent; `write` waits while the
--- client is slow.
---@type fun(fn: function, options?: fasterlua.StreamOptions): fasterlua.Response
response.stream = guarded(function(fn, options)
  options = options or {}
  if type(fn) ~= "function" then
    error(("fl.stream: a function expected, got %s"):format(type(fn)), 0)
  end
  suggest.check_options("fl.stream", options, { "status", "headers", "content_type" }, 0)
  local self = new(options.status or 200, response.headers(options.headers), nil)
  self.stream = fn
  if options.content_type or not self.headers:get "content-type" then
    self.headers:set("Content-Type", options.content_type or "application/octet-stream")
  end
  return self
end)

---@class fasterlua.HttpError
---@field status integer
---@field detail any
---@field headers table|nil
HttpError.__name = "fasterlua.http_error"

function HttpError.__tostring(self)
  return ("%d %s"):format(self.status, tostring(self.detail))
end

--- An error with a status, to be returned or raised: the client gets `{"detail": …}`.
---@type fun(status: integer, detail?: any, headers?: table): fasterlua.HttpError
response.http_error = guarded(function(status, detail, headers)
  if not is_status(status, 400, 599) then
    error(("fl.http_error: a status from 400 to 599 expected, got %s"):format(tostring(status)), 0)
  end
  response.headers(headers) -- raises for what cannot be sent
  if detail == nil then
    detail = core.reason(status)
  end
  return setmetatable({ status = status, detail = detail, headers = headers }, HttpError)
end)

local function crossing_headers(headers)
  if headers == nil then
    return nil
  end
  local map = {}
  for _, name, value in response.headers(headers):each() do
    map[name] = map[name] or {}
    table.insert(map[name], value)
  end
  return map
end

function HttpError.__crossing(self)
  return "fasterlua.response", "http_error", self.status, self.detail,
    crossing_headers(self.headers)
end

function Response.__crossing(self)
  if rawget(self, "stream") then
    error("fl.stream cannot cross to another state", 0)
  end
  return "fasterlua.response", "response", self.status, self.body, crossing_headers(self.headers)
end

--- What an HttpError or a Response of another state becomes here.
---@param kind "http_error"|"response"
---@param status integer
---@param value any
---@param headers? table
---@return fasterlua.HttpError|fasterlua.Response
function response.from_crossing(kind, status, value, headers)
  if kind == "http_error" then
    return setmetatable({ status = status, detail = value, headers = headers }, HttpError)
  end
  return new(status, response.headers(headers), value)
end

--- Whether the value is a Response.
---@param value any
---@return boolean
function response.is_response(value)
  return getmetatable(value) == Response
end

--- Whether the value is an HttpError.
---@param value any
---@return boolean
function response.is_http_error(value)
  return getmetatable(value) == HttpError
end

--- The response `{"detail": …}`.
---@param status integer
---@param detail any
---@param headers? table
---@return fasterlua.Response
function response.envelope(status, detail, headers)
  return new(status, response.headers(headers), { detail = detail })
end

local sendable = { string = true, number = true, boolean = true }

local function check_value(value)
  if sendable[type(value)] then
    return
  end
  local metatable = getmetatable(value)
  local name = type(metatable) == "table" and rawget(metatable, "__name")
  if name == "fasterlua.future" then
    error("the handler returned a future: did you forget await?", 0)
  elseif type(value) ~= "table" and type(value) ~= "userdata" and type(value) ~= "cdata" then
    error(("the handler returned a %s%s"):format(type(value),
      type(value) == "function" and ": was it to be called?" or ""), 0)
  end
end

local function override(self, status, headers)
  if status then
    check_status(status)
    self.status = status
  end
  local replacing = response.headers(headers)
  for _, name in replacing:each() do
    self.headers:delete(name)
  end
  for _, name, value in replacing:each() do
    self.headers:add(name, value)
  end
  return self
end

--- The Response for what a handler returned: `value[, status[, headers]]`. Raises when it cannot be
--- one.
---@param value any
---@param status? integer
---@param headers? table
---@return fasterlua.Response
function response.from(value, status, headers)
  local metatable = getmetatable(value)
  if metatable == Response then
    return (status or headers) and override(value, status, headers) or value
  elseif metatable == HttpError then
    return response.envelope(value.status, value.detail, value.headers)
  elseif value == nil then
    return new(status or 204, response.headers(headers), nil)
  end
  check_value(value)
  return new(status or 200, response.headers(headers), value)
end

return response
