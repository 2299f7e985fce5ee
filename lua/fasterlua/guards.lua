-- Replaces what one app must not do to the process it shares, and what LuaJIT as packaged does
-- wrongly. Installed before any app code runs.
--
--     require("fasterlua.guards").install()
--
-- The guards isolate faults; they are no sandbox for hostile code. Where possible they end in a
-- tail call of the original, so that errors name the app's line and the function by its own name.

local coroutines = require "fasterlua.coroutines"
local finalizers = require "fasterlua.finalizers"
local log = require "fasterlua.log"
local recursion = require "fasterlua.recursion"

local raw_load, raw_loadfile = load, loadfile
local raw_setmetatable, raw_format, raw_gsub = setmetatable, string.format, string.gsub
local raw_sort, raw_setlocale = table.sort, os.setlocale
local raw_output, raw_write, raw_stdout = io.output, io.write, io.stdout
local debug_setmetatable, debug_getmetatable = debug.setmetatable, debug.getmetatable
local raw_pairs, raw_ipairs = pairs, ipairs
local type, select, tostring = type, select, tostring

local guards = {}

-- Bytecode is not verified when it is loaded: only text is.

local function load_text(chunk, name, mode, env)
  if mode == "b" then
    return nil, "bytecode is refused"
  end
  return raw_load(chunk, name, "t", env)
end

local function loadfile_text(path, mode, env)
  if path == nil then
    error("loadfile: a path expected: standard input is not the app's", 2)
  elseif mode == "b" then
    return nil, "bytecode is refused"
  end
  return raw_loadfile(path, "t", env)
end

local function dofile_text(path)
  if path == nil then
    error("dofile: a path expected: standard input is not the app's", 2)
  end
  local chunk, message = raw_loadfile(path, "t")
  if not chunk then
    error(message, 0)
  end
  return chunk()
end

-- The process and its locale belong to all apps; the count hook stops stuck handlers.

local function exit()
  error("os.exit is refused: it would end every app of this process", 2)
end

local function setlocale(locale, category)
  if locale == nil then
    return raw_setlocale(nil, category or "all")
  end
  error("os.setlocale is refused: the locale belongs to the whole process", 2)
end

local function sethook()
  error("debug.sethook is refused: the server stops stuck handlers with it", 2)
end

-- Clearing a metatable in a compiled loop crashes (CVE-2024-25177); debug.setmetatable is never
-- compiled.
local function setmetatable_guarded(object, ...)
  local metatable = ...
  if metatable then
    return raw_setmetatable(object, metatable)
  elseif metatable == false or type(object) ~= "table" or select("#", ...) == 0 then
    return raw_setmetatable(object, ...) -- raises
  end
  local current = debug_getmetatable(object)
  if current and rawget(current, "__metatable") ~= nil then
    error("cannot change a protected metatable", 2)
  end
  debug_setmetatable(object, nil)
  return object
end

-- "%g" with a width reads beyond its digits (CVE-2024-25176) and cuts some numbers short. Such a
-- conversion is done without its width, and padded here.

local MAX_PLANS = 1000
local plans, plan_count = {}, 0

-- What is padded in `format`: { [argument] = { conversion, width, flags } } and the format that
-- takes the padded texts; false when there is nothing.
local function plan_of(format)
  local padded, argument = false, 0
  local function rewrite(flags, width, precision, kind)
    if kind == "%" then
      return nil
    end
    argument = argument + 1
    if width == "" or (kind ~= "g" and kind ~= "G") then
      return nil
    end
    padded = padded or {}
    local plain = "%" .. raw_gsub(flags, "[-0]", "") .. precision .. kind
    padded[argument] = { plain, tonumber(width), flags }
    return "%s"
  end
  local rewritten = raw_gsub(format, "%%([-+ #0]*)(%d*)(%.?%d*)(.)", rewrite)
  return padded and { format = rewritten, padded = padded }
end

local function pad(text, width, flags)
  local missing = width - #text
  if missing <= 0 then
    return text
  elseif flags:find("-", 1, true) then
    return text .. (" "):rep(missing)
  elseif flags:find("0", 1, true) and text:find("%d") then
    local sign, digits = text:match("^([-+ ]?)(.*)$")
    return sign .. ("0"):rep(missing) .. digits
  end
  return (" "):rep(missing) .. text
end

local function format_planned(plan, format, ...)
  local arguments = { ... }
  for argument, conversion in pairs(plan.padded) do
    local value = arguments[argument]
    if not tonumber(value) then
      return raw_format(format, ...) -- raises
    end
    arguments[argument] = pad(raw_format(conversion[1], value), conversion[2], conversion[3])
  end
  return raw_format(plan.format, unpack(arguments, 1, select("#", ...)))
end

local function remember_plan(format)
  if plan_count >= MAX_PLANS then
    plans, plan_count = {}, 0
  end
  plan_count = plan_count + 1
  plans[format] = plan_of(format)
  return plans[format]
end

local function format_guarded(format, ...)
  local plan = plans[format]
  if plan == nil and type(format) == "string" then
    plan = remember_plan(format)
  end
  if plan then
    return format_planned(plan, format, ...)
  end
  return raw_format(format, ...)
end

-- Recursion through C.

local function calls_back(replacement)
  if type(replacement) == "function" then
    return true
  end
  return type(replacement) == "table" and debug_getmetatable(replacement) ~= nil
end

local function is_text(value)
  return type(value) == "string" or type(value) == "number"
end

local function gsub_guarded(text, pattern, replacement, limit)
  if not calls_back(replacement) or not is_text(text) or not is_text(pattern) then
    return raw_gsub(text, pattern, replacement, limit)
  end
  local level = recursion.level
  if level >= recursion.limit then
    recursion.check("gsub", 2)
    level = recursion.level
  end
  recursion.level = level + 1
  return recursion.leave(level, raw_gsub(text, pattern, replacement, limit))
end

local function sort_guarded(list, comparator)
  if type(list) ~= "table" or (comparator ~= nil and type(comparator) ~= "function") then
    return raw_sort(list, comparator)
  end
  local level = recursion.level
  if level >= recursion.limit then
    recursion.check("table.sort", 2)
    level = recursion.level
  end
  recursion.level = level + 1
  return recursion.leave(level, raw_sort(list, comparator))
end

recursion.guards[gsub_guarded] = true
recursion.guards[sort_guarded] = true

-- A loop over a future that was not awaited would see its fields, or nothing at all.

local function refuse_future(list)
  local metatable = debug_getmetatable(list)
  if metatable and rawget(metatable, "__name") == "fasterlua.future" then
    error("a loop over a future: did you forget await?", 3)
  end
end

local function pairs_guarded(list)
  if type(list) == "table" then
    refuse_future(list)
  end
  return raw_pairs(list)
end

local function ipairs_guarded(list)
  if type(list) == "table" then
    refuse_future(list)
  end
  return raw_ipairs(list)
end

-- Standard output is the server's log.

local function texts(...)
  local list = {}
  for index = 1, select("#", ...) do
    list[index] = tostring((select(index, ...)))
  end
  return list
end

local function print_to_log(...)
  log.info(table.concat(texts(...), "\t"))
end

local function log_text(...)
  local text = table.concat(texts(...))
  if text:sub(-1) == "\n" then
    text = text:sub(1, -2)
  end
  if text ~= "" then
    log.info(text)
  end
end

-- Takes the place of io.stdout and io.stderr.
local stream = {}

local function write_to_log(...)
  if raw_output() ~= raw_stdout then
    return raw_write(...)
  end
  log_text(...)
  return stream
end

function stream:write(...)
  log_text(...)
  return self
end

function stream:flush()
  return self
end

function stream.setvbuf()
  return true
end

function stream.close()
  error("standard output belongs to the server", 2)
end

local is_installed = false

--- Replaces the functions, once per Lua state.
function guards.install()
  if is_installed then
    return
  end
  is_installed = true
  local globals = _G
  globals.load, globals.loadstring = load_text, load_text
  globals.loadfile, globals.dofile = loadfile_text, dofile_text
  globals.setmetatable, globals.print = setmetatable_guarded, print_to_log
  globals.pairs, globals.ipairs = pairs_guarded, ipairs_guarded
  rawset(os, "exit", exit)
  rawset(os, "setlocale", setlocale)
  rawset(debug, "sethook", sethook)
  rawset(string, "format", format_guarded)
  rawset(string, "gsub", gsub_guarded)
  rawset(table, "sort", sort_guarded)
  rawset(io, "write", write_to_log)
  rawset(io, "stdout", stream)
  rawset(io, "stderr", stream)
  coroutines.install()
  finalizers.install()
end

return guards
