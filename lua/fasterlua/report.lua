-- What the log says of an error: its message, and the traceback through every task that awaited it.
--
--     log(report.explain(err, debug.traceback(co)))

local failure = require "fasterlua.failure"

-- whatever the app does to them
local getmetatable, pairs, pcall, rawget, tostring, type =
  getmetatable, pairs, pcall, rawget, tostring, type
local concat, find, format, sort, sub =
  table.concat, string.find, string.format, table.sort, string.sub

local DETAILS = { "code", "detail", "hint", "constraint", "sql" } -- fields of errors of operations
local FIELDS_MOST, TEXT_MOST = 12, 500 -- bytes

local report = {}

local function shorten(text)
  return #text > TEXT_MOST and sub(text, 1, TEXT_MOST) .. " …" or text
end

local function text_of(value)
  local ok, text = pcall(tostring, value)
  return ok and text or "(error object that tostring cannot show)"
end

local function shown(value)
  return type(value) == "string" and format("%q", shorten(value)) or text_of(value)
end

-- A table that the app has raised: { item = "tea", kind = "out_of_stock" }
local function fields_of(err)
  local fields = {}
  for name, value in pairs(err) do
    fields[#fields + 1] = format("%s = %s", text_of(name), shown(value))
  end
  sort(fields)
  for index = FIELDS_MOST + 1, #fields do
    fields[index] = index == FIELDS_MOST + 1 and "…" or nil
  end
  return fields[1] and "{ " .. concat(fields, ", ") .. " }" or "an empty table"
end

local function details_of(err)
  local lines = {}
  for index = 1, #DETAILS do
    local name = DETAILS[index]
    local value = rawget(err, name)
    if type(value) == "string" or type(value) == "number" then
      lines[#lines + 1] = format("\n  %s: %s", name, shorten(text_of(value)))
    end
  end
  return concat(lines)
end

--- What is said of it without a traceback.
---@param err any the error value
---@return string
function report.message(err)
  if type(err) ~= "table" then
    return text_of(err)
  end
  local message = rawget(err, "message")
  if message ~= nil then
    return text_of(message) .. details_of(err)
  end
  local metatable = getmetatable(err)
  local has_text = metatable ~= nil and (type(metatable) ~= "table" or metatable.__tostring)
  return has_text and text_of(err) or fields_of(err)
end

--- The text that is logged.
---@param err any the error value
---@param traceback string of the coroutine that it ended
---@return string
function report.explain(err, traceback)
  traceback = failure.traceback(err, traceback)
  local is_empty = find(traceback, "^stack traceback:%s*$") or traceback == ""
  return is_empty and report.message(err) or report.message(err) .. "\n" .. traceback
end

return report
