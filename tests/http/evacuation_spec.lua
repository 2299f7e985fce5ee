-- What becomes of everybody else when a handler cannot be stopped: another thread takes the
-- connections and the other apps' states, and goes on at the exact byte. How soon, and what many
-- evacuations cost, is in evacuation_load_spec.

local support = require "support"
local evacuation = require "support.evacuation"
local leak = require "support.leak"

local process = support.process
local now, sleep = process.now, process.sleep
local limit, serve, head, begin = evacuation.limit, evacuation.serve, evacuation.head,
  evacuation.begin
local stick, expect, time_of = evacuation.stick, evacuation.expect, evacuation.time_of
local count_lines, expect_nothing_more = evacuation.count_lines, evacuation.expect_nothing_more
local wait_evacuations, wait_joined = evacuation.wait_evacuations, evacuation.wait_joined
local culprit, neighbour = evacuation.culprit, evacuation.neighbour
local IS_SANITIZED = support.slowdown > 1

-- Nobody is left on it, as after any test, and the loops given up cost what they must.
local function expect_clean(server, before)
  local evacuations = server:metrics().fasterlua_evacuations_total
  leak.check(server, { descriptors = before.descriptors,
    count = before.count + leak.of_a_loop(before.descriptors) * evacuations })
  support.eventually(function()
    return count_lines(server, "evacuated web thread") == evacuations
  end)
end

describe("an evacuation", function()
  local server, before

  -- Threads of pools have descriptors of their own.
  local function expect_pools()
    before.count = 1 / 0
  end

  before_each(function()
    server = serve()
    server:metrics()
    before = leak.snapshot(server)
  end)

  after_each(function()
    if not server:ended() then
      assert.equal(200, server:get("/b/").status)
      expect_clean(server, before)
    end
    server:stop()
  end)

  it("answers the culprit with 503 and keeps its connection", function()
    local client = stick(server)
    local response = expect(client, 503, '{"detail":"Service Unavailable"}')
    assert.equal("1", response.headers["retry-after"])
    assert.equal("b", client:request({ path = "/b/" }).body)
    assert.equal("a", client:request({ path = "/a/" }).body)
  end)

  it("names the handler, what became of others, and what to use instead", function()
    local waiting = begin(server, "/a/wait")
    local post = begin(server, "/a/wait", "POST")
    post:send("")
    expect(stick(server), 503)
    local line = server:wait_log("[^\n]*evacuated web thread 0[^\n]*")
    assert.matches("GET /a/spin %(request [%x-]+%) has computed without a pause for 0%.%d s;", line)
    assert.matches("3 connections moved, 1 requests run again, 2 answered with 503, 0 cut", line)
    assert.matches("run_in_state .* run_blocking ", line)
    expect(waiting, 200)
    expect(post, 503)
  end)

  it("is one more for the same thread, and one more", function()
    local neighbours = {}
    for i = 1, 20 do
      neighbours[i] = server:connect()
      assert.equal("b", neighbours[i]:request({ path = "/b/" }).body)
    end
    for _ = 1, 3 do
      expect(stick(server), 503)
      for i = 1, 20 do
        assert.equal("b", neighbours[i]:request({ path = "/b/" }).body)
      end
    end
    assert.equal(3, server:metrics().fasterlua_evacuations_total)
  end)

  describe("of connections", function()
    it("goes on in the middle of a head", function()
      local client = server:connect()
      client:send("GET /b/ HT")
      sleep(0.05)
      expect(stick(server), 503)
      client:send("TP/1.1\r\nHo")
      sleep(0.05)
      client:send("st: a\r\n\r\n")
      expect(client, 200, "b")
      expect_nothing_more(client)
    end)

    it("goes on in the middle of a body", function()
      local client = server:connect()
      client:send("POST /b/echo HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n0123")
      sleep(0.05)
      expect(stick(server), 503)
      client:send("456789" .. head("/b/"))
      expect(client, 200, "0123456789")
      expect(client, 200, "b")
      expect_nothing_more(client)
    end)

    it("goes on in the middle of a chunked body, within a chunk's size", function()
      local client = server:connect()
      client:send("POST /b/echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
        .. "4\r\n0123\r\n1")
      sleep(0.05)
      expect(stick(server), 503)
      client:send("0\r\n0123456789abcdef\r\n0\r\n\r\n" .. head("/b/"))
      expect(client, 200, "01230123456789abcdef")
      expect(client, 200, "b")
    end)

    it("feeds a handler that reads its body in pieces", function()
      local client = server:connect()
      client:send("POST /b/chunks HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n0123")
      sleep(0.05)
      expect(stick(server), 503)
      client:send("456")
      sleep(0.05)
      client:send("789")
      expect(client, 200, "0123456789")
    end)

    it("continues a write at the exact byte", function()
      local client = server:connect { receive_buffer = 4096 }
      client:send(head("/b/big") .. head("/b/"))
      assert.is_truthy(client:receive("\r\n\r\n"))
      for i = 1, 1000 do
        local part = client:receive(8000, 10 * support.slowdown)
        if part ~= ("%08d"):format(i):rep(1000) then error("other bytes in block " .. i) end
        if i % 100 == 1 and i < 400 then expect(stick(server), 503) end
      end
      expect(client, 200, "b")
      expect_nothing_more(client)
    end)

    it("keeps what was read ahead, and answers in order", function()
      local client = server:connect()
      client:send(head("/b/sleep/600") .. head("/a/") .. head("/b/count"))
      sleep(0.05)
      expect(stick(server), 503)
      client:send(head("/b/count"))
      expect(client, 200, "slept")
      expect(client, 200, "a")
      expect(client, 200, "1")
      expect(client, 200, "2")
      expect_nothing_more(client)
    end)

    it("keeps the answers of a batch that were not written yet, and the rest of it", function()
      local client = server:connect()
      client:send(head("/b/count") .. head("/a/") .. head("/b/", "HEAD") .. head("/a/spin")
        .. head("/b/count") .. head("/a/count"))
      expect(client, 200, "1")
      expect(client, 200, "a")
      local response = expect(client, 200, "", { method = "HEAD" })
      assert.equal("1", response.headers["content-length"])
      expect(client, 503)
      expect(client, 200, "2")
      expect(client, 200, "1")
      expect_nothing_more(client)
      assert.equal(1, server:metrics().fasterlua_evacuations_total)
    end)

    -- The second request of a pipeline gets stuck where the end of the first one is told: beneath
    -- it lie what else the same deadline, letter and task have to tell.
    it("loses nothing of what ends with a request before the culprit", function()
      for first, count in pairs { ["/b/sleep/300"] = 20, ["/b/pooled"] = 1 } do
        expect_pools()
        local client, others = server:connect(), {}
        for i = 1, count do others[i] = begin(server, first) end
        client:send(head(first) .. head("/a/spin") .. head("/b/"))
        for i = count + 1, 2 * count do others[i] = begin(server, first) end
        expect(client, 200)
        expect(client, 503)
        expect(client, 200, "b")
        for i = 1, 2 * count do expect(others[i], 200) end
        wait_joined(server)
      end
    end)

    it("loses nothing of what times out with a request before the culprit", function()
      server:stop()
      server = serve { handler_timeout = "300ms", exile = 0 }
      server:metrics()
      before = leak.snapshot(server)
      local client, others = server:connect(), {}
      for i = 1, 20 do others[i] = begin(server, "/b/sleep/5000") end
      client:send(head("/b/sleep/5000") .. head("/a/spin") .. head("/b/"))
      for i = 21, 40 do others[i] = begin(server, "/b/sleep/5000") end
      expect(client, 504)
      expect(client, 503)
      expect(client, 200, "b")
      for i = 1, 40 do expect(others[i], 504) end
    end)

    it("lets lingering ones end", function()
      local client = server:connect()
      client:send("GET /b/ HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
      expect(client, 200, "b")
      assert.is_true(client:closed())
      client:send("more that is dropped")
      expect(stick(server), 503)
      support.eventually(function()
        return server:metrics()['fasterlua_connections{thread="0"}'] <= 1
      end, 4)
    end)

    it("forgets those that were closing", function()
      for _ = 1, 3 do
        local clients = {}
        for i = 1, 30 do
          clients[i] = server:connect()
          assert.equal("b", clients[i]:request({ path = "/b/" }).body)
        end
        local busy = begin(server, "/b/busy/40") -- what comes meanwhile is one turn's
        sleep(0.01)
        for i = 1, 30 do clients[i]:reset() end
        expect(stick(server), 503)
        expect(busy, 200, "busy")
      end
    end)
  end)

  describe("of other apps' work", function()
    it("lets sleeps, jobs, programs, files and waits for each other end as they would", function()
      local path = server.dir .. "/file"
      expect_pools()
      local clients = {
        slept = begin(server, "/b/sleep/700"), pooled = begin(server, "/b/pooled"),
        job = begin(server, "/b/job"), ["done\n"] = begin(server, "/b/exec"),
        x = begin(server, "/b/take"), set = begin(server, "/b/event"),
        put = begin(server, "/b/put"),
        ["1000000"] = begin(server, "/b/file?path=" .. path),
      }
      sleep(0.05)
      expect(stick(server), 503)
      for body, client in pairs(clients) do
        expect(client, 200, body)
      end
    end)

    it("starts jobs that the same turn of the loop has brought", function()
      server:stop()
      server = serve(nil, { a = neighbour, b = culprit })
      before = { descriptors = {}, count = 1 / 0 }
      local jobs = {}
      for i = 1, 10 do jobs[i] = begin(server, "/a/nap_job") end
      for i = 1, 10 do expect(jobs[i], 200, "job") end -- the pool's threads run, and wait
      begin(server, "/a/sleep/300")
      for i = 1, 10 do jobs[i] = begin(server, "/a/nap_job") end
      begin(server, "/a/sleep/300")
      local culprit_client = begin(server, "/b/later")
      sleep(0.25)
      begin(server, "/a/busy/100") -- all their naps end meanwhile
      expect(culprit_client, 503)
      for i = 1, 10 do expect(jobs[i], 200, "job") end
    end)

    it("goes on with streams", function()
      local client = begin(server, "/b/stream")
      assert.is_truthy(client:receive("line 1\n\r\n"))
      expect(stick(server), 503)
      for i = 2, 12 do
        local line = ("line %d\n"):format(i)
        assert.equal(("%x\r\n%s\r\n"):format(#line, line), client:receive(#line + 5))
      end
      assert.equal("0\r\n\r\n", client:receive(5))
      assert.equal("b", client:request({ path = "/b/" }).body)
    end)

    it("runs background and detached tasks to their end", function()
      assert.equal("soon", server:get("/b/background").body)
      assert.equal("detached", server:get("/b/detach").body)
      expect(stick(server), 503)
      server:wait_log("the neighbour's task")
      server:wait_log("the neighbour's detached task")
    end)

    it("runs requests whose clients have left to their end", function()
      local client = server:connect()
      client:send("POST /b/sleep HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx")
      sleep(0.05)
      client:reset()
      expect(stick(server), 503)
    end)

    it("keeps their states", function()
      assert.equal("1", server:get("/b/count").body)
      expect(stick(server), 503)
      assert.equal("2", server:get("/b/count").body)
    end)
  end)

  describe("of the stuck state's requests", function()
    it("runs those that wait and may be repeated once more, in a fresh state", function()
      assert.equal("1", server:get("/a/count").body)
      local client = server:connect()
      client:send("GET /a/wait?x=1 HTTP/1.1\r\nHost: a\r\nX-Sent: yes\r\n\r\n" .. head("/b/"))
      local first = begin(server, "/a/wait", "HEAD")
      sleep(0.05)
      expect(stick(server), 503)
      local body = expect(client, 200).body
      assert.matches("^[12] x=1 yes$", body)
      expect(client, 200, "b")
      expect(first, 200, "", { method = "HEAD" })
      assert.equal("3", server:get("/a/count").body)
    end)

    it("repeats them with their bodies", function()
      local client = server:connect()
      client:send("GET /a/body HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
        .. "3\r\nabc\r\n0\r\nX-Last: one\r\n\r\n")
      sleep(0.05)
      expect(stick(server), 503)
      expect(client, 200, "abc one")
    end)

    it("answers 503 to those whose body has been read in pieces", function()
      local client = server:connect()
      client:send("GET /a/eaten HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc")
      sleep(0.05)
      expect(stick(server), 503)
      expect(client, 503)
    end)

    it("answers 503 to POST and replay = false, and repeats replay = true", function()
      local post, again = server:connect(), server:connect()
      post:send("POST /a/wait HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx")
      again:send("POST /a/again HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\ny")
      local once = begin(server, "/a/once")
      sleep(0.05)
      expect(stick(server), 503)
      local began = now()
      expect(post, 503)
      expect(once, 503)
      assert.is_true(now() - began < 0.2 * support.slowdown) -- at once; they take 0.6 s
      expect(again, 200, "again y")
      assert.equal("a", post:request({ path = "/a/" }).body)
    end)

    it("counts those whose clients have left as ended", function()
      local client = server:connect()
      client:send("POST /a/wait HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx")
      sleep(0.05)
      client:reset()
      sleep(0.05)
      expect(stick(server), 503)
    end)

    it("answers 503 to one in the middle of its body, whose rest is dropped", function()
      local client = server:connect()
      client:send("POST /a/chunks HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n0123")
      sleep(0.05)
      expect(stick(server), 503)
      expect(client, 503)
      client:send("456789" .. head("/b/"))
      expect(client, 200, "b")
    end)

    it("repeats those that are away in a pool", function()
      expect_pools()
      local get = begin(server, "/a/pooled")
      local post = begin(server, "/a/pooled", "POST")
      sleep(0.05)
      expect(stick(server), 503)
      expect(post, 503)
      expect(get, 200, "pooled")
    end)

    it("drops their jobs: those not begun never run, others end at their next await", function()
      expect_pools()
      local posts = { begin(server, "/a/job", "POST") }
      server:wait_log "a job began"
      for i = 2, 3 do posts[i] = begin(server, "/a/job", "POST") end
      support.eventually(function() return server:get("/a/jobs"):json().queued == 2 end)
      expect(stick(server), 503)
      for i = 1, 3 do expect(posts[i], 503) end
      support.eventually(function()
        local stats = server:get("/a/jobs"):json()
        return stats.busy == 0 and stats.queued == 0 and stats.cancelled == 3
      end, 1)
      assert.equal(1, count_lines(server, "a job began"))
      assert.equal(0, count_lines(server, "a job went on"))
    end)

    it("lets another one make what they made, and have their locks, at once", function()
      local made, lock = begin(server, "/a/made"), begin(server, "/a/lock", "POST")
      support.eventually(function() return server:get("/a/locked").body == "true" end)
      expect(stick(server), 503)
      expect(lock, 503)
      assert.equal("false", server:get("/a/locked").body)
      local began = now()
      expect(made, 200, "made")
      assert.is_true(now() - began < 2 * support.slowdown)
    end)

    it("cuts streams without the last chunk", function()
      local client = begin(server, "/a/stream")
      assert.is_truthy(client:receive("5\r\nbegun\r\n"))
      expect(stick(server), 503)
      local closed, how = client:closed()
      assert.is_true(closed, how)
    end)

    it("loses and counts its tasks", function()
      assert.equal("soon", server:get("/a/background").body)
      expect(stick(server), 503)
      assert.matches(", 2 tasks lost;", server:wait_log("[^\n]*evacuated[^\n]*"))
      sleep(0.6)
      assert.is_nil(server:log():find("the culprit's task", 1, true))
    end)

    it("may get stuck again when run once more, and costs nobody else", function()
      local others = {}
      for i = 1, 50 do others[i] = begin(server, "/b/sleep/700") end
      local twice = begin(server, "/a/twice")
      sleep(0.05)
      expect(stick(server), 503)
      expect(twice, 503)
      for i = 1, 50 do expect(others[i], 200, "slept") end
      assert.equal(2, server:metrics().fasterlua_evacuations_total)
    end)
  end)
end)

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
end)
