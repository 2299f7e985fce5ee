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
local core_task = require "fasterlua.core.task"
local task = require "fasterlua.task"
local units = require "fasterlua.units"
local waiting = require "fasterlua.waiting"

local await, from_op, spawn = future.await, future.from_op, task.spawn
local run = core.run
local error, math, pcall, setmetatable, tostring, type =
  error, math, pcall, setmetatable, tostring, type

local pool = {}

---@class fasterlua.PoolOptions
---@field name string
---@field size? integer threads; default one per usable CPU
---@field queue? integer jobs that may wait; one more raises `queue_full`
---@field timeout? number|string seconds that a job may take, waiting included; 0 for none
---@field max_memory? integer|string of a state's Lua heap, "64MB"
---@field isolation? "thread"|"process" where jobs run; default "thread"
---@field recycle_after? integer jobs after which a state, or a process, is made anew
---@field retire_rate? integer threads replaced in a window because their job could not be stopped
---@field retire_window? number|string seconds; default 60

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
  local seconds = units.seconds(value)
  return seconds ~= nil and seconds >= 0 and seconds < 4e9
end

local function is_size(value)
  local bytes = units.bytes(value)
  return bytes ~= nil and bytes >= 1 and bytes <= 2 ^ 50 and bytes % 1 == 0
end

-- What each option must be: a check, and its words.
local options_known = {
  name = { function(value) return type(value) == "string" and #value > 0 and #value < 64 end,
    "a string of at most 63 bytes" },
  size = { function(value) return is_count(value) and value <= 1024 end,
    "an integer from 1 to 1024" },
  queue = { is_count, "an integer from 1" },
  timeout = { is_seconds, 'seconds, or a time as "500ms"; 0 for none' },
  max_memory = { is_size, 'bytes from 1, or a size as "64MB"' },
  isolation = { function(value) return value == "thread" or value == "process" end,
    '"thread" or "process"' },
  recycle_after = { is_count, "an integer from 1" },
  retire_rate = { is_count, "an integer from 1" },
  retire_window = { is_seconds, 'seconds, or a time as "500ms"' },
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
    timeout = options.timeout and units.seconds(options.timeout),
    max_memory = options.max_memory and units.bytes(options.max_memory),
    recycle_after = options.recycle_after,
    retire_rate = options.retire_rate,
    retire_window = options.retire_window and units.seconds(options.retire_window),
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

-- The future of a job that core.run has sent; raises what has refused it.
local function sent(op, problem)
  if op then
    return from_op(op)
  end
  error(setmetatable(problem, PoolError), 0)
end

--- Runs fn(...) in a state of the pool; the future of its results.
---@param fn function|string
---@param ... any
---@return fasterlua.Future
function methods:run(fn, ...)
  check_job(fn)
  return sent(run(self._number, "call", nil, fn, ...))
end

--- The same, with a time limit of its own.
---@param seconds number|string
---@param fn function|string
---@param ... any
---@return fasterlua.Future
function methods:run_within(seconds, fn, ...)
  check_job(fn)
  if not is_seconds(seconds) then
    error(('run_within: seconds, or a time as "500ms", expected; 0 for none; got %s'):format(
      tostring(seconds)), 2)
  end
  return sent(run(self._number, "call", units.seconds(seconds), fn, ...))
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
    local part = slice(mapping.list, from, to)
    local results = await(sent(run(self._number, "map", nil, mapping.fn, part)))
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

---@class fasterlua.PoolStream: an iterator: `for piece in pool:stream(fn, …) do … end`
---@field private _op userdata
---@field private _result fasterlua.Future what its function returned, or its error
---@field private _guard userdata cancels the job when the stream is garbage
---@field private _is_over boolean
local Stream = { __name = "fasterlua.pool_stream" }
local stream_methods = {}
Stream.__index = stream_methods

local function finish(self)
  self._is_over = true
  await(self._result)
  return nil
end

local function received(self, is_piece, ...)
  if is_piece then
    return ...
  elseif core_task.op_done(self._op) then
    return finish(self)
  end
  local ok, err = pcall(waiting.suspend, core.wait_piece, self._op)
  if not ok then
    self:close()
    error(err, 0)
  end
  return received(self, core.piece(self._op))
end

--- The next piece: what the function yielded, several values perhaps. nil at its end; raises its
--- error.
---@return any ...
function stream_methods:next()
  if self._is_over then
    return nil
  end
  return received(self, core.piece(self._op))
end

Stream.__call = stream_methods.next

--- Cancels what still runs: no more pieces come.
function stream_methods:close()
  self._is_over = true
  core_task.op_cancel(self._op)
end

local function close_if_used(weak)
  local self = weak[1]
  if self then
    self:close()
  end
end

--- Runs fn(...) in a state of the pool; what it yields comes out of the iterator, piece by piece:
--- no more than 16 pieces, or a megabyte and one piece, are under way. The loop's request, or the
--- iterator's `close`, cancels it; so does the collector some time after the loop was left.
---
---     for line, number in pool:stream(read_lines, path) do … end
---
---@param fn function|string calls coroutine.yield(value, …), the first value not nil
---@param ... any
---@return fasterlua.PoolStream
function methods:stream(fn, ...)
  check_job(fn)
  local op, problem = core.run(self._number, "stream", nil, fn, ...)
  if not op then
    error(setmetatable(problem, PoolError), 0)
  end
  local stream = setmetatable(
    { _op = op, _result = from_op(op), _guard = core.guard(op), _is_over = false }, Stream)
  if core.is_in_request() then
    core_task.at_end(close_if_used, setmetatable({ stream }, { __mode = "v" }))
  end
  return stream
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
---@field states_replaced integer or processes
---@field running number seconds that functions ran
---@field crossing number seconds that the threads spent on arguments and results
---@field overhead number share of `crossing` in both
---@field waits integer[] [n]: jobs that waited for less than 2^(n-1) microseconds
---@field runs integer[] the same of the time that they ran
---@field costs integer[] the same of jobs that ran for less than 1 ms: waiting and crossing
---@field wait_p50 number seconds that half of all jobs waited at most; nil before the first
---@field wait_p99 number
---@field run_p50 number
---@field run_p99 number
---@field crossover number seconds: what runs for longer than this takes longer itself than being
---  sent here (the median cost of short jobs); nil before the first

-- The value below which that share of a histogram lies, in seconds: bucket n ends at 2^(n-1) µs,
-- between its ends the values are taken to lie evenly.
local function quantile(buckets, share)
  local total, below = 0, 0
  for index = 1, #buckets do
    total = total + buckets[index]
  end
  for index = 1, #buckets do
    local count = buckets[index]
    if count > 0 and below + count >= share * total then
      local from, to = index > 1 and 2 ^ (index - 2) or 0, 2 ^ (index - 1)
      return (from + (to - from) * (share * total - below) / count) * 1e-6
    end
    below = below + count
  end
end

--- What the pool does and has done.
---@return fasterlua.PoolStats
function methods:stats()
  local stats = core.stats(self._number)
  stats.wait_p50, stats.wait_p99 = quantile(stats.waits, 0.5), quantile(stats.waits, 0.99)
  stats.run_p50, stats.run_p99 = quantile(stats.runs, 0.5), quantile(stats.runs, 0.99)
  stats.crossover = quantile(stats.costs, 0.5)
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
  return sent(run(default("cpu")._number, "call", nil, fn, ...))
end

--- Runs fn(...) on a thread that may block.
---@param fn function|string
---@param ... any
---@return fasterlua.Future
function pool.run_blocking(fn, ...)
  check_job(fn)
  return sent(run(default("blocking")._number, "call", nil, fn, ...))
end

--- One of the default pools: "cpu" or "blocking".
---@param name string
---@return fasterlua.Pool
function pool.default(name)
  return default(name)
end

---@class fasterlua.Here
---@field process integer its id
---@field thread integer the id of the thread, as the system's tools show it
---@field pool string|nil the name of the pool whose state this is

--- Where the caller runs.
---@return fasterlua.Here
function pool.here()
  local process, thread, name = core.here()
  return { process = process, thread = thread, pool = name }
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
