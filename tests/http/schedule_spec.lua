-- app:every, app:cron and app:once: each run takes place once per server.

local support = require "support"

local now, sleep = support.process.now, support.process.sleep

local app = [[
local fl = require "fasterlua"
local await = fl.await
local app = fl.app { title = "schedule" }
local seen = fl.shared("seen")
local pid = io.open("/proc/self/stat"):read("*n")

app:every(0.5, function()
  seen:incr("runs")
  seen:incr("runs at " .. math.floor(require("fasterlua.core.shared").clock() / 0.5 + 0.1))
  seen:incr("runs in " .. pid)
end)
app:every(0.2, function()
  local inside = seen:incr("long inside")
  if inside > 1 then seen:set("long overlapped", true) end
  local ok, err = pcall(await, fl.sleep(0.5)) -- cancelled when its process has drained
  seen:incr("long inside", -1)
  if not ok then error(err, 0) end
  seen:incr("long runs")
end, { name = "long" })
app:every(0.2, function()
  local inside = seen:incr("wide inside")
  if inside > 1 then seen:set("wide overlapped", true) end
  await(fl.sleep(0.5))
  seen:incr("wide inside", -1)
end, { name = "wide", overlap = true })
app:every(0.5, function() error("what a mess") end, { name = "broken" })
app:every(0.5, function() await(fl.sleep(60)) end, { name = "slow", timeout = 0.1 })
app:once("fill", function()
  await(fl.sleep(0.01))
  seen:incr("once")
end)
app:get("/seen/{key}", function(req)
  local value = seen:get(req.params.key)
  return { value = value == nil and "nothing" or value }
end)
app:get("/keys", function() return fl.array(seen:keys("runs at ")) end)
app:get("/most", function()
  local most = 0
  for _, key in ipairs(seen:keys("runs at ")) do most = math.max(most, seen:get(key)) end
  return tostring(most)
end)
app:get("/pids", function() return tostring(#seen:keys("runs in ")) end)
app:get("/nap", function() await(fl.sleep(2)) return "napped" end)
return app
]]

local function value_of(server, key)
  return server:get("/seen/" .. key:gsub(" ", "%%20")):json().value
end

local function number_of(server, key)
  local value = value_of(server, key)
  return value == "nothing" and 0 or value
end

support.describe_server("a schedule", {
  app = app, leaks = false, flags = { "--workers", "2", "--threads", "2" },
}, function(get_server)
  it("runs a job once at its time, wherever", function()
    local server = get_server()
    local first, began = number_of(server, "runs"), now()
    sleep(3)
    local runs, passed = number_of(server, "runs") - first, now() - began
    assert.is_true(runs >= math.floor(passed / 0.5) - 1 and runs <= math.ceil(passed / 0.5),
      ("%d runs in %.1f s"):format(runs, passed))
    assert.equal("1", server:get("/most").body)
  end)

  it("goes on over a reload, and repeats and omits nothing", function()
    local server = get_server()
    local first, began = number_of(server, "runs"), now()
    for _ = 1, 3 do
      local pids = server:pids()
      server:signal "HUP"
      support.eventually(function()
        local new = server:pids()
        return #new == 2 and new[1] ~= pids[1] and new[2] ~= pids[2] and new[1] ~= pids[2]
      end, 5)
    end
    sleep(1)
    local runs, passed = number_of(server, "runs") - first, now() - began
    assert.is_true(runs >= math.floor(passed / 0.5) - 1 and runs <= math.ceil(passed / 0.5),
      ("%d runs in %.1f s"):format(runs, passed))
    assert.equal("1", server:get("/most").body)
  end)

  it("does not begin a run while the previous one goes on, unless it may", function()
    local server = get_server()
    support.eventually(function() return number_of(server, "long runs") >= 2 end, 10)
    assert.equal("nothing", value_of(server, "long overlapped"))
    support.eventually(function() return value_of(server, "wide overlapped") == true end, 5)
    server:wait_log('the job "long" is left out this time: its previous run still goes on')
    assert.is_nil(server:log():find('the job "wide" is left out', 1, true))
  end)

  it("logs the errors of a job with its name, and runs it again", function()
    local server = get_server()
    support.eventually(function()
      local _, count = server:log():gsub('the job "broken" failed: [^\n]*what a mess', "")
      return count >= 2
    end, 5)
  end)

  it("cancels a run that takes too long", function()
    get_server():wait_log('the job "slow" failed: timed out after 0.1 s')
  end)

  it("does once what is to be done at the start, not after a reload", function()
    local server = get_server()
    assert.equal(1, value_of(server, "once"))
    server:signal "HUP"
    sleep(1)
    assert.equal(1, value_of(server, "once"))
  end)

  it("goes on when a process dies, which loses the runs it was in", function()
    local server = get_server()
    local pids = server:pids()
    server:signal("KILL", pids[1])
    sleep(0.3)
    server:signal("KILL", pids[2])
    support.eventually(function()
      local ok, value = pcall(number_of, server, "runs")
      return ok and value
    end, 5)
    local runs, long = number_of(server, "runs"), number_of(server, "long runs")
    support.eventually(function() return number_of(server, "runs") >= runs + 2 end, 5)
    support.eventually(function() return number_of(server, "long runs") >= long + 1 end, 10)
    assert.equal(1, value_of(server, "once"))
  end)
end)

describe("a process that drains", function()
  it("begins no run, and is not held up by one", function()
    local server = support.start { settings = { threads = 1 }, app = [[
local fl = require "fasterlua"
local app = fl.app {}
app:every(0.2, function() fl.log.info("a run") end)
app:every(0.5, function()
  fl.log.info("a long run")
  fl.await(fl.sleep(60))
end, { name = "long" })
app:get("/nap", function() fl.await(fl.sleep(1.5)) fl.log.info("napped") return "napped" end)
return app
]] }
    server:wait_log("a long run")
    local client, began = server:connect(), now()
    client:send("GET /nap HTTP/1.1\r\nHost: a\r\n\r\n")
    sleep(0.1)
    server:signal "TERM"
    server:wait_log("stopping")
    sleep(0.1 * support.slowdown)
    local _, before = server:log():gsub("a run", "")
    assert.equal("napped", client:response().body)
    client:close()
    local status = server:wait_end(5)
    local log = server:log()
    server:kill()
    assert.equal(0, status and status.code, log)
    assert.is_true(now() - began < 4 * support.slowdown)
    local _, after = log:gsub("a run", "")
    assert.equal(before, after)
    assert.matches('the job "long" was cancelled %(shutdown%)', log)
  end)
end)

describe("a schedule of cron's", function()
  it("runs once at the minute that was said, and not again after a reload", function()
    local server = support.start { flags = { "--workers", "2", "--threads", "2" }, app = [[
local fl = require "fasterlua"
local app = fl.app {}
local seen = fl.shared("seen")
local real_time = os.time
seen:add("ahead", 55 - real_time() % 60) -- the next minute is five seconds away
os.time = function(parts)
  return parts and real_time(parts) or real_time() + seen:get("ahead")
end
app:cron("* * * * *", function() fl.log.info("a minute") end)
app:get("/now", function() return tostring(os.time() % 60) end)
return app
]] }
    assert.is_true(tonumber(server:get("/now").body) >= 55)
    assert.is_nil(server:log():find("a minute", 1, true))
    server:wait_log("a minute", 8)
    local pids = server:pids()
    server:signal "HUP"
    support.eventually(function()
      local new = server:pids()
      return #new == 2 and new[1] ~= pids[1] and new[1] ~= pids[2]
    end, 5)
    sleep(1)
    local _, count = server:log():gsub("a minute", "")
    server:stop()
    assert.equal(1, count)
  end)
end)

describe("a state of a pool", function()
  it("runs no schedule, though it starts the app", function()
    local server = support.start { settings = { threads = 1 }, app = [[
local fl = require "fasterlua"
local core = require "fasterlua.core.shared"
local app = fl.app {}
app:on_start(function() fl.log.info(core.is_pooled() and "started in a pool" or "started") end)
app:every(0.05, function() fl.log.info(core.is_pooled() and "a run in a pool" or "a run") end)
app:get("/", { run_in = "cpu" }, function() return "pooled" end)
return app
]] }
    assert.equal("pooled", server:get("/").body)
    server:wait_log("started in a pool")
    sleep(1)
    local log = server:log()
    server:stop()
    assert.matches("a run  ", log)
    assert.is_nil(log:find("a run in a pool", 1, true))
  end)
end)

describe("a job that is wrong", function()
  it("fails the start and says where", function()
    local server = support.start { wait = false, app = [[
local fl = require "fasterlua"
local app = fl.app {}
app:cron("0 25 * * *", function() end)
return app
]] }
    local status = server:wait_end(5)
    local log = server:log()
    server:kill()
    assert.equal(3, status and status.code)
    assert.matches('app.lua:3: cron "0 25 %* %* %*": hour "25": a number from 0 to 23', log)
  end)
end)

describe("a run whose state is given up", function()
  it("is not in the way of the next one", function()
    local server = support.start { app = [[
local fl = require "fasterlua"
local app = fl.app {}
local seen = fl.shared("seen")
app:every(0.2, function()
  seen:incr("runs")
  fl.await(fl.sleep(60))
end, { name = "long" })
app:get("/runs", function() return tostring(seen:get "runs") end)
app:get("/stuck", function() -- nothing interrupts it
  return tostring(("a"):rep(300):find((".-"):rep(3) .. "b"))
end)
return app
]], settings = { threads = 1, exile = 0, drain = "1s",
      stuck_handler = support.slowdown > 1 and "10ms" or "200ms" } }
    support.eventually(function() return server:get("/runs").body == "1" end)
    local stuck = server:connect()
    stuck:send("GET /stuck HTTP/1.1\r\nHost: a\r\n\r\n")
    server:wait_log("evacuated web thread", 10)
    local began = now()
    support.eventually(function() return server:get("/runs").body == "2" end, 10)
    assert.is_true(now() - began < 2.5 * support.slowdown)
    stuck:close()
    server:kill()
  end)
end)
