-- Computing on every core: two jobs in two states beside two processes of plain luajit, a handler
-- that gathers more jobs than there are states, and what is left for /health while all states
-- compute, beside what is left while unrelated processes take the same cores. Interleaved rounds;
-- medians.
--
--     luajit tests/bench/parallel.lua [--rounds 5]
local here = arg[0]:match("^(.*)/") or "."
package.path = ("%s/?.lua;%s/../?.lua;"):format(here, here) .. package.path

local socket = require "socket"

local process = require "support.process"

local bench = require "bench"
local measure = require "measure"
local running = require "running"
local servers = require "servers"

local UNITS = 50 -- about a second
local SHORT = 10
local HEALTH_SECONDS = 3

local function request(server, path)
  local client = assert(socket.connect("127.0.0.1", server.port))
  client:settimeout(60)
  client:send(("GET %s HTTP/1.0\r\n\r\n"):format(path))
  return client
end

local function finish(client)
  local answer = client:receive("*a")
  client:close()
  if not (answer and answer:find("^HTTP/1.%d 200")) then
    error("the server answers " .. tostring(answer), 0)
  end
end

local function timed(server, path)
  local began = socket.gettime()
  finish(request(server, path))
  return socket.gettime() - began
end

local function start_burning(place, units)
  return process.spawn { argv = { "luajit", place.bench .. "/parallel/burn.lua", tostring(units) },
    output = "/dev/null" }
end

local function two_processes(place, units)
  local began = socket.gettime()
  local first, second = start_burning(place, units), start_burning(place, units)
  process.wait(first, 60)
  process.wait(second, 60)
  return socket.gettime() - began
end

-- What wrk gets out of /health.
local function health(server)
  local result = measure.wrk { url = ("http://127.0.0.1:%d/health"):format(server.port),
    seconds = HEALTH_SECONDS, threads = 1, connections = 16 }
  return { rate = result.requests / result.seconds, p99 = result.p99 }
end

local function health_during(server, start, stop)
  local handle = start()
  socket.sleep(0.1)
  local result = health(server)
  stop(handle)
  return result
end

local function with_jobs(server)
  return health_during(server, function()
    return request(server, ("/pooled/2/%d"):format(UNITS * (HEALTH_SECONDS + 2)))
  end, finish)
end

local function with_processes(place, server)
  return health_during(server, function()
    return { start_burning(place, UNITS * 20), start_burning(place, UNITS * 20) }
  end, function(pids)
    for _, pid in ipairs(pids) do
      process.signal(pid, "KILL")
      process.wait(pid, 5)
    end
  end)
end

local function inline(server)
  return health_during(server, function()
    return { request(server, ("/inline/%d"):format(UNITS * HEALTH_SECONDS)),
      request(server, ("/inline/%d"):format(UNITS * HEALTH_SECONDS)) }
  end, function(clients)
    for _, client in ipairs(clients) do finish(client) end
  end)
end

local function run_rounds(options, place, server)
  local results = { ratio = {}, one = {}, five = {}, share = {}, p99 = {}, inline = {},
    inline_p99 = {} }
  timed(server, ("/pooled/2/%d"):format(SHORT))
  for round = 1, options.rounds do
    local processes = two_processes(place, UNITS)
    results.ratio[round] = timed(server, ("/pooled/2/%d"):format(UNITS)) / processes
    results.one[round] = timed(server, ("/pooled/2/%d"):format(SHORT))
    results.five[round] = timed(server, ("/pooled/5/%d"):format(SHORT))
    local beside, jobs = with_processes(place, server), with_jobs(server)
    local control = inline(server)
    results.share[round], results.p99[round] = jobs.rate / beside.rate, jobs.p99
    results.inline[round], results.inline_p99[round] = control.rate / beside.rate, control.p99
    io.stderr:write(("round %d of %d done\n"):format(round, options.rounds))
  end
  return results
end

local function line(title, limit, value, is_met)
  print(("  %-58s %-14s %8s %s"):format(title, limit, value, is_met and "met" or "MISSED"))
end

local function print_results(results)
  local ratio, share = measure.median(results.ratio), measure.median(results.share)
  local gather = measure.median(results.five) / (3 * measure.median(results.one))
  local p99 = measure.median(results.p99)
  line("two jobs of a second, against two processes of luajit", "at most 1.15",
    ("%.2f"):format(ratio), ratio <= 1.15)
  line("five jobs on two states, against three times two jobs", "at most 1.10",
    ("%.2f"):format(gather), gather <= 1.1)
  line("/health while all states compute, against unrelated work", "at least 0.85",
    ("%.2f"):format(share), share >= 0.85)
  line("its 99th percentile", "below 10 ms", ("%.1f ms"):format(p99 * 1e3), p99 < 0.010)
  local control, control_p99 = measure.median(results.inline), measure.median(results.inline_p99)
  local words = "  control: the same work inline leaves /health %.2f of it, 99th percentile %.0f ms"
  print(words:format(control, control_p99 * 1e3))
end

local function run(options, place, started)
  local server = servers.parallel(place)
  started[1] = server
  running.start(server, place, "/health")
  print_results(run_rounds(options, place, server))
end

bench.main(here, bench.parser("parallel.lua", "Computing on every core.", { rounds = 5 }):parse(),
  run)
