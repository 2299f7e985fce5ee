-- Transactions of a database: a session for one function, committed or rolled back at its end.
--
--     await(db:transaction(function(tx) await(tx:exec("delete from carts")) end, { retry = 3 }))

local core = require "fasterlua.core.db"
local future = require "fasterlua.future"
local rows = require "fasterlua.db.rows"
local suggest = require "fasterlua.suggest"
local core_task = require "fasterlua.core.task"
local failure = require "fasterlua.failure"
local task = require "fasterlua.task"

local await, from_op, sleep, spawn = future.await, future.from_op, future.sleep, task.spawn
local raw_query, raw_batch = core.query, core.batch
local current_task = core_task.current
local math, pcall, type, tostring = math, pcall, type, tostring

local FIRST_PAUSE, LONGEST_PAUSE = 0.002, 0.2 -- seconds before a transaction is tried again

local transaction = {}

---@class fasterlua.db.TransactionOptions
---@field retry? integer how often it is tried again after a serialization failure or a deadlock; 0
---@field isolation? "read committed"|"repeatable read"|"serializable"
---@field read_only? boolean

local isolations = { ["read committed"] = true, ["repeatable read"] = true, serializable = true }
local known = { "retry", "isolation", "read_only" }

--- Raises what is wrong with the arguments of `db:transaction`.
---@param fn any
---@param options any
---@param driver string
function transaction.check(fn, options, driver)
  if type(fn) ~= "function" then
    error(("db:transaction: a function expected, got %s"):format(type(fn)), 3)
  elseif options ~= nil and type(options) ~= "table" then
    error(("db:transaction: options must be a table, got %s"):format(type(options)), 3)
  end
  for name in pairs(options or {}) do
    if name ~= "retry" and name ~= "isolation" and name ~= "read_only" then
      error(("db:transaction: unknown option %q%s"):format(tostring(name),
        suggest.hint(tostring(name), known)), 3)
    end
  end
  local isolation = options and options.isolation
  if isolation and not isolations[isolation] then
    error(('db:transaction: isolation must be "read committed", "repeatable read" or '
      .. '"serializable", got %s'):format(tostring(isolation)), 3)
  elseif isolation and driver == "sqlite" and isolation ~= "serializable" then
    error("db:transaction: every transaction of SQLite is serializable", 3)
  end
  local retry = options and options.retry
  if retry ~= nil and not (type(retry) == "number" and retry >= 0 and retry % 1 == 0) then
    error(("db:transaction: retry must be an integer from 0, got %s"):format(tostring(retry)), 3)
  end
end

-- What is run before the session is used, and in it.
local begins = {}

function begins.postgres(options)
  local text = "begin"
  if options.isolation then
    text = text .. " isolation level " .. options.isolation
  end
  return options.read_only and text .. " read only" or text
end

function begins.sqlite(options)
  return options.read_only and "begin deferred read only" or "begin immediate"
end

function begins.mariadb(options)
  if options.isolation then
    return nil
  end
  return options.read_only and "start transaction read only" or "start transaction"
end

-- A whole transaction, or a part of one: a savepoint.
--
---@class fasterlua.db.Transaction
---@field package _session userdata
---@field package _whole fasterlua.db.Transaction
---@field package _depth integer of a part, from 1
---@field package _part fasterlua.db.Transaction|false the part of it that is open
---@field package _task integer|false that runs the part
---@field package _stream fasterlua.db.Rows|false of the whole: a loop over rows that is open
---@field package _is_over boolean
local Transaction = { __name = "fasterlua.db.transaction" }
local methods = {}
Transaction.__index = methods

local function new(session, outer)
  local self = setmetatable({ _session = session, _whole = false, _part = false, _task = false,
    _depth = outer and outer._depth + 1 or 0, _stream = false, _is_over = false }, Transaction)
  self._whole = outer and outer._whole or self
  return self
end

local function session_of(self)
  if self._is_over or self._whole._is_over then
    error("the transaction is over", 3)
  elseif self._whole._stream then
    error("a loop over rows of this transaction is open: end it or call its :close() first", 3)
  end
  return self._session
end

for index, name in ipairs { "all", "one", "value", "exec" } do
  methods[name] = function(self, sql, ...)
    return from_op(raw_query(session_of(self), index - 1, nil, false, sql, ...))
  end
end

--- As of the database, within the transaction.
---@param statements table|string
---@param arguments? any[][]
---@return fasterlua.Future
function methods:batch(statements, arguments)
  return from_op(raw_batch(session_of(self), nil, rows.batch(statements, arguments)))
end

--- Rows piece by piece; nothing else of the transaction runs until the loop has ended.
---@param sql string
---@param ... any
---@return fasterlua.db.Rows
function methods:each(sql, ...)
  session_of(self)
  return rows.each_in(self._whole, sql, ...)
end

local function command(self, text)
  return await(from_op(core.command(self._session, nil, text)))
end

local function end_stream(self)
  local stream = self._whole._stream
  if stream then
    stream:close()
  end
end

local function roll_back_to(self, name)
  end_stream(self)
  command(self, "rollback to savepoint " .. name)
  command(self, "release savepoint " .. name)
end

local function keep_part(self, name)
  end_stream(self)
  command(self, "release savepoint " .. name)
end

local function finish_part(self, name, ok, ...)
  if ok and not task.is_cancelled() then
    task.shield(keep_part, self, name)
    return ...
  end
  local err = ...
  local traceback = not ok and failure.take_traceback(err)
  pcall(task.shield, roll_back_to, self, name)
  if ok then
    return await(sleep(0)) -- raises that it was cancelled
  end
  return failure.rethrow(err, traceback)
end

local function run_part(self, fn)
  local name = "fasterlua_" .. self._depth
  command(self, "savepoint " .. name)
  return finish_part(self, name, xpcall(fn, failure.keep_traceback, self))
end

-- What a new part of a transaction is in: that, or the innermost part that is open, when the new
-- one begins in its task. Two that overlap would undo and keep each other's work.
local function outer_of(self, beginning_task)
  local outer = self
  while outer._part do
    outer = outer._part
  end
  if outer ~= self and outer._task ~= beginning_task then
    error("another part of this transaction is open: await it first; within it, begin parts by "
      .. "what its function is given", 0)
  end
  return outer
end

local function leave_part(outer)
  outer._part._is_over = true
  outer._part = false
end

local function begin_part(self, beginning_task, fn)
  local outer = outer_of(self, beginning_task)
  local part = new(self._session, outer)
  outer._part, part._task = part, current_task()
  return failure.finally(leave_part, outer, run_part, part, fn)
end

--- A part that can be rolled back by itself: a savepoint. One at a time; it may have parts itself.
---@param fn fun(tx: fasterlua.db.Transaction): any
---@return fasterlua.Future
function methods:transaction(fn)
  session_of(self)
  transaction.check(fn)
  return spawn(begin_part, self, current_task(), fn)
end

local function commit(self)
  end_stream(self)
  command(self, "commit")
end

local function roll_back(self)
  end_stream(self)
  command(self, "rollback")
end

local function finish(self, ok, ...)
  if ok and not task.is_cancelled() then
    task.shield(commit, self)
    self._is_over = true
    return ...
  end
  local err = ...
  local traceback = not ok and failure.take_traceback(err)
  pcall(task.shield, roll_back, self)
  self._is_over = true
  if ok then
    return await(sleep(0)) -- raises that it was cancelled
  end
  return failure.rethrow(err, traceback)
end

local function release(self)
  self._is_over = true
  core.release(self._session)
end

local function run_in(self, options, driver, fn)
  if driver == "mariadb" and options.isolation then
    command(self, "set transaction isolation level " .. options.isolation)
    command(self, begins.mariadb { read_only = options.read_only })
  end
  return finish(self, xpcall(fn, failure.keep_traceback, self))
end

local function attempt(handle, driver, fn, options)
  local session = await(rows.acquire(handle, begins[driver](options)))
  local self = new(session)
  return failure.finally(release, self, run_in, self, options, driver, fn)
end

local transient = { ["40001"] = true, ["40P01"] = true, SQLITE_BUSY_SNAPSHOT = true }

local function may_succeed_later(err)
  return type(err) == "table" and rawget(err, "kind") == "db" and transient[err.code]
end

local function pack(...)
  return { n = select("#", ...), ... }
end

--- Runs fn in a transaction, in the calling task.
---@param handle userdata
---@param driver string
---@param fn fun(tx: fasterlua.db.Transaction): any
---@param options fasterlua.db.TransactionOptions
---@return any ... what fn returned
function transaction.run(handle, driver, fn, options)
  local pause = FIRST_PAUSE
  for _ = 1, options.retry or 0 do
    local result = pack(pcall(attempt, handle, driver, fn, options))
    if result[1] then
      return unpack(result, 2, result.n)
    elseif not may_succeed_later(result[2]) then
      error(result[2], 0)
    end
    await(sleep(pause * (0.5 + math.random())))
    pause = math.min(pause * 2, LONGEST_PAUSE)
  end
  return attempt(handle, driver, fn, options)
end

return transaction
