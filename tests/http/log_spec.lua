-- The log as an operator reads it: formats, levels, ids, what cannot be forged, and what happens
-- when nobody reads it.

local cjson = require "cjson"
local ffi = require "ffi"
local support = require "support"

local process = support.process

ffi.cdef [[
int pipe(int fds[2]);
long read(int fd, void *buffer, size_t size);
int close(int fd);
int fcntl(int fd, int command, ...);
]]

local app = [[
local fl = require "fasterlua"
local await = fl.await
local app = fl.app { title = "log" }

app:get("/", function(req) return req.id end)
app:get("/nap", function() await(fl.sleep(0.05)) return "napped" end)
app:get("/missing", function() return fl.http_error(404, "no such thing") end)
app:post("/say", function(req)
  fl.log.info(req:text(), { kind = req:text(), count = 3, ratio = 0.5, is_odd = true })
  return req.id
end)
app:post("/name", function(req) fl.log.info("named", { [req:text()] = "value" }) return "" end)
app:get("/levels", function()
  fl.log.debug "a debug line"
  fl.log.info "an info line"
  fl.log.warn "a warn line"
  fl.log.error "an error line"
  return ""
end)
app:post("/print", function(req)
  print(req:text(), 12, nil)
  io.write("written ", req:text(), "\n")
  return ""
end)
local function deep() await(fl.sleep(0.001)) error("deep trouble") end
local deeper = fl.async(deep)
app:get("/broken", function() await(deeper()) end)
app:get("/who", function(req)
  return { id = req.id, client = req.client, scheme = req.scheme, host = req.host, url = req.url }
end)

return app
]]

local TIME = "%d%d%d%d%-%d%d%-%d%dT%d%d:%d%d:%d%d%.%d%d%dZ"
local HEAD = "^fasterlua: warning: serving as root" -- before there is a log

-- Every line of a JSON log, decoded.
local function decode_lines(text)
  local lines = {}
  for line in text:gmatch("[^\n]+") do
    if not line:find(HEAD) then
      local ok, value = pcall(cjson.decode, line)
      assert.is_true(ok, "not JSON: " .. line)
      lines[#lines + 1] = value
    end
  end
  return lines
end

local function find_line(server, fits)
  return support.eventually(function()
    for _, line in ipairs(decode_lines((server:log():gsub("[^\n]*$", "")))) do
      if fits(line) then return line end
    end
  end)
end

support.describe_server("the log as text", {
  app = app, flags = { "--access-log", "on", "--log-level", "debug" },
}, function(get_server)
  it("has a line for every request", function()
    local server = get_server()
    local id = server:get("/?a=b").body
    local line = server:wait_log('[^\n]*access[^\n]*"GET /%?a=b"[^\n]*')
    assert.matches("^" .. TIME .. ' access 127%.0%.0%.1 "GET /%?a=b" 200 %d+B [%d.]+ms ', line)
    assert.is_truthy(line:find(" id=" .. id .. " app=", 1, true), line)
    assert.matches(" state=[01]$", line)
  end)

  it("tells how long a request has taken and what it was answered", function()
    local server = get_server()
    server:get("/nap")
    local took = tonumber(server:wait_log('access[^\n]*"GET /nap" 200 6B ([%d.]+)ms'))
    assert.is_true(took >= 50 and took < 1000, took .. " ms")
    server:get("/missing")
    server:wait_log('access[^\n]*"GET /missing" 404')
    server:get("/nowhere")
    server:wait_log('access[^\n]*"GET /nowhere" 404')
  end)

  it("has a line for what is no request", function()
    local client = get_server():connect()
    client:send("GET nonsense HTTP/1.1\r\nHost: a\r\n\r\n")
    assert.equal(400, client:response().status)
    get_server():wait_log('access[^\n]* 400 ')
  end)

  it("has the app's lines with the request's id, and fields", function()
    local id = get_server():post("/say", "hello").body
    local line = get_server():wait_log("[^\n]* info  hello[^\n]*")
    for _, part in ipairs { "request_id=" .. id, "kind=hello", "count=3", "ratio=0.5",
      "is_odd=true", "app=" } do
      assert.is_truthy(line:find(part, 1, true), line)
    end
  end)

  it("has what is printed", function()
    get_server():post("/print", "paper")
    local line = get_server():wait_log("[^\n]*paper\t12\tnil[^\n]*")
    assert.matches("^" .. TIME .. " info ", line)
    assert.matches("request_id=", line)
    line = get_server():wait_log("[^\n]*written paper[^\n]*")
    assert.matches("^" .. TIME .. " info ", line)
  end)

  it("has the traceback of an error, through awaits, and the client has not", function()
    local response = get_server():get("/broken")
    assert.equal(500, response.status)
    assert.is_nil(response.body:find("deep", 1, true))
    local block = get_server():wait_log("unhandled error[^\n]*\n(.-\n)%d%d%d%d%-")
    assert.matches("app.lua:%d+: deep trouble", block)
    assert.matches("stack traceback:", block)
    assert.matches("awaited by\n.*app.lua:%d+: in function", block)
    local line = get_server():wait_log("[^\n]*unhandled error[^\n]*")
    local id = line:match("request_id=(%S+)")
    assert.equal(id, response.headers["x-request-id"])
    assert.matches("route=\"?GET /broken", line)
  end)

  it("cannot be forged", function()
    local evil = "x\r\n2026-01-01T00:00:00.000Z error forged\27[2J\0 \226\128\168 \255"
    get_server():post("/say", evil)
    get_server():post("/print", evil)
    get_server():post("/name", evil)
    get_server():get("/" .. evil:gsub("[^%w]", function(c) return ("%%%02X"):format(c:byte()) end))
    local client = get_server():connect()
    client:send("GET /\127\200forged HTTP/1.1\r\nHost: a\r\nX: " .. evil .. "\r\n\r\n")
    client:response()
    get_server():get("/levels")
    get_server():wait_log("an error line")
    for line in get_server():log():gmatch("[^\n]+") do
      local is_ours = line:find("^" .. TIME) or line:find("^    ") or line:find(HEAD)
      assert.is_truthy(is_ours, ("%q"):format(line))
      assert.is_nil(line:find("[%z\1-\8\11-\31\127-\255]"), ("%q"):format(line))
      assert.is_nil(line:find("^" .. TIME .. " error forged"), line)
    end
  end)
end)

support.describe_server("the log as JSON", {
  app = app, flags = { "--log-format", "json", "--access-log", "on" },
}, function(get_server)
  it("has a line for every request", function()
    local server = get_server()
    local id = server:get("/?a=b").body
    local line = find_line(server, function(each) return each.request_id == id end)
    assert.matches("^" .. TIME .. "$", line.time)
    assert.equal("info", line.level)
    assert.equal("request", line.message)
    assert.equal("GET", line.method)
    assert.equal("/?a=b", line.target)
    assert.equal(200, line.status)
    assert.equal(#id, line.bytes)
    assert.equal("number", type(line.duration_ms))
    assert.equal("127.0.0.1", line.client)
    assert.equal("string", type(line.app))
    assert.equal("number", type(line.state))
  end)

  it("has the app's lines, with fields of their types", function()
    local id = get_server():post("/say", "hello").body
    local line = find_line(get_server(), function(each) return each.message == "hello" end)
    assert.equal(id, line.request_id)
    assert.equal("hello", line.kind)
    assert.equal(3, line.count)
    assert.equal(0.5, line.ratio)
    assert.is_true(line.is_odd)
  end)

  it("has the traceback of an error in one line", function()
    get_server():get("/broken")
    local line = find_line(get_server(), function(each) return each.level == "error" end)
    assert.equal("unhandled error", line.message)
    assert.matches("deep trouble\n", line.error)
    assert.equal("GET /broken", line.route)
  end)

  it("cannot be forged", function()
    local evil = '"},\r\n{"level":"error","message":"forged"}\0\27 \226\128\168 \255\\'
    get_server():post("/say", evil)
    get_server():post("/print", evil)
    get_server():post("/name", evil)
    get_server():post("/name", "message")
    get_server():post("/name", "request_id")
    get_server():get("/levels")
    find_line(get_server(), function(each) return each.message == "an error line" end)
    for _, line in ipairs(decode_lines(get_server():log())) do
      assert.not_equal("forged", line.message)
      assert.matches("^" .. TIME .. "$", line.time)
    end
    for line in get_server():log():gmatch("[^\n]+") do
      assert.is_true(select(2, line:gsub('"message":', "")) <= 1, "two messages: " .. line)
      assert.is_true(select(2, line:gsub('"request_id":', "")) <= 1, "two ids: " .. line)
    end
  end)
end)

describe("the log's format", function()
  it("is JSON when stdout is no terminal", function()
    local server = support.start { app = app, flags = { "--log-format", "auto" } }
    local lines = decode_lines(server:log())
    assert.matches("listening on ", lines[1].message)
    assert.equal(server.url, lines[1].url)
    server:stop()
  end)

  it("is text on a terminal", function()
    local server = support.start { app = app, wait = false, flags = { "--log-format", "auto" },
      env = { NO_COLOR = "1" },
      prefix = { "sh", "-c", [[exec script -qefc "exec $(printf "'%s' " "$@")" /dev/null]], "sh" } }
    local line = server:wait_log("[^\r\n]*listening on [^\r\n]*")
    server:signal("TERM", server:pids()[1])
    server:wait_end(5)
    server:kill()
    assert.matches("^" .. TIME .. " info  fasterlua", line)
  end)
end)

describe("--access-log off", function()
  it("writes no line for a request", function()
    local server = support.start { app = app, flags = { "--access-log", "off" } }
    server:get("/nap")
    server:get("/levels")
    server:wait_log("an error line")
    assert.is_nil(server:log():find("/nap", 1, true))
    server:stop()
  end)
end)

describe("--log-level", function()
  local names = { "debug", "info", "warn", "error" }

  for index, level in ipairs(names) do
    it(level .. " writes what is as bad, or worse", function()
      local server = support.start { app = app, uds = true, wait = false,
        flags = { "--log-level", level } }
      support.eventually(function() return server:metrics().process_start_time_seconds end, 5)
      server:get("/levels")
      server:wait_log("an error line")
      for other, name in ipairs(names) do
        local is_written = server:log():find(name .. " line", 1, true) ~= nil
        assert.equal(other >= index, is_written, name)
      end
      server:stop()
    end)
  end
end)

describe("a proxy's headers", function()
  local forwarded = {
    ["X-Request-ID"] = "trace-1234", ["X-Forwarded-For"] = "203.0.113.9, 198.51.100.7",
    ["X-Forwarded-Proto"] = "https", ["X-Forwarded-Host"] = "shop.example",
  }

  local function ask(flags, headers)
    local server = support.start { app = app, flags = { "--access-log", "on", unpack(flags) } }
    local answer = server:get("/who", headers or forwarded):json()
    local line = server:wait_log("access[^\n]*/who[^\n]*")
    server:stop()
    return answer, line
  end

  local function expect_ignored(answer, line)
    assert.not_equal("trace-1234", answer.id)
    assert.equal("127.0.0.1", answer.client.host)
    assert.equal("http", answer.scheme)
    assert.matches("^127%.0%.0%.1", answer.host)
    assert.matches("^access 127%.0%.0%.1 ", line)
    assert.is_nil(line:find("trace-1234", 1, true))
  end

  it("are ignored unless asked for", function()
    expect_ignored(ask {})
  end)

  it("are ignored from peers that are not trusted", function()
    expect_ignored(ask { "--proxy-headers", "--forwarded-allow-ips", "10.0.0.0/8" })
  end)

  it("of a trusted peer are believed", function()
    local answer, line = ask { "--proxy-headers" }
    assert.equal("trace-1234", answer.id)
    assert.equal("198.51.100.7", answer.client.host)
    assert.equal("https", answer.scheme)
    assert.equal("shop.example", answer.host)
    assert.matches("^access 198%.51%.100%.7 ", line)
    assert.is_truthy(line:find("id=trace-1234", 1, true), line)
  end)

  it("name the client left of all trusted proxies", function()
    local answer = ask { "--proxy-headers", "--forwarded-allow-ips", "127.0.0.1,198.51.100.0/24" }
    assert.equal("203.0.113.9", answer.client.host)
  end)

  it("are ignored where they are nonsense", function()
    local answer, line = ask({ "--proxy-headers" }, {
      ["X-Request-ID"] = 'a b"c', ["X-Forwarded-For"] = "not an address",
      ["X-Forwarded-Proto"] = "gopher", ["X-Forwarded-Host"] = "a b/c@d",
    })
    expect_ignored(answer, line)
  end)
end)

describe("a stdout that blocks", function()
  local F_SETPIPE_SZ, F_SETFL, O_NONBLOCK = 1031, 4, 2048

  local function read_all(fd)
    local buffer, parts = ffi.new("char[65536]"), {}
    process.poll(function()
      local size = tonumber(ffi.C.read(fd, buffer, 65536))
      if size > 0 then parts[#parts + 1] = ffi.string(buffer, size) end
      return false
    end, 0.5 * support.slowdown)
    return table.concat(parts)
  end

  it("does not keep requests waiting; what is dropped is counted and told", function()
    local fds = ffi.new("int[2]")
    assert.equal(0, ffi.C.pipe(fds))
    ffi.C.fcntl(fds[0], F_SETFL, ffi.cast("int", O_NONBLOCK))
    ffi.C.fcntl(fds[1], F_SETPIPE_SZ, ffi.cast("int", 4096))
    local server = support.start { app = app, uds = true, wait = false, pipes = { [1] = fds[1] },
      flags = { "--access-log", "on", "--set", "log_buffer=4KB" } }
    ffi.C.close(fds[1])
    support.eventually(function() return server:metrics().process_start_time_seconds end, 5)
    local client = server:connect()
    for _ = 1, 1000 do assert.equal(200, client:request({ path = "/" }).status) end
    local dropped = server:metrics().fasterlua_log_dropped_total
    assert.is_true(dropped > 100, dropped .. " lines were dropped")
    local log = read_all(fds[0])
    client:request { path = "/" }
    log = log .. read_all(fds[0])
    assert.matches("dropped", log)
    server:stop()
    ffi.C.close(fds[0])
  end)
end)
