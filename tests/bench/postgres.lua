-- postgres: a PostgreSQL of the benchmark's own, with the tables of the usual framework benchmarks.
--
--     local database = postgres.start()
--     print(database.server:query("select count(*) from world")[1][1])    --> 10000
--     database:stop()
local databases = require "support.databases.postgres"

local M = {}

local WORLD_SIZE = 10000

-- Nothing of its own between the rounds.
local SETTINGS = { synchronous_commit = "off", autovacuum = "off", checkpoint_timeout = "1h",
  shared_buffers = "128MB", max_wal_size = "4GB" }

local tables = [[
create table world (id integer primary key, randomnumber integer not null);
insert into world select id, 1 + floor(random() * 10000) from generate_series(1, 10000) as id;
create table fortune (id integer primary key, message text not null);
insert into fortune values
  (1, 'fortune: No such file or directory'),
  (2, 'A computer scientist is someone who fixes things that aren''t broken.'),
  (3, 'After enough decimal places, nobody gives a damn.'),
  (4, 'A bad random number generator: 1, 1, 1, 1, 1, 4.33e+67, 1, 1, 1'),
  (5, 'A computer program does what you tell it to do, not what you want it to do.'),
  (6, 'Emacs is a nice operating system, but I prefer UNIX. — Tom Christaensen'),
  (7, 'Any program that runs right is obsolete.'),
  (8, 'A list is only as strong as its weakest link. — Donald Knuth'),
  (9, 'Feature: A bug with seniority.'),
  (10, 'Computers make very fast, very accurate mistakes.'),
  (11, '<script>alert("This should not be displayed in a browser alert box.");</script>'),
  (12, 'フレームワークのベンチマーク');
]]

---@class bench.postgres
---@field server support.postgres
---@field pid integer
---@field environment table<string, string> what a peer needs to connect
local Postgres = {}
Postgres.__index = Postgres

--- What is to be done about a missing PostgreSQL; nil when it is there.
---@return string?
function M.missing()
  return not databases.programs() and "needs postgresql" or nil
end

local function environment_of(server)
  return { PGHOST = server.dir, PGPORT = tostring(server.port), PGUSER = server.user,
    PGDATABASE = server.database, DATABASE_URL = server.url }
end

--- Starts it and fills its tables.
---@return bench.postgres
function M.start()
  local server = databases.start { settings = SETTINGS }
  local self = setmetatable({ server = server, pid = server.pid,
    environment = environment_of(server) }, Postgres)
  server:query(tables)
  server:query("vacuum analyze", { admin = true })
  return self
end

--- What the table `world` holds now.
---@return table<integer, integer> # id = number
function Postgres:world()
  local world = {}
  for _, row in ipairs(self.server:query("select id, randomnumber from world")) do
    world[tonumber(row[1])] = tonumber(row[2])
  end
  assert(#world == WORLD_SIZE, "rows of the world are missing")
  return world
end

--- Ends it without waiting for clients, and removes its files.
function Postgres:stop()
  self.server:stop()
end

return M
