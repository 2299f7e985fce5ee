-- What crowds, slow clients, overload, crashes and reloads do to everybody else's requests. The
-- load comes from tests/bench/load.c; ratios are taken within one run, and the best of three
-- counts where the machine's other work could spoil one.

local cjson = require "cjson"
local support = require "support"

local process = support.process
local is_sanitized = support.slowdown > 1
local build = is_sanitized and "build" or os.getenv("BUILD") or "build" -- the load stays fast
local load_program = build .. "/bench/load"

local app = [[
local fl = require "fasterlua"
local await = fl.await
local app = fl.app { title = "load" }

app:get("/plaintext", function() return "Hello, World!" end)
app:get("/async", function() await(fl.sleep(2)) return "slept" end)
app:get("/big", function() return ("x"):rep(8 * 1024 * 1024) end)
app:get("/collect", function() collectgarbage() collectgarbage() return "collected" end)
app:get("/work", function()
  local sum = 0
  for i = 1, 300000 do sum = (sum * 31 + i) % 1000003 end
  return tostring(sum)
end)
app:get("/loop", function() while true do end end)

return app
]]

local quiet = { access_log = false }

---@class load_job
---@field pid integer
---@field output string file

---@param server support.server
---@param mode string of tests/bench/load.c
---@param options table<string, any>? its keys
---@return load_job
local function start_load(server, mode, options)
  local argv = { load_program, mode, "127.0.0.1:" .. server.port }
  for key, value in pairs(options or {}) do argv[#argv + 1] = key .. "=" .. tostring(value) end
  local output = os.tmpname()
  return { pid = process.spawn { argv = argv, output = output }, output = output }
end

local function finish_load(job, seconds)
  local status = process.wait(job.pid, seconds or 60)
  if not status then
    process.signal(job.pid, "KILL")
    process.wait(job.pid, 5)
  end
  local text = process.read(job.output)
  os.remove(job.output)
  assert.is_truthy(status, "the load does not end")
  assert.equal(0, status.code, text)
  return cjson.decode(text)
end

local function run_load(server, mode, options)
  return finish_load(start_load(server, mode, options))
end

-- Calls `try` until it returns true, at most three times.
local function best_of_three(try)
  local passed, why
  for _ = 1, 3 do
    passed, why = try()
    if passed then return end
  end
  error(why, 0)
end

support.describe_server("a crowd", { app = app, settings = quiet }, function(get_server)
  local size = is_sanitized and 1000 or 10000

  it("of waiting requests is answered as soon as each has waited", function()
    local result = run_load(get_server(), "connections",
      { clients = size, path = "/async", timeout = 20 })
    assert.equal(size, result.status["200"])
    assert.is_true(result.first_to_last < 3 * support.slowdown,
      "the last answer came after " .. result.first_to_last .. " s")
  end)

  -- What the first crowd made the process keep is not what a connection costs: a second one tells.
  it("of idle connections takes 1.5 KB each", function()
    if is_sanitized then return pending("memory under a sanitizer is not ours") end
    local server = get_server()
    run_load(server, "connections", { clients = 100, path = "/plaintext", warm = 1 })
    local before = server:rss()
    local job = start_load(server, "connections",
      { clients = size, path = "/plaintext", warm = 1, idle = 3 })
    support.eventually(function()
      return server:sum "fasterlua_connections" >= size
    end, 10)
    process.sleep(1)
    local each = (server:rss() - before) / size
    assert.equal(size * 2, finish_load(job).status["200"])
    assert.is_true(each <= 1536, ("an idle connection takes %d bytes"):format(each))
  end)
end)

support.describe_server("slow clients", { app = app, settings = quiet }, function(get_server)
  local function p99()
    local result = run_load(get_server(), "open-loop",
      { rate = is_sanitized and 200 or 1000, seconds = 2, clients = 32, path = "/plaintext" })
    assert.equal(0, result.unanswered + result.cut + result.unsent)
    return result.p99
  end

  it("do not slow the others down", function()
    best_of_three(function()
      local alone = p99()
      local slow = start_load(get_server(), "slowloris", { clients = 1000, seconds = 4 })
      local stalled = start_load(get_server(), "stalled",
        { clients = 64, seconds = 4, path = "/big", timeout = 20 })
      process.sleep(1)
      local beside = p99()
      finish_load(slow)
      finish_load(stalled)
      return beside <= math.max(2 * alone, alone + 0.005),
        ("p99 went from %.4f s to %.4f s"):format(alone, beside)
    end)
  end)
end)

support.describe_server("overload", { app = app, settings = quiet }, function(get_server)
  it("leaves goodput near the peak, and the rest is refused", function()
    best_of_three(function()
      local server = get_server()
      local peak = run_load(server, "reconnect", { clients = 16, seconds = 2, path = "/work" })
      local capacity = peak.answers / peak.seconds
      local result = run_load(server, "open-loop",
        { rate = math.floor(capacity * 3), clients = 1000, seconds = 3, path = "/work" })
      local good, refused = result.status["200"] or 0, result.status["503"] or 0
      assert.equal(result.answers, good + refused)
      assert.equal(0, result.unanswered + result.cut)
      local goodput = good / math.max(3, result.first_to_last)
      -- A sanitizer makes refusing as dear as the work.
      return (is_sanitized or goodput >= 0.9 * capacity) and refused > 0,
        ("%d answers and %d refusals in %.1f s at %d/s; the peak is %d/s"):format(good, refused,
          result.first_to_last, capacity * 3, capacity)
    end)
  end)
end)

support.describe_server("a crash", {
  app = app, settings = quiet, leaks = false,
}, function(get_server)
  it("costs each connection one request at most, and the next connection is served", function()
    local server = get_server()
    local job = start_load(server, "reconnect",
      { clients = 32, seconds = 4, pause = 1, path = "/plaintext", timeout = 10 })
    for _ = 1, 3 do
      process.sleep(0.8)
      local pid = server:server_pid()
      server:signal("KILL", pid)
      support.eventually(function() return server:server_pid() ~= pid end)
    end
    local result = finish_load(job)
    assert.equal(0, result.connect_failures)
    assert.is_true(result.worst_streak <= 1, "a client failed twice in a row")
    assert.equal(result.answers, result.status["200"])
  end)
end)

support.describe_server("a reload", {
  app = app, settings = quiet, leaks = false,
}, function(get_server)
  local function reload(server)
    local pid = server:server_pid()
    server:signal "HUP"
    support.eventually(function()
      local newest = server:server_pid()
      return newest ~= pid and newest ~= server.pid
    end, 5)
  end

  it("loses no request, fifty times over", function()
    local server, count = get_server(), is_sanitized and 5 or 50
    local job = start_load(server, "reconnect",
      { clients = 32, seconds = 120, pause = 2, path = "/plaintext", timeout = 10 })
    for _ = 1, count do
      reload(server)
      process.sleep(0.05)
    end
    support.eventually(function() return #server:pids() == 1 end, 10) -- the old ones have drained
    process.sleep(1)
    assert.is_true(process.signal(job.pid, "TERM"))
    local result = finish_load(job)
    assert.equal(0, result.connect_failures)
    assert.equal(0, result.unanswered + result.cut + result.timed_out)
    assert.equal(result.answers, result.status["200"])
  end)
end)

describe("an endless loop", function()
  it("delays only the connections of its own thread", function()
    local server = support.start { app = app,
      settings = { threads = 2, stuck_handler = "20s", slow_handler = "50ms" } }
    local clients = {}
    for i = 1, 16 do
      clients[i] = server:connect()
      assert.equal(200, clients[i]:request({ path = "/plaintext" }).status)
    end
    clients[1]:send("GET /loop HTTP/1.1\r\nHost: a\r\n\r\n")
    process.sleep(0.1)
    local answered = 0
    for i = 2, 16 do clients[i]:send("GET /plaintext HTTP/1.1\r\nHost: a\r\n\r\n") end
    process.sleep(0.5 * support.slowdown)
    for i = 2, 16 do
      local answer = clients[i]:response { timeout = 0.01 }
      answered = answered + (answer and answer.status == 200 and 1 or 0)
    end
    server:kill()
    assert.is_true(answered >= 6, answered .. " of 15 were answered")
  end)
end)

support.describe_server("memory", {
  app = app,
  settings = { access_log = false, threads = 1 },
}, function(get_server)
  local function ask_times(server, count)
    while count > 0 do
      local result = run_load(server, "reconnect",
        { clients = 16, seconds = 1, path = "/plaintext" })
      assert.equal(result.answers, result.status["200"])
      count = count - result.answers
    end
    server:get("/collect")
    return server:rss()
  end

  it("does not grow with the number of requests", function()
    if is_sanitized then return pending("memory under a sanitizer is not ours") end
    local early = ask_times(get_server(), 200000)
    local late = ask_times(get_server(), 600000)
    assert.is_true(late <= early + 2 ^ 20, ("it grew by %d KB"):format((late - early) / 1024))
  end)
end)
