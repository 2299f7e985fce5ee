-- What the log says of an error: its message, and the traceback through every task that awaited it.
--
--     log(report.explain(err, debug.traceback(co)))

local future = require "fasterlua.future"

local pcall, rawget, tostring, type = pcall, rawget, tostring, type -- whatever the app does to them

local report = {}

local function message_of(err)
  local message = type(err) == "table" and rawget(err, "message")
  local ok, text = pcall(tostring, message or err)
  return ok and text or "(error object that tostring cannot show)"
end

--- The text that is logged.
---@param err any the error value
---@param traceback string of the coroutine that it ended
---@return string
function report.explain(err, traceback)
  return message_of(err) .. "\n" .. future.traceback(err, traceback)
end

return report
