-- Builds paths of named routes for `app:url_for`: the inverse of the router in C.

local text = require "fasterlua.core.text"
local suggest = require "fasterlua.suggest"

local url = {}

local UUID = "^" .. ("%x"):rep(8) .. ("%-" .. ("%x"):rep(4)):rep(4) .. ("%x"):rep(8) .. "$"
local MAX_EXACT = 2 ^ 53

local function integer_text(value)
  if type(value) == "number" and value % 1 == 0 and math.abs(value) <= MAX_EXACT then
    return ("%d"):format(value)
  elseif type(value) == "cdata" then
    return (tostring(value):match "^(-?%d+)U?LL$")
  end
end

local function number_text(value)
  if type(value) == "number" and value - value == 0 then
    return integer_text(value) or ("%.17g"):format(value)
  end
end

local function segment_text(value)
  local as_text = type(value) == "string" and value or number_text(value) or integer_text(value)
  if as_text and as_text ~= "" and as_text ~= "." and as_text ~= ".." then
    return text.percent_encode(as_text)
  end
end

local function path_text(value)
  if type(value) ~= "string" then
    return nil
  end
  for segment in (value .. "/"):gmatch "(.-)/" do
    if segment == "." or segment == ".." then
      return nil
    end
  end
  return (value:gsub("[^/]+", text.percent_encode))
end

local function uuid_text(value)
  return type(value) == "string" and value:find(UUID) and value or nil
end

-- How a value of each parameter type is written, nil when it does not fit, and what would.
local writers = {
  text = { segment_text, 'a string other than "", "." and ".."' },
  int = { integer_text, "a whole number" },
  number = { number_text, "a finite number" },
  uuid = { uuid_text, "a UUID" },
  path = { path_text, 'a string without "." and ".." segments' },
}
local type_names = { "int", "number", "uuid", "path" }

local function parse_parameter(pattern, inside)
  local name, kind = inside:match "^([%a_][%w_]*):?(%w*)$"
  if not name then
    error(("route %q: %q is no parameter: write {name} or {name:type}"):format(pattern, inside), 0)
  elseif kind ~= "" and not writers[kind] or kind == "text" then
    local hint = suggest.hint(kind, type_names)
    hint = hint ~= "" and hint or ": int, number, uuid and path are known"
    error(("route %q: unknown parameter type %q%s"):format(pattern, kind, hint), 0)
  end
  return { name = name, writer = writers[kind == "" and "text" or kind] }
end

--- The parts of a route's pattern: texts, and `{ name, writer }` for parameters. Raises, naming the
--- pattern, when it is malformed.
---@param pattern string
---@return table
function url.parse(pattern)
  local parts, seen, position = {}, {}, 1
  for start, inside, stop in pattern:gmatch "(){([^{}]*)}()" do
    parts[#parts + 1] = pattern:sub(position, start - 1)
    local parameter = parse_parameter(pattern, inside)
    if seen[parameter.name] then
      error(("route %q: parameter %q appears twice"):format(pattern, parameter.name), 0)
    end
    seen[parameter.name] = true
    parts[#parts + 1] = parameter
    position = stop
  end
  parts[#parts + 1] = pattern:sub(position)
  return parts
end

local function parameter_text(label, parameter, params)
  local value = params[parameter.name]
  if value == nil then
    error(("%s: parameter %q is missing"):format(label, parameter.name), 0)
  end
  local written = parameter.writer[1](value)
  if not written then
    local message = "%s: parameter %q must be %s, got %s"
    error(message:format(label, parameter.name, parameter.writer[2], tostring(value)), 0)
  end
  return written
end

local function check_unknown(label, parts, params)
  local known = {}
  for _, part in ipairs(parts) do
    if type(part) == "table" then
      known[#known + 1] = part.name
      known[part.name] = true
    end
  end
  for name in pairs(params) do
    if not known[name] then
      local hint = suggest.hint(tostring(name), known)
      error(("%s: unknown parameter %q%s"):format(label, tostring(name), hint), 0)
    end
  end
end

--- The path of a parsed pattern with these parameters.
---@param label string begins the errors
---@param parts table from `parse`
---@param params table<string, any>
---@return string
function url.path(label, parts, params)
  check_unknown(label, parts, params)
  local written = {}
  for index, part in ipairs(parts) do
    written[index] = type(part) == "string" and part or parameter_text(label, part, params)
  end
  return table.concat(written)
end

local function query_value(label, name, value)
  local written = type(value) == "string" and value or number_text(value) or integer_text(value)
  if type(value) == "boolean" then
    written = tostring(value)
  end
  if not written then
    local message = "%s: query %q must be a string, number, boolean or a list of these, got %s"
    error(message:format(label, name, type(value)), 0)
  end
  return text.percent_encode(name) .. "=" .. text.percent_encode(written)
end

--- The query "?a=1&b=2" in the order of the names; "" when there is none.
---@param label string begins the errors
---@param query? table<string, any>
---@return string
function url.query(label, query)
  local names, pairs_written = {}, {}
  for name in pairs(query or {}) do
    if type(name) ~= "string" then
      error(("%s: names in the query are strings, got %s"):format(label, tostring(name)), 0)
    end
    names[#names + 1] = name
  end
  table.sort(names)
  for _, name in ipairs(names) do
    local value = query[name]
    for _, one in ipairs(type(value) == "table" and value or { value }) do
      pairs_written[#pairs_written + 1] = query_value(label, name, one)
    end
  end
  return #pairs_written > 0 and "?" .. table.concat(pairs_written, "&") or ""
end

return url
