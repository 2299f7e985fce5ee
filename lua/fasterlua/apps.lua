-- Finds the apps that a path stands for, and loads them to look at their routes.
--
--     local apps = require "fasterlua.apps"
--     for _, app in ipairs(apps.find("apps")) do print(app.prefix, app.file) end
--
-- In a folder every <name>/app.lua is served under /<name> and an app.lua directly in it at /. With
-- `mounts`, as { ["/store"] = "shop" }, exactly the apps it names are served.

local lfs = require "lfs"
local suggest = require "fasterlua.suggest"

local apps = {}

---@class fasterlua.apps.App
---@field name string the folder's name
---@field prefix string "" or "/name"
---@field file string path of its app.lua, as given
---@field folder string that it requires its own modules from; absolute

local function kind_of(path)
  return lfs.attributes(path, "mode")
end

local function join(folder, name)
  return (folder:gsub("/+$", "")) .. "/" .. name
end

---@return string folder, string file
local function split(path)
  local folder, file = path:match("^(.-)/*([^/]+)$")
  if folder == "" then
    folder = path:sub(1, 1) == "/" and "/" or "."
  end
  return folder, file
end

local function name_of(folder)
  local current = folder:find("^%.*/*$") and lfs.currentdir() or folder
  return current:match("([^/]+)/*$") or "app"
end

-- The name becomes a path segment: what a URL carries without encoding, and no dot in front.
local function check_name(name, folder)
  if not name:find("^[%w_~][%w_.~-]*$") then
    error(("the folder %q cannot be served: its name stands in URLs, so it may hold only letters, "
      .. "digits, and - _ . ~ (not first)"):format(folder), 0)
  end
end

local function absolute(folder)
  if folder:sub(1, 1) == "/" then
    return folder
  end
  local relative = (folder .. "/"):gsub("^%./+", ""):gsub("/+$", "")
  return relative == "" and lfs.currentdir() or join(lfs.currentdir(), relative)
end

---@return fasterlua.apps.App
local function app_at(name, prefix, folder, file)
  return { name = name, prefix = prefix, folder = absolute(folder), file = file }
end

---@return string[]
local function folders_with_app(path)
  local names = {}
  for name in lfs.dir(path) do
    local is_visible = name:sub(1, 1) ~= "."
    if is_visible and kind_of(join(join(path, name), "app.lua")) == "file" then
      names[#names + 1] = name
    end
  end
  table.sort(names)
  return names
end

---@return fasterlua.apps.App[]
local function find_in_folder(path)
  local found = {}
  local direct = join(path, "app.lua")
  if kind_of(direct) == "file" then
    found[1] = app_at(name_of(path), "", path, direct)
  end
  for _, name in ipairs(folders_with_app(path)) do
    local folder = join(path, name)
    check_name(name, folder)
    found[#found + 1] = app_at(name, "/" .. name, folder, join(folder, "app.lua"))
  end
  return found
end

---@param found fasterlua.apps.App[]
---@param mounts table<string, string>
---@return fasterlua.apps.App[]
local function mount(found, mounts)
  local by_name, names, mounted, prefixes = {}, {}, {}, {}
  for _, app in ipairs(found) do
    by_name[app.name] = app
    names[#names + 1] = app.name
  end
  for prefix, name in pairs(mounts) do
    local app = by_name[name]
    if not app then
      error(("mounts: %s: there is no app %q%s"):format(prefix, name, suggest.hint(name, names)), 0)
    end
    if prefixes[name] then
      local two = ("%s and %s"):format(prefixes[name], prefix)
      error(("mounts: the app %q has two prefixes, %s"):format(name, two), 0)
    end
    prefixes[name] = prefix
    mounted[#mounted + 1] = app_at(name, prefix == "/" and "" or prefix, app.folder, app.file)
  end
  table.sort(mounted, function(a, b) return a.prefix < b.prefix end)
  return mounted
end

---@param found fasterlua.apps.App[]
local function check_names_differ(found)
  local folders = {}
  for _, app in ipairs(found) do
    if folders[app.name] then
      local two = ("%s and %s"):format(folders[app.name], app.folder)
      error(("two apps are called %q: %s"):format(app.name, two), 0)
    end
    folders[app.name] = app.folder
  end
end

--- The apps that a path stands for: a folder of apps, one app's folder, or its app.lua. Raises an
--- error that says what was looked for.
---@param path string
---@param mounts? table<string, string> names of apps by prefix
---@return fasterlua.apps.App[]
function apps.find(path, mounts)
  local kind, problem = kind_of(path)
  if not kind then
    error(("cannot serve %q: %s"):format(path, problem:match(": ([^:]+)$") or problem), 0)
  end
  local found
  if kind == "directory" then
    found = find_in_folder(path)
  else
    local folder = split(path)
    found = { app_at(name_of(folder), "", folder, path) }
  end
  if #found == 0 then
    error(("no app in %q: looked for %s and %s"):format(path, join(path, "app.lua"),
      join(path, "<name>/app.lua")), 0)
  end
  check_names_differ(found)
  return next(mounts or {}) and mount(found, mounts) or found
end

---@return string path, string cpath
local function search_paths(app)
  local folder, tree = app.folder, join(app.folder, "lua_modules")
  local path = { join(folder, "?.lua"), join(folder, "?/init.lua"),
    join(tree, "share/lua/5.1/?.lua"), join(tree, "share/lua/5.1/?/init.lua"), package.path }
  local cpath = { join(folder, "?.so"), join(tree, "lib/lua/5.1/?.so"), package.cpath }
  return table.concat(path, ";"), table.concat(cpath, ";")
end

-- Modules of one app must not be found loaded by the next one.
local function forget_modules(kept)
  for name in pairs(package.loaded) do
    if not kept[name] and not name:find("^fasterlua") then
      package.loaded[name] = nil
    end
  end
end

local function load_chunk(app, settings)
  local boot = require "fasterlua.boot"
  local chunk, problem = loadfile(app.file, "t")
  if not chunk then
    error(problem, 0)
  end
  return boot.load(chunk, app.name, settings)
end

-- The frames above the app's own say nothing about it.
local function add_traceback(problem)
  return (debug.traceback(tostring(problem), 2):gsub("\n\t%[C%]: in function 'xpcall'.*$", ""))
end

--- Loads an app in this state, without starting it.
---@param app fasterlua.apps.App
---@param settings table<string, any>
---@return table|nil loaded what fasterlua.boot makes of it
---@return string|nil problem with a traceback when it is a mistake in the code
function apps.load(app, settings)
  local path, cpath, kept = package.path, package.cpath, {}
  for name in pairs(package.loaded) do
    kept[name] = true
  end
  package.path, package.cpath = search_paths(app)
  local is_done, result = xpcall(load_chunk, add_traceback, app, settings)
  package.path, package.cpath = path, cpath
  forget_modules(kept)
  if not is_done then
    return nil, result
  end
  return result
end

return apps
