-- What of a database comes, or goes, piece by piece: rows of a loop, COPY, notifications; and the
-- list that a batch is made of.
--
--     for row in rows.each(handle, nil, "select * from events") do … end

local core = require "fasterlua.core.db"
local core_pool = require "fasterlua.core.pool"
local future = require "fasterlua.future"
local log = require "fasterlua.log"
local core_task = require "fasterlua.core.task"
local failure = require "fasterlua.failure"
local task = require "fasterlua.task"

local await, from_op, shield, sleep = future.await, future.from_op, task.shield, future.sleep

-- What a loop gets at a time, and one turn of the thread's loop handles: well below 1 ms.
local FIRST_ROWS, MOST_ROWS, BYTES = 100, 500, 65536
local FIRST_PAUSE, LONGEST_PAUSE = 0.05, 2 -- seconds between attempts to listen again

local rows = {}

local function undo_acquire(self)
  core.undo(self._op)
end

--- A future of a session, which goes back by itself when it reaches nobody.
---@param place userdata
---@param begin? string
---@return fasterlua.Future
function rows.acquire(place, begin)
  local acquiring = from_op(core.acquire(place, nil, begin))
  acquiring._undo = undo_acquire
  return acquiring
end

---@class fasterlua.db.Rows: what a loop calls for its next row
---@field package _place userdata|false the database; false: it has a session from the start
---@field package _session userdata|false
---@field package _transaction table|false that the session belongs to
local Rows = { __name = "fasterlua.db.rows" }
local methods = {}
Rows.__index = methods

local function is_own(self)
  return self._place ~= false
end

--- Ends it before its last row: its connection can be used by others again.
function methods:close()
  local session, transaction = self._session, self._transaction
  if self._is_over then
    return
  end
  self._is_over, self._piece, self._session = true, false, false
  if session and is_own(self) then
    core.release(session)
  elseif session then
    transaction._stream = false
    if self._is_begun then
      shield(await, from_op(core.more(session, nil, 0)))
    end
  end
end

local function close_forgotten(holder)
  local self = holder[1]
  if self and is_own(self) then
    self:close()
  end
end

local function take_session(self)
  local session = await(rows.acquire(self._place))
  if self._is_over then -- it was closed meanwhile
    return core.release(session)
  end
  self._session = session
  if core_pool.is_in_request() then
    core_task.at_end(close_forgotten, setmetatable({ self }, { __mode = "v" }))
  end
end

local function begin(self)
  if is_own(self) then
    take_session(self)
    if self._is_over then
      return nil
    end
  end
  local op = self._start(self._session, self._timeout, self._rows, self._sql,
    unpack(self._arguments, 1, self._arguments.n))
  self._is_begun = true
  return op
end

-- How many rows have BYTES, if they are like those.
local function count_of(rows_there, bytes)
  local count = math.floor(BYTES * rows_there / math.max(bytes, 1))
  return math.max(1, math.min(count, MOST_ROWS))
end

local function fetch(self)
  local op
  if self._is_begun then
    op = core.more(self._session, self._timeout, self._rows)
  else
    op = begin(self)
  end
  if op and core_task.op_done(op) then
    await(sleep(0)) -- what comes faster than it is taken lets others have their turn
  end
  local piece, bytes
  if op then
    piece, bytes = await(from_op(op))
  end
  self._piece, self._at = not self._is_over and piece or false, 0
  if piece then
    self._rows = count_of(#piece, bytes)
  end
end

-- Who closes it ends the loop. Otherwise the error of its statement matters more than one of its
-- end.
local function fetched(self, ok, err)
  self._is_fetching = false
  if ok then
    return
  end
  local traceback = failure.take_traceback(err)
  if self._is_over and not task.is_cancelled() then
    return
  end
  pcall(self.close, self)
  return failure.rethrow(err, traceback)
end

function Rows.__call(self)
  local at = self._at + 1
  local row = self._piece and self._piece[at]
  if row then
    self._at = at
    return row
  elseif self._is_over then
    return nil
  elseif self._is_fetching then
    error("two tasks ask a loop over rows for its next one: each would miss rows", 2)
  end
  self._is_fetching = true
  fetched(self, xpcall(fetch, failure.keep_traceback, self))
  if not self._piece then
    if is_own(self) then
      self:close()
    elseif not self._is_over then
      self._is_over, self._transaction._stream = true, false
    end
    return nil
  end
  self._at = 1
  return self._piece[1]
end

local function new(place, session, start, timeout, sql, ...)
  return setmetatable({ _place = place, _session = session, _transaction = false, _start = start,
    _timeout = timeout, _sql = sql, _arguments = { n = select("#", ...), ... }, _piece = false,
    _at = 0, _rows = FIRST_ROWS, _is_over = false, _is_begun = false, _is_fetching = false }, Rows)
end

--- Rows of a statement that has a session of its own meanwhile.
---@param place userdata
---@param timeout? number ms of each piece
---@param sql string
---@param ... any
---@return fasterlua.db.Rows
function rows.each(place, timeout, sql, ...)
  return new(place, false, core.stream, timeout, sql, ...)
end

--- Rows of a statement in a transaction, which runs nothing else meanwhile.
---@param transaction fasterlua.db.Transaction
---@param sql string
---@param ... any
---@return fasterlua.db.Rows
function rows.each_in(transaction, sql, ...)
  local self = new(false, transaction._session, core.stream, nil, sql, ...)
  self._transaction = transaction
  transaction._stream = self
  return self
end

--- The list that the core takes: `{ sql, … }` for each statement.
---@param statements table|string
---@param arguments? any[][]
---@return table[]
function rows.batch(statements, arguments)
  if type(statements) == "table" then
    return statements
  elseif type(statements) ~= "string" or type(arguments) ~= "table" then
    error("db:batch: a list of { sql, arguments … }, or sql and a list of arguments expected", 3)
  end
  local list = {}
  for index, values in ipairs(arguments) do
    if type(values) ~= "table" then
      error(("db:batch: arguments %d are a %s, not a list"):format(index, type(values)), 3)
    end
    local count = values.n or #values
    list[index] = { statements, unpack(values, 1, count) }
    list[index].n = count + 1
  end
  return list
end

-- COPY

local function next_chunk(read)
  local row = read()
  return row and row.data
end

local function start_copy(session, timeout, piece, sql)
  return core.copy(session, timeout, sql, piece)
end

--- What a loop over the data of `copy … to stdout` calls.
---@param place userdata
---@param sql string
---@return fun(): string|nil
---@return fasterlua.db.Rows
function rows.copy_out(place, sql)
  return next_chunk, new(place, false, start_copy, nil, sql)
end

local function chunks_of(source)
  if type(source) == "string" then
    return pairs { source }
  elseif type(source) == "table" then
    return ipairs(source)
  elseif type(source) ~= "function" then
    error(("db:copy: a string, a list or a function expected, got %s"):format(type(source)), 0)
  end
  return function()
    local chunk = source()
    return chunk, chunk
  end
end

local function send(session, sql, source)
  await(from_op(core.copy(session, nil, sql)))
  for _, chunk in chunks_of(source) do
    if type(chunk) ~= "string" then
      error(("db:copy: pieces must be strings, got a %s"):format(type(chunk)), 0)
    end
    await(from_op(core.copy_data(session, nil, chunk)))
  end
  return await(from_op(core.copy_end(session, nil)))
end

--- Sends the data of `copy … from stdin`; returns the number of rows. When the source raises,
--- nothing is copied: the session goes back with its COPY open, which the driver ends.
---@param place userdata
---@param sql string
---@param source string|string[]|fun(): string|nil
---@return integer
function rows.copy_in(place, sql, source)
  local session = await(rows.acquire(place))
  return (failure.finally(core.release, session, send, session, sql, source))
end

-- notifications

---@class fasterlua.db.Listener
---@field package _task fasterlua.Future
local Listener = { __name = "fasterlua.db.listener" }
Listener.__index = Listener

--- Ends it: fn is not called any more.
function Listener:close()
  self._is_closed = true
  self._task:cancel()
end

local function call(self, row)
  local ok, err = pcall(self._fn, row.payload, row.channel)
  if not ok and not task.is_cancelled() then
    log.error("db:listen: the function for a notification failed",
      { channel = self._channel, error = tostring(err) })
  end
end

local function hear(session, self)
  local name = self._channel:gsub('"', '""')
  await(from_op(core.query(session, 3, nil, false, ('listen "%s"'):format(name))))
  self._pause = FIRST_PAUSE
  while not self._is_closed do
    call(self, await(from_op(core.wait(session))))
  end
end

local function listen_once(self)
  local session = await(rows.acquire(self._place))
  failure.finally(core.release, session, hear, session, self)
end

local function keep_listening(self)
  while not self._is_closed do
    local ok, err = pcall(listen_once, self)
    if ok or self._is_closed or task.is_cancelled() then
      return
    end
    log.warn("db:listen: listening again after an error",
      { channel = self._channel, error = tostring(err) })
    await(sleep(self._pause))
    self._pause = math.min(self._pause * 2, LONGEST_PAUSE)
  end
end

--- Listens in a task of its own.
---@param place userdata
---@param channel string
---@param fn fun(payload: string, channel: string)
---@return fasterlua.db.Listener
function rows.listen(place, channel, fn)
  if type(channel) ~= "string" or channel == "" or #channel > 63 then
    error(("db:listen: a channel of 1 to 63 bytes expected, got %s"):format(tostring(channel)), 3)
  elseif type(fn) ~= "function" then
    error(("db:listen: a function expected, got %s"):format(type(fn)), 3)
  end
  local self = setmetatable({ _place = place, _channel = channel, _fn = fn, _pause = FIRST_PAUSE,
    _is_closed = false, _task = false }, Listener)
  self._task = task.detach(keep_listening, self)
  return self
end

return rows
