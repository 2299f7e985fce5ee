---@meta
-- luacheck: ignore 212 241
-- The request, as a handler sees it. Fields are read from C when they are first asked for.

---@class fasterlua.Request
---@field method string
---@field url string the target as it came, with its query
---@field path string
---@field params table<string, string|number> what the path's parameters matched
---@field query table<string, string>
---@field headers table<string, string> names in lower case
---@field cookies table<string, string>
---@field body any
---@field client { host: string, port: integer }
---@field state table for middleware and handlers to share
---@field id string the request's id
local Request = {}

--- The whole body.
---@return string
function Request:text() end

--- The body, decoded.
---@return any
function Request:json() end

--- The fields of an urlencoded body.
---@return table<string, string>
function Request:form() end

--- Iterates over the body as it arrives: `for chunk in req:chunks() do`.
---@return fun(): string|nil
function Request:chunks() end

--- Adds a Set-Cookie header to the response.
---@param name string
---@param value string
---@param options? fasterlua.CookieOptions
function Request:set_cookie(name, value, options) end
