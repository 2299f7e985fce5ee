-- What is wrong with migrations, for who reads it: an error of its own kind, without a traceback.
--
--     problem.raise("%s:%d: a second `-- up`", path, line)

local problem = {}

---@class fasterlua.MigrationError
---@field kind "migration"
---@field message string
local Problem = { __name = "fasterlua.migrations.problem" }

function Problem:__tostring()
  return self.message
end

--- Raises the message.
---@param format string
---@param ... any
function problem.raise(format, ...)
  error(setmetatable({ kind = "migration", message = format:format(...) }, Problem), 0)
end

return problem
