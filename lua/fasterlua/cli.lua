-- The command line: `fasterlua serve apps/`, `fasterlua routes`, `fasterlua check` and so on.
--
--     local cli = require "fasterlua.cli"
--     local status, values, message = cli.main({ "serve" }, { home = ".", version = "0.1.0" })
--
-- Everything but serving happens here; for `serve` the merged settings go back to core/main.c.

local argparse = require "argparse"
local apps = require "fasterlua.apps"
local environment = require "fasterlua.environment"
local settings = require "fasterlua.settings"
local units = require "fasterlua.units"


-- Apps that are loaded have their guards installed here too, which send `print` to a log.
local stdout = io.stdout
local function say(text)
  stdout:write(text, "\n")
end

local cli = {}

local FAILURE, USAGE, START_FAILURE = 1, 2, 3

---@class fasterlua.cli.Host
---@field home string the installation
---@field version string
---@field libraries? string versions of what is linked, for `fasterlua version`
---@field is_server? boolean this is a server process

-- Settings with a flag of their own: what stands for the value in the help.
local flags = {
  { "host", "HOST" },
  { "port", "PORT" },
  { "uds", "PATH" },
  { "fd", "NUMBER" },
  { "workers", "N" },
  { "threads", "N" },
  { "cpu_states", "N" },
  { "log_level" },
  { "log_format" },
  { "access_log" },
  { "root_path", "PREFIX" },
  { "forwarded_allow_ips", "LIST" },
  { "backlog", "N" },
  { "limit_requests", "N" },
  { "user", "NAME" },
  { "group", "NAME" },
  { "admin", "ADDRESS" },
}

---@param name string
---@param value any the value, when the flag takes none
local function keep_flag(flag, name, value)
  return function(result, _, argument)
    result.flags = result.flags or {}
    local given = value
    if given == nil then
      given = argument
    end
    table.insert(result.flags, { flag = flag, name = name, value = given })
  end
end

local function keep_set(result, _, argument)
  local name, value = argument:match("^(.-)=(.*)$")
  keep_flag("--set " .. name, name, value)(result)
end

local function check_set(argument)
  if argument:find("^[^=]+=") then
    return argument
  end
  return nil, ("--set expects KEY=VALUE, got '%s'"):format(argument)
end

local function add_common(command)
  command:option("--environment", "Select conf/<environment>.lua (default production).")
    :choices(settings.choices("environment")):action(keep_flag("--environment", "environment"))
  command:option("--conf", "Conf file to read instead of conf/<environment>.lua.")
    :argname("FILE")
  command:option("--env-file", "File of KEY=VALUE lines to add to the environment.")
    :argname("FILE")
  command:option("--set", "Any other setting of conf/default.lua, as keep_alive=5s; repeatable.")
    :argname("KEY=VALUE"):convert(check_set):action(keep_set)
end

local function add_path(command)
  command:argument("DIR", "Folder of apps, or one app.lua (default apps).")
    :args("?"):argname("DIR"):action(function(result, target, argument)
      if argument then
        keep_flag("DIR", "path")(result, target, argument)
      end
    end)
end

local function describe(host)
  local comments = {}
  for _, entry in ipairs(settings.describe(host.home)) do
    comments[entry.name] = entry.comment:sub(1, 1):upper() .. entry.comment:sub(2) .. "."
  end
  return comments
end

local function add_settings(command, comments)
  for _, each in ipairs(flags) do
    local name, argname = each[1], each[2]
    local flag = "--" .. name:gsub("_", "-")
    local option = command:option(flag, comments[name]):action(keep_flag(flag, name))
    if argname then
      option:argname(argname)
    else
      option:choices(settings.choices(name))
    end
  end
  local about = comments.proxy_headers
  command:flag("--proxy-headers", about):action(keep_flag("--proxy-headers", "proxy_headers", true))
  command:flag("--no-proxy-headers", "Do not, whatever conf and environment say.")
    :action(keep_flag("--no-proxy-headers", "proxy_headers", false))
  add_common(command)
end

local function print_version(host)
  local libraries = host.libraries and (" (%s)"):format(host.libraries) or ""
  say(("fasterlua %s%s"):format(host.version, libraries))
end

-- A time within bounds, as argparse wants it.
local function seconds_from(least, most)
  return function(argument)
    local seconds = units.seconds(argument)
    if seconds and seconds >= least and seconds <= most then
      return seconds
    end
    return nil, ("expected seconds from %s to %s, or a time as 500ms, got '%s'"):format(least, most,
      argument)
  end
end

-- A number within bounds.
local function number_from(least, most, is_whole)
  return function(argument)
    local number = argument:find("^[%d.]+$") and tonumber(argument)
    if number and number >= least and number <= most
        and (not is_whole or number == math.floor(number)) then
      return number
    end
    return nil, ("expected %s from %s to %s, got '%s'"):format(
      is_whole and "a whole number" or "a number", least, most, argument)
  end
end

local function check_state(argument)
  local app, thread = argument:match("^(.+):(%d+)$")
  return { app = app or argument, thread = tonumber(thread) }
end

local function add_address(command)
  command:argument("ADDRESS", "Its admin listener, HOST:PORT or a socket's path (default: the "
    .. "setting admin).", nil, nil, "?"):argname("ADDRESS")
end

-- The commands that look at a running server.
local function add_seeing(parser)
  local top = parser:command("top", "Show what a running server does, live.")
  add_address(top)
  top:option("--interval", "Seconds between two looks (default 1).", 1)
    :argname("S"):convert(seconds_from(0.1, 60)):show_default(false)
  top:flag("--once", "Print one screen after one interval; also when stdout is no terminal.")
  add_common(top)
  local profile = parser:command("profile",
    "Show where the Lua of a running server spends its time, as a flame graph.")
  add_address(profile)
  profile:option("--seconds", "How long to look (default 10).", 10)
    :argname("N"):convert(seconds_from(0.1, 300)):show_default(false)
  profile:option("--state", "App, and number of the web thread (default: the only app, on the "
    .. "thread that has computed most)."):argname("APP[:THREAD]"):convert(check_state)
  profile:option("--interval", "Milliseconds of processor time between samples (default 4).")
    :argname("MS"):convert(number_from(1, 1000, true))
  profile:option("--output", "File to write, - for stdout (default profile.svg)."):argname("FILE")
  profile:flag("--folded", "Write lines `a;b;c COUNT` instead of a picture (default to stdout).")
  add_common(profile)
end

local function add_action(group, name, about)
  local action = group:command(name, about)
  add_path(action)
  action:option("--database", "URL of the database (default: DATABASE_URL, else what the app opens "
    .. "first)."):argname("URL")
  if name ~= "status" then
    action:option("--to", "The last version that is to be applied then."):argname("VERSION")
      :convert(number_from(0, 1e15, true))
    action:option("--steps", "How many at most."):argname("N"):convert(number_from(1, 1e6, true))
    action:flag("--dry-run", "Say what would be done, and try it in a transaction that is rolled "
      .. "back, where the database can (not MariaDB).")
    action:flag("--allow-changed", "Take files as they are now that were changed after they had "
      .. "been applied.")
  end
  if name == "migrate" then
    action:flag("--allow-missing", "Go on though an applied file is missing.")
    action:flag("--allow-out-of-order", "Apply files before the last applied one, too.")
  end
  add_common(action)
end

-- The commands about databases.
local function add_databases(parser)
  local group = parser:command("db", "Change the databases of apps: the files of their folders "
    .. "migrations/."):command_target("action")
  add_action(group, "migrate", "Apply the migrations that are pending.")
  add_action(group, "rollback", "Take back the last migration, or more.")
  add_action(group, "status", "List migrations: applied, pending, changed, missing.")
end

---@param host fasterlua.cli.Host
local function build_parser(host)
  local comments = describe(host)
  local parser = argparse("fasterlua", "A web application server for Lua.")
    :command_target("command"):help_max_width(100)
  parser:flag("--version", "Show the version and exit."):action(function()
    print_version(host)
    os.exit(0)
  end)
  local serve = parser:command("serve", "Serve apps over HTTP.")
  add_path(serve)
  add_settings(serve, comments)
  local routes = parser:command("routes", "List the routes of every app.")
  add_path(routes)
  add_common(routes)
  local check = parser:command("check", "Load conf and every app and say what is wrong.")
  add_path(check)
  add_common(check)
  local config = parser:command("config", "Print the settings in effect.")
  config:flag("--explain", "Say of each where its value comes from and what it means.")
  add_settings(config, comments)
  add_databases(parser)
  add_seeing(parser)
  parser:command("version", "Show the version.")
  parser:add_complete_command():help_max_width(100)
  return parser
end

---@param status integer
---@param message string
local function fail(status, message)
  error({ status = status, message = message }, 0)
end

local function attempt(status, fn, ...)
  local is_done, result = pcall(fn, ...)
  if not is_done then
    local is_flag = type(result) == "table" and result.is_flag
    fail(is_flag and USAGE or status, is_flag and result.message or tostring(result))
  end
  return result
end

-- A supervisor leaves its environment as it is, which server processes inherit: a file changed
-- since then counts when they read it anew.
---@return table<string, string> variables, table<string, string> files
local function read_environment(options, host)
  local variables, files = environment.all(), {}
  local is_passed_on = options.command == "serve" and not host.is_server
  local path = options.env_file or variables.FASTERLUA_ENV_FILE
  for name, value in pairs(path and environment.read(path) or {}) do
    if variables[name] == nil then
      variables[name], files[name] = value, path
      if not is_passed_on then
        environment.set(name, value)
      end
    end
  end
  return variables, files
end

local function merge(options, host)
  local variables, files = read_environment(options, host)
  return settings.merge {
    home = host.home,
    environment = variables,
    files = files,
    conf = options.conf or variables.FASTERLUA_CONF,
    flags = options.flags or {},
  }
end

local function serve(options, host)
  local values = attempt(START_FAILURE, merge, options, host).values
  values.apps = attempt(START_FAILURE, apps.find, values.path, values.mounts)
  values.home = host.home
  return 0, values
end

local function config(options, host)
  local merged = attempt(FAILURE, merge, options, host)
  local group
  for _, entry in ipairs(settings.describe(host.home)) do
    local name = entry.name
    if options.explain and entry.group ~= group then
      say((group and "\n-- " or "-- ") .. entry.group)
      group = entry.group
    end
    local line = ("%s = %s,"):format(name, settings.format(name, merged.values[name]))
    if options.explain then
      line = ("%-40s -- [%s] %s"):format(line, merged.sources[name], entry.comment)
    end
    say(line)
  end
  return 0
end

---@return string where the handler's source stands
local function location(route)
  if route.source then
    return route.source
  end
  local info = debug.getinfo(route.handler, "S")
  return ("%s:%d"):format(info.short_src, info.linedefined)
end

local function rows_of(app, loaded)
  local rows = {}
  for _, route in ipairs(loaded.routes) do
    local path = app.prefix .. route.pattern
    rows[#rows + 1] = { route.method, path, route.name or "-", location(route) }
  end
  return rows
end

local function print_table(rows)
  local widths = {}
  for _, row in ipairs(rows) do
    for column, cell in ipairs(row) do
      widths[column] = math.max(widths[column] or 0, #cell)
    end
  end
  for _, row in ipairs(rows) do
    local cells = {}
    for column, cell in ipairs(row) do
      local padding = column < #row and (" "):rep(widths[column] - #cell) or ""
      cells[column] = cell .. padding
    end
    say(table.concat(cells, "  "))
  end
end

local function routes(options, host)
  local values = attempt(FAILURE, merge, options, host).values
  local rows = {}
  for _, app in ipairs(attempt(FAILURE, apps.find, values.path, values.mounts)) do
    local loaded, problem = apps.load(app, values)
    if not loaded then
      fail(FAILURE, ("app %s: %s"):format(app.name, problem))
    end
    for _, row in ipairs(rows_of(app, loaded)) do
      rows[#rows + 1] = row
    end
  end
  print_table(rows)
  return 0
end

local function check(options, host)
  local values = attempt(FAILURE, merge, options, host).values
  local status = 0
  for _, app in ipairs(attempt(FAILURE, apps.find, values.path, values.mounts)) do
    local loaded, problem = apps.load(app, values)
    if loaded then
      local count = #loaded.routes
      local noun = count == 1 and "route" or "routes"
      say(("%s: ok, %d %s at %s/"):format(app.name, count, noun, app.prefix))
    else
      io.stderr:write(("%s: %s\n"):format(app.name, problem))
      status = FAILURE
    end
  end
  return status
end

local function change_databases(options, host)
  local values = attempt(FAILURE, merge, options, host).values
  values.home = host.home
  local found = attempt(FAILURE, apps.find, values.path, values.mounts)
  local is_done, message = require("fasterlua.migrations.command").run(options, values, found)
  return is_done and 0 or fail(FAILURE, message)
end

-- Of the server that the same settings would start.
local function admin_address(options, host)
  local address = options.ADDRESS or attempt(FAILURE, merge, options, host).values.admin
  if address == "" then
    fail(USAGE, "no address: start the server with `fasterlua serve --admin ADDRESS` (HOST:PORT "
      .. "or a socket's path), and give it here or in the setting admin")
  elseif not address:find("/", 1, true) and not address:find("^.+:%d+$") then
    fail(USAGE, ("ADDRESS expects HOST:PORT or a socket's path with a slash, got '%s'"):format(
      address))
  end
  return address
end

local function see_top(options, host)
  local top = require "fasterlua.top"
  local terminal = require "fasterlua.core.terminal"
  local address = admin_address(options, host)
  if options.once or not terminal.is_terminal() then
    local text, problem = top.once(address, options.interval)
    say(text or fail(FAILURE, problem))
    return 0
  end
  local is_done, problem = top.run(address, options.interval)
  return is_done and 0 or fail(FAILURE, problem)
end

local function write_output(path, text)
  if path == "-" then
    stdout:write(text)
    return
  end
  local file, problem = io.open(path, "wb")
  local is_written = file and file:write(text) and file:close()
  if not is_written then
    fail(FAILURE, problem or ("cannot write %s"):format(path))
  end
end

local function see_profile(options, host)
  local profile = require "fasterlua.profile"
  local state = options.state or {}
  local path = options.output or (options.folded and "-" or "profile.svg")
  local result, problem = profile.take(admin_address(options, host), { seconds = options.seconds,
    app = state.app, thread = state.thread, interval = options.interval })
  if not result then
    fail(FAILURE, problem)
  elseif result.samples == 0 then
    fail(FAILURE, ("nothing to show: web thread %s has used no processor time in %g s"):format(
      result.totals.thread, options.seconds))
  end
  write_output(path, options.folded and result.folded or profile.svg(result))
  io.stderr:write(("%s, web thread %s: %s\n"):format(result.totals.app, result.totals.thread,
    profile.describe(result)))
  if path ~= "-" then
    say(path)
  end
  return 0
end

local commands = {
  top = see_top,
  profile = see_profile,
  db = change_databases,
  serve = serve,
  config = config,
  routes = routes,
  check = check,
  version = function(_, host)
    print_version(host)
    return 0
  end,
}

local function usage(message, options_or_args)
  local command = commands[options_or_args] and " " .. options_or_args or ""
  return ("%s\nTry 'fasterlua%s --help'."):format(message, command)
end

local function add_script_traceback(problem)
  return debug.traceback(tostring(problem), 2)
end

-- `fasterlua run FILE [ARGUMENT…]`: a script in this state, where the modules written in C are. No
-- flags of ours: what follows the file is the script's. For the tests, so the help is silent.
---@param args string[]
local function run(args)
  local path = args[2]
  if not path then
    return USAGE, nil, "run expects a file"
  end
  local chunk, problem = loadfile(path, "t")
  if not chunk then
    return FAILURE, nil, problem
  end
  _G.arg = { [0] = path, unpack(args, 3) }
  local is_done, result = xpcall(chunk, add_script_traceback, unpack(args, 3))
  if not is_done then
    return FAILURE, nil, result
  end
  return 0
end

local function on_error(problem)
  if type(problem) == "table" and problem.status then
    return problem
  end
  return { status = FAILURE, message = debug.traceback(tostring(problem), 2) }
end

--- Runs a command. Prints what it is asked for; what went wrong is returned for the caller to tell.
---@param args string[]
---@param host fasterlua.cli.Host
---@return integer status of the process: 0, 1 failure, 2 usage, 3 start-up failure
---@return table<string, any>|nil settings when the caller is to serve: values, `home` and `apps`
---@return string|nil message
function cli.main(args, host)
  if args[1] == "run" then
    return run(args)
  end
  local is_parsed, options = build_parser(host):pparse(args)
  if not is_parsed then
    return USAGE, nil, usage(options, args[1])
  end
  local is_done, status, values = xpcall(commands[options.command], on_error, options, host)
  if is_done then
    return status, values
  end
  local message = status.message
  if status.status == USAGE then
    message = usage(message, options.command)
  end
  return status.status, nil, message
end

return cli
