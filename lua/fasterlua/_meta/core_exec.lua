---@meta fasterlua.core.exec
-- luacheck: ignore 212 241
-- Provided by C: other programs.

---@class fasterlua.core.exec
local exec = {}

--- Takes a table { code, signal, stdout, stderr, timed_out, truncated }. Cancelling the operation
--- kills the program.
---@param argv string[]
---@param options fasterlua.ExecOptions
---@return userdata op
function exec.run(argv, options) end

return exec
