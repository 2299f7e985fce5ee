-- Times of day and year as cron writes them.
--
--     local weekdays = cron.parse "30 4 * * mon-fri"
--     cron.next(weekdays, os.time()) -- when it is half past four next
--
-- Five fields: minute, hour, day of the month, month, day of the week; each `*`, a number, a range
-- `1-5`, any of these with a step `*/15`, or several with commas. Months and days have names of
-- three letters; Sunday is 0 and 7. When both kinds of day are given, either will do. Or one of
-- @hourly @daily @midnight @weekly @monthly @yearly @annually.
--
-- Time is the server's local time. When clocks are put forward, what falls into the hour that is
-- left out comes as soon as it is over; when they are put back, what falls into the hour that comes
-- twice comes the first time. An expression whose hour is `*` comes in every hour that passes.

local cron = {}

local MINUTE, DAY = 60, 86400
local SHIFT = 3 * 3600 -- seconds: no clock is put forward or back by more
local FARTHEST = 9 * 366 -- days: the longest from one 29 February to the next is 8 years

local function names(list, first)
  local numbers, number = {}, first
  for name in list:gmatch("%a+") do
    numbers[name], number = number, number + 1
  end
  return numbers
end

local fields = {
  { name = "minute", low = 0, high = 59, names = {} },
  { name = "hour", low = 0, high = 23, names = {} },
  { name = "day", low = 1, high = 31, names = {} },
  { name = "month", low = 1, high = 12,
    names = names("jan feb mar apr may jun jul aug sep oct nov dec", 1) },
  { name = "weekday", low = 0, high = 7, names = names("sun mon tue wed thu fri sat", 0) },
}

local shortcuts = {
  ["@hourly"] = "0 * * * *",
  ["@daily"] = "0 0 * * *",
  ["@midnight"] = "0 0 * * *",
  ["@weekly"] = "0 0 * * 0",
  ["@monthly"] = "0 0 1 * *",
  ["@yearly"] = "0 0 1 1 *",
  ["@annually"] = "0 0 1 1 *",
}

local function refuse(field, text, what)
  error(("%s %q: %s"):format(field.name, text, what), 0)
end

local function number_of(field, text)
  local number = field.names[text:lower()] or text:match("^%d+$") and tonumber(text)
  if not number or number < field.low or number > field.high then
    refuse(field, text, ("a number from %d to %d%s expected"):format(field.low, field.high,
      next(field.names) and " or a name" or ""))
  end
  return number
end

-- The first and last number of a part without its step.
local function range_of(field, text, has_step)
  if text == "*" then
    return field.low, field.high
  end
  local from, to = text:match("^(%w+)%-(%w+)$")
  if from then
    return number_of(field, from), number_of(field, to)
  end
  local number = number_of(field, text)
  return number, has_step and field.high or number
end

local function add_part(field, set, part)
  local range, step = part:match("^([^/]+)/(%d+)$")
  local first, last = range_of(field, range or part, step ~= nil)
  step = tonumber(step or 1)
  if step < 1 then
    refuse(field, part, "a step from 1 expected")
  elseif first > last then
    refuse(field, part, "the range ends before it begins")
  end
  for number = first, last, step do
    set[number] = true
  end
end

local function parse_field(field, text)
  local set = {}
  for part in (text .. ","):gmatch("(.-),") do
    if part == "" then
      refuse(field, text, "a part is missing between its commas")
    end
    add_part(field, set, part)
  end
  return set
end

---@class fasterlua.Cron
---@field minute table<integer, boolean>
---@field hour table<integer, boolean>
---@field day table<integer, boolean>
---@field month table<integer, boolean>
---@field weekday table<integer, boolean>
---@field is_either boolean a day of the month or one of the week
---@field is_hourly boolean its hour is `*`

local function parse(expression)
  local words = {}
  for word in (shortcuts[expression] or expression):gmatch("%S+") do
    words[#words + 1] = word
  end
  if #words ~= #fields then
    error(("five fields, or one of @hourly @daily @weekly @monthly @yearly, expected, got %d")
      :format(#words), 0)
  end
  local spec = { is_hourly = words[2] == "*" }
  for index, field in ipairs(fields) do
    spec[field.name] = parse_field(field, words[index])
  end
  spec.weekday[0] = spec.weekday[0] or spec.weekday[7]
  spec.is_either = words[3]:sub(1, 1) ~= "*" and words[5]:sub(1, 1) ~= "*"
  if not cron.next(spec, 0, function() return 0 end) then
    error("there is no such day", 0)
  end
  return spec
end

-- Days are counted from 1970-01-01. By Howard Hinnant, "chrono-compatible low-level date
-- algorithms".
local function days_of(year, month, day)
  year = month <= 2 and year - 1 or year
  local era = math.floor(year / 400)
  local of_era = year - era * 400
  local of_year = math.floor((153 * ((month + 9) % 12) + 2) / 5) + day - 1
  return era * 146097 + of_era * 365 + math.floor(of_era / 4) - math.floor(of_era / 100) + of_year
    - 719468
end

local function date_of(days)
  days = days + 719468
  local era = math.floor(days / 146097)
  local of_era = days - era * 146097
  local year = math.floor((of_era - math.floor(of_era / 1460) + math.floor(of_era / 36524)
    - math.floor(of_era / 146096)) / 365)
  local of_year = of_era - (365 * year + math.floor(year / 4) - math.floor(year / 100))
  local shifted = math.floor((5 * of_year + 2) / 153)
  return (shifted + 2) % 12 + 1, of_year - math.floor((153 * shifted + 2) / 5) + 1
end

-- A wall time is what clocks show, as if it were UTC.
local function local_offset(time)
  local parts = os.date("*t", time)
  local days = days_of(parts.year, parts.month, parts.day)
  return days * DAY + parts.hour * 3600 + parts.min * MINUTE + parts.sec - time
end

local function has_day(spec, days)
  local month, day = date_of(days)
  local is_day, is_weekday = spec.day[day], spec.weekday[(days + 4) % 7]
  if not spec.month[month] then
    return false
  elseif spec.is_either then
    return is_day or is_weekday
  end
  return is_day and is_weekday
end

local function has_time(spec, wall)
  local days = math.floor(wall / DAY)
  local minute = math.floor(wall % DAY / MINUTE)
  return spec.hour[math.floor(minute / 60)] and spec.minute[minute % 60] and has_day(spec, days)
end

-- The first minute of a day from `from` on.
local function minute_from(spec, from)
  for hour = math.floor(from / 60), 23 do
    if spec.hour[hour] then
      for minute = hour * 60 > from and 0 or from % 60, 59 do
        if spec.minute[minute] then
          return hour * 60 + minute
        end
      end
    end
  end
end

-- The next wall time after this one.
local function next_wall(spec, wall)
  local first = math.floor(wall / MINUTE) + 1
  local today = math.floor(first / 1440)
  for days = today, today + FARTHEST do
    local minute = has_day(spec, days)
      and minute_from(spec, days == today and first % 1440 or 0)
    if minute then
      return days * DAY + minute * MINUTE
    end
  end
end

-- When clocks show this wall time, or have just passed it, for the first time.
local function time_of(wall, offset_of)
  local before, after = offset_of(wall - DAY), offset_of(wall + DAY)
  local time, last = wall - math.max(before, after), wall - math.min(before, after)
  while time < last and time + offset_of(time) < wall do
    time = time + MINUTE
  end
  return time
end

-- The latest that clocks have shown until now.
local function latest_wall(time, offset_of)
  local latest = time + offset_of(time)
  if offset_of(time - SHIFT) > offset_of(time) then
    for earlier = time - SHIFT, time, MINUTE do
      latest = math.max(latest, earlier + offset_of(earlier))
    end
  end
  return latest
end

-- Minute by minute, while clocks are being changed.
local function next_hourly(spec, time, offset_of)
  if offset_of(time - SHIFT) ~= offset_of(time + SHIFT) then
    for later = time + MINUTE, time + 2 * SHIFT, MINUTE do
      if has_time(spec, later + offset_of(later)) then
        return later
      end
    end
  end
  return time_of(next_wall(spec, time + offset_of(time)), offset_of)
end

--- Understands an expression; raises a string that says what is wrong with it.
---@param expression string
---@return fasterlua.Cron
function cron.parse(expression)
  return parse(expression)
end

--- The first time after this one; nil when there is none, which `parse` has ruled out.
---@param spec fasterlua.Cron
---@param time number seconds since 1970
---@param offset_of? fun(time: number): number seconds that local time is ahead; for tests
---@return integer|nil
function cron.next(spec, time, offset_of)
  offset_of = offset_of or local_offset
  time = math.floor(time / MINUTE) * MINUTE
  if spec.is_hourly and next_wall(spec, time) then
    return next_hourly(spec, time, offset_of)
  end
  local wall = next_wall(spec, latest_wall(time, offset_of))
  return wall and time_of(wall, offset_of)
end

return cron
