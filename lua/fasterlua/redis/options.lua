-- Where a server of Redis is and how to speak to it: a URL, a table of options, or both.
--
--     options.read("rediss://:secret@cache.example:6380/1", { timeout = "2s" })

local suggest = require "fasterlua.suggest"
local text = require "fasterlua.core.text"
local units = require "fasterlua.units"

local options = {}

---@class fasterlua.RedisOptions
---@field url? string redis://, rediss:// (TLS) or redis+unix://
---@field host? string "127.0.0.1"
---@field port? integer 6379
---@field path? string of a Unix socket, instead of host and port
---@field user? string
---@field password? string
---@field database? integer 0
---@field tls? boolean
---@field ca? string file of certificates that the server's is checked by; the system's without it
---@field server_name? string that its certificate must have, the host's without it
---@field name? string of the connections in CLIENT LIST
---@field timeout? number|string of a command: 5 s; 0 for none
---@field connect_timeout? number|string how long commands wait for a connection: 1 s
---@field max_commands? integer that wait or are under way: 10,000
---@field max_bytes? number|string of those: 64MB
---@field max_reply? number|string one reply: 64MB
---@field connections? integer for blocking commands and r:watch: 10
---@field connection_wait? number|string for one of those: 5 s
---@field cluster? boolean
---@field nodes? string[] of a cluster, "host:port", beside the URL's
---@field max_redirects? integer 5

local function refuse(what, ...)
  error("redis: " .. what:format(...), 0)
end

local function a_string(name, value)
  if type(value) ~= "string" or value:find("%z") then
    refuse("option %q must be a string without NUL bytes, got %s", name,
      type(value) == "string" and "one" or "a " .. type(value))
  end
  return value
end

local function a_flag(name, value)
  if type(value) ~= "boolean" then
    refuse("option %q must be true or false, got %s", name, tostring(value))
  end
  return value
end

local function an_integer(least, most)
  return function(name, value)
    if type(value) ~= "number" or value % 1 ~= 0 or value < least or value > most then
      refuse("option %q must be an integer from %d to %d, got %s", name, least, most,
        tostring(value))
    end
    return value
  end
end

local function seconds(least)
  return function(name, value)
    local read = units.seconds(value)
    if not read or not (read >= least and read <= 86400) then
      refuse("option %q must be seconds from %g to 86400, as in 2 or \"500ms\", got %s", name,
        least, tostring(value))
    end
    return read
  end
end

local function bytes(name, value)
  local read = units.bytes(value)
  if not read or not (read >= 1024 and read <= 2 ^ 32) then
    refuse("option %q must be bytes from 1KB to 4GB, as in \"64MB\", got %s", name,
      tostring(value))
  end
  return read
end

local function node_list(name, value)
  if type(value) ~= "table" then
    refuse("option %q must be a list of \"host:port\", got %s", name, type(value))
  end
  for index, node in ipairs(value) do
    if type(node) ~= "string" or not node:find "^.+:%d+$" then
      refuse("option %q: %d is no \"host:port\": %s", name, index, tostring(node))
    end
  end
  return value
end

local readers = {
  url = a_string, host = a_string, port = an_integer(1, 65535), path = a_string, user = a_string,
  password = a_string, database = an_integer(0, 2 ^ 31 - 1), tls = a_flag, ca = a_string,
  server_name = a_string, name = a_string, timeout = seconds(0), connect_timeout = seconds(0.001),
  max_commands = an_integer(1, 10 ^ 7), max_bytes = bytes, max_reply = bytes,
  connections = an_integer(1, 10000), connection_wait = seconds(0), cluster = a_flag,
  nodes = node_list, max_redirects = an_integer(0, 100),
}

local defaults = {
  host = "127.0.0.1", port = 6379, database = 0, timeout = 5, connect_timeout = 1,
  max_commands = 10000, max_bytes = 64 * 2 ^ 20, max_reply = 64 * 2 ^ 20, connections = 10,
  connection_wait = 5, max_redirects = 5, tls = false, cluster = false,
}

local names = {}
for name in pairs(readers) do
  names[#names + 1] = name
end
table.sort(names)

local schemes = { redis = {}, rediss = { tls = true }, ["redis+unix"] = { unix = true },
  unix = { unix = true } }

-- Without what is secret in it.
local function shown(url)
  return (url:gsub("://[^@/]*@", "://…@"))
end

local function decode(url, part)
  local decoded = text.percent_decode(part)
  return decoded and a_string("url", decoded) or refuse("URL %s: %q is no percent-encoding",
    shown(url), part)
end

local function read_query(url, query, result)
  for pair in query:gmatch "[^&]+" do
    local name, value = pair:match "^([^=]*)=(.*)$"
    if name ~= "db" or not value:find "^%d+$" then
      refuse("URL %s: %q is not understood: db=0 is all that there may be", shown(url), pair)
    end
    result.database = tonumber(value)
  end
end

local function read_user(url, part, result)
  local user, password = part:match "^([^:]*):(.*)$"
  if not password then
    refuse("URL %s: user:password@ or :password@ expected before the host", shown(url))
  end
  result.user = user ~= "" and decode(url, user) or nil
  result.password = decode(url, password)
end

local function read_host(url, authority, path, result)
  local host, port = authority:match "^%[(.-)%](.*)$"
  if not host then
    host, port = authority:match "^([^:]*)(.*)$"
  end
  local number = port:match "^:(%d+)$"
  if port ~= "" and not number then
    refuse("URL %s: %q is no port", shown(url), port)
  end
  result.host = host ~= "" and decode(url, host) or nil
  result.port = tonumber(number)
  local database = path:match "^/(%d*)$"
  if path ~= "" and not database then
    refuse("URL %s: %q is no number of a database", shown(url), path)
  end
  result.database = tonumber(database)
end

local function read_url(url)
  local scheme, authority, path, query = url:match "^([%w+]+)://([^/?#]*)([^?#]*)%??([^#]*)$"
  local meaning = schemes[scheme]
  if not meaning then
    refuse("URL %s: redis://, rediss:// or redis+unix:// expected", shown(url))
  end
  local result = { tls = meaning.tls }
  local user, rest = authority:match "^(.*)@(.-)$"
  if user then
    read_user(url, user, result)
    authority = rest
  end
  if meaning.unix then
    result.path = decode(url, authority .. path)
    if result.path:sub(1, 1) ~= "/" then
      refuse("URL %s: redis+unix:// and an absolute path expected", shown(url))
    end
  else
    read_host(url, authority, path, result)
  end
  read_query(url, query, result)
  return result
end

local function check(given)
  local result = {}
  for name, value in pairs(given) do
    local read = readers[name]
    if not read then
      refuse("unknown option %q%s", tostring(name), suggest.hint(tostring(name), names))
    end
    result[name] = read(name, value)
  end
  return result
end

local function merge(into, from)
  for name, value in pairs(from) do
    into[name] = value
  end
end

--- All options with their defaults. Raises what is wrong with them, without a place.
---@param url string|fasterlua.RedisOptions|nil
---@param given? fasterlua.RedisOptions
---@return table
function options.read(url, given)
  if type(url) == "table" and given == nil then
    url, given = nil, url
  elseif type(url) ~= "string" and url ~= nil then
    refuse("a URL or a table of options expected, got a %s", type(url))
  elseif given ~= nil and type(given) ~= "table" then
    refuse("a table of options expected, got a %s", type(given))
  end
  local result = check(given or {})
  url = url or result.url
  if url then
    local parts = read_url(url)
    merge(parts, result)
    result = check(parts)
  end
  for name, value in pairs(defaults) do
    if result[name] == nil then
      result[name] = value
    end
  end
  result.url = nil
  if result.user and not result.password then
    refuse("a user has a password")
  elseif result.tls and result.path then
    refuse("a Unix socket has no TLS")
  elseif result.cluster and result.database ~= 0 then
    refuse("a cluster has database 0 alone, got %d", result.database)
  end
  return result
end

--- A text that is the same for the same options.
---@param read table
---@return string
function options.key(read)
  local parts = {}
  for _, name in ipairs(names) do
    local value = read[name]
    value = type(value) == "table" and table.concat(value, ",") or value
    parts[#parts + 1] = ("%s=%q"):format(name, tostring(value))
  end
  return table.concat(parts, " ")
end

--- Where the server is, without what is secret, for messages.
---@param read table
---@return string
function options.label(read)
  if read.path then
    return read.path
  end
  return (read.host:find ":" and "[%s]:%d" or "%s:%d"):format(read.host, read.port)
end

return options
