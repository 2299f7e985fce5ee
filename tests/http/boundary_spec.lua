-- The border between C and Lua: what a request costs there, counted, not timed.

local support = require "support"

local REQUESTS = 1000

local counting = [[
local ffi = require "ffi"
ffi.cdef "typedef struct { double allocations, entries, reads, writes; } fl_test_counts;"
ffi.cdef "fl_test_counts fl_test_counts_now(void);"
]]

local app = [[
local fl = require "fasterlua"
local await = fl.await
local app = fl.app { title = "boundary" }

app:get("/counts", function()
  local now = ffi.C.fl_test_counts_now()
  return { allocations = now.allocations, entries = now.entries, reads = now.reads,
    writes = now.writes }
end)
app:get("/plaintext", function() return "Hello, World!" end)
app:get("/json", function() return { message = "Hello, World!", list = { 1, 2, 3 } } end)
app:get("/user/{id}", function(req) return req.params.id end)
app:get("/int/{id:int}", function(req) return { id = req.params.id } end)
app:post("/echo", function(req) return req:text() end)
app:post("/json-echo", function(req) return req:json() end)
app:post("/ignore", function() return "ignored" end)
app:get("/fields", function(req)
  return req.method .. req.path .. (req.query.a or "") .. req.headers.host
    .. (req.cookies.c or "") .. req.client.host .. req.id
end)
app:get("/status", function() return "x", 201, { ["x-a"] = "1" } end)
app:get("/response", function()
  return fl.response("x", { headers = { a = "1" }, cookies = { c = "2" } })
end)
app:get("/error", function() return fl.http_error(404, "none") end)
app:get("/sleep", function() await(fl.sleep(0)) return "slept" end)
app:get("/spawn", function() return await(fl.spawn(function() return "spawned" end)) end)
app:get("/gather", function()
  return { await(fl.gather(fl.spawn(tostring, 1), fl.spawn(tostring, 2))) }
end)

return app
]]

-- The library is built from tests/support/boundary_count.c when the first server starts.
local function preloaded(text)
  return function()
    local dir = support.app { ["app.lua"] = counting .. text }
    local command = "%s -std=c11 -D_GNU_SOURCE -O2 -shared -fPIC -o '%s/count.so' %s -ldl"
    local status = os.execute(command:format(os.getenv "CC" or "cc", dir,
      "tests/support/boundary_count.c"))
    assert(status == 0 or status == true, "boundary_count.c does not compile")
    return { dir = dir, env = { LD_PRELOAD = dir .. "/count.so" },
      settings = { threads = 1, access_log = false } }
  end
end

local function message(path, method, body)
  local length = body and ("Content-Length: %d\r\n"):format(#body) or ""
  return ("%s %s HTTP/1.1\r\nHost: a\r\nCookie: c=1\r\n%s\r\n%s")
    :format(method or "GET", path, length, body or "")
end

local cases = {
  { "plaintext", message "/plaintext" },
  { "json", message "/json" },
  { "a parameter", message "/user/42" },
  { "a number as parameter", message "/int/42" },
  { "an echoed body", message("/echo", "POST", ("x"):rep(1000)) },
  { "an echoed body of 32 KB", message("/echo", "POST", ("x"):rep(32768)) },
  { "JSON both ways", message("/json-echo", "POST", '{"a":[1,2,{"b":null}]}') },
  { "a body that is not read", message("/ignore", "POST", ("x"):rep(1000)) },
  { "all fields", message "/fields?a=1&b=2" },
  { "status and headers", message "/status" },
  { "fl.response", message "/response" },
  { "an http_error", message "/error" },
  { "no route", message "/nowhere" },
  { "the wrong method", message("/echo", "GET") },
  { "the wrong type", message "/int/x" },
  { "HEAD", message("/plaintext", "HEAD"), method = "HEAD" },
  { "sleep", message "/sleep", entries = 2 },
  { "a task", message "/spawn", entries = 3 },
  { "gathered tasks", message "/gather", entries = 4 },
}

local is_sanitized = support.slowdown > 1 -- their allocator cannot be replaced

if not is_sanitized then
  support.describe_server("in the steady state of a keep-alive connection,", preloaded(app),
    function(get_server)
      local function ask(client, case, count)
        for _ = 1, count do
          client:send(case[2])
          assert(client:response { method = case.method })
        end
      end

      local function counts(client)
        return client:request({ path = "/counts" }):json()
      end

      -- What `count` requests cost, without the two that ask for the counts.
      local function cost(case, count)
        local client = get_server():connect()
        ask(client, case, 200)
        counts(client)
        local idle = counts(client)
        local before = counts(client)
        ask(client, case, count)
        local after, cost_of = counts(client), {}
        for name, value in pairs(after) do
          cost_of[name] = value - before[name] - (before[name] - idle[name])
        end
        return cost_of
      end

      for _, case in ipairs(cases) do
        it(case[1] .. " allocates nothing by malloc", function()
          local allocations = cost(case, REQUESTS).allocations
          assert.is_true(allocations <= 2, ("%d allocations for %d requests")
            :format(allocations, REQUESTS))
        end)

        it(case[1] .. " enters Lua as often as it must", function()
          local expected = case.entries or 1
          if case[1]:find "^no route" or case[1]:find "^the wrong" then expected = 0 end
          local entries = cost(case, 100).entries
          assert.is_true(entries <= expected * 100, entries .. " entries for 100 requests")
        end)
      end

      it("one request is one read and one write", function()
        local seen = cost(cases[1], 100)
        assert.is_true(seen.writes <= 100, seen.writes .. " writes for 100 requests")
        assert.is_true(seen.reads <= 110, seen.reads .. " reads for 100 requests")
      end)

      it("a pipeline of 16 is one write, and allocates nothing", function()
        local client = get_server():connect()
        local function pipelines(count)
          for _ = 1, count do
            client:send(cases[1][2]:rep(16))
            assert(client:responses(16))
          end
        end
        pipelines(20)
        counts(client)
        local before = counts(client)
        pipelines(50)
        local after = counts(client)
        -- a pipeline may arrive in two pieces now and then
        assert.is_true(after.writes - before.writes <= 60, after.writes - before.writes)
        assert.is_true(after.allocations - before.allocations <= 2,
          after.allocations - before.allocations)
        assert.is_true(after.entries - before.entries <= 50 * 16 + 1)
      end)

      it("memory does not grow", function()
        local client = get_server():connect()
        for _, case in ipairs(cases) do ask(client, case, 20) end
        local before = get_server():rss()
        for _, case in ipairs(cases) do ask(client, case, 200) end
        local grown = get_server():rss() - before
        assert.is_true(grown < 4 * 1024 * 1024, "memory has grown by " .. grown)
      end)
    end)
end

support.describe_server("the hot path", { app = [[
local fl = require "fasterlua"
local app = fl.app { title = "hot" }
local util = require "jit.util"
local traces = { start = 0, stop = 0, abort = 0, flush = 0 }
local compiled = {} -- functions of this file by their line
local last = ""

require("jit").attach(function(what, _, fn, _, _, reason)
  traces[what] = (traces[what] or 0) + 1
  if what == "start" and fn then
    local info = util.funcinfo(fn)
    last = (info.source or "?") .. ":" .. (info.linedefined or 0)
  elseif what == "stop" then
    compiled[last] = true
  end
end, "trace")

local function fold(text)
  local sum = 0
  for i = 1, #text do sum = (sum * 31 + text:byte(i)) % 65521 end
  return sum
end

local function total(items)
  local sum = 0
  for i = 1, #items do sum = sum + items[i].price * items[i].count end
  return sum
end

app:get("/traces", function()
  local names = {}
  for name in pairs(compiled) do names[#names + 1] = name end
  return { counts = traces, compiled = fl.array(names), on = require("jit").status() }
end)
app:get("/plaintext", function() return "Hello" end)
app:get("/loop/{text}", function(req) return { sum = fold(req.params.text) } end)
app:post("/total", function(req) return { total = total(req:json()) } end)
return app
]], settings = { threads = 1 } }, function(get_server)
  local function warm(client, request, count)
    for _ = 1, count do assert(client:request(request)) end
  end

  local hot = {
    { path = "/plaintext" },
    { path = "/loop/" .. ("abcdefgh"):rep(8) },
    { path = "/total", method = "POST", body = '[{"price":2,"count":3},{"price":1,"count":4}]' },
  }

  it("is compiled, and stays compiled", function()
    local client = get_server():connect()
    for _, request in ipairs(hot) do warm(client, request, 600) end
    local before = client:request({ path = "/traces" }):json()
    assert.is_true(before.on)
    assert.is_true(before.counts.stop >= 2, "nothing is compiled")
    assert.is_true(#before.compiled >= 2)
    for _, request in ipairs(hot) do warm(client, request, 400) end
    local after = client:request({ path = "/traces" }):json().counts
    assert.equal(0, after.flush)
    assert.is_true(after.abort - before.counts.abort <= 20,
      "traces are aborted again and again: " .. after.abort - before.counts.abort)
  end)

  it("flushes no traces", function()
    local metrics, sum = get_server():metrics(), 0
    for name, value in pairs(metrics) do
      if name:find "jit_flushes" then sum = sum + value end
    end
    assert.equal(0, sum)
  end)
end)
