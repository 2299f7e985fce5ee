-- postgres: a PostgreSQL of the benchmark's own, with the tables of the usual framework benchmarks.
--
--     local database = postgres.start()
--     print(database:query "select count(*) from world")    --> 10000
--     database:stop()
local socket = require "socket"

local process = require "support.process"
local usage = require "usage"

local M = {}

local USER, DATABASE, PORT = "bench", "postgres", 5432 -- the port names the socket's file alone

local tables = [[
alter system set synchronous_commit = off;
alter system set autovacuum = off;
select pg_reload_conf();
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
vacuum analyze;
]]

---@class bench.postgres
---@field pid integer
---@field directory string
---@field environment table<string, string> what a peer needs to connect
local Postgres = {}
Postgres.__index = Postgres

local function output_of(command)
  local pipe = assert(io.popen(command .. " 2>&1"))
  local output = pipe:read("*a")
  pipe:close()
  return (output:gsub("\n$", ""))
end

local function find_programs()
  local found
  for directory in output_of("ls -d /usr/lib/postgresql/*/bin"):gmatch("[^\n]+") do
    if process.read(directory .. "/initdb") then found = directory end
  end
  return found
end

--- What is to be done about a missing PostgreSQL; nil when it is there.
---@return string?
function M.missing()
  return not find_programs() and "needs postgresql" or nil
end

-- PostgreSQL does not run as root.
local function as_user(argv)
  if output_of("id -u") ~= "0" then return argv end
  local words = { "setpriv", "--reuid", "postgres", "--regid", "postgres", "--clear-groups",
    "--pdeathsig", "TERM", "--" }
  for _, word in ipairs(argv) do words[#words + 1] = word end
  return words
end

local function make_cluster(programs, directory)
  if output_of("id -u") == "0" then output_of("chown postgres " .. directory) end
  local pid = process.spawn { output = directory .. "/log", argv = as_user { programs .. "/initdb",
    "--auth=trust", "--username=" .. USER, "--encoding=UTF8", "--locale=C.UTF-8", "--no-sync",
    "--pgdata=" .. directory .. "/data" } }
  local status = process.wait(pid, 60)
  if not (status and status.code == 0) then
    error("initdb failed:\n" .. tostring(process.read(directory .. "/log")), 0)
  end
end

local function start_server(programs, directory)
  return process.spawn { output = directory .. "/log", argv = as_user { programs .. "/postgres",
    "-D", directory .. "/data", "-k", directory, "-p", tostring(PORT), "-h", "" } }
end

local function environment_of(directory)
  return { PGHOST = directory, PGPORT = tostring(PORT), PGUSER = USER, PGDATABASE = DATABASE,
    DATABASE_URL = ("postgres://%s@/%s?host=%s&port=%d"):format(USER, DATABASE, directory, PORT) }
end

--- Makes it, starts it and fills its tables.
---@return bench.postgres
function M.start()
  local programs, directory = assert(find_programs()), process.temporary_directory()
  make_cluster(programs, directory)
  local self = setmetatable({ directory = directory, environment = environment_of(directory),
    pid = start_server(programs, directory) }, Postgres)
  local deadline = socket.gettime() + 20
  while self:query("select 1") ~= "1" do
    if socket.gettime() > deadline or process.wait(self.pid, 0) then
      error("PostgreSQL did not start:\n" .. tostring(process.read(directory .. "/log")), 0)
    end
    socket.sleep(0.1)
  end
  local output = self:query(tables)
  if output:find("ERROR", 1, true) then error(output, 0) end
  return self
end

--- What psql prints without headers and alignment, errors included.
---@param statements string
---@return string
function Postgres:query(statements)
  local path = os.tmpname()
  local file = assert(io.open(path, "w"))
  file:write(statements)
  file:close()
  local words = { "env" }
  for name, value in pairs(self.environment) do
    words[#words + 1] = ("'%s=%s'"):format(name, value)
  end
  local output = output_of(table.concat(words, " ") .. " psql -X -q -A -t -f " .. path)
  os.remove(path)
  return output
end

--- Ends it without waiting for clients, and removes its files.
function Postgres:stop()
  local family = usage.family(self.pid)
  process.signal(self.pid, "INT")
  if not process.wait(self.pid, 10) then
    for _, member in ipairs(family) do process.signal(member, "KILL") end
    process.wait(self.pid, 5)
  end
  process.remove_directory(self.directory)
end

return M
