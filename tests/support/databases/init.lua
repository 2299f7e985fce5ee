-- databases: real database servers for specs, each fresh, in a temporary folder, on a Unix socket,
-- run as a user without rights; and a proxy that makes faults between them and their clients.
--
--     local databases = require "support.databases"
--
--     databases.describe("a driver", "postgres", { durable = true }, function(get_server)
--       it("connects", function()
--         connect(get_server().url)
--         assert.equal(1, get_server():connections())
--       end)
--     end)
--
-- or by hand:
--
--     local server = databases.postgres { tcp = true }
--     local proxy = databases.proxy { target = server }
--     server:query("select 1")  --> { { "1" } }
--     proxy:cut_after(100)
--     proxy:stop()
--     server:stop()
--
-- A server has start, stop, kill, restart, pause, resume, query, connections, log and processes:
-- see service.lua and its own file. When the test dies, its servers are killed and their folders
-- go.

local block = require "support.block"
local busted = require "busted"
local mariadb = require "support.databases.mariadb"
local postgres = require "support.databases.postgres"
local proxy = require "support.databases.proxy"
local redis = require "support.databases.redis"
local service = require "support.databases.service"

local M = {
  account = require "support.databases.account",
  tree = require "support.databases.tree",
}

local PACKAGES = {
  postgres = { package = "postgresql", program = postgres.programs },
  mariadb = { package = "mariadb-server", program = mariadb.program },
  redis = { package = "redis-server", program = redis.program },
}

---@class support.postgres_options
---@field tcp boolean? a port on loopback too, with a password; so do auth, password and tls
---@field auth "scram-sha-256"|"md5"|"password"|"trust"|nil on TCP; scram-sha-256 by default
---@field password string? "test" by default
---@field tls boolean? on TCP, which then takes nothing else
---@field databases string[]? besides "test"; URLs name the first
---@field settings table<string, string|number|boolean>? of postgresql.conf
---@field durable boolean? true: fsync and all that; without, a crash of the machine loses data

---@param options support.postgres_options?
---@return support.postgres
function M.postgres(options)
  return postgres.start(options)
end

---@class support.mariadb_options
---@field tcp boolean? a port on loopback too; so does tls
---@field auth "mysql_native_password"|"ed25519"|nil
---@field password string? "test" by default, on the socket too
---@field tls boolean? on TCP, which then takes nothing else
---@field databases string[]? besides "test"; URLs name the first
---@field settings table<string, string|number|boolean>? of the server
---@field durable boolean?

---@param options support.mariadb_options?
---@return support.mariadb
function M.mariadb(options)
  return mariadb.start(options)
end

---@class support.redis_options
---@field tcp boolean? a port on loopback too; so do tls and cluster
---@field password string? none by default
---@field tls boolean? on TCP, which then takes nothing else
---@field cluster boolean? three masters, ready
---@field settings table<string, string|number|boolean>? of redis.conf
---@field durable boolean?

---@param options support.redis_options?
---@return support.redis|support.redis_cluster
function M.redis(options)
  return redis.start(options)
end

---@class support.proxy_options
---@field target string|support.database path of a Unix socket, "host:port", or a server of ours
---@field tcp boolean? on loopback, and a server of ours is reached by TCP too

---@param options support.proxy_options
---@return support.proxy
function M.proxy(options)
  return proxy.start(options)
end

---Whether the programs of a server are installed.
---@param name "postgres"|"mariadb"|"redis"
---@return boolean
---@return string? why not
function M.available(name)
  local found = PACKAGES[name] or error("no such server: " .. tostring(name), 2)
  if found.program() then
    return true
  end
  return false, found.package .. " is not installed"
end

---A describe block with one server for its tests; pending where it is not installed.
---@param title string
---@param name "postgres"|"mariadb"|"redis"
---@param options table? of that server
---@param define fun(get_server: fun(): support.database)
function M.describe(title, name, options, define)
  local is_available, reason = M.available(name)
  if not is_available then
    busted.pending(title .. ": " .. reason)
    return
  end
  block(title, function()
    return M[name](options)
  end, define)
end

---Those that have been started and not stopped.
---@return support.database[]
function M.running()
  return service.running
end

---Ends what specs have left behind.
---@return integer # how many
function M.clean_up()
  local count = #service.running
  while service.running[1] do
    service.running[1]:discard()
  end
  return count
end

return M
