-- Times and sizes may be texts wherever they are asked for.

local support = require "support"

local app = [[
local fl = require "fasterlua"
local await = fl.await
local app = fl.app { title = "units" }

app:on_start(function() -- libuv's pipe for signals, and what else stays
  await(fl.exec { "true" })
  await(fl.state_pool { name = "a", size = 1, timeout = "50ms", max_memory = "32MB",
    retire_window = "1m" }:run(tostring, 1))
  await(fl.state_pool { name = "b", size = 1 }:run(tostring, 1))
  pcall(await, fl.http.get("http://127.0.0.1:1/"))
end)

app:get("/slow", function() await(fl.sleep "5s") return "late" end)

app:post("/run", function(req)
  local run = assert(load("local fl, await, base = ... " .. req:text(), "=test", "t"))
  local ok, value = pcall(run, fl, await, "http://" .. req.headers.host)
  if ok then return { value = value == nil and fl.null or value } end
  return { error = type(value) == "table" and (value.code or value.kind) or tostring(value) }
end)
return app
]]

support.describe_server("Times and sizes as texts", { app = app,
  settings = { threads = 1, shared_memory = "4MB" } }, function(get_server)
  local function run(code)
    return get_server():post("/run", code):json()
  end

  local function fails(problem, code)
    assert.same({ error = problem }, run(code))
  end

  local function says(problem, code)
    local message = run(code).error or "nothing"
    assert.is_truthy(message:find(problem, 1, true), message)
  end

  it("are taken by fl.sleep and fl.timeout", function()
    local from = support.process.now()
    assert.same({ value = "awake" }, run 'await(fl.sleep "60ms") return "awake"')
    assert.is_true(support.process.now() - from >= 0.055)
    fails("timeout", 'await(fl.timeout("20ms", fl.sleep "5s"))')
  end)

  it("are taken by fl.http", function()
    fails("timeout", 'await(fl.http.get(base .. "/slow", { timeout = "50ms" }))')
    fails("timeout", 'await(fl.http.client({ idle_timeout = "50ms" }):get(base .. "/slow"))')
    fails("too_large", [[
      await(fl.http.post(base .. "/run", { body = 'return ("x"):rep(3000)', max_body = "1KB" }))]])
    assert.same({ value = "set" }, run 'fl.http.limits { keep_idle = "30s" } return "set"')
  end)

  it("are taken by pools", function()
    local job = "function() local own = require 'fasterlua' own.await(own.sleep '5s') end"
    fails("timeout", ([[await(fl.state_pool { name = "a", size = 1, timeout = "50ms",
      max_memory = "32MB", retire_window = "1m" }:run(%s))]]):format(job))
    fails("timeout", ([[await(fl.state_pool { name = "b", size = 1 }:run_within("50ms", %s))]])
      :format(job))
  end)

  it("are taken by fl.exec", function()
    assert.same({ value = true },
      run 'return await(fl.exec({ "sleep", "5" }, { timeout = "50ms" })).timed_out')
  end)

  it("are taken by fl.shared", function()
    assert.same({ value = { 60, 120, 30 } }, run [[
      local function round(x) return math.floor(x + 0.5) end
      local d = fl.shared("units", { bytes = "128KB" })
      d:set("a", 1, "1m")
      d:incr("b", 1, 0, "2m")
      local ttls = { round(d:ttl "a"), round(d:ttl "b") }
      d:expire("a", "30s")
      ttls[3] = round(d:ttl "a")
      return ttls]])
    assert.same({ value = "nobody" }, run [[
      local d = fl.shared "units"
      local lease = await(d:lock("x", "1m"))
      local other = await(d:lock("x", "1m", { wait = "30ms" }))
      lease:extend "10s"
      lease:release()
      return other and "two" or "nobody"]])
  end)

  it("are taken by files and cookies", function()
    assert.same({ value = { 1024, 1024, 1 } }, run [[
      await(fl.fs.write("units.txt", ("x"):rep(2049)))
      local sizes = {}
      for piece in fl.fs.chunks("units.txt", "1KB") do sizes[#sizes + 1] = #piece end
      return sizes]])
    assert.same({ value = 3600 }, run [[
      local text = require("fasterlua.cookies").serialise("a", "b", { max_age = "1h" })
      return tonumber(text:match "Max%-Age=(%d+)")]])
  end)

  it("are refused with what they are when they are none", function()
    says('timeout: seconds from 0, or a time as "500ms", expected, got soon',
      'fl.timeout("soon", fl.sleep(0))')
    says('sleep: seconds from 0, or a time as "500ms", expected, got soon', 'fl.sleep "soon"')
    says('sleep: seconds from 0, or a time as "500ms", expected, got 8639913600',
      'fl.sleep "99999d"')
    says('must be seconds above 0 and up to 1000000, a time as "500ms", or false, got "soon"',
      'fl.http.get("http://a", { timeout = "soon" })')
    says('option "max_body" must be a number of bytes, or a size as "10MB", got "big"',
      'fl.http.get("http://a", { max_body = "big" })')
    says('option "keep_idle" must be seconds from 0, or a time as "500ms", got soon',
      'fl.http.limits { keep_idle = "soon" }')
    says('option "timeout" must be seconds, or a time as "500ms"; 0 for none, got soon',
      'fl.state_pool { name = "c", timeout = "soon" }')
    says('run_within: seconds, or a time as "500ms", expected; 0 for none; got soon',
      'fl.state_pool { name = "b", size = 1 }:run_within("soon", print)')
    says('exec: option "timeout" must be seconds above 0, or a time as "500ms", got soon',
      'fl.exec({ "true" }, { timeout = "soon" })')
    says('a ttl must be seconds above 0 and up to 1e9, or a time as "5m", got soon',
      'fl.shared("units"):set("a", 1, "soon")')
    says('lock: a ttl must be seconds above 0 and up to 1e9, or a time as "5m", got soon',
      'fl.shared("units"):lock("a", "soon")')
    says('lock: wait must be seconds from 0, or a time as "5m", got soon',
      'fl.shared("units"):lock("a", 1, { wait = "soon" })')
    says('test:1: fs.read: size must be a number of bytes from 0, or a size as "64KB", got big',
      'fl.fs.read("units.txt", { size = "big" })')
    says('test:1: fs.chunks: size must be a number of bytes from 1, or a size as "64KB", got big',
      'fl.fs.chunks("units.txt", "big")')
    says("mode is not an integer from 0", 'fl.fs.write("units.txt", "x", { mode = "600" })')
    says("above 0 and up to 1000000", 'fl.http.get("http://a", { timeout = "20d" })')
    says('ttl must be seconds above 0 and up to 1e9, or a time as "5m", got 20000d',
      'fl.shared("units"):lock("a", "20000d")')
    says("called with a dot, not a colon", 'fl.shared("units").lock("a", 1)')
    says('option "max_memory" must be bytes from 1, or a size as "64MB", got -1',
      'fl.state_pool { name = "c", max_memory = -1 }')
    says('"timeout" must be seconds above 0 and up to 1000000, or a time as "500ms", got soon',
      'fl.mail.send { server = "smtp://a", from = "a@b.example", timeout = "soon" }')
  end)
end)
