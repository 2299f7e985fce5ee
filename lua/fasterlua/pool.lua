-- Pools of Lua states on threads of their own: for what computes, and for what blocks.
--
--     local digest = await(pool.run_in_state(function(data)
--       return require("fasterlua.digest").hex("sha256", data)
--     end, body))
--
-- A function crosses as bytecode with its upvalues, which must be plain data, other functions, or
-- what modules export. Arguments and results are plain data. An idle state takes the next job.

local combine = require "fasterlua.combine"
local core = require "fasterlua.core.pool"
local future = require "fasterlua.future"
local suggest = require "fasterlua.suggest"
local units = require "fasterlua.units"

local await, from_op, spawn = future.await, future.from_op, future.spawn
local error, math, setmetatable, tostring, type = error, math, setmetatable, tostring, type

local pool = {}

---@class fasterlua.PoolOptions
---@field name string
---@field size? integer threads; default one per usable CPU
---@field queue? integer jobs that may wait; one more raises `queue_full`
---@field timeout? number seconds that a job may run, 0 for none
---@field max_memory? integer|string of a state's Lua heap, "64MB"
---@field isolation? "thread"|"process"
---@field recycle_after? integer jobs after which a state is made anew
---@field retire_rate? integer threads replaced in a minute because their job could not be stopped

---@class fasterlua.Pool
---@field name string
---@field private _number integer
local Pool = { __name = "fasterlua.pool" }
local methods = {}
Pool.__index = methods

local PoolError = { __name = "fasterlua.pool_error" }

function PoolError.__tostring(self)
  return self.message
end

local function is_count(value)
  return type(value) == "number" and value >= 1 and value % 1 == 0
end

local function is_seconds(value)
  return type(value) == "number" and value >= 0 and value < 4e9
end

-- What each option must be: a check, and its words.
local options_known = {
  name = { function(value) return type(value) == "string" and #value > 0 and #value < 64 end,
    "a string of at most 63 bytes" },
  size = { function(value) return is_count(value) and value <= 1024 end,
    "an integer from 1 to 1024" },
  queue = { is_count, "an integer from 1" },
  timeout = { is_seconds, "seconds, 0 for none" },
  max_memory = { function(value) return units.bytes(value) ~= nil end,
    'bytes, or a size as "64MB"' },
  isolation = { function(value) return value == "thread" or value == "process" end,
    '"thread" or "process"' },
  recycle_after = { is_count, "an integer from 1" },
  retire_rate = { is_count, "an integer from 1" },
}

local option_names = {}
for name in pairs(options_known) do
  option_names[#option_names + 1] = name
end
table.sort(option_names)

local function check_options(options)
  if type(options) ~= "table" then
    error(("fl.state_pool: a table of options expected, got %s"):format(type(options)), 3)
  end
  for option, value in pairs(options) do
    local known = options_known[option]
    if not known then
      local hint = suggest.hint(tostring(option), option_names)
      error(("fl.state_pool: unknown option %q%s"):format(tostring(option), hint), 3)
    elseif not known[1](value) then
      local message = "fl.state_pool: option %q must be %s, got %s"
      error(message:format(option, known[2], tostring(value)), 3)
    end
  end
  if not options.name then
    error('fl.state_pool: the option "name" is missing', 3)
  end
end

local function handle(name, number)
  return setmetatable({ name = name, _number = number }, Pool)
end

--- Makes a pool, or gives the one of that name: all states of an app share it.
---@param options fasterlua.PoolOptions
---@return fasterlua.Pool
function pool.new(options)
  check_options(options)
  local ok, number = pcall(core.open, {
    name = options.name,
    size = options.size,
    queue = options.queue,
    timeout = options.timeout,
    max_memory = options.max_memory and units.bytes(options.max_memory),
    recycle_after = options.recycle_after,
    retire_rate = options.retire_rate,
    process = options.isolation == "process",
  })
  if not ok then
    error("fl.state_pool: " .. tostring(number), 2)
  end
  return handle(options.name, number)
end

function Pool.__crossing(self)
  return "fasterlua.pool", self.name, self._number
end

--- The pool that a handle which has crossed stands for.
---@param name string
---@param number integer
---@return fasterlua.Pool
function pool.from_crossing(name, number)
  return handle(name, number)
end

local function check_job(fn)
  if type(fn) ~= "function" and type(fn) ~= "string" then
    error(('a function, or a "module:function", expected, got %s'):format(type(fn)), 3)
  end
end

-- The future of the job; raises what refuses it before anything is dispatched.
local function submit(self, kind, seconds, fn, ...)
  local op, problem = core.run(self._number, kind, seconds, fn, ...)
  if not op then
    error(setmetatable(problem, PoolError), 0)
  end
  return from_op(op)
end

--- Runs fn(...) in a state of the pool; the future of its results.
---@param fn function|string
---@param ... any
---@return fasterlua.Future
function methods:run(fn, ...)
  check_job(fn)
  return submit(self, "call", nil, fn, ...)
end

--- The same, with a time limit of its own.
---@param seconds number
---@param fn function|string
---@param ... any
---@return fasterlua.Future
function methods:run_within(seconds, fn, ...)
  check_job(fn)
  if not is_seconds(seconds) then
    error(("run_within: seconds, 0 for none, expected, got %s"):format(tostring(seconds)), 2)
  end
  return submit(self, "call", seconds, fn, ...)
end

---@class fasterlua.MapOptions
---@field chunk? integer items that one job takes; default: four jobs for each thread
---@field progress? fun(done: integer, total: integer) called here when a chunk is done

local function slice(list, from, to)
  local part = {}
  for index = from, to do
    part[index - from + 1] = list[index]
  end
  return part
end

local function check_map_options(options)
  for option, value in pairs(options) do
    if option == "chunk" and not is_count(value) then
      error(("map: option \"chunk\" must be an integer from 1, got %s"):format(tostring(value)), 3)
    elseif option == "progress" and type(value) ~= "function" then
      error(('map: option "progress" must be a function, got %s'):format(type(value)), 3)
    elseif option ~= "chunk" and option ~= "progress" then
      local hint = suggest.hint(tostring(option), { "chunk", "progress" })
      error(("map: unknown option %q%s"):format(tostring(option), hint), 3)
    end
  end
end

-- Runs chunks one after the other until none is left: several of these run at once.
local function map_worker(self, mapping)
  while mapping.next <= mapping.total do
    local from = mapping.next
    local to = math.min(from + mapping.chunk - 1, mapping.total)
    mapping.next = to + 1
    local results = await(submit(self, "map", nil, mapping.fn, slice(mapping.list, from, to)))
    for index = from, to do
      mapping.results[index] = results[index - from + 1]
    end
    mapping.done = mapping.done + to - from + 1
    if mapping.progress then
      mapping.progress(mapping.done, mapping.total)
    end
  end
end

local function run_mapping(self, mapping, workers)
  local futures = {}
  for index = 1, workers do
    futures[index] = spawn(map_worker, self, mapping)
  end
  await(combine.gather(futures))
  return mapping.results
end

--- Calls fn with each item of the list, spread over the pool; the future of the results in order.
--- The first error cancels the rest and is raised.
---@param fn function|string
---@param list any[]
---@param options? fasterlua.MapOptions
---@return fasterlua.Future
function methods:map(fn, list, options)
  check_job(fn)
  if type(list) ~= "table" then
    error(("map: a list expected, got %s"):format(type(list)), 2)
  end
  options = options or {}
  check_map_options(options)
  local size = core.stats(self._number).size
  local chunk = options.chunk or math.max(1, math.ceil(#list / (4 * size)))
  local mapping = { fn = fn, list = list, next = 1, total = #list, chunk = chunk, done = 0,
    results = {}, progress = options.progress }
  local workers = math.min(2 * size, math.ceil(#list / chunk))
  return spawn(run_mapping, self, mapping, workers)
end

---@class fasterlua.PoolStats
---@field size integer
---@field threads integer that there are now
---@field busy integer
---@field idle integer
---@field queued integer jobs that wait
---@field retired integer threads given up whose job still runs
---@field submitted integer
---@field completed integer
---@field failed integer
---@field timed_out integer
---@field cancelled integer
---@field refused integer
---@field retirements integer
---@field states_replaced integer
---@field running number seconds that functions ran
---@field crossing number seconds that the threads spent on arguments and results
---@field overhead number share of `crossing` in both
---@field waits integer[] [n]: jobs that waited for less than 2^(n-1) microseconds
---@field runs integer[] the same of the time that they ran

--- What the pool does and has done.
---@return fasterlua.PoolStats
function methods:stats()
  local stats = core.stats(self._number)
  local total = stats.running + stats.crossing
  stats.overhead = total > 0 and stats.crossing / total or 0
  return stats
end

--- Refuses jobs from now on; what is queued still runs.
function methods:close()
  core.close(self._number)
end

local defaults = {}

local function default(name)
  local self = defaults[name]
  if not self then
    self = handle(name, core.default(name))
    defaults[name] = self
  end
  return self
end

--- Runs fn(...) in a state of the default pool for computing.
---@param fn function|string
---@param ... any
---@return fasterlua.Future
function pool.run_in_state(fn, ...)
  check_job(fn)
  return submit(default "cpu", "call", nil, fn, ...)
end

--- Runs fn(...) on a thread that may block.
---@param fn function|string
---@param ... any
---@return fasterlua.Future
function pool.run_blocking(fn, ...)
  check_job(fn)
  return submit(default "blocking", "call", nil, fn, ...)
end

--- One of the default pools: "cpu" or "blocking".
---@param name string
---@return fasterlua.Pool
function pool.default(name)
  return default(name)
end

--- The number by which the server knows the pool: for the route option `run_in`.
---@param self fasterlua.Pool
---@return integer
function pool.number(self)
  return self._number
end

--- Whether the value is a pool.
---@param value any
---@return boolean
function pool.is_pool(value)
  return getmetatable(value) == Pool
end

return pool
