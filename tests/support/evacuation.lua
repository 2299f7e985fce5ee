-- evacuation: what the specs of evacuations share: an app that gets stuck, its neighbour, and words
-- for what becomes of them.
--
--     local server = evacuation.serve { threads = 1 }
--     expect(evacuation.stick(server), 503)

local assert = require "luassert"
local support = require "support"

local M = {}

local IS_SANITIZED = support.slowdown > 1

-- Sanitizers multiply the server's patience by 20: the same time in the end.
---@param milliseconds number
---@return string # for a setting
function M.limit(milliseconds)
  return ("%dms"):format(IS_SANITIZED and milliseconds / 20 or milliseconds)
end

-- `a` gets stuck, `b` is its neighbour. Most of what is stuck here ends by itself, so that no test
-- leaves a thread that computes.
M.culprit = [[
local ffi = require "ffi"
local fl = require "fasterlua"
local await = fl.await
local app = fl.app { title = "culprit" }

ffi.cdef "typedef struct { long seconds, nanoseconds; } a_time;"
ffi.cdef "int clock_gettime(int clock, a_time *time); int pipe(int *ends); int usleep(unsigned us);"
ffi.cdef "long read(int fd, void *to, size_t size); int close(int fd); long syscall(long, ...);"

local CPU, time = 3, ffi.new("a_time")
local function cpu()
  ffi.C.clock_gettime(CPU, time)
  return tonumber(time.seconds) + tonumber(time.nanoseconds) / 1e9
end

-- Compiled, so that nothing can interrupt it: seconds of CPU time.
local function spin(seconds)
  local till = cpu() + seconds
  while cpu() < till do end
end
for _ = 1, 100 do spin(0.00001) end

local count = 0
app:get("/", function() return "a" end)
app:get("/count", function() count = count + 1 return tostring(count) end)
app:get("/thread", function(req)
  if req.query.spin then spin(0.5) end
  return tostring(tonumber(ffi.C.syscall(186)))
end)

app:get("/spin", function() spin(0.5) return "too late" end)
app:post("/spin", function() spin(0.5) return "too late" end)
app:get("/spin/{ms:int}", function(req) spin(req.params.ms / 1000) return "spun" end)
app:get("/loop", function() while true do end end)
app:get("/find", function() return ("a"):rep(3000):find((".-"):rep(20) .. "b") end)
app:get("/search", function() return ("a"):rep(210):find((".-"):rep(3) .. "b") end)
app:get("/command", function() os.execute "sleep 0.7" return "too late" end)
-- Among others of its session that want the first processor, as the least of them.
app:get("/starve", function(req)
  ffi.cdef "int setpriority(int which, unsigned who, int nice);"
  ffi.cdef "int sched_setaffinity(int tid, size_t size, const uint64_t *set);"
  for _ = 1, 3 do
    os.execute("timeout 60 taskset -c 0 luajit -e 'while true do end' & echo $! >>"
      .. req.query.pids)
  end
  await(fl.sleep(0.5))
  ffi.C.setpriority(0, 0, 19)
  ffi.C.sched_setaffinity(0, 8, ffi.new("uint64_t[1]", 1))
  spin(0.006)
  return "starved"
end)
app:get("/usleep", function() ffi.C.usleep(20000000) end)
app:get("/read", function() -- nobody writes; goes on after a signal
  local ends = ffi.new("int[2]")
  ffi.C.pipe(ends)
  ffi.C.read(ends[0], ffi.new("char[1]"), 1)
end)
app:get("/bound", function() while true do fl.sleep(10):cancel() end end)
app:get("/pcall", function()
  local function fail() error("again") end
  while true do pcall(fail) end
end)
app:get("/interpreted", function()
  local t = {}
  while true do t[1] = function() return t end end
end)
app:get("/later", function() await(fl.sleep(0.3)) spin(0.5) end)

app:get("/wait", function(req)
  count = count + 1
  local n = count
  await(fl.sleep(0.6))
  return ("%d %s %s"):format(n, req.query_string, req:header("x-sent") or "-")
end)
app:post("/wait", function() await(fl.sleep(0.6)) return "waited" end)
app:post("/again", { replay = true }, function(req)
  local body = req:text()
  await(fl.sleep(0.6))
  return "again " .. body
end)
app:get("/body", function(req)
  local body = req:text()
  await(fl.sleep(0.6))
  return body .. " " .. tostring(req.trailers["x-last"])
end)
app:get("/eaten", function(req)
  for _ in req:chunks() do end
  await(fl.sleep(0.6))
  return "eaten"
end)
-- Interrupted first, so that it goes on with what it may do without its thread's structures.
app:get("/afterwards", function(req)
  pcall(spin, 0.5)
  for _ = 1, 500 do
    assert(req:header("x-sent") == "yes" and req.path == "/afterwards" and req.query.x == "1")
  end
  fl.sleep(0) -- is not for who has been given up
  fl.log.info("the culprit went on")
end)

local shared, one = fl.shared "kept", fl.state_pool { name = "one", size = 1 }
app:get("/made", function()
  return await(shared:get_or_set("made", 60, function()
    if shared:add("first", true) then await(fl.sleep(60)) end
    return "made"
  end))
end)
app:post("/lock", function()
  await(shared:lock("lock", 60))
  await(fl.sleep(60))
end)
app:get("/locked", function()
  return tostring(await(shared:lock("lock", 60, { wait = 0 })) == nil)
end)
app:post("/job", function()
  await(one:run(function()
    fl.log.info "a job began"
    fl.await(fl.sleep(1.5))
    fl.log.info "a job went on"
  end))
end)
app:get("/jobs", function() return one:stats() end)

app:get("/once", { replay = false }, function() await(fl.sleep(0.6)) return "once" end)
app:get("/twice", function() await(fl.sleep(0.6)) spin(0.5) return "twice" end)
app:get("/pooled", { run_in = "cpu" }, function() await(fl.sleep(0.6)) return "pooled" end)
app:post("/pooled", { run_in = "cpu" }, function() await(fl.sleep(0.6)) return "pooled" end)
app:post("/chunks", function(req)
  local size = 0
  for chunk in req:chunks() do size = size + #chunk end
  return tostring(size)
end)
app:get("/stream", function()
  return fl.stream(function(write)
    write("begun")
    await(fl.sleep(2))
    write("ended")
  end)
end)
app:get("/background", function()
  fl.background(function() await(fl.sleep(0.5)) fl.log.info("the culprit's task") end)
  return "soon"
end)
app:get("/eat", function() local t = {} while true do t[#t + 1] = ("x"):rep(1000) .. #t end end)
app:get("/recurse", function() local function f() return 1 + f() end return f() end)

return app
]]

M.neighbour = [[
local ffi = require "ffi"
local fl = require "fasterlua"
local await = fl.await
local app = fl.app { title = "neighbour" }

ffi.cdef "typedef struct { long seconds, nanoseconds; } b_time;"
ffi.cdef "int clock_gettime(int clock, b_time *time); long syscall(long, ...);"
local time = ffi.new("b_time")

local count, queue, event = 0, fl.queue(1), fl.event()
app:get("/", function() return "b" end)
app:get("/count", function() count = count + 1 return tostring(count) end)
app:get("/number/{n:int}", function(req) return tostring(req.params.n) end)
app:get("/thread", function() return tostring(tonumber(ffi.C.syscall(186))) end)
app:get("/clock", function() -- of the day, as in the log
  ffi.C.clock_gettime(0, time)
  return ("%.6f"):format(tonumber(time.seconds) + tonumber(time.nanoseconds) / 1e9)
end)
app:get("/busy/{ms:int}", function(req)
  ffi.C.clock_gettime(3, time)
  local till = tonumber(time.seconds) + tonumber(time.nanoseconds) / 1e9 + req.params.ms / 1000
  repeat
    ffi.C.clock_gettime(3, time)
  until tonumber(time.seconds) + tonumber(time.nanoseconds) / 1e9 >= till
  return "busy"
end)
app:get("/sleep/{ms:int}", function(req) await(fl.sleep(req.params.ms / 1000)) return "slept" end)
app:post("/sleep", function(req) await(fl.sleep(0.6)) return "slept " .. req:text() end)
app:post("/echo", function(req) return req:text() end)
app:post("/chunks", function(req)
  local list = {}
  for chunk in req:chunks() do list[#list + 1] = chunk end
  return table.concat(list)
end)
app:get("/big", function()
  local list = {}
  for i = 1, 1000 do list[i] = ("%08d"):format(i):rep(1000) end
  return table.concat(list)
end)
app:get("/stream", function()
  return fl.stream(function(write)
    for i = 1, 12 do
      write(("line %d\n"):format(i))
      await(fl.sleep(0.1))
    end
  end)
end)
app:get("/exec", function() return await(fl.exec { "sh", "-c", "sleep 0.6; echo done" }).stdout end)
app:get("/put", function() await(fl.sleep(0.6)) await(queue:put("x")) event:set() return "put" end)
app:get("/take", function() return await(queue:get()) end)
app:get("/event", function() await(event:wait()) return "set" end)
app:get("/pooled", { run_in = "cpu" }, function() await(fl.sleep(0.6)) return "pooled" end)
app:get("/job", function()
  return await(fl.run_in_state(function() require("fasterlua").await(
    require("fasterlua").sleep(0.6)) return "job" end))
end)
app:get("/nap_job", function()
  await(fl.sleep(0.3))
  return await(fl.run_in_state(function() return "job" end))
end)
app:get("/file", function(req)
  local fs = require "fasterlua.fs"
  await(fs.write(req.query.path, ("y"):rep(1000000)))
  return tostring(#await(fs.read(req.query.path)))
end)
app:get("/background", function()
  fl.background(function() await(fl.sleep(0.6)) fl.log.info("the neighbour's task") end)
  return "soon"
end)
app:get("/detach", function()
  fl.detach(function() await(fl.sleep(0.6)) fl.log.info("the neighbour's detached task") end)
  return "detached"
end)

return app
]]

---@param settings table<string, any>? beside those that make it impatient
---@param apps { a: string?, b: string? }? instead of the culprit, the neighbour
---@return support.server
function M.serve(settings, apps)
  local all = { threads = 1, stuck_handler = M.limit(200), blocked_handler = M.limit(200),
    slow_handler = "50ms", exile = 0, drain = "2s" }
  for name, value in pairs(settings or {}) do all[name] = value end
  apps = apps or {}
  return support.start { settings = all,
    env = { TSAN_OPTIONS = "report_thread_leaks=0" }, -- it ends as it is
    app = { ["a/app.lua"] = apps.a or M.culprit, ["b/app.lua"] = apps.b or M.neighbour } }
end

---@return string # of a request
function M.head(path, method)
  return ("%s %s HTTP/1.1\r\nHost: a\r\n\r\n"):format(method or "GET", path)
end

---Sends a request on a connection of its own.
---@return support.connection
function M.begin(server, path, method)
  local client = server:connect()
  client:send(M.head(path, method))
  return client
end

---@return integer # how often the server's log has it
function M.count_lines(server, pattern)
  return select(2, server:log():gsub(pattern, ""))
end

---@param count integer since the server's start
function M.wait_evacuations(server, count)
  support.eventually(function()
    return M.count_lines(server, "evacuated web thread") >= count
  end, 5)
end

---Until then one more may be as many as the process bears.
function M.wait_joined(server)
  support.eventually(function() return server:metrics().fasterlua_retired_threads == 0 end, 5)
end

---@return support.connection # the culprit, after its thread has been evacuated
function M.stick(server, path, method)
  M.wait_joined(server)
  local before = M.count_lines(server, "evacuated web thread")
  local client = M.begin(server, path or "/a/spin", method)
  M.wait_evacuations(server, before + 1)
  return client
end

---@return support.response # of that status, and body if one is given
function M.expect(client, status, body, options)
  local response, reason = client:response(options)
  assert.is_truthy(response, ("no answer: %s"):format(reason))
  assert.equal(body or response.body, response.body)
  assert.equal(status, response.status)
  return response
end

---@param client support.connection
function M.expect_nothing_more(client)
  assert.equal("", client.buffer)
end

---Seconds since 1970 of the log's "2026-01-02T03:04:05.678Z".
function M.time_of(line)
  local y, mo, d, h, mi, s = line:match("^(%d+)-(%d+)-(%d+)T(%d+):(%d+):([%d.]+)Z")
  local days = os.time { year = y, month = mo, day = d, hour = 12 }
    - os.time { year = 1970, month = 1, day = 1, hour = 12 }
  return math.floor(days / 86400 + 0.5) * 86400 + h * 3600 + mi * 60 + s
end

return M
