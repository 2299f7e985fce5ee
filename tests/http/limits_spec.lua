-- Limits of time, size and number, made small by settings so that each is met within a second.

local support = require "support"

local sleep, now = support.process.sleep, support.process.now

local app = [[
local fl = require "fasterlua"
local await = fl.await
local app = fl.app { title = "limits" }

app:get("/", function() return "root" end)
app:get("/sleep", function() await(fl.sleep(30)) return "slept" end)
app:get("/nap", function() await(fl.sleep(0.5)) return "napped" end)
app:get("/big", function() return ("x"):rep(8 * 1024 * 1024) end)
app:get("/path/{rest:path}", function() return "path" end)
app:post("/echo", function(req) return req:text() end)
app:get("/json/{n:int}", function(req) return { items = { ("x"):rep(req.params.n) } } end)
app:get("/encode/{n:int}", function(req)
  local ok, message = pcall(fl.json.encode, { ("x"):rep(req.params.n) })
  return ok and "encoded" or message
end)
app:post("/large", { max_body = 1000 }, function(req) return tostring(#req:text()) end)

return app
]]

local head = "GET / HTTP/1.1\r\nHost: a\r\n"

local function status_of(client)
  local answer, reason = client:response()
  return answer and answer.status or reason
end

local function assert_closed(client, seconds)
  local is_closed, how = client:closed(seconds)
  assert.is_true(is_closed, "the connection is not closed: " .. how)
end

-- Sends `piece` again and again until the server ends the connection or answers.
local function drip(client, piece, pause, seconds)
  local deadline = now() + seconds
  while now() < deadline and client:send(piece) do
    local bytes, reason = client:receive(nil, pause)
    if bytes then
      client.buffer = bytes .. client.buffer
      return true
    elseif reason ~= "timeout" then
      return false
    end
  end
  return false
end

support.describe_server("limits of time", {
  app = app,
  settings = {
    head_timeout = "400ms", keep_alive = "700ms", body_grace = "400ms", body_rate = 500,
    handler_timeout = "1s", write_stall = "500ms",
  },
}, function(get_server)
  it("answer 408 to a head that does not end", function()
    local client = get_server():connect()
    client:send(head)
    assert.equal(408, status_of(client))
    assert_closed(client)
  end)

  it("count for the whole head, however often a byte comes", function()
    local client, start = get_server():connect(), now()
    client:send(head .. "X: ")
    assert.is_true(drip(client, "y", 0.05, 5))
    assert.equal(408, status_of(client))
    assert_closed(client)
    assert.is_true(now() - start < 2 * support.slowdown)
  end)

  it("count for the head of a second request", function()
    local client = get_server():connect()
    client:send(head .. "\r\n" .. head)
    assert.equal(200, status_of(client))
    assert.equal(408, status_of(client))
    assert_closed(client)
  end)

  it("close a connection on which nothing was ever sent", function()
    local client = get_server():connect()
    local answer = client:response { timeout = 3 * support.slowdown }
    if answer then assert.equal(408, answer.status) end
    assert_closed(client)
  end)

  it("close an idle connection without a word", function()
    local client, start = get_server():connect(), now()
    assert.equal(200, client:request({ path = "/" }).status)
    assert_closed(client, 3 * support.slowdown)
    assert.is_true(now() - start > 0.6)
  end)

  it("begin anew with every request", function()
    local client = get_server():connect()
    for _ = 1, 4 do
      assert.equal(200, client:request({ path = "/" }).status)
      sleep(0.4)
    end
  end)

  it("do not count as idle while a handler works", function()
    local client = get_server():connect()
    assert.equal("napped", client:request({ path = "/nap" }).body)
    assert.equal(200, client:request({ path = "/" }).status)
  end)

  it("answer 408 to a body that comes too slowly", function()
    local client = get_server():connect()
    client:send("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n")
    assert.is_true(drip(client, "x", 0.05, 5))
    assert.equal(408, status_of(client))
    assert_closed(client)
  end)

  it("answer 408 to chunks that stop coming", function()
    local client = get_server():connect()
    client:send("POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel")
    assert.equal(408, status_of(client))
    assert_closed(client)
  end)

  it("leave a body alone that is fast enough", function()
    local client = get_server():connect()
    client:send("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n")
    for _ = 1, 10 do
      client:send(("x"):rep(100))
      sleep(0.1)
    end
    assert.equal(200, status_of(client))
  end)

  it("answer 504 for a handler that takes too long", function()
    local client = get_server():connect()
    assert.equal(504, client:request({ path = "/sleep" }).status)
  end)

  it("cut a reader off that takes nothing", function()
    local client = get_server():connect { receive_buffer = 4096 }
    client:send("GET /big HTTP/1.1\r\nHost: a\r\n\r\n")
    for count = 1, 0, -1 do
      support.eventually(function() return get_server():sum "fasterlua_connections" == count end)
    end
    assert.is_nil((client:response()))
    assert.is_truthy(client.ended)
  end)

  it("leave a reader alone that is slow but takes something", function()
    local client = get_server():connect { receive_buffer = 4096 }
    client:send("GET /big HTTP/1.1\r\nHost: a\r\n\r\n")
    for _ = 1, 10 do
      assert.is_truthy(client:receive(512 * 1024))
      sleep(0.1)
    end
    assert.is_truthy(client:receive(2 * 1024 * 1024))
  end)
end)

support.describe_server("limits of size", {
  app = app,
  settings = {
    request_line = 100, header_block = "1KB", header_fields = 5, max_body = 10,
    chunk_extensions = 20, trailer_block = 60, trailer_fields = 2,
  },
}, function(get_server)
  local function ask(bytes)
    local client = get_server():connect()
    client:send(bytes)
    local status = status_of(client)
    if status == 200 then
      assert.equal(200, client:request({ path = "/" }).status)
    else
      assert_closed(client)
    end
    return status
  end

  local function ask_line(size)
    local target = "/path/" .. ("a"):rep(size - #"GET /path/ HTTP/1.1")
    return ask("GET " .. target .. " HTTP/1.1\r\nHost: a\r\n\r\n")
  end

  local function ask_chunks(body)
    return ask("POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" .. body)
  end

  it("answer 414 to a request line too long", function()
    assert.equal(200, ask_line(98))
    assert.equal(414, ask_line(110))
  end)

  it("answer 431 to a head too large", function()
    assert.equal(200, ask(head .. "X: " .. ("y"):rep(900) .. "\r\n\r\n"))
    assert.equal(431, ask(head .. "X: " .. ("y"):rep(1100) .. "\r\n\r\n"))
  end)

  it("answer 431 while the head is still coming", function()
    assert.equal(431, ask(head .. "X: " .. ("y"):rep(1100)))
  end)

  it("answer 431 to too many fields", function()
    assert.equal(200, ask(head .. ("X: y\r\n"):rep(4) .. "\r\n"))
    assert.equal(431, ask(head .. ("X: y\r\n"):rep(5) .. "\r\n"))
  end)

  it("answer 413 to a body too large", function()
    local request = "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%s"
    assert.equal(200, ask(request:format(10, ("x"):rep(10))))
    assert.equal(413, ask(request:format(11, ("x"):rep(11))))
  end)

  it("answer 413 to chunks too large in all", function()
    assert.equal(200, ask_chunks "5\r\nhello\r\n5\r\nworld\r\n0\r\n\r\n")
    assert.equal(413, ask_chunks "5\r\nhello\r\n6\r\nworlds\r\n0\r\n\r\n")
  end)

  it("can be widened by a route", function()
    local response = get_server():post("/large", ("x"):rep(1000))
    assert.equal("1000", response.body)
    assert.equal(413, get_server():post("/large", ("x"):rep(1001)).status)
  end)

  it("count chunk extensions over the whole body", function()
    assert.equal(200, ask_chunks "1;a=b\r\nx\r\n1;a=b\r\nx\r\n0\r\n\r\n")
    assert.not_equal(200, ask_chunks(("1;a=bcdef\r\nx\r\n"):rep(5) .. "0\r\n\r\n"))
  end)

  it("count trailers and their bytes", function()
    assert.equal(200, ask_chunks "0\r\nX: y\r\nX: y\r\n\r\n")
    assert.not_equal(200, ask_chunks "0\r\nX: y\r\nX: y\r\nX: y\r\n\r\n")
    assert.not_equal(200, ask_chunks("0\r\nX: " .. ("y"):rep(100) .. "\r\n\r\n"))
  end)
end)

support.describe_server("the limit of JSON that is written", {
  app = app, settings = { json_bytes = "1KB" },
}, function(get_server)
  it("answers 500, and the log names the place and the setting", function()
    assert.equal(200, get_server():get("/json/1000").status)
    assert.equal(500, get_server():get("/json/1020").status)
    assert.is_truthy(get_server():wait_log(
      "cannot encode items%[1%]: more than 1024 bytes of JSON %(json_bytes%)"))
    assert.equal(200, get_server():get("/json/1000").status)
  end)

  it("holds for fl.json.encode", function()
    assert.equal("encoded", get_server():get("/encode/1020").body)
    assert.equal("cannot encode [1]: more than 1024 bytes of JSON (json_bytes)",
      get_server():get("/encode/1024").body)
  end)
end)

support.describe_server("the limit of requests per connection", {
  app = app,
  settings = { requests_per_connection = 3 },
}, function(get_server)
  it("is announced in the last answer, then the connection closes", function()
    local client = get_server():connect()
    for _ = 1, 2 do
      local response = client:request { path = "/" }
      assert.equal(200, response.status)
      assert.not_equal("close", response.headers.connection)
    end
    assert.equal("close", client:request({ path = "/" }).headers.connection)
    assert_closed(client)
  end)

  it("holds within a pipeline", function()
    local client = get_server():connect()
    client:send((head .. "\r\n"):rep(5))
    assert.equal(3, #assert(client:responses(3)))
    assert_closed(client)
  end)
end)

-- A connection of the test harness's own, to the admin listener, is not counted.
support.describe_server("the limit of connections", {
  app = app,
  settings = { connections = 4, threads = 1 },
}, function(get_server)
  it("lets further ones wait until one has closed", function()
    local clients = {}
    for i = 1, 4 do
      clients[i] = get_server():connect()
      assert.equal(200, clients[i]:request({ path = "/" }).status)
    end
    local waiting = get_server():connect()
    waiting:send(head .. "\r\n")
    assert.equal("timeout", select(2, waiting:response { timeout = 0.3 }))
    clients[1]:close()
    assert.equal(200, status_of(waiting))
  end)
end)

support.describe_server("the limit of requests in progress", {
  app = app,
  settings = { limit_requests = 2, threads = 1 },
}, function(get_server)
  it("answers 503 with Retry-After to more, and keeps the connection", function()
    local busy = {}
    for i = 1, 2 do
      busy[i] = get_server():connect()
      busy[i]:send("GET /nap HTTP/1.1\r\nHost: a\r\n\r\n")
    end
    sleep(0.1 * support.slowdown)
    local client = get_server():connect()
    local refused = client:request { path = "/" }
    assert.equal(503, refused.status)
    assert.matches("^%d+$", refused.headers["retry-after"])
    for i = 1, 2 do assert.equal("napped", busy[i]:response().body) end
    assert.equal(200, client:request({ path = "/" }).status)
  end)
end)
