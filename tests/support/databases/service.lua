-- service: one server under test, whatever it serves: a process in a folder of its own, run as a
-- user without rights, with all of which goes when the test ends, however it ends.
--
-- A kind of server (postgres.lua, …) is a table from `service.kind()` with
--
--     kind:command()   the command line
--     kind:is_ready()  whether it takes connections
--     kind.stop_signal, kind.immediate_signal
--     kind.end_signal  the number of the one that it may end by, if any
--
-- and opens one with `service.open(kind, fields, prepare)`.

local account = require "support.databases.account"
local ffi = require "ffi"
local lfs = require "lfs"
local process = require "support.process"
local slowdown = require("support.server").slowdown
local socket = require "socket"
local tree = require "support.databases.tree"

ffi.cdef "int fcntl(int fd, int command, ...);"

local F_SETFD, FD_CLOEXEC = 2, 1

local M = { running = {} } -- running: those not yet stopped, in order

local START_SECONDS, STOP_SECONDS, COMMAND_SECONDS = 20, 15, 30
local PORT_TRIES = 8
local MEMORY, ENOUGH = "/dev/shm", 2 * 2 ^ 20 -- kilobytes

local folder_in_memory -- false: none, nil: not known yet

-- A folder in memory spares what is thrown away the way to the disk: half the time of a start.
local function find_memory()
  if folder_in_memory == nil then
    local pipe = assert(io.popen(("test -w %s && df -k --output=fstype,avail %s 2>/dev/null")
      :format(MEMORY, MEMORY)))
    local available = pipe:read("*a"):match("\ntmpfs +(%d+)")
    pipe:close()
    folder_in_memory = not os.getenv("TMPDIR") and tonumber(available or 0) >= ENOUGH and MEMORY
  end
  return folder_in_memory or nil
end

---@class support.database
---@field title string "PostgreSQL", …
---@field account support.account whom it runs as
---@field dir string its temporary folder
---@field pid integer? nil while it does not run
---@field port integer? on loopback
---@field socket string? path of its Unix socket
local service = {}
service.__index = service

---@return table # for the methods of one kind of server
function M.kind()
  local kind = setmetatable({}, service)
  kind.__index = kind
  return kind
end

---Starts a process that does not hold the test's sockets open, which LuaSocket makes to be
---inherited.
---@param options support.spawn
---@return integer pid
function M.spawn(options)
  for descriptor in pairs(process.descriptors(process.own_pid())) do
    if descriptor > 2 then
      ffi.C.fcntl(descriptor, F_SETFD, ffi.cast("int", FD_CLOEXEC))
    end
  end
  return process.spawn(options)
end

local spawn = M.spawn

---Runs a program to its end; raises what it says when it fails.
---@param argv string[]
---@param options { account: support.account?, env: table?, timeout: number? }?
---@return string output
function M.run(argv, options)
  options = options or {}
  local dir = process.temporary_directory()
  local command = options.account and account.command(options.account, argv) or argv
  local pid = spawn { argv = command, output = dir .. "/output", env = options.env }
  local status = process.wait(pid, (options.timeout or COMMAND_SECONDS) * slowdown)
  if not status then
    tree.kill(pid)
    process.wait(pid, 5)
  end
  local output = process.read(dir .. "/output") or ""
  process.remove_directory(dir)
  if not status or status.code ~= 0 then
    error(("%s %s: %s"):format(argv[1]:match("[^/]*$"), status and "fails" or "does not end",
      output), 0)
  end
  return output
end

---Finds a program by PATH and where Debian keeps those of servers.
---@param name string
---@return string? path
function M.find_program(name)
  for folder in ((os.getenv("PATH") or "") .. ":/usr/sbin:/sbin"):gmatch("[^:]+") do
    if lfs.attributes(folder .. "/" .. name, "mode") == "file" then
      return folder .. "/" .. name
    end
  end
end

---@param path string
---@param text string
function M.write_file(path, text)
  local file = assert(io.open(path, "wb"))
  assert(file:write(text))
  file:close()
end

---@param text string
---@return string # as part of a URL; slashes stay
function M.percent_encode(text)
  return (text:gsub("[^%w%-%._~/]", function(byte)
    return ("%%%02X"):format(byte:byte())
  end))
end

---A certificate for localhost that is its own authority: FOLDER/cert.pem, FOLDER/key.pem.
---@param folder string
function M.make_certificate(folder)
  M.run { "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
    "-nodes", "-days", "3", "-subj", "/CN=localhost",
    "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1",
    "-keyout", folder .. "/key.pem", "-out", folder .. "/cert.pem" }
  os.execute("chmod 600 '" .. folder .. "/key.pem'")
end

local function can_bind(port)
  local listener = socket.bind("127.0.0.1", port)
  if listener then
    listener:close()
  end
  return listener ~= nil
end

---A port that is free now, below those that the kernel gives to clients.
---@param distance integer? one this far above must be free too
---@return integer
function M.free_port(distance)
  local random = assert(io.open("/dev/urandom", "rb"))
  local port
  repeat
    local high, low = random:read(2):byte(1, 2)
    port = 10000 + (high * 256 + low) % 10000
  until can_bind(port) and (not distance or can_bind(port + distance))
  random:close()
  return port
end

local function spawn_janitor(dir)
  local pid = spawn { argv = { "luajit", "tests/support/databases/janitor.lua", dir },
    output = dir .. "/janitor.log" }
  local ready = process.poll(function()
    return lfs.attributes(dir .. "/janitor") or not tree.is_running(pid)
  end, 5 * slowdown)
  assert(ready and tree.is_running(pid), process.read(dir .. "/janitor.log"))
  return pid
end

local function forget(self)
  for index, other in ipairs(M.running) do
    if other == self then
      table.remove(M.running, index)
    end
  end
  process.signal(self.janitor, "TERM")
  if not process.wait(self.janitor, STOP_SECONDS * slowdown) or lfs.attributes(self.dir) then
    error(("the folder of %s is not removed: %s"):format(self.title, self.dir), 0)
  end
end

-- Every process that it had, for the janitor.
local function note_process(self)
  local file = assert(io.open(self.dir .. "/processes", "a"))
  file:write(self.pid, " ", tree.started(self.pid) or 0, "\n")
  file:close()
end

---How it ended by itself, nil while it runs.
---@return { code: integer?, signal: integer? }?
function service:ended()
  self.status = self.status or process.wait(self.pid, 0)
  return self.status
end

---All that it has written so far.
---@return string
function service:log()
  return process.read(self.log_file) or ""
end

---What it has written since its last start.
---@return string
function service:recent_log()
  return self:log():sub(self.log_start + 1)
end

---Starts it again after :kill().
function service:start()
  self.log_start, self.status = #self:log(), nil
  self.pid = spawn { argv = account.command(self.account, self:command()),
    output = self.log_file, directory = self.dir, env = self.env }
  note_process(self)
  process.poll(function()
    return self:is_ready() or self:ended()
  end, START_SECONDS * slowdown)
  if self:ended() or not self:is_ready() then
    self:kill()
    error(("%s does not start; its log:\n%s"):format(self.title, self:recent_log()), 0)
  end
end

-- Between the choice of a port and its use somebody else may take it.
local function start_on_free_port(self, choose_port)
  for try = 1, PORT_TRIES do
    choose_port(self)
    local ok, reason = pcall(self.start, self)
    if ok then
      return
    elseif try == PORT_TRIES or not tostring(reason):find("ddress already in use") then
      error(reason, 0)
    end
  end
end

---Calls `fn`; when it raises, discards the server that it was to complete.
---@param server { discard: fun(self: table) }
---@param fn fun()
function M.guard(server, fn)
  local ok, reason = pcall(fn)
  if not ok then
    server:discard()
    error(reason, 0)
  end
end

---Makes a folder for a server and starts it there.
---@param kind table
---@param self table its first fields; account is one of them
---@param prepare fun(self: support.database) fills its folder
---@param choose_port fun(self: support.database)? sets its ports, when it has any
---@return support.database
function M.open(kind, self, prepare, choose_port)
  setmetatable(self, kind)
  local is_durable = self.options and self.options.durable
  self.dir = process.temporary_directory(not is_durable and find_memory() or nil)
  self.log_file = self.dir .. "/log"
  self.janitor = spawn_janitor(self.dir)
  table.insert(M.running, self)
  M.guard(self, function()
    prepare(self)
    account.give(self.account, self.dir)
    if choose_port then
      start_on_free_port(self, choose_port)
    else
      self:start()
    end
  end)
  return self
end

---All its processes, the first of them the server itself.
---@return integer[]
function service:processes()
  return { self.pid, unpack(tree.descendants(self.pid)) }
end

-- Ends it with a signal; what started it and what it started have both gone then.
local function shut_down(self, signal)
  tree.resume(self.pid)
  local pids = self:processes()
  process.signal(self.pid, signal)
  process.poll(function()
    return self:ended()
  end, STOP_SECONDS * slowdown)
  if not self:ended() or not tree.wait_ended(pids, 5 * slowdown) then
    local log = self:log()
    self:kill()
    error(("%s does not end; its log:\n%s"):format(self.title, log), 0)
  end
  self.pid = nil
  return self.status
end

---Stops it in order, checks that nothing of it is left, and removes its folder.
function service:stop()
  local status, log = { code = 0 }, self:log()
  if self.pid then
    local ok, result = pcall(shut_down, self, self.stop_signal)
    log = self:log()
    status = ok and result or { reason = result }
  end
  forget(self)
  if status.reason or status.code ~= 0 and status.signal ~= (self.end_signal or 0) then
    error(status.reason or ("%s ended with %s %d; its log:\n%s"):format(self.title,
      status.signal and "signal" or "status", status.signal or status.code, log), 2)
  end
end

---SIGKILL to all its processes. Its folder stays, for :start() or :restart().
function service:kill()
  if not self.pid then
    return
  end
  local pids = tree.kill(self.pid)
  process.wait(self.pid, 5 * slowdown)
  self.pid = nil
  if not tree.wait_ended(pids, 5 * slowdown) then
    error(self.title .. " survives SIGKILL", 2)
  end
end

---Ends it at once and removes its folder, whatever state it is in.
function service:discard()
  self:kill()
  forget(self)
end

---Ends it and starts it with the same data, socket and port.
---@param options { immediate: boolean? }? immediate: it leaves its clients no time, nor itself
function service:restart(options)
  if self.pid then
    shut_down(self, options and options.immediate and self.immediate_signal or self.stop_signal)
  end
  self:start()
end

---SIGSTOP to all its processes: connections stay, nothing answers.
function service:pause()
  local pids = tree.pause(self.pid)
  local stopped = process.poll(function()
    for _, pid in ipairs(pids) do
      if tree.is_running(pid) and not tree.is_stopped(pid) then
        return false
      end
    end
    return true
  end, 5 * slowdown)
  assert(stopped, "it does not stop")
end

---Ends :pause().
function service:resume()
  tree.resume(self.pid)
end

return M
