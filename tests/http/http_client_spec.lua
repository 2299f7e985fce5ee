-- fl.http in a real server, against itself and against peers that behave oddly.

local cjson = require "cjson"
local support = require "support"

local process = support.process
local now = process.now
local slowdown = support.slowdown
local MB = 1024 * 1024

-- A server that does what the path says, each connection in a coroutine of its own. It prints its
-- two ports (two origins), and one that takes no more connections.
local PEER = [==[
local ffi = require "ffi"
local socket = require "socket"
ffi.cdef "struct pollfd { int fd; short events, revents; };"
ffi.cdef "int poll(struct pollfd *fds, unsigned long count, int timeout);"
local listeners = { assert(socket.bind("127.0.0.1", 0, 512)), assert(socket.bind("127.0.0.1", 0)) }
local full = socket.tcp4()
assert(full:bind("127.0.0.1", 0))
assert(full:listen(0))
local _, full_port = full:getsockname()
local fillers = {}
for i = 1, 4 do
  fillers[i] = socket.tcp4()
  fillers[i]:settimeout(0)
  fillers[i]:connect("127.0.0.1", full_port)
end
local _, port = listeners[1]:getsockname()
local _, other_port = listeners[2]:getsockname()

local tasks, sleepers, accepted, counts = {}, {}, 0, {}
local is_asked = false
local busy = {} -- what each connection waits in
local sent = 0

local function wait(sock, way)
  return coroutine.yield(sock, way)
end

local function pause(seconds)
  coroutine.yield(nil, socket.gettime() + seconds)
end

local function read(c, count)
  while #c.buffer < (count or 1) do
    local data, why, partial = c.sock:receive(16384)
    data = data or partial
    if data and #data > 0 then
      c.buffer = c.buffer .. data
    elseif why == "timeout" then
      wait(c.sock, "read")
    else
      error("gone", 0)
    end
  end
end

local function write(c, text)
  local at = 1
  while at <= #text do
    local last, why, partial = c.sock:send(text, at)
    last = last or partial
    if last and last >= at then
      sent = sent + last - at + 1
      at = last + 1
    end
    if why == "timeout" then
      wait(c.sock, "write")
    elseif why then
      error("gone", 0)
    end
  end
end

local function leave(c) -- when the other side has, without reading
  local poll = ffi.new("struct pollfd[1]")
  repeat
    pause(0.02)
    poll[0].fd, poll[0].events = c.sock:getfd(), 0x2000
  until ffi.C.poll(poll, 1, 0) > 0
end

local function head(c)
  while not c.buffer:find("\r\n\r\n", 1, true) do
    read(c, #c.buffer + 1)
  end
  local text, rest = c.buffer:match("^(.-\r\n)\r\n(.*)$")
  c.buffer = rest
  return text
end

local function body(c, text)
  local length = tonumber(text:lower():match "\r\ncontent%-length: (%d+)")
  if length then
    read(c, length)
    local found = c.buffer:sub(1, length)
    c.buffer = c.buffer:sub(length + 1)
    return found
  elseif text:lower():find "\r\ntransfer%-encoding: chunked" then
    local pieces = {}
    while true do
      while not c.buffer:find "^%x+\r\n" do read(c, #c.buffer + 1) end
      local size, rest = c.buffer:match "^(%x+)\r\n(.*)$"
      size, c.buffer = tonumber(size, 16), rest
      read(c, size + 2)
      pieces[#pieces + 1] = c.buffer:sub(1, size)
      c.buffer = c.buffer:sub(size + 3)
      if size == 0 then return table.concat(pieces) end
    end
  end
  return ""
end

local function answer(c, status, headers, text)
  write(c, ("HTTP/1.1 %s\r\nContent-Length: %d\r\nConnection: close\r\n%s\r\n%s"):format(status,
    #text, headers, text))
end

local function redirect(c, status, to)
  answer(c, status .. " Moved", "Location: " .. to .. "\r\n", "moved")
end

local gzip = io.popen "printf 'hello %.0s' $(seq 1000) | gzip -c"
local zipped = gzip:read "*a"
gzip:close()

local CLOSE = "HTTP/1.1 200 OK\r\nConnection: close\r\n"
local paths = {}
function paths.head(c, text) body(c, text) answer(c, "200 OK", "", text) end
function paths.body(c, text) answer(c, "200 OK", "X-Head: yes\r\n", body(c, text)) end
function paths.method(c, text) body(c, text) answer(c, "200 OK", "X-Method: " .. text:match "^%S+"
  .. "\r\n", text:find "^HEAD" and "" or text:match "^%S+") end
function paths.multi(c) answer(c, "200 OK",
  "X-A: one\r\nx-a:  two \r\nSet-Cookie: a=1\r\nSet-Cookie: b=2; Path=/\r\nX-Empty:\r\n", "m") end
function paths.gzip(c) answer(c, "200 OK", "Content-Encoding: gzip\r\n", zipped) end
function paths.continue(c) write(c, "HTTP/1.1 100 Continue\r\nX-Early: yes\r\n\r\n")
  answer(c, "200 OK", "", "continued") end
function paths.keep(c, text)
  while true do
    write(c, "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nkept")
    text = head(c)
    if text:find "^GET /stats" then return paths.stats(c) end
  end
end
function paths.stats(c)
  local names = {}
  busy[c], is_asked = nil, true
  for _, name in pairs(busy) do names[#names + 1] = name end
  answer(c, "200 OK", "", ("accepted=%d sent=%d open=%s"):format(accepted, sent,
    table.concat(names, " ")))
end
function paths.count(c, _, n) answer(c, "200 OK", "", tostring(counts[n] or 0)) end
function paths.slow(c)
  local text = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 4\r\n\r\nslow"
  for letter in text:gmatch "." do
    write(c, letter)
    pause(0.01)
  end
end
function paths.late(c) pause(2) answer(c, "200 OK", "", "late") end
function paths.drops(c) -- 20 pieces in two seconds
  write(c, CLOSE .. "Content-Length: 20\r\n\r\n")
  for _ = 1, 20 do write(c, ".") pause(0.1) end
end
function paths.silent(c) leave(c) end
function paths.cut(c) write(c, CLOSE .. "Content-Length: 100\r\n\r\nbegun") end
function paths.stall(c) paths.cut(c) leave(c) end
function paths.wrong(c) write(c, CLOSE .. "Content-Length: 5\r\n\r\n0123456789") end
function paths.close() end
function paths.garbage(c) write(c, "this is no HTTP\r\n\r\n") end
function paths.fat(c) write(c, "HTTP/1.1 200 OK\r\n")
  for i = 1, 20 do write(c, ("X-%d: %s\r\n"):format(i, ("x"):rep(4096))) end
  write(c, "\r\n") end
function paths.endless(c)
  write(c, CLOSE .. "Transfer-Encoding: chunked\r\n\r\n")
  local chunk = ("%x\r\n%s\r\n"):format(65536, ("e"):rep(65536))
  while true do write(c, chunk) end
end
-- Takes no body until somebody asks for the statistics: behind a full window no end is seen.
function paths.unread(c)
  is_asked = false
  repeat pause(0.02) until is_asked
  while true do read(c, #c.buffer + 1) c.buffer = "" end
end -- takes no body
function paths.early(c) answer(c, "413 Too Large", "", "no") end -- reads no body
function paths.loop(c) redirect(c, 302, "/loop") end
function paths.hops(c, _, n)
  if n == "0" then return answer(c, "200 OK", "", "arrived") end
  redirect(c, 302, "/hops/" .. n - 1)
end
function paths.to(c, text, status)
  body(c, text)
  redirect(c, tonumber(status), "/head")
end
function paths.todata(c, text, status) body(c, text) redirect(c, tonumber(status), "/body") end
function paths.away(c, text) body(c, text)
  redirect(c, 307, ("http://127.0.0.1:%d/head"):format(other_port)) end
function paths.file(c) redirect(c, 302, "file:///etc/passwd") end
function paths.ftp(c) redirect(c, 302, "ftp://127.0.0.1/") end
function paths.spaces(c) redirect(c, 302, "/head?a b") end
function paths.nowhere(c) answer(c, "302 Found", "", "nowhere") end
-- /flaky/key-n-status: fails n times
function paths.flaky(c, text, what)
  body(c, text)
  local key, n, status = what:match "^(%w+)-(%d+)-(%d+)$"
  counts[key] = (counts[key] or 0) + 1
  if counts[key] > tonumber(n) then return answer(c, "200 OK", "", "at last") end
  if status ~= "0" then answer(c, status .. " Trouble", "", "trouble") end
end
function paths.later(c, _, key)
  counts[key] = (counts[key] or 0) + 1
  if counts[key] > 1 then return answer(c, "200 OK", "", "at last") end
  answer(c, "503 Later", "Retry-After: 1\r\n", "later")
end

local function serve(sock)
  sock:settimeout(0)
  local c = { sock = sock, buffer = "" }
  busy[c] = "a head"
  local ok, why = pcall(function()
    local text = head(c)
    local name, rest = text:gsub("^(%S+) http://[^/]+", "%1 "):match "^%S+ /(%w*)/?([%w-]*)"
    busy[c] = name
    paths[name](c, text, rest)
  end)
  if not ok and why ~= "gone" then io.stderr:write(tostring(why), "\n") end
  sock:shutdown "send"
  if ok then pcall(function() for _ = 1, 100 do read(c, #c.buffer + 1) c.buffer = "" end end) end
  sock:close()
  busy[c] = nil
end

local function run(task)
  local ok, sock, way = coroutine.resume(task.co, task.sock)
  if coroutine.status(task.co) == "dead" then return end
  if sock then tasks[#tasks + 1] = { co = task.co, sock = sock, way = way }
  else sleepers[#sleepers + 1] = { co = task.co, at = way } end
end

print(port, other_port, full_port)
io.stdout:flush()
while true do
  local readers, writers, waiting = { listeners[1], listeners[2] }, {}, tasks
  tasks = {}
  for _, task in ipairs(waiting) do
    table.insert(task.way == "read" and readers or writers, task.sock)
  end
  local next_at = 1
  for _, sleeper in ipairs(sleepers) do
    next_at = math.max(0, math.min(next_at, sleeper.at - socket.gettime()))
  end
  local can_read, can_write = socket.select(readers, writers, next_at)
  for _, listener in ipairs(listeners) do
    if can_read[listener] then
      local sock = listener:accept()
      if sock then
        accepted = accepted + 1
        run { co = coroutine.create(serve), sock = sock }
      end
    end
  end
  local sleeping, time = sleepers, socket.gettime()
  sleepers = {}
  for _, sleeper in ipairs(sleeping) do
    if sleeper.at <= time then run(sleeper) else sleepers[#sleepers + 1] = sleeper end
  end
  for _, task in ipairs(waiting) do
    if (task.way == "read" and can_read or can_write)[task.sock] then run(task)
    else tasks[#tasks + 1] = task end
  end
end
]==]

local APP = [==[
local fl = require "fasterlua"
local await = fl.await
local app = fl.app { title = "client" }

local function described(ok, r)
  if not ok then
    if type(r) ~= "table" then return { raised = r } end
    return { kind = r.kind, code = r.code, message = r.message, url = r.url, status = r.status,
      response_status = r.response_status, reason = r.reason }
  end
  local headers = {}
  for name, value in pairs(r.headers) do headers[name] = value end
  return { status = r.status, body = r.body, url = r.url, version = r.version, headers = headers,
    any_case = r.headers["CONTENT-Length"], cookies = r:header_values "Set-Cookie",
    timings = r.timings }
end

local function send(given)
  local client = given.client and fl.http.client(given.client) or fl.http
  if client == fl.http then return await(fl.http.request(given.request)) end
  return await(client:request(given.request))
end

app:post("/do", { max_body = 10 * 1024 * 1024 }, function(req)
  return described(pcall(send, req:json()))
end)

app:get("/uncaught", function(req)
  return await(fl.http.get(req.query.url, { timeout = 0.2 })).body
end)

app:post("/methods", function(req)
  local url, results = req:json().url, {}
  for _, name in ipairs { "get", "head", "post", "put", "patch", "delete" } do
    results[#results + 1] = await(fl.http[name](url)).headers["x-method"]
  end
  results[#results + 1] = await(fl.http.request { url = url, method = "purge" }).body
  return results
end)

app:post("/raise", function(req)
  local r = await(fl.http.get(req:json().url))
  return described(pcall(r.raise_for_status, r))
end)

app:post("/decode", function(req)
  local r = await(fl.http.post(req:json().url, { body = req:json().body }))
  local ok, value = pcall(r.json, r)
  return ok and { value = value } or described(ok, value)
end)

-- reads so many bytes of a stream and then waits, or stops
app:post("/stream", function(req)
  local given, size, pieces = req:json(), 0, 0
  local r = await(fl.http.get(given.url, { stream = true, timeout = 20 }))
  local ok, err = pcall(function()
    for piece in r:chunks() do
      size, pieces = size + #piece, pieces + 1
      if given.most and size >= given.most then break end
    end
  end)
  if given.rest then await(fl.sleep(given.rest)) end
  if given.close then r:close() end
  return { size = size, pieces = pieces, has_body = r.body ~= nil, head = r.status,
    failure = not ok and err.code or nil }
end)

app:post("/upload", function(req)
  local given, left = req:json(), nil
  left = given.pieces
  local made = 0
  local ok, r = pcall(function()
    return await(fl.http.post(given.url, { body_size = given.body_size, timeout = given.timeout,
      body = function()
        if given.fail and left == 1 then error("the source failed") end
        if left > 0 then
          left, made = left - 1, made + 1
          if given.rest then await(fl.sleep(given.rest)) end
          return (given.piece or "x"):rep(given.times or 1)
        end
      end }))
  end)
  local result = described(ok, r)
  result.made = made
  return result
end)

-- cancels a request after a while
app:post("/cancel", function(req)
  local given = req:json()
  local function more() return ("u"):rep(65536) end
  local future = given.upload and fl.http.post(given.url, { body = more })
    or fl.http.get(given.url, { stream = given.stream })
  if given.stream then
    local r = await(future)
    future = fl.spawn(function() for _ in r:chunks() do end end)
  end
  await(fl.sleep(given.after or 0.2))
  future:cancel()
  return described(pcall(await, future))
end)

app:post("/timeout", function(req)
  local ok, err = pcall(await, fl.timeout(0.2, fl.http.get(req:json().url)))
  return { ok = ok, kind = err.kind }
end)

app:get("/hang", function(req) return await(fl.http.get(req.query.url)).body end)
app:get("/briefly", { timeout = 0.3 }, function(req)
  return await(fl.http.get(req.query.url)).body
end)
app:get("/forgotten", function(req)
  fl.http.get(req.query.url)
  await(fl.sleep(0.1))
  return "gone on"
end)
app:get("/background", function(req)
  local url = req.query.url
  fl.background(function() fl.shared("notes"):set("body", await(fl.http.get(url)).body) end)
  return "later"
end)
app:get("/background/stream", function(req)
  local url = req.query.url
  fl.background(function()
    local r, size = await(fl.http.get(url, { stream = true })), 0
    await(fl.sleep(0.05))
    for piece in r:chunks() do size = size + #piece end
    fl.shared("notes"):set("body", size .. " bytes")
  end)
  return "later"
end)
app:get("/note", function() return fl.shared("notes"):get "body" or "nothing yet" end)

local client = fl.http.client { headers = { ["x-from"] = "a client" } }
local function there(c, url) return fl.await(c:get(url)).body end
app:post("/pools", function(req)
  local url = req:json().url
  return { cpu = await(fl.run_in_state(there, client, url)),
    blocking = await(fl.run_blocking(there, client, url)) }
end)
return app
]==]

local CROWD = [==[
local fl = require "fasterlua"
local await = fl.await
local app = fl.app { title = "crowd" }

app:get("/slowly", function() await(fl.sleep(0.02)) return "done" end)
app:get("/sleep", function() await(fl.sleep(0.5)) return "slept" end)

app:get("/many", function(req)
  local futures, good = {}, 0
  for i = 1, tonumber(req.query.count) do futures[i] = fl.http.get(req.query.url) end
  for _, result in ipairs(await(fl.all_settled(futures))) do
    if result.ok and result.value.body == "done" then good = good + 1 end
  end
  return tostring(good)
end)

app:get("/full", function(req)
  fl.http.limits { max_transfers = 2, max_waiting = 3 }
  local futures, order, full = {}, {}, 0
  for i = 1, 7 do
    futures[i] = fl.spawn(function()
      await(fl.http.get(req.query.url))
      order[#order + 1] = i
    end)
  end
  await(fl.sleep(0))
  futures[4]:cancel() -- one that waits leaves its place
  local status
  for _, result in ipairs(await(fl.all_settled(futures))) do
    if not result.ok and result.error.code == "queue_full" then
      full, status = full + 1, result.error.status
    end
  end
  fl.http.limits { max_transfers = 100, max_waiting = 1000 }
  return { order = table.concat(order, " "), full = full, status = status }
end)

app:get("/host", function(req)
  fl.http.limits { max_host_connections = 3 }
  local futures = {}
  for i = 1, 30 do futures[i] = fl.http.get(req.query.url, { connect_timeout = 0.1 }) end
  local good = 0
  for _, result in ipairs(await(fl.all_settled(futures))) do
    good = good + (result.ok and 1 or 0)
  end
  fl.http.limits { max_host_connections = 0 }
  return tostring(good)
end)

app:post("/swallow", { max_body = 200 * 1024 * 1024 }, function(req)
  local size = 0
  for piece in req:chunks() do size = size + #piece end
  return tostring(size)
end)

app:get("/idle", function(req)
  fl.http.limits { keep_idle = 0.2 }
  await(fl.http.get(req.query.url))
  fl.http.limits { keep_idle = 60 }
  return "kept a while"
end)

app:get("/unix", function(req)
  return await(fl.http.get("http://anything/slowly", { unix_socket = req.query.path })).body
end)

app:get("/pour", function(req)
  return fl.stream(function(write)
    local piece = ("p"):rep(65536)
    for _ = 1, tonumber(req.query.megabytes) * 16 do write(piece) end
  end)
end)

-- Both ways: what comes from one is sent to the other.
app:get("/pass", function(req)
  local base = req.query.base
  local source = await(fl.http.get(base .. "/pour?megabytes=" .. req.query.megabytes,
    { stream = true }))
  return await(fl.http.post(base .. "/swallow", { body = { source:chunks() } })).body
end)

return app
]==]

local function start_peer()
  local dir = process.temporary_directory()
  local file = assert(io.open(dir .. "/peer.lua", "w"))
  file:write(PEER)
  file:close()
  local peer = { dir = dir, pid = process.spawn { argv = { "luajit", dir .. "/peer.lua" },
    output = dir .. "/output" } }
  local first, other, full = support.eventually(function()
    return (process.read(dir .. "/output") or ""):match "%d+\t%d+\t%d+\n"
  end, 10):match "(%d+)\t(%d+)\t(%d+)"
  peer.url, peer.other, peer.full = "http://127.0.0.1:" .. first, "http://127.0.0.1:" .. other,
    "http://127.0.0.1:" .. full
  peer.port = tonumber(first)
  return peer
end

local function stop_peer(peer)
  process.signal(peer.pid, "KILL")
  process.wait(peer.pid, 5)
  process.remove_directory(peer.dir)
end

local function stats(peer)
  local c = support.connect { host = "127.0.0.1", port = peer.port }
  local response = c:request { path = "/stats" }
  c:close()
  local accepted, sent, open = response.body:match "accepted=(%d+) sent=(%d+) open=(.*)"
  return { accepted = tonumber(accepted), open = open, sent = tonumber(sent) }
end

local peer = start_peer()

support.describe_server("fl.http", {
  app = APP,
  settings = { threads = 1, cpu_states = 1 }, -- what each state keeps is made while warming up
  warm_up = function(server)
    for _ = 1, 2 do
      server:post("/do", { request = { url = peer.url .. "/head" } })
    end
    server:post("/do", { request = { url = "http://localhost:1/" } })
    server:post("/pools", { url = peer.url .. "/head" })
  end,
}, function(get_server)
  local function post(path, given)
    local response = get_server():post(path, given)
    assert.equal(200, response.status, get_server():log())
    return response:json()
  end

  local function send(request, client)
    if not request.url:find "^http" and not (client and client.base_url) then
      request.url = peer.url .. request.url
    end
    return post("/do", { request = request, client = client })
  end

  local function refused(code, request, client)
    local result = send(request, client)
    assert.equal(code, result.code, result.message or result.raised or cjson.encode(result))
    assert.equal("http_client", result.kind)
    return result
  end

  local function assert_none_open()
    support.eventually(function() assert.equal("", stats(peer).open) return true end, 3)
  end

  after_each(assert_none_open)

  describe("a request", function()
    it("brings status, headers, body, URL and version", function()
      local r = send { url = "/head#fragment" }
      assert.equal(200, r.status)
      assert.equal(peer.url .. "/head", r.url)
      assert.equal("1.1", r.version)
      assert.equal(tostring(#r.body), r.headers["content-length"])
      assert.equal(tostring(#r.body), r.any_case)
      assert.is_true(r.timings.total > 0 and r.timings.total < 5)
      assert.matches("^GET /head HTTP/1.1\r\n", r.body)
      assert.matches("\r\nUser%-Agent: fasterlua/", r.body)
      assert.is_nil(r.body:lower():find "content%-type")
    end)

    it("can be of any method", function()
      assert.same({ "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "PURGE" },
        post("/methods", { url = peer.url .. "/method" }))
    end)

    it("carries JSON, forms and texts", function()
      local r = send { url = "/head", method = "POST", json = { a = { 1, 2 } } }
      assert.matches("\r\nContent%-Type: application/json\r\n", r.body)
      assert.matches("\r\nContent%-Length: 11\r\n", r.body)
      assert.same({ a = { 1, 2 } },
        cjson.decode(send({ url = "/body", method = "POST", json = { a = { 1, 2 } } }).body))
      r = send { url = "/head", method = "PUT", form = { a = "x y", b = { 1, 2 } } }
      assert.matches("\r\nContent%-Type: application/x%-www%-form%-urlencoded\r\n", r.body)
      assert.equal("a=x%20y&b=1&b=2",
        send({ url = "/body", method = "PUT", form = { a = "x y", b = { 1, 2 } } }).body)
      assert.equal("plain text", send({ url = "/body", method = "POST", body = "plain text" }).body)
      assert.is_nil(send({ url = "/head", method = "POST", body = "x" }).body:find "Content%-Type")
      assert.matches("\r\nContent%-Length: 0\r\n", send({ url = "/head", method = "POST" }).body)
      assert.equal(("b"):rep(3 * MB), -- libcurl would wait for "100 Continue"
        send({ url = "/body", method = "POST", body = ("b"):rep(3 * MB) }).body)
    end)

    it("adds a query to the URL", function()
      local query = { q = "a&b", n = 7, list = { "x", "y" }, yes = true }
      assert.matches("^GET /head%?list=x&list=y&n=7&q=a%%26b&yes=true ",
        send({ url = "/head", query = query }).body)
      assert.matches("^GET /head%?z=1&n=7 ", send({ url = "/head?z=1#f", query = { n = 7 } }).body)
    end)

    it("sends headers, and several of a name", function()
      local r = send { url = "/head", headers = { ["X-One"] = "1", ["X-Two"] = { "a", "b" },
        ["X-Empty"] = "", ["User-Agent"] = "me", ["Content-Type"] = "text/x" },
        method = "POST", json = {} }
      for _, line in ipairs { "X-One: 1", "X-Two: a", "X-Two: b", "X-Empty:", "User-Agent: me",
        "Content-Type: text/x" } do
        assert.is_truthy(r.body:find("\r\n" .. line .. "\r\n", 1, true), line)
      end
      assert.is_nil(r.body:find "application/json")
    end)

    it("authenticates", function()
      assert.matches("\r\nAuthorization: Basic YW5uOnNlY3JldA==\r\n",
        send({ url = "/head", basic = { "ann", "secret" } }).body)
      assert.matches("\r\nAuthorization: Bearer t0ken\r\n",
        send({ url = "/head", bearer = "t0ken" }).body)
      local r = send { url = peer.url:gsub("//", "//ann:secret@") .. "/head" }
      assert.matches("\r\nAuthorization: Basic YW5uOnNlY3JldA==\r\n", r.body)
      assert.equal(peer.url .. "/head", r.url)
    end)

    it("refuses what would be another header, naming it", function()
      local function message(request) return send(request).raised end
      assert.matches('header "X%-A" has a control character',
        message { url = "/head", headers = { ["X-A"] = "b\r\nX-C: d" } })
      assert.matches("is no name of a header",
        message { url = "/head", headers = { ["X A\r\n"] = "b" } })
      assert.matches('header "Content%-Length" is the client\'s own',
        message { url = "/head", headers = { ["Content-Length"] = "7" } })
      assert.matches('"method" must be a method', message { url = "/head", method = "GET / X" })
      assert.matches('app.lua:%d+: .*option "timeout" must be seconds above 0',
        message { url = "/head", timeout = -1 })
      assert.matches('unknown option "time_out": did you mean "timeout"%?',
        message { url = "/head", time_out = 1 })
      assert.matches("json and body exclude each other",
        message { url = "/head", json = {}, body = "" })
      assert.matches("guard cannot see where a proxy leads",
        message { url = "/head", guard = "public", proxy = peer.url })
    end)

    it("fetches http and https only", function()
      for _, url in ipairs { "file:///etc/passwd", "gopher://127.0.0.1/", "example.org/x",
        "http://", "http://a b/", "http://a/\r\nX: y" } do
        local result = post("/do", { request = { url = url } })
        assert.equal("url", result.code, url)
      end
    end)

    it("goes through a proxy", function()
      local r = send { url = "http://example.org/head", proxy = peer.url }
      assert.matches("^GET http://example.org/head HTTP/1.1\r\n", r.body)
    end)
  end)

  describe("a response", function()
    it("has all values of a header", function()
      local r = send { url = "/multi" }
      assert.equal("one, two", r.headers["x-a"])
      assert.equal("", r.headers["x-empty"])
      assert.same({ "a=1", "b=2; Path=/" }, r.cookies)
    end)

    it("is decompressed", function()
      assert.equal(("hello "):rep(1000), send({ url = "/gzip" }).body)
      assert.matches("\r\nAccept%-Encoding: .*gzip", send({ url = "/head" }).body)
    end)

    it("may come after interim ones", function()
      local r = send { url = "/continue" }
      assert.equal("continued", r.body)
      assert.is_nil(r.headers["x-early"])
    end)

    it("may come letter by letter", function()
      assert.equal("slow", send({ url = "/slow", idle_timeout = 1 * slowdown }).body)
    end)

    it("ends where its length says", function()
      assert.equal("01234", send({ url = "/wrong" }).body)
    end)

    it("is decoded as JSON, or is refused", function()
      assert.same({ value = { 1, 2 } },
        post("/decode", { url = peer.url .. "/body", body = "[1,2]" }))
      assert.equal("protocol", post("/decode", { url = peer.url .. "/body", body = "[1" }).code)
    end)

    it("raises for its status when asked to", function()
      local r = post("/raise", { url = peer.url .. "/flaky/raised-1-404" })
      assert.equal("status", r.code)
      assert.equal(404, r.response_status)
      assert.equal(502, r.status)
      assert.equal("trouble", send({ url = "/flaky/unraised-1-404" }).body)
    end)
  end)

  describe("a failure", function()
    it("is named", function()
      assert.equal(503, refused("connect", { url = "http://127.0.0.1:1/" }).status)
      assert.equal(503, refused("resolve", { url = "http://nowhere.invalid/",
        connect_timeout = 5 }).status)
      refused("closed", { url = "/cut" })
      refused("closed", { url = "/close" })
      refused("protocol", { url = "/garbage" })
      refused("too_large", { url = "/fat" })
      refused("too_large", { url = "/endless" })
      refused("too_large", { url = "/gzip", max_body = 5999 })
      assert.equal(200, send({ url = "/gzip", max_body = 6000 }).status)
    end)

    it("is named without credentials", function()
      local url = "http://ann:secret@127.0.0.1:1/"
      local result = refused("connect", { url = url })
      assert.equal("http://127.0.0.1:1/", result.url)
      assert.is_nil(result.message:find "secret")
    end)

    it("comes when the time is over", function()
      local started = now()
      local result = refused("timeout", { url = "/silent", timeout = 0.2 })
      assert.equal(504, result.status)
      assert.matches("no end after 0.2 s", result.message)
      assert.matches("no connection after 0.2 s",
        refused("timeout", { url = peer.full .. "/", connect_timeout = 0.2 }).message)
      assert.matches("no byte for 0.2 s",
        refused("timeout", { url = "/stall", idle_timeout = 0.2 }).message)
      assert.is_true(now() - started < 5 * slowdown)
    end)

    it("that nobody catches is answered with its status", function()
      local server = get_server()
      assert.equal(503, server:get("/uncaught?url=http://127.0.0.1:1/").status)
      assert.equal(504, server:get("/uncaught?url=" .. peer.url .. "/silent").status)
    end)
  end)

  describe("a redirect", function()
    it("is followed, five times", function()
      local r = send { url = "/hops/5" }
      assert.equal("arrived", r.body)
      assert.equal(peer.url .. "/hops/0", r.url)
      assert.matches("more than 5 redirects", refused("redirects", { url = "/hops/6" }).message)
      refused("redirects", { url = "/loop" })
      assert.equal("arrived", send({ url = "/hops/9", redirects = 9 }).body)
    end)

    it("is returned when none are to be followed", function()
      local r = send { url = "/hops/1", redirects = 0 }
      assert.equal(302, r.status)
      assert.equal("/hops/0", r.headers.location)
      assert.equal("nowhere", send({ url = "/nowhere" }).body)
    end)

    it("makes a GET of a POST as browsers do", function()
      for status, method in pairs { [301] = "GET", [302] = "GET", [303] = "GET" } do
        local r = send { url = "/to/" .. status, method = "POST", json = { 1 } }
        assert.matches("^" .. method .. " /head ", r.body)
        assert.is_nil(r.body:lower():find "\r\ncontent%-")
      end
      assert.matches("^PUT /head ", send({ url = "/to/302", method = "PUT", body = "x" }).body)
      assert.matches("^GET /head ", send({ url = "/to/303", method = "PUT", body = "x" }).body)
      for _, status in ipairs { 307, 308 } do
        assert.equal("[1]", send({ url = "/todata/" .. status, method = "POST",
          json = { 1 } }).body)
      end
    end)

    it("takes no secrets to another host", function()
      local headers = { Authorization = "Bearer x", Cookie = "a=1", ["X-Other"] = "y" }
      local r = send { url = "/away", headers = headers }
      assert.is_nil(r.body:find "Authorization")
      assert.is_nil(r.body:find "Cookie")
      assert.matches("\r\nX%-Other: y\r\n", r.body)
      assert.is_nil(send({ url = "/away", basic = { "a", "b" } }).body:find "Authorization")
      r = send { url = "/hops/1", headers = headers }
      assert.equal("arrived", r.body)
      assert.matches("\r\nAuthorization: Bearer x\r\n",
        send({ url = "/to/302", headers = headers }).body)
    end)

    it("leads to http and https only", function()
      refused("url", { url = "/file" })
      refused("url", { url = "/ftp" })
      assert.matches("^GET /head%?a%+b ", send({ url = "/spaces" }).body)
    end)
  end)

  describe("a retry", function()
    it("follows 502, 503, 504 and lost connections", function()
      for index, status in ipairs { 502, 503, 504, 0 } do
        local path = ("/flaky/r%d-2-%d"):format(index, status)
        assert.equal("at last", send({ url = path, retries = 2 }).body)
      end
      assert.equal(500, send({ url = "/flaky/r500-1-500", retries = 2 }).status)
      assert.equal(503, send({ url = "/flaky/r5-3-503", retries = 2 }).status)
      assert.equal("3", send({ url = "/count/r5" }).body)
      refused("closed", { url = "/flaky/r6-3-0", retries = 2 })
      assert.equal("3", send({ url = "/count/r6" }).body)
    end)

    it("is for what may be repeated", function()
      local function post_to(key, more)
        local request = { url = "/flaky/" .. key .. "-1-503", method = "POST", retries = 1 }
        for name, value in pairs(more or {}) do request[name] = value end
        return send(request).status
      end
      assert.equal(503, post_to "p1")
      assert.equal(200, post_to("p2", { headers = { ["Idempotency-Key"] = "k" } }))
      assert.equal(200, post_to("p3", { retry = "always", body = "x" }))
      assert.equal(503, send({ url = "/flaky/p4-1-503" }).status)
    end)

    it("waits as long as it is asked to, if there is time", function()
      local started = now()
      assert.equal("at last", send({ url = "/later/one", retries = 1 }).body)
      assert.is_true(now() - started >= 0.99)
      started = now()
      assert.equal(503, send({ url = "/later/two", retries = 1, timeout = 0.5 }).status)
      assert.is_true(now() - started < 0.9 * slowdown)
    end)
  end)

  describe("a stream", function()
    it("comes in pieces", function()
      local r = post("/stream", { url = peer.url .. "/endless", most = 3 * MB, close = true })
      assert.is_true(r.size >= 3 * MB and r.pieces > 3)
      assert.is_false(r.has_body)
      assert.equal(200, r.head)
      assert.equal(6000, post("/stream", { url = peer.url .. "/gzip" }).size)
    end)

    it("holds the server back while nobody reads", function()
      local before = stats(peer).sent
      post("/stream", { url = peer.url .. "/endless", most = 1, rest = 1, close = true })
      assert.is_true(stats(peer).sent - before < 16 * MB)
    end)

    it("ends with its request", function()
      post("/stream", { url = peer.url .. "/endless", most = 1 })
      assert_none_open()
    end)

    it("that is cut fails behind its last piece", function()
      local r = post("/stream", { url = peer.url .. "/cut" })
      assert.equal(5, r.size)
      assert.equal("closed", r.failure)
    end)
  end)

  describe("an upload", function()
    it("is sent in chunks, or with its length", function()
      local r = post("/upload", { url = peer.url .. "/body", pieces = 3, piece = "abc",
        rest = 0.05 })
      assert.equal("abcabcabc", r.body)
      r = post("/upload", { url = peer.url .. "/head", pieces = 3, piece = "abc" })
      assert.matches("\r\nTransfer%-Encoding: chunked\r\n", r.body)
      r = post("/upload", { url = peer.url .. "/head", pieces = 3, piece = "abc", body_size = 9 })
      assert.matches("\r\nContent%-Length: 9\r\n", r.body)
      r = post("/upload", { url = peer.url .. "/body", pieces = 1, piece = "y", times = 3 * MB })
      assert.equal(3 * MB, #r.body)
      assert.equal("", post("/upload", { url = peer.url .. "/body", pieces = 0 }).body)
    end)

    it("is made no faster than it is taken", function()
      local r = post("/upload", { url = peer.url .. "/unread", pieces = 1000, times = 65536,
        timeout = 3 })
      assert.equal("timeout", r.code)
      assert.is_true(r.made < 200, r.made)
    end)

    it("ends when the answer comes before its end", function()
      local r = post("/upload", { url = peer.url .. "/early", pieces = 1000, times = 65536 })
      assert.is_true(r.status == 413 or r.code == "closed", cjson.encode(r))
    end)

    it("fails with its source", function()
      local r = post("/upload", { url = peer.url .. "/body", pieces = 3, fail = true })
      assert.matches("the source failed", r.raised)
    end)

    it("is not sent twice", function()
      local r = post("/upload", { url = peer.url .. "/todata/307", pieces = 2 })
      assert.equal("redirects", r.code)
    end)
  end)

  describe("cancelling", function()
    it("ends a request at every stage", function()
      for _, given in ipairs {
        { url = peer.full .. "/" }, { url = peer.url .. "/silent" }, { url = peer.url .. "/stall" },
        { url = peer.url .. "/endless", stream = true },
        { url = peer.url .. "/unread", upload = true },
        { url = peer.url .. "/silent", after = 0 },
      } do
        assert.equal("cancelled", post("/cancel", given).kind, given.url)
        assert_none_open()
      end
      assert.equal("timeout", post("/timeout", { url = peer.url .. "/silent" }).kind)
    end)

    it("comes when the client leaves, or the request's time is over", function()
      local client = get_server():connect()
      client:send(("GET /hang?url=%s/silent HTTP/1.1\r\nHost: a\r\n\r\n"):format(peer.url))
      support.eventually(function() return stats(peer).open == "silent" end)
      client:close()
      assert_none_open()
      assert.equal(504, get_server():get("/briefly?url=" .. peer.url .. "/silent").status)
      assert_none_open()
    end)

    it("comes when the request ends before", function()
      assert.equal("gone on", get_server():get("/forgotten?url=" .. peer.url .. "/silent").body)
    end)
  end)

  describe("the guard", function()
    it("lets nobody connect to what is not public", function()
      for _, host in ipairs { "127.0.0.1", "localhost", "[::1]", "0.0.0.0", "2130706433",
        "0x7f.1", "[::ffff:127.0.0.1]", "10.0.0.1", "169.254.169.254" } do
        local url = ("http://%s:%d/head"):format(host, peer.port)
        refused("guard", { url = url, guard = "public" })
        refused("guard", { url = url }, { guard = "public" })
      end
    end)

    it("looks at connections that others have made", function()
      local before = stats(peer).accepted
      assert.equal("kept", send({ url = "/keep" }).body)
      refused("guard", { url = "/keep", guard = "public" })
      assert.equal("kept", send({ url = "/keep" }).body) -- the guard did not spoil it
      assert.is_true(stats(peer).accepted - before <= 4)
      send { url = "/stats" } -- ends the connection that is kept
    end)
  end)

  describe("a client", function()
    it("adds its own options to each request's", function()
      local client = { base_url = peer.url .. "/", headers = { ["X-A"] = "1", ["X-B"] = "2" },
        bearer = "t" }
      local r = send({ url = "head", headers = { ["x-b"] = "3" } }, client)
      assert.matches("\r\nX%-A: 1\r\n", r.body)
      assert.matches("\r\nx%-b: 3\r\n", r.body)
      assert.is_nil(r.body:find "X%-B")
      assert.matches("Authorization: Bearer t", r.body)
      assert.matches("Authorization: Basic",
        send({ url = "/head", basic = { "a", "b" } }, client).body)
      assert.matches("not relative to the client's base_url",
        post("/do", { request = { url = "http://example.org/" }, client = client }).raised)
      assert.matches('unknown option "query"',
        post("/do", { request = { url = "/" }, client = { query = {} } }).raised)
    end)

    it("crosses into pools' states", function()
      local r = post("/pools", { url = peer.url .. "/head" })
      assert.matches("x%-from: a client", r.cpu)
      assert.matches("x%-from: a client", r.blocking)
    end)
  end)

  it("keeps a connection for later requests", function()
    local before = stats(peer).accepted
    for _ = 1, 10 do
      assert.equal("kept", send({ url = "/keep" }).body)
    end
    assert.equal(before + 2, stats(peer).accepted) -- one of them is that of the statistics
    send { url = "/stats" } -- ends the connection
  end)

  it("works in the background", function()
    assert.equal("later", get_server():get("/background?url=" .. peer.url .. "/hops/1").body)
    support.eventually(function() return get_server():get("/note").body == "arrived" end)
    get_server():get("/background/stream?url=" .. peer.url .. "/drops")
    support.eventually(function() return get_server():get("/note").body == "20 bytes" end, 5)
  end)
end)

support.describe_server("fl.http between servers", { app = CROWD, settings = { threads = 1 },
  leaks = false }, function(get_server)
  local other
  setup(function() other = support.start { app = CROWD, settings = { threads = 1 } } end)
  teardown(function() other:stop() end)

  it("sends a thousand requests at once, on a hundred connections", function()
    assert.equal("1000", get_server():get("/many?count=1000&url=" .. other.url .. "/slowly").body)
    local accepted = other:sum "fasterlua_connections_accepted_total"
    assert.is_true(accepted >= 50 and accepted <= 110, accepted)
  end)

  it("refuses what neither runs nor may wait", function()
    local r = get_server():get("/full?url=" .. other.url .. "/sleep"):json()
    assert.matches("^[12] [12] 3 5$", r.order) -- the first two run at once
    assert.equal(2, r.full)
    assert.equal(503, r.status)
  end)

  it("opens no more connections to a host than are allowed", function()
    get_server():get("/idle?url=" .. other.url .. "/slowly")
    support.eventually(function() return other:sum "fasterlua_connections" == 0 end, 5)
    local before = other:sum "fasterlua_connections_accepted_total"
    assert.equal("30", get_server():get("/host?url=" .. other.url .. "/slowly").body)
    assert.equal(before + 3, other:sum "fasterlua_connections_accepted_total")
  end)

  it("calls its own server", function()
    local server = get_server()
    assert.equal("50", server:get("/many?count=50&url=" .. server.url .. "/slowly").body)
  end)

  it("gives back the connections that it does not need", function()
    local server = get_server()
    assert.equal("kept a while", server:get("/idle?url=" .. other.url .. "/slowly").body)
    support.eventually(function() return other:sum "fasterlua_connections" == 0 end, 5)
    assert.equal("10", server:get("/many?count=10&url=" .. other.url .. "/slowly").body)
    assert.is_true(other:sum "fasterlua_connections" > 0)
  end)

  it("connects to a Unix socket", function()
    local by_path = support.start { app = CROWD, settings = { threads = 1 }, uds = true }
    assert.equal("done", get_server():get("/unix?path=" .. by_path.uds).body)
    by_path:stop()
  end)

  it("passes 50 MB through in little memory", function()
    local server = get_server()
    assert.equal(tostring(MB), server:get("/pass?megabytes=1&base=" .. other.url).body)
    local before = server:rss()
    assert.equal(tostring(50 * MB), server:get("/pass?megabytes=50&base=" .. other.url).body)
    assert.is_true(server:rss() - before < (slowdown > 1 and 40 or 12) * MB, server:rss() - before)
  end)
end)

local STUCK = [==[
local ffi = require "ffi"
local fl = require "fasterlua"
local app = fl.app { title = "culprit" }
ffi.cdef "typedef struct { long seconds, nanoseconds; } c_time;"
ffi.cdef "int clock_gettime(int clock, c_time *time);"
local time = ffi.new("c_time")
local function cpu()
  ffi.C.clock_gettime(3, time)
  return tonumber(time.seconds) + tonumber(time.nanoseconds) / 1e9
end
app:get("/spin", function(req)
  if req.query.url then
    for _ = 1, 5 do fl.spawn(function() fl.await(fl.http.get(req.query.url)) end) end
    fl.await(fl.sleep(0.3))
  end
  local till = cpu() + 0.6
  while cpu() < till do end
end)
app:get("/fetch", function(req) return fl.await(fl.http.get(req.query.url)).body end)
return app
]==]

local NEIGHBOUR = [==[
local fl = require "fasterlua"
local await = fl.await
local app = fl.app { title = "neighbour" }
app:get("/fetch", function(req) return await(fl.http.get(req.query.url)).body end)
app:get("/stream", function(req)
  local r, all = await(fl.http.get(req.query.url, { stream = true })), {}
  for piece in r:chunks() do all[#all + 1] = piece end
  return table.concat(all)
end)
app:get("/timeout", function(req)
  local ok, err = pcall(await, fl.http.get(req.query.url, { timeout = 2 }))
  return ok and "no" or err.code
end)
return app
]==]

-- Sanitizers multiply the server's patience by 20: the same time in the end.
local function limit(milliseconds)
  return ("%dms"):format(slowdown > 1 and milliseconds / 20 or milliseconds)
end

describe("fl.http at an evacuation", function()
  local server

  before_each(function()
    server = support.start {
      app = { ["a/app.lua"] = STUCK, ["b/app.lua"] = NEIGHBOUR },
      settings = { threads = 1, stuck_handler = limit(200), blocked_handler = limit(200),
        exile = 0, drain = "2s" },
      env = { TSAN_OPTIONS = "report_thread_leaks=0" }, -- it ends as it is
    }
  end)
  after_each(function() server:stop() end)

  local function begin(path)
    local client = server:connect()
    client:send(("GET %s HTTP/1.1\r\nHost: a\r\n\r\n"):format(path))
    return client
  end

  it("goes on with the transfers of other apps", function()
    local waiting = {
      late = begin("/b/fetch?url=" .. peer.url .. "/late"),
      [("."):rep(20)] = begin("/b/stream?url=" .. peer.url .. "/drops"),
      timeout = begin("/b/timeout?url=" .. peer.url .. "/silent"),
    }
    support.eventually(function()
      local open = stats(peer).open
      for _, name in ipairs { "late", "drops", "silent" } do
        assert.is_truthy(open:find(name), open)
      end
      return true
    end)
    assert.equal(503, server:get("/a/spin").status)
    for body, client in pairs(waiting) do
      assert.equal(body, client:response().body)
    end
    assert.equal("kept", server:get("/b/fetch?url=" .. peer.url .. "/keep").body)
    assert.matches("^accepted", server:get("/b/fetch?url=" .. peer.url .. "/stats").body)
    support.eventually(function() return stats(peer).open == "" end, 5)
  end)

  it("gives up those of the app that is stuck, and their connections", function()
    assert.equal("kept", server:get("/a/fetch?url=" .. peer.url .. "/keep").body)
    assert.equal(503, server:get("/a/spin?url=" .. peer.url .. "/silent").status)
    support.eventually(function() return stats(peer).open == "" end, 5)
    assert.matches("^accepted", server:get("/a/fetch?url=" .. peer.url .. "/stats").body)
  end)
end)

-- TLS, where there is a program that makes certificates and speaks it.
local has_openssl = os.execute "command -v openssl >/dev/null 2>&1" == 0

local MAKE_CERTIFICATES = [[
cd "$1" && exec >make.log 2>&1 && set -e
openssl req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.pem -days 2 -subj /CN=tests
openssl req -newkey rsa:2048 -nodes -keyout key.pem -out request.pem -subj /CN=localhost
printf 'subjectAltName=DNS:localhost\n' >extensions
openssl x509 -req -in request.pem -CA ca.pem -CAkey ca.key -CAcreateserial -out cert.pem -days 2 \
  -extfile extensions
printf 'HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\n\r\nsecured' >answer
]]

local TLS_SERVER = [[
cd "$1" && exec openssl s_server -accept 127.0.0.1:0 -cert cert.pem -key key.pem -HTTP $2
]]

describe("fl.http over TLS", function()
  if not has_openssl then
    pending("needs the program openssl")
    return
  end
  local dir, server, pids, strict, lax

  local function start_tls(flags, name)
    pids[#pids + 1] = process.spawn { argv = { "sh", "-c", TLS_SERVER, "sh", dir, flags },
      output = dir .. "/" .. name }
    return support.eventually(function()
      return (process.read(dir .. "/" .. name) or ""):match "ACCEPT [^\n]*:(%d+)"
    end, 10)
  end

  setup(function()
    dir, pids = process.temporary_directory(), {}
    local made = process.spawn { argv = { "sh", "-c", MAKE_CERTIFICATES, "sh", dir } }
    assert.equal(0, process.wait(made, 60).code)
    lax, strict = start_tls("", "lax"), start_tls("-Verify 1 -CAfile ca.pem", "strict")
    server = support.start { app = APP, settings = { threads = 1 } }
  end)

  teardown(function()
    for _, pid in ipairs(pids) do
      process.signal(pid, "KILL")
      process.wait(pid, 5)
    end
    server:stop()
    process.remove_directory(dir)
  end)

  local function get(port, options, host)
    options.url = ("https://%s:%s/answer"):format(host or "localhost", port)
    options.connect_timeout = 5 * slowdown
    return server:post("/do", { request = options }):json()
  end

  it("trusts nobody that it does not know", function()
    local r = get(lax, {})
    assert.equal("tls", r.code)
    assert.equal(502, r.status)
    assert.equal("tls", get(lax, { ca = dir .. "/ca.pem" }, "127.0.0.1").code) -- not its name
  end)

  it("trusts whom it is told to trust", function()
    local r = get(lax, { ca = dir .. "/ca.pem" })
    assert.equal("secured", r.body, r.message)
    assert.is_true(r.timings.tls > 0)
  end)

  it("verifies nothing when told so", function()
    assert.equal("secured", get(lax, { verify = false }, "127.0.0.1").body)
    assert.equal("tls", get(lax, {}).code) -- and that is not remembered
  end)

  it("shows a certificate of its own", function()
    local ca = dir .. "/ca.pem"
    assert.is_nil(get(strict, { ca = ca }).body)
    assert.equal("secured", get(strict, { ca = ca, cert = dir .. "/cert.pem",
      key = dir .. "/key.pem" }).body)
  end)
end)

-- HTTP/2, where there is a server that speaks it.
local NGINX = [[
daemon off; worker_processes 1; pid %s/pid; error_log %s/error.log;
events { worker_connections 100; }
http { access_log off; client_body_temp_path %s/body; proxy_temp_path %s/p; fastcgi_temp_path %s/f;
  uwsgi_temp_path %s/u; scgi_temp_path %s/s;
  server { listen unix:%s/h2 http2; location / { return 200 "over $server_protocol"; } } }
]]

describe("fl.http over HTTP/2", function()
  if os.execute "command -v nginx >/dev/null 2>&1" ~= 0 then
    pending("needs nginx")
    return
  end

  it("speaks it without asking when told so", function()
    local dir = process.temporary_directory()
    local file = assert(io.open(dir .. "/conf", "w"))
    file:write((NGINX:gsub("%%s", dir)))
    file:close()
    local pid = process.spawn { argv = { "nginx", "-e", dir .. "/error.log", "-c", dir .. "/conf" },
      output = dir .. "/output" }
    local server = support.start { app = APP, settings = { threads = 1 } }
    local r = support.eventually(function()
      local r = server:post("/do", { request = { url = "http://localhost/", http2 = "prior",
        unix_socket = dir .. "/h2" } }):json()
      return r.status == 200 and r
    end, 5)
    assert.equal("2", r.version)
    assert.equal("over HTTP/2.0", r.body)
    assert.equal("13", r.headers["content-length"])
    server:stop()
    process.signal(pid, "QUIT")
    process.wait(pid, 5)
    process.remove_directory(dir)
  end)
end)

-- A library that is loaded before the C library's: names with "slow" take three seconds.
local SLOW_RESOLVER = [[
#define _GNU_SOURCE
#include <dlfcn.h>
#include <netdb.h>
#include <string.h>
#include <unistd.h>
typedef int (*resolver)(const char *, const char *, const struct addrinfo *, struct addrinfo **);
int getaddrinfo(const char *name, const char *service, const struct addrinfo *hints,
                struct addrinfo **found)
{
    if (name && strstr(name, "slow")) return sleep(3), EAI_AGAIN;
    return ((resolver)dlsym(RTLD_NEXT, "getaddrinfo"))(name, service, hints, found);
}
]]

describe("fl.http with a slow resolver", function()
  if slowdown > 1 then
    pending("sanitizers want to be loaded first")
    return
  end
  local dir, server

  setup(function()
    dir = process.temporary_directory()
    local file = assert(io.open(dir .. "/slow.c", "w"))
    file:write(SLOW_RESOLVER)
    file:close()
    local compiler = process.spawn { argv = { "gcc", "-shared", "-fPIC", "-o", dir .. "/slow.so",
      dir .. "/slow.c", "-ldl" } }
    assert.equal(0, process.wait(compiler, 60).code)
    server = support.start { app = APP, settings = { threads = 1 },
      env = { LD_PRELOAD = dir .. "/slow.so" } }
  end)
  teardown(function()
    server:stop()
    process.remove_directory(dir)
  end)

  local function post(path, given)
    return server:post(path, given):json()
  end

  it("holds nobody up, not even when it is given up", function()
    local started = now()
    local slow = { url = "http://slow.example/", connect_timeout = 0.2 }
    assert.equal("timeout", post("/do", { request = slow }).code)
    assert.equal("cancelled", post("/cancel", { url = "http://slow.example/" }).kind)
    assert.equal(200, post("/do", { request = { url = peer.url .. "/head" } }).status)
    assert.is_true(now() - started < 2)
  end)
end)

describe("the peers", function()
  it("are sent home", function()
    stop_peer(peer)
  end)
end)
