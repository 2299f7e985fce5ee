-- SQL databases: PostgreSQL, SQLite, MariaDB and MySQL, by the same calls, all of them awaited.
--
--     local db = fl.db "sqlite:shop.db"
--     local item = await(db:one("select * from items where id = ?", 7))
--     await(db:transaction(function(tx)
--       await(tx:exec("update stock set n = n - 1 where item = ?", item.id))
--       await(tx:exec("insert into orders (item) values (?)", item.id))
--     end))
--
-- Every `?` stands for an argument, never for text of the statement; `in (?)` takes a list; `??` is
-- a question mark. NULL is nil, in arguments and in rows, and rows remember their columns, so that
-- JSON has null there. Statements are prepared, connections shared and reconnected by themselves.
-- Errors are tables with `kind = "db"`, `code` (SQLSTATE, or the database's own), `message`, and
-- where the database tells them `detail`, `hint`, `constraint`, `table`, `column`; `sql` is the
-- statement.

local core = require "fasterlua.core.db"
local driver = require "fasterlua.core.driver"
local future = require "fasterlua.future"
local rows = require "fasterlua.db.rows"
local task = require "fasterlua.task"
local transaction = require "fasterlua.db.transaction"
local url = require "fasterlua.db.url"

local from_op, spawn = future.from_op, task.spawn
local raw_query, raw_batch = core.query, core.batch
local ROWS, ROW, VALUE, COUNTS = 0, 1, 2, 3
local MOST = 64 -- databases of a Lua state: they stay open

local db = {}

---@class fasterlua.DbError
---@field kind "db"
---@field code string SQLSTATE or the database's own; ours: "connection", "timeout", "pool_timeout",
---"queue_full", "too_large", "refused", "argument", "syntax"
---@field message string
---@field detail? string
---@field hint? string
---@field constraint? string
---@field table? string
---@field column? string
---@field sql? string the statement, cut when it is long
---@field status? integer of the answer when nobody handles the error: 503 when the database is away

function core.error.__tostring(self)
  local where = self.sql and ("\nstatement: " .. self.sql) or ""
  return ("%s (%s)%s"):format(self.message, self.code, where)
end

---@class fasterlua.DbOptions
---@field pool? integer connections of a Lua state, beside those that its requests share
---@field timeout? number|string that a query may take; default db_timeout of conf, 30 s
---@field connect_timeout? number|string that a query waits for a database that is away
---@field pool_timeout? number|string that a query waits for a connection that others have
---@field max_result? integer|string bytes of the rows of one query
---@field queue? integer queries that may be under way

---@class fasterlua.Db
local Db = core.metatable
local methods = Db.__index

local opened, opened_count = {}, 0 -- handles by what they were opened with
local first -- that was opened
local origins = setmetatable({}, { __mode = "k" }) -- { url, options, driver } by handle

--- A future of all rows, in a list.
---@param sql string
---@param ... any its arguments, nil among them
---@return fasterlua.Future # table[]
function methods:all(sql, ...)
  return from_op(raw_query(self, ROWS, nil, false, sql, ...))
end

--- A future of the first row; nil when there is none.
---@param sql string
---@param ... any
---@return fasterlua.Future # table|nil
function methods:one(sql, ...)
  return from_op(raw_query(self, ROW, nil, false, sql, ...))
end

--- A future of the first column of the first row; nil when there is none, or it is NULL.
---@param sql string
---@param ... any
---@return fasterlua.Future # any
function methods:value(sql, ...)
  return from_op(raw_query(self, VALUE, nil, false, sql, ...))
end

--- A future of the number of rows affected, and the id of what was inserted where the database
--- tells it (SQLite, MariaDB; in PostgreSQL: `returning id`).
---@param sql string
---@param ... any
---@return fasterlua.Future # integer affected, integer|nil last_id
function methods:exec(sql, ...)
  return from_op(raw_query(self, COUNTS, nil, false, sql, ...))
end

--- Several statements in one go and as one transaction: all, or none. A future of a list of
--- `{ affected =, last_id =, rows = }`.
---@param statements table|string a list of { sql, arguments … }, or one sql for
---@param arguments? any[][] a list of lists of its arguments
---@return fasterlua.Future
function methods:batch(statements, arguments)
  return from_op(raw_batch(self, nil, rows.batch(statements, arguments)))
end

--- For a loop over rows that come piece by piece, in constant memory; it awaits.
---
---     for row in db:each("select * from events") do … end
---
--- Leave such a loop by `break` only where the request ends soon, or call `:close()` on it before:
--- its connection is its own until then.
---@param sql string
---@param ... any
---@return fasterlua.db.Rows
function methods:each(sql, ...)
  return rows.each(self, nil, sql, ...)
end

--- Runs `fn(tx)` in a transaction: committed when it returns, rolled back when it raises or is
--- cancelled. `tx` has the methods of the database; `tx:transaction` is a savepoint. A future of
--- what fn returned.
---@param fn fun(tx: fasterlua.db.Transaction): any
---@param options? fasterlua.db.TransactionOptions
---@return fasterlua.Future
function methods:transaction(fn, options)
  local origin = origins[self]
  transaction.check(fn, options, origin and origin.driver)
  return spawn(transaction.run, self, origin.driver, fn, options or {})
end

--- COPY of PostgreSQL. `copy t from stdin` takes the data as a string, a list of strings, or a
--- function that returns one after the other, and is a future of the number of rows; `copy t to
--- stdout` returns what a loop takes: `for chunk in db:copy("copy t to stdout") do`.
---@param sql string
---@param source? string|string[]|fun(): string|nil
---@return fasterlua.Future|fasterlua.db.Rows
function methods:copy(sql, source)
  if source == nil then
    return rows.copy_out(self, sql)
  end
  return spawn(rows.copy_in, self, sql, source)
end

--- Calls `fn(payload, channel)` in a task of its own for each notification of PostgreSQL's channel,
--- until the subscription is closed. It listens again when the connection was lost; what was told
--- meanwhile is missing then.
---@param channel string
---@param fn fun(payload: string, channel: string)
---@return fasterlua.db.Listener
function methods:listen(channel, fn)
  return rows.listen(self, channel, fn)
end

--- Copies an SQLite database, as it is at one moment, to another file.
---@param path string
---@return fasterlua.Future
function methods:backup(path)
  if type(path) ~= "string" or path == "" then
    error(("db:backup: a path expected, got %s"):format(tostring(path)), 2)
  end
  return from_op(core.backup(self, 0, path))
end

local Tuned = {}
local tuned_methods = {}
Tuned.__index = tuned_methods
for index, name in ipairs { "all", "one", "value", "exec" } do
  tuned_methods[name] = function(self, sql, ...)
    return from_op(raw_query(self._db, index - 1, self._timeout, self._retry, sql, ...))
  end
end

--- The database with other options for the calls that follow (all, one, value, exec).
---@param options { timeout?: number|string, retry?: boolean } retry: it may be run twice, when the
---connection was lost before its answer came
---@return table
function methods:with(options)
  if type(options) ~= "table" then
    error(("db:with: options must be a table, got %s"):format(type(options)), 2)
  end
  for name in pairs(options) do
    if name ~= "timeout" and name ~= "retry" then
      error(("db:with: unknown option %q: timeout and retry are known"):format(tostring(name)), 2)
    end
  end
  local timeout = options.timeout and url.milliseconds(options.timeout)
  if options.timeout and not timeout then
    error(("db:with: timeout must be a time, got %s"):format(tostring(options.timeout)), 2)
  end
  return setmetatable({ _db = self, _timeout = timeout, _retry = options.retry or false }, Tuned)
end

---@class fasterlua.DbStats
---@field connections integer that are open
---@field idle integer of them
---@field sessions integer transactions and loops that have one
---@field waiting integer queries without a connection
---@field pending integer queries under way
---@field queries integer since it was opened
---@field errors integer
---@field reconnects integer

--- What this Lua state has of the database.
---@return fasterlua.DbStats
function methods:stats()
  return core.stats(self)
end

--- The driver's name: "postgres", "sqlite" or "mariadb".
---@return string
function methods:driver()
  return origins[self].driver
end

local quotes = { postgres = '"', sqlite = '"', mariadb = "`" }

--- A name of a table or column to be put into a statement: one of those that are allowed, quoted.
---@param name string
---@param allowed string[]
---@return string
function methods:identifier(name, allowed)
  for _, known in ipairs(allowed) do
    if name == known then
      local quote = quotes[origins[self].driver]
      return quote .. name:gsub(quote, quote .. quote) .. quote
    end
  end
  error(("db:identifier: %q is none of those allowed"):format(tostring(name)), 2)
end

function Db.__tostring(self)
  local origin = origins[self]
  return ("fasterlua.db (%s)"):format(origin and origin.name or "?")
end

-- How it gets into another state: that opens it for itself.
function Db.__crossing(self)
  local origin = origins[self]
  return "fasterlua.db", origin.url, origin.options
end

local function key_of(text, options)
  local parts = { tostring(text) }
  for name, value in pairs(options) do
    parts[#parts + 1] = tostring(name) .. "=" .. type(value) .. tostring(value)
  end
  table.sort(parts, function(a, b)
    return a < b
  end)
  return table.concat(parts, "\0")
end

local function copy_of(options)
  local copy = {}
  for name, value in pairs(options or {}) do
    copy[name] = value
  end
  return copy
end

local function open(text, options)
  local target = url.read(text, options)
  if opened_count >= MOST then
    error(("fl.db: more than %d databases of one Lua state: each URL and each set of options is "
      .. "one, and they stay open"):format(MOST), 0)
  end
  local handle = core.open(driver.load(target.driver), target.settings)
  opened_count = opened_count + 1
  origins[handle] = { url = text, options = options, driver = target.driver,
    name = target.settings.name }
  return handle
end

--- Opens a database; nothing is connected before its first query. The same URL and options give the
--- same handle; a Lua state has 64 at most, for they stay open. The driver's package is needed now:
--- an error names it when it is missing.
---@param text string|fasterlua.DbOptions its URL; or the options with the URL as `url`
---@param options? fasterlua.DbOptions
---@return fasterlua.Db
function db.open(text, options)
  if options ~= nil and type(options) ~= "table" then
    error(("fl.db: options must be a table, got a %s"):format(type(options)), 2)
  end
  local is_one_table = type(text) == "table" and options == nil
  options = copy_of(is_one_table and text or options)
  if is_one_table then
    text, options.url = options.url, nil
  end
  local key = key_of(text, options)
  if not opened[key] then
    local ok, result = pcall(open, text, options)
    if not ok then
      error(result, 2)
    end
    opened[key], first = result, first or result
  end
  return opened[key]
end

--- What this state opened first, while its app was loaded: the app's own database. Its URL and
--- options.
---@return string|nil url
---@return fasterlua.DbOptions|nil options
function db.first()
  if first then
    return origins[first].url, origins[first].options
  end
end

--- The URL that a handle was opened with, without its password.
---@param handle fasterlua.Db
---@return string
function db.name_of(handle)
  return origins[handle].name
end

db.from_crossing = db.open

return db
