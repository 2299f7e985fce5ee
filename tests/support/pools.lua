-- pools: what the specs of pools share: an app's prelude.
--
--     local app = pools.app [[ app:get("/", function() return await(pool("x"):run(wall)) end) ]]
--
-- The prelude has `fl`, `app`, `await` …, and modules `shapes` and `clock`, whose functions cross
-- by name.

local slowdown = require("support.server").slowdown

local M = {}

local shapes = [[
local shapes = { loaded = 0 }
local hidden = { count = 0 }
function shapes.area(width, height) return width * height end
function shapes.count() hidden.count = hidden.count + 1 return hidden.count end
function shapes.pieces(from, to) for i = from, to do coroutine.yield(i) end end
function shapes.fail() error "a shape fails" end
shapes.name = "shapes"
return shapes
]]

local clock = [[
local ffi = require "ffi"
ffi.cdef "typedef struct { long s, ns; } fl_spec_time; int clock_gettime(int, fl_spec_time *);"
local clock, time = {}, ffi.new "fl_spec_time"
function clock.now()
  ffi.C.clock_gettime(1, time)
  return tonumber(time.s) + tonumber(time.ns) / 1e9
end
return clock
]]

local prelude = [[
local fl = require "fasterlua"
local shapes = require "shapes"
local await, gather, spawn = fl.await, fl.gather, fl.spawn
local app = fl.app { title = "pools" }

local function pool(name, options)
  options = options or {}
  options.name = name
  return fl.state_pool(options)
end

local wall = require("clock").now

local function work(rounds)
  local x = 0
  for i = 1, rounds do x = (x * 31 + i) % 1000003 end
  return x
end

-- One loop, soon compiled as a whole, which nothing leads out of until its time is over.
local function compute(seconds)
  local stop, x = wall() + seconds, 0
  repeat x = (x * 31 + 1) % 1000003 until wall() > stop
  return x
end

local function caught(fn, ...)
  local ok, err = pcall(fn, ...)
  if ok then return { ok = true, value = err } end
  if type(err) ~= "table" then return { ok = false, text = tostring(err) } end
  return { ok = false, kind = err.kind, status = err.status, text = tostring(err),
    message = rawget(err, "message") }
end

local function caught_run(own, ...)
  return caught(function(...) return await(own:run(...)) end, ...)
end

local function ids(own, seconds)
  local list = {}
  for i = 1, own:stats().size do
    list[i] = own:run(function(time)
      fl.await(fl.sleep(time))
      return fl.here().thread
    end, seconds or 0.05)
  end
  local seen, count = {}, 0
  for _, id in ipairs(await(gather(list))) do
    if not seen[id] then seen[id], count = true, count + 1 end
  end
  return count
end

-- Threads that are started on demand stay: all of them are there before the first test.
local function warm(...)
  local pools = { ... }
  app:on_start(function()
    if fl.here().pool then return end
    for _, own in ipairs(pools) do
      while ids(own) < own:stats().size do end
    end
  end)
end

local function until_true(fn, seconds)
  local stop = wall() + (seconds or 5)
  while not fn() and wall() < stop do await(fl.sleep(0.01)) end
  return fn()
end
]]

---Text of an app: `values`, functions that make something that crosses; `names`, theirs in order;
---`same`, which compares.
M.values = [==[
local same
function same(a, b)
  if type(a) ~= type(b) then return false, type(a) .. " " .. type(b) end
  if type(a) ~= "table" then
    if a ~= a then return b ~= b end
    if a == 0 and b == 0 then return 1 / a == 1 / b end
    return a == b
  end
  for key, value in pairs(a) do if not same(value, b[key]) then return false, key end end
  for key in pairs(b) do if a[key] == nil then return false, key end end
  return true
end

local int64 = require("ffi").typeof("int64_t")
local deep = {}
do local at = deep for _ = 1, 90 do at.deeper = {} at = at.deeper end end
local values = {
  ["nil"] = function() return nil end,
  yes = function() return true end,
  no = function() return false end,
  integer = function() return 42 end,
  fraction = function() return 0.1 end,
  large = function() return 2 ^ 53 end,
  huge = function() return 1e308 end,
  tiny = function() return 5e-324 end,
  nan = function() return 0 / 0 end,
  minus_zero = function() return -0.0 end,
  infinity = function() return 1 / 0 end,
  minus_infinity = function() return -1 / 0 end,
  int64 = function() return int64(2) ^ 62 + 1 end,
  minus_int64 = function() return -int64(2) ^ 62 end,
  empty_string = function() return "" end,
  zeros = function() return "a\0b\0" end,
  every_byte = function()
    local bytes = {}
    for i = 0, 255 do bytes[#bytes + 1] = string.char(i) end
    return table.concat(bytes)
  end,
  ["64 KiB - 1"] = function() return ("x"):rep(65535) end,
  ["64 KiB"] = function() return ("y"):rep(65536) end,
  ["64 KiB + 1"] = function() return ("z"):rep(65537) end,
  ["5 MB"] = function() return ("0123456789"):rep(500000) end,
  null = function() return fl.null end,
  empty_table = function() return {} end,
  list = function() return { 1, "two", { 3 } } end,
  map = function() return { a = 1, b = { c = fl.null, d = { true, false } } } end,
  number_keys = function() return { [0.5] = "half", [-1] = "minus", [100] = "hundred" } end,
  deep = function() return deep end,
  large_within = function() return { ("a"):rep(70000), { ("b"):rep(80000) } } end,
}
local names = {}
for name in pairs(values) do names[#names + 1] = name end
table.sort(names)

]==]

---An app that serves what `text` adds to the prelude.
---@param text string
---@return table<string, string> files
function M.app(text)
  return { ["shapes.lua"] = shapes, ["clock.lua"] = clock,
    ["app.lua"] = prelude .. text .. "\nreturn app\n" }
end

---Options of a server whose handlers compute on purpose: it holds no spare thread ready for them,
---which the leak check would find.
---@param files table<string, string>
---@param settings table<string, any>? more of them
---@return support.options
function M.options(files, settings)
  local all = { stuck_handler = 0, blocked_handler = 0 }
  for name, value in pairs(settings or {}) do
    all[name] = value
  end
  return { app = files, settings = all }
end

---The value that a server answers as JSON; raises its log when it does not.
---@param server support.server
---@param path string
---@return any
function M.json(server, path)
  local response, reason = server:request { path = path, timeout = 20 * slowdown }
  if not response or response.status ~= 200 then
    local what = response and response.status .. " " .. response.body or reason
    error(("%s: %s\n%s"):format(path, what, server:log()), 2)
  end
  return response:json()
end

return M
