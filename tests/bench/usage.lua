-- usage: what a server and all its processes have used of the machine so far.
--
--     local before = usage.of(pid)
--     …
--     local user = usage.of(pid).user - before.user
local lfs = require "lfs"

local process = require "support.process"

local M = {}

---@class bench.thread
---@field pid integer
---@field tid integer
---@field name string
---@field user number seconds
---@field system number seconds

---@class bench.usage
---@field user number seconds of CPU in user space
---@field system number seconds of CPU in the kernel
---@field rss integer bytes resident, summed over the processes
---@field threads bench.thread[]

--- The process and all that descend from it.
---@param pid integer
---@return integer[]
function M.family(pid)
  local family, next_one = { pid }, 1
  while family[next_one] do
    for _, child in ipairs(process.children(family[next_one])) do family[#family + 1] = child end
    next_one = next_one + 1
  end
  return family
end

local function add_threads(threads, pid)
  local directory = ("/proc/%d/task/"):format(pid)
  for tid in lfs.dir(directory) do
    local name = tonumber(tid) and process.read(directory .. tid .. "/comm")
    if name then
      local user, system = process.cpu(("%d/task/%s"):format(pid, tid))
      table.insert(threads, { pid = pid, tid = tonumber(tid), name = name:gsub("\n", ""),
        user = user, system = system })
    end
  end
end

-- Of its children that have ended: a database's connection may end during a round.
local function ended_children(pid)
  local fields, ticks = {}, 100 -- USER_HZ, which is 100 wherever Linux runs
  for field in process.read(("/proc/%d/stat"):format(pid)):match(".*%) (.*)"):gmatch("%S+") do
    fields[#fields + 1] = field
  end
  return tonumber(fields[14]) / ticks, tonumber(fields[15]) / ticks
end

local function add_process(usage, pid)
  local user, system = process.cpu(pid)
  local children_user, children_system = ended_children(pid)
  local rss, threads = process.rss(pid), {}
  add_threads(threads, pid)
  usage.user = usage.user + user + children_user
  usage.system = usage.system + system + children_system
  usage.rss = usage.rss + rss
  for _, thread in ipairs(threads) do table.insert(usage.threads, thread) end
end

--- One that descends from it may end meanwhile.
---@param pid integer
---@return bench.usage
function M.of(pid)
  local usage = { user = 0, system = 0, rss = 0, threads = {} }
  for _, member in ipairs(M.family(pid)) do
    local ok, message = pcall(add_process, usage, member)
    if not ok and (member == pid or process.signal(member, 0)) then error(message, 0) end
  end
  return usage
end

return M
