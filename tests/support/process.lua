-- process: starts, watches and ends child processes, and reads what the kernel knows of them.
--
--     local pid = process.spawn { argv = { "sleep", "10" } }
--     process.signal(pid, "TERM")
--     local status = process.wait(pid, 2)    --> { signal = 15 }

local ffi = require "ffi"

ffi.cdef [[
typedef struct { long seconds; long nanoseconds; } fl_test_timespec;
int clock_gettime(int clock, fl_test_timespec *time);
int nanosleep(const fl_test_timespec *time, fl_test_timespec *rest);
int posix_spawnp(int *pid, const char *file, const void *actions, const void *attributes,
                 const char *const argv[], const char *const envp[]);
int posix_spawn_file_actions_init(void *actions);
int posix_spawn_file_actions_destroy(void *actions);
int posix_spawn_file_actions_addopen(void *actions, int fd, const char *path, int flags, int mode);
int posix_spawn_file_actions_adddup2(void *actions, int fd, int new_fd);
int posix_spawn_file_actions_addchdir_np(void *actions, const char *path);
int posix_spawnattr_init(void *attributes);
int posix_spawnattr_destroy(void *attributes);
int posix_spawnattr_setflags(void *attributes, short flags);
int posix_spawnattr_setpgroup(void *attributes, int group);
int posix_spawnattr_setsigmask(void *attributes, const void *set);
int posix_spawnattr_setsigdefault(void *attributes, const void *set);
int sigemptyset(void *set);
int sigfillset(void *set);
int waitpid(int pid, int *status, int options);
int kill(int pid, int signal);
int getpid(void);
int prctl(int option, unsigned long a, unsigned long b, unsigned long c, unsigned long d);
long sysconf(int name);
char *mkdtemp(char *pattern);
char *strerror(int code);
long readlink(const char *path, char *buffer, size_t size);
extern char **environ;
]]

local C = ffi.C
local CLOCK_MONOTONIC, WNOHANG, PR_SET_CHILD_SUBREAPER = 1, 1, 36
local SPAWN_SETPGROUP, SPAWN_SETSIGDEF, SPAWN_SETSIGMASK = 0x02, 0x04, 0x08
local O_RDONLY, O_APPEND_CREATE = 0, 1 + 64 + 1024 -- O_WRONLY | O_CREAT | O_APPEND
local SC_CLK_TCK, SC_PAGESIZE = 2, 30

local SIGNALS = {
  HUP = 1, INT = 2, QUIT = 3, KILL = 9, USR1 = 10, USR2 = 12, TERM = 15, CONT = 18, STOP = 19,
}

local M = {}

---Seconds of a clock that only goes forward.
---@return number
function M.now()
  local time = ffi.new("fl_test_timespec")
  C.clock_gettime(CLOCK_MONOTONIC, time)
  return tonumber(time.seconds) + tonumber(time.nanoseconds) / 1e9
end

---@param seconds number
function M.sleep(seconds)
  local whole = math.floor(seconds)
  C.nanosleep(ffi.new("fl_test_timespec", whole, (seconds - whole) * 1e9), nil)
end

---Calls `fn` every few milliseconds until it returns something true.
---@param fn fun(): any
---@param seconds number
---@return any # what `fn` returned last, false or nil when the time is over
function M.poll(fn, seconds)
  local deadline, pause = M.now() + seconds, 0.001
  while true do
    local value = fn()
    if value or M.now() >= deadline then
      return value
    end
    M.sleep(pause)
    pause = math.min(pause * 2, 0.02)
  end
end

local function environment(changes)
  local entries, index = {}, 0
  while C.environ[index] ~= nil do
    local entry = ffi.string(C.environ[index])
    if (changes or {})[entry:match("^[^=]*")] == nil then
      entries[#entries + 1] = entry
    end
    index = index + 1
  end
  for name, value in pairs(changes or {}) do
    if value then
      entries[#entries + 1] = name .. "=" .. tostring(value)
    end
  end
  return entries
end

local function strings(list)
  local array = ffi.new("const char *[?]", #list + 1)
  for index, text in ipairs(list) do
    array[index - 1] = text
  end
  return array -- `list` must outlive it
end

local function check(code)
  if code ~= 0 then
    error(ffi.string(C.strerror(code)), 3)
  end
end

---@class support.spawn
---@field argv string[] command (found by PATH) and arguments
---@field output string? file that stdout and stderr are appended to; default: inherited
---@field directory string? working directory
---@field env table<string, string|number|false>? added to the environment; false removes
---@field pipes table<integer, integer>? descriptors: number in the child = number here

local function file_actions(options)
  local actions = ffi.new("uint64_t[64]")
  check(C.posix_spawn_file_actions_init(actions))
  check(C.posix_spawn_file_actions_addopen(actions, 0, "/dev/null", O_RDONLY, 0))
  if options.output then
    check(C.posix_spawn_file_actions_addopen(actions, 1, options.output, O_APPEND_CREATE, 420))
    check(C.posix_spawn_file_actions_adddup2(actions, 1, 2))
  end
  for child, here in pairs(options.pipes or {}) do
    check(C.posix_spawn_file_actions_adddup2(actions, here, child))
  end
  if options.directory then
    check(C.posix_spawn_file_actions_addchdir_np(actions, options.directory))
  end
  return actions
end

-- A process group of its own, so that Ctrl-C reaches the tests alone, and signals as a shell has
-- them.
local function spawn_attributes()
  local attributes, set = ffi.new("uint64_t[64]"), ffi.new("uint64_t[32]")
  check(C.posix_spawnattr_init(attributes))
  C.sigemptyset(set)
  check(C.posix_spawnattr_setsigmask(attributes, set))
  C.sigfillset(set)
  check(C.posix_spawnattr_setsigdefault(attributes, set))
  check(C.posix_spawnattr_setpgroup(attributes, 0))
  check(C.posix_spawnattr_setflags(attributes,
    SPAWN_SETPGROUP + SPAWN_SETSIGDEF + SPAWN_SETSIGMASK))
  return attributes
end

---Starts a process; it gets SIGTERM when the one that started it dies.
---@param options support.spawn
---@return integer pid
function M.spawn(options)
  local argv = { "setpriv", "--pdeathsig", "TERM", "--", unpack(options.argv) }
  local env = environment(options.env)
  local actions, attributes = file_actions(options), spawn_attributes()
  local pid = ffi.new("int[1]")
  local code = C.posix_spawnp(pid, argv[1], actions, attributes, strings(argv), strings(env))
  C.posix_spawn_file_actions_destroy(actions)
  C.posix_spawnattr_destroy(attributes)
  if code ~= 0 then
    error("cannot start " .. argv[1] .. ": " .. ffi.string(C.strerror(code)), 2)
  end
  return pid[0]
end

local function try_wait(pid)
  local status = ffi.new("int[1]")
  local ended = C.waitpid(pid, status, WNOHANG)
  if ended == 0 then
    return nil
  elseif ended < 0 then
    return { gone = true }
  end
  local signal = bit.band(status[0], 0x7f)
  if signal ~= 0 then
    return { pid = ended, signal = signal }
  end
  return { pid = ended, code = bit.band(bit.rshift(status[0], 8), 0xff) }
end

---Waits for a child of this process.
---@param pid integer -1: any
---@param seconds number
---@return { pid: integer?, code: integer?, signal: integer?, gone: boolean? }? # nil: still running
function M.wait(pid, seconds)
  return M.poll(function()
    return try_wait(pid)
  end, seconds) or nil
end

---@param pid integer
---@param signal string|integer "TERM", "HUP", … or a number; 0 only asks
---@return boolean # whether there is such a process
function M.signal(pid, signal)
  if pid <= 1 then
    error("not one process: " .. tostring(pid), 2)
  end
  return C.kill(pid, SIGNALS[signal] or assert(tonumber(signal), "unknown signal")) == 0
end

---Makes this process the parent of what its children leave behind.
function M.adopt_orphans()
  check(C.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0))
end

---@return integer
function M.own_pid()
  return C.getpid()
end

---@param path string
---@return string? # nil when it cannot be read
function M.read(path)
  local file = io.open(path, "rb")
  if not file then
    return nil
  end
  local text = file:read("*a")
  file:close()
  return text
end

-- The fields of /proc/PID/stat after the name, which may itself hold blanks and parentheses.
local function stat(pid)
  local text = M.read("/proc/" .. pid .. "/stat")
  local fields = {}
  for field in (text and text:match(".*%) (.*)") or ""):gmatch("%S+") do
    fields[#fields + 1] = field
  end
  return fields[1] and { state = fields[1], parent = tonumber(fields[2]),
    user = tonumber(fields[12]), system = tonumber(fields[13]), started = tonumber(fields[20]) }
end

-- The same for what is asked of every process there is.
local function parent_of(pid)
  local text = M.read("/proc/" .. pid .. "/stat")
  return text and tonumber(text:match("%) %a (%d+)[^)]*$"))
end

local function directory_entries(path)
  local lfs = require "lfs"
  local names = {}
  if not pcall(function()
    for name in lfs.dir(path) do
      names[#names + 1] = name
    end
  end) then
    return {}
  end
  return names
end

---Its children that have not ended, oldest first.
---@param pid integer
---@return integer[]
function M.children(pid)
  local found = {}
  for _, name in ipairs(directory_entries("/proc")) do
    if tonumber(name) and parent_of(name) == pid then
      local child = stat(name)
      if child and child.state ~= "Z" then
        found[#found + 1] = { pid = tonumber(name), started = child.started }
      end
    end
  end
  table.sort(found, function(a, b)
    return a.started < b.started or a.started == b.started and a.pid < b.pid
  end)
  for index, child in ipairs(found) do
    found[index] = child.pid
  end
  return found
end

---CPU time used so far, in steps of 10 ms.
---@param pid integer
---@return number user seconds
---@return number system seconds
function M.cpu(pid)
  local fields = assert(stat(pid), "no such process")
  local ticks = tonumber(C.sysconf(SC_CLK_TCK))
  return fields.user / ticks, fields.system / ticks
end

---@param pid integer
---@return integer # bytes of memory resident
function M.rss(pid)
  local text = assert(M.read("/proc/" .. pid .. "/statm"), "no such process")
  return tonumber(text:match("^%d+ (%d+)")) * tonumber(C.sysconf(SC_PAGESIZE))
end

---The open descriptors, as /proc describes them: number = "socket:[1234]", "/a/file", …
---@param pid integer
---@return table<integer, string>
---@return integer count
function M.descriptors(pid)
  local folder, descriptors, count = "/proc/" .. pid .. "/fd", {}, 0
  local buffer = ffi.new("char[4096]")
  for _, name in ipairs(directory_entries(folder)) do
    local size = tonumber(name) and C.readlink(folder .. "/" .. name, buffer, 4096) or -1
    if size > 0 then
      descriptors[tonumber(name)] = ffi.string(buffer, size)
      count = count + 1
    end
  end
  return descriptors, count
end

---A new folder.
---@param parent string? TMPDIR or /tmp by default
---@return string path
function M.temporary_directory(parent)
  local pattern = (parent or os.getenv("TMPDIR") or "/tmp") .. "/fasterlua-test-XXXXXX"
  local path = ffi.new("char[?]", #pattern + 1, pattern)
  if C.mkdtemp(path) == nil then
    error("cannot make a folder like " .. pattern, 2)
  end
  return ffi.string(path)
end

local function remove_tree(path)
  if require("lfs").symlinkattributes(path, "mode") == "directory" then
    for _, name in ipairs(directory_entries(path)) do
      if name ~= "." and name ~= ".." then
        remove_tree(path .. "/" .. name)
      end
    end
  end
  return os.remove(path)
end

---@param path string of a folder that temporary_directory made
function M.remove_directory(path)
  assert(path:find("/fasterlua-test-", 1, true), "not a temporary folder")
  if not remove_tree(path) then
    os.execute("rm -rf '" .. path .. "'")
  end
end

return M
