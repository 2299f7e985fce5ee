-- Looking into a running server: `fasterlua top`, `fasterlua profile` and what they ask.

local ffi = require "ffi"
local evacuation = require "support.evacuation"
local support = require "support"
local xml = require "support.xml"

local process = support.process

ffi.cdef [[
int pipe2(int ends[2], int flags);
long write(int fd, const void *data, size_t size);
int close(int fd);
]]
local O_CLOEXEC = 0x80000
local leisure = math.min(support.slowdown, 2) -- a sanitizer slows down no compiled Lua
local is_late = support.binary:find("/tsan/", 1, true) ~= nil

local app = [[
local ffi = require "ffi"
local fl = require "fasterlua"
local app = fl.app { title = "seen" }
ffi.cdef "long clock(void);"

local function hot_spot(seconds)
  local till, sum = ffi.C.clock() + seconds * 1e6, 0
  while ffi.C.clock() < till do
    for i = 1, 1000 do sum = (sum * 31 + i) % 65521 end
  end
  return sum
end

local function outer(seconds)
  return (hot_spot(seconds))
end

local function loop()
  local x = 0
  while true do x = (x * 31 + 1) % 65521 end
end

app:get("/", function() return "root" end)
app:get("/burn", function() return { outer(0.02) } end)
app:get("/tail", function() return hot_spot(0.02) end)
app:get("/broken", function() error("broken") end)
app:get("/job", function()
  return { fl.await(fl.run_in_state(function(n) return n + 1 end, 1)) }
end)
app:get("/loop", loop)
app:get("/search", function()
  return tostring(("a"):rep(60000):find(("a*"):rep(12) .. "b"))
end)
app:get("/collect", function()
  for _ = 1, 200 do
    local list = {}
    for i = 1, 1000 do list[i] = { i } end
  end
  return "collected"
end)
app:get("/own", function()
  require("jit.profile").start("i1000", function() end)
  return "started"
end)

return app
]]

-- A client that asks for one path again and again until it is stopped.
local function load(server, path, name)
  local script = ("while :; do curl -s -o /dev/null http://127.0.0.1:%d%s || sleep 0.01; done")
    :format(server.port, path)
  return process.spawn { argv = { "sh", "-c", script }, output = server.dir .. "/" ..
    (name or "load") }
end

local function unload(pid)
  process.signal(pid, "KILL")
  process.wait(pid, 5)
end

local function ask(server, target, headers, method)
  local client = support.connect { uds = server.dir .. "/admin.sock" }
  client:send(("%s %s HTTP/1.1\r\nHost: a\r\n%s\r\n"):format(method or "POST", target,
    headers or "X-Requested-With: test\r\n"))
  return client
end

local function profile(server, query)
  local client = ask(server, "/profile?" .. query)
  local answer = client:response { timeout = 20 * support.slowdown }
  client:close()
  return answer
end

local function fasterlua(server, words, options)
  options = options or {}
  options.timeout = options.timeout or 20
  table.insert(words, 2, server.dir .. "/admin.sock")
  return support.command(words, options)
end

-- Samples by stack.
local function stacks_of(folded)
  local stacks, total = {}, 0
  for stack, count in folded:gmatch("([^\n#][^\n]*) (%d+)\n") do
    stacks[stack] = tonumber(count)
    total = total + tonumber(count)
  end
  return stacks, total
end

-- Samples of stacks that a pattern is found in.
local function samples_of(stacks, pattern)
  local count = 0
  for stack, samples in pairs(stacks) do
    count = count + (stack:find(pattern) and samples or 0)
  end
  return count
end

-- `fasterlua top` in a terminal of its own, which `script` makes, of 90 columns and 20 rows.
local terminal, screens = {}, 0
terminal.__index = terminal

local function open_terminal(server)
  screens = screens + 1
  local self = setmetatable({ path = ("%s/screen-%d"):format(server.dir, screens) }, terminal)
  local command = ("stty rows 20 cols 90; tty >'%s.tty'; echo $$ >'%s.pid'; '%s' top "
    .. "'%s/admin.sock' --interval 0.2; echo \"status=$?\"; stty -a"):format(self.path, self.path,
    support.binary, server.dir)
  local ends = ffi.new("int[2]")
  assert(ffi.C.pipe2(ends, O_CLOEXEC) == 0)
  self.keys = ends[1]
  self.pid = process.spawn { argv = { "script", "-qec", command, "/dev/null" }, output = self.path,
    env = { TERM = "xterm", SHELL = "/bin/sh" }, pipes = { [0] = ends[0] } }
  ffi.C.close(ends[0])
  return self
end

function terminal:text()
  return process.read(self.path) or ""
end

-- Waits for a Lua pattern.
function terminal:shows(pattern)
  local found = process.poll(function() return self:text():find(pattern) end,
    10 * support.slowdown)
  assert(found, pattern .. " does not come up in\n" .. self:text())
end

function terminal:type(keys)
  assert.equal(#keys, tonumber(ffi.C.write(self.keys, keys, #keys)))
end

function terminal:tty()
  return process.read(self.path .. ".tty"):match("%S+")
end

function terminal:top_pid()
  return process.children(tonumber(process.read(self.path .. ".pid")))[1]
end

-- Waits for its end; what was on the screen.
function terminal:check_restored()
  self:shows "\27%[%?1049l.*status=0.* icanon"
  ffi.C.close(self.keys)
  assert.truthy(process.wait(self.pid, 10 * support.slowdown), "it does not end")
  local shown, after = self:text():match("\27%[%?1049h(.*)\27%[%?1049l(.*)$")
  assert.matches("\27%[%?25h", shown)
  assert.matches(" echo ", after)
  return shown
end

-- Pools start threads when they get jobs, which stay.
support.describe_server("top of a running server", { app = app, leaks = false,
  settings = { threads = 2, cpu_states = 2 } }, function(get_server)
  it("prints once what the server does", function()
    local server = get_server()
    server:get("/broken")
    local pid, jobs = load(server, "/burn"), load(server, "/job", "jobs")
    local status, output = fasterlua(server, { "top", "--once" })
    unload(pid)
    unload(jobs)
    assert.equal(0, status.code, output)
    assert.matches("^fasterlua %d+%.%d+%.%d+ at " .. server.dir:gsub("%p", "%%%0"), output)
    assert.matches("\nLOOP +REQ/S", output)
    assert.matches("\n1 +%d", output)
    assert.matches("\n[^\n]+  GET /burn +[%d.]+ +%d+ ms +%d+ ms +0%.0 +%d+\n", output)
    assert.matches("\n[^\n]+  GET /broken +0%.0 +%- +%- +0%.0 +1\n", output)
    assert.matches("\ncpu +[12] +[0-2] +%d +0 +[%d.]+"
      .. (" +[%d.]+ [um]s"):rep(4) .. "\n", output)
    assert.is_nil(output:find("\27", 1, true))
    local rate = tonumber(output:match("GET /burn +([%d.]+)"))
    assert.is_true(rate > 0, output)
  end)

  it("takes the address from the settings", function()
    local server = get_server()
    local status, output = support.command({ "top", "--interval", "0.1" },
      { env = { FASTERLUA_ADMIN = server.dir .. "/admin.sock" } })
    assert.equal(0, status.code, output)
    assert.matches("^fasterlua ", output)
  end)

  it("is left with q, and leaves the terminal as it was", function()
    local server = get_server()
    server:get("/")
    local screen = open_terminal(server)
    screen:shows "ROUTE, by requests"
    screen:type "p"
    screen:shows "ROUTE, by p99"
    screen:type "q"
    assert.matches("GET / ", screen:check_restored())
  end)

  it("is left with Ctrl-C", function()
    local screen = open_terminal(get_server())
    screen:shows "LOOP"
    screen:type "\3"
    screen:check_restored()
  end)

  it("leaves the terminal as it was after SIGTERM", function()
    local screen = open_terminal(get_server())
    screen:shows "LOOP"
    process.signal(screen:top_pid(), "TERM")
    screen:check_restored()
  end)

  it("adapts to another size of the terminal", function()
    local screen = open_terminal(get_server())
    screen:shows "LOOP"
    local many = ("\27%[K\r\n"):rep(16) -- empty lines, which 20 rows cannot hold
    assert.is_nil(screen:text():find(many))
    os.execute(("stty rows 50 cols 60 <%s"):format(screen:tty()))
    screen:shows(many)
    screen:type "q"
    screen:check_restored()
  end)
end)

describe("top", function()
  it("says what is wrong with its address", function()
    local status, output = support.command { "top", "127.0.0.1:1" }
    assert.equal(1, status.code)
    assert.matches("no answer at 127%.0%.0%.1:1: connection refused\n.*serve %-%-admin ADDRESS",
      output)
    status, output = support.command { "top", "/nowhere/at/all.sock", "--once" }
    assert.equal(1, status.code)
    assert.matches("/nowhere/at/all%.sock: no such file", output)
    status, output = support.command { "top", "nonsense" }
    assert.equal(2, status.code)
    assert.matches("ADDRESS expects HOST:PORT or a socket's path with a slash, got 'nonsense'",
      output)
    status, output = support.command { "top" }
    assert.equal(2, status.code)
    assert.matches("no address: start the server with `fasterlua serve %-%-admin ADDRESS`", output)
    status, output = support.command { "top", "--interval", "0" }
    assert.equal(2, status.code)
    assert.matches("expected seconds from 0.1 to 60, or a time as 500ms, got '0'", output)
  end)

  it("goes on while the server is replaced, and says so", function()
    local server = support.start { app = app }
    local screen = open_terminal(server)
    screen:shows "LOOP"
    process.sleep(1.1) -- the start's time has whole seconds
    server:signal "HUP"
    screen:shows "the server was started anew at %d%d:%d%d:%d%d"
    server:signal "TERM"
    screen:shows "no answer: [^\n]*, for 0m %d+s"
    screen:type "q"
    screen:check_restored()
    server:stop()
  end)
end)

-- The first slow handler starts a spare thread, which stays: no handler is slow here.
support.describe_server("a profile",
  { app = app, settings = { threads = 2, slow_handler = "20s" } },
  function(get_server)
    local loads

    before_each(function() loads = {} end)

    after_each(function()
      for _, pid in ipairs(loads) do unload(pid) end
    end)

    local function busy(path)
      loads[#loads + 1] = load(get_server(), path)
      get_server():get(path)
    end

    it("draws where the time is spent", function()
      local server = get_server()
      busy "/burn"
      local file = server.dir .. "/profile.svg"
      local status, output = fasterlua(server, { "profile", "--output", file,
        "--seconds", tostring(1.5 * leisure) })
      assert.equal(0, status.code, output)
      assert.matches("web thread %d: [%d.]+ s, %d+ samples", output)
      local svg = process.read(file)
      assert.matches("^<%?xml", svg)
      local count, total = svg:match(
        "<title>hot_spot app%.lua:6\n(%d+) of (%d+) samples, [%d.]+ %%</title>")
      assert.truthy(count, svg)
      assert.is_true(tonumber(total) >= 10, total)
      assert.is_true(tonumber(count) > tonumber(total) / 2, count .. " of " .. total)
      assert.equal("svg", xml.parse(svg)[1].name)
    end)

    it("writes folded stacks, by route and function", function()
      local server = get_server()
      busy "/burn"
      local status, output = fasterlua(server, { "profile", "--seconds", "1", "--folded" })
      assert.equal(0, status.code, output)
      local stacks, total = stacks_of(output)
      local stack = "^GET /burn;app%.lua:%d+;outer app%.lua:14;hot_spot app%.lua:6"
      assert.is_true(samples_of(stacks, stack) > total / 2, output)
    end)

    it("names a function by its definition when a tail call hides it", function()
      busy "/tail"
      local answer = profile(get_server(), "seconds=1")
      assert.equal(200, answer.status, answer.body)
      local stacks, total = stacks_of(answer.body)
      assert.is_true(samples_of(stacks, "^GET /tail;hot_spot app%.lua:6") > total / 2, answer.body)
    end)

    it("tells collecting from running", function()
      if is_late then return pending("ThreadSanitizer delivers signals late") end
      busy "/collect"
      local answer = profile(get_server(), "seconds=1.5")
      assert.equal(200, answer.status, answer.body)
      local collecting = tonumber(answer.body:match(" collecting=(%d+)"))
      local stacks = stacks_of(answer.body)
      assert.equal(collecting, samples_of(stacks, "%[garbage collection%]$"))
      assert.is_true(collecting > 0, answer.body)
    end)

    it("lets requests be served meanwhile", function()
      local server = get_server()
      local client = ask(server, "/profile?seconds=1")
      local began = process.now()
      for _ = 1, 20 do
        assert.equal("root", server:get("/").body)
      end
      assert.is_true(process.now() - began < 0.9 * support.slowdown)
      assert.equal(200, client:response { timeout = 10 * support.slowdown }.status)
      client:close()
    end)

    it("takes one at a time", function()
      local server = get_server()
      local client = ask(server, "/profile?seconds=1")
      support.eventually(function() return profile(server, "seconds=0.1").status == 409 end)
      local status, output = fasterlua(server, { "profile", "--seconds", "1" })
      assert.equal(1, status.code)
      assert.matches("a profile is being taken already", output)
      assert.equal(200, client:response { timeout = 10 * support.slowdown }.status)
      client:close()
      assert.equal(200, profile(server, "seconds=0.1").status)
    end)

    it("ends when the one who asked leaves", function()
      local server = get_server()
      local client = ask(server, "/profile?seconds=300")
      support.eventually(function() return profile(server, "seconds=0.1").status == 409 end)
      client:close()
      support.eventually(function() return profile(server, "seconds=0.1").status == 200 end, 5)
    end)

    it("looks at the thread that it is told", function()
      local server = get_server()
      for thread = 0, 1 do
        local answer = profile(server, "seconds=0.1&thread=" .. thread)
        assert.matches("^# app=%S+ thread=" .. thread .. " ", answer.body)
      end
      assert.equal(404, profile(server, "seconds=0.1&thread=2").status)
    end)

    it("refuses what is wrong, and says so", function()
      local server = get_server()
      for query, message in pairs {
        ["seconds=0.01"] = "seconds=0.01: expected a number from 0.1 to 300",
        ["seconds=301"] = "seconds=301: expected a number from 0.1 to 300",
        ["interval=0"] = "interval=0: expected a whole number of milliseconds from 1 to 1000",
        ["minutes=1"] = "minutes: expected seconds, app, thread or interval",
      } do
        local answer = profile(server, query)
        assert.equal(400, answer.status)
        assert.equal(message, answer.body)
      end
      local answer = profile(server, "app=other")
      assert.equal(404, answer.status)
      assert.matches('no app "other" here, but fasterlua%-test', answer.body)
      local status, output = support.command { "profile", "a:1", "--seconds", "1000" }
      assert.equal(2, status.code)
      assert.matches("expected seconds from 0.1 to 300, or a time as 500ms, got '1000'", output)
    end)

    it("is no page's to ask for", function()
      local client = ask(get_server(), "/profile?seconds=0.1", "")
      assert.equal(403, client:response().status)
      client:close()
      client = ask(get_server(), "/profile?seconds=0.1", nil, "GET")
      assert.equal(405, client:response().status)
      client:close()
    end)

    it("of an idle server says that there is nothing", function()
      local status, output = fasterlua(get_server(), { "profile", "--seconds", "0.1", "--output",
        "-" })
      assert.equal(1, status.code, output)
      assert.matches("nothing to show: web thread %d has used no processor time in 0%.1 s", output)
    end)
  end)

local stuck = evacuation.limit(300)

describe("profile", function()
  it("asks which app when there are several", function()
    local server = support.start { dir = support.app { ["one/app.lua"] = app,
      ["two/app.lua"] = app }, settings = { threads = 1 } }
    local answer = profile(server, "seconds=0.1")
    assert.equal(400, answer.status)
    assert.equal("which app? There are one, two", answer.body)
    local pid = load(server, "/two/burn")
    answer = profile(server, "seconds=1&app=one")
    local stacks, total = stacks_of(answer.body)
    assert.is_true(stacks["[other apps]"] > total / 2, answer.body)
    local _, output = fasterlua(server, { "profile", "--state", "two:0", "--seconds", "1",
      "--folded" })
    unload(pid)
    stacks, total = stacks_of(output)
    assert.is_true(samples_of(stacks, "^GET /two/burn;.*;hot_spot app%.lua:6") > total / 2, output)
    server:stop()
  end)

  it("does not hide that an app profiles itself", function()
    local server = support.start { app = app, settings = { threads = 1 } }
    assert.equal("started", server:get("/own").body)
    local answer = profile(server, "seconds=0.1")
    assert.equal(409, answer.status)
    assert.matches("jit%.profile", answer.body)
    assert.equal("root", server:get("/").body)
    server:stop()
  end)

  it("sees what a stuck handler does, which is stopped all the same", function()
    if is_late then return pending("ThreadSanitizer delivers signals late") end
    local server = support.start { app = app, settings = { threads = 1, stuck_handler = stuck } }
    local client = ask(server, "/profile?seconds=" .. 2 * leisure)
    process.sleep(0.2)
    server:get("/loop")
    local answer = client:response { timeout = 20 * support.slowdown }
    client:close()
    assert.equal(200, answer.status)
    local stacks = stacks_of(answer.body)
    assert.is_true(samples_of(stacks, "^GET /loop;loop app%.lua:18") > 5, answer.body)
    assert.equal("root", server:get("/").body)
    server:kill()
  end)

  it("of a state that is given up tells what was seen, and others are refused", function()
    local server = support.start { app = app, settings = { threads = 1, stuck_handler = stuck } }
    for _ = 1, 3 do server:get("/burn") end
    local client = ask(server, "/profile?seconds=100")
    process.sleep(0.2)
    for _ = 1, 10 do server:get("/burn") end
    assert.equal(503, server:get("/search").status)
    local answer = client:response { timeout = 20 * support.slowdown }
    client:close()
    assert.equal(200, answer.status)
    assert.matches("^#[^\n]* note=the state was given up: a handler was stuck\n", answer.body)
    assert.is_true(samples_of(stacks_of(answer.body), "hot_spot") > 0, answer.body)
    assert.equal(1, server:metrics().fasterlua_evacuations_total)
    answer = profile(server, "seconds=0.1")
    assert.equal(409, answer.status)
    assert.matches("reload the server", answer.body)
    assert.equal("root", server:get("/").body)
    server:kill()
  end)

  it("follows a state to another thread", function()
    local server = support.start { dir = support.app { ["one/app.lua"] = app,
      ["two/app.lua"] = app }, settings = { threads = 1, stuck_handler = stuck } }
    local client = ask(server, "/profile?app=one&seconds=4")
    process.sleep(0.1)
    assert.equal(503, server:get("/two/search").status)
    local pid = load(server, "/one/burn")
    local answer = client:response { timeout = 30 * support.slowdown }
    unload(pid)
    client:close()
    assert.equal(200, answer.status)
    assert.is_true(samples_of(stacks_of(answer.body), "^GET /one/burn;.*hot_spot") > 0, answer.body)
    assert.equal(200, profile(server, "app=one&seconds=0.1").status)
    server:kill()
  end)

  it("ends with the server", function()
    local server = support.start { app = app, settings = { threads = 1 } }
    local client = ask(server, "/profile?seconds=300")
    process.sleep(0.2)
    client:send "GET /nothing HTTP/1.1\r\nHost: a\r\n\r\n" -- what comes meanwhile is not read
    assert.is_nil(client:response { timeout = 0.3 })
    server:stop()
    client:close()
  end)
end)
