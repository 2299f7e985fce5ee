-- What a database remembers of migrations: the table fasterlua_migrations.
--
--     if history.exists(session, "sqlite") then print(#history.read(session, "sqlite")) end
--
-- Whatever a function takes as its place is a database or a session of it; all of them await.

local core = require "fasterlua.core.db"
local future = require "fasterlua.future"

local await, from_op = future.await, future.from_op

local ROWS, VALUE, COUNTS = 0, 2, 3
local FOREVER = 0

local history = {}

---@class fasterlua.migrations.Entry
---@field version integer
---@field name string
---@field checksum string
---@field applied_at string in UTC, as 2026-01-31T12:00:00Z

local looks = {
  postgres = "select to_regclass('fasterlua_migrations') is not null",
  sqlite = "select count(*) from sqlite_master where name = 'fasterlua_migrations'",
  mariadb = "select count(*) from information_schema.tables where table_schema = database() "
    .. "and table_name = 'fasterlua_migrations'",
}

local creates = {
  postgres = [[create table if not exists fasterlua_migrations (version bigint primary key,
    name text not null, checksum text not null, applied_at timestamptz not null default now())]],
  sqlite = [[create table if not exists fasterlua_migrations (version integer primary key,
    name text not null, checksum text not null,
    applied_at text not null default (strftime('%Y-%m-%dT%H:%M:%SZ', 'now')))]],
  mariadb = [[create table if not exists fasterlua_migrations (version bigint primary key,
    name varchar(255) not null, checksum varchar(64) not null,
    applied_at timestamp not null default current_timestamp)]],
}

local times = {
  postgres = [[to_char(applied_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"')]],
  sqlite = "applied_at",
  mariadb = "date_format(convert_tz(applied_at, @@session.time_zone, '+00:00'), "
    .. "'%Y-%m-%dT%H:%i:%sZ')",
}

local function query(place, how, sql, ...)
  return await(from_op(core.query(place, how, FOREVER, false, sql, ...)))
end

--- Whether there is such a table.
---@param place userdata
---@param driver string
---@return boolean
function history.exists(place, driver)
  local found = query(place, VALUE, looks[driver])
  return found == true or found == 1
end

--- Makes it unless it is there.
---@param place userdata
---@param driver string
function history.create(place, driver)
  query(place, COUNTS, creates[driver])
end

--- What has been applied, by version.
---@param place userdata
---@param driver string
---@return fasterlua.migrations.Entry[]
function history.read(place, driver)
  local list = query(place, ROWS, ("select version, name, checksum, %s as applied_at "
    .. "from fasterlua_migrations order by version"):format(times[driver]))
  for _, entry in ipairs(list) do
    entry.version = tonumber(entry.version)
  end
  return list
end

---@param place userdata
---@param migration fasterlua.Migration
---@return boolean
function history.has(place, migration)
  return query(place, VALUE, "select version from fasterlua_migrations where version = ?",
    migration.version) ~= nil
end

---@param place userdata
---@param migration fasterlua.Migration
function history.add(place, migration)
  query(place, COUNTS, "insert into fasterlua_migrations (version, name, checksum) "
    .. "values (?, ?, ?)", migration.version, migration.name, migration.checksum)
end

---@param place userdata
---@param migration fasterlua.Migration
function history.remove(place, migration)
  query(place, COUNTS, "delete from fasterlua_migrations where version = ?", migration.version)
end

--- A file that was changed counts as it is now.
---@param place userdata
---@param migration fasterlua.Migration
function history.accept(place, migration)
  query(place, COUNTS, "update fasterlua_migrations set checksum = ?, name = ? where version = ?",
    migration.checksum, migration.name, migration.version)
end

return history
