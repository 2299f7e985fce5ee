---@meta fasterlua.core.log
-- luacheck: ignore 212 241
-- Provided by C: the server's log.

---@class fasterlua.core.log
local log = {}

---@param level "debug"|"info"|"warn"|"error"
---@param message string
---@param fields? table<string, any>
function log.line(level, message, fields) end

--- Logs an unhandled error with the current request's id and route.
---@param err any
---@param traceback string
function log.unhandled(err, traceback) end

return log
