-- Migrations of a database: the SQL files of an app's folder, run once each, in order.
--
--     local migrations = require "fasterlua.migrations"
--     app:on_start(function() migrations.apply(db) end)
--
-- `fasterlua db migrate` calls the same functions. What has been applied stands in the table
-- fasterlua_migrations, together with what the file said then. Each file is one transaction, with
-- its row of that table; MariaDB, which commits with every CREATE, ALTER and DROP, can take back
-- only what changed rows. However many processes try at once, one applies, and the others find
-- nothing left to do. Files are described in files.lua.

local core = require "fasterlua.core.db"
local files = require "fasterlua.migrations.files"
local future = require "fasterlua.future"
local history = require "fasterlua.migrations.history"
local lock = require "fasterlua.migrations.lock"
local problem = require "fasterlua.migrations.problem"
local rows = require "fasterlua.db.rows"
local suggest = require "fasterlua.suggest"

local await, from_op, sleep = future.await, future.from_op, future.sleep

local FOREVER = 0 -- how long a statement may take
local PAUSE = 0.1 -- seconds

local migrations = {}

---@class fasterlua.MigrationOptions
---@field folder? string relative to the app's; default "migrations"
---@field to? integer the last version to apply; of a rollback: the last one that stays
---@field steps? integer how many at most; of a rollback 1 unless there is `to`
---@field dry_run? boolean tries them in a transaction that is rolled back, where that can be
---@field allow_changed? boolean files that say something else than when they were applied
---@field allow_missing? boolean applied ones that have no file
---@field allow_out_of_order? boolean files before the last one that was applied
---@field report? fun(what: string, migration?: fasterlua.Migration, detail?: any) "applied",
---"rolled back" (with seconds), "planned" (with "up" or "down"), "checked", "unchecked", "waiting"
---@field shown? string what messages call the folder

local option_names = { "folder", "to", "steps", "dry_run", "allow_changed", "allow_missing",
  "allow_out_of_order", "report", "shown" }

---@class fasterlua.MigrationState
---@field version integer
---@field name string
---@field file string|nil
---@field state "applied"|"pending"|"changed"|"missing"|"out of order"
---@field applied_at string|nil

local function nothing() end

local function check_options(options)
  for name in pairs(options) do
    local is_known = false
    for _, known in ipairs(option_names) do
      is_known = is_known or known == name
    end
    if not is_known then
      error(("migrations: unknown option %q%s"):format(tostring(name),
        suggest.hint(tostring(name), option_names)), 4)
    end
  end
end

-- A run: what all steps of it need.
local function new_run(db, options)
  options = options or {}
  check_options(options)
  local folder = options.folder or "migrations"
  return { db = db, driver = db:driver(), options = options, session = false,
    files = files.read(folder, db:driver(), options.shown), report = options.report or nothing }
end

-- what is to be done

local function applied_entries(self, place)
  return history.exists(place, self.driver) and history.read(place, self.driver) or {}
end

local function state_of(migration, entry, last)
  if not entry then
    return migration.version < last and "out of order" or "pending"
  end
  return entry.checksum == migration.checksum and "applied" or "changed"
end

-- Files and entries side by side, by version.
local function compare(self, entries)
  local by_version, states = {}, {}
  local last = entries[#entries] and entries[#entries].version or -1
  for _, entry in ipairs(entries) do
    by_version[entry.version] = entry
  end
  for _, migration in ipairs(self.files) do
    local entry = by_version[migration.version]
    by_version[migration.version] = nil
    states[#states + 1] = { version = migration.version, name = migration.name,
      file = migration.file, state = state_of(migration, entry, last), migration = migration,
      applied_at = entry and entry.applied_at }
  end
  for _, entry in pairs(by_version) do
    states[#states + 1] = { version = entry.version, name = entry.name, state = "missing",
      applied_at = entry.applied_at }
  end
  table.sort(states, function(a, b) return a.version < b.version end)
  return states
end

local complaints = {
  changed = "%s was changed after it had been applied: put it back and write another one "
    .. "(--allow-changed takes it as it is now)",
  missing = "version %s was applied, but has no file (--allow-missing goes on without it)",
  ["out of order"] = "%s comes before others that have been applied: give it a higher version "
    .. "(--allow-out-of-order applies it nevertheless)",
}

local function is_allowed(self, state)
  return self.options["allow_" .. state:gsub(" ", "_")]
end

local function describe(each)
  return each.migration and each.migration.path or ("%d (%s)"):format(each.version, each.name)
end

local function check_states(self, states, what)
  local found = {}
  for _, each in ipairs(states) do
    local counts = what == "applied" or each.state == "changed"
    if counts and complaints[each.state] and not is_allowed(self, each.state) then
      found[#found + 1] = complaints[each.state]:format(describe(each))
    end
  end
  if found[1] then
    problem.raise("%s", table.concat(found, "\n"))
  end
end

local function check_target(self, states)
  local to = self.options.to
  if to == nil or to == 0 then
    return
  end
  for _, each in ipairs(states) do
    if each.version == to then
      return
    end
  end
  problem.raise("there is no migration with version %d", to)
end

local function pending_of(self, states)
  local list, most = {}, self.options.steps or math.huge
  local to = self.options.to or math.huge
  for _, each in ipairs(states) do
    local is_new = each.state == "pending" or each.state == "out of order"
    if is_new and each.version <= to and #list < most then
      list[#list + 1] = each.migration
    end
  end
  return list
end

local function is_applied(each)
  return each.applied_at ~= nil
end

local function check_down(each)
  if not each.migration then
    problem.raise("version %s cannot be rolled back: it has no file", describe(each))
  elseif not each.migration.down then
    problem.raise("%s cannot be rolled back: it has no `-- down`", describe(each))
  end
end

-- The last one first.
local function undone_of(self, states)
  local to = self.options.to or -1
  local most = self.options.steps or (self.options.to and math.huge or 1)
  local list = {}
  for index = #states, 1, -1 do
    local each = states[index]
    if is_applied(each) and each.version > to and #list < most then
      check_down(each)
      list[#list + 1] = each.migration
    end
  end
  return list
end

-- doing it

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
  pcall(future.shield, command, session, "rollback")
  if ok then
    return ...
  end
  local err = ...
  return future.rethrow(err, future.take_traceback(err))
end

local function transact_in(session, is_kept, fn, ...)
  return finish(session, is_kept, xpcall(fn, future.on_failure, session, ...))
end

-- Calls fn(session, ...) in a transaction, which is committed or (is_kept = false) rolled back.
local function transact(self, is_kept, fn, ...)
  if self.driver == "sqlite" then
    local session = acquire_writer(self)
    return future.finally(core.release, session, transact_in, session, is_kept, fn, ...)
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
  return future.finally(core.release, session, fn, session, ...)
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

local function perform_all(self, list, what)
  local done = {}
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

local function plan(self, list, what)
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

local function accept_changes(place, states)
  for _, each in ipairs(states) do
    if each.state == "changed" then
      history.accept(place, each.migration)
    end
  end
end

local function change(self, choose, what)
  local place = self.session or self.db
  local states = compare(self, applied_entries(self, place))
  check_states(self, states, what)
  check_target(self, states)
  local list = choose(self, states)
  if self.options.dry_run then
    return plan(self, list, what)
  end
  accept_changes(place, states)
  if list[1] then
    transact(self, true, prepare, self)
  end
  return perform_all(self, list, what)
end

-- Calls fn(self, ...) with the lock; for SQLite without a session of its own.
local function alone(self, fn, ...)
  if self.driver == "sqlite" then
    return fn(self, ...)
  end
  self.session = await(rows.acquire(self.db))
  local function waiting()
    self.report "waiting"
  end
  return future.finally(core.release, self.session, lock.hold, self.session, self.driver, waiting,
    fn, self, ...)
end

--- Applies what is pending; awaits. Raises an error with `kind = "migration"` that says which line
--- of which file failed and what of it stays.
---@param db fasterlua.Db
---@param options? fasterlua.MigrationOptions
---@return string[] files that were applied, or would be
function migrations.apply(db, options)
  local self = new_run(db, options)
  local states = compare(self, applied_entries(self, db))
  check_states(self, states, "applied")
  check_target(self, states)
  if #pending_of(self, states) == 0 and not self.options.allow_changed then
    return {}
  end
  return alone(self, change, pending_of, "applied")
end

--- Takes back what was applied last; awaits.
---@param db fasterlua.Db
---@param options? fasterlua.MigrationOptions
---@return string[] files that were rolled back, or would be
function migrations.rollback(db, options)
  return alone(new_run(db, options), change, undone_of, "rolled back")
end

--- What is applied and what is not; awaits. Changes nothing.
---@param db fasterlua.Db
---@param options? fasterlua.MigrationOptions
---@return fasterlua.MigrationState[]
function migrations.status(db, options)
  local self = new_run(db, options)
  local states = compare(self, applied_entries(self, db))
  for _, each in ipairs(states) do
    each.problem = complaints[each.state] and complaints[each.state]:format(describe(each))
    each.migration = nil
  end
  return states
end

return migrations
