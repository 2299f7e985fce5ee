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

local argparse = require "argparse"
local cjson = require "cjson"
local http = require "socket.http"
local lfs = require "lfs"
local ltn12 = require "ltn12"

local process = require "support.process"
local running_servers = require "running"
local servers = require "servers"
local usage = require "usage"

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
  local parser = argparse("http.lua", "Compares servers on the routes of apps/bench.")
  parser:option("--only", "Servers to run, separated by commas."):argname "NAMES"
  parser:option("--routes", "Routes to run, separated by commas."):argname "NAMES"
  parser:option("--rounds", "Rounds per server and route."):default("5"):convert(tonumber)
  parser:option("--seconds", "Length of a round."):default("3"):convert(tonumber)
  parser:option("--connections", "Keep-alive connections."):default("64"):convert(tonumber)
  parser:option("--threads", "Threads of the client and of each server."):default("2")
    :convert(tonumber)
  parser:option("--build", "Directory of the built programs.")
    :default(os.getenv("BUILD") or "build")
  parser:option("--json", "File to write all figures to."):argname "FILE"
  return parser:parse()
end

local function name_set(list)
  if not list then return nil end
  local set = {}
  for name in list:gmatch("[^,%s]+") do set[name] = true end
  return set
end

local function select_named(items, names)
  local selected = {}
  for _, item in ipairs(items) do
    if not names or names[item.name] then selected[#selected + 1] = item end
    if names then names[item.name] = nil end
  end
  local unknown = names and next(names)
  if unknown then error("no such server or route: " .. unknown, 0) end
  return selected
end

local function absolute(path)
  return path:sub(1, 1) == "/" and path or lfs.currentdir() .. "/" .. path
end

local function make_place(options)
  local bench = absolute(here)
  return { bench = bench, root = bench .. "/../..", build = absolute(options.build),
    temporary = process.temporary_directory(), threads = options.threads }
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

local function run_wrk(options, server, route, seconds)
  local command = ("wrk -t%d -c%d -d%ds --timeout 5s -s %s/wrk.lua %s -- %s %d"):format(
    options.threads, options.connections, seconds, here, url_of(server, route),
    route.body and "POST" or "GET", route.depth or 1)
  if route.body then command = command .. " '" .. route.body .. "'" end
  local pipe = assert(io.popen(command))
  local output = pipe:read("*a")
  pipe:close()
  local line = output:match("\n({[^\n]*})\n*$")
  if not line then error("wrk failed:\n" .. command .. "\n" .. output, 0) end
  return cjson.decode(line)
end

local function threads_used(before, after)
  local earlier, used = {}, {}
  for _, thread in ipairs(before) do earlier[thread.tid] = thread end
  for _, thread in ipairs(after) do
    local first = earlier[thread.tid] or { user = 0, system = 0 }
    used[#used + 1] = { pid = thread.pid, tid = thread.tid, name = thread.name,
      user = thread.user - first.user, system = thread.system - first.system }
  end
  return used
end

--- One round: what wrk saw, and what the server used meanwhile, in µs per request.
local function measure(options, server, route)
  local before = usage.of(server.pid)
  local seen = run_wrk(options, server, route, options.seconds)
  local after = usage.of(server.pid)
  if seen.failed > 0 then
    print(("warning: %s %s: %d requests failed"):format(server.name, route.name, seen.failed))
  end
  local requests = math.max(seen.requests, 1)
  local user, system = after.user - before.user, after.system - before.system
  return {
    rate = seen.requests / seen.seconds, p50 = seen.p50, p99 = seen.p99, failed = seen.failed,
    user = user / requests * 1e6, system = system / requests * 1e6,
    cpu = (user + system) / requests * 1e6, rss = after.rss,
    threads = threads_used(before.threads, after.threads),
  }
end

local function run_rounds(options, running, selected_routes)
  local rounds = {} -- [route name][server name] = list of measurements
  for _, route in ipairs(selected_routes) do
    rounds[route.name] = {}
    for _, server in ipairs(running) do
      rounds[route.name][server.name] = {}
      run_wrk(options, server, route, 1)
    end
  end
  for round = 1, options.rounds do
    for _, route in ipairs(selected_routes) do
      for _, server in ipairs(running) do
        rounds[route.name][server.name][round] = measure(options, server, route)
      end
    end
    io.stderr:write(("round %d of %d done\n"):format(round, options.rounds))
  end
  return rounds
end

local function median(values)
  table.sort(values)
  local middle = math.floor(#values / 2)
  if #values % 2 == 1 then return values[middle + 1] end
  return (values[middle] + values[middle + 1]) / 2
end

local function median_of(rounds, key)
  local values = {}
  for i, round in ipairs(rounds) do values[i] = round[key] end
  return median(values)
end

--- The median of the rounds' own ratios; nil when a peer did not run or used no measurable time.
local function median_ratio(rounds, peer_rounds, key)
  local values = {}
  for i, round in ipairs(rounds) do
    local peer = peer_rounds and peer_rounds[i]
    if peer and peer[key] > 0 then values[#values + 1] = round[key] / peer[key] end
  end
  return #values > 0 and median(values) or nil
end

local function ratio_text(ratio)
  return ratio and ("%.2f"):format(ratio) or "-"
end

-- wrk times a batch when its last answer is in; with no batch ended so it knows no latency.
local function milliseconds_text(seconds)
  return seconds > 0 and ("%.3f"):format(seconds * 1e3) or "-"
end

local header_format = "%-12s %10s %9s %9s %12s %9s %10s %8s %10s %15s"
local row_format = "%-12s %10.0f %9s %9s %12.3f %9.2f %10.2f %8.1f %10s %15s"

local function print_route(route, running, rounds)
  print("\n" .. route.name .. (route.depth and (" (pipeline of %d)"):format(route.depth) or ""))
  print(header_format:format("", "req/s", "p50 ms", "p99 ms", "CPU s/100k", "user us",
    "system us", "RSS MB", "CPU/floor", "user/prototype"))
  for _, server in ipairs(running) do
    local own = rounds[server.name]
    print(row_format:format(server.name, median_of(own, "rate"),
      milliseconds_text(median_of(own, "p50")), milliseconds_text(median_of(own, "p99")),
      median_of(own, "cpu") / 10, median_of(own, "user"), median_of(own, "system"),
      median_of(own, "rss") / 2 ^ 20,
      ratio_text(median_ratio(own, rounds.floor, "cpu")),
      ratio_text(median_ratio(own, rounds.prototype, "user"))))
  end
end

local function check_targets(selected_routes, rounds)
  local results = {}
  for _, target in ipairs(targets) do
    for _, route in ipairs(selected_routes) do
      local own = rounds[route.name].fasterlua
      local ratio = own and median_ratio(own, rounds[route.name][target.peer], target.measure)
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
      result.peer, result.limit, ratio_text(result.ratio), target_verdict(result)))
  end
end

local function print_set_up(options, running)
  print(("%d keep-alive connections, %d threads of wrk, %d threads or processes per server, %d "
    .. "rounds of %d s"):format(options.connections, options.threads, options.threads,
    options.rounds, options.seconds))
  print("client and server share this machine's processors over loopback; medians of the rounds;")
  print("ratios are medians of each round's ratio")
  for _, server in ipairs(running) do print(("  %-12s %s"):format(server.name, server.title)) end
end

local function leave_out_missing(chosen)
  local present = {}
  for _, server in ipairs(chosen) do
    if server.missing then print(("skipped %s: %s"):format(server.name, server.missing))
    else present[#present + 1] = server end
  end
  return present
end

local function write_json(path, options, rounds, results)
  local file = assert(io.open(path, "w"))
  file:write(cjson.encode({ options = options, routes = rounds, targets = results }), "\n")
  file:close()
end

--- Servers go into `running` as they start, so that the caller can stop them whatever happens.
local function run(options, place, running)
  local selected_routes = select_named(routes, name_set(options.routes))
  local chosen = select_named(servers.list(place), name_set(options.only))
  for i, server in ipairs(leave_out_missing(chosen)) do
    running[i] = server
    start(server, place)
  end
  print_set_up(options, running)
  local rounds = run_rounds(options, running, selected_routes)
  for _, route in ipairs(selected_routes) do print_route(route, running, rounds[route.name]) end
  local results = check_targets(selected_routes, rounds)
  print_targets(results)
  if options.json then write_json(options.json, options, rounds, results) end
end

local function main()
  local options = parse_options()
  local place, running = make_place(options), {}
  local ok, message = xpcall(run, debug.traceback, options, place, running)
  for _, server in ipairs(running) do
    if server.pid then running_servers.stop(server.pid) end
  end
  process.remove_directory(place.temporary)
  if not ok then io.stderr:write(message, "\n") end
  os.exit(ok and 0 or 1)
end

main()
