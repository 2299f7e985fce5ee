-- The experiment of apps/concurrency: N requests at once that wait for 2 s (/async), or that block
-- for 2 s (/sync), here and in FastAPI, which keeps 40 threads for the latter.
--
--     luajit tests/bench/concurrency.lua                 all of it: some four minutes
--     luajit tests/bench/concurrency.lua --only fasterlua --rounds 1
--
-- Connections are opened first; the time counts from the first byte of a request to the last byte
-- of an answer. Client and server share the machine. While /sync runs, /health is asked a hundred
-- times a second.
local here = arg[0]:match("^(.*)/") or "."
package.path = ("%s/?.lua;%s/../?.lua;"):format(here, here) .. package.path

local cjson = require "cjson"
local socket = require "socket"

local process = require "support.process"

local bench = require "bench"
local measure = require "measure"
local running = require "running"
local servers = require "servers"

local THREADS = 40 -- of our blocking pool, and of FastAPI's
local SLEEP = 2 -- seconds

-- What is to be shown: at most so many seconds.
local waiting = { { 20, 2.05 }, { 40, 2.05 }, { 80, 2.05 }, { 120, 2.05 }, { 1000, 2.2 },
  { 10000, 3.0 } }
local blocking = { 20, 40, 80, 120 }

local function parse_options()
  local parser = bench.parser("concurrency.lua",
    "Requests that wait and requests that block, at once.", { rounds = 3 })
  parser:option("--only", "fasterlua or fastapi."):argname "NAME"
  return parser:parse()
end

local function start_load(place, server, mode, options)
  local argv = { place.build .. "/bench/load", mode, "127.0.0.1:" .. server.port }
  for key, value in pairs(options) do argv[#argv + 1] = key .. "=" .. tostring(value) end
  local output = ("%s/load-%s"):format(place.temporary, mode)
  os.remove(output) -- of the round before
  return { pid = process.spawn { argv = argv, output = output }, output = output }
end

local function finish_load(job)
  assert(process.wait(job.pid, 60), "the load does not end")
  local text = process.read(job.output)
  local ok, result = pcall(cjson.decode, text)
  return ok and result or error("the load failed: " .. tostring(text), 0)
end

local function at_once(place, server, path, count)
  local result = finish_load(start_load(place, server, "connections",
    { clients = count, path = path, timeout = 30 }))
  if (result.status["200"] or 0) ~= count then
    error(("%s %s: of %d requests %s were answered with 200"):format(server.name, path, count,
      tostring(result.status["200"])), 0)
  end
  return result.first_to_last
end

-- The same while /health is asked: how long that took at the 99th percentile.
local function at_once_with_health(place, server, path, count)
  local health = start_load(place, server, "open-loop",
    { clients = 4, rate = 100, seconds = 2, path = "/health", timeout = 30 })
  local seconds = at_once(place, server, path, count)
  return seconds, finish_load(health).p99
end

local function measure_server(options, place, server)
  local result = { async = {}, sync = {}, health = {} }
  at_once(place, server, "/sync", THREADS) -- so that the threads are there
  for _, case in ipairs(waiting) do
    local seconds = {}
    for round = 1, options.rounds do
      seconds[round] = at_once(place, server, "/async", case[1])
      socket.sleep(0.2)
    end
    result.async[case[1]] = measure.median(seconds)
  end
  for _, count in ipairs(blocking) do
    result.sync[count], result.health[count] =
      at_once_with_health(place, server, "/sync", count)
  end
  return result
end

local function print_waiting(results)
  print("\n/async: seconds until all are answered")
  for _, case in ipairs(waiting) do
    local own = results.fasterlua and results.fasterlua.async[case[1]]
    local verdict = own and (own <= case[2] and "met" or "MISSED") or ""
    print(("  %6d  at most %.2f   fasterlua %-8s %-8s fastapi %s"):format(case[1], case[2],
      own and ("%.3f"):format(own) or "-", verdict,
      results.fastapi and ("%.3f"):format(results.fastapi.async[case[1]]) or "-"))
  end
end

local function cell(result, count)
  if not result then return "-" end
  return ("%.3f (/health p99 %.1f ms)"):format(result.sync[count], result.health[count] * 1e3)
end

local function print_blocking(results)
  print(("\n/sync, %d threads: seconds until all are answered"):format(THREADS))
  for _, count in ipairs(blocking) do
    local ideal = SLEEP * math.ceil(count / THREADS)
    local own = results.fasterlua
    local is_met = own and own.sync[count] <= ideal * 1.03 and own.health[count] < 0.010
    print(("  %6d  ideal %d   fasterlua %s %s   fastapi %s"):format(count, ideal,
      cell(own, count), own and (is_met and "met" or "MISSED") or "",
      cell(results.fastapi, count)))
  end
end

local function run(options, place, started)
  local results = {}
  local chosen = bench.select_named(servers.concurrency(place), options.only)
  for _, server in ipairs(bench.leave_out_missing(chosen)) do
    started[#started + 1] = server
    running.start(server, place, "/health")
    results[server.name] = measure_server(options, place, server)
    running.stop(server.pid)
    server.pid = nil
  end
  print_waiting(results)
  print_blocking(results)
end

bench.main(here, parse_options(), run)
