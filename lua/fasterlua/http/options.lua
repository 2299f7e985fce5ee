-- Options of the HTTP client: checked, merged with a client's own, and made into a plan that
-- nothing has to be asked about any more.
--
--     local plan = options.plan("GET", "https://example.org/", { query = { page = 2 } })

local digest = require "fasterlua.digest"
local json = require "fasterlua.json"
local suggest = require "fasterlua.suggest"
local units = require "fasterlua.units"
local url = require "fasterlua.url"

local options = {}

local MB = 1024 * 1024
local VERSION = require("fasterlua.core.task").VERSION

---@class fasterlua.HttpOptions
---@field headers? table<string, string|number|string[]>
---@field query? table<string, any> added to the URL
---@field json? any the body, encoded
---@field form? table<string, any> the body, urlencoded
---@field body? string|function|table the body; an iterator, or { iterator, state, … }, is streamed
---@field body_size? integer bytes of a streamed body; default unknown: sent in chunks
---@field stream? boolean the response's body is read by `response:chunks()`
---@field timeout? number|string|false seconds in all; default 30
---@field connect_timeout? number|string|false seconds until connected; default 1
---@field idle_timeout? number|string|false seconds without a byte; default false
---@field redirects? integer followed; default 5, 0: none
---@field retries? integer after the first attempt; default 0
---@field retry? "idempotent"|"always" which methods are retried
---@field max_body? integer|string bytes of a body that is not streamed; default 10 MB
---@field basic? string[] user, password
---@field bearer? string a token
---@field proxy? string URL of a proxy
---@field unix_socket? string connect to this path instead of the host
---@field verify? boolean whether the server's certificate is verified; default true
---@field ca? string path of the certificates to trust
---@field cert? string path of the client's certificate
---@field key? string path of its key
---@field http2? boolean|"prior" default true: where TLS agrees on it; "prior": without asking
---@field guard? "public" only public addresses are connected to

---@class fasterlua.HttpClientOptions: fasterlua.HttpOptions
---@field base_url? string what URLs are relative to

---@class fasterlua.HttpRequest: fasterlua.HttpOptions
---@field url string
---@field method? string default GET

local function is_text(value)
  return type(value) == "string" and value ~= "" and not value:find "%z"
end

local function is_table(value)
  return type(value) == "table"
end

local function is_boolean(value)
  return type(value) == "boolean"
end

local function is_duration(value)
  local seconds = units.seconds(value)
  return value == false or seconds ~= nil and seconds > 0 and seconds <= 1e6
end

local function is_count(value)
  return type(value) == "number" and value >= 0 and value % 1 == 0 and value <= 2 ^ 53
end

local function is_size(value)
  return is_count(units.bytes(value))
end

local function is_few(value)
  return is_count(value) and value <= 100
end

local function one_of(...)
  local known = {}
  for _, value in ipairs { ... } do
    known[value] = true
  end
  return function(value)
    return known[value] == true
  end
end

local function is_body(value)
  local kind = type(value)
  return kind == "string" or kind == "function"
    or kind == "table" and type(value[1]) == "function"
end

local function is_pair(value)
  return is_table(value) and type(value[1]) == "string" and type(value[2]) == "string"
    and #value == 2 and not value[1]:find(":", 1, true)
end

local function is_token(value)
  return is_text(value) and not value:find "[%c ]"
end

local function is_method(value)
  return type(value) == "string" and value:find "^[%w!#$%%&'*+.^_`|~-]+$" ~= nil
end

local SECONDS = 'seconds above 0 and up to 1000000, a time as "500ms", or false'

-- How a value is checked, and what it must be.
local known = {
  headers = { is_table, "a table" },
  query = { is_table, "a table" },
  json = { function() return true end, "" },
  form = { is_table, "a table" },
  body = { is_body, "a string, an iterator or { iterator, … }" },
  body_size = { is_count, "a whole number from 0" },
  stream = { is_boolean, "a boolean" },
  timeout = { is_duration, SECONDS },
  connect_timeout = { is_duration, SECONDS },
  idle_timeout = { is_duration, SECONDS },
  redirects = { is_few, "a whole number from 0 to 100" },
  retries = { is_few, "a whole number from 0 to 100" },
  retry = { one_of("idempotent", "always"), '"idempotent" or "always"' },
  max_body = { is_size, 'a number of bytes, or a size as "10MB"' },
  basic = { is_pair, "{ user, password }, the user without a colon" },
  bearer = { is_token, "a token without spaces" },
  proxy = { is_text, "a URL" },
  unix_socket = { is_text, "a path" },
  verify = { is_boolean, "a boolean" },
  ca = { is_text, "a path" },
  cert = { is_text, "a path" },
  key = { is_text, "a path" },
  http2 = { one_of(true, false, "prior"), 'a boolean or "prior"' },
  guard = { one_of "public", '"public"' },
}

-- Only of a client, only of `request`, only of one request.
local scopes = {
  base_url = { "client", is_text, "a URL" },
  url = { "request", is_text, "a URL" },
  method = { "request", is_method, "a method" },
}
local of_one_request = { query = true, json = true, form = true, body = true, body_size = true }

local names = {}
for name in pairs(known) do
  names[#names + 1] = name
end
for name in pairs(scopes) do
  names[#names + 1] = name
end
table.sort(names)

local function rule_of(name, scope)
  local scoped = scopes[name]
  if scoped and scoped[1] == scope then
    return scoped[2], scoped[3]
  elseif known[name] and not (scope == "client" and of_one_request[name]) then
    return known[name][1], known[name][2]
  end
end

local function shown(value)
  return type(value) == "string" and ("%q"):format(value) or tostring(value)
end

local function check_value(label, name, value, scope)
  local is_valid, expected = rule_of(name, scope)
  if not is_valid then
    local hint = suggest.hint(tostring(name), names)
    error(("%s: unknown option %q%s"):format(label, tostring(name), hint), 0)
  elseif not is_valid(value) then
    error(("%s: option %q must be %s, got %s"):format(label, name, expected, shown(value)), 0)
  end
end

-- headers

local REFUSED = { ["content-length"] = "body_size", ["transfer-encoding"] = "body",
  connection = false }

local function header_text(label, name, value)
  if type(value) == "number" then
    value = tostring(value)
  end
  if type(value) ~= "string" then
    error(("%s: header %q must be a string, a number or a list of these, got %s"):format(label,
      name, type(value)), 0)
  elseif value:find "[%z\1-\8\10-\31\127]" then
    error(("%s: header %q has a control character in its value"):format(label, name), 0)
  end
  return value
end

local function check_header_name(label, name)
  if type(name) ~= "string" or not name:find "^[%w!#$%%&'*+.^_`|~-]+$" then
    error(("%s: %s is no name of a header"):format(label, shown(name)), 0)
  elseif REFUSED[name:lower()] ~= nil then
    local instead = REFUSED[name:lower()]
    error(("%s: header %q is the client's own%s"):format(label, name,
      instead and (": use the option %q"):format(instead) or ""), 0)
  end
end

---@class fasterlua.HttpHeader
---@field key string in lower case
---@field name string
---@field values string[]

-- lower-case name -> header
local function read_headers(label, headers)
  local read = {}
  for name, value in pairs(headers or {}) do
    check_header_name(label, name)
    local values = {}
    for index, one in ipairs(type(value) == "table" and value or { value }) do
      values[index] = header_text(label, name, one)
    end
    if read[name:lower()] then
      error(("%s: header %q is there twice"):format(label, name), 0)
    end
    read[name:lower()] = { key = name:lower(), name = name, values = values }
  end
  return read
end

-- checking

local function check_together(label, given)
  local bodies = {}
  for _, name in ipairs { "json", "form", "body" } do
    if given[name] ~= nil then
      bodies[#bodies + 1] = name
    end
  end
  if #bodies > 1 then
    error(("%s: %s and %s exclude each other"):format(label, bodies[1], bodies[2]), 0)
  elseif given.body_size and (type(given.body) == "string" or given.body == nil) then
    error(label .. ": body_size is for streamed bodies", 0)
  elseif given.basic and given.bearer then
    error(label .. ": basic and bearer exclude each other", 0)
  elseif given.guard and (given.proxy or given.unix_socket) then
    error(("%s: guard cannot see where %s leads"):format(label,
      given.proxy and "a proxy" or "a socket"), 0)
  end
end

--- Raises what is wrong with options.
---@param label string begins the errors
---@param given table
---@param scope "client"|"request"|"method"
function options.check(label, given, scope)
  if type(given) ~= "table" then
    error(("%s: a table of options expected, got %s"):format(label, type(given)), 0)
  end
  for name, value in pairs(given) do
    check_value(label, name, value, scope)
  end
  check_together(label, given)
  read_headers(label, given.headers)
end

-- the plan

local defaults = {
  timeout = 30, connect_timeout = 1, idle_timeout = false, redirects = 5, retries = 0,
  retry = "idempotent", max_body = 10 * MB, verify = true, http2 = true, stream = false,
}

-- Those that may be texts.
local readers = { timeout = units.seconds, connect_timeout = units.seconds,
  idle_timeout = units.seconds, max_body = units.bytes }

local function merged(base, given)
  local all = {}
  for _, layer in ipairs { defaults, base or {}, given } do
    for name, value in pairs(layer) do
      all[name] = value
    end
  end
  for name, read in pairs(readers) do
    all[name] = all[name] and read(all[name])
  end
  if given.basic then
    all.bearer = nil
  elseif given.bearer then
    all.basic = nil
  end
  return all
end

local function merged_headers(label, base, given)
  local headers = read_headers(label, base and base.headers)
  for key, header in pairs(read_headers(label, given.headers)) do
    headers[key] = header
  end
  return headers
end

local function set_default(headers, name, value)
  local key = name:lower()
  headers[key] = headers[key] or { key = key, name = name, values = { value } }
end

local function set_body(label, plan, all)
  if all.json ~= nil then
    plan.body = json.encode(all.json)
    set_default(plan.headers, "Content-Type", "application/json")
  elseif all.form then
    plan.body = url.query(label .. " (form)", all.form):sub(2)
    set_default(plan.headers, "Content-Type", "application/x-www-form-urlencoded")
  elseif type(all.body) == "function" then
    plan.source = { all.body }
  elseif type(all.body) == "table" then
    plan.source = { all.body[1], all.body[2], all.body[3] }
  else
    plan.body = all.body
  end
  plan.body_size = all.body_size
end

local function set_authorization(headers, all)
  local value = all.bearer and "Bearer " .. all.bearer
    or all.basic and "Basic " .. digest.base64(all.basic[1] .. ":" .. all.basic[2])
  if value then
    headers.authorization = { key = "authorization", name = "Authorization", values = { value } }
  end
end

local function joined(label, base_url, address)
  if not base_url then
    return address
  elseif address:find "^%a[%w+.-]*:" then
    error(("%s: %q is not relative to the client's base_url"):format(label, address), 0)
  end
  local base = base_url:gsub("/+$", "")
  local needs_slash = address ~= "" and not address:find "^[/?]"
  return base .. (needs_slash and "/" or "") .. address
end

local function with_query(label, address, query)
  address = address:gsub("#.*$", "")
  local text = url.query(label, query)
  if text ~= "" and address:find("?", 1, true) then
    return address .. (address:find "[?&]$" and "" or "&") .. text:sub(2)
  end
  return address .. text
end

local IDEMPOTENT = { GET = true, HEAD = true, OPTIONS = true, TRACE = true, PUT = true,
  DELETE = true }

local function is_retried(plan, all)
  return not plan.source and (all.retry == "always" or IDEMPOTENT[plan.method] == true
    or plan.headers["idempotency-key"] ~= nil)
end

---@class fasterlua.HttpPlan
---@field method string
---@field address string the URL, not parsed yet
---@field headers table<string, fasterlua.HttpHeader>
---@field body string|nil
---@field source table|nil an iterator triple
---@field all table the options with defaults
---@field retries integer

--- What a request is to do. Options must have been checked.
---@param label string begins the errors
---@param method string
---@param address string
---@param given table
---@param base? table a client's options
---@return fasterlua.HttpPlan
function options.plan(label, method, address, given, base)
  if type(address) ~= "string" or address:find "%z" then
    error(("%s: a URL expected, got %s"):format(label, shown(address)), 0)
  end
  local all = merged(base, given)
  check_together(label, all)
  local plan = { method = method, all = all, headers = merged_headers(label, base, given) }
  plan.address = with_query(label, joined(label, all.base_url, address), all.query)
  set_default(plan.headers, "User-Agent", "fasterlua/" .. VERSION)
  set_authorization(plan.headers, all)
  set_body(label, plan, all)
  local carries = method == "POST" or method == "PUT" or method == "PATCH"
  if carries and not plan.source then
    plan.body = plan.body or ""
  end
  plan.retries = is_retried(plan, all) and all.retries or 0
  return plan
end

return options
