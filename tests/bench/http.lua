-- `make bench`: the routes of apps/bench through the product, the C floor, its Lua prototype and
-- other servers, in interleaved rounds of one run, with the server's CPU time beside the rate.
--
--     luajit tests/bench/http.lua                                  all servers, 5 rounds
--     luajit tests/bench/http.lua --only floor,prototype --rounds 1 --routes json --json out.json
--
-- Client and server share the machine, so rates vary from hour to hour. What counts is CPU per
-- request, split into user space (the server's own code) and kernel (the same for everybody), as
-- the median over the rounds of the ratio to a peer measured a few seconds apart.
-- The kernel samples that split at its timer's tick, so one round's user-space time may be off by a
-- sixth: longer rounds (--seconds) make it finer. Total CPU time is exact to 10 ms.
local here = arg[0]:match("^(.*)/") or "."
package.path = ("%s/?.lua;%s/../?.lua;"):format(here, here) .. package.path

local cjson = require "cjson"
local http = require "socket.http"
local ltn12 = require "ltn12"

local bench = require "bench"
local comparison = require "comparison"
local measure = require "measure"
local running_servers = require "running"
local servers = require "servers"

local echo_body = '{"id":42,"name":"fasterlua","tags":["a","b"]}'

local routes = {
  { name = "plaintext", path = "/plaintext", answer = "Hello, World!" },
  { name = "user", path = "/user/42", answer = "user 42" },
  { name = "json", path = "/json", answer = { message = "Hello, World!" } },
  { name = "echo", path = "/echo", body = echo_body, answer = cjson.decode(echo_body) },
  { name = "pipelined", path = "/plaintext", depth = 16, answer = "Hello, World!" },
}

-- At most `limits[route]` times what the peer takes of the same measure.
local targets = {
  { measure = "user", title = "user-space time", peer = "prototype",
    limits = { plaintext = 1.5, user = 1.5, json = 1.5, echo = 1.5, pipelined = 1.5 } },
  { measure = "cpu", title = "CPU time", peer = "floor",
    limits = { plaintext = 1.2, user = 1.2, json = 1.25, echo = 1.6, pipelined = 2 } },
  { measure = "cpu", title = "CPU time", peer = "nginx",
    limits = { plaintext = 0.75, user = 0.75, json = 0.75, echo = 0.75, pipelined = 0.22 } },
  { measure = "cpu", title = "CPU time", peer = "fastapi",
    limits = { plaintext = 0.1, user = 0.1, json = 0.1, echo = 0.1, pipelined = 0.1 } },
}

local function parse_options()
  local parser = bench.parser("http.lua", "Compares servers on the routes of apps/bench.",
    { rounds = 5 })
  parser:option("--only", "Servers to run, separated by commas."):argname "NAMES"
  parser:option("--routes", "Routes to run, separated by commas."):argname "NAMES"
  parser:option("--seconds", "Length of a round."):default("3"):convert(tonumber)
  parser:option("--connections", "Keep-alive connections."):default("64"):convert(tonumber)
  parser:option("--threads", "Threads of the client and of each server."):default("2")
    :convert(tonumber)
  parser:option("--json", "File to write all figures to."):argname "FILE"
  return parser:parse()
end

local function url_of(server, route)
  return ("http://127.0.0.1:%d%s"):format(server.port, route.path)
end

local function fetch(server, route)
  local chunks = {}
  local headers = {}
  if route.body then
    headers = { ["Content-Length"] = #route.body, ["Content-Type"] = "application/json" }
  end
  local _, status = http.request {
    url = url_of(server, route), method = route.body and "POST" or "GET", headers = headers,
    source = route.body and ltn12.source.string(route.body), sink = ltn12.sink.table(chunks),
  }
  return status, table.concat(chunks)
end

local function is_same(actual, expected)
  if type(expected) ~= "table" then return actual == expected end
  if type(actual) ~= "table" then return false end
  for key, value in pairs(expected) do
    if not is_same(actual[key], value) then return false end
  end
  return true
end

local function check_answer(server, route)
  local status, body = fetch(server, route)
  local answer = body
  if type(route.answer) == "table" then answer = select(2, pcall(cjson.decode, body)) end
  if status ~= 200 or not is_same(answer, route.answer) then
    error(("%s answers %s with %s: %s"):format(server.name, route.path, status, body), 0)
  end
end

local function start(server, place)
  running_servers.start(server, place, routes[1].path)
  for _, route in ipairs(routes) do check_answer(server, route) end
end

local function load_of(options, server, route, seconds)
  return { url = url_of(server, route), seconds = seconds, threads = options.threads,
    connections = options.connections, method = route.body and "POST" or "GET",
    depth = route.depth, body = route.body }
end

local header_format = "%-12s %10s %9s %9s %12s %9s %10s %8s %10s %15s"
local row_format = "%-12s %10.0f %9s %9s %12.3f %9.2f %10.2f %8.1f %10s %15s"

local function print_route(route, running, rounds)
  print("\n" .. route.name .. (route.depth and (" (pipeline of %d)"):format(route.depth) or ""))
  print(header_format:format("", "req/s", "p50 ms", "p99 ms", "CPU s/100k", "user us",
    "system us", "RSS MB", "CPU/floor", "user/prototype"))
  for _, server in ipairs(running) do
    local own = rounds[server.name]
    local figures = measure.medians(own)
    print(row_format:format(server.name, figures.rate, measure.milliseconds_text(figures.p50),
      measure.milliseconds_text(figures.p99), figures.cpu / 10, figures.user, figures.system,
      figures.rss / 2 ^ 20,
      measure.ratio_text(measure.median_ratio(own, rounds.floor, "cpu")),
      measure.ratio_text(measure.median_ratio(own, rounds.prototype, "user"))))
  end
end

local function check_targets(selected_routes, rounds)
  local results = {}
  for _, target in ipairs(targets) do
    for _, route in ipairs(selected_routes) do
      local own = rounds[route.name].fasterlua
      local ratio = own and measure.median_ratio(own, rounds[route.name][target.peer],
        target.measure)
      results[#results + 1] = { route = route.name, measure = target.title, peer = target.peer,
        limit = target.limits[route.name], ratio = ratio }
    end
  end
  return results
end

local function target_verdict(result)
  if not result.ratio then return "not measured" end
  return result.ratio <= result.limit and "met" or "MISSED"
end

local function print_targets(results)
  print("\nTargets: fasterlua against a peer, at most")
  for _, result in ipairs(results) do
    print(("  %-10s %-16s %-10s %5.2f   measured %5s   %s"):format(result.route, result.measure,
      result.peer, result.limit, measure.ratio_text(result.ratio), target_verdict(result)))
  end
end

--- Servers go into `running` as they start, so that the caller can stop them whatever happens.
local function run(options, place, running)
  local selected_routes = bench.select_named(routes, options.routes)
  local chosen = bench.select_named(servers.list(place), options.only)
  for i, server in ipairs(bench.leave_out_missing(chosen)) do
    running[i] = server
    start(server, place)
  end
  local compared = { options = options, servers = running, routes = selected_routes,
    load = load_of }
  comparison.print_set_up(compared,
    "client and server share this machine's processors over loopback")
  local rounds = comparison.rounds(compared)
  for _, route in ipairs(selected_routes) do print_route(route, running, rounds[route.name]) end
  local results = check_targets(selected_routes, rounds)
  print_targets(results)
  comparison.write_json(compared, rounds, results)
end

bench.main(here, parse_options(), run)
