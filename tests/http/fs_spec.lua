-- fl.fs in a real server: its files are those of the app's folder.

local limit = require("support.evacuation").limit
local support = require "support"

local process = support.process
local MB = 1024 * 1024

local app = [[
local fl = require "fasterlua"
local core = require "fasterlua.core.fs"
local await, from_op = fl.await, require("fasterlua.future").from_op
local app = fl.app { title = "fs" }

local function answer(ok, value)
  if ok then return { value = value } end
  if type(value) ~= "table" then return { raised = value } end
  return { kind = value.kind, code = value.code, message = value.message, path = value.path }
end

app:post("/call/{name}", function(req)
  local arguments = req:json()
  return answer(pcall(function()
    return await(fl.fs[req.params.name](unpack(arguments)))
  end))
end)

app:post("/core/{name}", function(req)
  local arguments = req:json()
  return answer(pcall(function() return core[req.params.name](unpack(arguments)) end))
end)

app:post("/there/{path}", function(req)
  return answer(pcall(await, from_op(core.exists(req.params.path))))
end)

app:get("/file/{path}", function(req) return await(fl.fs.read(req.params.path)) end)

app:post("/bytes", function(req)
  await(fl.fs.write("bytes", req:text()))
  return await(fl.fs.read "bytes")
end)

app:get("/many", function()
  local futures = {}
  for i = 1, 100 do futures[i] = fl.fs.read("small") end
  local texts, size = { await(fl.gather(unpack(futures))) }, 0
  for _, text in ipairs(texts) do size = size + #text end
  return tostring(size)
end)

app:get("/given-up", function()
  for _ = 1, 50 do
    local reading, writing = fl.fs.read("big"), fl.fs.write("half", ("x"):rep(1024 * 1024))
    local looking = fl.fs.stat("big")
    reading:cancel()
    writing:cancel()
    looking:cancel()
  end
  return "given up"
end)

app:get("/forever", function()
  while true do await(fl.fs.read "big") end
end)

-- Each reading is given up so many milliseconds after it began, each writing too.
app:get("/given-up-later", function()
  for i = 0, 20 do
    local reading, writing = fl.fs.read("big"), fl.fs.write("half", ("x"):rep(4 * 1024 * 1024))
    local listing = fl.fs.list "."
    await(fl.sleep(i / 1000))
    reading:cancel()
    writing:cancel()
    listing:cancel()
  end
  return "given up"
end)

app:get("/crowd", function()
  local futures = {}
  for i = 1, 200 do
    futures[2 * i - 1] = fl.fs.write("crowd-" .. i, ("%d\n"):format(i):rep(100))
    futures[2 * i] = fl.fs.read "small"
  end
  local results = await(fl.gather(futures))
  for i = 1, 200 do
    assert(results[2 * i] == "12345")
    futures[i] = fl.fs.read("crowd-" .. i)
  end
  for i = 1, 200 do assert(await(futures[i]) == ("%d\n"):format(i):rep(100)) end
  return "all of them"
end)

app:get("/size/{path}", function(req) return tostring(#await(fl.fs.read(req.params.path))) end)

-- Seconds of work for the file threads.
local function begin_much()
  for _ = 1, 60 do core.read("/dev/urandom", { size = 60 * 1024 * 1024 }) end
end

app:get("/leave-behind", function()
  begin_much()
  return "left"
end)

app:get("/leave-behind-in-pool", function()
  return await(fl.run_in_state(function()
    local files = require "fasterlua.core.fs"
    for _ = 1, 8 do files.read("/dev/urandom", { size = 30 * 1024 * 1024 }) end
    return "left"
  end))
end)

app:get("/wait", function()
  begin_much()
  await(fl.fs.read("/dev/urandom", { size = 60 * 1024 * 1024 }))
  return "read"
end)

return app
]]

-- What takes long under sanitizers must not make a spare thread, which keeps its descriptors.
local settings = { threads = 1, stuck_handler = 0, blocked_handler = 0 }

support.describe_server("fl.fs", { app = app, settings = settings }, function(get_server)
  local function folder()
    return get_server().app_dir
  end

  local function put(name, text)
    local file = assert(io.open(folder() .. "/" .. name, "wb"))
    file:write(text)
    file:close()
  end

  local function call(name, ...)
    return get_server():post("/call/" .. name, { ... }):json()
  end

  local function assert_fails(answer, code, path, message)
    assert.same({ kind = "fs", code = code, path = path, message = message }, answer)
  end

  it("reads what it has written, byte for byte", function()
    local bytes = {}
    for i = 0, 255 do bytes[#bytes + 1] = string.char(i) end
    local text = table.concat(bytes):rep(16)
    assert.equal(text, get_server():post("/bytes", text).body)
    assert.equal(text, process.read(folder() .. "/bytes"))
  end)

  it("reads an empty file, and one that tells no size", function()
    put("empty", "")
    assert.same({ value = "" }, call("read", "empty"))
    assert.matches("^Linux version ", call("read", "/proc/version").value)
  end)

  it("reads a part", function()
    put("part", "0123456789")
    assert.same({ value = "3456" }, call("read", "part", { offset = 3, size = 4 }))
    assert.same({ value = "89" }, call("read", "part", { offset = 8, size = 100 }))
    assert.same({ value = "" }, call("read", "part", { offset = 20 }))
    assert.same({ value = "" }, call("read", "part", { size = 0 }))
  end)

  it("reads a device as far as it is asked to", function()
    assert.equal(("\0"):rep(5000), call("read", "/dev/zero", { size = 5000 }).value)
  end)

  it("reads a big file", function()
    local text = ("0123456789abcdef"):rep(MB)
    put("big", text)
    assert.is_true(text == get_server():get("/file/big").body)
  end)

  it("refuses to read more than 64 MiB at once", function()
    local path = folder() .. "/huge"
    local file = assert(io.open(path, "wb"))
    file:seek("set", 70 * MB)
    file:write("x")
    file:close()
    assert_fails(call("read", "huge"), "EFBIG", path, "cannot read " .. path
      .. ": 73400321 bytes are more than the 67108864 that one read returns")
    assert.equal("\0x", call("read", "huge", { offset = 70 * MB - 1 }).value)
    assert_fails(call("read", "/dev/zero"), "EFBIG", "/dev/zero",
      "cannot read /dev/zero: it has more than the 67108864 bytes that one read returns")
    os.remove(path)
  end)

  it("replaces a file and appends to one", function()
    assert.same({ value = nil }, call("write", "log", "a long first text"))
    call("write", "log", "one")
    call("append", "log", " two")
    assert.equal("one two", process.read(folder() .. "/log"))
  end)

  it("gives a new file the mode it is told", function()
    call("write", "secret", "x", { mode = 384 })
    assert.equal(384, call("stat", "secret").value.mode)
  end)

  it("tells what a file is", function()
    put("known", "12345")
    local stat = call("stat", "known").value
    assert.equal("file", stat.type)
    assert.equal(5, stat.size)
    assert.is_true(math.abs(stat.modified - os.time()) < 5)
    assert.equal("directory", call("stat", ".").value.type)
    assert.equal("other", call("stat", "/dev/null").value.type)
    assert.equal(0, os.execute("ln -sfn known '" .. folder() .. "/alias'"))
    assert.equal("link", call("stat", "alias").value.type)
    assert.equal("12345", call("read", "alias").value)
  end)

  it("knows whether there is such a file", function()
    put("known", "")
    assert.same({ value = true }, call("exists", "known"))
    assert.same({ value = false }, call("exists", "unknown"))
    assert.same({ value = false }, call("exists", "known/below"))
    assert.same({ value = true }, get_server():post("/there/known"):json())
    assert.same({ value = false }, get_server():post("/there/unknown"):json())
  end)

  it("makes, lists and removes folders", function()
    call("mkdir", "folder")
    for _, name in ipairs { "b", "a", "B", "c d" } do put("folder/" .. name, "") end
    assert.same({ value = { "B", "a", "b", "c d" } }, call("list", "folder"))
    local path = folder() .. "/folder"
    assert_fails(call("remove", "folder"), "ENOTEMPTY", path,
      "cannot remove " .. path .. ": directory not empty")
    for _, name in ipairs { "a", "b", "c d" } do call("remove", "folder/" .. name) end
    call("rename", "folder/B", "folder/D")
    assert.same({ value = { "D" } }, call("list", "folder"))
    call("remove", "folder/D")
    assert.same({ value = {} }, call("list", "folder"))
    call("remove", "folder")
    assert.same({ value = false }, call("exists", "folder"))
  end)

  it("names the path and the reason when it fails", function()
    local path = folder() .. "/nowhere"
    local reason = ": no such file or directory"
    assert_fails(call("read", "nowhere"), "ENOENT", path, "cannot read " .. path .. reason)
    assert_fails(call("read", "/nowhere"), "ENOENT", "/nowhere", "cannot read /nowhere" .. reason)
    assert_fails(call("stat", "nowhere"), "ENOENT", path, "cannot stat " .. path .. reason)
    assert_fails(call("list", "nowhere"), "ENOENT", path, "cannot list " .. path .. reason)
    assert_fails(call("remove", "nowhere"), "ENOENT", path, "cannot remove " .. path .. reason)
    assert_fails(call("rename", "nowhere", "/there"), "ENOENT", path,
      "cannot rename " .. path .. " to /there" .. reason)
    assert_fails(call("mkdir", "/proc"), "EEXIST", "/proc",
      "cannot make directory /proc: file already exists")
    assert_fails(call("read", "/proc"), "EISDIR", "/proc",
      "cannot read /proc: illegal operation on a directory")
    assert_fails(call("write", "/dev/full", "x"), "ENOSPC", "/dev/full",
      "cannot write /dev/full: no space left on device")
  end)

  it("refuses bad arguments", function()
    local function raised(name, ...)
      return get_server():post("/core/" .. name, { ... }):json().raised
    end
    assert.matches("the path is empty", raised("read", ""))
    assert.matches("the path has a NUL byte", raised("read", "a\0b"))
    assert.matches("the path has a NUL byte", raised("rename", "a", "a\0b"))
    assert.matches("offset is not an integer from 0", raised("read", "a", { offset = -1 }))
    assert.matches("size is not an integer from 0", raised("read", "a", { size = 1.5 }))
    assert.matches("mode is not an integer from 0 to 4095",
      raised("write", "a", "b", { mode = 1e4 }))
    assert.matches("string expected", raised("write", "a"))
  end)

  it("does not wait for the other end of a named pipe", function()
    assert.equal(0, os.execute("mkfifo '" .. folder() .. "/pipe'"))
    assert.same({ value = "" }, call("read", "pipe"))
    assert.equal("ENXIO", call("write", "pipe", "x").code)
  end)

  it("does many things at once", function()
    put("small", "12345")
    assert.equal("500", get_server():get("/many").body)
  end)

  it("drops what is cancelled", function()
    put("big", ("x"):rep(4 * MB))
    for _ = 1, 5 do assert.equal("given up", get_server():get("/given-up").body) end
  end)

  it("stops when the client has left", function()
    put("big", ("x"):rep(4 * MB))
    local client = get_server():connect()
    client:send("GET /forever HTTP/1.1\r\nHost: a\r\n\r\n")
    process.sleep(0.1)
    client:close()
  end)

  it("gives up at any moment, and leaves nothing open", function()
    put("big", ("x"):rep(4 * MB))
    for _ = 1, 3 do assert.equal("given up", get_server():get("/given-up-later").body) end
    assert.equal(4 * MB, #process.read(folder() .. "/big"))
  end)

  it("works on hundreds of files at once", function()
    put("small", "12345")
    assert.equal("all of them", get_server():get("/crowd").body)
  end)

  it("reads nearly as much as it may at once", function()
    put("big", ("0123456789"):rep(6 * MB))
    assert.equal(tostring(60 * MB), get_server():get("/size/big").body)
    os.remove(folder() .. "/big")
  end)
end)

local hooked = [[
local fl = require "fasterlua"
local app = fl.app { title = "hooked" }

app:get("/compute", function()
  local began = os.clock()
  while os.clock() - began < 0.7 do end
  return "computed"
end)

app:on_stop(function() fl.await(fl.fs.append("stopped", "x")) end)

return app
]]

describe("a server that works on files", function()
  local function start(drain, other)
    return support.start { app = other or app, settings = { threads = 1, drain = drain } }
  end

  local function assert_stops_within(server, seconds)
    local began = process.now()
    server:signal "TERM"
    server:wait_end()
    local took = process.now() - began
    server:stop()
    assert.is_true(took < seconds * support.slowdown, ("it took %.1f s"):format(took))
  end

  -- Were they not cancelled, they would take seconds.
  it("stops without waiting for what nobody waits for", function()
    local server = start "10s"
    assert.equal("left", server:get("/leave-behind").body)
    assert_stops_within(server, 1)
  end)

  -- After a second it would give the pool's threads up.
  it("stops pools' threads whose files are worked on", function()
    local server = start "10s"
    assert.equal("left", server:get("/leave-behind-in-pool").body)
    assert_stops_within(server, 0.9)
  end)

  it("stops when the time to drain is over, whatever is waited for", function()
    local server = start "0.3s"
    server:connect():send("GET /wait HTTP/1.1\r\nHost: a\r\n\r\n")
    process.sleep(0.1)
    assert_stops_within(server, 2)
  end)

  -- The state of a spare thread, made because something may be stuck, has stop hooks too.
  it("runs stop hooks that work on files", function()
    local server = start("2s", hooked)
    assert.equal("computed", server:get("/compute").body)
    process.sleep(0.3)
    assert_stops_within(server, 1)
  end)
end)

describe("files of a state that changes threads", function()
  local reader = [[
local fl = require "fasterlua"
local await = fl.await
local app = fl.app { title = "reader" }

app:get("/read", function()
  local size, futures = 0, {}
  for i = 1, 10 do futures[i] = fl.fs.read("/dev/urandom", { size = 4 * 1024 * 1024 }) end
  for i = 1, 10 do size = size + #await(futures[i]) end
  return size + #await(fl.fs.read("/dev/zero", { size = 7 })) .. ""
end)

return app
]]
  local stuck = [[
local fl = require "fasterlua"
local app = fl.app { title = "stuck" }

app:get("/", function() while true do end end)

return app
]]

  -- To ThreadSanitizer the thread that stays stuck is a leak.
  local may_leave_a_thread = not support.binary:find("/tsan/", 1, true)

  it("are worked on to their end", function()
    if not may_leave_a_thread then return end
    local server = support.start { settings = { threads = 1, stuck_handler = limit(200) },
      app = { ["reader/app.lua"] = reader, ["stuck/app.lua"] = stuck } }
    local reading, spinning = server:connect(), server:connect()
    reading:send("GET /reader/read HTTP/1.1\r\nHost: a\r\n\r\n")
    process.sleep(0.05)
    spinning:send("GET /stuck/ HTTP/1.1\r\nHost: a\r\n\r\n")
    server:wait_log "evacuated web thread"
    assert.equal(tostring(10 * 4 * MB + 7), reading:response().body)
    server:stop()
  end)
end)
