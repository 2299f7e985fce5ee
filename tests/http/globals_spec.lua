-- A global that a request assigns is seen by its own Lua state only: development tells of it.

local support = require "support"

local app = [[
local fl = require "fasterlua"
local app = fl.app { title = "globals" }
at_load = "fine"
app:get("/assign", function() counter = (counter or 0) + 1 return tostring(counter) end)
app:get("/load", function() return at_load end)
return app
]]

support.describe_server("in development a request's new global", { app = app,
  environment = "development", settings = { threads = 1 },
}, function(get_server)
  it("works, and is told once, with its place", function()
    assert.equal("1", get_server():get("/assign").body)
    assert.equal("2", get_server():get("/assign").body)
    local log = get_server():wait_log 'app.lua:4: global "counter" assigned by a request'
    assert.is_truthy(log)
    local _, count = get_server():log():gsub('global "counter"', "")
    assert.equal(1, count)
  end)

  it("is no matter of what the app assigns when it loads", function()
    assert.equal("fine", get_server():get("/load").body)
    assert.is_nil(get_server():log():find("at_load", 1, true))
  end)
end)

support.describe_server("in production it", { app = app, settings = { threads = 1 },
  environment = "production",
}, function(get_server)
  it("works and is not told", function()
    assert.equal("1", get_server():get("/assign").body)
    assert.is_nil(get_server():log():find('global "counter"', 1, true))
  end)
end)
