-- Every setting's value, and where it came from: defaults, conf files, environment, flags.
--
--     local settings = require "fasterlua.settings"
--     local merged = settings.merge { home = ".", environment = {}, flags = {} }
--     merged.values.keep_alive  -- 60 (seconds)
--     merged.sources.keep_alive -- "default"
--
-- conf/default.lua names the settings, tells the order of precedence and is what comments are taken
-- from; the kinds and ranges stand here.

local suggest = require "fasterlua.suggest"
local units = require "fasterlua.units"

local settings = {}

local KB, MB, GB = units.KB, units.MB, units.GB
local MINUTE, HOUR, DAY = units.MINUTE, units.HOUR, units.DAY

---@class fasterlua.settings.Rule
---@field expected string what is asked for, to follow "expected"
---@field choices? string[] the words it may be, for completion
---@field read fun(value: any): any the value, or nil when it is not what is asked for
---@field format fun(value: any): string as a conf file would write it

local function quote(value)
  return ("%q"):format(value)
end

local function read_number(text)
  return text:find("^%-?%d+%.?%d*$") and tonumber(text) or nil
end

local function within(value, low, high)
  return value and value >= low and value <= high
end

local function is_whole(value)
  return value % 1 == 0
end

---@return fasterlua.settings.Rule
local function integer(low, high)
  return {
    expected = ("an integer from %d to %d"):format(low, high),
    format = tostring,
    read = function(value)
      local number = type(value) == "string" and read_number(value) or value
      local is_integer = type(number) == "number" and within(number, low, high) and is_whole(number)
      return is_integer and number or nil
    end,
  }
end

---@return fasterlua.settings.Rule
local function size(low, high)
  local function format(value)
    return units.format_bytes(value)
  end
  local range = "a size in bytes, or as in \"64KB\", from %s to %s"
  return {
    expected = range:format(format(low), format(high)),
    format = format,
    read = function(value)
      local bytes = units.bytes(value)
      return within(bytes, low, high) and is_whole(bytes) and bytes or nil
    end,
  }
end

---@return fasterlua.settings.Rule
local function time(low, high)
  local function format(value)
    return units.format_seconds(value)
  end
  local range = "a time in seconds, or as in \"500ms\" or \"10s\", from %s to %s"
  return {
    expected = range:format(format(low), format(high)),
    format = format,
    read = function(value)
      local seconds = units.seconds(value)
      return within(seconds, low, high) and seconds or nil
    end,
  }
end

local switches = {
  on = true, off = false, ["true"] = true, ["false"] = false,
  yes = true, no = false, ["1"] = true, ["0"] = false,
}

---@return fasterlua.settings.Rule
local function switch()
  return {
    expected = "on or off",
    choices = { "on", "off" },
    format = tostring,
    read = function(value)
      if type(value) == "string" then
        return switches[value:lower()]
      end
      if type(value) == "boolean" then
        return value
      end
    end,
  }
end

---@return fasterlua.settings.Rule
local function choice(...)
  local words = { ... }
  return {
    expected = "one of " .. table.concat(words, ", "),
    choices = words,
    format = quote,
    read = function(value)
      for _, word in ipairs(words) do
        if value == word then
          return word
        end
      end
    end,
  }
end

---@param expected string
---@param is_right? fun(value: string): any
---@return fasterlua.settings.Rule
local function text(expected, is_right)
  return {
    expected = expected,
    format = quote,
    read = function(value)
      local is_text = type(value) == "string" and not value:find("%c")
      return is_text and (not is_right or is_right(value)) and value or nil
    end,
  }
end

local function is_filled(value)
  return value ~= ""
end

local function is_prefix(value)
  local is_path = value:sub(1, 1) == "/" and value:sub(-1) ~= "/" and not value:find("[%s?#]")
  return value == "" or is_path
end

local function is_admin_address(value)
  if value == "" or value:find("/", 1, true) then
    return true
  end
  local port = value:match("^.+:(%d+)$")
  return port and tonumber(port) <= 65535
end

local function is_peer_list(value)
  for peer in (value .. ","):gmatch("%s*(.-)%s*,") do
    local address, bits = peer:match("^([%x.:]+)/?(%d*)$")
    local is_address = address and address:find("[.:]") and (bits == "" or tonumber(bits) <= 128)
    if peer ~= "*" and peer ~= "" and not is_address then
      return false
    end
  end
  return true
end

---@return fasterlua.settings.Rule
local function mounts()
  return {
    expected = "a table of apps by prefix, as { [\"/shop\"] = \"shop\" }",
    read = function(value)
      for prefix, app in pairs(type(value) == "table" and value or { false }) do
        local is_right = type(prefix) == "string" and type(app) == "string"
          and (prefix == "/" or (prefix ~= "" and is_prefix(prefix)))
        if not is_right then
          return nil
        end
      end
      return value
    end,
    format = function(value)
      local parts = {}
      for prefix, app in pairs(value) do
        parts[#parts + 1] = ("[%q] = %q"):format(prefix, app)
      end
      table.sort(parts)
      return #parts == 0 and "{}" or ("{ %s }"):format(table.concat(parts, ", "))
    end,
  }
end

---@type table<string, fasterlua.settings.Rule>
local rules = {
  path = text("the path of a folder or an app.lua", is_filled),
  host = text("an address or a name", is_filled),
  port = integer(0, 65535),
  uds = text("the path of a socket, 107 bytes at most", function(value) return #value <= 107 end),
  fd = integer(-1, 65535),
  backlog = integer(1, 65535),
  mounts = mounts(),
  root_path = text("a prefix as in \"/api\"", is_prefix),
  admin = text("HOST:PORT, or the path of a socket with a slash in it", is_admin_address),
  environment = choice("development", "production", "test"),
  workers = integer(1, 256),
  threads = integer(0, 1024),
  cpu_states = integer(0, 1024),
  blocking_threads = integer(1, 1024),
  pool_queue = integer(1, 10000000),
  pool_timeout = time(0, DAY),
  pool_idle = time(0, DAY),
  retire_rate = integer(1, 1000000),
  file_threads = integer(1, 1024),
  db_connections = integer(1, 100000),
  db_pool = integer(1, 1000),
  db_timeout = time(0, DAY),
  db_connect_timeout = time(0.01, HOUR),
  db_pool_timeout = time(0.01, HOUR),
  db_idle = time(0.1, DAY),
  db_result = size(64 * KB, 64 * GB),
  db_queue = integer(1, 10000000),
  user = text("the name of a user"),
  group = text("the name of a group"),
  proxy_headers = switch(),
  forwarded_allow_ips = text("addresses or networks with commas between, or \"*\"", is_peer_list),
  log_level = choice("debug", "info", "warn", "error"),
  log_format = choice("auto", "text", "json"),
  access_log = switch(),
  log_buffer = size(4 * KB, GB),
  request_line = size(64, MB),
  header_block = size(256, MB),
  header_fields = integer(1, 10000),
  chunk_extensions = size(0, MB),
  trailer_block = size(0, MB),
  trailer_fields = integer(0, 10000),
  max_body = size(0, 1024 * GB),
  form_fields = integer(1, 1000000),
  cookie_fields = integer(1, 10000),
  cookie_bytes = size(64, MB),
  json_depth = integer(1, 96), -- what the encoder and messages between states allow
  json_nodes = integer(1, 100000000),
  json_bytes = size(KB, 2 * GB),
  head_timeout = time(0.01, HOUR),
  body_rate = size(0, GB),
  body_grace = time(0, HOUR),
  keep_alive = time(0, DAY),
  handler_timeout = time(0, DAY),
  write_stall = time(0.01, DAY),
  requests_per_connection = integer(1, 1000000000),
  connections = integer(1, 1000000),
  limit_requests = integer(0, 1000000000),
  queue_delay = time(0, MINUTE),
  write_buffer = size(KB, GB),
  read_ahead = size(KB, GB),
  lua_memory = size(4 * MB, 64 * GB),
  shared_memory = size(MB, 64 * GB),
  topic_ring = size(64 * KB, GB),
  channels = integer(1, 1000000),
  channel_bytes = size(KB, 64 * GB),
  topic_bytes = size(KB, 64 * GB),
  exec_output = size(0, GB),
  slow_handler = time(0, HOUR),
  stuck_handler = time(0, HOUR),
  blocked_handler = time(0, HOUR),
  exile = time(0, DAY),
  drain = time(0, DAY),
}

--- The names of all settings, in the alphabet's order.
---@return string[]
function settings.names()
  local names = {}
  for name in pairs(rules) do
    names[#names + 1] = name
  end
  table.sort(names)
  return names
end

--- The words that a setting may be, or nil when it is none of a few words.
---@param name string
---@return string[]|nil
function settings.choices(name)
  return rules[name].choices
end

--- A value as a conf file would write it.
---@param name string
---@param value any
---@return string
function settings.format(name, value)
  return rules[name].format(value)
end

---@class fasterlua.settings.Entry
---@field name string
---@field comment string
---@field group string

--- The settings in the order of conf/default.lua, with their comments.
---@param home string
---@return fasterlua.settings.Entry[]
function settings.describe(home)
  local entries, group = {}, nil
  for line in io.lines(home .. "/conf/default.lua") do
    group = line:match("^  %-%- (.+)$") or group
    local name, comment = line:match("^  ([%l_]+) = .-, %-%- (.+)$")
    if name then
      entries[#entries + 1] = { name = name, comment = comment, group = group }
    end
  end
  return entries
end

--- What a conf file returns. It is loaded as text and sees no globals.
---@param path string
---@return table
function settings.read_file(path)
  local chunk, problem = loadfile(path, "t", {})
  if not chunk then
    error(problem, 0)
  end
  local is_done, result = pcall(chunk)
  if not is_done then
    error(("%s (a conf file sees no globals)"):format(tostring(result)), 0)
  end
  if type(result) ~= "table" then
    error(("%s: expected a table to be returned, got %s"):format(path, type(result)), 0)
  end
  return result
end

local function show(value)
  if type(value) == "string" then
    return quote(value)
  end
  local is_plain = type(value) == "number" or type(value) == "boolean"
  return is_plain and tostring(value) or "a " .. type(value)
end

---@param merged fasterlua.settings.Merged
---@param name string
---@param raw any
---@param source string where it came from
---@param place string how to begin a message about it
local function put(merged, name, raw, source, place)
  local value = rules[name].read(raw)
  if value == nil then
    error(("%s: %s is not valid: expected %s"):format(place, show(raw), rules[name].expected), 0)
  end
  merged.values[name] = value
  merged.sources[name] = source
end

---@param merged fasterlua.settings.Merged
---@param path string
---@param source string
local function put_file(merged, path, source)
  local is_default = source == "default"
  local file = settings.read_file(path)
  local names = {}
  for name in pairs(file) do
    names[#names + 1] = name
  end
  table.sort(names, function(a, b) return tostring(a) < tostring(b) end)
  for _, name in ipairs(names) do
    if not rules[name] then
      local hint = suggest.hint(tostring(name), settings.names())
      error(("%s: unknown setting %s%s"):format(path, show(name), hint), 0)
    end
    if name == "environment" and not is_default then
      error(path .. ": environment selects the conf file, so --environment or "
        .. "FASTERLUA_ENVIRONMENT sets it", 0)
    end
    put(merged, name, file[name], source, ("%s: %s"):format(path, name))
  end
end

-- Not settings, but what finds them or belongs to the machinery.
local reserved = {
  FASTERLUA_BIN = true,
  FASTERLUA_CONF = true,
  FASTERLUA_ENV_FILE = true,
  FASTERLUA_HOME = true,
  FASTERLUA_POOL = true,
  FASTERLUA_SERVER = true,
}

---@return string[]
local function variable_names(environment)
  local names = {}
  for variable in pairs(environment) do
    if variable:find("^FASTERLUA_") and not reserved[variable] then
      names[#names + 1] = variable
    end
  end
  table.sort(names)
  return names
end

---@return string
local function setting_of(variable)
  return variable:sub(#"FASTERLUA_" + 1):lower()
end

local function check_variables(environment)
  local known = {}
  for name in pairs(rules) do
    known[#known + 1] = "FASTERLUA_" .. name:upper()
  end
  for _, variable in ipairs(variable_names(environment)) do
    if not rules[setting_of(variable)] or variable ~= variable:upper() then
      local hint = suggest.hint(variable, known)
      error(("environment: unknown variable %s%s"):format(variable, hint), 0)
    end
  end
end

---@param merged fasterlua.settings.Merged
---@param input fasterlua.settings.Input
local function put_environment(merged, input)
  local function put_variable(name, variable)
    local file = (input.files or {})[variable]
    local source = file and ("%s in %s"):format(variable, file) or variable
    put(merged, name, input.environment[variable], source, "environment: " .. source)
  end
  check_variables(input.environment)
  if (input.environment.WEB_CONCURRENCY or "") ~= "" then
    put_variable("workers", "WEB_CONCURRENCY")
  end
  for _, variable in ipairs(variable_names(input.environment)) do
    put_variable(setting_of(variable), variable)
  end
end

---@param merged fasterlua.settings.Merged
---@param flags fasterlua.settings.Flag[]
local function put_flags(merged, flags)
  for _, flag in ipairs(flags) do
    if not rules[flag.name] then
      local hint = suggest.hint(flag.name, settings.names())
      local message = ("%s: unknown setting %q%s"):format(flag.flag, flag.name, hint)
      error({ is_flag = true, message = message })
    end
    local is_done, problem = pcall(put, merged, flag.name, flag.value, flag.flag, flag.flag)
    if not is_done then
      error({ is_flag = true, message = problem })
    end
  end
end

local function exists(path)
  local file = io.open(path, "r")
  if file then
    file:close()
  end
  return file ~= nil
end

--- The environment that was asked for, before anything else can be read.
---@param input fasterlua.settings.Input
---@return string
local function select_environment(input)
  local early = { values = { environment = "production" }, sources = {} }
  local variable = input.environment.FASTERLUA_ENVIRONMENT
  if variable then
    put(early, "environment", variable, "", "environment: FASTERLUA_ENVIRONMENT")
  end
  for _, flag in ipairs(input.flags) do
    if flag.name == "environment" then
      put_flags(early, { flag })
    end
  end
  return early.values.environment
end

local function check_together(values)
  if values.uds ~= "" and values.fd >= 0 then
    error("uds and fd are both set: the server listens on one of them", 0)
  end
end

---@class fasterlua.settings.Flag
---@field flag string as the user wrote it: "--port", "--set port"
---@field name string
---@field value any

---@class fasterlua.settings.Input
---@field home string the installation
---@field environment table<string, string> the process' variables
---@field flags fasterlua.settings.Flag[] later ones win
---@field files? table<string, string> by variable: the environment file that it is from
---@field conf? string a conf file that must exist

---@class fasterlua.settings.Merged
---@field values table<string, any> by name: times in seconds, sizes in bytes
---@field sources table<string, string> by name: "default", a file, a variable or a flag

--- Merges all that sets something. Raises a string that names the value and its place, or, when a
--- flag is to blame, `{ is_flag = true, message = … }`.
---@param input fasterlua.settings.Input
---@return fasterlua.settings.Merged
function settings.merge(input)
  local merged = { values = {}, sources = {} }
  local environment = select_environment(input)
  local own = ("conf/%s.lua"):format(environment)
  put_file(merged, input.home .. "/conf/default.lua", "default")
  put_file(merged, ("%s/%s"):format(input.home, own), "default of " .. environment)
  if input.conf or exists(own) then
    put_file(merged, input.conf or own, input.conf or own)
  end
  put_environment(merged, input)
  put_flags(merged, input.flags)
  check_together(merged.values)
  return merged
end

return settings
