-- Pools of Lua states, as clients of a server see them.

local pools = require "support.pools"
local support = require "support"

local app, json = pools.app, pools.json
local now, slowdown = support.process.now, support.slowdown

local values_app = app(pools.values .. [==[
local own, other = pool("values", { size = 1 }), pool("other", { size = 1 })
warm(own, other)

app:get("/round-trip", function()
  local wrong = {}
  for _, name in ipairs(names) do
    local value = values[name]()
    local back = await(own:run(function(...) return ... end, value))
    local equal, where = same(value, back)
    if not equal then wrong[#wrong + 1] = name .. " " .. tostring(where) end
  end
  return { tried = #names, wrong = fl.array(wrong) }
end)
app:get("/array-mark", function()
  return { list = await(own:run(function(list) return list end, fl.array {})), map = {} }
end)
app:get("/fifty", function()
  local list = {}
  for i = 1, 50 do list[i] = i * 3 end
  local function pack(...) return { n = select("#", ...), ... } end
  local back = pack(await(own:run(function(...) return ... end, unpack(list, 1, 50))))
  for i = 1, 50 do assert(back[i] == i * 3) end
  return back.n
end)
app:get("/holes", function()
  local function pack(...) return { n = select("#", ...), ... } end
  local function count(...) return select("#", ...), ... end
  local back = pack(await(own:run(count, nil, 1, nil, nil)))
  return { back.n, back[1], back[2] == nil, back[3], back[4] == nil, back[5] == nil }
end)
app:get("/many-results", function()
  local function pack(...) return { n = select("#", ...), ... } end
  local back = pack(await(own:run(function()
    local list = {}
    for i = 1, 1000 do list[i] = i end
    return unpack(list)
  end)))
  return { back.n, back[1], back[1000] }
end)

local circle = {}
circle.self = circle
local refused = {
  ["function"] = { 1, { user = { conn = function() end } } },
  coroutine = { coroutine.create(function() end) },
  userdata = { { socket = newproxy() } },
  cycle = { circle },
  metatable = { { object = setmetatable({}, { __index = {} }) } },
}
app:get("/refused", function(req)
  local before = own:stats().submitted
  local arguments = refused[req.query.what]
  local result = caught(function() return own:run(function() end, unpack(arguments)) end)
  result.dispatched = own:stats().submitted - before
  return result
end)
app:get("/refused-upvalue", function()
  local before = own:stats().submitted
  local conn = newproxy()
  local result = caught(function() return own:run(function() return conn end) end)
  result.dispatched = own:stats().submitted - before
  return result
end)
app:get("/refused-result", function()
  local result = caught_run(own, function() return 1, { worker = coroutine.create(print) } end)
  result.next = await(own:run(function() return "runs" end))
  return result
end)
app:get("/refused-call", function()
  return { caught(own.run, own, 7), caught(own.run, own, nil), caught(own.map, own, print, 7),
    caught(own.run_within, own, -1, print) }
end)

-- functions
local factor, history = 7, { 1, 2, 3 }
local function times(n) return n * factor end
local function factorial(n) return n <= 1 and 1 or n * factorial(n - 1) end
local is_even
local function is_odd(n) return n ~= 0 and is_even(n - 1) end
function is_even(n) return n == 0 or is_odd(n - 1) end
app:get("/upvalues", function()
  local own_factor = factor
  local result = await(own:run(function(n) factor = factor + 1 return times(n) + #history end, 6))
  return { result, factor == own_factor }
end)
app:get("/upvalues-anew", function()
  local count = 0
  local function bump() count = count + 1 return count end
  local first = await(own:run(bump))
  count = 10
  return { first, await(own:run(bump)), count }
end)
app:get("/recursion", function()
  local list = { own:run(factorial, 10), own:run(is_even, 101), own:run(is_even, 102) }
  return await(gather(list))
end)
app:get("/module-function", function() return await(own:run(shapes.area, 6, 7)) end)
app:get("/module-upvalue", function()
  return await(own:run(function() return shapes.area(2, 3) .. shapes.name end))
end)
app:get("/module-state", function()
  local first = await(own:run(shapes.count))
  return { await(own:run(shapes.count)) - first, shapes.count() }
end)
app:get("/module-name", function() return await(own:run("shapes:area", 3, 4)) end)
app:get("/no-such-module", function()
  return { caught_run(own, "nowhere:area"), caught_run(own, "shapes:nothing"),
    caught_run(own, "shapes") }
end)
app:get("/standard-function", function() return await(own:run(string.upper, "abc")) end)
app:get("/handle", function()
  return await(own:run(function(p) return fl.await(p:run(function() return fl.here().pool end)) end,
    other))
end)
app:get("/handle-upvalue", function()
  return await(own:run(function() return other.name .. fl.await(other:run(string.upper, "x")) end))
end)
]==])

describe("what crosses to a pool's state", function()
  support.describe_server("and back", pools.options(values_app), function(get_server)
    it("is every kind of plain value, unchanged", function()
      local result = json(get_server(), "/round-trip")
      assert.same({}, result.wrong)
      assert.is_true(result.tried > 25)
    end)

    it("keeps the mark of lists", function()
      assert.equal('{"list":[],"map":{}}', (get_server():get("/array-mark").body
        :gsub('^{"map":{},"list":%[%]}$', '{"list":[],"map":{}}')))
    end)

    it("takes fifty arguments, nil among them, and a thousand results", function()
      assert.equal("50", get_server():get("/fifty").body)
      assert.same({ 5, 4, true, 1, true, true }, json(get_server(), "/holes"))
      assert.same({ 1000, 1, 1000 }, json(get_server(), "/many-results"))
    end)

    for what, text in pairs {
      ["function"] = "argument 2.user.conn is a function",
      coroutine = "argument 1 is a coroutine",
      userdata = "argument 1.socket is a userdata",
      cycle = "argument 1.self",
      metatable = "argument 1.object",
    } do
      it("refuses a " .. what .. " among the arguments with its path, and dispatches nothing",
        function()
          local result = json(get_server(), "/refused?what=" .. what)
          assert.is_false(result.ok)
          assert.matches(text, result.text, 1, true)
          assert.equal(0, result.dispatched)
        end)
    end

    it("refuses a function whose upvalue cannot cross, by its name", function()
      local result = json(get_server(), "/refused-upvalue")
      assert.is_false(result.ok)
      assert.matches('upvalue "conn" of function at .*app%.lua:%d+ is a userdata', result.text)
      assert.equal(0, result.dispatched)
    end)

    it("refuses results that cannot cross, with their path, and the state goes on", function()
      local result = json(get_server(), "/refused-result")
      assert.is_false(result.ok)
      assert.matches("result 2.worker is a coroutine", result.text, 1, true)
      assert.equal("runs", result.next)
    end)

    it("says what was expected where a call is wrong", function()
      local results = json(get_server(), "/refused-call")
      assert.matches('a function, or a "module:function", expected, got number', results[1].text, 1,
        true)
      assert.matches("expected, got nil", results[2].text, 1, true)
      assert.matches("a list expected, got number", results[3].text, 1, true)
      assert.matches('run_within: seconds, or a time as "500ms", expected; 0 for none; got -1',
        results[4].text, 1, true)
    end)
  end)

  support.describe_server("as a function", pools.options(values_app), function(get_server)
    it("takes its upvalues along as they are at the call, and changes only its own", function()
      assert.same({ 8 * 6 + 3, true }, json(get_server(), "/upvalues"))
      assert.same({ 1, 11, 10 }, json(get_server(), "/upvalues-anew"))
    end)

    it("may recurse, by itself and with others", function()
      assert.same({ 3628800, false, true }, json(get_server(), "/recursion"))
    end)

    it("finds functions of the app's modules by name", function()
      assert.equal("42", get_server():get("/module-function").body)
      assert.equal("6shapes", get_server():get("/module-upvalue").body)
      assert.equal("12", get_server():get("/module-name").body)
      assert.equal("ABC", get_server():get("/standard-function").body)
    end)

    it("meets the state that a module has in the pool's state", function()
      local result = json(get_server(), "/module-state")
      assert.equal(1, result[1])
    end)

    it("is not found under a wrong name, which the error names", function()
      local results = json(get_server(), "/no-such-module")
      assert.matches("nowhere", results[1].text, 1, true)
      assert.matches('"shapes:nothing" is no function', results[2].text, 1, true)
      assert.is_false(results[3].ok)
    end)

    it("may use pools whose handles crossed", function()
      assert.equal("other", get_server():get("/handle").body)
      assert.equal("otherX", get_server():get("/handle-upvalue").body)
    end)
  end)
end)

local concurrency_app = app [==[
local two = pool("two", { size = 2 })
local one = pool("one", { size = 1, queue = 3 })
warm(two, one, require("fasterlua.pool").default "cpu")
app:on_start(function() await(fl.run_blocking(shapes.area, 1, 1)) end)

app:get("/warm", function() return { ids(two), ids(one) } end)
app:get("/parallel", function()
  local began = wall()
  work(1e7)
  local rounds = 1e7 * 0.5 / (wall() - began)
  began = wall()
  work(rounds) work(rounds)
  local inline = wall() - began
  began = wall()
  await(gather(two:run(work, rounds), two:run(work, rounds)))
  return { inline = inline, pooled = wall() - began }
end)
app:get("/behind-busy", function()
  local slow = two:run(compute, 5)
  await(fl.sleep(0.05))
  local began, list = wall(), {}
  for i = 1, 100 do list[i] = two:run(shapes.area, i, 2) end
  await(gather(list))
  local took = wall() - began
  local stats = two:stats()
  await(slow)
  return { took = took, busy = stats.busy }
end)
app:get("/shares", function(req)
  local list, counts = {}, {}
  local seconds = tonumber(req.query.seconds)
  local function job(time)
    if time > 0 then fl.await(fl.sleep(time)) end
    return fl.here().thread
  end
  for i = 1, 1000 do
    list[i] = two:run(job, seconds)
    if req.query.alone then counts[i] = await(list[i]) end
  end
  local seen, shares = {}, {}
  for _, id in ipairs(await(gather(list))) do seen[id] = (seen[id] or 0) + 1 end
  for _, count in pairs(seen) do shares[#shares + 1] = count end
  return shares
end)
app:get("/one-at-a-time", function()
  local list = {}
  for i = 1, 20 do
    list[i] = two:run(function()
      running = (running or 0) + 1 -- luacheck: ignore
      local most = running
      fl.await(fl.sleep(0.005))
      most = math.max(most, running)
      running = running - 1
      return most
    end)
  end
  return await(gather(list))
end)
app:get("/awaits", function()
  return await(two:run(function(path)
    local fl = require "fasterlua"
    local a, b = fl.await(fl.gather(
      fl.spawn(function() fl.await(fl.sleep(0.01)) return "slept" end),
      fl.spawn(function()
        local text = fl.await(fl.fs.read(path))
        local done = fl.await(fl.exec { "echo", "out" })
        local c, d = fl.await(fl.gather(fl.sleep(0), fl.spawn(function() return "inner" end)))
        return { #text > 0, done.stdout, c == nil, d }
      end)))
    return { a, b }
  end, "/proc/self/stat"))
end)
app:get("/spawned-end", function()
  local result = await(one:run(function()
    fl.spawn(function()
      local ok, err = pcall(fl.await, fl.sleep(30))
      fl.log.info("spawned ended: " .. tostring(ok) .. " " .. tostring(err))
    end)
    fl.await(fl.sleep(0.01))
    return "answered"
  end))
  return result
end)
app:get("/background", function()
  return await(one:run(function()
    fl.background(function(text)
      fl.await(fl.sleep(0.02))
      fl.log.info(text)
    end, "in the background")
    fl.detach(function() fl.await(fl.sleep(0.05)) fl.log.info "detached in a pool" end)
    return "answered"
  end))
end)
app:get("/detached-goes-on", function()
  await(one:run(function()
    fl.detach(function() for i = 1, 20 do fl.await(fl.sleep(0.01)) end fl.log.info "twenty" end)
  end))
  local sum = 0
  for i = 1, 30 do sum = sum + await(one:run(shapes.area, i, 1)) end
  return sum
end)
app:get("/piled-up", function()
  for i = 1, 200 do
    await(one:run(function() fl.spawn(function() fl.await(fl.sleep(60)) end) end))
  end
  return await(one:run(function() return collectgarbage "count" end)) < 20000
end)
app:get("/queue", function()
  local running = one:run(function() fl.await(fl.sleep(0.3)) end)
  await(fl.sleep(0.05))
  local waiting = { running }
  for i = 1, 3 do waiting[i + 1] = one:run(function() return true end) end
  local result = caught(function() return one:run(function() end) end)
  result.queued, result.refused = one:stats().queued, one:stats().refused
  await(gather(waiting))
  result.after = await(one:run(function() return "room again" end))
  return result
end)
app:get("/burst", function()
  local list = {}
  for i = 1, 4 do list[i] = one:run(shapes.area, i, 1) end -- one that runs, three that wait
  return await(gather(list))
end)
app:get("/here", function()
  local here, there = fl.here(), await(two:run(function() return fl.here() end))
  return { same_process = here.process == there.process, same_thread = here.thread == there.thread,
    pool = there.pool, none = here.pool == nil }
end)
app:get("/map", function()
  local done, list = {}, {}
  for i = 1, 100 do list[i] = i end
  local results = await(two:map(function(i) return i * i end, list,
    { chunk = 7, progress = function(n, total) done[#done + 1] = n .. "/" .. total end }))
  local sum = 0
  for i = 1, 100 do assert(results[i] == i * i) sum = sum + results[i] end
  return { sum = sum, calls = #done, last = done[#done],
    empty = fl.array(await(two:map(print, {}))) }
end)
app:get("/map-fails", function()
  local submitted = two:stats().submitted
  local list = {}
  for i = 1, 1000 do list[i] = i end
  local result = caught(function()
    return await(two:map(function(i) if i == 3 then error "third" end return i end, list,
      { chunk = 1 }))
  end)
  await(fl.sleep(0.1))
  result.sent = two:stats().submitted - submitted
  return result
end)
app:get("/defaults", function()
  return { await(fl.run_in_state(function() return fl.here().pool end)),
    await(fl.run_blocking(function() return fl.here().pool end)) }
end)
app:get("/same-pool", function()
  return { same = pool("two", { size = 2 }):stats().size,
    other = caught(pool, "two", { size = 3 }), bad = caught(pool, "x", { sise = 3 }),
    wrong = caught(pool, "x", { size = 0 }), nameless = caught(fl.state_pool, {}) }
end)
app:get("/close", function()
  local closing = pool("closing", { size = 1 })
  local running = closing:run(function() fl.await(fl.sleep(0.1)) return "ran" end)
  local queued = closing:run(function() return "ran too" end)
  closing:close()
  local result = caught(function() return closing:run(function() end) end)
  result.ran, result.ran_too = await(gather(running, queued))
  result.gone = until_true(function() return closing:stats().threads == 0 end)
  return result
end)
app:get("/stats", function()
  local own = pool("statistics", { size = 1 })
  local empty = own:stats()
  for i = 1, 50 do await(own:run(shapes.area, i, i)) end
  await(own:run(compute, 0.05))
  pcall(await, own:run(shapes.fail))
  local s = own:stats()
  s.none_yet = empty.wait_p50 == nil and empty.crossover == nil
  own:close()
  until_true(function() return own:stats().threads == 0 end)
  return s
end)
]==]

support.describe_server("a pool", pools.options(concurrency_app), function(get_server)
  it("says where code runs", function()
    assert.same({ same_process = true, same_thread = false, pool = "two", none = true },
      json(get_server(), "/here"))
  end)

  it("computes on several cores at once", function()
    if slowdown > 1 then return pending("a sanitizer's run leaves no core idle") end
    local best = math.huge
    for _ = 1, 5 do -- others use the cores too
      local result = json(get_server(), "/parallel")
      best = math.min(best, result.pooled / result.inline)
      if best < 0.8 then
        break
      end
    end
    assert.is_true(best < 0.9, "pooled takes " .. best .. " of the time inline")
  end)

  it("lets no job wait behind a busy state", function()
    local result = get_server():request { path = "/behind-busy", timeout = 30 * slowdown }:json()
    assert.is_true(result.took < 0.5 * slowdown, "took " .. result.took)
    assert.is_true(result.busy >= 1)
  end)

  for title, query in pairs { ["at once"] = "seconds=0.002",
    ["one by one"] = "seconds=0&alone=1" } do
    it("shares equal jobs out to within a tenth, " .. title, function()
      local shares = json(get_server(), "/shares?" .. query)
      assert.equal(2, #shares)
      assert.is_true(math.abs(shares[1] - 500) <= 50, shares[1] .. " of 1000")
    end)
  end

  it("runs one job at a time in a state", function()
    for _, most in ipairs(json(get_server(), "/one-at-a-time")) do
      assert.equal(1, most)
    end
  end)

  it("lets jobs await whatever handlers can", function()
    assert.same({ "slept", { true, "out\n", true, "inner" } }, json(get_server(), "/awaits"))
  end)

  it("ends the tasks that a job has spawned with it", function()
    local began = now()
    assert.equal("answered", get_server():get("/spawned-end").body)
    get_server():wait_log("spawned ended: false cancelled: request ended")
    assert.is_true(now() - began < 5 * slowdown)
  end)

  it("runs background and detached tasks after the job", function()
    assert.equal("answered", get_server():get("/background").body)
    get_server():wait_log("in the background")
    get_server():wait_log("detached in a pool")
  end)

  it("goes on with detached tasks between other jobs", function()
    assert.equal("465", get_server():get("/detached-goes-on").body)
    get_server():wait_log("twenty")
  end)

  it("does not pile up what jobs that never wait have spawned", function()
    assert.equal("true", get_server():get("/piled-up").body)
  end)

  it("refuses what does not fit in its queue", function()
    local result = json(get_server(), "/queue")
    assert.is_false(result.ok)
    assert.equal("queue_full", result.kind)
    assert.equal(503, result.status)
    assert.equal('the queue of pool "one" is full (3 jobs)', result.text)
    assert.equal(3, result.queued)
    assert.equal("room again", result.after)
  end)

  it("counts as waiting only what no free state takes", function()
    assert.same({ 1, 2, 3, 4 }, json(get_server(), "/burst"))
  end)

  it("maps a list, in order, in chunks, with progress", function()
    assert.same({ sum = 338350, calls = 15, last = "100/100", empty = {} },
      json(get_server(), "/map"))
  end)

  it("stops a map at its first error", function()
    local result = json(get_server(), "/map-fails")
    assert.matches("third", result.text, 1, true)
    assert.is_true(result.sent < 100, result.sent .. " jobs")
  end)

  it("has two defaults", function()
    assert.same({ "cpu", "blocking" }, json(get_server(), "/defaults"))
  end)

  it("is one for all states of an app, and says which option differs or is wrong", function()
    local result = json(get_server(), "/same-pool")
    assert.equal(2, result.same)
    assert.matches('there is a pool "two" with another size', result.other.text, 1, true)
    assert.matches('unknown option "sise"', result.bad.text, 1, true)
    assert.matches('"size" must be an integer from 1 to 1024, got 0', result.wrong.text, 1, true)
    assert.matches('the option "name" is missing', result.nameless.text, 1, true)
  end)

  it("runs what is queued when it is closed, refuses more and ends its threads", function()
    local result = json(get_server(), "/close")
    assert.equal("pool_closed", result.kind)
    assert.equal("ran", result.ran)
    assert.equal("ran too", result.ran_too)
    assert.is_true(result.gone)
  end)

  it("tells what it does", function()
    local s = json(get_server(), "/stats")
    assert.is_true(s.none_yet)
    assert.equal(52, s.submitted)
    assert.equal(51, s.completed)
    assert.equal(1, s.failed)
    assert.equal(52, s.submitted - s.queued - s.busy)
    assert.is_true(s.wait_p50 > 0 and s.wait_p50 <= s.wait_p99)
    assert.is_true(s.run_p50 < 0.01 * slowdown, "run_p50 " .. s.run_p50)
    assert.is_true(s.run_p99 > 0.03, "run_p99 " .. s.run_p99)
    assert.is_true(s.crossover > 0 and s.crossover < 0.05 * slowdown, "crossover " .. s.crossover)
    assert.is_true(s.running >= 0.05)
  end)

  it("is in /metrics", function()
    json(get_server(), "/warm")
    local metrics = get_server():metrics()
    local own = 'app="app",pool="two"'
    local labels
    for key in pairs(metrics) do
      labels = labels or key:match('^fasterlua_pool_threads{(app="[^"]*",pool="two")}')
    end
    own = labels or own
    assert.equal(2, metrics["fasterlua_pool_threads{" .. own .. "}"])
    assert.equal(0, metrics["fasterlua_pool_busy{" .. own .. "}"])
    assert.equal(0, metrics["fasterlua_pool_queued{" .. own .. "}"])
    assert.equal(0, metrics["fasterlua_pool_retired{" .. own .. "}"])
    local done = metrics["fasterlua_pool_jobs_total{" .. own .. ',outcome="completed"}']
    assert.is_true(done > 0)
    assert.is_true(metrics["fasterlua_pool_wait_seconds_count{" .. own .. "}"] >= done)
    assert.is_true(metrics["fasterlua_pool_run_seconds_sum{" .. own .. "}"] > 0)
    assert.is_number(metrics['fasterlua_pool_jobs_total{app="",pool="cpu",outcome="refused"}'])
  end)
end)
