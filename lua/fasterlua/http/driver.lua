-- The driver in C, loaded when a state first sends something.
--
--     local core = driver.load()

local loader = require "fasterlua.core.driver"
local suggest = require "fasterlua.suggest"
local units = require "fasterlua.units"

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

local function read_limit(name, value)
  if not limits[name] then
    local hint = suggest.hint(tostring(name), limit_names)
    error(("http.limits: unknown option %q%s"):format(tostring(name), hint), 3)
  end
  local least = name == "max_transfers" and 1 or 0
  local is_time = name == "keep_idle"
  local read = is_time and units.seconds(value) or value
  local is_number = type(read) == "number" and read >= least and read <= 1000000
  if not is_number or read % 1 ~= 0 and not is_time then
    error(("http.limits: option %q must be %s, got %s"):format(name,
      is_time and 'seconds from 0, or a time as "500ms"'
        or ("a whole number from %d"):format(least), tostring(value)), 3)
  end
  return read
end

---@class fasterlua.HttpLimits
---@field max_transfers? integer that run at once; default 100
---@field max_waiting? integer that wait for their turn; default 1000, beyond which is an error
---@field max_connections? integer at once; default 0: as many as there are transfers
---@field max_host_connections? integer to one host; default 0: the same
---@field keep_idle? number|string seconds that connections are kept unused; default 60

--- Sets how much this state sends at once.
---@param options fasterlua.HttpLimits
function driver.limits(options)
  if type(options) ~= "table" then
    error(("http.limits: a table expected, got %s"):format(type(options)), 2)
  end
  local read = {}
  for name, value in pairs(options) do
    read[name] = read_limit(name, value)
  end
  for name, value in pairs(read) do
    limits[name] = value
  end
  if core then
    apply()
  end
end

return driver
