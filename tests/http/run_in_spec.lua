-- Routes whose handlers run in a pool (route option `run_in`), as clients see them.

local pools = require "support.pools"
local support = require "support"

local app, json = pools.app, pools.json
local sleep, now, slowdown = support.process.sleep, support.process.now, support.slowdown

local routes = [==[
local own = pool("own", { size = 2, queue = 2, retire_rate = 1000 })
local places = { cpu = "cpu", blocking = "blocking", own = own }
local started = 0
app:on_start(function()
  await(fl.sleep(0.02))
  started = started + 1
  if fl.here().pool then fl.log.info("started in " .. fl.here().pool) end
end)
app:on_stop(function()
  if fl.here().pool then fl.log.info("stopped in " .. fl.here().pool) end
end)
app:on_start(function()
  if fl.here().pool then return end
  local p = require "fasterlua.pool"
  for _, one in ipairs { own, p.default "cpu" } do
    while ids(one) < one:stats().size do end
  end
  await(gather(p.default("blocking"):run(fl.here), p.default("blocking"):run(fl.here)))
end)

local order = {}
app:use(function(req, next)
  local answer = next(req)
  answer.headers:set("X-Middleware", (fl.here().pool or "web") .. " " .. req.method)
  return answer
end)
app:on_error(409, function(req, err)
  return { conflict = err.detail, path = req.path }
end)
app:on_error("odd", function(req, err) return { odd = err.message }, 418 end)

for name, place in pairs(places) do
  local in_pool = { run_in = place }
  local prefix = "/" .. name
  app:get(prefix .. "/here", in_pool, function()
    return { pool = fl.here().pool, started = started }
  end)
  local named = { run_in = place, name = name .. "_item" }
  app:get(prefix .. "/items/{id:int}/{name}", named, function(req)
    return {
      method = req.method, url = req.url, path = req.path, id = req.params.id,
      name = req.params.name, q = req.query.q, header = req.headers["x-test"],
      cookie = req.cookies.c, client = req.client.host, has_id = #req.id > 0,
      url_for = app:url_for(name .. "_item", { id = 7, name = "x y" }),
    }
  end)
  app:get(prefix .. "/request-id", in_pool, function(req)
    fl.log.info("the id is " .. req.id)
    return req.id
  end)
  app:post(prefix .. "/json", in_pool, function(req) return { got = req:json() } end)
  app:post(prefix .. "/form", in_pool, function(req) return req:form() end)
  local large = { run_in = place, max_body = 6e6 }
  app:post(prefix .. "/text", large, function(req) return req:text() end)
  app:post(prefix .. "/chunks", in_pool, function(req)
    local sizes = 0
    for chunk in req:chunks() do sizes = sizes + #chunk end
    return sizes
  end)
  app:get(prefix .. "/cookies", in_pool, function(req)
    req:set_cookie("a", "1")
    req:set_cookie("b", "2", { http_only = true })
    local answer = fl.response({ ok = true }, { headers = { ["X-Own"] = { "1", "2" } } })
    answer:set_cookie("c", "3")
    return answer
  end)
  app:get(prefix .. "/awaits", in_pool, function()
    local a, b = await(gather(fl.sleep(0.01), spawn(function() return "spawned" end)))
    fl.background(function()
      await(fl.sleep(0.01))
      fl.log.info("background in " .. fl.here().pool)
    end)
    return { a == nil, b }
  end)
  app:get(prefix .. "/status/{status:int}", in_pool, function(req)
    return nil, req.params.status
  end)
  app:get(prefix .. "/not-modified", in_pool, function()
    return fl.response(nil, { status = 304, headers = { ETag = '"x"' } })
  end)
  app:get(prefix .. "/html", in_pool, function() return fl.html "<p>" end)
  app:get(prefix .. "/large", in_pool, function() return ("0123456789"):rep(500000) end)
  app:get(prefix .. "/error", in_pool, function() error "a handler in a pool fails" end)
  app:get(prefix .. "/missing", in_pool, function() return fl.http_error(404, "no such thing") end)
  app:get(prefix .. "/conflict", in_pool, function() error(fl.http_error(409, "taken")) end)
  app:get(prefix .. "/odd", in_pool, function() error { kind = "odd", message = "strange" } end)
  app:get(prefix .. "/cannot", in_pool, function() return print end)
  app:get(prefix .. "/stream", in_pool, function()
    return fl.stream(function(write) write "x" end)
  end)
end
app:get("/own/slow/{ms:int}", { run_in = own }, function(req)
  await(fl.sleep(req.params.ms / 1000))
  fl.log.info("slow ended: " .. req.params.ms)
  return "slow " .. req.params.ms
end)
app:post("/own/slow/{ms:int}", { run_in = own }, function(req)
  await(fl.sleep(req.params.ms / 1000))
  fl.log.info("slow POST ended: " .. req.params.ms)
  return "slow"
end)
app:get("/own/timeout", { run_in = own, timeout = 0.1 }, function()
  await(fl.sleep(30))
end)
app:get("/own/stuck", { run_in = own, timeout = 0.1 }, function() compute(1) return "late" end)
app:post("/own/small", { run_in = own, max_body = 1000 }, function(req) return #req:text() end)
app:get("/own/cycle", { run_in = own }, function()
  return caught(function() return await(own:run(print)) end)
end)
app:get("/own/other", { run_in = own }, function()
  return await(fl.run_in_state(shapes.area, 4, 5))
end)
app:get("/fast", function() return "fast" end)
app:get("/stats", function() return own:stats() end)
app:get("/gone", function()
  return until_true(function() return own:stats().retired + own:stats().busy == 0 end, 4)
end)
]==]

local raw = "GET %s HTTP/1.1\r\nHost: a\r\n\r\n"

support.describe_server("a route that runs in a pool",
  pools.options(app(routes), { access_log = true }), function(get_server)
  for _, place in ipairs { "cpu", "blocking", "own" } do
    describe("(" .. place .. ")", function()
      local function get(path, headers)
        return get_server():get("/" .. place .. path, headers)
      end

      it("runs there, after the app's start hooks", function()
        for _ = 1, 10 do
          assert.same({ pool = place, started = 1 }, json(get_server(), "/" .. place .. "/here"))
        end
        get_server():wait_log("started in " .. place)
      end)

      it("sees all of its request", function()
        local path = "/" .. place .. "/items/42/caf%C3%A9?q=a+b&r=1"
        local response = get_server():request { path = path,
          headers = { ["X-Test"] = "yes", Cookie = "c=d; e=f" } }
        assert.same({ method = "GET", url = path, path = "/" .. place .. "/items/42/caf%C3%A9",
          id = 42, name = "café", q = "a b", header = "yes", cookie = "d", client = "127.0.0.1",
          has_id = true, url_for = "/" .. place .. "/items/7/x%20y" }, response:json())
      end)

      it("logs with the request's id", function()
        local id = get("/request-id").body
        get_server():wait_log("the id is " .. id:gsub("%-", "%%-") .. ".-request_id="
          .. id:gsub("%-", "%%-"))
      end)

      it("reads bodies: JSON, forms, text, chunks", function()
        local server = get_server()
        local prefix = "/" .. place
        local response = server:post(prefix .. "/json", { a = { 1, 2 } })
        assert.same({ got = { a = { 1, 2 } } }, response:json())
        assert.same({ a = "1", b = "x y" }, server:post(prefix .. "/form", "a=1&b=x+y",
          { ["Content-Type"] = "application/x-www-form-urlencoded" }):json())
        assert.equal("a\0b", server:post(prefix .. "/text", "a\0b").body)
        assert.equal("100000", server:post(prefix .. "/chunks", ("x"):rep(100000)).body)
        local client = server:connect()
        client:send(("POST %s/text HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
          :format(prefix) .. "3\r\nabc\r\n")
        sleep(0.02)
        client:send("2\r\nde\r\n0\r\n\r\n")
        assert.equal("abcde", client:response().body)
        assert.equal(422, server:post(prefix .. "/json", "{",
          { ["Content-Type"] = "application/json" }).status)
      end)

      it("takes and gives five megabytes", function()
        local body = ("abcdefghij"):rep(500000)
        local response = get_server():post("/" .. place .. "/text", body)
        assert.equal(200, response.status)
        assert.is_true(response.body == body)
        response = get("/large")
        assert.equal(5000000, #response.body)
        assert.is_true(response.body == ("0123456789"):rep(500000))
      end)

      it("sets headers and cookies", function()
        local response = get("/cookies")
        local seen = { ["set-cookie"] = {}, ["x-own"] = {} }
        for _, field in ipairs(response.header_list) do
          table.insert(seen[field[1]:lower()] or {}, field[2])
        end
        table.sort(seen["set-cookie"])
        assert.same({ "1", "2" }, seen["x-own"])
        assert.equal(3, #seen["set-cookie"])
        assert.matches("^a=1", seen["set-cookie"][1])
        assert.matches("^b=2.*HttpOnly", seen["set-cookie"][2])
        assert.matches("^c=3", seen["set-cookie"][3])
        assert.same({ ok = true }, response:json())
      end)

      it("may await, and leave something for the background", function()
        assert.same({ true, "spawned" }, get("/awaits"):json())
        get_server():wait_log("background in " .. place)
      end)

      it("has middleware and error handlers around it", function()
        assert.equal(place .. " GET", get("/here").headers["x-middleware"])
        local response = get("/conflict")
        assert.equal(409, response.status)
        assert.same({ conflict = "taken", path = "/" .. place .. "/conflict" }, response:json())
        response = get("/odd")
        assert.equal(418, response.status)
        assert.same({ odd = "strange" }, response:json())
      end)

      it("answers HEAD, 204, 304, pages and errors as any other", function()
        local server = get_server()
        local response = server:request { method = "HEAD", path = "/" .. place .. "/html" }
        assert.equal(200, response.status)
        assert.equal("", response.body)
        assert.equal("3", response.headers["content-length"])
        assert.equal(204, get("/status/204").status)
        response = get("/not-modified")
        assert.equal(304, response.status)
        assert.equal('"x"', response.headers.etag)
        assert.equal("", response.body)
        assert.matches("text/html", get("/html").headers["content-type"], 1, true)
        response = get("/missing")
        assert.equal(404, response.status)
        assert.same({ detail = "no such thing" }, response:json())
        assert.equal(422, get("/items/x/y").status)
      end)

      it("logs its errors with route and request id", function()
        local response = get("/error")
        assert.equal(500, response.status)
        assert.same({ detail = "Internal Server Error" }, response:json())
        local id = response.headers["x-request-id"]
        local log = get_server():wait_log('[^\n]*route="GET /' .. place
          .. '/error".-app%.lua:%d+: in')
        assert.matches("a handler in a pool fails", log, 1, true)
        assert.matches("request_id=" .. id, log, 1, true)
        assert.equal(500, get("/cannot").status)
      end)

      it("cannot stream, and says so", function()
        assert.equal(500, get("/stream").status)
        get_server():wait_log("cannot stream: its answer crosses as a whole")
      end)
    end)
  end

  it("times out in time, awaiting or stuck", function()
    local server = get_server()
    for _, what in ipairs { "timeout", "stuck" } do
      local began = now()
      assert.equal(504, server:get("/own/" .. what).status)
      local took = now() - began
      assert.is_true(took >= 0.1 and took < 0.3 * slowdown, what .. " took " .. took)
    end
    assert.equal("true", server:get("/gone").body)
    assert.equal(200, server:get("/own/here").status)
  end)

  it("is refused with Retry-After when the queue is full", function()
    local server = get_server()
    local clients = {}
    for i = 1, 4 do
      clients[i] = server:connect()
      clients[i]:send(raw:format("/own/slow/400"))
    end
    support.eventually(function() return json(server, "/stats").queued == 2 end)
    local response = server:get("/own/here")
    assert.equal(503, response.status)
    assert.equal("1", response.headers["retry-after"])
    assert.equal("fast", server:get("/fast").body)
    for i = 1, 4 do
      assert.equal("slow 400", clients[i]:response().body)
    end
  end)

  it("keeps connections and the order of pipelined answers", function()
    local client = get_server():connect()
    client:send(raw:format("/own/slow/60") .. raw:format("/fast") .. raw:format("/own/slow/1")
      .. raw:format("/own/slow/30"))
    local bodies = {}
    for i, response in ipairs(client:responses(4)) do
      bodies[i] = response.body
    end
    assert.same({ "slow 60", "fast", "slow 1", "slow 30" }, bodies)
    assert.equal("fast", client:request({ path = "/fast" }).body)
  end)

  it("asks for the body it expects, and refuses a large one before anything runs", function()
    local server = get_server()
    local client = server:connect()
    client:send("POST /own/text HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n"
      .. "Expect: 100-continue\r\n\r\n")
    assert.equal(100, client:response().status)
    client:send("hello")
    assert.equal("hello", client:response().body)
    local before = json(server, "/stats").submitted
    assert.equal(413, server:post("/own/small", ("x"):rep(1001)).status)
    client = server:connect()
    client:send("POST /own/small HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5dc\r\n"
      .. ("y"):rep(1500) .. "\r\n0\r\n\r\n")
    assert.equal(413, client:response().status)
    assert.equal(before, json(server, "/stats").submitted)
    assert.equal("1000", server:post("/own/small", ("x"):rep(1000)).body)
  end)

  it("is dropped when the client of a GET leaves; a POST runs on", function()
    local server = get_server()
    local busy = {}
    for i = 1, 2 do
      busy[i] = server:connect()
      busy[i]:send(raw:format("/own/slow/400"))
    end
    support.eventually(function() return json(server, "/stats").busy == 2 end)
    local leaving = server:connect()
    leaving:send(raw:format("/own/slow/7"))
    support.eventually(function() return json(server, "/stats").queued == 1 end)
    leaving:reset()
    support.eventually(function() return json(server, "/stats").queued == 0 end, 0.3)
    for i = 1, 2 do
      assert.equal(200, busy[i]:response().status)
    end
    leaving = server:connect()
    leaving:send(raw:format("/own/slow/5000"))
    support.eventually(function() return json(server, "/stats").busy == 1 end)
    leaving:reset()
    support.eventually(function() return json(server, "/stats").busy == 0 end)
    leaving = server:connect()
    leaving:send("POST /own/slow/200 HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n")
    support.eventually(function() return json(server, "/stats").busy == 1 end)
    leaving:reset()
    server:wait_log("slow POST ended: 200")
    assert.is_nil(server:log():find("slow ended: 7\n", 1, true))
    assert.is_nil(server:log():find("slow ended: 5000", 1, true))
  end)

  it("is counted once", function()
    local server = get_server()
    local function counted()
      local sum = 0
      for key, value in pairs(server:metrics()) do
        if key:find("^fasterlua_requests_total") and key:find("/own/status/", 1, true) then
          sum = sum + value
        end
      end
      return sum
    end
    local before = counted()
    server:get("/own/status/204")
    support.eventually(function() return counted() == before + 1 end)
    sleep(0.05)
    assert.equal(before + 1, counted())
    server:get("/own/status/299?once")
    server:wait_log("/own/status/299%?once")
    sleep(0.05)
    local _, lines = server:log():gsub("/own/status/299%?once", "")
    assert.equal(1, lines)
  end)

  it("cannot call its own pool, but others", function()
    assert.equal("pool_cycle", json(get_server(), "/own/cycle").kind)
    assert.equal("20", get_server():get("/own/other").body)
  end)
end)

describe("an app's hooks", function()
  it("run in a pool's states too, before the first request and at the end", function()
    local server = support.start { app = app(routes) }
    for _ = 1, 4 do
      server:get("/own/here")
    end
    server:wait_log("started in own")
    server:signal "TERM"
    assert.equal(0, server:wait_end().code)
    local log = server:log()
    local _, started = log:gsub("started in own", "")
    local _, stopped = log:gsub("stopped in own", "")
    assert.is_true(started >= 1 and started <= 2)
    assert.equal(started, stopped)
    server:stop()
  end)

  it("that fail are logged; the request gets 500 and the next one tries again", function()
    local server = support.start { app = app [==[
      local own = pool("own", { size = 1 })
      app:on_start(function()
        if fl.here().pool and not io.open(os.getenv "READY") then error "not ready" end
      end)
      app:get("/", { run_in = own }, function() return "ready" end)
    ]==], env = { READY = support.process.temporary_directory() .. "/ready" } }
    assert.equal(500, server:get("/").status)
    server:wait_log("a start hook failed in a pool.*not ready")
    assert.equal(500, server:get("/").status)
    server:stop()
  end)

  it("cannot wait for the pool in which they run", function()
    local server = support.start { app = app [==[
      local own = pool("own", { size = 2 })
      app:on_start(function() if fl.here().pool then await(own:run(shapes.area, 1, 1)) end end)
      app:get("/", { run_in = own }, function() return "ready" end)
    ]==] }
    assert.equal(500, server:get("/").status)
    server:wait_log('a start hook failed in a pool.*a job cannot call its own pool.*"own"')
    server:stop()
  end)

  it("that take long hold up the request until it times out", function()
    local server = support.start { app = app [==[
      local own = pool("own", { size = 1 })
      app:on_start(function() if fl.here().pool then await(fl.sleep(0.4)) end end)
      app:get("/", { run_in = own, timeout = 0.1 }, function() return "ready" end)
    ]==] }
    assert.equal(504, server:get("/").status)
    support.eventually(function() return server:get("/").body == "ready" end)
    server:stop()
  end)
end)

describe("a server that ends while jobs run", function()
  local ending_app = app [==[
    local own = pool("own", { size = 2 })
    app:get("/slow", { run_in = own }, function() await(fl.sleep(0.4)) return "slow" end)
    app:get("/job", function()
      return await(own:run(function() fl.await(fl.sleep(0.4)) return "job" end))
    end)
    app:get("/forever", function() return await(own:run(function() fl.await(fl.sleep(60)) end)) end)
    app:get("/stuck", function() return await(own:run_within(60, compute, 60)) end)
  ]==]

  it("waits for them", function()
    local server = support.start { app = ending_app }
    local one, other = server:connect(), server:connect()
    one:send(raw:format("/slow"))
    other:send(raw:format("/job"))
    sleep(0.1)
    server:signal "TERM"
    assert.equal("slow", one:response().body)
    assert.equal("job", other:response().body)
    server:stop()
  end)

  it("lets the old process finish them when it is replaced", function()
    local server = support.start { app = ending_app }
    local one, old = server:connect(), server:server_pid()
    one:send(raw:format("/job"))
    sleep(0.1)
    server:signal "HUP"
    support.eventually(function() return server:server_pid() ~= old end, 5)
    assert.equal("job", one:response().body)
    server:stop()
  end)

  for _, what in ipairs { "forever", "stuck" } do
    it("drops them when the drain time is over: " .. what, function()
      local server = support.start { app = ending_app, settings = { drain = 0.3 } }
      local client = server:connect()
      client:send(raw:format("/" .. what))
      sleep(0.1)
      local began = now()
      server:signal "TERM"
      assert.is_not_nil(server:wait_end(10))
      assert.is_true(now() - began < 3 * slowdown, "took " .. now() - began)
      server:stop()
    end)
  end
end)
