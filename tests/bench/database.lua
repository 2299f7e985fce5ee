-- What endpoints over PostgreSQL cost: one row, twenty rows, twenty rows read and written, a page
-- of text and a cache, as the usual framework benchmarks define them, here and in other servers,
-- over the same database, in interleaved rounds of one run.
--
--     luajit tests/bench/database.lua [--rounds 3] [--seconds 2] [--only floor,bun] [--routes db]
--
-- Client, servers and database share the machine. A peer's CPU time is that of all its processes;
-- the database's own is counted apart, since how a driver asks decides what the database spends.
-- On a machine that others use too, throughput goes to who has most threads and connections: then
-- only the CPU times tell something.
local here = arg[0]:match("^(.*)/") or "."
package.path = ("%s/?.lua;%s/../?.lua;"):format(here, here) .. package.path

local cjson = require "cjson"
local http = require "socket.http"

local bench = require "bench"
local comparison = require "comparison"
local measure = require "measure"
local postgres = require "postgres"
local running = require "running"
local servers = require "servers"

local COUNT = 20

local routes = {
  { name = "db", path = "/db" },
  { name = "queries", path = "/queries?n=" .. COUNT, count = COUNT },
  { name = "updates", path = "/updates?n=" .. COUNT, count = COUNT },
  { name = "fortunes", path = "/fortunes" },
  { name = "cached", path = "/cached-queries?n=" .. COUNT, count = COUNT },
}

-- fasterlua against a peer: at least or at most so many times its figure.
local targets = {
  { route = "db", key = "rate", title = "throughput", peer = "bun", least = 2 },
  { route = "db", key = "rate", title = "throughput", peer = "node", least = 4 },
  { route = "queries", key = "rate", title = "throughput", peer = "bun", least = 1.5 },
  { route = "queries", key = "rate", title = "throughput", peer = "floor", least = 0.7 },
  { route = "db", key = "cpu", title = "server CPU", peer = "bun", most = 0.5 },
  { route = "db", key = "cpu", title = "server CPU", peer = "floor", most = 2.5 },
  { route = "queries", key = "cpu", title = "server CPU", peer = "bun", most = 0.5 },
  { route = "queries", key = "cpu", title = "server CPU", peer = "floor", most = 2.5 },
}

local fortunes_page = [[<!DOCTYPE html><html><head><title>Fortunes</title></head><body><table>]]
  .. [[<tr><th>id</th><th>message</th></tr>]]
  .. [[<tr><td>11</td><td>&lt;script&gt;alert(&quot;This should not be displayed in a browser ]]
  .. [[alert box.&quot;);&lt;/script&gt;</td></tr>]]
  .. [[<tr><td>4</td><td>A bad random number generator: 1, 1, 1, 1, 1, 4.33e+67, 1, 1, 1</td></tr>]]
  .. [[<tr><td>5</td><td>A computer program does what you tell it to do, not what you want it to ]]
  .. [[do.</td></tr>]]
  .. [[<tr><td>2</td><td>A computer scientist is someone who fixes things that aren&#39;t ]]
  .. [[broken.</td></tr>]]
  .. [[<tr><td>8</td><td>A list is only as strong as its weakest link. — Donald Knuth</td></tr>]]
  .. [[<tr><td>0</td><td>Additional fortune added at request time.</td></tr>]]
  .. [[<tr><td>3</td><td>After enough decimal places, nobody gives a damn.</td></tr>]]
  .. [[<tr><td>7</td><td>Any program that runs right is obsolete.</td></tr>]]
  .. [[<tr><td>10</td><td>Computers make very fast, very accurate mistakes.</td></tr>]]
  .. [[<tr><td>6</td><td>Emacs is a nice operating system, but I prefer UNIX. — Tom Christaensen]]
  .. [[</td></tr>]]
  .. [[<tr><td>9</td><td>Feature: A bug with seniority.</td></tr>]]
  .. [[<tr><td>1</td><td>fortune: No such file or directory</td></tr>]]
  .. [[<tr><td>12</td><td>フレームワークのベンチマーク</td></tr>]]
  .. [[</table></body></html>]]

local function parse_options()
  local parser = bench.parser("database.lua", "Endpoints over PostgreSQL.", { rounds = 3 })
  parser:option("--only", "Servers to run, separated by commas."):argname "NAMES"
  parser:option("--routes", "Routes to run, separated by commas."):argname "NAMES"
  parser:option("--seconds", "Length of a round."):default("2"):convert(tonumber)
  parser:option("--connections", "Keep-alive connections."):default("64"):convert(tonumber)
  parser:option("--threads", "Threads of the client and of each server."):default("2")
    :convert(tonumber)
  parser:option("--json", "File to write all figures to."):argname "FILE"
  return parser:parse()
end

local function url_of(server, path)
  return ("http://127.0.0.1:%d%s"):format(server.port, path)
end

-- Checking answers.

local function wrong(server, path, answer, what)
  error(("%s answers %s with %s: %s"):format(server.name, path, tostring(answer), what), 0)
end

local function fetch(server, path, media_type)
  local body, status, headers = http.request(url_of(server, path))
  if status ~= 200 then wrong(server, path, status, tostring(body)) end
  local actual = headers["content-type"] or "none"
  if actual:match("^[^;]*") ~= media_type then
    wrong(server, path, body, "its type is " .. actual)
  end
  return body
end

-- The same bytes from everybody: without spaces, id first.
local function encode(rows, is_list)
  local parts = {}
  for i, row in ipairs(rows) do
    parts[i] = ('{"id":%d,"randomNumber":%d}'):format(row.id, row.randomNumber)
  end
  local text = table.concat(parts, ",")
  return is_list and "[" .. text .. "]" or text
end

local function fetch_rows(server, path, count)
  local body = fetch(server, path, "application/json")
  local ok, answer = pcall(cjson.decode, body)
  local rows = ok and type(answer) == "table" and (count and answer or { answer }) or {}
  if #rows ~= (count or 1) then wrong(server, path, body, "that are not so many rows") end
  local encodes, expected = pcall(encode, rows, count ~= nil)
  if not encodes or body ~= expected then
    wrong(server, path, body, "expected " .. tostring(expected))
  end
  return rows
end

-- A row may be drawn twice: then one of its new numbers is in the table.
local function check_rows(server, path, rows, world)
  local written = {}
  for _, row in ipairs(rows) do
    written[row.id] = written[row.id] or world[row.id] == row.randomNumber
  end
  for id, is_written in pairs(written) do
    if not is_written then
      wrong(server, path, encode(rows, true), ("row %d is %s in the table"):format(id,
        tostring(world[id])))
    end
  end
end

local function check_updates(server, database)
  local path, before = "/updates?n=" .. COUNT, database:world()
  local rows, changed = fetch_rows(server, path, COUNT), 0
  check_rows(server, path, rows, database:world())
  for _, row in ipairs(rows) do
    if before[row.id] ~= row.randomNumber then changed = changed + 1 end
  end
  if changed < COUNT / 2 then
    wrong(server, path, encode(rows, true), "the numbers are not new")
  end
end

local function is_drawn(rows)
  for _, row in ipairs(rows) do
    if row.id ~= rows[1].id then return true end
  end
  return false
end

-- Before anything is updated: what is cached is what is stored.
local function check_reads(server, database)
  local world = database:world()
  check_rows(server, "/db", fetch_rows(server, "/db"), world)
  for _, path in ipairs { "/queries?n=", "/cached-queries?n=" } do
    for _, count in ipairs { 1, COUNT, 500 } do
      local rows = fetch_rows(server, path .. count, count)
      check_rows(server, path .. count, rows, world)
      if count > 1 and not is_drawn(rows) then
        wrong(server, path .. count, encode(rows, true), "always the same row")
      end
    end
  end
  local page = fetch(server, "/fortunes", "text/html")
  if page ~= fortunes_page then wrong(server, "/fortunes", page, "expected " .. fortunes_page) end
end

-- Measuring.

local function load_of(options, server, route, seconds)
  return { url = url_of(server, route.path), seconds = seconds, threads = options.threads,
    connections = options.connections }
end

-- Printing.

local peers = { "floor", "bun", "node", "node-pipe", "fastapi" }
local header_format = "%-10s %9s %9s %9s %11s %11s %7s"
local row_format = "%-10s %9.0f %9s %9s %11.3f %11.3f %7.1f"

local function print_ratios(title, key, chosen, rounds)
  local line = ("  %-20s"):format(title)
  for _, peer in ipairs(peers) do line = line .. ("%10s"):format(peer) end
  print(line)
  for _, server in ipairs(chosen) do
    line = ("  %-20s"):format(server.name)
    for _, peer in ipairs(peers) do
      local ratio = measure.median_ratio(rounds[server.name], rounds[peer], key)
      line = line .. ("%10s"):format(measure.ratio_text(ratio))
    end
    print(line)
  end
end

local function print_route(route, chosen, rounds)
  print(("\n%s, %s"):format(route.name, route.path))
  print(header_format:format("", "req/s", "p50 ms", "p99 ms", "CPU s/100k", "PG s/100k", "RSS MB"))
  for _, server in ipairs(chosen) do
    local own = rounds[server.name]
    local figures = measure.medians(own)
    print(row_format:format(server.name, figures.rate, measure.milliseconds_text(figures.p50),
      measure.milliseconds_text(figures.p99), figures.cpu / 10, figures.database_cpu / 10,
      figures.rss / 2 ^ 20))
  end
  print_ratios("req/s against", "rate", chosen, rounds)
  print_ratios("server CPU against", "cpu", chosen, rounds)
end

local function check_target(target, rounds)
  local own = rounds[target.route] and rounds[target.route].fasterlua
  local ratio = own and measure.median_ratio(own, rounds[target.route][target.peer], target.key)
  local verdict = "not measured"
  if ratio then
    local is_met = ratio >= (target.least or 0) and ratio <= (target.most or math.huge)
    verdict = is_met and "met" or "MISSED"
  end
  return { route = target.route, measure = target.title, peer = target.peer, least = target.least,
    most = target.most, ratio = ratio, verdict = verdict }
end

local function check_targets(rounds)
  local results = {}
  for i, target in ipairs(targets) do results[i] = check_target(target, rounds) end
  return results
end

local function print_targets(results)
  print("\nTargets: fasterlua against a peer")
  for _, result in ipairs(results) do
    print(("  %-8s %-11s %-6s at %s %4.2f   measured %5s   %s"):format(result.route,
      result.measure, result.peer, result.least and "least" or "most ",
      result.least or result.most, measure.ratio_text(result.ratio), result.verdict))
  end
end

-- Without the endpoints there is nothing to measure.
local function has_endpoints(server)
  local _, status = http.request(url_of(server, "/db"))
  return status ~= 404
end

local function start_servers(options, place, database, started)
  local chosen = {}
  local wanted = bench.select_named(servers.database(place, database.environment), options.only)
  for _, server in ipairs(bench.leave_out_missing(wanted)) do
    started[#started + 1] = server
    running.start(server, place, server.name == "fasterlua" and "/plaintext" or "/db")
    if has_endpoints(server) then chosen[#chosen + 1] = server
    else print(("skipped %s: it has no /db"):format(server.name)) end
  end
  for _, server in ipairs(chosen) do check_reads(server, database) end
  for _, server in ipairs(chosen) do check_updates(server, database) end
  return chosen
end

local function run(options, place, started)
  if postgres.missing() then
    print("skipped: " .. postgres.missing())
    return
  end
  local selected_routes = bench.select_named(routes, options.routes)
  local database = postgres.start()
  started[1] = database
  local chosen = start_servers(options, place, database, started)
  local compared = { options = options, servers = chosen, routes = selected_routes, load = load_of,
    database_pid = database.pid }
  comparison.print_set_up(compared, "client, servers and PostgreSQL (without waits for its disk) "
    .. "share this machine's\nprocessors")
  local rounds = comparison.rounds(compared)
  for _, route in ipairs(selected_routes) do print_route(route, chosen, rounds[route.name]) end
  local results = check_targets(rounds)
  print_targets(results)
  comparison.write_json(compared, rounds, results)
end

bench.main(here, parse_options(), run)
