-- Sizes and times as people write them: in settings, options and calls alike.
--
--     units.bytes "64KB" -- 65536
--     units.seconds "500ms" -- 0.5

local ipairs, math, tonumber, tostring, type = ipairs, math, tonumber, tostring, type

local units = {}

units.KB, units.MB, units.GB = 1024, 1024 ^ 2, 1024 ^ 3
units.MINUTE, units.HOUR, units.DAY = 60, 3600, 86400

local sizes = {
  { "GB", units.GB, "gb", "gib", "g" },
  { "MB", units.MB, "mb", "mib", "m" },
  { "KB", units.KB, "kb", "kib", "k" },
  { "", 1, "b", "" },
}
local times = {
  { "d", units.DAY, "d" },
  { "h", units.HOUR, "h" },
  { "m", units.MINUTE, "m", "min" },
  { "s", 1, "s", "" },
  { "ms", 0.001, "ms" },
}

local function read(value, known)
  if type(value) == "number" then
    return value
  end
  local digits, suffix = tostring(value):lower():match("^(%d+%.?%d*)%s*(%a*)$")
  for _, unit in ipairs(known) do
    for index = 3, #unit do
      if unit[index] == suffix then
        return tonumber(digits) * unit[2]
      end
    end
  end
end

local function format(value, known)
  for _, unit in ipairs(known) do
    local count = math.floor(value / unit[2] + 0.5)
    local is_exact = math.abs(count * unit[2] - value) < 1e-9
    if count >= 1 and is_exact and unit[1] ~= "" then
      return ("%q"):format(("%d%s"):format(count, unit[1]))
    end
  end
  return tostring(value)
end

--- Bytes, from a number or as in "64KB"; nil when it is neither.
---@param value any
---@return number|nil
function units.bytes(value)
  return read(value, sizes)
end

--- Seconds, from a number or as in "10s" or "500ms"; nil when it is neither.
---@param value any
---@return number|nil
function units.seconds(value)
  return read(value, times)
end

--- As a conf file would write it.
---@param bytes number
---@return string
function units.format_bytes(bytes)
  return format(bytes, sizes)
end

--- As a conf file would write it.
---@param seconds number
---@return string
function units.format_seconds(seconds)
  return format(seconds, times)
end

return units
