-- What clients send, checked: each function returns it or raises 422 with the reason.
--
--     local new = checks.new_item(req:json())   --> { title = "Milk", note = nil }
local fl = require "fasterlua"

local checks = {}

local LONGEST = 200 -- characters of a name or title; 500 of a note

local function refuse(format, ...)
  error(fl.http_error(422, format:format(...)), 0)
end

local function check_object(value)
  if type(value) ~= "table" then
    refuse "an object expected"
  end
  return value
end

local function text(value, name, most)
  if type(value) ~= "string" or not value:find("%S") then
    refuse("%s must be a text", name)
  elseif #value > most then
    refuse("%s is longer than %d bytes", name, most)
  end
  return value
end

local function note(value)
  if value == nil or value == fl.null or value == "" then
    return fl.null
  end
  return text(value, "note", 2 * LONGEST)
end

local function boolean(value)
  if type(value) ~= "boolean" then
    refuse "is_done must be true or false"
  end
  return value
end

---@return string
function checks.name(body)
  return text(check_object(body).name, "name", LONGEST)
end

---@return { title: string, note: string|nil }
function checks.new_item(body)
  return { title = text(check_object(body).title, "title", LONGEST), note = note(body.note) }
end

---@return table<string, any> what is to be changed, by column
function checks.changes(body)
  local readers = { note = note, is_done = boolean, title = function(value)
    return text(value, "title", LONGEST)
  end }
  local changes = {}
  for name, value in pairs(check_object(body)) do
    if not readers[name] then
      refuse("an item has no %q that can be changed", tostring(name))
    end
    changes[name] = readers[name](value)
  end
  return changes
end

---@return integer[]
function checks.order(body)
  local items = check_object(body).items
  if type(items) ~= "table" then
    refuse "items must be a list of ids"
  end
  for _, id in ipairs(items) do
    if type(id) ~= "number" then
      refuse "items must be a list of ids"
    end
  end
  return items
end

---@param some integer[]
---@param others integer[] without repetition
---@return boolean # the same ones, in whatever order
function checks.are_same(some, others)
  local missing = {}
  for _, id in ipairs(others) do
    missing[id] = true
  end
  for _, id in ipairs(some) do
    if not missing[id] then
      return false
    end
    missing[id] = nil
  end
  return next(missing) == nil
end

return checks
