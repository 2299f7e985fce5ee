-- What a database's URL and options mean.
--
--     local target = url.read("postgres://me:secret@localhost/shop", { pool = 5 })
--     target.driver   -- "postgres"
--     target.settings -- { name = "postgres://me@localhost/shop", pool = 5, options = { … }, … }

local suggest = require "fasterlua.suggest"
local units = require "fasterlua.units"

local url = {}

local LONGEST, LARGEST, MOST = 1e9, 2 ^ 50, 1e6 -- seconds, bytes, things

--- Milliseconds of a time as people write them; nil when it is none. The shortest is one.
---@param value any
---@return integer|nil
function url.milliseconds(value)
  local read = units.seconds(value)
  return read and read >= 0 and read <= LONGEST and math.ceil(read * 1000) or nil
end

local milliseconds = url.milliseconds

local function bytes(value)
  local read = units.bytes(value)
  return read and read >= 1 and read <= LARGEST and math.floor(read) or nil
end

local function count(value)
  local number = tonumber(value)
  return number and number >= 1 and number <= MOST and number % 1 == 0 and number or nil
end

-- What applies to all databases, as numbers that the core takes; times in milliseconds.
local common = {
  pool = { count, "an integer from 1 to a million" },
  timeout = { milliseconds, 'seconds, or a time as "500ms"; 0 is for ever' },
  connect_timeout = { milliseconds, 'seconds, or a time as "500ms"' },
  pool_timeout = { milliseconds, 'seconds, or a time as "500ms"' },
  idle_timeout = { milliseconds, 'seconds, or a time as "500ms"' },
  max_result = { bytes, 'bytes, or a size as "64MB"' },
  queue = { count, "an integer from 1 to a million" },
}

-- What each driver understands beside, as texts. PostgreSQL's library takes more in its URLs.
local own = {
  postgres = { "shared", "pgbouncer", "password", "user", "sslmode", "sslrootcert", "sslcert",
    "sslkey", "application_name" },
  sqlite = { "path", "mode", "readers", "synchronous", "functions" },
  mariadb = { "host", "port", "user", "password", "database", "socket", "ssl", "ssl_ca",
    "ssl_cert", "ssl_key", "charset" },
}

local drivers = {
  postgres = "postgres",
  postgresql = "postgres",
  mysql = "mariadb",
  mariadb = "mariadb",
  sqlite = "sqlite",
}

local function decode(text)
  return (text:gsub("%%(%x%x)", function(digits)
    return string.char(tonumber(digits, 16))
  end))
end

local function fail(format, ...)
  error("fl.db: " .. format:format(...), 0)
end

local function without_password(text)
  text = text:gsub("^(%w+://[^:/?#@]*):[^?#]*@", "%1@")
  return (text:gsub("([?&]%w*password=)[^&]*", "%1…"))
end

-- The parameters behind the question mark.
local function read_query(query, into)
  for name, value in (query or ""):gmatch("([^&=]+)=?([^&]*)") do
    into[decode(name)] = decode((value:gsub("%+", " ")))
  end
end

local function read_server(rest, into)
  local authority, path = rest:match("^//([^/?]*)/?(.*)$")
  if not authority then
    fail("%q has no // behind its scheme", rest)
  end
  local login, place = authority:match("^(.*)@(.*)$")
  place = place or authority
  if login then
    local user, password = login:match("^([^:]*):?(.*)$")
    into.user = user ~= "" and decode(user) or nil
    into.password = password ~= "" and decode(password) or nil
  end
  local host, port = place:match("^(%[[%x:%.]+%]):?(%d*)$")
  if not host then
    host, port = place:match("^([^:]*):?(%d*)$")
  end
  if not host then
    fail("%q is no host with a port", place)
  end
  into.host = host ~= "" and decode(host:gsub("[%[%]]", "")) or nil
  into.port = port ~= "" and port or nil
  into.database = path ~= "" and decode(path) or nil
end

local readers = {}

function readers.postgres(rest, query, into)
  if not rest:find("^//") then
    fail("postgres: a URL such as postgres://user@host/database expected")
  end
  read_query(query, into)
end

function readers.mariadb(rest, query, into)
  read_server(rest, into)
  read_query(query, into)
end

function readers.sqlite(rest, query, into)
  local path = rest:gsub("^//", "")
  if path == "" then
    fail("sqlite: a path expected, as in sqlite:shop.db, or sqlite::memory:")
  end
  into.path = decode(path)
  read_query(query, into)
end

local function is_own(driver, name)
  for _, known in ipairs(own[driver]) do
    if known == name then
      return true
    end
  end
  return false
end

local function refuse_option(driver, name)
  local names = {}
  for known in pairs(common) do
    names[#names + 1] = known
  end
  for _, known in ipairs(own[driver]) do
    names[#names + 1] = known
  end
  table.sort(names)
  fail("unknown option %q of %s%s", tostring(name), driver, suggest.hint(tostring(name), names))
end

local function set(target, name, value)
  local rule = common[name]
  if rule then
    local read = rule[1](value)
    if not read then
      fail("option %q must be %s, got %s", name, rule[2], tostring(value))
    end
    target.settings[name] = read
  elseif is_own(target.driver, name) then
    if type(value) ~= "string" and type(value) ~= "number" and type(value) ~= "boolean" then
      fail("option %q must be a string, a number or a boolean, got a %s", name, type(value))
    end
    target.settings.options[name] = tostring(value)
  else
    return false
  end
  return true
end

-- The URL without the parameters that are ours: the library would refuse them.
local function rest_of_query(query)
  local kept = {}
  for name, value in (query or ""):gmatch("([^&=]+)(=?[^&]*)") do
    local key = decode(name)
    if not common[key] and key ~= "shared" and key ~= "pgbouncer" then
      kept[#kept + 1] = name .. value
    end
  end
  return #kept > 0 and "?" .. table.concat(kept, "&") or ""
end

local function apply_url(target, before, rest, query)
  local found = {}
  readers[target.driver](rest, query, found)
  for name, value in pairs(found) do
    if not set(target, name, value) and target.driver ~= "postgres" then
      refuse_option(target.driver, name)
    end
  end
  target.settings.url = before .. ":" .. rest .. rest_of_query(query)
end

---@class fasterlua.db.Target
---@field driver "postgres"|"sqlite"|"mariadb"
---@field settings table what the core is given

--- Reads a URL and the options beside it, which go before what the URL says. Raises a message that
--- names what is wrong, and never the password.
---@param text string
---@param options? table<string, string|number|boolean>
---@return fasterlua.db.Target
function url.read(text, options)
  if type(text) ~= "string" then
    fail('a URL expected, as in "sqlite:shop.db" or "postgres://user@host/database", got %s',
      type(text))
  end
  local scheme, rest, query = text:match("^(%w+):([^?]*)%??(.*)$")
  local driver = scheme and drivers[scheme:lower()]
  if not driver then
    local names = { "postgres", "mysql", "mariadb", "sqlite" }
    fail("no database is reached by %q: sqlite:…, postgres://… and mysql://… are%s",
      without_password(text), scheme and suggest.hint(scheme, names) or "")
  end
  local target = { driver = driver, settings = { name = without_password(text), options = {} } }
  apply_url(target, scheme, rest, query)
  for name, value in pairs(options or {}) do
    if not set(target, name, value) then
      refuse_option(driver, name)
    end
  end
  return target
end

return url
