-- Jobs of pools that fail, take too long, are cancelled, or run out of memory.

local pools = require "support.pools"
local support = require "support"

local app, json = pools.app, pools.json
local sleep, now, slowdown = support.process.sleep, support.process.now, support.slowdown

local failure_app = app [==[
local own = pool("own", { size = 2, retire_rate = 1000 })
local small = pool("small", { size = 2, max_memory = "24MB" })
local first, second = pool("first", { size = 2 }), pool("second", { size = 2 })
warm(own, small, first, second)

app:get("/raised", function()
  local result = await(own:run(shapes.fail))
  return result
end)
app:get("/raised-later", function()
  local function outer()
    local result = await(own:run(function() fl.await(fl.sleep(0)) error("later", 0) end))
    return result
  end
  local result = await(spawn(outer))
  return result
end)
app:get("/raised-value", function()
  return { caught_run(own, error, "text", 0), caught_run(own, function() error(42, 0) end),
    caught_run(own, function() error() end), caught_run(own, function() error { code = 7 } end),
    caught_run(own, function()
      error(setmetatable({ kind = "odd", message = "strange", status = 409, fn = print },
        { __tostring = function(self) return "odd thing" end }))
    end),
    caught_run(own, function()
      local text = { __tostring = function() return "told by tostring" end }
      error(setmetatable({ kind = "odd" }, text))
    end) }
end)
app:get("/raised-status", function()
  return await(own:run(function() error { kind = "teapot", status = 418, message = "short" } end))
end)
app:get("/http-error", function()
  return await(own:run(function()
    error(fl.http_error(404, { what = "gone" }, { ["X-A"] = "b" }))
  end))
end)
app:get("/http-error-returned", function()
  return await(own:run(function() return fl.http_error(409, "taken") end))
end)
app:get("/response", function()
  return await(own:run(function()
    local answer = fl.response({ a = 1 }, { status = 201, headers = { ["X-A"] = { "b", "c" } } })
    answer:set_cookie("k", "v")
    return answer
  end))
end)
app:get("/html", function() return await(own:run(function() return fl.html "<p>" end)) end)
app:get("/stream-returned", function()
  return caught_run(own, function() return fl.stream(function() end) end)
end)
app:get("/timeout-error", function()
  return caught_run(own, function() fl.await(fl.timeout(0.01, fl.sleep(5))) end)
end)
app:get("/unawaited", function()
  own:run(function() error "nobody awaits this job" end)
  await(fl.sleep(0.05))
  return "answered"
end)

-- jobs that take too long
local kinds = {
  awaiting = function() fl.await(fl.sleep(30)) end,
  interpreted = function()
    local stop = wall() + 2
    local text = {}
    while wall() < stop do text[#text % 10 + 1] = ("x"):gsub("x", function() return "y" end) end
  end,
  compiled = function() compute(2) end,
  c_call = function()
    return (("a"):rep(1000):find "a-a-b") -- seconds, in one call
  end,
  pcalls = function()
    local stop = wall() + 2
    while wall() < stop do
      pcall(function()
        local list = {}
        for i = 1, 100 do list[i] = ("%d"):format(i):gsub("1", "2") end
      end)
    end
  end,
  await_pcalls = function()
    local stop = wall() + 2
    while wall() < stop do pcall(fl.await, fl.sleep(0.001)) end
  end,
}
app:get("/too-long", function(req)
  local before = own:stats()
  local began = wall()
  local result = caught(function()
    return await(own:run_within(0.1, kinds[req.query.kind]))
  end)
  result.late = wall() - began - 0.1
  local back = wall()
  result.full = until_true(function()
    local stats = own:stats()
    return stats.busy == 0 and ids(own, 0.05) == 2
  end, 3)
  result.back = wall() - back
  local after = own:stats()
  result.retired = after.retirements - before.retirements
  result.timed_out = after.timed_out - before.timed_out
  return result
end)
app:get("/gone", function()
  return until_true(function() return own:stats().retired == 0 end, 6) and own:stats().threads
end)
app:get("/too-long-queued", function()
  local single = pool("single", { size = 1, timeout = 0.1 })
  local before = single:stats()
  local slow = single:run_within(5, function() fl.await(fl.sleep(0.3)) return "slow" end)
  local result = caught_run(single, function() fl.log.info "it ran after all" end)
  result.slow = await(slow)
  result.timed_out = single:stats().timed_out - before.timed_out
  single:close()
  until_true(function() return single:stats().threads == 0 end)
  return result
end)
app:get("/never-early", function()
  local began = wall()
  local job = own:run_within(0.1, function() fl.await(fl.sleep(30)) end)
  compute(0.08)
  pcall(await, job)
  return wall() - began
end)
app:get("/exhausted", function()
  local limited = pool("limited", { size = 1, retire_rate = 1, retire_window = 4, timeout = 0.05 })
  local result = {}
  result.first = caught_run(limited, compute, 1)
  result.replaced = until_true(function()
    local ok, value = pcall(await, limited:run(function() return "runs" end))
    return ok and value == "runs"
  end, 1)
  local stuck = limited:run(compute, 1)
  local queued = limited:run_within(5, function() return "queued" end)
  result.second = caught(await, stuck)
  result.queued = caught(await, queued)
  result.refused = caught(function() return limited:run(print) end)
  local began = wall()
  result.recovered = until_true(function()
    local ok, value = pcall(function() return await(limited:run(function() return "again" end)) end)
    return ok and value == "again"
  end, 10)
  result.retirements = limited:stats().retirements
  limited:close()
  until_true(function() return limited:stats().threads + limited:stats().retired == 0 end)
  return result
end)
app:get("/leftover-stuck", function()
  local brief = pool("brief", { size = 1, timeout = 0.2 })
  local result = {}
  result.first = await(brief:run(function()
    fl.detach(function() compute(2) end)
    return "returned"
  end))
  await(fl.sleep(0.02))
  local began = wall()
  result.after = until_true(function()
    local ok, value = pcall(await, brief:run_within(2, function() return "runs" end))
    return ok and value == "runs"
  end, 3)
  result.took = wall() - began
  result.retirements = brief:stats().retirements
  brief:close()
  until_true(function() return brief:stats().threads + brief:stats().retired == 0 end)
  return result
end)

-- cancelling
app:get("/cancel-queued", function()
  local busy = { own:run(function() fl.await(fl.sleep(0.2)) end),
    own:run(function() fl.await(fl.sleep(0.2)) end) }
  await(fl.sleep(0.05))
  local before = own:stats()
  local job = own:run(function() fl.log.info "a cancelled job ran" end)
  local queued = own:stats().queued
  local was = job:cancel()
  local result = caught(await, job)
  local after = own:stats()
  await(gather(busy))
  result.was, result.queued, result.left = was, queued, after.queued
  result.cancelled = after.cancelled - before.cancelled
  return result
end)
app:get("/cancel-running", function()
  local before = own:stats()
  local job = own:run(function()
    fl.log.info "to be cancelled"
    local ok, err = pcall(fl.await, fl.sleep(30))
    fl.log.info("cancelled as " .. tostring(err))
    fl.await(fl.sleep(30))
  end)
  await(fl.sleep(0.1))
  job:cancel()
  local ended = until_true(function() return own:stats().busy == 0 end, 2)
  return { ended = ended, cancelled = own:stats().cancelled - before.cancelled,
    retired = own:stats().retirements - before.retirements }
end)
local waiting = {}
app:get("/wait-busy", function()
  local list = {}
  for i = 1, 2 do list[i] = own:run(function() fl.await(fl.sleep(0.6)) end) end
  await(gather(list))
end)
app:get("/client-leaves", function()
  return await(own:run(function() fl.log.info "GET job began" fl.await(fl.sleep(5))
    fl.log.info "GET job went on" end))
end)
app:post("/client-leaves", function()
  return await(own:run(function() fl.await(fl.sleep(0.3)) fl.log.info "POST job ran on" end))
end)
app:get("/stats", function() return own:stats() end)

-- memory
local function blow_up()
  local list = {}
  for i = 1, 1e7 do list[i] = ("x"):rep(1000) .. i end
end
app:get("/memory", function()
  local before = small:stats()
  local result = caught_run(small, blow_up)
  result.next = await(small:run(shapes.area, 2, 3))
  result.replaced = until_true(function()
    return small:stats().states_replaced - before.states_replaced == 1
  end)
  result.failed = small:stats().failed - before.failed
  return result
end)
app:get("/memory-others", function()
  local before = small:stats().states_replaced
  local other = small:run(function()
    local list = {}
    for i = 1, 20 do list[i] = i fl.await(fl.sleep(0.01)) end
    return #list
  end)
  local failed = caught_run(small, blow_up)
  until_true(function() return small:stats().states_replaced == before + 1 end)
  return { kind = failed.kind, other = await(other) }
end)
app:get("/memory-swallowed", function()
  local before = small:stats().states_replaced
  local result = await(small:run(function()
    local ok, err = pcall(blow_up)
    return { ok = ok, err = tostring(err) }
  end))
  result.replaced = small:stats().states_replaced - before
  result.next = await(small:run(shapes.area, 2, 3))
  return result
end)
app:get("/memory-result", function()
  local result = caught_run(own, function()
    local list = {}
    for i = 1, 100 do list[i] = ("x"):rep(100000) .. i end
    return list
  end)
  return { count = #result.value, size = #result.value[100] }
end)
app:get("/recycled", function()
  local recycling = pool("recycling", { size = 1, recycle_after = 3 })
  local counts = {}
  for i = 1, 7 do counts[i] = await(recycling:run(shapes.count)) end
  recycling:close()
  until_true(function() return recycling:stats().threads == 0 end)
  return counts
end)
app:get("/recycled-with-tasks", function()
  local recycling = pool("recycling2",
    { size = 1, recycle_after = 1, timeout = 0.3 })
  for i = 1, 3 do
    await(recycling:run_within(5, function()
      fl.background(function()
        local _, err = pcall(fl.await, fl.sleep(60))
        fl.log.info("background of a recycled state: " .. tostring(err))
      end)
      fl.detach(function()
        while true do pcall(fl.await, fl.sleep(60)) end -- will not go by itself
      end)
    end))
  end
  recycling:close()
  return until_true(function() return recycling:stats().threads == 0 end, 6)
end)

-- jobs that wait for their own pool
app:get("/cycle", function()
  local began = wall()
  local result = caught_run(first, function() return fl.await(first:run(print)) end)
  result.took = wall() - began
  return result
end)
app:get("/cycle-through", function()
  local began = wall()
  local result = caught_run(first, function()
    return fl.await(second:run(function() return fl.await(first:run(print)) end))
  end)
  result.took = wall() - began
  return result
end)
app:get("/no-cycle", function()
  return await(first:run(function() return fl.await(second:run(shapes.area, 3, 3)) end))
end)
]==]

support.describe_server("a job of a pool", pools.options(failure_app), function(get_server)
  it("that fails is logged with its traceback and that of who awaited it", function()
    assert.equal(500, get_server():get("/raised").status)
    local log = get_server():wait_log 'route="GET /raised".*'
    assert.matches("shapes.lua:%d+: a shape fails.*shapes.lua:%d+: in .*awaited by.*app.lua:", log)
    assert.equal(500, get_server():get("/raised-later").status)
    log = get_server():log():match("GET /raised%-later.*")
    assert.matches("later\n", log, 1, true)
    local _, count = log:gsub("awaited by", "")
    assert.equal(2, count)
  end)

  it("raises what it raised: text, number, nil, table", function()
    local results = json(get_server(), "/raised-value")
    assert.equal("text", results[1].text)
    assert.equal("42", results[2].text)
    assert.equal("nil", results[3].text)
    assert.is_nil(results[4].kind)
    assert.same({ ok = false, kind = "odd", status = 409, text = "strange", message = "strange" },
      results[5])
    assert.same({ ok = false, kind = "odd", text = "told by tostring",
      message = "told by tostring" }, results[6])
  end)

  it("may say which status its error has", function()
    assert.equal(418, get_server():get("/raised-status").status)
  end)

  it("may raise and return HTTP errors and responses", function()
    local response = get_server():get("/http-error")
    assert.equal(404, response.status)
    assert.equal("b", response.headers["x-a"])
    assert.same({ detail = { what = "gone" } }, response:json())
    response = get_server():get("/http-error-returned")
    assert.equal(409, response.status)
    assert.same({ detail = "taken" }, response:json())
    response = get_server():get("/response")
    assert.equal(201, response.status)
    assert.same({ a = 1 }, response:json())
    assert.matches("^k=v", response.headers["set-cookie"])
    assert.matches("text/html", get_server():get("/html").headers["content-type"], 1, true)
    assert.matches("stream cannot cross", json(get_server(), "/stream-returned").text, 1, true)
  end)

  it("raises its time-outs as such", function()
    local result = json(get_server(), "/timeout-error")
    assert.same({ ok = false, kind = "timeout", status = 504, text = "timed out after 0.01 s" },
      result)
  end)

  it("whose error nobody awaits is answered for all the same", function()
    assert.equal("answered", get_server():get("/unawaited").body)
  end)

  for kind, retires in pairs { awaiting = false, interpreted = false, compiled = true,
    c_call = true, pcalls = false, await_pcalls = false } do
    it("that takes too long is given up in time, and the pool is soon whole again: " .. kind,
      function()
        local result = json(get_server(), "/too-long?kind=" .. kind)
        assert.is_false(result.ok)
        assert.equal("timeout", result.kind)
        assert.equal(504, result.status)
        assert.equal('timed out after 0.1 s in pool "own"', result.text)
        assert.is_true(result.late >= 0, "early by " .. -result.late)
        assert.is_true(result.late < 0.1 * slowdown, "late by " .. result.late)
        assert.is_true(result.full)
        assert.is_true(result.back < 1 * slowdown, "whole again after " .. result.back)
        assert.equal(1, result.timed_out)
        if retires then
          assert.equal(1, result.retired)
        elseif slowdown == 1 then
          assert.equal(0, result.retired)
        end
        assert.equal("2", get_server():get("/gone").body)
      end)
  end

  it("that waits too long in the queue never runs", function()
    local result = json(get_server(), "/too-long-queued")
    assert.equal("timeout", result.kind)
    assert.equal("slow", result.slow)
    assert.equal(1, result.timed_out)
    assert.is_nil(get_server():log():find("it ran after all", 1, true))
  end)

  it("has its whole time, however long its caller computes before it waits", function()
    local took = tonumber(get_server():get("/never-early").body)
    assert.is_true(took >= 0.1, "took " .. took)
  end)

  it("is refused when too many threads had to be retired, until the window is over", function()
    local result = json(get_server(), "/exhausted")
    assert.equal("timeout", result.first.kind)
    assert.is_true(result.replaced)
    assert.equal("timeout", result.second.kind)
    assert.equal("pool_exhausted", result.queued.kind)
    assert.equal("pool_exhausted", result.refused.kind)
    assert.equal(503, result.refused.status)
    assert.is_true(result.recovered)
    assert.equal(2, result.retirements)
  end)

  it("does not wait for ever behind what another one has left behind", function()
    local result = json(get_server(), "/leftover-stuck")
    assert.equal("returned", result.first)
    assert.is_true(result.after)
    assert.is_true(result.took < 1 * slowdown, "took " .. result.took)
    assert.equal(1, result.retirements)
  end)

  it("that is cancelled before it begins never runs", function()
    local result = json(get_server(), "/cancel-queued")
    assert.equal("cancelled", result.kind)
    assert.is_true(result.was)
    assert.equal(1, result.queued)
    assert.equal(0, result.left)
    assert.equal(1, result.cancelled)
    assert.is_nil(get_server():log():find("a cancelled job ran", 1, true))
  end)

  it("that is cancelled later ends at its next await", function()
    assert.same({ ended = true, cancelled = 1, retired = 0 }, json(get_server(), "/cancel-running"))
    get_server():wait_log("cancelled as cancelled")
  end)

  it("is dropped when the client of a GET leaves, and runs on for a POST", function()
    local server = get_server()
    local busy = server:connect()
    busy:send("GET /wait-busy HTTP/1.1\r\nHost: a\r\n\r\n")
    sleep(0.1)
    local leaving = server:connect()
    leaving:send("GET /client-leaves HTTP/1.1\r\nHost: a\r\n\r\n")
    sleep(0.1)
    leaving:reset()
    support.eventually(function() return json(server, "/stats").queued == 0 end, 0.3)
    assert.equal(204, busy:response().status)
    assert.is_nil(server:log():find("GET job began", 1, true))
    leaving = server:connect()
    leaving:send("GET /client-leaves HTTP/1.1\r\nHost: a\r\n\r\n")
    server:wait_log("GET job began")
    leaving:reset()
    support.eventually(function() return json(server, "/stats").busy == 0 end)
    assert.is_nil(server:log():find("GET job went on", 1, true))
    leaving = server:connect()
    leaving:send("POST /client-leaves HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n")
    sleep(0.1)
    leaving:reset()
    server:wait_log("POST job ran on")
  end)

  it("retires no state however often clients hang up", function()
    local server = get_server()
    local before = json(server, "/stats").retirements
    for _ = 1, 200 do
      local client = server:connect()
      client:send("GET /client-leaves HTTP/1.1\r\nHost: a\r\n\r\n")
      client:reset()
    end
    support.eventually(function()
      local stats = json(server, "/stats")
      return stats.busy == 0 and stats.queued == 0
    end, 5)
    local stats = json(server, "/stats")
    assert.equal(before, stats.retirements)
    assert.equal(2, stats.threads)
  end)

  it("that runs out of memory fails alone; its state is replaced", function()
    local result = json(get_server(), "/memory")
    assert.equal("memory", result.kind)
    assert.equal(500, result.status)
    assert.matches('a state of pool "small" may have 25165824 bytes', result.text, 1, true)
    assert.equal(6, result.next)
    assert.is_true(result.replaced)
    assert.equal(1, result.failed)
  end)

  it("does not feel that another state runs out of memory", function()
    assert.same({ kind = "memory", other = 20 }, json(get_server(), "/memory-others"))
  end)

  it("may catch that memory runs out, and keeps its state", function()
    assert.same({ ok = false, err = "not enough memory", replaced = 0, next = 6 },
      json(get_server(), "/memory-swallowed"))
  end)

  it("may return ten megabytes", function()
    assert.same({ count = 100, size = 100003 }, json(get_server(), "/memory-result"))
  end)

  it("has a new state after so many others", function()
    assert.same({ 1, 2, 3, 1, 2, 3, 1 }, json(get_server(), "/recycled"))
  end)

  it("loses what it has left behind when its state is made anew", function()
    assert.equal("true", get_server():get("/recycled-with-tasks").body)
    get_server():wait_log("background of a recycled state: cancelled: shutdown")
  end)

  it("cannot call its own pool, directly or through others, and hears so at once", function()
    local result = json(get_server(), "/cycle")
    assert.equal("pool_cycle", result.kind)
    assert.matches('"first" is called by a job of "first"', result.text, 1, true)
    assert.is_true(result.took < 0.5 * slowdown)
    result = json(get_server(), "/cycle-through")
    assert.equal("pool_cycle", result.kind)
    assert.matches('"first" is called by a job of "first" "second"', result.text, 1, true)
    assert.is_true(result.took < 0.5 * slowdown)
    assert.equal("9", get_server():get("/no-cycle").body)
  end)
end)

local chaos_app = app [==[
local own = pool("chaos", { size = 3, timeout = 2, max_memory = "16MB", queue = 20000,
  retire_rate = 10000 })
local other = pool("other", { size = 2 })
warm(own, other)
app:get("/ids", function() return ids(own) end)
app:get("/live", function() return await(other:run(shapes.area, 2, 2)) end)

local jobs = {
  function() return "value" end,
  function() return "value" end,
  function() fl.await(fl.sleep(0.0005)) return "value" end,
  function() error "raised" end,
  function() error { kind = "own", message = "own" } end,
  function() fl.await(fl.sleep(60)) end, -- cancelled, or past its time
  function() fl.spawn(function() fl.await(fl.sleep(60)) end) return "value" end,
  function() return coroutine.create(print) end, -- cannot cross
}
local function blow_up()
  local list = {}
  for i = 1, 1e6 do list[i] = ("x"):rep(500) .. i end
end

app:get("/chaos", function(req)
  local count, outcomes, total = tonumber(req.query.count), {}, 0
  local before = own:stats()
  local function note(kind)
    outcomes[kind] = (outcomes[kind] or 0) + 1
    total = total + 1
  end
  local function one(i)
    local dice = i <= 10 and i or math.random(1, 1000) -- every kind at least once
    local job
    if dice <= 4 then job = own:run(blow_up)
    elseif dice <= 6 then job = own:run_within(0.02, compute, 0.3)
    elseif dice <= 10 then job = own:run_within(0.01, jobs[6])
    else
      local number = math.random(1, #jobs)
      job = number == 6 and own:run_within(0.5, jobs[6]) or own:run(jobs[number])
      if number == 6 or math.random(1, 20) == 1 then
        spawn(function() await(fl.sleep(math.random() * 0.01)) job:cancel() end)
      end
    end
    local ok, err = pcall(await, job)
    if ok then note("value")
    elseif type(err) == "table" then note(err.kind or "table")
    else note("error") end
  end
  local tasks = {}
  for worker = 1, 20 do
    tasks[worker] = spawn(function() for i = worker, count, 20 do one(i) end end)
  end
  await(gather(tasks))
  until_true(function()
    local s = own:stats()
    return s.busy == 0 and s.queued == 0 and s.retired == 0
  end, 10)
  local s = own:stats()
  until_true(function() return ids(own) == 3 end, 5) -- others keep the machine busy
  return { total = total, outcomes = outcomes, whole = ids(own, 0.2),
    submitted = s.submitted - before.submitted,
    ended = s.completed + s.failed + s.timed_out + s.cancelled
      - before.completed - before.failed - before.timed_out - before.cancelled,
    busy = s.busy, queued = s.queued, retired = s.retired }
end)
]==]

support.describe_server("ten thousand jobs", pools.options(chaos_app, {
  queue_delay = 0, -- who is to be answered meanwhile is not refused when others want the machine
}), function(get_server)
  it("have one outcome each, and leave the pool whole and nothing behind", function()
    local server = get_server()
    local count = slowdown == 1 and 4000 or 400
    local rss, threads, descriptors
    local function number_of_threads()
      local status = support.process.read(("/proc/%d/status"):format(server:server_pid()))
      return tonumber(status:match "Threads:%s+(%d+)")
    end
    for round = 1, slowdown == 1 and 3 or 2 do
      local client, live = server:connect(), server:connect()
      client:send(("GET /chaos?count=%d HTTP/1.1\r\nHost: a\r\n\r\n"):format(count))
      local answers, began, response = 0, now(), nil
      while not response and now() - began < 25 * slowdown do
        assert.equal(200, live:request({ path = "/live", timeout = 5 * slowdown }).status)
        answers = answers + 1
        response = client:response({ timeout = 0.02 })
      end
      assert.is_not_nil(response, server:log())
      local result = response:json()
      assert.equal(count, result.total)
      assert.equal(3, result.whole)
      assert.equal(result.submitted, result.ended)
      assert.same({ 0, 0, 0 }, { result.busy, result.queued, result.retired })
      for _, kind in ipairs { "value", "error", "own", "cancelled", "timeout", "memory" } do
        assert.is_true((result.outcomes[kind] or 0) > 0, "no " .. kind)
      end
      assert.is_true(answers > 0)
      client:close()
      live:close()
      if round == 1 then
        support.eventually(function() return server:sum "fasterlua_connections" == 0 end)
        rss, threads = server:rss(), number_of_threads()
        descriptors = select(2, server:fds())
      end
    end
    support.eventually(function()
      return number_of_threads() <= threads and select(2, server:fds()) <= descriptors
    end, 10)
    if slowdown == 1 then
      assert.is_true(server:rss() < rss + 16 * 2 ^ 20,
        ("%d MB after %d MB"):format(server:rss() / 2 ^ 20, rss / 2 ^ 20))
    end
  end)
end)

-- As any thread that was given up: its memory and its processor are lost until the process ends.
describe("a pool's retired thread that still runs after 5 s", function()
  it("is visible, and has the process replaced, which loses no request", function()
    local server = support.start(pools.options(app [==[
      local own = pool("own", { size = 1, retire_rate = 3 })
      app:get("/", function() return "served" end)
      app:get("/loop", function()
        return caught(await, own:run_within(0.05, function() while true do end end))
      end)
    ]==], { drain = "1s", threads = 1 }))
    local old, client = server:server_pid(), server:connect()
    assert.equal("timeout", json(server, "/loop").kind)
    local name = ('fasterlua_pool_retired{app="%s",pool="own"}'):format(
      server.app_dir:match "[^/]*$")
    support.eventually(function() return server:metrics()[name] == 1 end, 1)
    sleep(2)
    assert.equal(old, server:server_pid())
    server:wait_log("server process is stuck[^\n]*a job that was given up and still runs", 10)
    while server:server_pid() == old do
      assert.equal("served", client:request({ path = "/" }).body)
    end
    server:wait_log("new server process serves", 10)
    support.eventually(function() return #server:pids() == 1 end, 10)
    assert.equal("served", server:get("/").body)
    assert.equal(0, server:metrics()[name])
    server:stop()
  end)
end)
