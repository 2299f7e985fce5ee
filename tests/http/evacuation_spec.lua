-- What the server does about a handler that cannot be stopped, and when: interruptions, evacuations
-- one after the other, spare threads, processes replaced, routes exiled. What becomes of everybody
-- else is in evacuation_moves_spec; how soon, and what many cost, in evacuation_load_spec.

local support = require "support"
local evacuation = require "support.evacuation"
local leak = require "support.leak"

local process = support.process
local now, sleep = process.now, process.sleep
local limit, serve, head, begin = evacuation.limit, evacuation.serve, evacuation.head,
  evacuation.begin
local stick, expect, time_of = evacuation.stick, evacuation.expect, evacuation.time_of
local count_lines = evacuation.count_lines
local wait_evacuations, wait_joined = evacuation.wait_evacuations, evacuation.wait_joined
local culprit, neighbour = evacuation.culprit, evacuation.neighbour
local IS_SANITIZED = support.slowdown > 1

describe("an interruption", function()
  it("is counted, answers 503 and cancels nobody else's request in that state", function()
    local server = serve()
    local waiting = begin(server, "/a/wait", "POST")
    local stream = begin(server, "/b/stream")
    for _, path in ipairs { "/a/bound", "/a/pcall", "/a/interpreted" } do
      expect(begin(server, path), 503)
    end
    expect(waiting, 200, "waited")
    expect(stream, 200)
    support.eventually(function()
      return server:metrics().fasterlua_interruptions_total == 3
    end)
    assert.equal(0, server:metrics().fasterlua_evacuations_total)
    server:stop()
  end)
end)

describe("errors of a handler", function()
  it("are 500, not evacuations: endless recursion, and memory that is eaten", function()
    local server = serve { lua_memory = "32MB", stuck_handler = "20s" }
    for _ = 1, 3 do
      assert.equal(500, server:get("/a/recurse").status)
      assert.equal(500, server:get("/a/eat").status)
    end
    assert.equal("a", server:get("/a/").body)
    assert.is_nil(server:log():find("stuck handler", 1, true))
    server:stop()
  end)
end)

describe("a stop", function()
  it("while a thread is stuck waits for the evacuation, and for what it saves", function()
    local server = serve { drain = "8s" }
    local slow, stuck = begin(server, "/b/sleep/2000"), begin(server, "/a/spin")
    sleep(0.05)
    server:signal "TERM"
    expect(stuck, 503)
    assert.equal("close", expect(slow, 200, "slept").headers.connection)
    assert.equal(0, server:wait_end().code)
    assert.is_nil(server:log():find("dropped", 1, true))
    server:stop()
  end)

  it("goes on across an evacuation", function()
    local server = serve { drain = "8s" }
    local slow, stuck = begin(server, "/b/sleep/1500"), begin(server, "/a/later")
    local waiting = begin(server, "/a/wait")
    sleep(0.1)
    server:signal "TERM"
    expect(stuck, 503)
    expect(waiting, 200)
    expect(slow, 200, "slept")
    assert.equal(0, server:wait_end().code)
    server:wait_log "evacuated"
    assert.is_nil(server:log():find("dropped", 1, true))
    server:stop()
  end)
end)

describe("two threads", function()
  it("are both evacuated when both are stuck, one after the other", function()
    local server = serve { threads = 2 }
    local clients, stuck = {}, {}
    for i = 1, 40 do
      clients[i] = server:connect()
      assert.equal("b", clients[i]:request({ path = "/b/" }).body)
    end
    -- One is handed to the thread that is not in Lua.
    stuck[1] = begin(server, "/a/spin")
    server:wait_log("slow handler[^\n]*web thread")
    stuck[2] = begin(server, "/a/spin")
    sleep(0.02)
    for i = 1, 40 do clients[i]:send(head("/b/count")) end
    expect(stuck[1], 503)
    expect(stuck[2], 503)
    for i = 1, 40 do expect(clients[i], 200) end
    server:wait_log "evacuated web thread 0"
    server:wait_log "evacuated web thread 1"
    server:stop()
  end)

  it("accept for each other while one is stuck, and each for itself afterwards", function()
    local server = serve { threads = 2, stuck_handler = limit(400) }
    assert.equal("b", server:get("/b/").body)
    local descriptors, fds = server:fds()
    local stuck = begin(server, "/a/spin/900")
    server:wait_log("slow handler")
    sleep(0.05)
    local began = now()
    for _ = 1, 40 do assert.equal("b", server:get("/b/").body) end
    local took = now() - began
    wait_evacuations(server, 1)
    expect(stuck, 503)
    assert.is_true(took < 0.3 * support.slowdown, ("%.0f ms"):format(took * 1000))
    for _ = 1, 40 do assert.equal("b", server:get("/b/").body) end
    support.eventually(function()
      local _, left = server:fds()
      return left <= fds + leak.of_a_loop(descriptors) + 1 -- and the stuck client's
    end)
    server:stop()
  end)
end)

describe("a spare thread", function()
  local function marked(code)
    return culprit:gsub("return app\n$", function() return code .. "\nreturn app\n" end)
  end

  -- `loads`: how often the app has been loaded before.
  local function counted(dir, code)
    return ([[
local path = %q
local file = io.open(path)
local loads = file and tonumber(file:read("*a")) or 0
if file then file:close() end
file = io.open(path, "w")
file:write(loads + 1)
file:close()
]]):format(dir .. "/loads") .. code
  end

  it("whose app fails to load has the process replaced", function()
    local dir = process.temporary_directory()
    local server = serve(nil, { a = marked(counted(dir, [[
if loads == 1 then error("the spare's app cannot be loaded") end
]])) })
    local old = server:server_pid()
    local stuck = begin(server, "/a/loop")
    server:wait_log("a spare state cannot be made: [^\n]*the spare's app cannot be loaded")
    server:wait_log("server process is stuck")
    server:wait_log("new server process serves", 10)
    support.eventually(function() return not process.signal(old, 0) end, 10)
    assert.equal("b", server:get("/b/").body)
    assert.is_nil(server:log():find("evacuated", 1, true))
    stuck:close()
    server:stop()
    process.remove_directory(dir)
  end)

  it("is waited for while its start hooks run", function()
    local server = serve(nil, { a = marked([[
app:on_start(function() await(fl.sleep(1)) app.state.hooked = "hooked" end)
app:get("/hooked", function() return app.state.hooked end)
]]) })
    local client = server:connect()
    client:send(head("/b/"))
    expect(client, 200, "b")
    expect(begin(server, "/a/loop"), 503)
    client:send(head("/a/hooked"))
    expect(client, 200, "hooked")
    server:wait_log "evacuated"
    server:kill()
  end)

  -- The culprit ends by itself before more can be done about it than to interrupt it.
  it("that computes in another app's start hooks takes nobody's place meanwhile", function()
    local dir = process.temporary_directory()
    local server = serve(nil, { b = (counted(dir, neighbour):gsub("return app\n$", [[
app:on_start(function() while loads == 1 do end end)
return app
]])) })
    assert.equal("spun", server:get("/a/spin/150").body) -- the spare has a state of `a` from now on
    sleep(0.2)
    assert.equal("busy", server:get("/b/busy/150").body)
    support.eventually(function() return process.read(dir .. "/loads") == "2" end)
    sleep(0.1)
    local stuck = begin(server, "/a/spin/400")
    support.eventually(function() return count_lines(server, "slow handler") == 3 end)
    local client = begin(server, "/b/")
    expect(client, 200, "b", { timeout = 15 * support.slowdown })
    expect(stuck, 503) -- once it has looked up
    assert.is_nil(server:log():find("evacuated", 1, true))
    server:kill()
    process.remove_directory(dir)
  end)

  it("is as impatient in its new place, though another app's start hooks still end", function()
    local dir = process.temporary_directory()
    local server = serve(nil, { b = (counted(dir, neighbour):gsub("return app\n$", [[
app:on_start(function()
  fl.shield(function() for _ = 1, loads * 40 do pcall(await, fl.sleep(0.1)) end end)
end)
return app
]])) })
    assert.equal("busy", server:get("/b/busy/150").body)
    support.eventually(function() return process.read(dir .. "/loads") == "2" end)
    expect(stick(server), 503)
    expect(stick(server), 503)
    assert.equal("b", server:get("/b/").body)
    server:kill()
    process.remove_directory(dir)
  end)

  it("that cannot be started leaves nothing behind, and comes when it can", function()
    if IS_SANITIZED then return pending("a sanitizer's address space has no bounds") end
    local server = serve { stuck_handler = limit(400) }
    local function bound(bytes)
      assert.equal(0, os.execute(("prlimit --pid %d --as=%s:"):format(server:server_pid(), bytes)))
    end
    local status = process.read(("/proc/%d/status"):format(server:server_pid()))
    local size = tonumber(status:match "VmSize:%s+(%d+)")
    bound(size * 1024 + 6 * 2 ^ 20) -- no room for a thread's stack
    expect(begin(server, "/a/read"), 503)
    assert.equal("spun", server:get("/a/spin/100").body)
    assert.equal(0, server:metrics().fasterlua_spare_threads)
    local _, before = server:fds()
    for _ = 1, 3 do assert.equal("spun", server:get("/a/spin/150").body) end
    support.eventually(function()
      local _, fds = server:fds()
      return fds <= before
    end, 1)
    bound "unlimited"
    assert.equal("spun", server:get("/a/spin/150").body)
    support.eventually(function() return server:metrics().fasterlua_spare_threads == 1 end, 1)
    server:kill()
  end)

  it("whose start hooks do not end does not keep the server from stopping", function()
    local dir = process.temporary_directory()
    local server = serve({ stuck_handler = "20s" }, { a = marked(counted(dir, [[
app:on_start(function() while loads == 1 do await(fl.sleep(10)) end end)
]])) })
    assert.equal("spun", server:get("/a/spin/200").body)
    support.eventually(function() return process.read(dir .. "/loads") == "2" end)
    server:signal "TERM"
    assert.equal(0, server:wait_end().code)
    assert.is_nil(server:log():find("killed", 1, true), server:log())
    server:stop()
    process.remove_directory(dir)
  end)

  it("whose start hooks compute for ever does not either", function()
    local dir = process.temporary_directory()
    local server = serve({ stuck_handler = "20s" }, { a = marked(counted(dir, [[
app:on_start(function() while loads == 1 do end end)
]])) })
    assert.equal("spun", server:get("/a/spin/200").body)
    support.eventually(function() return process.read(dir .. "/loads") == "2" end)
    server:signal "TERM"
    assert.equal(0, server:wait_end().code)
    assert.is_nil(server:log():find("killed", 1, true), server:log())
    server:stop()
    process.remove_directory(dir)
  end)
end)

describe("loading", function()
  it("may compute for as long as it likes, at the start and in a handler's place", function()
    local compute = "local till = os.clock() + 0.6\nwhile os.clock() < till do end\n"
    local server = serve(nil, { a = compute .. culprit })
    assert.equal("a", server:get("/a/").body)
    assert.is_nil(server:log():find("stuck handler", 1, true))
    expect(begin(server, "/a/loop"), 503) -- when a fresh state has been loaded
    assert.equal("a", server:get("/a/").body)
    assert.equal(1, count_lines(server, "stuck handler on"))
    server:kill()
  end)
end)

describe("a process that was stopped", function()
  it("stops no handler when it goes on", function()
    local server = serve()
    local client = begin(server, "/a/spin/150")
    sleep(0.05)
    server:signal("STOP", server:server_pid())
    sleep(1.5)
    server:signal("CONT", server:server_pid())
    expect(client, 200, "spun")
    assert.is_nil(server:log():find("stuck handler", 1, true))
    server:stop()
  end)

  it("is let alone while a debugger looks at it", function()
    local server = serve { slow_handler = "20s" }
    local text = ([[
      local ffi = require "ffi"
      ffi.cdef "long ptrace(int request, int pid, void *address, void *data); int pause(void);"
      local seize = 0x4206
      io.write(ffi.C.ptrace(seize, %d, nil, nil) == 0 and "attached" or "refused")
      io.flush()
      ffi.C.pause()
    ]]):format(server:server_pid())
    local debugger = process.spawn { argv = { "luajit", "-e", text },
      output = server.dir .. "/debugger" }
    support.eventually(function() return (process.read(server.dir .. "/debugger") or "") ~= "" end)
    local attached = process.read(server.dir .. "/debugger") == "attached"
    if attached then expect(begin(server, "/a/spin"), 200, "too late") end
    process.signal(debugger, "KILL")
    process.wait(debugger, 5)
    if attached then
      assert.is_nil(server:log():find("stuck handler", 1, true))
      expect(stick(server), 503)
    end
    server:stop()
    if not attached then return pending("nobody may debug here") end
  end)
end)

describe("a route that caused an evacuation", function()
  it("runs in the cpu pool for a while, on another thread, and comes home", function()
    local server = serve { exile = "1500ms" }
    local function thread(path) return server:get(path).body end
    local home = thread "/b/thread"
    assert.equal(home, thread "/a/thread")
    expect(stick(server, "/a/thread?spin=yes"), 503)
    local began = now()
    local new = thread "/b/thread"
    assert.not_equal(home, new)
    local exile = thread "/a/thread"
    assert.not_equal(new, exile)
    assert.not_equal(home, exile)
    assert.equal(new, thread "/b/thread")
    assert.equal("a", thread "/a/")
    -- Stuck there, it costs nobody anything.
    local stuck = begin(server, "/a/thread?spin=yes")
    for _ = 1, 20 do assert.equal("b", server:get("/b/").body) end
    expect(stuck, 200)
    support.eventually(function() return thread "/a/thread" == new end, 5)
    assert.is_true(now() - began > 1.3)
    assert.equal(1, server:metrics().fasterlua_evacuations_total)
    server:stop()
  end)
end)

describe("a thread that was given up", function()
  it("may go on reading its request, whose client has left, until it needs more", function()
    local server = serve()
    local client = server:connect()
    client:send("GET /a/afterwards?x=1 HTTP/1.1\r\nHost: a\r\nX-Sent: yes\r\n\r\n")
    expect(client, 503)
    client:close()
    wait_evacuations(server, 1)
    wait_joined(server)
    assert.equal("b", server:get("/b/").body)
    assert.is_nil(server:log():find("the culprit went on", 1, true))
    assert.is_nil(server:log():find("unhandled error", 1, true))
    server:stop()
  end)

  it("is joined when it ends by itself, and counted until then", function()
    local server = serve()
    expect(stick(server), 503)
    assert.equal(1, server:metrics().fasterlua_retired_threads)
    wait_joined(server)
    assert.equal(1, server:metrics().fasterlua_evacuations_total)
    assert.is_nil(server:log():find("server process is stuck", 1, true))
    server:stop()
  end)

  it("has the process replaced when it still runs after 5 s", function()
    local server = serve { threads = 2 }
    local old = server:server_pid()
    expect(begin(server, "/a/read"), 503)
    wait_evacuations(server, 1)
    local evacuated = time_of(server:wait_log("[^\n]*evacuated[^\n]*"))
    local replaced = time_of(server:wait_log("[^\n]*server process is stuck[^\n]*", 10))
    assert.is_true(replaced - evacuated > 4.9 and replaced - evacuated < 5 + support.slowdown)
    server:wait_log("new server process serves")
    support.eventually(function() return not process.signal(old, 0) end, 10)
    assert.equal("b", server:get("/b/").body)
    server:stop()
  end)

  it("has the process replaced at once when as many as half the cores do", function()
    local server = serve()
    local old = server:server_pid()
    for _ = 1, 2 do expect(begin(server, "/a/read"), 503) end
    server:wait_log("server process is stuck", 2)
    support.eventually(function() return not process.signal(old, 0) end, 10)
    assert.equal("b", server:get("/b/").body)
    server:stop()
  end)

  it("has the process replaced no more than once in a minute", function()
    local server = serve()
    for _ = 1, 2 do expect(begin(server, "/a/read"), 503) end
    server:wait_log("new server process serves", 10)
    local new = server:server_pid()
    support.eventually(function() return #server:pids() == 1 end, 10)
    for _ = 1, 2 do expect(begin(server, "/a/read"), 503) end
    support.eventually(function() return count_lines(server, "server process is stuck") == 2 end)
    sleep(3)
    assert.same({ new }, server:pids())
    assert.equal("b", server:get("/b/").body)
    server:kill()
  end)
end)

describe("a server on one socket for all threads", function()
  it("accepts after an evacuation as before", function()
    local server = support.start { uds = true, env = { TSAN_OPTIONS = "report_thread_leaks=0" },
      app = { ["a/app.lua"] = culprit, ["b/app.lua"] = neighbour }, settings = { threads = 2,
        stuck_handler = limit(200), slow_handler = "50ms", exile = 0 } }
    for count = 1, 2 do
      expect(stick(server), 503)
      for _ = 1, 20 do assert.equal("b", server:get("/b/").body) end
      wait_evacuations(server, count)
    end
    server:stop()
  end)
end)

describe("a route that no pool can run", function()
  local app = [[
local ffi = require "ffi"
local fl = require "fasterlua"
local app = fl.app { title = "homebound" }

ffi.cdef "typedef struct { long seconds, nanoseconds; } h_time;"
ffi.cdef "int clock_gettime(int clock, h_time *time);"
local time = ffi.new("h_time")
local function spin(seconds) -- compiled, so that nothing can interrupt it
  local function cpu()
    ffi.C.clock_gettime(3, time)
    return tonumber(time.seconds) + tonumber(time.nanoseconds) / 1e9
  end
  local till = cpu() + seconds
  while cpu() < till do end
end
for _ = 1, 100 do spin(0.00001) end

app:get("/stream", function(req)
  if req.query.spin then spin(0.5) end
  return fl.stream(function(write) write "streamed by " write(fl.here().pool or "a web thread") end)
end)
app:get("/call", function(req)
  if req.query.spin then spin(0.5) end
  return fl.await(fl.run_in_state(function() return "called" end))
end)
local side = fl.state_pool { name = "side", size = 1 }
app:get("/through", function(req)
  if req.query.spin then spin(0.5) end
  return fl.await(side:run(function()
    local there = require "fasterlua"
    return there.await(there.run_in_state(function() return "called" end))
  end))
end)
app:get("/try", function(req)
  if req.query.spin then spin(0.5) end
  local ok, result = pcall(function()
    return fl.await(fl.run_in_state(function() return "called" end))
  end)
  return ok and result or "did without"
end)

return app
]]
  local server

  before_each(function()
    server = serve({ exile = "60s" }, { a = app })
  end)

  after_each(function()
    server:stop()
  end)

  local function expect_home(path, body)
    local response = server:get(path)
    assert.equal(body, response.body)
    assert.equal(200, response.status)
  end

  -- Once for all its requests.
  local function expect_told(path, why)
    local line = "GET " .. path .. " comes home from the cpu pool and stays on its web thread: "
      .. why
    server:wait_log(line)
    assert.equal(1, count_lines(server, line))
  end

  it("stays where it is when it is known to stream", function()
    expect_home("/a/stream", "streamed by a web thread")
    expect(stick(server, "/a/stream?spin=yes"), 503)
    server:wait_log("GET /a/stream stays on its web thread: no pool can run it")
    expect_home("/a/stream", "streamed by a web thread")
  end)

  it("comes home as soon as it turns out to stream: one request is asked to try again", function()
    expect(stick(server, "/a/stream?spin=yes"), 503)
    local response = server:get("/a/stream")
    assert.equal(503, response.status)
    assert.equal("1", response.headers["retry-after"])
    expect_told("/a/stream", "it streams, which no pool can do")
    for _ = 1, 3 do expect_home("/a/stream", "streamed by a web thread") end
    assert.is_nil(server:log():find("cannot be sent", 1, true))
    assert.equal(1, server:metrics().fasterlua_evacuations_total)
  end)

  it("comes home as soon as it calls the cpu pool itself, and may answer all the same", function()
    expect(stick(server, "/a/call?spin=yes"), 503)
    assert.equal(503, server:get("/a/call").status)
    expect_told("/a/call", "it calls the cpu pool itself")
    expect_home("/a/call", "called")
    expect(stick(server, "/a/try?spin=yes"), 503)
    expect_home("/a/try", "did without")
    expect_told("/a/try", "it calls the cpu pool itself")
    expect_home("/a/try", "called")
  end)

  it("comes home as well when a job of it in another pool calls the cpu pool", function()
    expect_home("/a/through", "called")
    expect(stick(server, "/a/through?spin=yes"), 503)
    assert.equal(503, server:get("/a/through").status)
    expect_told("/a/through", "it calls the cpu pool itself")
    expect_home("/a/through", "called")
  end)
end)

describe("a route whose app the cpu pool cannot have just now", function()
  -- Twice, as what failed may do well another time.
  local function expect_recalled(app, why)
    local server = serve({ exile = "60s" }, { a = app })
    local line = "GET /a/thread comes home from the cpu pool: it " .. why
    for count = 1, 2 do
      expect(stick(server, "/a/thread?spin=yes"), 503)
      wait_evacuations(server, count)
      assert.equal(503, server:get("/a/thread").status)
      support.eventually(function() return count_lines(server, line) == count end)
      assert.equal(server:get("/b/thread").body, server:get("/a/thread").body)
    end
    server:stop()
  end

  it("comes home when it cannot be loaded there, and may be sent again", function()
    expect_recalled('if require("fasterlua").here().pool then error "not here" end\n' .. culprit,
      "belongs to an app that cannot be loaded there")
  end)

  it("comes home when its start hook fails there, and may be sent again", function()
    expect_recalled(culprit:gsub("return app%s*$", "") .. [[
app:on_start(function() fl.await(fl.run_in_state(function() return 1 end)) end)
return app
]], "belongs to an app whose start hook fails there")
  end)
end)
