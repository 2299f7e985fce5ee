local databases = require "support.databases"
local support = require "support"

local process = support.process
local now = process.now
local request_bytes = "GET %s HTTP/1.1\r\nHost: a\r\n\r\n"

-- Sends the request on `count` connections at once and returns the answers, and the seconds.
local function send_at_once(server, path, count)
  local started, clients, answers = now(), {}, {}
  for i = 1, count do
    clients[i] = server:connect()
    clients[i]:send(request_bytes:format(path))
  end
  for i = 1, count do
    local response = assert(clients[i]:response { timeout = 10 * support.slowdown })
    assert.equal(200, response.status)
    answers[i] = response:json()
  end
  return answers, now() - started
end

local function warm_up(server)
  send_at_once(server, "/sync", 40)
  send_at_once(server, "/fib/24/pooled", 20)
  server:get("/fib/36") -- slow enough for a spare thread to be made
  server:close_clients()
end

support.describe_server("the concurrency app", { dir = "apps/concurrency",
  settings = { threads = 2, cpu_states = 2, blocking_threads = 40, pool_idle = 0,
    slow_handler = 0 }, warm_up = warm_up,
}, function(get_server)
  local function at_once(path, count)
    return send_at_once(get_server(), path, count)
  end

  local function distinct(answers, field)
    local seen, count = {}, 0
    for _, answer in ipairs(answers) do
      if not seen[answer[field]] then
        seen[answer[field]], count = true, count + 1
      end
    end
    return count
  end

  local function sum_of(program, text)
    local path = os.tmpname()
    local file = assert(io.open(path, "wb"))
    file:write(text)
    file:close()
    local pipe = assert(io.popen(program .. " < " .. path))
    local output = pipe:read("*a")
    pipe:close()
    os.remove(path)
    return output
  end

  it("is healthy", function()
    assert.same({ status = "ok" }, get_server():get("/health"):json())
  end)

  it("says where a request runs", function()
    local here = get_server():get("/where"):json()
    assert.equal(get_server():server_pid(), here.process)
    assert.is_number(here.thread)
  end)

  it("lets two hundred requests wait at the same time, on two threads", function()
    local answers, seconds = at_once("/async", 200)
    assert.is_true(seconds >= 2 and seconds < 4 * support.slowdown, seconds)
    assert.is_true(distinct(answers, "thread") <= 2)
  end)

  it("lets forty requests block at the same time, on forty threads", function()
    local answers, seconds = at_once("/sync", 40)
    assert.is_true(seconds >= 2 and seconds < 3.9 * support.slowdown, seconds)
    assert.equal(40, distinct(answers, "thread"))
  end)

  it("is healthy while all forty block and twenty more wait", function()
    local clients = {}
    for i = 1, 60 do
      clients[i] = get_server():connect()
      clients[i]:send(request_bytes:format("/sync"))
    end
    for _ = 1, 20 do
      assert.equal(200, get_server():get("/health").status)
    end
    for i = 1, 60 do
      assert.is_nil(clients[i]:receive(nil, 0)) -- none was answered before
    end
    for i = 1, 60 do
      assert.equal(200, assert(clients[i]:response { timeout = 10 * support.slowdown }).status)
    end
  end)

  describe("hashes as sha256sum does", function()
    local random = {}
    math.randomseed(7)
    for i = 1, 10000 do random[i] = string.char(math.random(0, 255)) end
    local bodies = {
      ["nothing"] = "",
      ["a byte"] = "x",
      ["a byte of NUL"] = "\0",
      ["random bytes"] = table.concat(random),
      ["a megabyte"] = ("fasterlua "):rep(104858):sub(1, 1024 * 1024),
      ["64 megabytes"] = ("fasterlua "):rep(6710887):sub(1, 64 * 1024 * 1024),
    }
    for name, body in pairs(bodies) do
      it(name, function()
        local answer = get_server():post("/hash", body):json()
        assert.equal(sum_of("sha256sum", body):match("^%x+"), answer.sha256)
      end)
    end

    it("and refuses more", function()
      local response = get_server():request { method = "POST", path = "/hash",
        headers = { ["Content-Length"] = tostring(64 * 1024 * 1024 + 1) } }
      assert.equal(413, response.status)
    end)
  end)

  it("compresses several texts", function()
    local texts = { ("abc"):rep(1000), "", "x" }
    local sizes = get_server():post("/batch-compress", texts):json()
    assert.equal(3, #sizes)
    assert.equal(3000, sizes[1].bytes)
    assert.is_true(sizes[1].compressed < 100)
    assert.same({}, get_server():post("/batch-compress", "[]"):json())
    assert.equal(422, get_server():post("/batch-compress", '{"a":1}').status)
  end)

  it("computes inline and in another state", function()
    local inline = get_server():get("/fib/20"):json()
    local pooled = get_server():get("/fib/20/pooled"):json()
    assert.equal(6765, inline.fib)
    assert.equal(6765, pooled.fib)
    assert.not_equal(inline.thread, pooled.thread)
  end)

  it("gathers three sleeps in the time of the longest", function()
    local started = now()
    local board = get_server():get("/dashboard"):json()
    local took = now() - started
    assert.same({ from = "users", seconds = 0.1 }, board.users)
    assert.same({ from = "news", seconds = 0.3 }, board.news)
    assert.is_true(took >= 0.3)
    assert.is_true(took < 0.58 * support.slowdown, ("it took %.2f s"):format(took))
  end)
end)

describe("the concurrency app without a database", function()
  it("says what is missing", function()
    local server = support.start { dir = "apps/concurrency", env = { DATABASE_URL = false } }
    assert.equal(503, server:get("/db-dashboard").status)
    server:stop()
  end)
end)

databases.describe("with PostgreSQL", "postgres", {}, function(get_database)
  support.describe_server("the concurrency app", function()
    return { dir = "apps/concurrency", env = { DATABASE_URL = get_database().url },
      flags = { "--threads", "1" }, warm_up = function(server)
        for _ = 1, 3 do
          server:get "/db-dashboard"
        end
      end }
  end, function(get_server)
    it("gathers three queries in the time of the slowest", function()
      local best = math.huge
      for _ = 1, 3 do
        local started = support.process.now()
        local answer = get_server():get("/db-dashboard"):json()
        best = math.min(best, support.process.now() - started)
        assert.same({ name = "orders", seconds = 0.2 }, answer.orders)
      end
      assert.is_true(best >= 0.3 and best < 0.3 + 0.03 * support.slowdown, best)
    end)
  end)
end)
