-- The files of a folder of migrations, read and cut into statements.
--
--     local list = files.read("migrations", "sqlite")
--     list[1].version, list[1].file -- 1, "0001_create_items.sql"
--
-- A file is VERSION_NAME.sql, or VERSION_NAME.DRIVER.sql, which goes before that one for its
-- database. Lines `-- up` and `-- down` begin its two parts; without them all of it is up, and it
-- cannot be rolled back. A line `-- no transaction` says that it is to be run without one.

local core = require "fasterlua.core.db"
local digest = require "fasterlua.digest"
local fs = require "fasterlua.fs"
local future = require "fasterlua.future"
local problem = require "fasterlua.migrations.problem"
local suggest = require "fasterlua.suggest"

local await = future.await

local files = {}

local DRIVERS = { "postgres", "sqlite", "mariadb" }
local LONGEST_VERSION = 15 -- digits: numbers up to that are exact

---@class fasterlua.migrations.Statement
---@field text string
---@field line integer
---@field verb string what it does: "CREATE"
---@field is_schema boolean

---@class fasterlua.Migration
---@field version integer
---@field name string "create_items"
---@field file string "0001_create_items.sql"
---@field path string for messages
---@field checksum string of its up part
---@field up fasterlua.migrations.Statement[]
---@field down fasterlua.migrations.Statement[]|false
---@field is_transactional boolean

local function is_driver(name)
  for _, driver in ipairs(DRIVERS) do
    if driver == name then
      return true
    end
  end
  return false
end

-- version, name, driver or nil
local function read_name(path, file)
  local version, name = file:match("^(%d+)_(.+)%.sql$")
  if not version then
    problem.raise("%s: the name of a migration begins with its version: 0001_create_items.sql",
      path)
  elseif #version > LONGEST_VERSION then
    problem.raise("%s: a version has at most %d digits", path, LONGEST_VERSION)
  end
  local stem, driver = name:match("^(.*)%.([^.]*)$")
  if driver and not is_driver(driver) then
    problem.raise("%s: %q is no database: postgres, sqlite and mariadb are%s", path, driver,
      suggest.hint(driver, DRIVERS))
  end
  return tonumber(version), stem or name, driver
end

local function new_place(number)
  return { first = number, lines = {} }
end

-- The parts by their names; "head" is what stands before the first mark.
local function cut(path, text)
  local parts, number = { head = new_place(1), is_transactional = true }, 0
  local current = parts.head
  for line in (text .. "\n"):gmatch("(.-)\r?\n") do
    number = number + 1
    local mark = line:match("^%-%-%s*(%l[%l ]-)%s*$")
    if mark == "up" or mark == "down" then
      if parts[mark] then
        problem.raise("%s:%d: a second `-- %s`", path, number, mark)
      end
      current = new_place(number)
      parts[mark] = current
    elseif mark == "no transaction" then
      parts.is_transactional = false
    end
    table.insert(current.lines, line)
  end
  return parts
end

-- BEGIN NOT ATOMIC is a block of MariaDB's.
local controls = { BEGIN = true, START = true, COMMIT = true, END = true, ROLLBACK = true,
  ABORT = true }

local function check_statement(path, statement)
  local is_block = statement.text:lower():find("^begin%s+not%s")
  if controls[statement.verb] and not is_block then
    problem.raise("%s:%d: %s: a migration is one transaction by itself; `-- no transaction` says "
      .. "that it is none", path, statement.line, statement.verb)
  end
end

local function statements_of(path, driver, part)
  local text = ("\n"):rep(part.first - 1) .. table.concat(part.lines, "\n")
  local list, message, line = core.split(driver, text)
  if not list then
    problem.raise("%s:%d: %s", path, line, message)
  end
  for _, statement in ipairs(list) do
    check_statement(path, statement)
  end
  return list
end

local function read_parts(path, driver, text)
  local parts = cut(path, text)
  local up = parts.up
  if not up and parts.down then
    problem.raise("%s:%d: `-- down` without `-- up` before it", path, parts.down.first)
  elseif not up then
    return parts, parts.head, statements_of(path, driver, parts.head)
  end
  local head = statements_of(path, driver, parts.head)
  if head[1] then
    problem.raise("%s:%d: a statement before `-- up`", path, head[1].line)
  end
  return parts, up, statements_of(path, driver, up)
end

local function trim(text)
  return (text:gsub("^%s+", ""):gsub("%s+$", ""))
end

local function read_file(self, folder, driver)
  local parts, up, statements = read_parts(self.path, driver, await(fs.read(folder .. "/"
    .. self.file)))
  self.up = statements
  self.down = parts.down and statements_of(self.path, driver, parts.down) or false
  self.is_transactional = parts.is_transactional
  self.checksum = digest.hex("sha256", trim(table.concat(up.lines, "\n")))
end

local function names_in(folder, shown)
  if not await(fs.exists(folder)) then
    problem.raise("%s: there is no such folder", shown)
  end
  local names = {}
  for _, name in ipairs(await(fs.list(folder))) do
    if name:find("%.sql$") and name:sub(1, 1) ~= "." then
      names[#names + 1] = name
    end
  end
  return names
end

-- Of two files of one version and name, the one that is for this database alone.
local function put(by_version, new)
  local old = by_version[new.version]
  if not old then
    by_version[new.version] = new
  elseif old.name ~= new.name or old.driver == new.driver then
    problem.raise("%s and %s have the same version", old.path, new.file)
  elseif new.driver then
    by_version[new.version] = new
  end
end

--- Reads a folder; awaits.
---@param folder string relative to the app's
---@param driver "postgres"|"sqlite"|"mariadb"
---@param shown? string what messages call the folder
---@return fasterlua.Migration[] by version
function files.read(folder, driver, shown)
  shown = shown or folder
  local by_version, list = {}, {}
  for _, file in ipairs(names_in(folder, shown)) do
    local path = shown .. "/" .. file
    local version, name, only = read_name(path, file)
    if not only or only == driver then
      put(by_version, { version = version, name = name, file = file, path = path, driver = only })
    end
  end
  for _, migration in pairs(by_version) do
    list[#list + 1] = migration
  end
  table.sort(list, function(a, b) return a.version < b.version end)
  for _, migration in ipairs(list) do
    read_file(migration, folder, driver)
  end
  return list
end

return files
