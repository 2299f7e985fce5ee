-- What becomes of everybody else when a handler cannot be stopped: another thread takes the
-- connections and the other apps' states, and goes on at the exact byte.

local support = require "support"
local evacuation = require "support.evacuation"
local leak = require "support.leak"

local now, sleep = support.process.now, support.process.sleep
local serve, head, begin = evacuation.serve, evacuation.head, evacuation.begin
local stick, expect, count_lines = evacuation.stick, evacuation.expect, evacuation.count_lines
local expect_nothing_more, wait_joined = evacuation.expect_nothing_more, evacuation.wait_joined
local culprit, neighbour = evacuation.culprit, evacuation.neighbour

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
