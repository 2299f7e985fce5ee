-- Code that would hurt the process hurts only its own request.

local support = require "support"

local app = [[
local fl = require "fasterlua"
local await = fl.await
local app = fl.app { title = "guards" }
local ffi = require "ffi"

app:get("/alive", function() return "alive" end)

-- recursion through C
local function by_gsub() return (("x"):gsub("x", by_gsub)) end
local function by_coroutine() return coroutine.wrap(by_coroutine)() end
local function by_resume() return coroutine.resume(coroutine.create(by_resume)) end
local function by_sort() table.sort({ 2, 1 }, by_sort) return false end
local function by_lua(n) return 1 + by_lua(n) end
local function by_pcall() return select(2, pcall(by_pcall)) end
local function by_tostring()
  return tostring(setmetatable({}, { __tostring = by_tostring })) .. "" -- no tail call
end
local function by_index()
  local t = setmetatable({}, { __index = function() return by_index() end })
  return t.x .. ""
end
local function mixed(n)
  return (("x"):gsub("x", function()
    return coroutine.wrap(function() table.sort({ 2, 1 }, function() return mixed(n) end) end)()
  end))
end
local function by_require_load() return load(function() return by_require_load() end) end

for name, fn in pairs { gsub = by_gsub, coroutine = by_coroutine, sort = by_sort, lua = by_lua,
  mixed = mixed, tostring = by_tostring, index = by_index } do
  app:get("/recursion/" .. name, function() fn(1) error "it came back" end)
end
app:get("/recursion/resume", function() return { by_resume() } end)
app:get("/recursion/pcall", function() return tostring(by_pcall()) end)
app:get("/recursion/load", function() return tostring(by_require_load()) end)
app:get("/recursion/parallel", function()
  local list = {}
  for i = 1, 50 do list[i] = fl.spawn(function() return by_gsub() end) end
  local failed = 0
  for _, one in ipairs(await(fl.all_settled(list))) do failed = failed + (one.ok and 0 or 1) end
  return tostring(failed)
end)
app:get("/deep-but-fine", function()
  local function deep(n)
    return n == 0 and "bottom" or (("x"):gsub("x", function() return deep(n - 1) end))
  end
  return deep(50)
end)

-- the process
app:get("/load-bytecode", function()
  local code = string.dump(function() return 1 end)
  return { load = tostring(load(code)), string = tostring(loadstring(code)),
    mode = tostring(load(code, "x", "b")), both = tostring(load(code, "x", "bt")),
    pieces = tostring(load(coroutine.wrap(function() coroutine.yield(code) end))) }
end)
app:get("/loadfile-bytecode", function()
  local name = os.tmpname()
  local file = io.open(name, "wb")
  file:write(string.dump(function() return 1 end))
  file:close()
  local one, two = loadfile(name), pcall(dofile, name)
  os.remove(name)
  return { one == nil, two }
end)
app:get("/load-text", function() return tostring(load("return 41 + 1")()) end)
app:get("/exit", function() os.exit(1) end)
app:get("/locale", function() return tostring(os.setlocale "de_DE.UTF-8") end)
app:get("/hook", function() debug.sethook(function() end, "", 1) end)
app:get("/print", function() print("printed", 1, nil) io.write("written ", 2, "\n") return "p" end)
app:get("/stdout", function()
  io.stdout:write "to stdout\n"
  io.stderr:write "to stderr\n"
  return "s"
end)
app:get("/close-stdout", function() return tostring(pcall(function() io.stdout:close() end)) end)

-- LuaJIT as packaged
app:get("/setmetatable-nil", function()
  local t
  for i = 1, 20000 do
    t = setmetatable({}, { __index = { i } })
    setmetatable(t, nil)
  end
  return tostring(getmetatable(t))
end)
app:get("/setmetatable", function()
  local protected = setmetatable({}, { __metatable = "no" })
  return { getmetatable(setmetatable({}, { 7 }))[1], pcall(setmetatable, protected, {}),
    (pcall(setmetatable, protected, nil)), (pcall(setmetatable, 1, {})),
    (pcall(setmetatable, {}, 1)), (pcall(setmetatable, {})) }
end)
app:get("/format", function()
  local list = {}
  for i = 1, 2000 do list[1] = ("%7g|%-9.3g|%+012.4G"):format(i / 7, -i, 1e10 * i) end
  return { ("%7g|"):format(1.5), ("%-7g|"):format(1.5), ("%07.2g|"):format(-1.5),
    ("%3g|"):format(1e300), ("%99g|"):format(1), ("%5.1f %5d %5s %%"):format(1.75, 7, "x"),
    ("%40g|"):format(0 / 0), (pcall(string.format, "%7g", "x")), (pcall(string.format, "%7g")) }
end)
app:get("/canary/length", function()
  local sum = 0
  for _ = 1, 1000 do
    local t = {}
    local same = t
    for j = 1, 10 do t[#same + 1] = j end
    sum = sum + #t
  end
  return tostring(sum)
end)
app:get("/canary/pairs", function()
  local t, count = {}, 0
  for i = 1, 100 do t["k" .. i] = i end
  for _ = 1, 2000 do for _ in pairs(t) do count = count + 1 end end
  return tostring(count)
end)
app:get("/canary/overflow", function()
  local caught = 0
  for _ = 1, 30 do
    if not pcall(by_lua, 1) then caught = caught + 1 end
  end
  return tostring(caught)
end)

-- memory
app:get("/memory/string", function() return ("x"):rep(1024 * 1024 * 1024) end)
app:get("/memory/doubling", function()
  local s = "x"
  while true do s = s .. s end
end)
app:get("/memory/table", function()
  local t = {}
  for i = 1, math.huge do t[i] = { i } end
end)
app:get("/memory/concat", function()
  local t = {}
  for i = 1, 2000 do t[i] = ("x"):rep(1024 * 1024) .. i end
  return table.concat(t)
end)
app:get("/memory/garbage", function()
  for i = 1, 200 do local _ = ("x"):rep(4 * 1024 * 1024) .. i end
  return "fine"
end)
app:get("/memory/pcall", function()
  for _ = 1, 5 do pcall(function() return ("x"):rep(1024 * 1024 * 1024) end) end
  return "caught"
end)
app:get("/memory/tasks", function()
  local list = {}
  for i = 1, 4 do
    list[i] = fl.spawn(function() local t = {} for k = 1, math.huge do t[k] = { k } end end)
  end
  local failed = 0
  for _, one in ipairs(await(fl.all_settled(list))) do failed = failed + (one.ok and 0 or 1) end
  return tostring(failed)
end)
app:get("/memory/buffer", function()
  local buffer = require("string.buffer").new()
  while true do buffer:put(("x"):rep(1024 * 1024)) end
end)

-- errors
app:get("/error/nil", function() error(nil) end)
app:get("/error/table", function() error { code = 1 } end)
app:get("/error/number", function() error(42) end)
app:get("/error/boolean", function() error(false) end)
app:get("/error/function", function() error(print) end)
app:get("/error/thread", function() error(coroutine.create(print)) end)
app:get("/error/cdata", function() error(7LL) end)
app:get("/error/tostring-raises", function()
  error(setmetatable({}, { __tostring = function() error "tostring fails" end }))
end)
app:get("/error/tostring-number", function()
  error(setmetatable({}, { __tostring = function() return 7 end }))
end)
app:get("/error/tostring-awaits", function()
  error(setmetatable({}, { __tostring = function() await(fl.sleep(0.01)) return "x" end }))
end)
app:get("/error/tostring-recursion", function()
  local e = setmetatable({}, {})
  getmetatable(e).__tostring = function(self) return tostring(self) .. "" end
  error(e)
end)
app:get("/error/index-raises", function()
  error(setmetatable({}, { __index = function() error "index fails" end }))
end)
app:get("/error/in-handler", function()
  xpcall(error, function() error "again" end)
  error "third"
end)
app:get("/error/overflow-in-handler", function() xpcall(by_lua, by_lua, 1) error "after it" end)
app:get("/error/long", function() error(("long "):rep(200000)) end)
app:get("/error/control", function() error "line\27[31m\nfaked 2026-01-01 error" end)
app:get("/return/metatable-raises", function()
  local metatable = { __index = function() error "index" end, __pairs = error, __len = error }
  return setmetatable({}, metatable)
end)
app:get("/pattern", function()
  return tostring((("a"):rep(40)):find(("a?"):rep(12) .. ("a"):rep(12)))
end)
app:get("/pattern-recursion", function() return tostring(("x"):rep(5000):find(".-b")) end)
app:get("/pattern-deep", function()
  return tostring(pcall(string.find, ("("):rep(100), ("(.)"):rep(40)))
end)
app:get("/coroutines", function()
  for _ = 1, 100000 do coroutine.create(function() end) end
  return "made"
end)
app:get("/abandoned", function()
  for _ = 1, 1000 do
    local co = coroutine.wrap(function() coroutine.yield() end)
    co()
  end
  return "left"
end)
app:get("/globals", function() _G.fl_test = (_G.fl_test or 0) + 1 return tostring(_G.fl_test) end)
app:get("/ffi", function() return tostring(ffi.sizeof "int") end)

return app
]]

support.describe_server("the server survives", { app = app,
  settings = { threads = 1, lua_memory = "64MB", stuck_handler = "3s" } }, function(get_server)
  local pid

  before_each(function()
    pid = get_server():server_pid()
  end)

  -- The same process still serves.
  local function assert_alive()
    assert.equal("alive", get_server():get("/alive").body)
    assert.equal(pid, get_server():server_pid())
  end

  local function expect(path, status, body)
    local response = assert(get_server():request { path = path, timeout = 10 * support.slowdown })
    assert.equal(status, response.status, path .. ": " .. response.body:sub(1, 200))
    if type(body) == "table" then
      assert.same(body, response:json())
    elseif body then
      assert.equal(body, response.body)
    end
    assert_alive()
    return response
  end

  describe("recursion through", function()
    for name, logged in pairs { gsub = "too deep", coroutine = "too deep", sort = "too deep",
      lua = "stack overflow", mixed = "too deep", tostring = "", index = "" } do
      it(name, function()
        local response = expect("/recursion/" .. name, 500)
        assert.same({ detail = "Internal Server Error" }, response:json())
        get_server():wait_log("/recursion/" .. name .. ".-" .. logged)
      end)
    end

    it("pcall, coroutine.resume and load", function()
      expect("/recursion/pcall", 200)
      expect("/recursion/resume", 200)
      expect("/recursion/load", 200)
    end)

    it("many tasks at once", function()
      expect("/recursion/parallel", 200, "50")
    end)

    it("C to a depth that is fine", function()
      expect("/deep-but-fine", 200, "bottom")
    end)

    it("C again and again, without wearing out", function()
      local client = get_server():connect()
      for _ = 1, 20 do
        assert.equal(500, client:request({ path = "/recursion/gsub" }).status)
        assert.equal(500, client:request({ path = "/recursion/coroutine" }).status)
        assert.equal("bottom", client:request({ path = "/deep-but-fine" }).body)
      end
    end)
  end)

  describe("what would reach the process:", function()
    it("load takes no bytecode", function()
      expect("/load-bytecode", 200, { load = "nil", string = "nil", mode = "nil", both = "nil",
        pieces = "nil" })
      expect("/loadfile-bytecode", 200, { true, false })
      expect("/load-text", 200, "42")
    end)

    it("os.exit is refused", function()
      expect("/exit", 500)
      get_server():wait_log "app.lua:%d+: os.exit is refused"
    end)

    it("os.setlocale and debug.sethook are refused", function()
      expect("/locale", 500)
      expect("/hook", 500)
    end)

    it("print and io.write go to the log, with the request's id", function()
      expect("/print", 200, "p")
      get_server():wait_log "info  printed[\t ]+1[\t ]+nil[^\n]*request_id="
      get_server():wait_log "info  written 2[^\n]*request_id="
      expect("/stdout", 200, "s")
      get_server():wait_log "info  to stdout"
      get_server():wait_log "info  to stderr"
      expect("/close-stdout", 200, "false")
    end)
  end)

  describe("what LuaJIT does wrongly:", function()
    it("clearing a metatable in a hot loop", function()
      for _ = 1, 5 do expect("/setmetatable-nil", 200, "nil") end
      expect("/setmetatable", 200, { 7, false, false, false, false, false })
    end)

    it("%g with a width", function()
      local list = expect("/format", 200):json()
      assert.equal("    1.5|", list[1])
      assert.equal("1.5    |", list[2])
      assert.equal("-0001.5|", list[3])
      assert.equal("1e+300|", list[4])
      assert.equal((" "):rep(98) .. "1|", list[5])
      assert.equal("  1.8     7     x %", list[6])
      assert.equal(41, #list[7])
      assert.is_false(list[8])
      assert.is_false(list[9])
    end)

    it("the length of a table with two names", function()
      for _ = 1, 5 do expect("/canary/length", 200, "10000") end
    end)

    it("pairs in a hot loop", function()
      for _ = 1, 5 do expect("/canary/pairs", 200, "200000") end
    end)

    it("caught stack overflows", function()
      for _ = 1, 3 do expect("/canary/overflow", 200, "30") end
    end)
  end)

  describe("too much memory:", function()
    for _, name in ipairs { "string", "doubling", "table", "concat", "buffer" } do
      it(("by a %s"):format(name), function()
        local response = expect("/memory/" .. name, 500)
        assert.same({ detail = "Internal Server Error" }, response:json())
        get_server():wait_log("/memory/" .. name .. ".-not enough memory")
      end)
    end

    it("in several tasks at once", function()
      expect("/memory/tasks", 200, "4")
    end)

    it("is given back", function()
      expect("/memory/table", 500)
      support.eventually(function()
        return get_server():metrics()['fasterlua_lua_memory_bytes{thread="0"}'] < 32 * 1024 * 1024
          or get_server():get("/alive").body ~= "alive"
      end, 4)
    end)

    it("caught by pcall", function()
      expect("/memory/pcall", 200, "caught")
    end)

    it("much of it garbage", function()
      local status = get_server():get("/memory/garbage").status
      assert.is_true(status == 200 or status == 500, status)
      assert_alive()
    end)

    it("does not touch the process", function()
      assert.is_true(get_server():rss() < 200 * 1024 * 1024 * support.slowdown)
    end)
  end)

  describe("errors", function()
    for _, name in ipairs { "nil", "table", "number", "boolean", "function", "thread", "cdata",
      "tostring-raises", "tostring-number", "tostring-awaits", "tostring-recursion",
      "index-raises", "in-handler", "overflow-in-handler", "long" } do
      it(("of an odd kind: %s"):format(name), function()
        local response = expect("/error/" .. name, 500)
        assert.same({ detail = "Internal Server Error" }, response:json())
        get_server():wait_log("route=\"GET /error/" .. name:gsub("%p", "%%%0"))
      end)
    end

    it("show their text where there is one", function()
      expect("/error/number", 500)
      get_server():wait_log "/error/number[^\n]*\n[^\n]*42"
      get_server():wait_log "/error/in%-handler[^\n]*\n[^\n]*third"
    end)

    it("cannot forge lines of the log", function()
      expect("/error/control", 500)
      local log = get_server():wait_log "(/error/control.*)$"
      assert.is_nil(log:find("\27", 1, true))
      assert.is_nil(log:find "\nfaked")
    end)

    it("in what was returned", function()
      local status = get_server():get("/return/metatable-raises").status
      assert.is_true(status == 200 or status == 500)
      assert_alive()
    end)
  end)

  it("patterns that take long or deep", function()
    expect("/pattern", 200)
    assert.is_true(get_server():get("/pattern-recursion").status >= 200)
    expect("/pattern-deep", 200)
  end)

  it("coroutines that nobody ends", function()
    expect("/coroutines", 200, "made")
    expect("/abandoned", 200, "left")
  end)

  it("globals, which belong to the app", function()
    expect("/globals", 200, "1")
    expect("/globals", 200, "2")
  end)
end)

support.describe_server("an app that has broken its own globals", { app = [[
local fl = require "fasterlua"
local app = fl.app { title = "broken" }
app:get("/", function() return { 1 } end)
app:get("/raise", function() return nil + 1 end)
app:get("/await", function() fl.await(fl.sleep(0.001)) return "slept" end)
app:post("/json", function(req) return req:json() end)
app:on_start(function()
  local next = next
  for _, name in ipairs { "tostring", "pairs", "type", "error", "pcall", "select", "setmetatable",
    "rawget", "next", "unpack", "require" } do
    _G[name] = nil
  end
  for _, library in next, { string, table, debug, coroutine, math } do
    for name in next, library do library[name] = nil end
  end
end)
return app
]], settings = { threads = 1 } }, function(get_server)
  it("is served all the same", function()
    assert.equal("[1]", get_server():get("/").body)
    assert.equal(500, get_server():get("/raise").status)
    get_server():wait_log "GET /raise.-attempt to perform arithmetic"
    assert.equal("slept", get_server():get("/await").body)
    assert.equal("[2]", get_server():post("/json", "[2]").body)
  end)
end)

support.describe_server("finalizers", { app = [[
local fl = require "fasterlua"
local app = fl.app { title = "finalizers" }
local function leave(fn)
  for _ = 1, 200 do getmetatable(newproxy(true)).__gc = fn end
end
app:get("/alive", function() return { { {} }, { {} } } end)
app:get("/raise", function() leave(function() error "in a finalizer" end) return "left" end)
app:get("/await", function() leave(function() fl.await(fl.sleep(0.01)) end) return "left" end)
app:get("/spawn", function() leave(function() fl.spawn(function() end) end) return "left" end)
app:get("/collect", function() leave(function() error "now" end) collectgarbage() return "left" end)
return app
]], settings = { threads = 1 } }, function(get_server)
  for _, name in ipairs { "raise", "await", "spawn", "collect" } do
    it("cannot end the process: " .. name, function()
      local pid, client = get_server():server_pid(), get_server():connect()
      for _ = 1, 20 do
        local response = assert(client:request { path = "/" .. name }, "it ended")
        assert.is_true(response.status == 200 or response.status == 500)
        for _ = 1, 50 do
          assert(client:request { path = "/alive" }, "it ended")
        end
      end
      assert.equal(pid, get_server():server_pid())
    end)
  end
end)
