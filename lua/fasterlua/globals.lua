-- Warns, in development, when a request assigns a new global: other Lua states will not see it.
--
--     require("fasterlua.globals").watch() -- once the app has loaded

local log = require "fasterlua.log"

local globals = {}

local function place_of_caller()
  local info = debug.getinfo(3, "Sl")
  return info and ("%s:%d"):format(info.short_src, info.currentline) or "?"
end

local function assigned(environment, name, value)
  rawset(environment, name, value)
  log.warn(('%s: global "%s" assigned by a request: it lives in this Lua state alone, others will '
    .. "not see it; did you mean local, app.state or fl.shared?"):format(place_of_caller(),
    tostring(name)))
end

--- From now on new globals are told, each once. Does nothing when the app has given the globals a
--- metatable of its own.
function globals.watch()
  if getmetatable(_G) == nil then
    setmetatable(_G, { __newindex = assigned })
  end
end

return globals
