-- What `fasterlua db` does for one app, in a state that can await (core/console.h).
--
--     require("fasterlua.core.console").run(settings, "fasterlua.migrations.console:main", {
--       action = "migrate", app = app, options = {} })
--
-- Its lines go to stdout as things happen; what went wrong is returned.

local boot = require "fasterlua.boot"
local db = require "fasterlua.db"
local migrations = require "fasterlua.migrations"
local problem = require "fasterlua.migrations.problem"

local console = {}

-- The server's guards have replaced io.stdout, by the log.
local function say(format, ...)
  local output = io.output()
  output:write(format:format(...), "\n")
  output:flush()
end

---@class fasterlua.migrations.Plan
---@field action "migrate"|"rollback"|"status"
---@field app fasterlua.apps.App
---@field environment string
---@field folder string what messages call the folder
---@field url? string of the database; without one that which the app opens first
---@field options fasterlua.MigrationOptions

local function load_app(plan)
  local chunk, message = loadfile(plan.app.file)
  if not chunk then
    error(message, 0)
  end
  boot.load(chunk, plan.app.name, { environment = plan.environment, prefix = plan.app.prefix })
end

-- The app's own: what it opens first while it is loaded.
local function find_url(plan)
  if plan.url then
    return plan.url
  end
  local ok, err = pcall(load_app, plan)
  local url, options = db.first()
  if url then
    return url, options
  elseif not ok then
    problem.raise("app %s cannot be loaded: %s\n--database names its database without it",
      plan.app.name, tostring(err))
  end
  problem.raise("app %s opens no database while it is loaded: name one with --database or "
    .. "DATABASE_URL", plan.app.name)
end

local function open(plan)
  local ok, handle = pcall(db.open, find_url(plan))
  if not ok then
    problem.raise("%s", tostring(handle))
  end
  return handle
end

local function print_statements(migration, direction)
  for _, statement in ipairs(migration[direction]) do
    say("    %s;", (statement.text:gsub("\n", "\n    ")))
  end
end

local reports = {}

function reports.applied(_, migration, seconds)
  say("  applied %s%s", migration.file, seconds > 1 and (" (%d s)"):format(seconds) or "")
end

reports["rolled back"] = function(_, migration)
  say("  rolled back %s", migration.file)
end

function reports.planned(_, migration, direction)
  say("  would %s %s", direction == "up" and "apply" or "roll back", migration.file)
  print_statements(migration, direction)
end

function reports.checked()
  say "  checked in a transaction that was rolled back"
end

function reports.unchecked(_, migration)
  say("  checked only what comes before %s, which is not to be run in a transaction",
    migration.file)
end

function reports.waiting(self)
  if not self.has_waited then
    say "  waiting for another migration to end"
  end
  self.has_waited = true
end

local function reporter()
  local self = {}
  return function(what, ...)
    reports[what](self, ...)
  end
end

local actions = {}

function actions.migrate(handle, options)
  if #migrations.apply(handle, options) == 0 then
    say "  nothing to apply"
  end
end

function actions.rollback(handle, options)
  if #migrations.rollback(handle, options) == 0 then
    say "  nothing to roll back"
  end
end

function actions.status(handle, options)
  local problems = {}
  for _, each in ipairs(migrations.status(handle, options)) do
    say("  %-12s  %-20s  %s", each.state, each.applied_at or "-", each.file
      or ("version %d, %s"):format(each.version, each.name))
    problems[#problems + 1] = each.problem
  end
  if problems[1] then
    problem.raise("%s", table.concat(problems, "\n"))
  end
end

local function run(plan)
  local handle = open(plan)
  say("%s: %s", plan.app.name, db.name_of(handle))
  plan.options.shown, plan.options.report = plan.folder, reporter()
  actions[plan.action](handle, plan.options)
end

--- Does it; awaits.
---@param plan fasterlua.migrations.Plan
---@return boolean
---@return string? message
function console.main(plan)
  local ok, err = pcall(run, plan)
  local kind = not ok and type(err) == "table" and err.kind
  if ok then
    return true
  elseif kind == "migration" or kind == "db" or kind == "fs" then
    return false, tostring(err)
  end
  error(err, 0)
end

return console
