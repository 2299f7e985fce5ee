-- server: one `fasterlua serve` under test, in a folder of its own, on a free port.
--
--     local server = Server.start { app = "…" }
--     local response = server:get("/hello")
--     server:stop()

local connection = require "support.connection"
local process = require "support.process"

local M = { running = {} } -- running: servers not yet stopped, in order

-- Sanitizers make everything slower; patience grows with them.
local function slowdown(binary)
  return (binary:find("/asan/", 1, true) or binary:find("/tsan/", 1, true)) and 4 or 1
end

M.binary = os.getenv("FASTERLUA_BIN") or os.getenv("PWD") .. "/build/fasterlua"
M.slowdown = slowdown(M.binary)
connection.slowdown = M.slowdown

-- What the sanitizers must not find; the exit status then is not 0 either.
local SANITIZER_REPORTS = {
  "ERROR: AddressSanitizer", "ERROR: LeakSanitizer", "WARNING: ThreadSanitizer",
  "runtime error: ", "ERROR: UndefinedBehaviorSanitizer",
}

---@class support.server
---@field pid integer of the supervisor
---@field port integer?
---@field url string? "http://127.0.0.1:PORT"
---@field dir string temporary folder: its log, its admin socket, its conf file
---@field app_dir string what it serves
local server = {}
server.__index = server

---@class support.options
---@field app string|table<string, string>|nil see support.app
---@field dir string? a folder or file to serve, instead of app
---@field flags string[]? added to the command line
---@field env table<string, string|false>? added to the environment
---@field environment string? "test" by default: which of conf/ is read
---@field settings table<string, any>? its conf file
---@field uds boolean? listen on a Unix socket, dir/http.sock
---@field prefix string[]? words in front of the command, of a program that executes it
---@field pipes table<integer, integer>? descriptors: number in the server = number here
---@field wait boolean? false: do not wait until it is ready
---@field timeout number? seconds to get ready, 5 by default

local function write_file(path, text)
  local file = io.open(path, "wb")
  if not file then
    os.execute("mkdir -p '" .. path:match("^(.*)/[^/]*$") .. "'")
    file = assert(io.open(path, "wb"))
  end
  assert(file:write(text))
  file:close()
end

---Makes a temporary app folder.
---@param files string|table<string, string> the text of app.lua, or texts by file name
---@return string dir
function M.app(files)
  local dir = process.temporary_directory()
  for name, text in pairs(type(files) == "table" and files or { ["app.lua"] = files }) do
    write_file(dir .. "/" .. name, text)
  end
  return dir
end

local function literal(value)
  if type(value) ~= "table" then
    return type(value) == "string" and ("%q"):format(value) or tostring(value)
  end
  local parts = {}
  for key, item in pairs(value) do
    parts[#parts + 1] = ("[%s] = %s"):format(literal(key), literal(item))
  end
  return "{ " .. table.concat(parts, ", ") .. " }"
end

local function command_line(self, options)
  local argv = {}
  local function add(...)
    for _, word in ipairs { ... } do
      argv[#argv + 1] = word
    end
  end
  add(unpack(options.prefix or {}))
  add(M.binary, "serve", self.app_dir, "--log-format", "text",
    "--environment", options.environment or "test", "--admin", self.dir .. "/admin.sock")
  if options.uds then
    self.uds = self.dir .. "/http.sock"
    add("--uds", self.uds)
  else
    add("--host", "127.0.0.1", "--port", "0")
  end
  if options.settings then
    write_file(self.dir .. "/conf.lua", "return " .. literal(options.settings) .. "\n")
    add("--conf", self.dir .. "/conf.lua")
  end
  add(unpack(options.flags or {}))
  return argv
end

local function sanitizer_environment(env)
  local merged = {
    ASAN_OPTIONS = "detect_leaks=1:abort_on_error=0:handle_abort=1",
    UBSAN_OPTIONS = "print_stacktrace=1",
    TSAN_OPTIONS = "halt_on_error=0:second_deadlock_stack=1",
  }
  for name, value in pairs(env or {}) do
    merged[name] = value
  end
  return merged
end

local function find_url(log)
  return log:match("listening on (http://[%w.%[%]:-]*:%d+)")
    or log:match('"url":"(http://[%w.%[%]:-]*:%d+)"')
end

local function is_ready(self)
  local log = self:log()
  self.url = find_url(log)
  self.port = self.url and tonumber(self.url:match("(%d+)$"))
  return self.port or self.uds and log:find("listening on ", 1, true)
end

---Starts a server and waits until it listens.
---@param options support.options
---@return support.server
function M.start(options)
  local self = setmetatable({ dir = process.temporary_directory(), clients = {} }, server)
  self.temporary_app = options.app and M.app(options.app)
  self.app_dir = self.temporary_app or options.dir or "apps"
  self.log_file = self.dir .. "/log"
  self.pid = process.spawn { argv = command_line(self, options), output = self.log_file,
    env = sanitizer_environment(options.env), pipes = options.pipes }
  table.insert(M.running, self)
  if options.wait ~= false then
    self:wait_ready(options.timeout)
  end
  return self
end

---Waits until it listens; raises its log when it does not.
---@param seconds number? 5 by default
function server:wait_ready(seconds)
  seconds = (seconds or 5) * M.slowdown
  process.poll(function()
    return is_ready(self) or self:ended()
  end, seconds)
  if not is_ready(self) then
    local why = self:ended() and "ended instead of listening" or "does not listen after "
      .. seconds .. " s"
    local log = self:log()
    self:kill()
    error(("the server %s; its log:\n%s"):format(why, log), 0)
  end
end

---All that it and its processes have written so far.
---@return string
function server:log()
  return process.read(self.log_file) or ""
end

---Waits until a Lua pattern matches its log.
---@param pattern string
---@param seconds number? 5 by default
---@return string # the match, or its first capture
function server:wait_log(pattern, seconds)
  local found = process.poll(function()
    return self:log():match(pattern)
  end, (seconds or 5) * M.slowdown)
  return found or error(("%q does not come up in the log:\n%s"):format(pattern, self:log()), 2)
end

---@param signal string "HUP", "TERM", …
---@param pid integer? of one of its processes; default: the supervisor
function server:signal(signal, pid)
  if not process.signal(pid or self.pid, signal) then
    error("the process has gone", 2)
  end
end

---The server processes: the supervisor's children, oldest first.
---@return integer[]
function server:pids()
  return process.children(self.pid)
end

---The newest server process.
---@return integer
function server:server_pid()
  local pids = self:pids()
  return pids[#pids] or self.pid
end

---How the supervisor ended, nil while it runs.
---@return { code: integer?, signal: integer? }?
function server:ended()
  self.status = self.status or process.wait(self.pid, 0)
  return self.status
end

---Waits for its end.
---@param seconds number? 15 by default
---@return { code: integer?, signal: integer? }? # nil: it still runs
function server:wait_end(seconds)
  process.poll(function()
    return self:ended()
  end, (seconds or 15) * M.slowdown)
  return self.status
end

local function forget(self)
  for index, other in ipairs(M.running) do
    if other == self then
      table.remove(M.running, index)
    end
  end
  self:close_clients()
  process.remove_directory(self.dir)
  if self.temporary_app then
    process.remove_directory(self.temporary_app)
  end
end

local function check_sanitizers(log)
  for _, report in ipairs(SANITIZER_REPORTS) do
    if log:find(report, 1, true) then
      error("a sanitizer complains:\n" .. log, 0)
    end
  end
end

---Stops it as an operator would: SIGTERM, and it ends with status 0 having leaked nothing.
function server:stop()
  self:close_clients()
  if not self:ended() then
    self:signal("TERM")
  end
  local status, log = self:wait_end(), self:log()
  if not status then
    self:kill()
    error("the server does not stop; its log:\n" .. log, 2)
  end
  forget(self)
  check_sanitizers(log)
  if status.code ~= 0 then
    error(("the server ended with %s %d; its log:\n%s"):format(
      status.signal and "signal" or "status", status.signal or status.code, log), 2)
  end
end

---Ends it at once and checks nothing: for when a test has failed already.
function server:kill()
  local pids = self:pids()
  if not self:ended() then
    process.signal(self.pid, "KILL")
    self:wait_end(5)
  end
  for _, pid in ipairs(pids) do
    process.signal(pid, "KILL")
  end
  forget(self)
end

---A new connection. It is closed at the end of the test.
---@param options { receive_buffer: integer? }?
---@return support.connection
function server:connect(options)
  local client = connection.open { host = "127.0.0.1", port = self.port, uds = self.uds,
    receive_buffer = options and options.receive_buffer }
  client.authority = self.url and self.url:match("^http://(.*)") or "localhost"
  table.insert(self.clients, client)
  return client
end

---Closes what its tests have left open.
function server:close_clients()
  for _, client in ipairs(self.clients) do
    client:close()
  end
  self.clients = {}
end

---One request on a connection of its own.
---@param request support.request
---@return support.response? # nil when none came
---@return string? reason
function server:request(request)
  local client = self:connect()
  local response, reason = client:request(request)
  client:close()
  table.remove(self.clients)
  return response, reason
end

local function must_answer(self, request)
  local response, reason = self:request(request)
  if not response then
    error(("no answer (%s); the log:\n%s"):format(reason, self:log()), 3)
  end
  return response
end

---@param path string
---@param headers table<string, string>?
---@return support.response
function server:get(path, headers)
  return must_answer(self, { path = path, headers = headers })
end

---@param path string
---@param body string|table|nil a table is sent as JSON
---@param headers table<string, string>?
---@return support.response
function server:post(path, body, headers)
  return must_answer(self, { method = "POST", path = path, body = body or "", headers = headers })
end

---Asks its admin listener.
---@param path string
---@return support.response
function server:admin(path)
  local client = connection.open { uds = self.dir .. "/admin.sock" }
  local response, reason = client:request { path = path, headers = { Connection = "close" } }
  client:close()
  return response or error("the admin listener does not answer: " .. tostring(reason), 2)
end

---What /metrics says.
---@return table<string, number> # "name{labels}" = value
function server:metrics()
  local values = {}
  for line in self:admin("/metrics").body:gmatch("[^\n]+") do
    local name, value = line:match("^([^#].*) (%S+)$")
    if name then
      values[name] = tonumber((value:gsub("^%+", "")))
    end
  end
  return values
end

---The sum of a metric over all its labels; an error when there is no such metric.
---@param name string
---@return number
function server:sum(name)
  local sum
  for key, value in pairs(self:metrics()) do
    if key:match "^[^{]*" == name then
      sum = (sum or 0) + value
    end
  end
  return sum or error("/metrics does not name " .. name, 0)
end

---@return integer # bytes of memory resident in the newest server process
function server:rss()
  return process.rss(self:server_pid())
end

---CPU time of the newest server process so far.
---@return number user seconds
---@return number system seconds
function server:cpu()
  return process.cpu(self:server_pid())
end

---Open descriptors of the newest server process: number = what it is.
---@return table<integer, string>
---@return integer count
function server:fds()
  return process.descriptors(self:server_pid())
end

return M
