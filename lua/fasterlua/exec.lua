-- Runs another program and collects what it writes. No shell is involved.
--
--     local result = await(fl.exec { "git", "rev-parse", "HEAD" })
--     if result.code == 0 then return result.stdout end

local core = require "fasterlua.core.exec"
local future = require "fasterlua.future"
local suggest = require "fasterlua.suggest"
local units = require "fasterlua.units"

local option_names = { "stdin", "cwd", "env", "timeout" }
local option_types = { stdin = "string", cwd = "string", env = "table" }

---@class fasterlua.ExecOptions
---@field stdin? string what the program reads; default nothing
---@field cwd? string the folder it runs in; default the app's
---@field env? table<string, string> its environment; default the server's
---@field timeout? number|string seconds after which it is killed

---@class fasterlua.ExecResult
---@field code integer its exit code
---@field signal integer|nil the signal that ended it
---@field stdout string
---@field stderr string
---@field timed_out boolean whether it was ended by `timeout`
---@field truncated boolean whether it wrote more than is kept

local function check_arguments(argv)
  if type(argv) ~= "table" or #argv == 0 then
    local message =
      'exec: a list of the program and its arguments expected, as { "ls", "-l" }, got %s'
    error(message:format(type(argv) == "table" and "an empty one" or type(argv)), 3)
  end
  for index, argument in ipairs(argv) do
    if type(argument) ~= "string" or argument:find("\0", 1, true) then
      error(("exec: argument %d must be a string without NUL"):format(index), 3)
    end
  end
end

local function check_timeout(value)
  local seconds = units.seconds(value)
  if not seconds or not (seconds > 0 and seconds < 4e9) then
    error(('exec: option "timeout" must be seconds above 0, or a time as "500ms", got %s'):format(
      tostring(value)), 4)
  end
end

local function check_options(options)
  for option, value in pairs(options) do
    local expected = option_types[option]
    if option == "timeout" then
      check_timeout(value)
    elseif not expected then
      local hint = suggest.hint(tostring(option), option_names)
      error(("exec: unknown option %q%s"):format(tostring(option), hint), 3)
    elseif type(value) ~= expected then
      error(("exec: option %q must be a %s, got %s"):format(option, expected, type(value)), 3)
    end
  end
end

--- Starts a program. Cancelling the future kills it.
---@param argv string[]
---@param options? fasterlua.ExecOptions
---@return fasterlua.Future # fasterlua.ExecResult
local function exec(argv, options)
  options = options or {}
  check_arguments(argv)
  check_options(options)
  return future.from_op(core.run(argv, options))
end

return exec
