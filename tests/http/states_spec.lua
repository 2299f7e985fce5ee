-- Many Lua states in one process: machine code of each stays within reach, and nobody's is thrown
-- away.

local support = require "support"

local now = support.process.now
local STATES = 64

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
  return fl.here().thread, traces
end

app:get("/burn/{seconds:int}", function(req)
  local jobs = {}
  for index = 1, 64 do
    jobs[index] = fl.spawn(function()
      local thread, traces = await(pool:run(work, req.params.seconds))
      return { thread = thread, traces = traces }
    end)
  end
  return await(gather(jobs))
end)

-- What a fresh state costs: the pool makes one for each job.
local fresh = fl.state_pool { name = "fresh", size = 1, recycle_after = 1 }
local function draw() return math.random(1, 2 ^ 30) end
app:get("/draw", function()
  return { await(fresh:run(draw)), await(fresh:run(draw)), await(fresh:run(draw)) }
end)
local function nothing() return collectgarbage("count") end
app:get("/fresh/{count:int}", function(req)
  local kilobytes
  for _ = 1, req.params.count do kilobytes = await(fresh:run(nothing)) end
  return { kilobytes = kilobytes }
end)
return app
]]

local function work(server, seconds)
  local client = server:connect()
  client:send(("GET /burn/%d HTTP/1.1\r\nHost: a\r\n\r\n"):format(seconds))
  return assert(client:response { timeout = 60 * support.slowdown })
end

support.describe_server("sixty-four states in a process", { app = app,
  settings = { threads = 1, stuck_handler = 0, blocked_handler = 0, pool_timeout = 0,
    handler_timeout = 0 },
  warm_up = function(server)
    work(server, 0)
    server:get "/fresh/1"
  end,
}, function(get_server)
  it("all compile, and flush nothing once they are warm", function()
    work(get_server(), 1)
    local before = get_server():metrics()
    local answers = work(get_server(), 4):json()
    local after, threads, count = get_server():metrics(), {}, 0
    for _, answer in ipairs(answers) do
      if not threads[answer.thread] then
        threads[answer.thread], count = true, count + 1
      end
      assert.is_true(answer.traces > 0, "a state has compiled nothing")
    end
    assert.equal(STATES, count)
    local name = 'fasterlua_pool_jit_flushes_total{app="%s",pool="many"}'
    name = name:format(get_server().app_dir:match("[^/]*$"))
    assert.equal(0, assert(after[name], "no such metric: " .. name) - before[name])
  end)

  it("draw random numbers of their own", function()
    local drawn = get_server():get("/draw"):json()
    assert.is_true(drawn[1] ~= drawn[2] and drawn[2] ~= drawn[3] and drawn[1] ~= drawn[3])
  end)

  it("are made anew in a few milliseconds and take little memory", function()
    local started, count = now(), 200
    local answer = get_server():get("/fresh/" .. count):json()
    local each = (now() - started) / count
    assert.is_true(answer.kilobytes < 1500, answer.kilobytes .. " KB")
    assert.is_true(each < 0.004 * support.slowdown, each .. " s")
  end)
end)
