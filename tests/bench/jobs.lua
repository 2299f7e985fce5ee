-- What it costs to send a job that does nothing to another thread and back, with an argument and a
-- result: here, as bare C (handover.c), in piscina, and as what a request takes longer with
-- nginx's ngx.run_worker_thread. Interleaved rounds of one run; medians.
--
--     luajit tests/bench/jobs.lua [--rounds 5] [--seconds 1]
local here = arg[0]:match("^(.*)/") or "."
package.path = ("%s/?.lua;%s/../?.lua;"):format(here, here) .. package.path

local cjson = require "cjson"
local http = require "socket.http"
local lfs = require "lfs"

local bench = require "bench"
local measure = require "measure"
local running = require "running"
local servers = require "servers"

local SEQUENTIAL, TOGETHER = 20000, 200000 -- jobs of a round

local function parse_options()
  local parser = bench.parser("jobs.lua", "What a job costs.", { rounds = 5 })
  parser:option("--seconds", "Length of the peers' rounds."):default("1"):convert(tonumber)
  return parser:parse()
end

local function run_json(command)
  local pipe = assert(io.popen(command))
  local output = pipe:read("*a")
  pipe:close()
  local line = output:match("{[^\n]*}")
  return line and cjson.decode(line) or error("no figures from: " .. command .. "\n" .. output, 0)
end

local function get(server, path)
  local body, status = http.request(("http://127.0.0.1:%d%s"):format(server.port, path))
  if status ~= 200 then
    error(("%s %s: %s"):format(server.name, path, tostring(status)), 0)
  end
  return body
end

-- The median time of a request on one connection, in µs.
local function latency(server, path, seconds)
  local url = ("http://127.0.0.1:%d%s"):format(server.port, path)
  return measure.wrk({ url = url, seconds = math.max(1, seconds), threads = 1,
    connections = 1 }).p50 * 1e6
end

local function measure_ours(server)
  local one = cjson.decode(get(server, "/sequential/" .. SEQUENTIAL))
  local many = cjson.decode(get(server, "/together/" .. TOGETHER))
  return { median_us = one.median_us, jobs_per_second = many.jobs_per_second,
    cpu_us = many.cpu_us, crossover = many.crossover }
end

local function added(server, seconds)
  return { added_us = latency(server, "/one", seconds) - latency(server, "/plain", seconds) }
end

local function run_rounds(options, place, ours, nginx)
  local rounds = { ours = {}, floor = {}, piscina = {}, added = {}, nginx = {} }
  for index = 1, options.rounds do
    rounds.floor[index] = run_json(("%s/bench/handover %g"):format(place.build, options.seconds))
    rounds.ours[index] = measure_ours(ours)
    rounds.added[index] = added(ours, options.seconds)
    if place.piscina then
      rounds.piscina[index] = run_json(("PISCINA_FROM=%s node %s/peers/piscina.mjs %g"):format(
        place.piscina, place.bench, options.seconds))
    end
    if nginx then
      rounds.nginx[index] = added(nginx, options.seconds)
    end
    io.stderr:write(("round %d of %d done\n"):format(index, options.rounds))
  end
  return rounds
end

local function print_row(name, rounds)
  if #rounds > 0 then
    local figures = measure.medians(rounds)
    print(("  %-28s %8.1f %12.0f %10.2f"):format(name, figures.median_us,
      figures.jobs_per_second, figures.cpu_us))
  end
end

local function verdict(value, limit, is_least)
  local met = is_least and value >= limit or not is_least and value <= limit
  return met and "met" or "MISSED"
end

local function print_results(rounds)
  print(("\n  %-28s %8s %12s %10s"):format("", "median us", "jobs/s", "CPU us"))
  print(("  %-28s %8s %12s %10s"):format("", "1 at a time", "64 in flight", "64 i. f."))
  print_row("bare futex and uv_async", rounds.floor)
  print_row("fasterlua, pool:run", rounds.ours)
  print_row("piscina, pool.run", rounds.piscina)
  local ratio = measure.median_ratio(rounds.ours, rounds.floor, "median_us")
  local figures = measure.medians(rounds.ours)
  local cpu, rate = figures.cpu_us, figures.jobs_per_second
  print(("\n  round trip against the bare one  at most 1.5      %.2f %s"):format(ratio,
    verdict(ratio, 1.5)))
  print(("  CPU of a job, 64 in flight       at most 2 us     %.2f %s"):format(cpu,
    verdict(cpu, 2)))
  print(("  rate, 64 in flight               at least 250,000 %.0f %s"):format(rate,
    verdict(rate, 250000, true)))
  print(("\n  what a request takes longer with a job in it: fasterlua %.1f us%s"):format(
    measure.median_of(rounds.added, "added_us"), #rounds.nginx > 0
    and (", nginx %.1f us"):format(measure.median_of(rounds.nginx, "added_us")) or ""))
  print(("  worth sending, as pool:stats() has measured it: what runs longer than %.0f us"):format(
    figures.crossover * 1e6))
end

local function run(options, place, started)
  local modules = place.build .. "/bench/npm"
  place.piscina = lfs.attributes(modules .. "/node_modules/piscina", "mode") and modules
  local ours, nginx = servers.jobs(place)
  running.start(ours, place, "/plain")
  started[1] = ours
  if nginx.missing then
    print("skipped nginx: " .. nginx.missing)
  else
    running.start(nginx, place, "/plain")
    started[2] = nginx
  end
  if not place.piscina then
    print("skipped piscina: needs npm")
  end
  print_results(run_rounds(options, place, ours, not nginx.missing and nginx))
end

bench.main(here, parse_options(), run)
