-- What the flags of `fasterlua serve` do to a running server, and how it gets on with a service
-- manager. What they do to the settings is in cli_spec.

local ffi = require "ffi"
local socket = require "socket"
local support = require "support"

local process = support.process

ffi.cdef "int geteuid(void);"
local is_root = ffi.C.geteuid() == 0

local app = [[
local fl = require "fasterlua"
local app = fl.app { title = "command" }

local function status_field(name)
  for line in io.lines "/proc/self/status" do
    local value = line:match("^" .. name .. ":%s*(.*)$")
    if value then return value end
  end
end

local loaded_as = status_field "Uid"

app:get("/", function() return "root" end)
app:get("/url", { name = "here" }, function(req)
  return { path = req.path, url = req.url, url_for = app:url_for("here") }
end)
app:get("/who", function()
  return { loaded = loaded_as, uid = status_field "Uid", gid = status_field "Gid",
    groups = status_field "Groups", capabilities = status_field "CapEff" }
end)
app:get("/environment", function()
  return { tag = os.getenv "TAG" or "none", pid = os.getenv "LISTEN_PID" or "none",
    notify = os.getenv "NOTIFY_SOCKET" or "none", server = os.getenv "FASTERLUA_SERVER" or "none" }
end)

return app
]]

local function mode_of(path)
  local pipe = io.popen("stat -c '%F %a' '" .. path .. "' 2>&1")
  local text = pipe:read "*l"
  pipe:close()
  return text
end

-- For a server that is to end by itself.
local function expect_end(server)
  local status = server:wait_end(5)
  local log = server:log()
  server:kill()
  assert.is_truthy(status, "it does not end; its log:\n" .. log)
  return status, log
end

describe("--uds", function()
  it("serves a socket, which is gone at the end", function()
    local server = support.start { app = app, uds = true }
    assert.matches("^socket ", mode_of(server.uds))
    assert.equal("root", server:get("/").body)
    local path = server.uds
    server:signal "TERM"
    server:wait_end()
    assert.matches("No such file", mode_of(path))
    server:stop()
  end)

  it("takes the place of a socket that nobody listens on", function()
    local dir = support.app("")
    local path = dir .. "/left.sock"
    local left = require("socket.unix").stream()
    assert(left:bind(path))
    left:close()
    local server = support.start { app = app, wait = false, flags = { "--uds", path } }
    server:wait_log("listening on unix:")
    server.uds = path
    assert.equal("root", server:get("/").body)
    server:stop()
  end)

  it("fails the start when another server listens, and leaves it alone", function()
    local first = support.start { app = app, uds = true }
    local second = support.start { app = app, wait = false, flags = { "--uds", first.uds } }
    local status, log = expect_end(second)
    assert.equal(3, status.code)
    assert.is_truthy(log:find(first.uds, 1, true), log)
    assert.equal("root", first:get("/").body)
    first:stop()
  end)

  it("fails the start when there is another file, and leaves it alone", function()
    local dir = support.app("text")
    local server = support.start { app = app, wait = false, flags = { "--uds", dir .. "/app.lua" } }
    local status, log = expect_end(server)
    assert.equal(3, status.code)
    assert.is_truthy(log:find(dir .. "/app.lua", 1, true), log)
    assert.equal("text", process.read(dir .. "/app.lua"))
  end)
end)

describe("an inherited socket", function()
  local listener, port

  before_each(function()
    listener = assert(socket.bind("127.0.0.1", 0))
    port = tonumber((select(2, listener:getsockname())))
  end)

  after_each(function()
    listener:close()
  end)

  local function expect_served(server)
    for _ = 1, 10 do
      local client = support.connect { host = "127.0.0.1", port = port }
      assert.equal("root", client:request({ path = "/" }).body)
      client:close()
    end
    local old = server:server_pid()
    server:signal "HUP"
    support.eventually(function() return server:server_pid() ~= old end, 5)
    local client = support.connect { host = "127.0.0.1", port = port }
    assert.equal("root", client:request({ path = "/" }).body)
    client:close()
  end

  it("is served by --fd, over a reload", function()
    local server = support.start { app = app, pipes = { [7] = listener:getfd() },
      flags = { "--fd", "7" } }
    assert.equal(port, server.port)
    expect_served(server)
    server:stop()
  end)

  it("is served when LISTEN_FDS says so, over a reload", function()
    local server = support.start { app = app, pipes = { [3] = listener:getfd() },
      env = { LISTEN_FDS = 1 }, prefix = { "sh", "-c", 'LISTEN_PID=$$ exec "$@"', "sh" } }
    assert.equal(port, server.port)
    expect_served(server)
    local client = support.connect { host = "127.0.0.1", port = port }
    assert.equal("none", client:request({ path = "/environment" }):json().pid)
    client:close()
    server:stop()
  end)

  it("that is meant for another process is left alone", function()
    local server = support.start { app = app, pipes = { [3] = listener:getfd() },
      env = { LISTEN_FDS = 1, LISTEN_PID = 1 } }
    assert.not_equal(port, server.port)
    server:stop()
  end)

  it("that does not listen fails the start", function()
    local server = support.start { app = app, wait = false, flags = { "--fd", "0" } }
    local status, log = expect_end(server)
    assert.equal(3, status.code)
    assert.matches("descriptor 0", log)
  end)
end)

describe("a service manager", function()
  local manager, path

  before_each(function()
    path = support.app("") .. "/notify.sock"
    manager = require("socket.unix").dgram()
    assert(manager:bind(path))
    manager:settimeout(5 * support.slowdown)
  end)

  after_each(function()
    manager:close()
  end)

  it("is told when the server is ready, reloads and stops", function()
    local server = support.start { app = app, env = { NOTIFY_SOCKET = path } }
    assert.matches("^READY=1", manager:receive())
    assert.equal("none", server:get("/environment"):json().notify)
    server:signal "HUP"
    assert.matches("^RELOADING=1\nMONOTONIC_USEC=%d+", manager:receive())
    assert.matches("^READY=1", manager:receive())
    server:signal "TERM"
    assert.matches("^STOPPING=1", manager:receive())
    server:stop()
  end)

  it("is not told READY by a server that cannot start", function()
    local server = support.start { app = "error 'no'", wait = false,
      env = { NOTIFY_SOCKET = path } }
    assert.equal(3, expect_end(server).code)
    manager:settimeout(0.1)
    local message = manager:receive()
    assert.is_nil(message and message:find("READY=1", 1, true))
  end)

  it("hears that a reload failed, and that the server serves on", function()
    local dir = support.app(app)
    local server = support.start { dir = dir, env = { NOTIFY_SOCKET = path } }
    assert.matches("^READY=1", manager:receive())
    local file = io.open(dir .. "/app.lua", "w")
    file:write("error 'no'")
    file:close()
    server:signal "HUP"
    assert.matches("^RELOADING=1", manager:receive())
    assert.matches("^READY=1\nSTATUS=reload failed", manager:receive())
    server:stop()
  end)
end)

describe("--host", function()
  it("may be an IPv6 address", function()
    local probe = socket.tcp6()
    local has_ipv6 = probe:bind("::1", 0)
    probe:close()
    if not has_ipv6 then return pending("this machine has no IPv6") end
    local server = support.start { app = app, flags = { "--host", "::1" } }
    assert.matches("^http://%[::1%]:%d+$", server.url)
    local client = support.connect { host = "::1", port = server.port }
    assert.equal("root", client:request({ path = "/" }).body)
    client:close()
    server:stop()
  end)

  it("may be a name", function()
    local server = support.start { app = app, flags = { "--host", "localhost" } }
    assert.equal("root", server:get("/").body)
    server:stop()
  end)

  it("that is not this machine's fails the start", function()
    local server = support.start { app = app, wait = false, flags = { "--host", "192.0.2.1" } }
    local status, log = expect_end(server)
    assert.equal(3, status.code)
    assert.is_truthy(log:find("192.0.2.1", 1, true), log)
  end)
end)

describe("--root-path", function()
  it("is in front of the URLs that apps make, but not of the paths that come", function()
    local server = support.start { app = app, flags = { "--root-path", "/api" } }
    local answer = server:get("/url"):json()
    assert.equal("/url", answer.path)
    assert.equal("/api/url", answer.url_for)
    server:stop()
  end)
end)

describe("--user and --group", function()
  local function start(flags)
    local dir = support.app(app)
    os.execute("chmod 755 '" .. dir .. "'")
    return support.start { dir = dir, flags = flags }
  end

  it("are taken on before any code of the apps runs", function()
    if not is_root then return pending("only root can become another user") end
    local server = start { "--user", "nobody" }
    local who = server:get("/who"):json()
    assert.equal("65534\t65534\t65534\t65534", who.loaded)
    assert.equal("65534\t65534\t65534\t65534", who.uid)
    assert.equal("65534\t65534\t65534\t65534", who.gid)
    assert.is_nil(who.groups:find("%f[%d]0%f[%D]"), who.groups)
    assert.matches("^0+$", who.capabilities)
    assert.is_nil(server:log():find("serving as root", 1, true))
    server:stop()
  end)

  it("may differ", function()
    if not is_root then return pending("only root can become another user") end
    local server = start { "--user", "nobody", "--group", "daemon" }
    local who = server:get("/who"):json()
    assert.matches("^65534\t", who.uid)
    assert.matches("^1\t", who.gid)
    server:stop()
  end)

  it("survive a crash and a reload", function()
    if not is_root then return pending("only root can become another user") end
    local server = start { "--user", "nobody" }
    server:signal("KILL", server:server_pid())
    assert.matches("^65534\t", server:get("/who"):json().uid)
    local old = server:server_pid()
    server:signal "HUP"
    support.eventually(function() return server:server_pid() ~= old end, 5)
    assert.matches("^65534\t", server:get("/who"):json().uid)
    server:stop()
  end)

  it("that do not exist fail the start", function()
    local server = support.start { app = app, wait = false, flags = { "--user", "no-such-user" } }
    local status, log = expect_end(server)
    assert.equal(3, status.code)
    assert.is_truthy(log:find("no-such-user", 1, true), log)
  end)

  it("are missed by a warning when root serves", function()
    if not is_root then return pending("only root is warned") end
    local server = support.start { app = app }
    assert.matches("warning: serving as root", server:log())
    server:stop()
  end)
end)

describe("--workers", function()
  it("starts as many server processes; one's death is not the others'", function()
    local server = support.start { app = app, wait = false,
      flags = { "--workers", "2", "--threads", "1", "--admin", "" } }
    server:wait_ready()
    support.eventually(function() return #server:pids() == 2 end)
    for _ = 1, 20 do assert.equal("root", server:get("/").body) end
    local pids = server:pids()
    server:signal("KILL", pids[1])
    for _ = 1, 20 do assert.equal("root", server:get("/").body) end
    support.eventually(function()
      local now = server:pids()
      return #now == 2 and now[1] == pids[2]
    end)
    server:signal "HUP"
    support.eventually(function()
      local now = server:pids()
      return #now == 2 and now[1] ~= pids[2] and now[2] ~= pids[2]
    end, 5)
    for _ = 1, 20 do assert.equal("root", server:get("/").body) end
    server:stop()
  end)
end)

describe("--threads", function()
  it("starts as many web threads", function()
    local server = support.start { app = app, flags = { "--threads", "3" } }
    assert.matches("threads=3", server:log())
    local metrics = server:metrics()
    assert.is_truthy(metrics['fasterlua_connections{thread="2"}'])
    assert.is_nil(metrics['fasterlua_connections{thread="3"}'])
    server:stop()
  end)
end)

describe("the environment", function()
  it("says what flags do not", function()
    local server = support.start { app = app, env = { FASTERLUA_THREADS = 3,
      FASTERLUA_ROOT_PATH = "/api", FASTERLUA_ACCESS_LOG = "on" } }
    assert.equal("/api/url", server:get("/url"):json().url_for)
    server:wait_log("access [^\n]*/url")
    assert.matches("threads=3", server:log())
    server:stop()
  end)

  it("has a twin of every flag", function()
    local _, help = support.command { "serve", "--help" }
    local given = { host = "h", port = 1, uds = "u", workers = 2, threads = 3,
      ["cpu-states"] = 4, ["log-level"] = "warn", ["log-format"] = "json", ["access-log"] = "off",
      ["root-path"] = "/p", ["proxy-headers"] = "on", ["forwarded-allow-ips"] = "10.0.0.1",
      backlog = 5, ["limit-requests"] = 6, user = "x", group = "y", admin = "a/b" }
    local env = {}
    for flag, value in pairs(given) do
      assert.is_truthy(help:find("--" .. flag, 1, true), flag)
      env["FASTERLUA_" .. flag:upper():gsub("-", "_")] = value
    end
    local status, out = support.command({ "config" }, { env = env })
    assert.equal(0, status.code, out)
    local values = loadstring("return {" .. out .. "}")()
    local _, other = support.command({ "config" }, { env = { FASTERLUA_FD = 9 } })
    assert.matches("fd = 9,", other)
    for flag, value in pairs(given) do
      local found = values[(flag:gsub("-", "_"))]
      if type(found) == "boolean" then found = found and "on" or "off" end
      assert.equal(value, found, flag)
    end
  end)

  it("is read anew from its file at a reload", function()
    local dir = support.app { ["app.lua"] = app, [".env"] = "TAG=first\n" }
    local server = support.start { dir = dir, flags = { "--env-file", dir .. "/.env" } }
    assert.equal("first", server:get("/environment"):json().tag)
    local file = io.open(dir .. "/.env", "w")
    file:write("TAG=second\n")
    file:close()
    server:signal "HUP"
    support.eventually(function()
      return server:get("/environment"):json().tag == "second"
    end, 5)
    assert.equal("none", server:get("/environment"):json().server)
    server:stop()
  end)
end)

describe("run", function()
  local function run(text, ...)
    local dir = support.app { ["script.lua"] = text }
    return support.command { "run", dir .. "/script.lua", ... }
  end

  it("runs a script with the framework and its arguments", function()
    local status, output = run([[
print(arg[1], arg[2], ..., require("fasterlua.json").encode({ a = 1 }))
]], "-x", "--help")
    assert.equal(0, status.code)
    assert.equal('-x\t--help\t-x\t{"a":1}\n', output)
  end)

  it("ends with status 1 and a traceback when the script fails", function()
    local status, output = run("local function f()\n  error('broken')\nend\nf()\n")
    assert.equal(1, status.code)
    assert.matches("script.lua:2: broken\nstack traceback:.*script.lua:4", output)
  end)

  it("keeps the status that the script exits with", function()
    assert.equal(7, run("os.exit(7)").code)
  end)
end)
