-- Bodies that come or go piece by piece, and who waits for whom.

local support = require "support"

local sleep, now = support.process.sleep, support.process.now

local MB = 1024 * 1024

local app = [[
local fl = require "fasterlua"
local await = fl.await
local app = fl.app { title = "streams" }
local MB = 1024 * 1024

local written, read = 0, 0
local function note(text) fl.log.info("note: " .. text) end
local function reason_of(err)
  return type(err) == "table" and tostring(err.reason or err.status) or "none"
end

app:get("/three", function()
  return fl.stream(function(write)
    write "one" await(fl.sleep(0.02))
    write "two" await(fl.sleep(0.02))
    write "three"
  end, { content_type = "text/plain", headers = { ["x-a"] = "b" }, status = 201 })
end)
app:get("/empty", function() return fl.stream(function() end) end)
app:get("/empty-pieces", function()
  return fl.stream(function(write) write "" write "a" write "" write "b" end)
end)
app:get("/numbers", function() return fl.stream(function(write) write(1) write(2.5) end) end)
app:get("/wrong-piece", function() return fl.stream(function(write) write "a" write {} end) end)
app:get("/endless", function()
  written = 0
  return fl.stream(function(write)
    local piece = ("x"):rep(65536)
    local ok, err = pcall(function()
      while true do
        write(piece)
        written = written + #piece
      end
    end)
    note("write raised: " .. tostring(ok) .. " " .. reason_of(err))
    error(err)
  end)
end)
app:get("/written", function() return tostring(written) end)
app:get("/read", function() return tostring(read) end)
app:get("/idle-stream", function()
  return fl.stream(function(write)
    write "first"
    local ok, err = pcall(await, fl.sleep(5))
    note("idle stream: " .. tostring(ok) .. " " .. tostring(err.reason))
  end)
end)
app:post("/idle-stream", function(req)
  return fl.stream(function(write)
    if req:header "x-read" then for _ in req:chunks() do break end end
    write "first"
    local ok, err = pcall(await, fl.sleep(30))
    note("idle post: " .. tostring(ok) .. " " .. tostring(err.reason))
  end)
end)
app:get("/large-then-idle", function()
  return fl.stream(function(write)
    for _ = 1, 160 do write(("x"):rep(65536)) end
    local ok, err = pcall(await, fl.sleep(30))
    note("large then idle: " .. tostring(ok) .. " " .. tostring(err.reason))
  end)
end)
-- for clients that have closed their side, so that nobody reads any more, and then reset
app:post("/unnoticed/end", function()
  fl.background(function() note "unnoticed end: background" end)
  return fl.stream(function(write) write "first" await(fl.sleep(0.2)) end)
end)
app:post("/unnoticed/begin", function()
  fl.background(function() note "unnoticed begin: background" end)
  await(fl.sleep(0.2))
  return fl.stream(function() note "unnoticed begin: begun" await(fl.sleep(30)) end)
end)
app:post("/unnoticed/stubborn", function()
  return fl.stream(function(write)
    local ok, err = true, nil
    while ok do
      pcall(write, "first")
      ok, err = pcall(await, fl.sleep(0.02))
    end
    note("unnoticed stubborn: " .. err.reason)
  end)
end)
app:get("/broken", function()
  return fl.stream(function(write) write "some" await(fl.sleep(0.01)) error "in the middle" end)
end)
app:get("/broken-at-once", function()
  return fl.stream(function() error "at the beginning" end)
end)
app:get("/sized", function()
  return fl.stream(function(write) for _ = 1, 160 do write(("x"):rep(65536)) end end)
end)
app:get("/limited", { timeout = 0.05 }, function()
  return fl.stream(function(write)
    for i = 1, 5 do write(tostring(i)) await(fl.sleep(0.03)) end
  end)
end)
app:get("/cookies", function(req)
  req:set_cookie("a", "1")
  return fl.stream(function(write) write(req.path) end)
end)
app:get("/background", function()
  fl.background(function() note "stream's background" end)
  return fl.stream(function(write) write "x" await(fl.sleep(0.03)) note "stream ends" end)
end)
app:get("/parallel", function()
  return fl.stream(function(write)
    await(fl.gather(fl.spawn(function() for _ = 1, 5 do write "a" await(fl.sleep(0.001)) end end),
      fl.spawn(function() for _ = 1, 5 do write "b" await(fl.sleep(0.001)) end end)))
  end)
end)

app:get("/two-writers", function()
  return fl.stream(function(write)
    local function many(letter)
      for _ = 1, 160 do write(letter:rep(65536)) end
      return letter
    end
    local a, b = await(fl.gather(fl.spawn(many, "a"), fl.spawn(many, "b")))
    note("both have written: " .. a .. b)
  end)
end)
app:get("/late-write", function()
  return fl.stream(function(write)
    write "in time"
    fl.detach(function()
      await(fl.sleep(0.03))
      local ok, err = pcall(write, "too late")
      note("late write: " .. tostring(ok) .. " " .. tostring(type(err)))
    end)
  end)
end)
app:get("/late-cookie", function(req)
  return fl.stream(function(write)
    write "a"
    req:set_cookie("late", "1")
  end)
end)
app:get("/http-error", function()
  return fl.stream(function(write)
    write "a"
    error(fl.http_error(404))
  end)
end)
app:post("/two-readers", function(req)
  local function text() return req:text() end
  local a, b, c = await(fl.gather(fl.spawn(text), fl.spawn(text), fl.spawn(text)))
  return { a, b, c }
end)
app:post("/left-reading", function(req)
  fl.spawn(function()
    local ok = pcall(req.text, req)
    note("left reading: " .. tostring(ok))
  end)
  await(fl.sleep(0.02))
  return "answered"
end)
app:post("/background-reading", function(req)
  fl.background(function()
    local ok, err = pcall(req.text, req)
    note("background reading: " .. tostring(ok) .. " " .. tostring(err))
  end)
  return "answered"
end)
app:post("/chunks-then-text", function(req)
  local first
  for chunk in req:chunks() do first = chunk break end
  local ok, text = pcall(req.text, req)
  return { first = first, ok = ok, text = ok and text or tostring(text) }
end)
app:post("/limited-upload", { timeout = 0.1 }, function(req) return req:text() end)

app:post("/echo", { max_body = 100 * MB }, function(req)
  return fl.stream(function(write) for chunk in req:chunks() do write(chunk) end end)
end)
app:post("/count", { max_body = 100 * MB }, function(req)
  read = 0
  for chunk in req:chunks() do read = read + #chunk end
  return tostring(read)
end)
app:post("/slow-count", { max_body = 100 * MB }, function(req)
  read = 0
  for chunk in req:chunks() do
    read = read + #chunk
    await(fl.sleep(0.01))
  end
  return tostring(read)
end)
app:post("/not-reading", { max_body = 100 * MB }, function(req)
  read = 0
  await(fl.sleep(1))
  for chunk in req:chunks() do read = read + #chunk end
  return tostring(read)
end)
app:post("/pieces", function(req)
  local seen = {}
  for chunk in req:chunks() do
    seen[#seen + 1] = chunk
    note("piece " .. chunk)
  end
  return { seen = seen }
end)
app:post("/upload-cut", { max_body = MB }, function(req)
  local ok, err = pcall(function() for _ in req:chunks() do end end)
  note("upload: " .. tostring(ok) .. " " .. reason_of(err))
end)
app:post("/text-cut", function(req)
  local ok, err = pcall(req.text, req)
  note("text: " .. tostring(ok) .. " " .. reason_of(err))
end)

return app
]]

local settings = { threads = 1, body_grace = "500ms" }

support.describe_server("a stream", { app = app, settings = settings }, function(get_server)
  local function get(path)
    return get_server():get(path)
  end

  -- Reads `size` bytes in pieces, so that the test's own buffer stays small.
  local function drain(client, size)
    while size > 0 do
      local piece = assert(client:receive(math.min(size, 65536)))
      size = size - #piece
    end
  end

  it("goes out in chunks as it is written", function()
    local response = get "/three"
    assert.equal(201, response.status)
    assert.equal("onetwothree", response.body)
    assert.same({ "one", "two", "three" }, { response.chunks[1], response.chunks[2],
      response.chunks[3] })
    assert.equal("chunked", response.headers["transfer-encoding"])
    assert.is_nil(response.headers["content-length"])
    assert.equal("text/plain", response.headers["content-type"])
    assert.equal("b", response.headers["x-a"])
  end)

  it("is not held back until it ends", function()
    local client, start = get_server():connect(), now()
    client:send "GET /idle-stream HTTP/1.1\r\nHost: a\r\n\r\n"
    assert.is_truthy(client:receive "first")
    assert.is_true(now() - start < 1 * support.slowdown)
  end)

  it("keeps the connection", function()
    local client = get_server():connect()
    client:send(("GET /three HTTP/1.1\r\nHost: a\r\n\r\n"):rep(2)
      .. "GET /written HTTP/1.1\r\nHost: a\r\n\r\n")
    local responses = assert(client:responses(3))
    assert.equal("onetwothree", responses[2].body)
    assert.equal(200, responses[3].status)
  end)

  it("may be empty", function()
    local client = get_server():connect()
    assert.equal("", client:request({ path = "/empty" }).body)
    assert.equal("ab", client:request({ path = "/empty-pieces" }).body)
    assert.equal("12.5", client:request({ path = "/numbers" }).body)
  end)

  it("has a head for HEAD and nothing else", function()
    local client = get_server():connect()
    local response = client:request { path = "/three", method = "HEAD" }
    assert.equal(201, response.status)
    assert.equal("b", response.headers["x-a"])
    assert.equal("onetwothree", client:request({ path = "/three" }).body)
  end)

  it("is not run for HEAD", function()
    local client, start = get_server():connect(), now()
    client:request { path = "/idle-stream", method = "HEAD" }
    assert.equal("onetwothree", client:request({ path = "/three" }).body)
    assert.is_true(now() - start < 1 * support.slowdown)
  end)

  it("ends with the connection in HTTP/1.0", function()
    local client = get_server():connect()
    client:send "GET /three HTTP/1.0\r\nHost: a\r\n\r\n"
    local response = client:response()
    assert.is_nil(response.headers["transfer-encoding"])
    assert.is_nil(response.headers["content-length"])
    assert.equal("close", response.headers.connection)
    assert.equal("onetwothree", response.body)
    assert.equal("closed", client.ended)
  end)

  it("carries cookies, and may look at the request", function()
    local response = get "/cookies"
    assert.equal("/cookies", response.body)
    assert.matches("^a=1", response.headers["set-cookie"])
  end)

  it("may be written by several tasks", function()
    local body = get("/parallel").body
    assert.equal(10, #body)
    assert.equal(5, select(2, body:gsub("a", "")))
  end)

  it("starts background tasks at its end", function()
    get "/background"
    get_server():wait_log "note: stream ends.*note: stream's background"
  end)

  it("is not cut by the route's timeout once it began", function()
    assert.equal("12345", get("/limited").body)
  end)

  describe("that fails", function()
    it("in the middle is cut without the last chunk, and logged", function()
      local client = get_server():connect()
      client:send "GET /broken HTTP/1.1\r\nHost: a\r\n\r\n"
      local bytes = ""
      repeat
        local piece = client:receive()
        bytes = bytes .. (piece or "")
      until not piece
      assert.matches("4\r\nsome\r\n$", bytes)
      get_server():wait_log "GET /broken.-in the middle"
    end)

    it("in HTTP/1.0 is cut too", function()
      local client = get_server():connect()
      client:send "GET /broken HTTP/1.0\r\nHost: a\r\n\r\n"
      assert.is_truthy(client:receive "some")
      assert.is_true((client:closed()))
    end)

    it("at the beginning is told by 500 or cut", function()
      local client = get_server():connect()
      client:send "GET /broken-at-once HTTP/1.1\r\nHost: a\r\n\r\n"
      local response = client:response()
      assert.is_true(response == nil or response.status == 500)
      get_server():wait_log "GET /broken%-at%-once.-at the beginning"
    end)

    it("by writing no string names the line", function()
      local client = get_server():connect()
      client:send "GET /wrong-piece HTTP/1.1\r\nHost: a\r\n\r\n"
      assert.is_nil((client:response()))
      get_server():wait_log "app.lua:%d+: write: a string expected, got table"
    end)
  end)

  describe("to a reader that stalls", function()
    it("suspends write, and memory stays bounded", function()
      local before = get_server():rss()
      local client = get_server():connect { receive_buffer = 4096 }
      client:send "GET /endless HTTP/1.1\r\nHost: a\r\n\r\n"
      assert.is_truthy(client:receive(1000))
      sleep(0.3)
      local written = tonumber(get("/written").body)
      sleep(0.2)
      assert.equal(written, tonumber(get("/written").body), "write is not suspended")
      assert.is_true(written < 16 * MB, "the kernel and we took " .. written)
      local grown = get_server():rss() - before
      assert.is_true(grown < 8 * MB * support.slowdown, "memory has grown by " .. grown)
      drain(client, written)
      assert.is_true(tonumber(get("/written").body) > written)
    end)

    it("raises in write when the client has left", function()
      local client = get_server():connect { receive_buffer = 4096 }
      client:send "GET /endless HTTP/1.1\r\nHost: a\r\n\r\n"
      assert.is_truthy(client:receive(1000))
      sleep(0.1)
      client:reset()
      get_server():wait_log "note: write raised: false client left"
    end)

    it("is not logged as an error then", function()
      sleep(0.05)
      assert.is_nil(get_server():log():find "GET /endless[^\n]*\n[^\n]*client")
    end)
  end)

  it("to a client that left is cancelled at its await", function()
    local client = get_server():connect()
    client:send "GET /idle-stream HTTP/1.1\r\nHost: a\r\n\r\n"
    assert.is_truthy(client:receive "first")
    client:reset()
    get_server():wait_log "note: idle stream: false client left"
  end)

  describe("to a client that leaves while nothing is read from it", function()
    -- Closes this side, so that the server stops reading, then resets.
    local function leave_unnoticed(path, wait_for)
      local client = get_server():connect()
      client:send(("POST %s HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n"):format(path))
      client:half_close()
      if wait_for then assert.is_truthy(client:receive(wait_for)) end
      sleep(0.05)
      client:reset()
    end

    local function reset_behind(head, filling)
      local client = get_server():connect()
      client:send(head)
      client:send(filling, 0.3)
      assert.is_truthy(client:receive "first")
      client:reset()
    end

    it("ends though its last chunk cannot be sent", function()
      leave_unnoticed("/unnoticed/end", "first")
      get_server():wait_log "note: unnoticed end: background"
    end)

    it("does not begin when its head cannot be sent", function()
      leave_unnoticed "/unnoticed/begin"
      get_server():wait_log "note: unnoticed begin: background"
      assert.is_nil(get_server():log():find "unnoticed begin: begun")
    end)

    it("is cancelled though it swallows what write raises", function()
      leave_unnoticed("/unnoticed/stubborn", "first")
      get_server():wait_log "note: unnoticed stubborn: client left"
    end)

    it("is cancelled though it writes nothing", function()
      local at = #get_server():log()
      leave_unnoticed("/idle-stream", "first")
      support.eventually(function()
        return get_server():log():find("note: idle post: false client left", at, true)
      end, 4)
    end)

    it("is cancelled behind many pipelined requests", function()
      local at = #get_server():log()
      reset_behind("GET /idle-stream HTTP/1.1\r\nHost: a\r\n\r\n",
        ("GET /three HTTP/1.1\r\nHost: a\r\n\r\n"):rep(20000))
      support.eventually(function()
        return get_server():log():find("note: idle stream: false client left", at, true)
      end, 4)
    end)

    it("is cancelled behind a body that it does not read on", function()
      local at = #get_server():log()
      reset_behind("POST /idle-stream HTTP/1.1\r\nHost: a\r\nX-Read: 1\r\n"
        .. "Content-Length: 900000\r\n\r\n", ("x"):rep(800000))
      support.eventually(function()
        return get_server():log():find("note: idle post: false client left", at, true)
      end, 4)
    end)
  end)

  describe("to a client that closed its side is cancelled", function()
    local function wait_cancelled(name, at)
      support.eventually(function()
        return get_server():log():find("note: " .. name .. ": false client left", at, true)
      end)
    end

    it("as the last of several requests", function()
      local client, at = get_server():connect(), #get_server():log()
      client:send("GET /three HTTP/1.1\r\nHost: a\r\n\r\n"
        .. "GET /idle-stream HTTP/1.1\r\nHost: a\r\n\r\n")
      client:half_close()
      assert.equal("onetwothree", client:response().body)
      wait_cancelled("idle stream", at)
    end)

    it("when all that it has written has been read", function()
      local client, at = get_server():connect { receive_buffer = 4096 }, #get_server():log()
      client:send "GET /large-then-idle HTTP/1.0\r\nHost: a\r\n\r\n"
      client:half_close()
      assert.is_truthy(client:receive "\r\n\r\n")
      sleep(0.6)
      drain(client, 160 * 65536)
      wait_cancelled("large then idle", at)
    end)
  end)

  it("of 10 MB arrives whole", function()
    local client = get_server():connect()
    client:send "GET /sized HTTP/1.0\r\nHost: a\r\n\r\n"
    assert.is_truthy(client:receive "\r\n\r\n")
    drain(client, 160 * 65536)
    assert.is_true((client:closed()))
  end)

  it("wakes all of several writers that a slow reader held", function()
    local client = get_server():connect { receive_buffer = 4096 }
    client:send "GET /two-writers HTTP/1.0\r\nHost: a\r\n\r\n"
    assert.is_truthy(client:receive "\r\n\r\n")
    sleep(0.1)
    drain(client, 320 * 65536)
    assert.is_true((client:closed()))
    get_server():wait_log "note: both have written: ab"
  end)

  it("that is over takes no more", function()
    local client = get_server():connect()
    assert.equal("in time", client:request({ path = "/late-write" }).body)
    get_server():wait_log "note: late write: false"
    assert.equal("onetwothree", client:request({ path = "/three" }).body)
  end)

  it("has sent its head: no cookie can follow", function()
    local client = get_server():connect()
    client:send "GET /late-cookie HTTP/1.1\r\nHost: a\r\n\r\n"
    assert.is_nil((client:response()))
    get_server():wait_log "the response's head has been sent"
  end)

  it("that raises an http_error is cut", function()
    local client = get_server():connect()
    client:send "GET /http-error HTTP/1.1\r\nHost: a\r\n\r\n"
    assert.is_nil((client:response()))
    get_server():wait_log "GET /http%-error"
  end)

  describe("from the client", function()
    local function begin(path, size)
      local client = get_server():connect()
      client:send(("POST %s HTTP/1.1\r\nHost: a\r\n%s\r\n"):format(path,
        size and ("Content-Length: %d\r\n"):format(size) or "Transfer-Encoding: chunked\r\n"))
      return client
    end

    it("is read while it comes", function()
      local client = begin "/pieces"
      for _, piece in ipairs { "one", "two", "three" } do
        client:send(("%x\r\n%s\r\n"):format(#piece, piece))
        get_server():wait_log("note: piece " .. piece)
      end
      client:send "0\r\n\r\n"
      assert.same({ "one", "two", "three" }, client:response():json().seen)
    end)

    it("waits while the handler does not read", function()
      local before, bytes = get_server():rss(), ("x"):rep(64 * MB)
      local client = begin("/not-reading", 64 * MB)
      local _, reason, sent = client:send(bytes, 0.5)
      assert.equal("timeout", reason)
      assert.is_true(sent < 20 * MB, "the kernel and we took " .. sent)
      assert.is_true(get_server():rss() - before < 8 * MB * support.slowdown)
      assert.is_true(client:send(bytes:sub(sent + 1)))
      assert.equal(tostring(64 * MB), client:response().body)
    end)

    it("comes as slowly as the handler reads", function()
      local client = begin("/slow-count", 2 * MB)
      assert.is_true(client:send(("x"):rep(2 * MB)))
      assert.equal(tostring(2 * MB), client:response().body)
    end)

    it("that is cut raises in chunks() and text()", function()
      local client = begin("/upload-cut", 1000)
      client:send "some"
      sleep(0.03)
      client:reset()
      get_server():wait_log "note: upload: false"
      client = begin("/text-cut", 1000)
      client:send "some"
      sleep(0.03)
      client:reset()
      get_server():wait_log "note: text: false"
    end)

    it("that is cut by a half-close raises too", function()
      local at = #get_server():log()
      local client = begin("/upload-cut", 1000)
      client:send "some"
      client:half_close()
      support.eventually(function()
        return get_server():log():find("note: upload: false", at, true)
      end)
    end)

    it("can be read by several tasks", function()
      local client = begin("/two-readers", 5)
      sleep(0.02)
      client:send "hello"
      assert.same({ "hello", "hello", "hello" }, client:response():json())
    end)

    it("that a task still reads is no matter to the answer", function()
      local client = begin("/left-reading", 5)
      assert.equal("answered", client:response().body)
      client:send "hello"
      assert.equal("onetwothree", client:request({ path = "/three" }).body)
      get_server():wait_log "note: left reading: false"
    end)

    it("is over in the background, which is told so", function()
      local client = begin("/background-reading", 5)
      client:send "hello"
      assert.equal("answered", client:response().body)
      local how = get_server():wait_log "note: background reading: (%a+ [^\n]*)"
      assert.is_true(how:find "^true hello" ~= nil or how:find "the request is over" ~= nil, how)
    end)

    it("read in part by chunks() gives text() no lie", function()
      local client = begin("/chunks-then-text", 10)
      client:send "hello"
      sleep(0.03)
      client:send "world"
      local seen = client:response():json()
      assert.equal("hello", seen.first)
      assert.is_true(seen.text == "helloworld" or not seen.ok, seen.text)
    end)

    it("that does not come is ended by the route's timeout", function()
      local client = begin("/limited-upload", 5)
      assert.equal(504, client:response().status)
    end)

    it("with broken chunks raises, and is 400", function()
      local client = begin "/count"
      client:send "5\r\nhello\r\n"
      sleep(0.02)
      client:send "nonsense\r\n"
      assert.equal(400, client:response().status)
      assert.is_true((client:closed()))
    end)
  end)

  it("both ways echoes 50 MB in little memory", function()
    local client = get_server():connect()
    local before = get_server():rss()
    local piece, count = ("0123456789abcdef"):rep(4096), 800
    client:send(("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n")
      :format(#piece * count))
    assert.is_truthy(client:receive "\r\n\r\n")
    local sent, received, most = 0, 0, 0
    local rest = ""
    while sent < count do
      assert(client:send(piece))
      sent = sent + 1
      while received < (sent - 4) * #piece do
        local bytes = assert(client:receive())
        received = received + #bytes
        rest = bytes:sub(-5)
      end
      if sent % 100 == 0 then most = math.max(most, get_server():rss() - before) end
    end
    while rest ~= "0\r\n\r\n" do
      local bytes = assert(client:receive())
      received = received + #bytes
      rest = (rest .. bytes):sub(-5)
    end
    assert.is_true(received > #piece * count)
    assert.is_true(most < 16 * MB * support.slowdown, "memory has grown by " .. most)
  end)

  it("both ways echoes every byte", function()
    local bytes = {}
    for i = 1, 200000 do bytes[i] = string.char((i * 7 + i / 251) % 256) end
    local body = table.concat(bytes)
    assert.equal(body, get_server():post("/echo", body).body)
    local response = get_server():request { method = "POST", path = "/echo", chunked = true,
      body = { body:sub(1, 1), body:sub(2, 70000), body:sub(70001) } }
    assert.equal(body, response.body)
  end)
end)
