-- Pools with isolation = "process": every job runs in a child process, and harms nothing else.

local pools = require "support.pools"
local support = require "support"

local app, json, options = pools.app, pools.json, pools.options
local process, slowdown = support.process, support.slowdown

local libc = [[
local ffi = require "ffi"
ffi.cdef [=[
int raise(int signal);
void _exit(int status);
void *malloc(size_t size);
void *memset(void *at, int byte, size_t size);
int kill(int pid, int signal);
]=]
return { raise = function(signal) return ffi.C.raise(signal) end,
  exit = function(status) ffi.C._exit(status) end,
  malloc = function(size) return ffi.C.malloc(size) end,
  memset = function(...) return ffi.C.memset(...) end,
  kill = function(...) return ffi.C.kill(...) end }
]]

local PROCESSES = 5 -- of all pools of the first server

-- A pool makes the process that takes a recycled one's place when that has gone: all are there when
-- they stay the same ones for longer than such a change takes.
local function all_processes_there(server)
  local pid, before = server:server_pid(), nil
  support.eventually(function()
    local pids = process.children(pid)
    local now = table.concat(pids, " ")
    if now == before and #pids == PROCESSES then return true end
    before = now
    process.sleep(0.3 * slowdown)
  end, 10)
end

-- A job that reads address 0 is to end its process as it does without a sanitizer.
local function calm(files, settings)
  local all = options(files, settings)
  all.env = { ASAN_OPTIONS = "detect_leaks=1:handle_segv=0:allocator_may_return_null=1",
    TSAN_OPTIONS = "halt_on_error=0:second_deadlock_stack=1:handle_segv=0" }
  all.warm_up = all_processes_there
  return all
end

local process_app = app(pools.values .. [==[
local ffi = require "ffi"
local libc = require "libc"

local own = pool("own", { size = 2, isolation = "process" })
local single = pool("single", { size = 1, queue = 1, isolation = "process" })
local small = pool("small", { size = 1, max_memory = "24MB", isolation = "process" })
local recycling = pool("recycling", { size = 1, recycle_after = 2, isolation = "process" })
local other = pool("other", { size = 1 })
local store = fl.shared "store"
warm(own, single, small, recycling, other)

local function pid() return fl.here().process end
local function is_there(id) return libc.kill(id, 0) == 0 end
local function pids(own)
  local list = {}
  for i = 1, own:stats().size do
    list[i] = own:run(function() fl.await(fl.sleep(0.05)) return fl.here().process end)
  end
  local seen, found = {}, {}
  for _, id in ipairs(await(gather(list))) do
    if not seen[id] then seen[id] = true found[#found + 1] = id end
  end
  return found
end

app:get("/round-trip", function()
  local wrong = {}
  for _, name in ipairs(names) do
    local value = values[name]()
    local equal, where = same(value, await(own:run(function(...) return ... end, value)))
    if not equal then wrong[#wrong + 1] = name .. " " .. tostring(where) end
  end
  return { tried = #names, wrong = fl.array(wrong) }
end)
app:get("/here", function()
  local there = await(own:run(function() return fl.here() end))
  return { mine = fl.here(), there = there, pids = pids(own) }
end)
app:get("/pids", function() return pids(own) end)
app:get("/module", function() return await(own:run("shapes:area", 6, 7)) end)
app:get("/upvalues", function()
  local factor, list = 3, { 1, 2 }
  local function twice(n) return n * 2 end
  return await(own:run(function(n) list[1] = 10 return twice(n) * factor + list[1] end, 5))
end)
app:get("/raised", function()
  local result = await(own:run(shapes.fail))
  return result
end)
app:get("/raised-value", function()
  return { caught_run(own, error, "text", 0),
    caught_run(own, function() error { kind = "teapot", status = 418, message = "short" } end),
    caught_run(own, function() return function() end, io.stdout end),
    caught_run(own, "no.such.module:fn") }
end)
app:get("/logs", function(req)
  await(own:run(function() fl.log.info("said in a process") end))
  return { id = req.id }
end)
app:get("/map", function()
  local told = 0
  local list = {}
  for i = 1, 100 do list[i] = i end
  local squares = await(own:map(function(i) return i * i end, list,
    { chunk = 7, progress = function(done) told = done end }))
  return { count = #squares, last = squares[100], told = told }
end)
app:get("/stream", function()
  return caught(function() for _ in own:stream(shapes.pieces, 1, 2) do end end)
end)
app:get("/nested", function()
  return { caught_run(own, function() return fl.await(other:run(print)) end),
    caught_run(own, function() return fl.await(fl.run_in_state(print)) end),
    caught_run(own, function() return fl.await(other:map(print, { 1 })) end),
    caught_run(own, function() return other:stats() end) }
end)

-- what a job may use
app:get("/inside", function(req)
  store:set("n", 1)
  return await(own:run(function(path)
    local result = {}
    fl.await(fl.sleep(0.01))
    local a, b = fl.await(fl.gather(fl.spawn(shapes.area, 2, 3), fl.spawn(shapes.area, 4, 5)))
    result.spawned = a + b
    fl.await(fl.fs.write(path, "written inside"))
    result.file = fl.await(fl.fs.read(path))
    result.exec = fl.await(fl.exec { "echo", "inside" }).stdout
    result.incremented = store:incr("n", 41)
    result.json = require("fasterlua.json").encode { a = fl.array {} }
    return result
  end, req.query.path))
end)
app:get("/shared", function() return store:get "n" end)
app:get("/environment", function()
  return await(own:run(function()
    local result = fl.await(fl.exec { "env" })
    return { mine = tostring(os.getenv "FASTERLUA_POOL"),
      programs = result.stdout:match "FASTERLUA_POOL[^\n]*" }
  end))
end)
app:get("/exit", function() return caught_run(own, function() os.exit(3) end) end)

-- the end of a process
local ends = {
  segfault = function() return ffi.cast("int *", 0)[0] end,
  abort = function() libc.raise(6) end,
  killed = function() libc.raise(9) end,
  exited = function() libc.exit(3) end,
}
app:get("/ends", function(req)
  local before = own:stats()
  local innocent = own:run(function() fl.await(fl.sleep(0.2)) return fl.here().process end)
  local result = caught_run(own, ends[req.query.how])
  result.next = caught_run(own, shapes.area, 2, 3)
  result.innocent = await(innocent)
  result.pids = pids(own)
  local after = own:stats()
  result.failed = after.failed - before.failed
  result.replaced = after.states_replaced - before.states_replaced
  result.retired, result.threads = after.retirements, after.threads
  return result
end)
app:get("/next", function() return await(single:run(shapes.area, 3, 3)) end)
app:get("/single", function() return await(single:run(pid)) end)

-- time
local function endless() local x = 0 while true do x = (x + 1) % 7 end end
local kinds = {
  compiled = endless,
  c_call = function() return (("a"):rep(1000):find "a-a-b") end,
  pcalls = function() while true do pcall(endless) end end,
  awaiting = function() fl.await(fl.sleep(30)) end,
  interpreted = function()
    local text = {}
    while true do text[#text % 10 + 1] = ("x"):gsub("x", function() return "y" end) end
  end,
}
app:get("/too-long", function(req)
  local before = own:stats()
  local victim
  local fn = kinds[req.query.kind]
  local job = own:run_within(0.3, function()
    store:set("victim", fl.here().process)
    fn()
  end)
  local began = wall()
  local result = caught(await, job)
  result.late = wall() - began - 0.3
  local victim = store:get "victim"
  local gone = wall()
  until_true(function() return not is_there(victim) end, 1)
  result.gone = wall() - gone
  result.kept = is_there(victim)
  result.pids = #pids(own)
  local after = own:stats()
  result.timed_out = after.timed_out - before.timed_out
  result.retired, result.threads = after.retirements + after.retired, after.threads
  return result
end)
app:get("/too-soon", function()
  local hasty = pool("hasty", { size = 1, timeout = 0.002, isolation = "process" })
  local first = caught_run(hasty, shapes.area, 2, 3)
  until_true(function() return caught_run(hasty, shapes.area, 2, 3).ok end)
  local stats = hasty:stats()
  hasty:close()
  until_true(function() return hasty:stats().threads == 0 end)
  return { first = first.kind, replaced = stats.states_replaced, completed = stats.completed }
end)
app:get("/cancel-running", function()
  local before = own:stats().cancelled
  local job = own:run(function()
    fl.log.info "to be cancelled"
    local _, err = pcall(fl.await, fl.sleep(30))
    fl.log.info("cancelled as " .. tostring(err))
    fl.await(fl.sleep(30))
  end)
  await(fl.sleep(0.1))
  local ids = pids(other)
  job:cancel()
  local ended = until_true(function() return own:stats().busy == 0 end, 2)
  return { ended = ended, cancelled = own:stats().cancelled - before, ids = #ids }
end)
app:get("/cancel-computing", function()
  local began = wall()
  local job = own:run_within(0.4, endless)
  await(fl.sleep(0.1))
  job:cancel()
  local free = until_true(function() return own:stats().busy == 0 end, 3)
  return { free = free, took = wall() - began, pids = #pids(own) }
end)
app:get("/queue", function()
  local running = single:run(function() fl.await(fl.sleep(0.2)) return "ran" end)
  local queued = single:run(function() return "queued" end)
  local refused = caught(function() return single:run(print) end)
  return { await(running), await(queued), refused }
end)

-- memory
app:get("/memory", function()
  local before = small:stats()
  local result = caught_run(small, function()
    local list = {}
    for i = 1, 1e7 do list[i] = ("x"):rep(1000) .. i end
  end)
  result.next = await(small:run(shapes.area, 2, 3))
  result.replaced = small:stats().states_replaced - before.states_replaced
  return result
end)
app:get("/memory-ffi", function()
  local result = caught_run(small, function()
    local size, count = 2 ^ 20, 0
    while true do
      local block = libc.malloc(size)
      if block == nil then return count end
      libc.memset(block, 1, size)
      count = count + 1
      if count > 2000 then return count end
    end
  end)
  result.next = await(small:run(shapes.area, 2, 3))
  return result
end)
app:get("/recycled", function()
  local list = {}
  for i = 1, 6 do list[i] = await(recycling:run(pid)) end
  return { list = list, replaced = recycling:stats().states_replaced }
end)

-- the end
app:get("/close", function()
  local closing = pool("closing", { size = 1, isolation = "process" })
  local id = await(closing:run(pid))
  closing:close()
  local began = wall()
  local gone = until_true(function()
    return closing:stats().threads == 0 and not is_there(id)
  end)
  local refused = caught_run(closing, print)
  return { gone = gone, took = wall() - began, kind = refused.kind }
end)
app:get("/stuck", function()
  own:run_within(60, endless)
  own:run_within(60, endless)
  await(fl.sleep(0.1))
  return pids(other)
end)
app:get("/slow", function()
  return await(own:run(function() fl.await(fl.sleep(0.5)) return "slow but whole" end))
end)
]==])
process_app["libc.lua"] = libc

-- What has become an orphan may be a zombie for as long as the specs run.
local function is_alive(pid)
  local stat = process.read(("/proc/%d/stat"):format(pid))
  return stat and not stat:match "%) Z " or false
end

local function all_gone(pids, seconds)
  return process.poll(function()
    for _, pid in ipairs(pids) do
      if is_alive(pid) then
        return false
      end
    end
    return true
  end, seconds * slowdown)
end

support.describe_server("a job in a process", calm(process_app), function(get_server)
  it("gives and takes the same values as one in a thread", function()
    local result = json(get_server(), "/round-trip")
    assert.same({}, result.wrong)
    assert.is_true(result.tried > 25)
    assert.same(42, json(get_server(), "/module"))
    assert.same(5 * 2 * 3 + 10, json(get_server(), "/upvalues"))
  end)

  it("runs in a process of its own for each thread of the pool", function()
    local result = json(get_server(), "/here")
    assert.not_equal(result.mine.process, result.there.process)
    assert.equal("own", result.there.pool)
    assert.equal(2, #result.pids)
    assert.equal(get_server():server_pid(), result.mine.process)
    local children = process.children(result.mine.process)
    table.sort(result.pids)
    for _, pid in ipairs(result.pids) do
      local found = false
      for _, child in ipairs(children) do
        found = found or child == pid
      end
      assert.is_true(found)
    end
  end)

  it("raises its error with both tracebacks", function()
    assert.equal(500, get_server():get("/raised").status)
    local log = get_server():wait_log 'route="GET /raised".*'
    assert.matches("shapes.lua:%d+: a shape fails.*shapes.lua:%d+: in .*awaited by.*app.lua:", log)
    local results = json(get_server(), "/raised-value")
    assert.same({ ok = false, text = "text" }, results[1])
    assert.same({ ok = false, kind = "teapot", status = 418, text = "short", message = "short" },
      results[2])
    assert.matches("result 1 is a function", results[3].text, 1, true)
    assert.matches("module 'no.such.module' not found", results[4].text, 1, true)
  end)

  it("logs with the id of the request that it works for", function()
    local id = json(get_server(), "/logs").id
    local line = get_server():wait_log "[^\n]*said in a process[^\n]*"
    assert.matches(id, line, 1, true)
  end)

  it("maps", function()
    assert.same({ count = 100, last = 10000, told = 100 }, json(get_server(), "/map"))
  end)

  it("streams nothing, and says so at the call", function()
    assert.matches('pool "own" has isolation = "process", which streams nothing yet',
      json(get_server(), "/stream").text, 1, true)
  end)

  it("may await, use files, programs and shared data", function()
    local path = get_server().dir .. "/inside"
    assert.same({ spawned = 26, file = "written inside", exec = "inside\n", incremented = 42,
      json = '{"a":[]}' }, json(get_server(), "/inside?path=" .. path))
    assert.equal("42", get_server():get("/shared").body)
  end)

  it("cannot use pools, and says so", function()
    for _, result in ipairs(json(get_server(), "/nested")) do
      assert.is_false(result.ok)
      assert.matches('a job of a pool with isolation = "process" cannot use pools', result.text, 1,
        true)
      assert.equal("pool_unavailable", result.kind)
    end
  end)

  it("does not pass its process's place on to programs", function()
    assert.same({ mine = "nil" }, json(get_server(), "/environment"))
  end)

  it("cannot end its process by os.exit", function()
    local before = json(get_server(), "/pids")
    local result = json(get_server(), "/exit")
    assert.is_false(result.ok)
    assert.matches("os.exit", result.text, 1, true)
    local after = json(get_server(), "/pids")
    table.sort(before)
    table.sort(after)
    assert.same(before, after)
  end)

  for how, text in pairs { segfault = "was killed by SIGSEGV", abort = "was killed by SIGABRT",
    killed = "was killed by SIGKILL", exited = "ended with status 3" } do
    it("that ends its process takes nothing along: " .. how, function()
      local result = json(get_server(), "/ends?how=" .. how)
      assert.is_false(result.ok)
      assert.equal("lost", result.kind)
      assert.equal("its process " .. text, result.text)
      assert.same({ ok = true, value = 6 }, result.next)
      assert.equal("number", type(result.innocent))
      assert.equal(2, #result.pids)
      assert.equal(1, result.failed)
      assert.equal(1, result.replaced)
      assert.equal(0, result.retired)
      assert.equal(2, result.threads)
      get_server():wait_log('pool "own": its process ' .. text:gsub("%W", "%%%0"))
    end)
  end

  it("finds a new process when the one before was killed meanwhile", function()
    local pid = json(get_server(), "/single")
    process.signal(pid, "KILL")
    assert.is_true(process.poll(function()
      return not process.read(("/proc/%d/stat"):format(pid)) -- reaped
    end, slowdown))
    assert.equal("9", get_server():get("/next").body)
    assert.not_equal(pid, json(get_server(), "/single"))
  end)

  for kind, is_killed in pairs { compiled = true, c_call = true, awaiting = false,
    interpreted = false, pcalls = true } do
    it("that takes too long is told so, and killed when that does not help: " .. kind, function()
      local result = json(get_server(), "/too-long?kind=" .. kind)
      assert.equal("timeout", result.kind)
      assert.equal(504, result.status)
      assert.is_true(result.late >= -0.01, "early by " .. -result.late)
      assert.is_true(result.late < 0.1 * slowdown, "late by " .. result.late)
      if is_killed then
        assert.is_false(result.kept)
        assert.is_true(result.gone < 0.2 * slowdown, "gone after " .. result.gone)
      elseif slowdown == 1 then
        assert.is_true(result.kept)
      end
      assert.equal(2, result.pids)
      assert.equal(1, result.timed_out)
      assert.equal(0, result.retired)
      assert.equal(2, result.threads)
    end)
  end

  it("that is too soon for its process does not keep that from starting", function()
    local result = json(get_server(), "/too-soon")
    assert.equal("timeout", result.first)
    assert.is_true(result.completed >= 1)
  end)

  it("ends at its next await when it is cancelled", function()
    local result = json(get_server(), "/cancel-running")
    assert.is_true(result.ended)
    assert.equal(1, result.cancelled)
    get_server():wait_log "cancelled as cancelled"
  end)

  it("that is cancelled and goes on computing is killed when its time is over", function()
    local result = json(get_server(), "/cancel-computing")
    assert.is_true(result.free)
    assert.is_true(result.took < 1 * slowdown, "took " .. result.took)
    assert.equal(2, result.pids)
  end)

  it("waits in a bounded queue", function()
    local result = json(get_server(), "/queue")
    assert.equal("ran", result[1])
    assert.equal("queued", result[2])
    assert.equal("queue_full", result[3].kind)
  end)

  it("has a bounded Lua heap", function()
    local result = json(get_server(), "/memory")
    assert.equal("memory", result.kind)
    assert.equal(6, result.next)
    assert.equal(1, result.replaced)
  end)

  if slowdown == 1 then -- a sanitizer's own memory counts, too, and it complains
    it("has a bounded memory besides", function()
      local result = json(get_server(), "/memory-ffi")
      if result.ok then
        assert.is_true(result.value > 20, "MB: " .. result.value)
        assert.is_true(result.value < 300, "MB: " .. result.value)
      else
        assert.equal("lost", result.kind, result.text)
      end
      assert.equal(6, result.next)
    end)
  end

  it("gets a new process after as many as the pool wants", function()
    local result = json(get_server(), "/recycled")
    local seen, count, in_a_row = {}, 0, 0
    for index, pid in ipairs(result.list) do
      in_a_row = pid == result.list[index - 1] and in_a_row + 1 or 1
      count = seen[pid] and count or count + 1
      seen[pid] = true
      assert.is_true(in_a_row <= 2)
    end
    assert.is_true(count >= 3 and count <= 4)
    assert.equal(0, result.replaced)
  end)

  it("is refused when the pool is closed, whose processes end", function()
    local result = json(get_server(), "/close")
    assert.is_true(result.gone)
    assert.is_true(result.took < 1 * slowdown, "took " .. result.took)
    assert.equal("pool_closed", result.kind)
  end)
end)

describe("a server whose jobs run in processes", function()
  local server

  local function start()
    server = support.start(calm(process_app))
    local pids = json(server, "/pids")
    assert.equal(2, #pids)
    return pids
  end

  after_each(function()
    if server then
      server:kill()
    end
  end)

  it("leaves none behind when it stops", function()
    local pids = start()
    server:signal "TERM"
    assert.equal(0, server:wait_end(5).code)
    assert.is_true(all_gone(pids, 1))
  end)

  it("leaves none behind when it stops while they compute", function()
    local pids = start()
    server:get("/stuck")
    server:signal "TERM"
    assert.equal(0, server:wait_end(5).code)
    assert.is_true(all_gone(pids, 1))
  end)

  it("leaves none behind when it is killed while they compute", function()
    local pids = start()
    server:get("/stuck")
    local pid = server:server_pid()
    server:signal("KILL", pid)
    assert.is_true(all_gone(pids, 1))
  end)

  it("reloads while jobs run, which end as they would have", function()
    local pids = start()
    local before = server:server_pid()
    local client = server:connect()
    client:send "GET /slow HTTP/1.1\r\nHost: a\r\n\r\n"
    process.sleep(0.1)
    server:signal "HUP"
    assert.equal("slow but whole", client:response().body)
    support.eventually(function()
      return server:server_pid() ~= before and #server:pids() == 1
    end, 5)
    assert.is_true(all_gone(pids, 2))
    local new = json(server, "/pids")
    assert.equal(2, #new)
  end)

  it("does not start when a handler is to run in such a pool", function()
    local refused = app [==[
      local own = pool("own", { isolation = "process" })
      app:get("/", { run_in = own }, function() end)
    ]==]
    server = support.start { app = refused, wait = false }
    assert.equal(3, server:wait_end(5).code)
    assert.matches('route "GET /": pool "own" has isolation = "process", which runs functions and',
      server:log(), 1, true)
  end)
end)
