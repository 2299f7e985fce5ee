-- janitor: a process that waits for SIGTERM, which it also gets when the test dies, then ends the
-- servers that a folder names and removes the folder.
--
--     luajit tests/support/databases/janitor.lua FOLDER
--
-- FOLDER/processes has a line "PID STARTED" for each of them. A server's own end does not wait for
-- this: the data is thrown away, so everything is killed.

package.path = "tests/?.lua;tests/?/init.lua;" .. package.path

local account = require "support.databases.account"
local ffi = require "ffi"
local lfs = require "lfs"
local process = require "support.process"
local tree = require "support.databases.tree"

ffi.cdef [[
int sigaddset(void *set, int signal);
int sigprocmask(int how, const void *set, void *old);
int sigwait(const void *set, int *signal);
]]

local C = ffi.C
local SIG_BLOCK, SIGTERM = 0, 15
local folder = arg[1]

local function wait_for_sigterm(set)
  local signal = ffi.new("int[1]")
  repeat
    C.sigwait(set, signal)
  until signal[0] == SIGTERM
end

local function end_processes()
  for pid, started in (process.read(folder .. "/processes") or ""):gmatch("(%d+) (%d+)\n") do
    pid = tonumber(pid)
    if tree.started(pid) == tonumber(started) then
      tree.wait_ended(tree.kill(pid), 5)
    end
  end
end

-- A killed PostgreSQL leaves its System V segment; the line before the last of its file names it.
local function release_shared_memory()
  local lines = process.read(folder .. "/data/postmaster.pid") or ""
  local id = lines:match("\n *%d+ +(%d+) *\n[^\n]*\n?$")
  local owner = lfs.attributes(folder)
  if id and owner then
    -- As its owner: in a container root may not.
    local found = { uid = owner.uid, gid = owner.gid, changes = owner.uid ~= account.own_uid() }
    os.execute(table.concat(account.command(found, { "ipcrm", "-m", id }), " ") .. " 2>/dev/null")
  end
end

local set = ffi.new("uint64_t[32]")
C.sigemptyset(set)
C.sigaddset(set, SIGTERM)
C.sigprocmask(SIG_BLOCK, set, nil)
local ready = assert(io.open(folder .. "/janitor", "w")) -- from here on SIGTERM is not missed
ready:close()
wait_for_sigterm(set)
end_processes()
release_shared_memory()
process.poll(function()
  process.remove_directory(folder)
  return not lfs.attributes(folder)
end, 5)
