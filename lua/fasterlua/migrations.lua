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
local failure = require "fasterlua.failure"
local files = require "fasterlua.migrations.files"
local future = require "fasterlua.future"
local history = require "fasterlua.migrations.history"
local lock = require "fasterlua.migrations.lock"
local rows = require "fasterlua.db.rows"
local run = require "fasterlua.migrations.run"
local states = require "fasterlua.migrations.states"
local suggest = require "fasterlua.suggest"

local await = future.await

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

local function nothing() end

-- A run: what all steps of it need.
local function new_run(db, options)
  options = options or {}
  suggest.check_options("migrations", options, option_names, 3)
  local folder = options.folder or "migrations"
  return { db = db, driver = db:driver(), options = options, session = false,
    files = files.read(folder, db:driver(), options.shown), report = options.report or nothing }
end

local function compare(self, place)
  local entries = history.exists(place, self.driver) and history.read(place, self.driver) or {}
  return states.compare(self.files, entries)
end

local function check(self, list, what)
  states.check(list, self.options, what)
  states.check_target(list, self.options.to)
end

local function accept_changes(place, list)
  for _, each in ipairs(list) do
    if each.state == "changed" then
      history.accept(place, each.migration)
    end
  end
end

local function change(self, choose, what)
  local place = self.session or self.db
  local list = compare(self, place)
  check(self, list, what)
  local chosen = choose(list, self.options)
  if self.options.dry_run then
    return run.plan(self, chosen, what)
  end
  accept_changes(place, list)
  return run.perform(self, chosen, what)
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
  return failure.finally(core.release, self.session, lock.hold, self.session, self.driver, waiting,
    fn, self, ...)
end

--- Applies what is pending; awaits. Raises an error with `kind = "migration"` that says which line
--- of which file failed and what of it stays.
---@param db fasterlua.Db
---@param options? fasterlua.MigrationOptions
---@return string[] files that were applied, or would be
function migrations.apply(db, options)
  local self = new_run(db, options)
  local list = compare(self, db)
  check(self, list, "applied")
  if #states.pending(list, self.options) == 0 and not self.options.allow_changed then
    return {}
  end
  return alone(self, change, states.pending, "applied")
end

--- Takes back what was applied last; awaits.
---@param db fasterlua.Db
---@param options? fasterlua.MigrationOptions
---@return string[] files that were rolled back, or would be
function migrations.rollback(db, options)
  return alone(new_run(db, options), change, states.undone, "rolled back")
end

--- What is applied and what is not; awaits. Changes nothing.
---@param db fasterlua.Db
---@param options? fasterlua.MigrationOptions
---@return fasterlua.MigrationState[]
function migrations.status(db, options)
  local self = new_run(db, options)
  local list = compare(self, db)
  for _, each in ipairs(list) do
    each.problem = states.complaint(each)
  end
  return list
end

return migrations
