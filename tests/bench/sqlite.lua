-- What SQLite costs through fl.db, whose threads keep a slow disk away from the loop: a row beside
-- the same statement executed in-line, and small writes beside a program that commits one after
-- another, each waited for (`full`) or not (`normal`). Interleaved rounds of one run; medians.
--
--     TMPDIR=/on/a/disk luajit tests/bench/sqlite.lua [--rounds 3] [--seconds 2]
local here = arg[0]:match("^(.*)/") or "."
package.path = ("%s/?.lua;%s/sqlite/?.lua;%s/../?.lua;"):format(here, here, here) .. package.path

local cjson = require "cjson"
local http = require "socket.http"

local bench = require "bench"
local inline = require "inline"
local measure = require "measure"
local running = require "running"
local servers = require "servers"

local WORLD_SIZE = 10000
local endpoints = { "/inline", "/db", "/write" }
local ways = { "full", "normal" } -- of the naive program

local function parse_options()
  local parser = bench.parser("sqlite.lua", "What SQLite costs.", { rounds = 3 })
  parser:option("--seconds", "Length of a round."):default("2"):convert(tonumber)
  parser:option("--connections", "Keep-alive connections."):default("64"):convert(tonumber)
  parser:option("--threads", "Threads of the client and of the server."):default("2")
    :convert(tonumber)
  return parser:parse()
end

local function url_of(server, path)
  return ("http://127.0.0.1:%d%s"):format(server.port, path)
end

local function make_world(path)
  os.remove(path)
  local world = inline.open(path)
  inline.fill(world, WORLD_SIZE)
  inline.close(world)
end

-- What is read is in the table, and what is written gets there.
local function check_answer(server, endpoint, path)
  local body, status = http.request(url_of(server, endpoint))
  local ok, row = pcall(cjson.decode, body)
  local world = inline.open(path)
  local number = ok and type(row) == "table" and row.id and inline.read(world, row.id)
  inline.close(world)
  if status ~= 200 or not number or number ~= row.randomNumber then
    error(("%s answers %s with %s: %s"):format(server.name, endpoint, tostring(status),
      tostring(body)), 0)
  end
end

local function measure_naive(place, path, seconds, way)
  local pipe = assert(io.popen(("luajit '%s/sqlite/naive.lua' '%s' %d %s"):format(place.bench, path,
    seconds, way)))
  local output = pipe:read("*a")
  pipe:close()
  return cjson.decode(output)
end

local function run_rounds(options, place, server, naive_path)
  local rounds = { full = {}, normal = {} }
  for _, endpoint in ipairs(endpoints) do rounds[endpoint] = {} end
  for round = 1, options.rounds do
    for _, endpoint in ipairs(endpoints) do
      rounds[endpoint][round] = measure.round(server, { url = url_of(server, endpoint),
        seconds = options.seconds, threads = options.threads, connections = options.connections })
    end
    for _, way in ipairs(ways) do
      rounds[way][round] = measure_naive(place, naive_path, options.seconds, way)
    end
    io.stderr:write(("round %d of %d done\n"):format(round, options.rounds))
  end
  return rounds
end

local function print_endpoints(rounds)
  print(("\n%-10s %9s %9s %9s %11s %14s %12s"):format("", "req/s", "p50 ms", "p99 ms",
    "CPU s/100k", "req/s / inline", "CPU / inline"))
  for _, endpoint in ipairs(endpoints) do
    local own, figures = rounds[endpoint], measure.medians(rounds[endpoint])
    print(("%-10s %9.0f %9s %9s %11.3f %14s %12s"):format(endpoint, figures.rate,
      measure.milliseconds_text(figures.p50), measure.milliseconds_text(figures.p99),
      figures.cpu / 10, measure.ratio_text(measure.median_ratio(own, rounds["/inline"], "rate")),
      measure.ratio_text(measure.median_ratio(own, rounds["/inline"], "cpu"))))
  end
end

local function print_writes(rounds)
  print("\nsmall write transactions per second")
  for _, way in ipairs(ways) do
    print(("  one after another, synchronous = %-8s %9.0f   fl.db against it %s"):format(way,
      measure.median_of(rounds[way], "rate"), measure.ratio_text(
      measure.median_ratio(rounds["/write"], rounds[way], "rate"))))
  end
end

local function run(options, place, started)
  local path, naive_path = place.temporary .. "/world.db", place.temporary .. "/naive.db"
  make_world(path)
  make_world(naive_path)
  local server = servers.sqlite(place, path)
  started[1] = server
  running.start(server, place, "/inline")
  for _, endpoint in ipairs(endpoints) do check_answer(server, endpoint, path) end
  local set_up = "%d keep-alive connections, %d threads of wrk and of the server, %d rounds of %d s"
  print(set_up:format(options.connections, options.threads, options.rounds, options.seconds))
  local rounds = run_rounds(options, place, server, naive_path)
  print_endpoints(rounds)
  print_writes(rounds)
end

bench.main(here, parse_options(), run)
