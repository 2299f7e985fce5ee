-- What web threads do for each other: connections shared evenly, and handlers that hold their
-- thread told, outlived and ended (evacuation_moves_spec says what becomes of everybody else).

local support = require "support"
local evacuation = require "support.evacuation"

local process = support.process
local now, sleep = process.now, process.sleep
local limit = evacuation.limit

local app = [[
local ffi = require "ffi"
local fl = require "fasterlua"
local await = fl.await
local app = fl.app { title = "threads" }
ffi.cdef "int usleep(unsigned microseconds); long clock(void);"

local function compute(seconds)
  local till = ffi.C.clock() + seconds * 1e6
  while ffi.C.clock() < till do end
end

app:get("/", function() return "root" end)
app:get("/compute/{ms:int}", function(req) compute(req.params.ms / 1000) return "computed" end)
app:get("/loop", function() while true do end end)
app:get("/patient", { stuck = false, blocked = false }, function() compute(0.6) return "done" end)
app:get("/touchy", { stuck = os.getenv "TOUCHY" or 0.1 }, function() while true do end end)
app:get("/block/{ms:int}", function(req)
  ffi.C.usleep(req.params.ms * 1000)
  return "unblocked"
end)
app:get("/execute", function() os.execute("sleep 3") return "executed" end)
app:get("/sleep", function() await(fl.sleep(0.5)) return "slept" end)

return app
]]

local request_bytes = "GET %s HTTP/1.1\r\nHost: a\r\n\r\n"

local function open(server, count)
  local clients = {}
  for i = 1, count do
    clients[i] = server:connect()
    assert.equal("root", clients[i]:request({ path = "/" }).body)
  end
  return clients
end

local function begin(server, path)
  local client = server:connect()
  client:send(request_bytes:format(path))
  return client
end

-- How many of `count` new connections are answered within half a second.
local function answered(server, count)
  local clients, good = {}, 0
  for i = 1, count do clients[i] = begin(server, "/") end
  local deadline = now() + 0.5 * support.slowdown
  for i = 1, count do
    local response = clients[i]:response { timeout = math.max(0, deadline - now()) }
    good = good + (response and response.body == "root" and 1 or 0)
    clients[i]:close()
  end
  return good
end

support.describe_server("connections", {
  app = app, settings = { threads = 2 },
}, function(get_server)
  local function share(server)
    local metrics = server:metrics()
    local name = 'fasterlua_connections{thread="%d"}'
    return metrics[name:format(0)], metrics[name:format(1)]
  end

  it("are shared by two threads, 64 of them no worse than 36 to 28", function()
    for _ = 1, 5 do
      open(get_server(), 64)
      local first, second = share(get_server())
      assert.equal(64, first + second)
      assert.is_true(math.max(first, second) <= 36, first .. " to " .. second)
      get_server():close_clients()
      support.eventually(function()
        first, second = share(get_server())
        return first + second == 0
      end)
    end
  end)

  it("are shared by two threads when all come at once", function()
    local clients = {}
    for i = 1, 64 do clients[i] = begin(get_server(), "/") end
    for i = 1, 64 do assert.equal("root", clients[i]:response().body) end
    local first, second = share(get_server())
    assert.is_true(math.max(first, second) <= 36, first .. " to " .. second)
  end)
end)

describe("a thread that is held", function()
  local function hold(path)
    local server = support.start { app = app, settings = {
      threads = 2, slow_handler = "50ms", stuck_handler = "20s", blocked_handler = "20s" } }
    local clients = open(server, 16)
    local stuck = begin(server, path)
    server:wait_log("slow handler")
    sleep(0.05)
    return server, clients, stuck
  end

  for _, path in ipairs { "/loop", "/block/3000" } do
    it("by GET " .. path .. " keeps no new connection waiting", function()
      local server = hold(path)
      local count = answered(server, 40)
      server:kill()
      assert.equal(40, count)
    end)
  end

  it("accepts again afterwards, and has lost nothing", function()
    local server, clients, stuck = hold("/block/500")
    assert.equal(20, answered(server, 20))
    assert.equal("unblocked", stuck:response().body)
    for i = 1, 16 do assert.equal("root", clients[i]:request({ path = "/" }).body) end
    assert.equal(20, answered(server, 20))
    server:stop()
  end)
end)

support.describe_server("a slow handler", {
  app = app, settings = { slow_handler = limit(50) },
}, function(get_server)
  it("is logged with its route and request, and counted", function()
    local server = get_server()
    local before = server:metrics().fasterlua_slow_handlers_total
    assert.equal("computed", server:get("/compute/" .. 200 * support.slowdown).body)
    local line = server:wait_log("[^\n]*slow handler[^\n]*compute[^\n]*")
    assert.is_truthy(line:find("GET /compute/{ms:int} (request ", 1, true), line)
    assert.is_truthy(line:find(" warn ", 1, true), line)
    assert.equal(before + 1, server:metrics().fasterlua_slow_handlers_total)
  end)

  it("is told when it is blocked rather than computing", function()
    assert.equal("unblocked", get_server():get("/block/" .. 200 * support.slowdown).body)
    get_server():wait_log("slow handler[^\n]*GET /block")
  end)

  it("is none that waits, or is quick", function()
    local server = get_server()
    local before = server:metrics().fasterlua_slow_handlers_total
    assert.equal("slept", server:get("/sleep").body)
    assert.equal("computed", server:get("/compute/5").body)
    assert.equal(before, server:metrics().fasterlua_slow_handlers_total)
  end)
end)

describe("a slow start", function()
  it("is named as what it is, and no handler", function()
    local server = support.start { settings = { threads = 1, slow_handler = limit(50) }, app = [[
      local fl = require "fasterlua"
      local function compute(seconds)
        local till = os.clock() + seconds
        while os.clock() < till do end
      end
      local app, seconds = fl.app(), ]] .. 0.2 * support.slowdown .. [[

      compute(seconds)
      app:on_start(function() fl.await(fl.sleep(0.02)) compute(seconds) end)
      return app]] }
    server:wait_log("slow start: the loading of the apps has held web thread 0 for %d+ ms")
    server:wait_log("slow start: a start hook has held web thread 0 for %d+ ms")
    assert.is_nil(server:log():find("slow handler", 1, true))
    assert.equal(0, server:metrics().fasterlua_slow_handlers_total)
    server:stop()
  end)
end)

describe("a stuck handler", function()
  local server

  before_each(function()
    server = support.start { app = app, env = {
      TSAN_OPTIONS = "report_thread_leaks=0" }, settings = { -- it ends as it is
      threads = 2, stuck_handler = limit(300), blocked_handler = limit(300), drain = "1s",
      exile = 0 } }
  end)

  after_each(function()
    server:stop()
  end)

  it("that loops has its thread evacuated, its process replaced, and is named", function()
    local old = server:server_pid()
    local stuck = begin(server, "/loop")
    local line = server:wait_log("[^\n]*stuck handler[^\n]*", 10)
    assert.is_truthy(line:find("GET /loop (request ", 1, true), line)
    server:wait_log("evacuated web thread")
    assert.equal(503, stuck:response().status)
    assert.equal(8, answered(server, 8))
    assert.equal(old, server:server_pid())
    support.eventually(function() return not process.signal(old, 0) end, 15)
    assert.equal(8, answered(server, 8))
  end)

  it("that is blocked is interrupted, and the log names it", function()
    local old = server:server_pid()
    local stuck = begin(server, "/block/20000")
    server:wait_log("stuck handler[^\n]*GET /block/{ms:int} %(request [^\n]*blocked", 10)
    assert.equal(503, stuck:response().status)
    assert.equal(8, answered(server, 8))
    assert.equal(old, server:server_pid())
    assert.is_nil(server:log():find("evacuated", 1, true))
  end)

  it("that is blocked in a command has its thread evacuated, which is all", function()
    local old = server:server_pid()
    local stuck = begin(server, "/execute")
    server:wait_log("evacuated web thread [^\n]*GET /execute[^\n]*blocked", 10)
    assert.equal(503, stuck:response().status)
    support.eventually(function()
      return server:metrics().fasterlua_retired_threads == 0
    end, 5)
    assert.equal(old, server:server_pid())
  end)

  it("lets requests of either thread end in the old process", function()
    local clients = open(server, 16)
    local stuck = begin(server, "/loop")
    sleep(0.02)
    for i = 1, 16 do clients[i]:send(request_bytes:format("/sleep")) end
    for i = 1, 16 do
      local response = clients[i]:response { timeout = 3 * support.slowdown }
      assert.equal("slept", response and response.body)
    end
    assert.equal(503, stuck:response().status)
  end)

  it("is none that waits, or whose route allows it more", function()
    local old = server:server_pid()
    assert.equal("slept", server:get("/sleep").body)
    assert.equal("done", server:get("/patient").body)
    assert.is_nil(server:log():find("stuck handler", 1, true))
    assert.equal(old, server:server_pid())
  end)
end)

describe("a route with a limit of its own", function()
  it("is stuck sooner than others", function()
    local server = support.start { app = app, env = { TOUCHY = limit(100) },
      settings = { threads = 2, drain = "500ms", stuck_handler = "20s" } }
    local stuck = begin(server, "/touchy")
    server:wait_log("stuck handler[^\n]*GET /touchy", 3)
    stuck:close()
    server:kill()
  end)
end)

describe("an app with limits of its own", function()
  local text = [[
local fl = require "fasterlua"
local app = fl.app { stuck = "%s", blocked = false }
local function compute()
  local till = os.clock() + 0.7 * %s
  while os.clock() < till do end
  return "computed"
end
app:get("/of-the-app", compute)
app:get("/of-its-own", { stuck = "20s" }, compute)
return app
]]

  it("has them for its routes that have none", function()
    local server = support.start { app = text:format(limit(200), math.min(support.slowdown, 2)),
      settings = { stuck_handler = "20s" } }
    assert.equal("computed", server:get("/of-its-own").body)
    assert.equal(503, server:get("/of-the-app").status)
    server:kill()
  end)

  it("is told what is wrong with them", function()
    local server = support.start { wait = false, app = [[
local app = require("fasterlua").app { stuck = "soon" }
return app
]] }
    local status = server:wait_end(5)
    local log = server:log()
    server:kill()
    assert.equal(3, status.code)
    assert.is_truthy(log:find('app.lua:1: fl.app: option "stuck" must be seconds', 1, true), log)
  end)
end)

describe("start hooks", function()
  it("are not stuck, however long they compute", function()
    local server = support.start {
      settings = { stuck_handler = limit(100), threads = 1 },
      app = [[
local fl = require "fasterlua"
local app = fl.app {}
app:on_start(function()
  local till = os.clock() + 0.5
  while os.clock() < till do end
end)
app:get("/", function() return "root" end)
return app
]] }
    assert.equal("root", server:get("/").body)
    assert.is_nil(server:log():find("stuck handler", 1, true))
    server:stop()
  end)
end)
