-- The driver in C, loaded when a state first sends something.
--
--     local core = driver.load()

local loader = require "fasterlua.core.driver"
local suggest = require "fasterlua.suggest"

local driver = {}

local core
local limits = {
  max_transfers = 100, max_waiting = 1000, max_connections = 0, max_host_connections = 0,
  keep_idle = 60,
}
local limit_names = {
  "max_transfers", "max_waiting", "max_connections", "max_host_connections", "keep_idle",
}

local function apply()
  core.limit(limits.max_transfers, limits.max_waiting, limits.max_host_connections,
    limits.max_connections, limits.keep_idle)
end

---@return table
function driver.load()
  if not core then
    core = loader.load "http"
    apply()
  end
  return core
end

local function check_limit(name, value)
  if not limits[name] then
    local hint = suggest.hint(tostring(name), limit_names)
    error(("http.limits: unknown option %q%s"):format(tostring(name), hint), 3)
  end
  local least = name == "max_transfers" and 1 or 0
  local is_number = type(value) == "number" and value >= least and value <= 1000000
  if not is_number or value % 1 ~= 0 and name ~= "keep_idle" then
    error(("http.limits: option %q must be a %snumber from %d, got %s"):format(name,
      name == "keep_idle" and "" or "whole ", least, tostring(value)), 3)
  end
end

---@class fasterlua.HttpLimits
---@field max_transfers? integer that run at once; default 100
---@field max_waiting? integer that wait for their turn; default 1000, beyond which is an error
---@field max_connections? integer at once; default 0: as many as there are transfers
---@field max_host_connections? integer to one host; default 0: the same
---@field keep_idle? number seconds that connections are kept when nothing is sent; default 60

--- Sets how much this state sends at once.
---@param options fasterlua.HttpLimits
function driver.limits(options)
  if type(options) ~= "table" then
    error(("http.limits: a table expected, got %s"):format(type(options)), 2)
  end
  for name, value in pairs(options) do
    check_limit(name, value)
  end
  for name, value in pairs(options) do
    limits[name] = value
  end
  if core then
    apply()
  end
end

return driver
