-- What there is of migrations: files beside what a database remembers, and what follows from that.
--
--     local list = states.compare(files.read("migrations", "sqlite"), history.read(db, "sqlite"))
--     states.check(list, {}, "applied")
--     for _, migration in ipairs(states.pending(list, {})) do print(migration.file) end

local problem = require "fasterlua.migrations.problem"

local states = {}

---@class fasterlua.MigrationState
---@field version integer
---@field name string
---@field file string|nil
---@field state "applied"|"pending"|"changed"|"missing"|"out of order"
---@field applied_at string|nil
---@field migration fasterlua.Migration|nil its file
---@field problem string|nil what is wrong with it

local function state_of(migration, entry, last)
  if not entry then
    return migration.version < last and "out of order" or "pending"
  end
  return entry.checksum == migration.checksum and "applied" or "changed"
end

--- Files and what was applied, side by side.
---@param files fasterlua.Migration[]
---@param entries fasterlua.migrations.Entry[] by version
---@return fasterlua.MigrationState[] by version
function states.compare(files, entries)
  local by_version, list = {}, {}
  local last = entries[#entries] and entries[#entries].version or -1
  for _, entry in ipairs(entries) do
    by_version[entry.version] = entry
  end
  for _, migration in ipairs(files) do
    local entry = by_version[migration.version]
    by_version[migration.version] = nil
    list[#list + 1] = { version = migration.version, name = migration.name,
      file = migration.file, state = state_of(migration, entry, last), migration = migration,
      applied_at = entry and entry.applied_at }
  end
  for _, entry in pairs(by_version) do
    list[#list + 1] = { version = entry.version, name = entry.name, state = "missing",
      applied_at = entry.applied_at }
  end
  table.sort(list, function(a, b) return a.version < b.version end)
  return list
end

local complaints = {
  changed = "%s was changed after it had been applied: put it back and write another one "
    .. "(--allow-changed takes it as it is now)",
  missing = "version %s was applied, but has no file (--allow-missing goes on without it)",
  ["out of order"] = "%s comes before others that have been applied: give it a higher version "
    .. "(--allow-out-of-order applies it nevertheless)",
}

local function is_allowed(options, state)
  return options["allow_" .. state:gsub(" ", "_")]
end

local function describe(each)
  return each.migration and each.migration.path or ("%d (%s)"):format(each.version, each.name)
end

--- What is wrong with it.
---@param each fasterlua.MigrationState
---@return string|nil
function states.complaint(each)
  local complaint = complaints[each.state]
  return complaint and complaint:format(describe(each))
end

--- Raises what is wrong and not allowed. For a rollback only changed files count.
---@param list fasterlua.MigrationState[]
---@param options fasterlua.MigrationOptions
---@param what "applied"|"rolled back"
function states.check(list, options, what)
  local found = {}
  for _, each in ipairs(list) do
    local counts = what == "applied" or each.state == "changed"
    if counts and not is_allowed(options, each.state) then
      found[#found + 1] = states.complaint(each)
    end
  end
  if found[1] then
    problem.raise("%s", table.concat(found, "\n"))
  end
end

--- Raises that there is no such version to stop at.
---@param list fasterlua.MigrationState[]
---@param to? integer
function states.check_target(list, to)
  if to == nil or to == 0 then
    return
  end
  for _, each in ipairs(list) do
    if each.version == to then
      return
    end
  end
  problem.raise("there is no migration with version %d", to)
end

--- What is to be applied.
---@param list fasterlua.MigrationState[]
---@param options fasterlua.MigrationOptions
---@return fasterlua.Migration[]
function states.pending(list, options)
  local chosen, most = {}, options.steps or math.huge
  local to = options.to or math.huge
  for _, each in ipairs(list) do
    local is_new = each.state == "pending" or each.state == "out of order"
    if is_new and each.version <= to and #chosen < most then
      chosen[#chosen + 1] = each.migration
    end
  end
  return chosen
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

--- What is to be rolled back, the last one first; raises why one of them cannot be.
---@param list fasterlua.MigrationState[]
---@param options fasterlua.MigrationOptions
---@return fasterlua.Migration[]
function states.undone(list, options)
  local to = options.to or -1
  local most = options.steps or (options.to and math.huge or 1)
  local chosen = {}
  for index = #list, 1, -1 do
    local each = list[index]
    if is_applied(each) and each.version > to and #chosen < most then
      check_down(each)
      chosen[#chosen + 1] = each.migration
    end
  end
  return chosen
end

return states
