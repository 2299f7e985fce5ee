-- Many Lua states in one process: machine code of each stays within reach, nobody's is thrown away,
-- and each takes little time and memory.

local support = require "support"
local report = require "support.report"

local now = support.process.now
local STATES = 64
local WORK = 10 -- seconds without a flush
local FRESH_SECONDS, FRESH_BYTES = 0.002, 1500 * 1000

-- Each job works in a state of its own: all sleep first, so that none is idle when the next comes.
local app = [[
local fl = require "fasterlua"
local await, gather = fl.await, fl.gather
local app = fl.app { title = "states" }
local pool = fl.state_pool { name = "many", size = 64 }

local function work(seconds)
  local fl, jit_util = require "fasterlua", require "jit.util"
  fl.await(fl.sleep(0.5))
  local function sums(n) local sum = 0 for i = 1, n do sum = sum + i % 7 end return sum end
  local function texts(n) local t = {} for i = 1, n do t[i % 50 + 1] = i .. "" end return #t end
  local function calls(n) local f = function(x) return x * 2 end local s = 0
    for i = 1, n do s = s + f(i) end return s end
  local till, rounds = os.time() + seconds, 0
  repeat
    sums(2000) texts(500) calls(2000)
    rounds = rounds + 1
    if rounds % 50 == 0 then fl.await(fl.sleep(0.01)) end
  until os.time() > till
  local traces = 0
  for trace = 1, 1000 do
    if jit_util.traceinfo(trace) then traces = traces + 1 end
  end
  return { thread = fl.here().thread, traces = traces }
end

app:get("/burn/{seconds:int}", function(req)
  local jobs = {}
  for index = 1, 64 do jobs[index] = pool:run(work, req.params.seconds) end
  return await(gather(jobs))
end)

-- States that are ready and have nothing to do: each has loaded the framework.
local function idle()
  local fl = require "fasterlua"
  fl.await(fl.sleep(0.5))
  return { thread = fl.here().thread, kilobytes = collectgarbage("count") }
end
app:get("/idle", function()
  local jobs = {}
  for index = 1, 64 do jobs[index] = pool:run(idle) end
  return await(gather(jobs))
end)

local function flush()
  local fl, sum = require "fasterlua", 0
  for i = 1, 1000 do sum = sum + i % 7 end
  fl.await(fl.sleep(0.01))
  require("jit").flush()
  fl.await(fl.sleep(0.01))
  return tostring(sum)
end
app:get("/flush", flush)
app:get("/flush-pooled", function() return await(pool:run(flush)) end)

-- What a fresh state costs: the pool makes one for each job.
local fresh = fl.state_pool { name = "fresh", size = 1, recycle_after = 1 }
local function draw() return math.random(1, 2 ^ 30) end
app:get("/draw", function()
  return { await(fresh:run(draw)), await(fresh:run(draw)), await(fresh:run(draw)) }
end)
local function load() return type(require "fasterlua") end
app:get("/fresh/{count:int}", function(req)
  for _ = 1, req.params.count do await(fresh:run(load)) end
end)
return app
]]

local function work(server, seconds)
  local client = server:connect()
  client:send(("GET /burn/%d HTTP/1.1\r\nHost: a\r\n\r\n"):format(seconds))
  return assert(client:response { timeout = 60 * support.slowdown }):json()
end

-- Bytes of the process, as the kernel adds them up.
local function resident(server)
  local text = assert(support.process.read(("/proc/%d/smaps_rollup"):format(server:server_pid())))
  return tonumber(text:match("\nRss: +(%d+) kB")) * 1024
end

local function count_threads(answers)
  local seen, count = {}, 0
  for _, answer in ipairs(answers) do
    count = count + (seen[answer.thread] and 0 or 1)
    seen[answer.thread] = true
  end
  return count
end

local function flushes_of_pool(server)
  local name = 'fasterlua_pool_jit_flushes_total{app="%s",pool="many"}'
  name = name:format(server.app_dir:match("[^/]*$"))
  return server:metrics()[name] or error("no such metric: " .. name, 2)
end

local made -- bytes that the states have added to the process, and their answers

support.describe_server("sixty-four states in a process", { app = app,
  settings = { threads = 1, stuck_handler = 0, blocked_handler = 0, pool_timeout = 0,
    handler_timeout = 0 },
  warm_up = function(server)
    server:get "/fresh/1"
    local before = resident(server)
    local answers = server:get("/idle"):json()
    made = { bytes = resident(server) - before, answers = answers }
  end,
}, function(get_server)
  it("take little memory each, ready and idle", function()
    local each, kilobytes = made.bytes / STATES, 0
    for _, answer in ipairs(made.answers) do
      kilobytes = math.max(kilobytes, answer.kilobytes)
    end
    report("a state: %.0f KB of the process, %.0f KB of them Lua's", each / 1000, kilobytes)
    assert.equal(STATES, count_threads(made.answers))
    assert.is_true(each < FRESH_BYTES * support.slowdown, each .. " bytes")
    assert.is_true(kilobytes * 1024 < FRESH_BYTES, kilobytes .. " KB of Lua's")
  end)

  it("all compile, and flush nothing once they are warm", function()
    work(get_server(), 1)
    local before = flushes_of_pool(get_server())
    local answers = work(get_server(), WORK)
    for _, answer in ipairs(answers) do
      assert.is_true(answer.traces > 0, "a state has compiled nothing")
    end
    assert.equal(STATES, count_threads(answers))
    assert.equal(0, flushes_of_pool(get_server()) - before)
  end)

  it("are counted when they flush", function()
    local before = flushes_of_pool(get_server())
    assert.equal(200, get_server():get("/flush-pooled").status)
    assert.equal(before + 1, flushes_of_pool(get_server()))
  end)

  it("draw random numbers of their own", function()
    local drawn = get_server():get("/draw"):json()
    assert.is_true(drawn[1] ~= drawn[2] and drawn[2] ~= drawn[3] and drawn[1] ~= drawn[3])
  end)

  it("are made anew in two milliseconds", function()
    local best, count = math.huge, 50
    for _ = 1, 20 do -- others use the cores too
      local started = now()
      assert.equal(204, get_server():get("/fresh/" .. count).status)
      best = math.min(best, (now() - started) / count)
      if best < FRESH_SECONDS / 2 then
        break
      end
    end
    report("a state: made in %.2f ms", best * 1000)
    assert.is_true(best < FRESH_SECONDS * support.slowdown, best .. " s")
  end)
end)

support.describe_server("the state of a web thread", { app = app,
  settings = { threads = 1 } }, function(get_server)
  it("is counted when it flushes", function()
    for count = 1, 2 do
      assert.equal(200, get_server():get("/flush").status)
      support.eventually(function()
        return get_server():metrics().fasterlua_jit_flushes_total == count
      end)
    end
  end)
end)
