---@meta fasterlua.json
-- luacheck: ignore 212 241
-- Provided by C: JSON by RFC 8259.

---@class fasterlua.json
---@field null lightuserdata JSON's null
local json = {}

--- Raises for what JSON cannot say, naming the path: "cannot encode `user.name`: invalid UTF-8".
---@param value any
---@return string
function json.encode(value) end

--- Raises, naming the byte, for what is not JSON.
---@param text string
---@return any
function json.decode(text) end

--- Marks a table as a list, so that an empty one is written as [].
---@generic T: table
---@param list T
---@return T
function json.array(list) end

---@param value any
---@return boolean
function json.is_array(value) end

return json
