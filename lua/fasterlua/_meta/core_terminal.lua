---@meta fasterlua.core.terminal
-- luacheck: ignore 212 241
-- Provided by C to commands alone: the whole screen, and single keys.

---@class fasterlua.core.terminal
local module = {}

--- Takes the screen until it is closed: signals, keys and the alternate screen.
---@return fasterlua.core.Terminal?
---@return string? message
function module.open() end

---@return boolean # does stdout go to a terminal?
function module.is_terminal() end

---@return number seconds of a clock that never jumps
function module.now() end

---@param seconds number
function module.sleep(seconds) end

---@class fasterlua.core.Terminal
local terminal = {}

--- Makes everything as it was. May be called again.
function terminal:close() end

---@param text string
function terminal:write(text) end

---@return integer columns
---@return integer rows
function terminal:size() end

---@param seconds number
---@return "nothing"|"resize"|"quit"|"key" what
---@return string? key
function terminal:wait(seconds) end

return module
