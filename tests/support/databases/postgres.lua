-- postgres: PostgreSQL under test. See databases/init.lua.

local account = require "support.databases.account"
local lfs = require "lfs"
local process = require "support.process"
local service = require "support.databases.service"
local template = require "support.databases.template"

local ROOT = "/usr/lib/postgresql" -- Debian has a folder here for each version
local USER, PASSWORD, ADMIN = "test", "test", "postgres"
local CELL_END, ROW_END = "\31", "\30"

local INITDB = { "-U", ADMIN, "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8", "--no-sync",
  "--no-instructions", "--wal-segsize=1" }
-- One database fewer to copy for each test.
local TEMPLATE_SQL = ("create role %s login password '%s'\nalter database postgres rename to %s\n"
  .. "alter database %s owner to %s\n"):format(USER, PASSWORD, USER, USER, USER)

local QUICK = { fsync = false, synchronous_commit = false, full_page_writes = false }

-- What the machine's owner has set for his own clients is not for ours.
local CLIENT_ENVIRONMENT = { PGOPTIONS = false, PGSERVICE = false, PGSSLMODE = false }

---@class support.postgres: support.database
---@field url string for its socket, as role `test`, who owns the databases
---@field tcp_url string? with password
---@field ca string? the certificate that its own is checked by
local postgres = service.kind()
postgres.stop_signal, postgres.immediate_signal = "INT", "QUIT"

local M = {}

local function newest_version()
  if not lfs.attributes(ROOT) then
    return nil
  end
  local newest
  for name in lfs.dir(ROOT) do
    local version = tonumber(name)
    local has_server = version and lfs.attributes(ROOT .. "/" .. name .. "/bin/postgres")
    if has_server and version > (newest or 0) then
      newest = version
    end
  end
  return newest
end

---@return string? # the folder with its programs; nil: not installed
function M.programs()
  local version = newest_version()
  return version and ("%s/%d/bin/"):format(ROOT, version)
end

local function make_data(programs, owner, path)
  service.run({ programs .. "initdb", "-D", path, unpack(INITDB) }, { account = owner })
  local output = service.run({ "sh", "-c", 'printf "%s" "$1" | "$2" --single -F -D "$3" template1',
    "sh", TEMPLATE_SQL, programs .. "postgres", path }, { account = owner })
  if output:find("ERROR:", 1, true) then
    error(output, 0) -- its exit status does not say so
  end
end

local function copy_data(self)
  local version = service.run { self.programs .. "postgres", "--version" }
  local key = ("postgres-%s %s %s"):format(version:match("[%d.]+"), table.concat(INITDB, " "),
    TEMPLATE_SQL)
  template.copy(key, self.account, function(path)
    make_data(self.programs, self.account, path)
  end, self.dir .. "/data")
end

local function write_access_rules(self)
  service.write_file(self.dir .. "/hba.conf", ("local all all trust\n"
    .. "local replication all trust\n%s all %s 127.0.0.1/32 %s\n"):format(
    self.ca and "hostssl" or "host", USER, self.auth))
end

local function prepare(self)
  copy_data(self)
  if self.options.tls then
    service.make_certificate(self.dir)
    self.ca = self.dir .. "/cert.pem"
  end
  write_access_rules(self)
end

local function setting(value)
  if type(value) == "boolean" then
    return value and "on" or "off"
  end
  return tostring(value)
end

local function all_settings(self)
  local settings = {
    unix_socket_directories = self.dir, port = self.port,
    listen_addresses = self.is_tcp and "127.0.0.1" or "", hba_file = self.dir .. "/hba.conf",
    ssl = self.ca ~= nil, shared_buffers = "16MB", password_encryption = self.encryption,
    -- In its folder, where nothing stays when it is killed.
    dynamic_shared_memory_type = "mmap",
  }
  if self.ca then
    settings.ssl_cert_file, settings.ssl_key_file = self.ca, self.dir .. "/key.pem"
  end
  for _, more in ipairs { self.options.durable and {} or QUICK, self.options.settings or {} } do
    for name, value in pairs(more) do
      settings[name] = value
    end
  end
  return settings
end

function postgres:command()
  local argv = { self.programs .. "postgres", "-D", self.dir .. "/data" }
  for name, value in pairs(all_settings(self)) do
    argv[#argv + 1] = "-c"
    argv[#argv + 1] = name .. "=" .. setting(value)
  end
  return argv
end

-- Its own file says so, and whose start that was.
function postgres:is_ready()
  local text = process.read(self.dir .. "/data/postmaster.pid") or ""
  return tonumber(text:match("^%d+")) == self.pid and text:find("\nready *\n") ~= nil
end

local function set_urls(self)
  self.socket = ("%s/.s.PGSQL.%d"):format(self.dir, self.port)
  self.url = self:url_at(self.dir)
  if self.is_tcp then
    self.tcp_url = ("postgres://%s:%s@127.0.0.1:%d/%s%s"):format(USER,
      service.percent_encode(self.password), self.port, self.database, self.ca
      and "?sslmode=verify-full&sslrootcert=" .. service.percent_encode(self.ca) or "")
  end
end

---@param folder string with its socket, or a proxy's
---@return string url
function postgres:url_at(folder)
  return ("postgres:///%s?host=%s&port=%d&user=%s"):format(service.percent_encode(self.database),
    service.percent_encode(folder), self.port, USER)
end

local function psql(self, role, database, sql)
  return service.run({ self.programs .. "psql", "-XAtq", "-v", "ON_ERROR_STOP=1",
    "-P", "null=NULL", "-F", CELL_END, "-R", ROW_END, "-c", sql,
    ("host='%s' port=%d user=%s dbname='%s' options='-c role=%s -c client_min_messages=error'")
      :format(self.dir, self.port, ADMIN, database, role) }, { env = CLIENT_ENVIRONMENT })
end

local function rows_of(output)
  local rows = {}
  -- psql ends a result with a line feed, whatever ends its rows.
  for line in output:gsub("\n$", ""):gmatch("[^" .. ROW_END .. "]+") do
    local row = {}
    for cell in (line .. CELL_END):gmatch("([^" .. CELL_END .. "]*)" .. CELL_END) do
      row[#row + 1] = cell
    end
    rows[#rows + 1] = row
  end
  return rows
end

---Runs SQL by psql, on a connection that is always to spare, as role `test`.
---@param sql string
---@param options { database: string?, admin: boolean? }? admin: as superuser
---@return string[][] rows NULL is "NULL"
function postgres:query(sql, options)
  options = options or {}
  return rows_of(psql(self, options.admin and ADMIN or USER, options.database or self.database,
    sql))
end

---@return integer # clients connected now
function postgres:connections()
  local rows = self:query("select count(*) from pg_stat_activity where backend_type = "
    .. "'client backend' and pid <> pg_backend_pid()", { admin = true })
  return tonumber(rows[1][1])
end

local function set_password(self)
  if self.password ~= PASSWORD or self.encryption ~= "scram-sha-256" then
    self:query(("alter role %s password '%s'"):format(USER, self.password:gsub("'", "''")),
      { admin = true })
  end
end

local function create_databases(self)
  for _, name in ipairs(self.options.databases or {}) do
    if name ~= USER then
      psql(self, ADMIN, USER, ('create database "%s" owner %s'):format(name, USER))
    end
  end
end

---@param options support.postgres_options?
---@return support.postgres
function M.start(options)
  options = options or {}
  local auth = options.auth or "scram-sha-256"
  local is_tcp = options.tcp or options.tls or options.auth or options.password
  local self = service.open(postgres, {
    title = "PostgreSQL", options = options, programs = assert(M.programs()),
    account = account.find { "postgres" }, user = USER, password = options.password or PASSWORD,
    database = (options.databases or {})[1] or USER, auth = auth,
    encryption = auth == "md5" and "md5" or "scram-sha-256", port = 5432,
    is_tcp = is_tcp,
  }, prepare, is_tcp and function(server)
    server.port = service.free_port()
  end)
  set_urls(self)
  service.guard(self, function()
    create_databases(self)
    set_password(self)
  end)
  return self
end

return M
