-- The admin listener: what a probe and a scraper see.

local support = require "support"

local now, sleep = support.process.now, support.process.sleep

local app = [[
local fl = require "fasterlua"
local await = fl.await
local app = fl.app { title = "admin" }

app:get("/", function() return "root" end)
app:get("/items/{id:int}", function(req) return { id = req.params.id } end)
app:get("/nap", function() await(fl.sleep(0.2)) return "napped" end)
app:get("/long", function() await(fl.sleep(1)) return "done" end)
app:get('/quote"back\\slash', function() return "odd" end)
app:get("/missing", function() return fl.http_error(404, "no such thing") end)
app:get("/broken", function() error("broken") end)

return app
]]

local function family_of(name)
  return name:gsub("_bucket$", ""):gsub("_sum$", ""):gsub("_count$", "")
end

-- Prometheus' text format, version 0.0.4: values by series, types by name. Raises what a scraper
-- would refuse.
local function parse(text)
  local series, types, helps, order = {}, {}, {}, {}
  assert.equal("\n", text:sub(-1))
  for line in text:gmatch("([^\n]*)\n") do
    local kind, name, rest = line:match("^# (%u+) ([%a_:][%w_:]*) (.+)$")
    if kind == "HELP" then
      assert.is_nil(helps[name], "two helps for " .. name)
      helps[name] = rest
    elseif kind == "TYPE" then
      assert.is_nil(types[name], "two types for " .. name)
      types[name] = rest
    else
      local metric, labels, value = line:match("^([%a_:][%w_:]*)(%b{}) (%S+)$")
      if not metric then metric, value = line:match("^([%a_:][%w_:]*) (%S+)$") end
      assert.is_truthy(metric, "malformed: " .. line)
      local family = types[metric] and metric or family_of(metric)
      assert.is_truthy(types[family] and helps[family], "no type or help before " .. line)
      assert.is_true(order[#order] == family or not series[family], family .. " is scattered")
      order[#order + 1], series[family] = family, true
      assert.is_truthy(tonumber((value:gsub("^%+Inf$", "1"))), "no number: " .. line)
      local key = metric .. (labels or "")
      assert.is_nil(series[key .. " "], "twice: " .. key)
      series[key .. " "] = tonumber(value)
      for label in (labels or "{}"):sub(2, -2):gsub('\\.', ""):gmatch("[^,]+") do
        assert.matches('^[%a_][%w_]*="[^"]*"$', label)
      end
    end
  end
  return series, types
end

local function sum(metrics, name, ...)
  local total, found = 0, false
  for key, value in pairs(metrics) do
    local fits = key:match("^[^{]*") == name
    for _, label in ipairs { ... } do fits = fits and key:find(label, 1, true) end
    if fits then total, found = total + value, true end
  end
  return found and total or nil
end

support.describe_server("the admin listener", { app = app }, function(get_server)
  it("says that the process is alive, and ready", function()
    assert.equal(200, get_server():admin("/health").status)
    assert.equal(200, get_server():admin("/ready").status)
    assert.equal(404, get_server():admin("/nothing").status)
  end)

  it("speaks Prometheus' format", function()
    local server = get_server()
    for _, path in ipairs { "/", "/items/1", "/missing", "/broken", "/nowhere", "/nap" } do
      server:get(path)
    end
    local answer = server:admin("/metrics")
    assert.equal(200, answer.status)
    assert.matches("^text/plain; version=0%.0%.4", answer.headers["content-type"])
    local _, types = parse(answer.body)
    local expected = {
      fasterlua_requests_total = "counter", fasterlua_request_duration_seconds = "histogram",
      fasterlua_requests_in_flight = "gauge", fasterlua_requests_shed_total = "counter",
      fasterlua_connections = "gauge", fasterlua_connections_accepted_total = "counter",
      fasterlua_loop_lag_seconds = "gauge", fasterlua_lua_memory_bytes = "gauge",
      fasterlua_jit_flushes_total = "counter", fasterlua_restarts_total = "counter",
      fasterlua_slow_handlers_total = "counter", fasterlua_log_dropped_total = "counter",
      fasterlua_tasks = "gauge", fasterlua_bytes_sent_total = "counter",
      fasterlua_bytes_received_total = "counter", fasterlua_protocol_errors_total = "counter",
      process_resident_memory_bytes = "gauge", process_open_fds = "gauge",
      process_cpu_seconds_total = "counter", process_start_time_seconds = "gauge",
      fasterlua_build_info = "gauge",
    }
    for name, kind in pairs(expected) do assert.equal(kind, types[name], name) end
  end)

  it("counts requests by route and status", function()
    local server = get_server()
    local function count(route, status)
      return sum(server:metrics(), "fasterlua_requests_total", ('route="%s"'):format(route),
        'method="GET"', ('status="%s"'):format(status)) or 0
    end
    local items, broken, missing = count("/items/{id:int}", 200), count("/broken", 500),
      count("/missing", 404)
    for i = 1, 5 do server:get("/items/" .. i) end
    server:get("/broken")
    server:get("/missing")
    assert.equal(items + 5, count("/items/{id:int}", 200))
    assert.equal(broken + 1, count("/broken", 500))
    assert.equal(missing + 1, count("/missing", 404))
  end)

  it("escapes what a route may hold", function()
    get_server():get("/quote%22back%5Cslash")
    local body = get_server():admin("/metrics").body
    parse(body)
    assert.is_truthy(body:find([[route="/quote\"back\\slash"]], 1, true), body)
  end)

  it("has histograms whose buckets grow and end with the count", function()
    local server = get_server()
    server:get("/nap")
    local last, infinite, below = -1, nil, nil
    for line in server:admin("/metrics").body:gmatch("[^\n]+") do
      local limit, value = line:match('_bucket{[^}]*route="/nap"[^}]*le="([^"]+)"[^}]*} (%d+)$')
      if limit then
        value = tonumber(value)
        assert.is_true(value >= last, line)
        last = value
        if limit == "+Inf" then infinite = value end
        if tonumber(limit) and tonumber(limit) <= 0.1 then below = value end
      end
    end
    local metrics = server:metrics()
    local count = sum(metrics, "fasterlua_request_duration_seconds_count", 'route="/nap"')
    assert.equal(count, infinite)
    assert.equal(0, below)
    assert.is_true(sum(metrics, "fasterlua_request_duration_seconds_sum", 'route="/nap"')
      >= 0.2 * count)
  end)

  it("has gauges that rise and fall", function()
    local server = get_server()
    local client = server:connect()
    client:send("GET /long HTTP/1.1\r\nHost: a\r\n\r\n")
    support.eventually(function()
      local metrics = server:metrics()
      return metrics.fasterlua_requests_in_flight == 1
        and sum(metrics, "fasterlua_connections") == 1
    end)
    client:response()
    assert.equal(0, server:metrics().fasterlua_requests_in_flight)
    client:close()
    support.eventually(function()
      return sum(server:metrics(), "fasterlua_connections") == 0
    end)
  end)

  it("is not to be found where the apps are", function()
    assert.equal(404, get_server():get("/metrics").status)
    assert.equal(404, get_server():get("/ready").status)
  end)

  it("answers while every thread is held by a handler", function()
    local server = support.start { settings = { threads = 1, stuck_handler = "20s" },
      app = app:gsub("return app\n", 'app:get("/loop", function() while true do end end)\n%0') }
    server:connect():send("GET /loop HTTP/1.1\r\nHost: a\r\n\r\n")
    server:wait_log("slow handler")
    assert.equal(200, server:admin("/health").status)
    assert.equal(1, server:metrics().fasterlua_slow_handlers_total)
    server:kill()
  end)
end)

describe("readiness", function()
  it("is over while the server drains", function()
    local server = support.start { app = app, settings = { drain = "10s" } }
    local client = server:connect()
    client:send("GET /long HTTP/1.1\r\nHost: a\r\n\r\n")
    sleep(0.1)
    server:signal "TERM"
    support.eventually(function() return server:admin("/ready").status == 503 end, 0.8)
    assert.equal(200, server:admin("/health").status)
    assert.equal("done", client:response().body)
    server:wait_end() -- or a second signal would have it stop at once
    server:stop()
  end)

  -- The new process takes the address when the old one has let it go.
  it("is interrupted for a moment at most while the server process is replaced", function()
    local server = support.start { app = app, settings = { drain = "10s" } }
    local pid, last, longest = server:server_pid(), now(), 0
    server:signal "HUP"
    support.process.poll(function()
      local ok, answer = pcall(server.admin, server, "/ready")
      if ok and answer.status == 200 then
        longest, last = math.max(longest, now() - last), now()
      end
    end, 1)
    longest = math.max(longest, now() - last)
    assert.not_equal(pid, server:server_pid())
    server:stop()
    assert.is_true(longest < 0.2 * support.slowdown, ("it was gone for %.3f s"):format(longest))
  end)
end)

describe("the admin address", function()
  it("is off by default", function()
    local server = support.start { app = app, flags = { "--admin", "" } }
    assert.is_nil((os.rename(server.dir .. "/admin.sock", server.dir .. "/admin.sock")))
    server:stop()
  end)

  it("may be a host and port", function()
    local server = support.start { app = app, flags = { "--admin", "127.0.0.1:0" } }
    local port = tonumber(server:wait_log("admin on port (%d+)"))
    local client = support.connect { host = "127.0.0.1", port = port }
    assert.equal(200, client:request({ path = "/ready" }).status)
    client:close()
    server:stop()
  end)

  it("that cannot be had is told, and the server serves", function()
    local server = support.start { app = app, flags = { "--admin", "/nowhere/at/all.sock" } }
    server:wait_log("error[^\n]*admin address[^\n]*/nowhere/at/all.sock")
    assert.equal("root", server:get("/").body)
    server:stop()
  end)
end)
