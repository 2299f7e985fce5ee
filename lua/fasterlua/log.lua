-- The app's log: each line carries the request's id.
--
--     fl.log.info("order placed", { order = order.id, total = order.total })

local core = require "fasterlua.core.log"

local log = {}

local function line(level, message, fields)
  if fields ~= nil and type(fields) ~= "table" then
    error(("log.%s: fields must be a table, got %s"):format(level, type(fields)), 3)
  end
  core.line(level, type(message) == "string" and message or tostring(message), fields)
end

--- For whoever looks for a fault.
---@param message any
---@param fields? table<string, any>
function log.debug(message, fields)
  line("debug", message, fields)
end

--- For whoever runs the server. `print` and `io.write` come here too.
---@param message any
---@param fields? table<string, any>
function log.info(message, fields)
  line("info", message, fields)
end

--- Something is odd, but was dealt with.
---@param message any
---@param fields? table<string, any>
function log.warn(message, fields)
  line("warn", message, fields)
end

--- Something failed.
---@param message any
---@param fields? table<string, any>
function log.error(message, fields)
  line("error", message, fields)
end

return log
