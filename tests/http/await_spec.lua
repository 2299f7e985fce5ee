-- await, futures and tasks, as clients of a server see them.

local support = require "support"

local sleep, now = support.process.sleep, support.process.now

local app = [[
local fl = require "fasterlua"
local await, async, gather, spawn = fl.await, fl.async, fl.gather, fl.spawn
local app = fl.app { title = "await" }

local after = async(function(seconds, value)
  await(fl.sleep(seconds))
  return value
end)

local failing = async(function(seconds, message)
  await(fl.sleep(seconds))
  error(message, 0)
end)

local function note(text) fl.log.info("note: " .. text) end

app:get("/sleep", function() return await(fl.sleep(0.05)) == nil and "slept" end)
app:get("/value", function() return { await(1), await "x", await(nil) == nil, await(false) } end)
app:get("/values", function()
  local count, a, b, c = await(spawn(function(...) return select("#", ...), ... end, 1, nil, 3))
  return { count, a, tostring(b), c }
end)
app:get("/sleep-long", function() await(fl.sleep(2)) return "slept long" end)
app:get("/gather", function()
  local order = {}
  local step = async(function(seconds, value)
    order[#order + 1] = "begin " .. value
    await(fl.sleep(seconds))
    order[#order + 1] = "end " .. value
    return value
  end)
  local a, b, c = await(gather(step(0.06, 1), step(0.03, 2), step(0.09, 3)))
  return { values = { a, b, c }, order = table.concat(order, ", ") }
end)
app:get("/gather-list", function()
  local list, begun, begun_at_first_end = {}, 0, nil
  for i = 1, 100 do
    list[i] = spawn(function()
      begun = begun + 1
      await(fl.sleep(0.05))
      begun_at_first_end = begun_at_first_end or begun
      return i
    end)
  end
  return { values = await(gather(list)), begun_at_first_end = begun_at_first_end }
end)
app:get("/gather-empty", function() return fl.array(await(gather {})) end)
app:get("/gather-error", function()
  local others = after(0.05, "cancelled")
  local ok, err = pcall(function() return await(gather(others, failing(0.01, "first"))) end)
  local _, reason = pcall(await, others)
  return { ok = ok, err = tostring(err), other = tostring(reason) }
end)
local db = fl.db "sqlite::memory:"
local function value(sql) return db:value(sql) end
local function end_of(f) return tostring(select(2, pcall(await, f))) end
app:get("/gather-ops", function()
  local a, b, c, d, e = await(gather(after(0.03, "task"), value "select 'query'", fl.sleep(0.01),
    "plain", value "select null"))
  return { values = { a, b, c == nil, d, e == nil }, list = await(gather {
    value "select 1", value "select 2", value "select 3", value "select 4" }) }
end)
app:get("/gather-ops-error", function()
  local slow, task = fl.sleep(5), after(5)
  local ok, err = pcall(await, gather(slow, value "select nonsense", task))
  return { ok = ok, kind = err.kind, slow = end_of(slow), task = end_of(task) }
end)
app:get("/gather-ops-cancel", function()
  local a, b, shared = fl.sleep(5), fl.sleep(5), fl.sleep(0.01)
  local other = spawn(function() await(shared) return "others want it" end)
  await(fl.sleep(0))
  local all = gather(a, b, shared)
  await(fl.sleep(0))
  local did = all:cancel()
  return { did = did, all = end_of(all), a = end_of(a), b = end_of(b), other = await(other) }
end)
app:get("/race-ops", function()
  local slow = fl.sleep(5)
  local first = await(fl.race(slow, value "select 'quick'"))
  return { first = first, slow = end_of(slow) }
end)
app:get("/race", function()
  local slow = after(5, "slow")
  local first = await(fl.race(slow, after(0.01, "quick")))
  return { first = first, slow = slow:done() }
end)
app:get("/all-settled", function()
  return await(fl.all_settled(after(0.01, "good"), failing(0.01, "bad")))
end)
app:get("/timeout", function()
  local ok, err = pcall(await, fl.timeout(0.02, fl.sleep(5)))
  return { ok = ok, kind = err.kind, text = tostring(err),
    inside = await(fl.timeout(1, after(0, 7))) }
end)
app:get("/timeout-raised", function() return await(fl.timeout(0.02, fl.sleep(5))) end)
app:get("/cancel", function()
  local future = after(5, "never")
  local was = future:cancel()
  local ok, err = pcall(await, future)
  return { was = was, again = future:cancel(), ok = ok, kind = err.kind }
end)
app:get("/order", function()
  local order = {}
  local function append(text) order[#order + 1] = text end
  local one = spawn(function() append "one" await(fl.sleep(0)) append "three" end)
  append "zero"
  local two = spawn(function() append "two" end)
  await(gather(one, two))
  return table.concat(order, " ")
end)
app:get("/unawaited-error", function()
  spawn(function() error "nobody waits for me" end)
  return "answered"
end)
app:get("/awaited-error", function()
  local ok, err = pcall(await, spawn(function() error("awaited", 0) end))
  return tostring(ok) .. " " .. err
end)
app:get("/detach", function()
  fl.detach(function() await(fl.sleep(0.1)) note "detached has run" end)
  return "answered"
end)
app:get("/detach-error", function()
  fl.detach(function() await(fl.sleep(0.01)) error "detached has failed" end)
  return "answered"
end)
app:get("/left-running", function()
  spawn(function()
    local ok, err = pcall(await, fl.sleep(5))
    note("left running: " .. tostring(ok) .. " " .. tostring(err))
    ok = pcall(await, fl.sleep(5))
    note("again: " .. tostring(ok))
  end)
  await(fl.sleep(0.01))
  return "answered"
end)
app:get("/background", function()
  fl.background(function(text) await(fl.sleep(0.02)) note(text) end, "background has run")
  note "handler returns"
  return "answered"
end)
app:get("/background-error", function()
  fl.background(function() error "background has failed" end)
  return "answered"
end)
app:get("/background-after-bytes", function()
  fl.background(function() note "after the last byte" end)
  return ("x"):rep(16 * 1024 * 1024)
end)

-- across coroutines, protected calls, iterators, metamethods
app:get("/wrap", function()
  local next_row = coroutine.wrap(function()
    for i = 1, 3 do coroutine.yield(await(after(0.005, i * 10))) end
  end)
  return { next_row(), next_row(), next_row() }
end)
app:get("/nested-wrap", function()
  local outer = coroutine.wrap(function()
    local inner = coroutine.wrap(function()
      coroutine.yield(await(after(0.005, "deep")))
    end)
    coroutine.yield(inner())
  end)
  return outer()
end)
app:get("/iterator", function()
  local function numbers(last, i)
    if i < last then return await(after(0.002, i + 1)) end
  end
  local sum = 0
  for i in numbers, 4, 0 do sum = sum + i end
  return tostring(sum)
end)
local shared = coroutine.wrap(function()
  for i = 1, math.huge do
    await(fl.sleep(0.01))
    coroutine.yield(tostring(i))
  end
end)
app:get("/shared-generator", function() return shared() end)
app:get("/generator-left", function()
  local generator = coroutine.wrap(function() await(fl.sleep(5)) end)
  local ok, err = pcall(generator)
  note("generator: " .. tostring(ok) .. " " .. tostring(err))
end)
app:get("/status", function()
  local co = coroutine.create(function() await(fl.sleep(0.005)) coroutine.yield "x" return "y" end)
  local list = {}
  for _ = 1, 3 do
    local _, value = coroutine.resume(co)
    list[#list + 1] = tostring(value) .. " " .. coroutine.status(co)
  end
  return list
end)
app:get("/running", function()
  local before = coroutine.running()
  await(fl.sleep(0.005))
  return tostring(before == coroutine.running() and before ~= nil)
end)
app:get("/keyed", function()
  keyed = keyed or setmetatable({}, { __mode = "k" })
  local co = coroutine.running()
  local seen = keyed[co]
  keyed[co] = true
  return tostring(seen)
end)
app:get("/metamethods", function()
  local object = setmetatable({}, {
    __index = function(_, key) return await(after(0.002, key .. "!")) end,
    __add = function() return await(after(0.002, 3)) end,
    __call = function(_, x) return await(after(0.002, x)) end,
    __lt = function() return await(after(0.002, true)) end,
    __concat = function() return await(after(0.002, "joined")) end,
  })
  return { object.name, object + object, object(5), object < object, object .. "" }
end)
app:get("/pcall", function()
  local ok, err = pcall(function() await(fl.sleep(0.002)) error("inside", 0) end)
  local ok2, err2 = xpcall(function() await(fl.sleep(0.002)) error("x", 0) end,
    function(e) return e .. "y" end)
  return { ok, err, ok2, err2 }
end)
app:get("/sort", function()
  local list = { 3, 1, 2 }
  table.sort(list, function(a, b)
    local is_less = await(after(0.001, a < b))
    return is_less
  end)
end)
app:get("/gsub", function()
  return (("abc"):gsub(".", function()
    local x = await(after(0.001, "x"))
    return x
  end))
end)
app:get("/sort-done", function()
  local future = after(0, true)
  await(future)
  local list = { 3, 1, 2 }
  table.sort(list, function(a, b) return await(future) and a < b end)
  return list
end)
app:get("/forgot-index", function() return after(0, {}).name end)
app:get("/forgot-call", function() local x = after(0)() return x end)
app:get("/forgot-concat", function() return "a" .. after(0) end)
app:get("/stray-yield", function() coroutine.yield(1) return "?" end)

-- time and clients
app:get("/limited", { timeout = 0.1 }, function() await(fl.sleep(5)) return "late" end)
app:get("/limited-stubborn", { timeout = 0.1 }, function()
  for _ = 1, 3 do pcall(await, fl.sleep(5)) end
  note "stubborn ends"
  return "late"
end)
app:get("/limited-clean-up", { timeout = 0.1 }, function()
  local ok, err = pcall(await, fl.sleep(5))
  fl.shield(function() await(fl.sleep(0.03)) note("cleaned up: " .. err.reason) end)
  error(err)
end)

local function slow(name)
  return function()
    local ok, err = pcall(await, fl.sleep(1.2))
    note(name .. (ok and " ran to its end" or " was cancelled: " .. tostring(err.reason)))
    return name
  end
end
app:get("/leave", slow "GET")
app:head("/leave", slow "HEAD")
app:post("/leave", slow "POST")
app:get("/leave-not", { cancel = false }, slow "uncancelled GET")
app:post("/leave-cancel", { cancel = true }, slow "cancelled POST")
app:get("/quick", function() return "quick" end)
app:get("/leave-shield", function()
  local ok, err = pcall(await, fl.sleep(2))
  fl.shield(function() await(fl.sleep(0.05)) note "shield ran" end)
  local again = pcall(await, fl.sleep(0))
  note("after the shield: " .. tostring(again))
end)
app:get("/leave-loop", function()
  local count = 0
  while not pcall(await, fl.sleep(2)) and count < 100 do count = count + 1 end
  note("the loop went round " .. count .. " times")
end)
app:get("/leave-children", function()
  await(gather(
    spawn(function() local ok = pcall(await, fl.sleep(3)) note("child one " .. tostring(ok)) end),
    spawn(function() local ok = pcall(await, fl.sleep(3)) note("child two " .. tostring(ok)) end)))
end)

-- shared between requests
local lock, semaphore, queue, event = fl.lock(), fl.semaphore(2), fl.queue(2), fl.event()
local inside, most = 0, 0
local function enter()
  inside = inside + 1
  most = math.max(most, inside)
  await(fl.sleep(0.02))
  inside = inside - 1
end
app:get("/lock", function() lock:with(enter) return tostring(most) end)
app:get("/semaphore", function() semaphore:with(enter) return tostring(most) end)
app:post("/most", function() most = 0 return "0" end)
app:get("/lock-error", function() lock:with(function() await(fl.sleep(0.005)) error "x" end) end)
app:get("/lock-hold", function() lock:with(function() await(fl.sleep(3)) end) end)
app:get("/queue/get", function() return await(queue:get()) end)
app:post("/queue/put/{item}", function(req) await(queue:put(req.params.item)) return "put" end)
app:get("/event/wait", function() await(event:wait()) return "seen" end)
app:post("/event/set", function() event:set() return "set" end)
app:post("/event/clear", function() event:clear() return "cleared" end)

-- errors
local function third() await(fl.sleep(0.005)) error "deep in the third" end
local second = async(function() await(fl.sleep(0.001)) third() end)
local function wait_for(future) local value = await(future) return value end
local first = async(function() local value = wait_for(second()) return value end)
app:get("/trace", function() local value = await(first()) return value end)

return app
]]

local one_thread = { threads = 1 }

support.describe_server("await", { app = app, settings = one_thread }, function(get_server)
  local function json(path)
    local response = get_server():get(path)
    assert.equal(200, response.status, response.body)
    return response:json()
  end

  -- The answer to `path`, given while a request sent earlier to `slower` still waits for its own.
  local function answered_before(path, slower)
    local waiting = get_server():connect()
    waiting:send(("GET %s HTTP/1.1\r\nHost: a\r\n\r\n"):format(slower))
    local response = get_server():get(path)
    assert.is_nil((waiting:receive(nil, 0)), path .. " was answered after " .. slower)
    waiting:reset()
    return response
  end

  -- Waits for a line that an app wrote with note().
  local function wait_note(text)
    get_server():wait_log("note: " .. text)
  end

  local function has_note(text)
    return get_server():log():find("note: " .. text, 1, true) ~= nil
  end

  describe("of a future", function()
    it("waits as long as it takes", function()
      local start = now()
      assert.equal("slept", answered_before("/sleep", "/sleep-long").body)
      assert.is_true(now() - start >= 0.05, now() - start)
    end)

    it("gives all values", function()
      assert.same({ 3, 1, "nil", 3 }, json "/values")
    end)

    it("of anything else gives it back", function()
      assert.same({ 1, "x", true, false }, json "/value")
    end)
  end)

  describe("gather", function()
    it("waits for all at once", function()
      local seen = json "/gather"
      assert.same({ 1, 2, 3 }, seen.values)
      assert.equal("begin 1, begin 2, begin 3, end 2, end 1, end 3", seen.order)
    end)

    it("takes a list", function()
      local seen = json "/gather-list"
      assert.equal(100, #seen.values)
      assert.equal(77, seen.values[77])
      assert.equal(100, seen.begun_at_first_end)
      assert.equal("[]", get_server():get("/gather-empty").body)
    end)

    it("takes operations, tasks and values beside each other", function()
      local seen = json "/gather-ops"
      assert.same({ "task", "query", true, "plain", true }, seen.values)
      assert.same({ 1, 2, 3, 4 }, seen.list)
    end)

    it("raises the first error of an operation and cancels the rest, of either kind", function()
      assert.same({ ok = false, kind = "db", slow = "cancelled", task = "cancelled" },
        json "/gather-ops-error")
    end)

    it("cancels its operations when it is cancelled, but for what others wait for", function()
      assert.same({ did = true, all = "cancelled", a = "cancelled", b = "cancelled",
        other = "others want it" }, json "/gather-ops-cancel")
    end)

    it("raises the first error and cancels the rest", function()
      local seen = json "/gather-error"
      assert.equal("first", seen.err)
      assert.matches("cancelled", seen.other)
    end)
  end)

  it("race takes the first and cancels the others", function()
    assert.same({ first = "quick", slow = true }, json "/race")
    assert.same({ first = "quick", slow = "cancelled" }, json "/race-ops")
  end)

  it("all_settled tells how each ended", function()
    assert.same({ { ok = true, value = "good" }, { ok = false, error = "bad" } },
      json "/all-settled")
  end)

  describe("timeout", function()
    it("raises an error of its kind", function()
      local seen = json "/timeout"
      assert.is_false(seen.ok)
      assert.equal("timeout", seen.kind)
      assert.matches("0.02", seen.text)
      assert.equal(7, seen.inside)
    end)

    it("is 504 when nobody catches it", function()
      assert.equal(504, get_server():get("/timeout-raised").status)
    end)
  end)

  it("cancel ends a future at once", function()
    assert.same({ was = true, again = false, ok = false, kind = "cancelled" }, json "/cancel")
  end)

  it("a task starts when the one that made it waits", function()
    assert.equal("zero one two three", get_server():get("/order").body)
  end)

  describe("an error", function()
    it("that nobody awaited is logged", function()
      assert.equal("answered", get_server():get("/unawaited-error").body)
      local log = get_server():wait_log "(unhandled[^\n]*\n[^\n]*nobody waits for me)"
      assert.matches("GET /unawaited%-error", log)
    end)

    it("that was awaited is not", function()
      local at = #get_server():log()
      assert.equal("false awaited", get_server():get("/awaited-error").body)
      sleep(0.05)
      assert.is_nil(get_server():log():sub(at + 1):find "unhandled")
    end)

    it("of a detached task is logged", function()
      get_server():get "/detach-error"
      get_server():wait_log "detached has failed"
    end)

    it("in the background is logged", function()
      assert.equal("answered", get_server():get("/background-error").body)
      get_server():wait_log "background has failed"
    end)

    it("is logged with its whole way through awaits, and not told to the client", function()
      local response = get_server():get "/trace"
      assert.equal('{"detail":"Internal Server Error"}', response.body)
      local log = get_server():wait_log "(GET /trace[^\n]*\n.*)$"
      assert.matches("app.lua:%d+: deep in the third", log)
      assert.matches("in function 'third'", log)
      assert.matches("awaited by.*app.lua:%d+: in function 'wait_for'", log)
      assert.matches("awaited by.*awaited by.*app.lua:%d+: in function", log)
      local _, awaited = log:gsub("awaited by", "")
      assert.equal(2, awaited)
    end)
  end)

  describe("tasks", function()
    it("that are detached outlive their request", function()
      assert.equal("answered", get_server():get("/detach").body)
      wait_note "detached has run"
    end)

    it("otherwise end with it, at each await again", function()
      assert.equal("answered", answered_before("/left-running", "/sleep-long").body)
      wait_note "left running: false cancelled"
      wait_note "again: false"
    end)

    it("in the background run after the response", function()
      assert.equal("answered", get_server():get("/background").body)
      wait_note "handler returns"
      wait_note "background has run"
    end)

    it("in the background wait for its last byte", function()
      local client = get_server():connect { receive_buffer = 4096 }
      client:send "GET /background-after-bytes HTTP/1.1\r\nHost: a\r\n\r\n"
      assert.is_truthy(client:receive("\r\n\r\n"))
      sleep(0.1)
      assert.is_false(has_note "after the last byte")
      for _ = 1, 256 do assert.is_truthy(client:receive(65536)) end
      wait_note "after the last byte"
    end)
  end)

  describe("works across", function()
    it("coroutine.wrap", function()
      assert.same({ 10, 20, 30 }, json "/wrap")
      assert.equal("deep", get_server():get("/nested-wrap").body)
    end)

    it("generators that requests share, one at a time", function()
      local first = get_server():get("/shared-generator").body
      assert.equal(tonumber(first) + 1, tonumber(get_server():get("/shared-generator").body))
      local clients = {}
      for i = 1, 2 do
        clients[i] = get_server():connect()
        clients[i]:send "GET /shared-generator HTTP/1.1\r\nHost: a\r\n\r\n"
      end
      assert.equal(200, clients[1]:response().status)
      assert.equal(500, clients[2]:response().status)
      get_server():wait_log "cannot resume a coroutine that awaits a future"
      assert.equal(200, get_server():get("/shared-generator").status)
    end)

    it("coroutines that a cancelled task leaves", function()
      local client = get_server():connect()
      client:send "GET /generator-left HTTP/1.1\r\nHost: a\r\n\r\n"
      sleep(0.03)
      client:reset()
      wait_note "generator: false cancelled: client left"
    end)

    it("coroutine.resume, status and running", function()
      assert.same({ "x suspended", "y dead", "cannot resume dead coroutine dead" }, json "/status")
      assert.equal("true", get_server():get("/running").body)
    end)

    it("iterators", function()
      assert.equal("10", get_server():get("/iterator").body)
    end)

    it("metamethods", function()
      assert.same({ "name!", 3, 5, true, "joined" }, json "/metamethods")
    end)

    it("pcall and xpcall", function()
      assert.same({ false, "inside", false, "xy" }, json "/pcall")
    end)
  end)

  describe("names its cause where LuaJIT cannot suspend:", function()
    it("in table.sort", function()
      assert.equal(500, get_server():get("/sort").status)
      get_server():wait_log "app.lua:%d+: await cannot be used here.-table.sort"
    end)

    it("in gsub", function()
      assert.equal(500, get_server():get("/gsub").status)
      get_server():wait_log "GET /gsub[^\n]*\n[^\n]*await cannot be used here.-gsub"
    end)

    it("but not for a future that is done", function()
      assert.same({ 1, 2, 3 }, json "/sort-done")
    end)
  end)

  it("gives no request a coroutine that another one's code has seen", function()
    local client = get_server():connect()
    for _ = 1, 20 do
      assert.equal("nil", client:request({ path = "/keyed" }).body)
    end
  end)

  it("forgotten is told", function()
    for name, what in pairs { index = "indexing", call = "calling", concat = "concatenating" } do
      assert.equal(500, get_server():get("/forgot-" .. name).status)
      get_server():wait_log("app.lua:%d+: " .. what .. ".-did you forget await%?")
    end
  end)

  it("is not coroutine.yield", function()
    assert.equal(500, get_server():get("/stray-yield").status)
    get_server():wait_log "coroutine.yield outside of a coroutine of your own"
  end)

  describe("a route's timeout", function()
    it("is 504, and the connection goes on", function()
      local client = get_server():connect()
      local response = client:request { path = "/limited" }
      assert.equal(504, response.status)
      assert.same({ detail = "Gateway Timeout" }, response:json())
      assert.equal("quick", client:request({ path = "/quick" }).body)
    end)

    it("does not wait for the handler's end", function()
      assert.equal(504, answered_before("/limited", "/sleep-long").status)
    end)

    it("ends a handler that swallows it", function()
      local response = answered_before("/limited-stubborn", "/sleep-long")
      assert.is_true(response.status == 504 or response.body == "late")
      wait_note "stubborn ends"
    end)

    it("lets it clean up", function()
      assert.equal(504, get_server():get("/limited-clean-up").status)
      wait_note "cleaned up: timeout"
    end)
  end)

  describe("when the client leaves,", function()
    local function leave(how, method, path)
      local client = get_server():connect()
      client:send(("%s %s HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n"):format(method, path))
      sleep(0.05)
      client[how](client)
      return client
    end

    it("GET is cancelled by a reset", function()
      leave("reset", "GET", "/leave")
      wait_note "GET was cancelled: client left"
    end)

    it("HEAD too", function()
      leave("reset", "HEAD", "/leave")
      wait_note "HEAD was cancelled: client left"
    end)

    it("GET is cancelled by a close, after half a second", function()
      local at, start = #get_server():log(), now()
      leave("close", "GET", "/leave")
      support.eventually(function()
        return get_server():log():find("GET was cancelled", at, true)
      end)
      assert.is_true(now() - start > 0.4, now() - start)
    end)

    it("POST runs to its end", function()
      leave("reset", "POST", "/leave")
      wait_note "POST ran to its end"
    end)

    it("the route may say otherwise", function()
      leave("reset", "GET", "/leave-not")
      leave("reset", "POST", "/leave-cancel")
      wait_note "uncancelled GET ran to its end"
      wait_note "cancelled POST was cancelled: client left"
    end)

    it("a half-close alone lets a quick answer through", function()
      local client = get_server():connect()
      client:send "GET /sleep HTTP/1.1\r\nHost: a\r\n\r\nGET /quick HTTP/1.1\r\nHost: a\r\n\r\n"
      client:half_close()
      assert.equal("slept", client:response().body)
      assert.equal("quick", client:response().body)
      assert.is_true(client:closed())
    end)

    it("a half-close cancels a slow GET", function()
      local at = #get_server():log()
      leave("half_close", "GET", "/leave")
      support.eventually(function()
        return get_server():log():find("GET was cancelled", at, true)
      end)
    end)

    it("a shield lets it clean up", function()
      leave("reset", "GET", "/leave-shield")
      wait_note "shield ran"
      wait_note "after the shield: false"
    end)

    it("a loop around pcall ends", function()
      leave("reset", "GET", "/leave-loop")
      wait_note "the loop went round 100 times"
    end)

    it("its tasks are cancelled too", function()
      leave("reset", "GET", "/leave-children")
      wait_note "child one false"
      wait_note "child two false"
    end)

    it("a lock it held is free again", function()
      leave("reset", "GET", "/lock-hold")
      assert.equal(200, get_server():get("/lock").status)
    end)
  end)

  describe("between requests", function()
    -- Sends the same request on `count` connections, then reads all answers.
    local function at_once(path, count)
      local clients, answers = {}, {}
      for i = 1, count do
        clients[i] = get_server():connect()
        clients[i]:send("GET " .. path .. " HTTP/1.1\r\nHost: a\r\n\r\n")
      end
      for i = 1, count do answers[i] = assert(clients[i]:response()) end
      return answers
    end

    local function most_inside(path)
      get_server():post "/most"
      local most = 0
      for _, response in ipairs(at_once(path, 8)) do
        most = math.max(most, tonumber(response.body))
      end
      return most
    end

    it("a lock lets one in", function()
      assert.equal(1, most_inside "/lock")
    end)

    it("a semaphore lets so many in", function()
      assert.equal(2, most_inside "/semaphore")
    end)

    it("a lock is released by an error", function()
      assert.equal(500, get_server():get("/lock-error").status)
      assert.equal(200, get_server():get("/lock").status)
    end)

    it("a queue hands over", function()
      local getter = get_server():connect()
      getter:send "GET /queue/get HTTP/1.1\r\nHost: a\r\n\r\n"
      assert.is_nil(getter:receive(nil, 0.05))
      assert.equal("put", get_server():post("/queue/put/one").body)
      assert.equal("one", getter:response().body)
    end)

    it("a queue that is full holds back", function()
      for _, item in ipairs { "1", "2" } do get_server():post("/queue/put/" .. item) end
      local putter = get_server():connect()
      putter:send "POST /queue/put/3 HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n"
      assert.is_nil(putter:receive(nil, 0.05))
      for _, item in ipairs { "1", "2", "3" } do
        assert.equal(item, get_server():get("/queue/get").body)
      end
      assert.equal("put", putter:response().body)
    end)

    it("a getter that left takes nothing", function()
      local gone = get_server():connect()
      gone:send "GET /queue/get HTTP/1.1\r\nHost: a\r\n\r\n"
      sleep(0.03)
      gone:reset()
      sleep(0.03)
      get_server():post "/queue/put/kept"
      assert.equal("kept", get_server():get("/queue/get").body)
    end)

    it("an event lets all go", function()
      get_server():post "/event/clear"
      local clients = {}
      for i = 1, 5 do
        clients[i] = get_server():connect()
        clients[i]:send "GET /event/wait HTTP/1.1\r\nHost: a\r\n\r\n"
      end
      assert.is_nil(clients[1]:receive(nil, 0.05))
      get_server():post "/event/set"
      for i = 1, 5 do assert.equal("seen", clients[i]:response().body) end
      assert.equal("seen", get_server():get("/event/wait").body)
    end)
  end)

  describe("costs little:", function()
    it("2,000 sleepers on one thread all wake in time", function()
      local clients, start = {}, now()
      for i = 1, 500 do
        clients[i] = get_server():connect()
        clients[i]:send(("GET /sleep HTTP/1.1\r\nHost: a\r\n\r\n"):rep(4))
      end
      for i = 1, 500 do
        for _, response in ipairs(assert(clients[i]:responses(4))) do
          assert.equal("slept", response.body)
        end
      end
      assert.is_true(now() - start < 3 * support.slowdown, now() - start)
    end)

    it("a handler that waits holds up nobody", function()
      assert.equal("quick", answered_before("/quick", "/sleep-long").body)
    end)
  end)
end)

support.describe_server("clients that leave at any moment", { app = [[
local fl = require "fasterlua"
local await, gather, spawn = fl.await, fl.gather, fl.spawn
local app = fl.app { title = "leaving" }
local lock, queue = fl.lock(), fl.queue(1)

local function nap(seconds) await(fl.sleep(seconds or 0.01)) end
app:get("/nap", function() nap() return "nap" end)
app:get("/gather", function() await(gather(spawn(nap), spawn(nap, 0.02))) return "gathered" end)
app:get("/timeout", function() pcall(await, fl.timeout(0.01, fl.sleep(1))) return "timed" end)
app:get("/lock", function() lock:with(nap, 0.001) return "locked" end)
app:get("/shield", function() fl.shield(nap) return "shielded" end)
app:get("/background", function() fl.background(nap) nap() return "b" end)
app:get("/detach", function() fl.detach(nap) return "d" end)
app:get("/left", function() spawn(nap, 0.05) nap(0.001) return "l" end)
app:get("/raise", function() nap(0.005) error "left or not" end)
app:get("/queue", function() await(fl.race(queue:get(), fl.sleep(0.01))) return "q" end)
app:get("/generator", function()
  for i in coroutine.wrap(function() for i = 1, 4 do nap(0.003) coroutine.yield(i) end end) do
    nap(0.001 * i)
  end
  return "g"
end)
app:get("/stream", function()
  return fl.stream(function(write) for _ = 1, 20 do write(("x"):rep(20000)) nap(0.001) end end)
end)
app:get("/flood", function()
  return fl.stream(function(write) for _ = 1, 100 do write(("x"):rep(65536)) end end)
end)
app:get("/large", function() nap(0.002) return ("x"):rep(4000000) end)
app:post("/text", function(req) return req:text() end)
app:post("/echo", function(req)
  return fl.stream(function(write) for chunk in req:chunks() do write(chunk) nap(0.001) end end)
end)
app:post("/ignore", function() nap() return "i" end)
return app
]], settings = { threads = 1 } }, function(get_server)
  local paths = { "nap", "gather", "timeout", "lock", "shield", "background", "detach", "left",
    "raise", "queue", "generator", "stream", "flood", "large", "text", "echo", "ignore" }
  local body = ("y"):rep(3000)

  local function message(path)
    if path ~= "text" and path ~= "echo" and path ~= "ignore" then
      return ("GET /%s HTTP/1.1\r\nHost: a\r\n\r\n"):format(path)
    end
    local framing = math.random(2) == 1 and "Content-Length: %d\r\n\r\n%s"
      or "Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n"
    return ("POST /%s HTTP/1.1\r\nHost: a\r\n"):format(path) .. framing:format(#body, body)
  end

  local function begin()
    local client, parts = get_server():connect { receive_buffer = 8192 }, {}
    for i = 1, math.random(3) do parts[i] = message(paths[math.random(#paths)]) end
    local bytes = table.concat(parts)
    client:send(bytes:sub(1, math.random(3) == 1 and math.random(#bytes) or #bytes))
    return client
  end

  local leave = {
    function(client) client:reset() end,
    function(client) client:close() end,
    function(client) client:half_close() end,
    function(client) client:receive(nil, 0) client:reset() end,
  }

  it("leak nothing and break nothing", function()
    math.randomseed(20)
    local pid = get_server():server_pid()
    for _ = 1, 40 do
      local clients = {}
      for i = 1, 16 do clients[i] = begin() end
      for _, client in ipairs(clients) do
        if math.random(2) == 1 then sleep(math.random(4) / 1000) end
        leave[math.random(#leave)](client)
      end
      get_server():close_clients()
    end
    assert.equal("nap", get_server():get("/nap").body)
    assert.equal("locked", get_server():get("/lock").body)
    assert.equal(pid, get_server():server_pid())
  end)
end)

support.describe_server("hooks", { app = [[
local fl = require "fasterlua"
local await = fl.await
local app = fl.app { title = "hooks" }
app:on_start(function() await(fl.sleep(0.05)) app.state.value = "first" end)
app:on_start(function() app.state.value = app.state.value .. ", second" end)
app:on_stop(function() await(fl.sleep(0.02)) fl.log.info "stopped last" end)
app:on_stop(function() error "a stop hook fails" end)
app:get("/", function() return app.state.value end)
return app
]], settings = { threads = 1 } }, function(get_server)
  it("run before the first request, in order, and may await", function()
    assert.equal("first, second", get_server():get("/").body)
  end)
end)

describe("stop hooks", function()
  it("run at the end, all of them, the last first", function()
    local server = support.start { app = [[
local fl = require "fasterlua"
local app = fl.app {}
app:on_stop(function() fl.await(fl.sleep(0.02)) fl.log.info "note: stopped last" end)
app:on_stop(function() fl.log.info "note: stopped first" error "a stop hook fails" end)
return app
]], settings = { threads = 1 } }
    server:signal "TERM"
    local status, log = server:wait_end(), server:log()
    server:kill()
    assert.equal(0, status.code)
    assert.matches("stopped first.*a stop hook fails.*stopped last", log)
  end)
end)

describe("await at a module's top level", function()
  it("ends the start with its cause", function()
    local server = support.start { app = [[
local fl = require "fasterlua"
fl.await(fl.sleep(0.01))
return fl.app {}
]], wait = false }
    local status, log = server:wait_end(3), server:log()
    server:kill()
    assert.equal(3, status and status.code)
    assert.matches("await outside of a task: at a module's top level", log)
  end)
end)
