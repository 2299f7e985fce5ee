-- Migrations carried out: statement by statement, in transactions where they may have one.
--
--     local done = run.perform({ db = db, driver = "sqlite", session = false, report = print },
--       list, "applied")

local core = require "fasterlua.core.db"
local failure = require "fasterlua.failure"
local future = require "fasterlua.future"
local history = require "fasterlua.migrations.history"
local problem = require "fasterlua.migrations.problem"
local rows = require "fasterlua.db.rows"
local task = require "fasterlua.task"

local await, from_op, sleep = future.await, future.from_op, future.sleep

local FOREVER = 0 -- how long a statement may take
local PAUSE = 0.1 -- seconds

local run = {}

---@class fasterlua.migrations.Run
---@field db fasterlua.Db
---@field driver "postgres"|"sqlite"|"mariadb"
---@field session userdata|false that has the lock; SQLite has none
---@field report fun(what: string, migration?: fasterlua.Migration, detail?: any)
---@field options fasterlua.MigrationOptions
---@field files fasterlua.Migration[]

local function command(session, text)
  return await(from_op(core.command(session, FOREVER, text)))
end

-- What of a file stays when one of its statements fails.
local function aftermath(self, migration, statements, index)
  local is_kept = not migration.is_transactional
  for before = 1, index - 1 do
    is_kept = is_kept or self.driver == "mariadb" and statements[before].is_schema
  end
  if index == 1 or not is_kept then
    return "nothing of this file stays"
  end
  return ("it is applied in part: the %s before line %d stays done (%s); put that right by hand, "
    .. "then try again"):format(index == 2 and "statement" or index - 1 .. " statements",
    statements[index].line, migration.is_transactional
      and "this database commits with every CREATE, ALTER and DROP" or "-- no transaction")
end

local function first_line(text)
  local line = text:match("^[^\n]*")
  return #line < #text and line .. " …" or line
end

local function message_of(err)
  if type(err) ~= "table" or err.kind ~= "db" then
    return tostring(err)
  end
  local lines = { ("%s (%s)"):format(err.message, err.code) }
  for _, name in ipairs { "detail", "hint" } do
    lines[#lines + 1] = err[name] and ("  %s: %s"):format(name, err[name])
  end
  return table.concat(lines, "\n")
end

local function run_statements(self, session, migration, statements)
  for index, statement in ipairs(statements) do
    local ok, err = pcall(command, session, statement.text)
    if not ok and (type(err) ~= "table" or err.kind ~= "db") then
      error(err, 0)
    elseif not ok then
      problem.raise("%s:%d: %s\n  statement: %s\n%s", migration.path, statement.line,
        message_of(err), first_line(statement.text), aftermath(self, migration, statements, index))
    end
  end
end

local is_busy = { pool_timeout = true, SQLITE_BUSY = true, SQLITE_BUSY_TIMEOUT = true }

-- SQLite: whoever writes is alone, and other processes may be long at it.
local function acquire_writer(self)
  for _ = 1, math.huge do
    local ok, session = pcall(await, rows.acquire(self.db, "begin immediate"))
    if ok then
      return session
    elseif type(session) ~= "table" or not is_busy[session.code] then
      error(session, 0)
    end
    self.report "waiting"
    await(sleep(PAUSE))
  end
end

local function finish(session, is_kept, ok, ...)
  if ok and is_kept then
    command(session, "commit")
    return ...
  end
  pcall(task.shield, command, session, "rollback")
  if ok then
    return ...
  end
  local err = ...
  return failure.rethrow(err, failure.take_traceback(err))
end

local function transact_in(session, is_kept, fn, ...)
  return finish(session, is_kept, xpcall(fn, failure.keep_traceback, session, ...))
end

-- Calls fn(session, ...) in a transaction, which is committed or (is_kept = false) rolled back.
local function transact(self, is_kept, fn, ...)
  if self.driver == "sqlite" then
    local session = acquire_writer(self)
    return failure.finally(core.release, session, transact_in, session, is_kept, fn, ...)
  end
  command(self.session, self.driver == "postgres" and "begin" or "start transaction")
  return transact_in(self.session, is_kept, fn, ...)
end

-- Without one.
local function run_plainly(self, fn, ...)
  if self.session then
    return fn(self.session, ...)
  end
  local session = await(rows.acquire(self.db))
  return failure.finally(core.release, session, fn, session, ...)
end

local steps = {
  applied = { "up", function(session, migration) return history.has(session, migration) end,
    history.add },
  ["rolled back"] = { "down", function(session, migration)
    return not history.has(session, migration)
  end, history.remove },
}

-- Whether it was done: another process may have done it before.
local function perform(session, self, migration, what)
  local direction, is_done, note = unpack(steps[what])
  if is_done(session, migration) then
    return false
  end
  run_statements(self, session, migration, migration[direction])
  note(session, migration)
  return true
end

local function prepare(session, self)
  history.create(session, self.driver)
end

local function run_in_its_way(self, migration, what)
  if migration.is_transactional then
    return transact(self, true, perform, self, migration, what)
  end
  return run_plainly(self, perform, self, migration, what)
end

--- Does them one by one; awaits.
---@param self fasterlua.migrations.Run
---@param list fasterlua.Migration[]
---@param what "applied"|"rolled back"
---@return string[] files; without those that another process has done meanwhile
function run.perform(self, list, what)
  local done = {}
  if list[1] then
    transact(self, true, prepare, self)
  end
  for _, migration in ipairs(list) do
    local began = os.time()
    if run_in_its_way(self, migration, what) then
      done[#done + 1] = migration.file
      self.report(what, migration, os.time() - began)
    end
  end
  return done
end

-- As far as that goes in one transaction, which nobody will see.
local function try_all(session, self, list, what)
  history.create(session, self.driver)
  for _, migration in ipairs(list) do
    if not migration.is_transactional then
      return self.report("unchecked", migration)
    end
    perform(session, self, migration, what)
  end
  self.report "checked"
end

--- Tells what would be done, and tries it where the database can; awaits.
---@param self fasterlua.migrations.Run
---@param list fasterlua.Migration[]
---@param what "applied"|"rolled back"
---@return string[] files
function run.plan(self, list, what)
  local names = {}
  for index, migration in ipairs(list) do
    names[index] = migration.file
    self.report("planned", migration, steps[what][1])
  end
  if list[1] and self.driver ~= "mariadb" then
    transact(self, false, try_all, self, list, what)
  end
  return names
end

return run
