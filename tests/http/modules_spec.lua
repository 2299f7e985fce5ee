-- An app's Lua files: compiled once per server process, and all of one version within it.

local support = require "support"

local app = [[
local fl = require "fasterlua"
local app = fl.app { title = "modules" }
local state = tostring({}) -- another in each

app:get("/late", function()
  return state .. " " .. require("late")
end)
app:get("/broken", function()
  return tostring(select(2, pcall(require, "broken")))
end)
app:get("/bytecode", function()
  return tostring(select(2, pcall(require, "bytecode")))
end)

return app
]]

local files = {
  ["app.lua"] = app,
  ["late.lua"] = "return 'old'",
  ["broken.lua"] = "local a =\n= 1",
}

local function write(path, text)
  local file = assert(io.open(path, "wb"))
  file:write(text)
  file:close()
end

local function late(server)
  local client = server:connect()
  local state, version = client:request({ path = "/late" }).body:match("^(%S+ %S+) (%S+)$")
  return version, state
end

-- What the states say that have not said anything yet.
local function late_elsewhere(server, first_state)
  for _ = 1, 20 do
    local version, state = late(server)
    if state ~= first_state then
      return version
    end
  end
end

describe("an app's modules", function()
  it("are of one version in all states of a process, and new after a reload", function()
    local server = support.start { app = files, settings = { threads = 2 } }
    local version, state = late(server)
    assert.equal("old", version)
    write(server.app_dir .. "/late.lua", "return 'new'")
    assert.equal("old", late_elsewhere(server, state))
    local pid = server:server_pid()
    server:close_clients()
    server:signal "HUP"
    support.eventually(function()
      local newest = server:server_pid()
      return newest ~= pid and newest ~= server.pid and late(server) == "new"
    end, 5)
    server:stop()
  end)

  it("say where they were looked for when there are none", function()
    local server = support.start { app = "require 'no.where'", wait = false }
    server:wait_end(5)
    local log = server:log()
    assert.matches("module 'no.where' not found:", log, 1, true)
    assert.matches("no file '" .. server.app_dir .. "/no/where.lua'", log, 1, true)
    assert.matches("lua_modules/share/lua/5.1/no/where/init.lua'", log, 1, true)
    server:kill()
  end)

  it("say where app.lua does not compile", function()
    local server = support.start { app = "local a =\n= 1", wait = false }
    server:wait_end(5)
    assert.matches("app.lua:2: unexpected symbol near '='", server:log(), 1, true)
    server:kill()
  end)
end)

support.describe_server("a module", {
  app = files, settings = { threads = 1 },
}, function(get_server)
  it("that does not compile is tried again at the next require", function()
    local server = get_server()
    local path = server.app_dir .. "/broken.lua"
    for _ = 1, 2 do
      local message = server:get("/broken").body
      assert.matches("error loading module 'broken' from file '" .. path .. "':", message, 1, true)
      assert.matches("broken.lua:2: unexpected symbol near '='", message, 1, true)
    end
    write(path, "return 'repaired'")
    assert.equal("repaired", server:get("/broken").body)
  end)

  it("is never bytecode", function()
    local server = get_server()
    write(server.app_dir .. "/bytecode.lua", string.dump(function() return "loaded" end))
    assert.matches("attempt to load chunk with wrong mode", server:get("/bytecode").body)
  end)
end)
