-- The process' environment, and files that add to it.
--
--     local environment = require "fasterlua.environment"
--     local pairs_of_file = environment.parse('export TOKEN="a b" # secret\n', ".env")
--     environment.all().HOME
--
-- A file holds a line KEY=VALUE for each variable. A value may stand in single quotes (taken as it
-- is) or in double quotes (\n, \t, \", \\ and \$ are understood); `#` begins a comment.

local ffi = require "ffi"

ffi.cdef [[
char **environ;
int setenv(const char *name, const char *value, int overwrite);
]]

local environment = {}

local escapes = { n = "\n", t = "\t", r = "\r", ['"'] = '"', ["\\"] = "\\", ["$"] = "$" }

--- All variables of the process.
---@return table<string, string>
function environment.all()
  local variables, index = {}, 0
  while ffi.C.environ ~= nil and ffi.C.environ[index] ~= nil do
    local name, value = ffi.string(ffi.C.environ[index]):match("^([^=]+)=(.*)$")
    if name and variables[name] == nil then
      variables[name] = value
    end
    index = index + 1
  end
  return variables
end

--- Sets a variable of the process, for the apps to read with os.getenv.
---@param name string
---@param value string
function environment.set(name, value)
  if ffi.C.setenv(name, value, 1) ~= 0 then
    error(("cannot set the environment variable %s"):format(name), 2)
  end
end

---@return string|nil value, string rest
local function read_quoted(text)
  local quote = text:sub(1, 1)
  local parts, index = {}, 2
  while index <= #text do
    local letter = text:sub(index, index)
    if letter == quote then
      return table.concat(parts), text:sub(index + 1)
    end
    local escaped = quote == '"' and letter == "\\" and escapes[text:sub(index + 1, index + 1)]
    parts[#parts + 1] = escaped or letter
    index = index + (escaped and 2 or 1)
  end
  return nil, text
end

---@return string|nil value, string|nil problem
local function read_value(text)
  if not text:find("^[\"']") then
    return (text:gsub("^#.*$", ""):gsub("%s+#.*$", ""):gsub("%s+$", ""))
  end
  local value, rest = read_quoted(text)
  if not value then
    return nil, "the closing quote is missing"
  end
  if not rest:find("^%s*$") and not rest:find("^%s+#") then
    return nil, "there is text behind the closing quote"
  end
  return value
end

---@return string|nil name, string value_or_problem
local function read_line(line)
  local name, text = line:gsub("^export%s+", ""):match("^([^=]-)%s*=%s*(.*)$")
  if not name then
    return nil, "expected KEY=VALUE"
  end
  if not name:find("^[%a_][%w_]*$") then
    return nil, ("%q is no name of a variable"):format(name)
  end
  if text:find("%z") then
    return nil, "a value cannot hold a NUL byte"
  end
  local value, problem = read_value(text)
  if not value then
    return nil, problem
  end
  return name, value
end

--- The variables of a file's text; of a name given twice the last. Raises `FILE:LINE: problem`.
---@param text string
---@param file string for messages
---@return table<string, string>
function environment.parse(text, file)
  local variables, number = {}, 0
  for line in (text .. "\n"):gmatch("(.-)\r?\n") do
    number = number + 1
    line = line:match("^%s*(.-)%s*$")
    if line ~= "" and line:sub(1, 1) ~= "#" then
      local name, value = read_line(line)
      if not name then
        error(("%s:%d: %s"):format(file, number, value), 0)
      end
      variables[name] = value
    end
  end
  return variables
end

--- The variables of a file. Raises an error that names the file.
---@param path string
---@return table<string, string>
function environment.read(path)
  local file, problem = io.open(path, "r")
  local text = file and file:read("*a")
  if file then
    file:close()
  end
  if not text then
    error(("cannot read the environment file %s"):format(problem or path), 0)
  end
  return environment.parse(text, path)
end

return environment
