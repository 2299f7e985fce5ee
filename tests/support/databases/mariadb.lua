-- mariadb: MariaDB under test. See databases/init.lua.

local account = require "support.databases.account"
local service = require "support.databases.service"
local template = require "support.databases.template"

local USER, PASSWORD = "test", "test"
local LOG_SIZE = "--innodb-log-file-size=4M" -- a template has files of this size
local UNESCAPED = { n = "\n", t = "\t", ["0"] = "\0", ["\\"] = "\\" }

local QUICK = { innodb_flush_method = "nosync", innodb_flush_log_at_trx_commit = 0,
  sync_binlog = 0 }

---@class support.mariadb: support.database
---@field url string for its socket, as user `test`, who may do all in the databases
---@field tcp_url string?
---@field ca string? the certificate that its own is checked by
local mariadb = service.kind()
mariadb.stop_signal, mariadb.immediate_signal = "TERM", "KILL"

local M = {}

---@return string? # path of the server; nil: not installed
function M.program()
  return service.find_program("mariadb-install-db") and service.find_program("mariadbd")
end

local function copy_data(self)
  local key = "mariadb-" .. service.run({ self.program, "--version" }):match("Ver ([%w.]+)")
  template.copy(key .. " " .. LOG_SIZE, self.account, function(path)
    service.run({ "mariadb-install-db", "--no-defaults", "--datadir=" .. path, "--skip-test-db",
      "--auth-root-authentication-method=normal", LOG_SIZE, "--innodb-flush-method=nosync",
      "--innodb-use-native-aio=0" }, { account = self.account })
  end, self.dir .. "/data")
end

local function quoted(text)
  return "'" .. text:gsub("[\\']", "\\%0") .. "'"
end

-- Run at each start, before it takes connections. root is left to the socket, in a folder that is
-- ours alone.
local function initial_sql(self)
  local lines = {
    "delete from mysql.global_priv where User <> 'mariadb.sys' "
      .. "and not (User = 'root' and Host = 'localhost') and User <> '" .. USER .. "';",
    "flush privileges;",
    ("create or replace user %s@'%%' identified via %s using password(%s);"):format(USER,
      self.auth, quoted(self.password)),
  }
  for _, name in ipairs { USER, unpack(self.options.databases or {}) } do
    lines[#lines + 1] = ("create database if not exists `%s` character set utf8mb4;"):format(name)
    lines[#lines + 1] = ("grant all on `%s`.* to %s@'%%';"):format(name, USER)
  end
  return table.concat(lines, "\n") .. "\n"
end

local function prepare(self)
  copy_data(self)
  service.write_file(self.dir .. "/init.sql", initial_sql(self))
  if self.options.tls then
    service.make_certificate(self.dir)
    self.ca = self.dir .. "/cert.pem"
  end
end

local function all_settings(self)
  local dir = self.dir
  local settings = {
    datadir = dir .. "/data", socket = dir .. "/mariadb.sock", pid_file = dir .. "/pid",
    tmpdir = dir, init_file = dir .. "/init.sql", skip_name_resolve = true,
    innodb_use_native_aio = false, innodb_buffer_pool_size = "16M", performance_schema = false,
    plugin_load_add = self.auth == "ed25519" and "auth_ed25519" or nil,
    bind_address = self.port and "127.0.0.1", port = self.port,
    skip_networking = not self.port,
  }
  if self.ca then
    settings.ssl_cert, settings.ssl_key, settings.ssl_ca = self.ca, dir .. "/key.pem", self.ca
    settings.require_secure_transport = true
  end
  for _, more in ipairs { self.options.durable and {} or QUICK, self.options.settings or {} } do
    for name, value in pairs(more) do
      settings[name] = value
    end
  end
  return settings
end

function mariadb:command()
  local argv = { self.program, "--no-defaults", LOG_SIZE }
  for name, value in pairs(all_settings(self)) do
    if type(value) == "boolean" then
      value = value and 1 or 0
    end
    argv[#argv + 1] = ("--%s=%s"):format(name:gsub("_", "-"), value)
  end
  return argv
end

function mariadb:is_ready()
  return self:recent_log():find(": ready for connections.", 1, true) ~= nil
end

---@param path string of its socket, or a proxy's
---@return string url
function mariadb:url_at(path)
  return ("mysql://%s:%s@localhost/%s?socket=%s"):format(USER,
    service.percent_encode(self.password), service.percent_encode(self.database),
    service.percent_encode(path))
end

local function set_urls(self)
  self.socket = self.dir .. "/mariadb.sock"
  self.url = self:url_at(self.socket)
  if self.port then
    self.tcp_url = ("mysql://%s:%s@127.0.0.1:%d/%s"):format(USER,
      service.percent_encode(self.password), self.port, self.database)
  end
end

local function rows_of(output)
  local rows = {}
  for line in output:gmatch("([^\n]*)\n") do
    local row = {}
    for cell in (line .. "\t"):gmatch("([^\t]*)\t") do
      row[#row + 1] = cell:gsub("\\(.)", UNESCAPED)
    end
    rows[#rows + 1] = row
  end
  return rows
end

---Runs SQL by the program mariadb, as root, who has a connection to spare.
---@param sql string
---@param options { database: string? }?
---@return string[][] rows NULL is "NULL"
function mariadb:query(sql, options)
  return rows_of(service.run { "mariadb", "--no-defaults", "--socket=" .. self.socket,
    "--user=root", "--default-character-set=utf8mb4", "--batch", "--skip-column-names",
    "--execute=" .. sql, options and options.database or self.database })
end

---@return integer # clients connected now
function mariadb:connections()
  local rows = self:query("select count(*) from information_schema.processlist "
    .. "where id <> connection_id() and command <> 'Daemon' and user <> 'system user'")
  return tonumber(rows[1][1])
end

---@param options support.mariadb_options?
---@return support.mariadb
function M.start(options)
  options = options or {}
  local self = service.open(mariadb, {
    title = "MariaDB", options = options, program = assert(M.program()),
    account = account.find { "mysql" }, user = USER, password = options.password or PASSWORD,
    database = (options.databases or {})[1] or USER,
    auth = options.auth or "mysql_native_password",
  }, prepare, (options.tcp or options.tls) and function(server)
    server.port = service.free_port()
  end)
  set_urls(self)
  return self
end

return M
