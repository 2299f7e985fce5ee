-- `fasterlua db migrate`, `rollback` and `status`: which apps they are about.
--
--     command.run({ action = "migrate", path = "apps/todo" }, settings, found)
--
-- The work is done by console.lua, app after app.

local lfs = require "lfs"

local command = {}

local FOLDER = "migrations"

local function folder_of(app)
  local folder = app.file:match("^(.*)/[^/]*$") or "."
  return folder .. "/" .. FOLDER
end

local function with_migrations(found)
  local list = {}
  for _, app in ipairs(found) do
    if lfs.attributes(folder_of(app), "mode") == "directory" then
      list[#list + 1] = app
    end
  end
  return list
end

local function looked_for(found)
  local folders = {}
  for index, app in ipairs(found) do
    folders[index] = folder_of(app)
  end
  return table.concat(folders, ", ")
end

local function names_of(list)
  local names = {}
  for index, app in ipairs(list) do
    names[index] = app.name
  end
  return table.concat(names, ", ")
end

local function options_of(flags)
  return { to = flags.to, steps = flags.steps, dry_run = flags.dry_run,
    allow_changed = flags.allow_changed, allow_missing = flags.allow_missing,
    allow_out_of_order = flags.allow_out_of_order }
end

local function plan_of(flags, settings, app, url)
  return { action = flags.action, app = app, environment = settings.environment,
    folder = folder_of(app), url = url, options = options_of(flags) }
end

--- Runs the command for all apps that have migrations, up to the first that fails.
---@param flags table of the command line
---@param settings table merged, with `home`
---@param found fasterlua.apps.App[]
---@return boolean
---@return string? message
function command.run(flags, settings, found)
  local console = require "fasterlua.core.console"
  local list = with_migrations(found)
  local url = flags.database or os.getenv "DATABASE_URL"
  if #list == 0 then
    return false, "there are no migrations: looked for " .. looked_for(found)
  elseif url and #list > 1 then
    return false, ("%d apps have migrations (%s), and one database is named for all: name the app")
      :format(#list, names_of(list))
  end
  for _, app in ipairs(list) do
    settings.apps = { app }
    local is_done, message = console.run(settings, "fasterlua.migrations.console:main",
      plan_of(flags, settings, app, url))
    if not is_done then
      return false, message
    end
  end
  return true
end

return command
