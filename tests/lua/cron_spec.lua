local cron = require "fasterlua.cron"

local function utc(text)
  local year, month, day, hour, minute = text:match("^(%d+)-(%d+)-(%d+) (%d+):(%d+)$")
  local days = 0
  local function is_leap(y)
    return y % 4 == 0 and (y % 100 ~= 0 or y % 400 == 0)
  end
  for y = 1970, year - 1 do
    days = days + (is_leap(y) and 366 or 365)
  end
  local lengths = { 31, is_leap(tonumber(year)) and 29 or 28, 31, 30, 31, 30, 31, 31, 30, 31, 30 }
  for m = 1, month - 1 do
    days = days + lengths[m]
  end
  return (days + day - 1) * 86400 + hour * 3600 + minute * 60
end

local function no_offset()
  return 0
end

-- Central Europe in 2026: summer from 29 March to 25 October, each at 01:00 UTC.
local function berlin(time)
  local is_summer = time >= utc "2026-03-29 01:00" and time < utc "2026-10-25 01:00"
  return is_summer and 7200 or 3600
end

-- The next `count` times after `from`, in UTC.
local function times(expression, from, count, offset_of)
  local spec, time, found = cron.parse(expression), utc(from), {}
  for index = 1, count do
    time = cron.next(spec, time, offset_of or no_offset)
    found[index] = os.date("!%Y-%m-%d %H:%M", time)
  end
  return found
end

describe("a cron expression", function()
  it("names minutes and hours", function()
    assert.same({ "2026-01-01 04:30", "2026-01-02 04:30" },
      times("30 4 * * *", "2026-01-01 00:00", 2))
    assert.same({ "2026-01-01 00:01", "2026-01-01 00:02" },
      times("* * * * *", "2026-01-01 00:00", 2))
    assert.same({ "2026-01-01 05:07", "2026-01-01 06:07" },
      times("7 * * * *", "2026-01-01 04:07", 2))
  end)

  it("has lists, ranges and steps", function()
    assert.same({ "2026-01-01 08:15", "2026-01-01 08:45", "2026-01-01 09:15", "2026-01-01 09:45",
      "2026-01-02 08:15" }, times("15,45 8-9 * * *", "2026-01-01 00:00", 5))
    assert.same({ "2026-01-01 00:20", "2026-01-01 00:40", "2026-01-01 01:00" },
      times("*/20 * * * *", "2026-01-01 00:00", 3))
    assert.same({ "2026-01-01 00:10", "2026-01-01 00:40", "2026-01-01 01:10" },
      times("10/30 * * * *", "2026-01-01 00:00", 3))
    assert.same({ "2026-01-01 10:00", "2026-01-01 14:00", "2026-01-01 18:00", "2026-01-02 10:00" },
      times("0 10-20/4 * * *", "2026-01-01 00:00", 4))
  end)

  it("has names for months and days", function()
    assert.same({ "2026-02-02 00:00", "2026-02-03 00:00", "2026-02-04 00:00" },
      times("0 0 * feb mon-wed", "2026-01-01 00:00", 3))
    assert.same({ "2026-01-04 12:00", "2026-01-11 12:00" },
      times("0 12 * * SUN", "2026-01-01 00:00", 2))
    assert.same(times("0 12 * * 0", "2026-01-01 00:00", 3),
      times("0 12 * * 7", "2026-01-01 00:00", 3))
    assert.same({ "2026-01-02 00:00", "2026-01-03 00:00", "2026-01-04 00:00", "2026-01-09 00:00" },
      times("0 0 * * 5-7", "2026-01-01 00:00", 4))
  end)

  it("means either kind of day when both are given", function()
    assert.same({ "2026-01-02 00:00", "2026-01-09 00:00", "2026-01-13 00:00", "2026-01-16 00:00" },
      times("0 0 13 * fri", "2026-01-01 00:00", 4))
    assert.same({ "2026-02-13 00:00", "2026-03-13 00:00", "2026-09-13 00:00", "2026-11-13 00:00" },
      times("0 0 13 * */5", "2026-01-01 00:00", 4)) -- one begins with *: both must be
  end)

  it("finds rare days", function()
    assert.same({ "2028-02-29 00:00", "2032-02-29 00:00" },
      times("0 0 29 2 *", "2026-01-01 00:00", 2))
    assert.same({ "2104-02-29 00:00" }, times("0 0 29 2 *", "2096-02-29 00:00", 1))
    assert.same({ "2026-12-31 23:59", "2027-12-31 23:59" },
      times("59 23 31 12 *", "2026-01-01 00:00", 2))
    assert.same({ "2026-01-31 00:00", "2026-03-31 00:00", "2026-05-31 00:00" },
      times("0 0 31 * *", "2026-01-01 00:00", 3))
  end)

  it("has shortcuts", function()
    assert.same({ "2026-01-01 01:00" }, times("@hourly", "2026-01-01 00:00", 1))
    assert.same({ "2026-01-02 00:00" }, times("@daily", "2026-01-01 00:00", 1))
    assert.same({ "2026-01-02 00:00" }, times("@midnight", "2026-01-01 00:00", 1))
    assert.same({ "2026-01-04 00:00" }, times("@weekly", "2026-01-01 00:00", 1))
    assert.same({ "2026-02-01 00:00" }, times("@monthly", "2026-01-01 00:00", 1))
    assert.same({ "2027-01-01 00:00" }, times("@yearly", "2026-01-01 00:00", 1))
    assert.same({ "2027-01-01 00:00" }, times("@annually", "2026-01-01 00:00", 1))
  end)

  local mistakes = {
    ["* * * *"] = "five fields",
    [""] = "five fields",
    ["@often"] = "five fields",
    ["60 * * * *"] = 'minute "60": a number from 0 to 59 expected',
    ["* 24 * * *"] = 'hour "24": a number from 0 to 23 expected',
    ["* * 0 * *"] = 'day "0": a number from 1 to 31 expected',
    ["* * * 13 *"] = 'month "13": a number from 1 to 12 or a name expected',
    ["* * * * 8"] = 'weekday "8": a number from 0 to 7 or a name expected',
    ["* * * * friday"] = 'weekday "friday"',
    ["1.5 * * * *"] = 'minute "1.5"',
    ["-1 * * * *"] = 'minute "-1"',
    ["1, * * * *"] = 'minute "1,": a part is missing',
    ["*/0 * * * *"] = 'minute "*/0": a step from 1 expected',
    ["*/x * * * *"] = 'minute "*/x"',
    ["9-3 * * * *"] = 'minute "9-3": the range ends before it begins',
    ["0 0 30 2 *"] = "there is no such day",
    ["* * 31 4,6,9,11 *"] = "there is no such day",
  }
  for expression, problem in pairs(mistakes) do
    it(("of %q is refused: %s"):format(expression, problem), function()
      local ok, message = pcall(cron.parse, expression)
      assert.is_false(ok)
      assert.is_truthy(message:find(problem, 1, true), message)
    end)
  end
end)

describe("local time", function()
  it("is what the fields are about", function()
    assert.same({ "2026-01-01 03:30" }, times("30 4 * * *", "2026-01-01 00:00", 1, berlin))
    assert.same({ "2026-07-01 02:30" }, times("30 4 * * *", "2026-07-01 00:00", 1, berlin))
    assert.same({ "2026-06-30 22:00" }, times("0 0 1 7 *", "2026-06-01 00:00", 1, berlin))
  end)

  it("is that of the server unless it is told otherwise", function()
    local time = cron.next(cron.parse "30 4 * * *", os.time())
    local parts = os.date("*t", time)
    assert.same({ 4, 30, 0 }, { parts.hour, parts.min, parts.sec })
    assert.is_true(time > os.time() and time - os.time() <= 90000)
  end)

  it("put forward: what is left out comes when it is over, once", function()
    assert.same({ "2026-03-28 01:30", "2026-03-29 01:00", "2026-03-30 00:30" },
      times("30 2 * * *", "2026-03-28 00:00", 3, berlin))
    assert.same({ "2026-03-29 01:00", "2026-03-30 00:00", "2026-03-30 00:20" },
      times("0,20,40 2 * * *", "2026-03-28 01:40", 3, berlin))
    assert.same({ "2026-03-29 00:59", "2026-03-29 01:00", "2026-03-29 01:01" },
      times("59,0,1 1-3 * * *", "2026-03-29 00:30", 3, berlin))
  end)

  it("put back: what comes twice comes the first time only", function()
    assert.same({ "2026-10-24 00:30", "2026-10-25 00:30", "2026-10-26 01:30" },
      times("30 2 * * *", "2026-10-24 00:00", 3, berlin))
    assert.same({ "2026-10-25 00:30", "2026-10-25 02:30" },
      times("30 2,3 * * *", "2026-10-25 00:00", 2, berlin))
    -- asked while the hour passes for the second time
    assert.same({ "2026-10-26 01:30" }, times("30 2 * * *", "2026-10-25 01:10", 1, berlin))
  end)

  it("changed or not, an hour of * comes in every hour that passes", function()
    assert.same({ "2026-03-28 23:30", "2026-03-29 00:30", "2026-03-29 01:30", "2026-03-29 02:30" },
      times("30 * * * *", "2026-03-28 23:00", 4, berlin))
    assert.same({ "2026-10-24 23:30", "2026-10-25 00:30", "2026-10-25 01:30", "2026-10-25 02:30" },
      times("30 * * * *", "2026-10-24 23:00", 4, berlin))
    assert.same({ "2026-10-25 00:50", "2026-10-25 01:00", "2026-10-25 01:10" },
      times("*/10 * * * *", "2026-10-25 00:40", 3, berlin))
  end)

  it("runs each daily job once a day and each hourly one once an hour, all year", function()
    local daily, hourly = cron.parse "30 2 * * *", cron.parse "30 * * * *"
    local time, last, days, hours = utc "2026-01-01 00:00", utc "2027-01-01 00:00", 0, 0
    while cron.next(daily, time, berlin) < last do
      time, days = cron.next(daily, time, berlin), days + 1
    end
    time = utc "2026-01-01 00:00"
    while cron.next(hourly, time, berlin) < last do
      time, hours = cron.next(hourly, time, berlin), hours + 1
    end
    assert.same({ 365, 8760 }, { days, hours })
  end)
end)
