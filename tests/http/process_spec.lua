-- What an operator sees of the processes: starts that fail, crashes, signals, reloads.

local socket = require "socket"
local support = require "support"

local process = support.process
local now, sleep = process.now, process.sleep

local app = [[
local fl = require "fasterlua"
local await = fl.await
local app = fl.app { title = "process" }

app:get("/", function() return "one" end)
app:get("/nap", function() await(fl.sleep(0.5)) return "napped" end)
app:get("/sleep/{id}", function() await(fl.sleep(30)) return "slept" end)
app:get("/later", function()
  fl.background(function()
    await(fl.sleep(0.5))
    fl.log.info("the background task is done")
  end)
  return "soon"
end)
app:on_stop(function()
  await(fl.sleep(0.01))
  fl.log.info("the first stop hook has run")
end)
app:on_stop(function() error("a stop hook that fails") end)

return app
]]

local request_bytes = "GET %s HTTP/1.1\r\nHost: a\r\n\r\n"

-- Starts a server on a request of ours and returns the client, whose request is being handled.
local function begin(server, path)
  local client = server:connect()
  client:send(request_bytes:format(path))
  support.eventually(function()
    return server:metrics().fasterlua_requests_in_flight == 1
  end)
  return client
end

local function refused(server)
  local client = socket.tcp()
  client:settimeout(2)
  local connected, reason = client:connect("127.0.0.1", server.port)
  client:close()
  return not connected and reason == "connection refused"
end

local function write(dir, text)
  local file = assert(io.open(dir .. "/app.lua.new", "w"))
  file:write(text)
  file:close()
  assert(os.rename(dir .. "/app.lua.new", dir .. "/app.lua"))
end

-- A port that nobody listens on.
local function free_port()
  local listener = assert(socket.bind("127.0.0.1", 0))
  local _, port = listener:getsockname()
  listener:close()
  return tonumber(port)
end

-- For a server that is to end by itself.
local function expect_end(server, seconds)
  local status = server:wait_end(seconds or 5)
  local log = server:log()
  server:kill()
  assert.is_truthy(status, "it does not end; its log:\n" .. log)
  return status, log
end

local function contains(text, part)
  assert.is_truthy(text:find(part, 1, true), ("%q lacks %q"):format(text, part))
end

-- Every thread of it: a signal takes effect some time after it was sent.
local function stopped(pid)
  for entry in require("lfs").dir(("/proc/%d/task"):format(pid)) do
    local stat = entry:find "^%d" and process.read(("/proc/%d/task/%s/stat"):format(pid, entry))
    if stat and not stat:find "%) T" then
      return false
    end
  end
  return true
end

describe("a start", function()
  -- Watches that nothing ever listens on the port.
  local function fail_to_start(options)
    local port = free_port()
    options.wait = false
    options.flags = { "--port", tostring(port) }
    local server = support.start(options)
    server.port = port
    local never_bound = true
    process.poll(function()
      never_bound = never_bound and refused(server)
      return server:ended()
    end, 5 * support.slowdown)
    local status, log = expect_end(server)
    assert.equal(3, status.code, log)
    assert.is_true(never_bound, "it has listened")
    return log
  end

  it("of an app that cannot be read says file and line, exits 3 and binds nothing", function()
    contains(fail_to_start { app = "local x = 1\nlocal = 2\n" }, "app.lua:2: ")
  end)

  it("of an app that raises says file and line, exits 3 and binds nothing", function()
    local log = fail_to_start { app = {
      ["app.lua"] = 'local shelf = require "shelf"\nreturn shelf',
      ["shelf.lua"] = 'local M = {}\nerror("the shelf is empty")\nreturn M',
    } }
    contains(log, "shelf.lua:2: the shelf is empty")
  end)

  it("of an app that returns no app says so", function()
    contains(fail_to_start { app = "return 1" }, "app.lua must return an app")
  end)

  it("is failed by a start hook that fails", function()
    local log = fail_to_start { app = [[
local fl = require "fasterlua"
local app = fl.app {}
app:on_start(function()
  fl.await(fl.sleep(0.01))
  error("no database")
end)
return app
]] }
    assert.matches("app.lua:5: no database", log)
  end)

  it("says that the port is in use", function()
    local listener = assert(socket.bind("127.0.0.1", 0))
    local _, port = listener:getsockname()
    local server = support.start { app = app, wait = false, flags = { "--port", tostring(port) } }
    local status, log = expect_end(server)
    listener:close()
    assert.equal(3, status.code)
    contains(log, "127.0.0.1:" .. port)
    contains(log, "in use")
  end)

  it("waits for start hooks that wait", function()
    local server = support.start { app = [[
local fl = require "fasterlua"
local app = fl.app {}
app:on_start(function()
  fl.await(fl.sleep(0.3))
  app.state.greeting = "warmed up"
end)
app:get("/", function() return app.state.greeting end)
return app
]] }
    assert.equal("warmed up", server:get("/").body)
    server:stop()
  end)

  it("can be ended while start hooks wait", function()
    local server = support.start { wait = false, app = [[
local fl = require "fasterlua"
local app = fl.app {}
app:on_start(function() print("waiting") fl.await(fl.sleep(30)) end)
return app
]] }
    server:wait_log("waiting")
    server:signal "TERM"
    assert.equal(0, expect_end(server, 3).code)
  end)

  it("tells where it listens, its apps, threads and the time it took", function()
    local server = support.start { app = app, flags = { "--threads", "2" } }
    local log = server:log()
    assert.matches("listening on http://127%.0%.0%.1:%d+", log)
    assert.matches("apps=1 threads=2", log)
    assert.matches("took_ms=[%d.]+", log)
    assert.matches("app [%w_-]+ at " .. server.url:gsub("%p", "%%%0") .. "/", log)
    server:stop()
  end)
end)

support.describe_server("the death of a server process", {
  app = app, leaks = false,
}, function(get_server)
  local function child_of(server)
    assert.equal("one", server:get("/").body)
    return server:pids()[1]
  end

  local function wait_until_served(server)
    local answered = process.poll(function()
      local ok, response = pcall(server.request, server, { path = "/", timeout = 2 })
      return ok and response and response.status == 200
    end, 5)
    assert.is_truthy(answered, "it does not serve again")
  end

  -- The seconds from a kill to the first answer.
  local function outage(server, signal)
    wait_until_served(server) -- the death before this one may just have been noticed
    local pid, started = child_of(server), now()
    server:signal(signal, pid)
    wait_until_served(server)
    return now() - started
  end

  it("is over within 200 ms", function()
    local best = math.huge
    for _ = 1, 3 do
      best = math.min(best, outage(get_server(), "KILL"))
    end
    assert.is_true(best < 0.2 * support.slowdown, ("it took %.3f s"):format(best))
  end)

  it("is not noticed by a connection that waits to be accepted", function()
    local server = get_server()
    local pid = child_of(server)
    server:signal("STOP", pid)
    process.poll(function() return stopped(pid) end, 2)
    local client = server:connect()
    client:send(request_bytes:format("/"))
    sleep(0.1)
    server:signal("KILL", pid)
    assert.equal("one", client:response().body)
  end)

  it("is logged with route and request in flight", function()
    local server = get_server()
    begin(server, "/sleep/7")
    server:signal("KILL", child_of(server))
    local line = server:wait_log("[^\n]*server process died[^\n]*SIGKILL[^\n]*/sleep[^\n]*")
    contains(line, "GET /sleep/{id} (request ")
    assert.matches("in_flight=1", line)
  end)

  it("names the signal that it crashed by", function()
    -- A sanitizer catches SIGSEGV.
    local number, name = 11, "SIGSEGV"
    if support.slowdown > 1 then number, name = 31, "SIGSYS" end
    local server = get_server()
    outage(server, number)
    server:wait_log("server process died[^\n]*" .. name)
  end)

  it("is counted", function()
    local server = get_server()
    local before = support.eventually(function()
      return server:metrics().fasterlua_restarts_total -- the admin listener comes last
    end)
    outage(server, "KILL")
    support.eventually(function()
      return server:metrics().fasterlua_restarts_total == before + 1
    end)
  end)

  it("is not brought about by signals that are for the supervisor", function()
    local server = get_server()
    local pid = child_of(server)
    for _, signal in ipairs { "TERM", "INT", "HUP" } do
      server:signal(signal, pid)
    end
    sleep(0.2)
    assert.equal(pid, child_of(server))
    assert.equal("one", server:get("/").body)
  end)
end)

describe("SIGTERM", function()
  local function start(settings)
    settings = settings or {}
    settings.threads = settings.threads or 2
    return support.start { app = app, settings = settings }
  end

  it("lets requests in flight end, refuses connections, and ends well within the drain", function()
    local server = start { drain = "10s" }
    local client, began = begin(server, "/nap"), now()
    server:signal "TERM"
    support.eventually(function() return refused(server) end)
    local response = client:response()
    assert.equal("napped", response.body)
    assert.equal("close", response.headers.connection)
    assert.equal(0, expect_end(server).code)
    assert.is_true(now() - began < 3 * support.slowdown)
  end)

  it("is not held up by idle connections", function()
    local server = start { drain = "10s" }
    local clients = {}
    for i = 1, 8 do
      clients[i] = server:connect()
      clients[i]:request { path = "/" }
    end
    local began = now()
    server:signal "TERM"
    for i = 1, 8 do assert.is_true((clients[i]:closed())) end
    assert.equal(0, expect_end(server).code)
    assert.is_true(now() - began < 2 * support.slowdown)
  end)

  it("is not held up by a connection that has sent nothing", function()
    local server = start { drain = "1s" }
    server:connect()
    server:get("/")
    server:signal "TERM"
    assert.equal(0, expect_end(server, 3).code)
  end)

  it("serves the connections that wait to be accepted", function()
    local server = start { drain = "10s" }
    local pid, clients = server:server_pid(), {}
    server:signal("STOP", pid)
    for i = 1, 8 do
      clients[i] = server:connect()
      clients[i]:send(request_bytes:format("/"))
    end
    server:signal "TERM"
    sleep(0.1)
    server:signal("CONT", pid)
    for i = 1, 8 do
      local response, reason = clients[i]:response()
      assert.equal("one", response and response.body, reason)
    end
    assert.equal(0, expect_end(server).code)
  end)

  it("names what is not done when the drain is over", function()
    local server = start { drain = "300ms" }
    local client, began = begin(server, "/sleep/1"), now()
    server:signal "TERM"
    local status, log = expect_end(server)
    assert.is_true(now() - began < 2 * support.slowdown)
    assert.matches("drain time is over[^\n]*GET /sleep/{id} %(request ", log)
    assert.equal(0, status.code)
    client:close()
  end)

  it("ends at once when it comes again", function()
    local server = start { drain = "10s" }
    begin(server, "/sleep/1")
    server:signal "TERM"
    sleep(0.2)
    local began = now()
    server:signal "TERM"
    assert.equal(0, expect_end(server).code)
    assert.is_true(now() - began < 1 * support.slowdown)
  end)

  it("and SIGINT are the same", function()
    local server = start()
    local client = begin(server, "/nap")
    server:signal "INT"
    assert.equal("napped", client:response().body)
    assert.equal(0, expect_end(server).code)
  end)

  it("runs every stop hook, in each thread", function()
    local server = start { threads = 2 }
    server:signal "TERM"
    local _, log = expect_end(server)
    assert.equal(2, select(2, log:gsub("the first stop hook has run", "")))
    assert.equal(2, select(2, log:gsub("a stop hook that fails", "")))
  end)

  it("waits for background tasks", function()
    local server = start { drain = "10s" }
    assert.equal("soon", server:get("/later").body)
    server:signal "TERM"
    local status, log = expect_end(server)
    contains(log, "the background task is done")
    assert.equal(0, status.code)
  end)
end)

describe("SIGHUP", function()
  local server, dir

  before_each(function()
    dir = support.app(app)
    server = support.start { dir = dir, settings = { drain = "10s" } }
  end)

  after_each(function()
    server:stop()
  end)

  local function reload(text)
    local pid = server:server_pid()
    write(dir, text)
    server:signal "HUP"
    return pid
  end

  local function wait_for_body(text)
    support.eventually(function() return server:get("/").body == text end, 5)
  end

  it("serves the new code", function()
    reload((app:gsub('"one"', '"two"')))
    wait_for_body "two"
    for _ = 1, 20 do assert.equal("two", server:get("/").body) end
  end)

  it("tells how long the new process took to start", function()
    sleep(1)
    reload(app)
    local took = support.eventually(function()
      return server:log():match("listening on .*listening on [^\n]*took_ms=([%d.]+)")
    end, 5)
    assert.is_true(tonumber(took) < 900 * support.slowdown, took)
  end)

  it("lets the old process answer idle connections, and close them", function()
    local client = server:connect()
    client:request { path = "/" }
    reload((app:gsub('"one"', '"two"')))
    wait_for_body "two"
    local response, reason = client:request { path = "/" }
    assert.equal("one", response and response.body, reason)
    assert.equal("close", response.headers.connection)
    assert.is_true((client:closed()))
  end)

  it("lets requests in flight end", function()
    local client = begin(server, "/nap")
    reload((app:gsub('"one"', '"two"')))
    assert.equal("napped", client:response().body)
    wait_for_body "two"
  end)

  it("ends the old process once its connections have gone", function()
    local old = reload(app)
    support.eventually(function() return not process.signal(old, 0) end, 5)
    assert.equal(1, #server:pids())
  end)

  it("of broken code keeps the old one serving and says why", function()
    local old = reload((app:gsub("return app", "error('spoilt')")))
    local line = server:wait_log("[^\n]*spoilt[^\n]*")
    assert.matches("app.lua:%d+: ", line)
    support.eventually(function() return #server:pids() == 1 end)
    assert.equal(old, server:server_pid())
    assert.equal("one", server:get("/").body)
    reload((app:gsub('"one"', '"two"')))
    wait_for_body "two"
  end)

  it("is queued while another is carried out", function()
    local slow = 'app:on_start(function() await(fl.sleep(0.5)) end)\nreturn app\n'
    reload((app:gsub("return app\n$", slow)))
    sleep(0.2)
    reload((app:gsub('"one"', '"three"')))
    wait_for_body "three"
  end)

  it("loses no connection while a client makes one for every request", function()
    local stop, failures, count = now() + 4, {}, 0
    for _ = 1, 20 do
      server:signal "HUP"
      local pause = now() + 0.2
      while now() < pause and now() < stop + 60 do
        local ok, response, reason = pcall(server.request, server, { path = "/" })
        count = count + 1
        if not ok or not response or response.status ~= 200 then
          failures[#failures + 1] = tostring(ok and (reason or response.status) or response)
        end
      end
    end
    assert.same({}, failures, count .. " requests")
  end)
end)

-- One that nobody has waited for yet has ended all the same.
local function is_running(pid)
  local stat = process.read(("/proc/%d/stat"):format(pid))
  return stat ~= nil and not stat:find "%) Z"
end

describe("closing the terminal", function()
  it("ends the server, as it would any program", function()
    local server = support.start { app = app, wait = false, flags = { "--log-format", "text" },
      prefix = { "sh", "-c", [[exec script -qefc "exec $(printf "'%s' " "$@")" /dev/null]], "sh" } }
    server:wait_log "listening on"
    local pid = server:pids()[1]
    process.signal(server.pid, "KILL")
    local has_ended = process.poll(function() return not is_running(pid) end, 5)
    if not has_ended then process.signal(pid, "KILL") end
    server:kill()
    assert.is_truthy(has_ended, "it runs on")
  end)
end)

describe("the death of the supervisor", function()
  it("makes the server process finish what it has, and end", function()
    local server = support.start { app = app, settings = { drain = "5s" } }
    local pid = server:server_pid()
    local client = begin(server, "/nap")
    local idle = server:connect()
    idle:request { path = "/" }
    process.signal(server.pid, "KILL")
    assert.equal("napped", client:response().body)
    local has_ended = process.poll(function() return not is_running(pid) end, 5)
    if not has_ended then process.signal(pid, "KILL") end
    server:kill()
    assert.is_truthy(has_ended, "it runs on")
  end)
end)
