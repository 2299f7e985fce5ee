---@meta fasterlua.core.text
-- luacheck: ignore 212 241
-- Provided by C: text for URLs and HTML.

---@class fasterlua.core.text
local text = {}

--- Encodes every byte but letters, digits and "-._~" (RFC 3986, section 2.3).
---@param value string
---@return string
function text.percent_encode(value) end

--- Replaces & < > " ' by entities.
---@param value string
---@return string
function text.escape_html(value) end

return text
