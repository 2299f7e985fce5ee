---@meta fasterlua.core.console
-- luacheck: ignore 212 241
-- Provided by C to commands alone: functions that await.

---@class fasterlua.core.console
local module = {}

--- Runs a function in a state with a loop, where databases and all that awaits can be used; in the
--- folder of the first app, which is not loaded. Raises texts.
---@param settings table those that a server would be started with
---@param name string "module:function"
---@param ... any what can cross between states
---@return any ... what it returned
function module.run(settings, name, ...) end

return module
