---@meta fasterlua.core.response
-- luacheck: ignore 212 241
-- Provided by C: the metatables by which it knows responses, filled by `fasterlua.response`.

---@class fasterlua.core.response
---@field Response table
---@field Headers table
---@field HttpError table
---@field Stream table
local response = {}

--- Raises when a header cannot be sent: `header "X": value has a line break`.
---@param name string
---@param value string
function response.check_header(name, value) end

--- The reason phrase of a status: "Not Found".
---@param status integer
---@return string
function response.reason(status) end

return response
