-- What jobs.lua measures of fasterlua: a job that does nothing, with an argument and a result.
local ffi = require "ffi"
local fl = require "fasterlua"
local await, gather, spawn = fl.await, fl.gather, fl.spawn

ffi.cdef [[
typedef struct { long seconds, nanoseconds; } bench_time;
int clock_gettime(int clock, bench_time *time);
]]

local app = fl.app { title = "Jobs" }
local pool = fl.state_pool { name = "jobs", size = 1 }
local clock = ffi.new "bench_time"

local function seconds(which)
  ffi.C.clock_gettime(which, clock)
  return tonumber(clock.seconds) + tonumber(clock.nanoseconds) / 1e9
end

local MONOTONIC, PROCESS_CPU = 1, 2

local function nothing(value)
  return value
end

app:get("/plain", function()
  return "plain"
end)

app:get("/one", function()
  return tostring(await(pool:run(nothing, 1)))
end)

-- One at a time: the median round trip in µs.
app:get("/sequential/{count:int}", function(req)
  local times = {}
  for index = 1, req.params.count do
    local began = seconds(MONOTONIC)
    await(pool:run(nothing, index))
    times[index] = seconds(MONOTONIC) - began
  end
  table.sort(times)
  local function at(share)
    return times[math.ceil(#times * share)] * 1e6
  end
  return { median_us = at(0.5), p99_us = at(0.99) }
end)

local function send_many(count)
  for index = 1, count do
    await(pool:run(nothing, index))
  end
end

-- 64 in flight: the rate, and the CPU time of the whole process per job in µs.
app:get("/together/{count:int}", function(req)
  local each = math.ceil(req.params.count / 64)
  local began, cpu, futures = seconds(MONOTONIC), seconds(PROCESS_CPU), {}
  for index = 1, 64 do
    futures[index] = spawn(send_many, each)
  end
  await(gather(futures))
  local count = each * 64
  return { jobs_per_second = count / (seconds(MONOTONIC) - began),
    cpu_us = (seconds(PROCESS_CPU) - cpu) / count * 1e6, crossover = pool:stats().crossover }
end)

return app
