local fake = require "support.fake_core"

describe("a schedule", function()
  local app

  before_each(function()
    fake.install()
    app = require("fasterlua.app").new {}
  end)

  local function nothing() end

  local function says(text, method, ...)
    local ok, err = pcall(app[method], app, ...)
    assert.is_false(ok, "no error")
    assert.is_truthy(err:find(text, 1, true), err)
  end

  it("refuses what is no interval", function()
    for _, seconds in ipairs { 0, -1, 0.001, 1e9, 0 / 0, "soon", "1ms", {} } do
      says("seconds from 0.01 to 2592000 expected", "every", seconds, nothing)
    end
    says("seconds from", "every")
  end)

  it("takes an interval as settings are written", function()
    app:every("5m", nothing)
    assert.equal(300, app._jobs[1].interval)
  end)

  it("refuses what is no time", function()
    says('cron "* * *": five fields', "cron", "* * *", nothing)
    says('cron "61 * * * *": minute "61"', "cron", "61 * * * *", nothing)
    says("cron: an expression of at most 80 bytes expected, got nil", "cron")
  end)

  it("refuses what is no function and no name", function()
    says("every 5: a function expected, got nil", "every", 5)
    says('cron "@daily": a function expected, got table', "cron", "@daily", {})
    says('once "x": a function expected', "once", "x")
    says("once: a name of 1 to 100 bytes expected, got nil", "once", nil, nothing)
    says("once: a name of", "once", ("x"):rep(101), nothing)
  end)

  it("refuses wrong options", function()
    says('unknown option "overlaps": did you mean "overlap"?', "every", 5, nothing,
      { overlaps = true })
    says('option "overlap" must be a boolean, got 1', "every", 5, nothing, { overlap = 1 })
    says('option "timeout" must be above 0, in seconds or as "5m", got 0', "every", 5, nothing,
      { timeout = 0 })
    says('option "name" must have 1 to 100 bytes', "every", 5, nothing, { name = "" })
  end)

  it("names the place of the mistake", function()
    local function check(fn, text)
      local _, err = pcall(fn)
      assert.matches("schedule_spec.lua:%d+: " .. text, err)
    end
    check(function() app:every(0, nothing) end, "every 0")
    check(function() app:every(5) end, "every 5")
    check(function() app:every(5, nothing, { name = 5 }) end, "every 5")
    check(function() app:cron("x", nothing) end, "cron")
    check(function() app:once("", nothing) end, "once")
  end)

  it("refuses two jobs of one name; without names they differ", function()
    app:every(5, nothing):every(5, nothing):cron("@daily", nothing)
    app:every(5, nothing, { name = "a" })
    says('there is a job "a" already', "cron", "@hourly", nothing, { name = "a" })
    says('there is a job "a" already', "once", "a", nothing)
  end)
end)
