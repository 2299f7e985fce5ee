-- inline: libsqlite3 called where we stand, by LuaJIT's ffi: what fl.db's threads are measured
-- against.
--
--     local world = inline.open("world.db")
--     local number = inline.read(world, 42)
--     inline.write(world, 42, number + 1)
local ffi = require "ffi"

ffi.cdef [[
typedef struct sqlite3 sqlite3;
typedef struct sqlite3_stmt sqlite3_stmt;
int sqlite3_open_v2(const char *name, sqlite3 **db, int flags, const char *vfs);
int sqlite3_close_v2(sqlite3 *db);
const char *sqlite3_errmsg(sqlite3 *db);
int sqlite3_exec(sqlite3 *db, const char *sql, void *callback, void *argument, char **message);
int sqlite3_prepare_v2(sqlite3 *db, const char *sql, int size, sqlite3_stmt **statement,
                       const char **tail);
int sqlite3_bind_int(sqlite3_stmt *statement, int index, int value);
int sqlite3_step(sqlite3_stmt *statement);
int sqlite3_column_int(sqlite3_stmt *statement, int column);
int sqlite3_reset(sqlite3_stmt *statement);
int sqlite3_finalize(sqlite3_stmt *statement);
]]

local OK, ROW, DONE = 0, 100, 101
local READWRITE, CREATE, NOMUTEX = 0x2, 0x4, 0x8000

local M = {}

local function check(world, code)
  if code ~= OK and code ~= ROW and code ~= DONE then
    error("sqlite: " .. ffi.string(world.sqlite.sqlite3_errmsg(world.db)), 0)
  end
  return code
end

local function prepare(world, sql)
  local statement = ffi.new("sqlite3_stmt *[1]")
  check(world, world.sqlite.sqlite3_prepare_v2(world.db, sql, #sql, statement, nil))
  return statement[0]
end

---@param world table
---@param sql string
function M.execute(world, sql)
  check(world, world.sqlite.sqlite3_exec(world.db, sql, nil, nil, nil))
end

--- Opens the file and prepares what is done with it; makes the table where there is none.
---@param path string
---@return table world
function M.open(path)
  local world, db = { sqlite = ffi.load "libsqlite3.so.0" }, ffi.new("sqlite3 *[1]")
  local code = world.sqlite.sqlite3_open_v2(path, db, READWRITE + CREATE + NOMUTEX, nil)
  world.db = db[0]
  check(world, code)
  M.execute(world, "pragma busy_timeout = 5000; pragma journal_mode = wal;"
    .. "create table if not exists world (id integer primary key, randomnumber integer not null)")
  world.reading = prepare(world, "select id, randomnumber from world where id = ?")
  world.writing = prepare(world, "update world set randomnumber = ? where id = ?")
  return world
end

---@param world table
---@param size integer how many rows the table is to have
function M.fill(world, size)
  M.execute(world, ("insert into world with recursive ids(id) as (select 1 union all "
    .. "select id + 1 from ids where id < %d) select id, 1 + abs(random()) %% %d from ids"):format(
    size, size))
end

---@param world table
---@param id integer
---@return integer? number
function M.read(world, id)
  local sqlite, statement, number = world.sqlite, world.reading, nil
  sqlite.sqlite3_bind_int(statement, 1, id)
  if check(world, sqlite.sqlite3_step(statement)) == ROW then
    number = sqlite.sqlite3_column_int(statement, 1)
  end
  sqlite.sqlite3_reset(statement)
  return number
end

--- A transaction of its own.
---@param world table
---@param id integer
---@param number integer
function M.write(world, id, number)
  local sqlite, statement = world.sqlite, world.writing
  sqlite.sqlite3_bind_int(statement, 1, number)
  sqlite.sqlite3_bind_int(statement, 2, id)
  check(world, sqlite.sqlite3_step(statement))
  sqlite.sqlite3_reset(statement)
end

---@param world table
function M.close(world)
  world.sqlite.sqlite3_finalize(world.reading)
  world.sqlite.sqlite3_finalize(world.writing)
  world.sqlite.sqlite3_close_v2(world.db)
end

return M
