-- tree: a process with all that descend from it, whoever owns them.
--
--     tree.kill(pid)
--     tree.wait_ended({ pid }, 5)

local process = require "support.process"

local M = {}

local function fields(pid)
  local text = process.read("/proc/" .. pid .. "/stat")
  local found = {}
  for field in (text and text:match(".*%) (.*)") or ""):gmatch("%S+") do
    found[#found + 1] = field
  end
  return found
end

---When it started: with its number, this tells it from a later process of the same number.
---@param pid integer
---@return integer? # ticks since the machine started; nil: it has ended
function M.started(pid)
  return tonumber(fields(pid)[20])
end

---@param pid integer
---@return boolean # false once it has ended, even if nobody has waited for it
function M.is_running(pid)
  local state = fields(pid)[1]
  return state ~= nil and state ~= "Z" and state ~= "X"
end

---@param pid integer
---@return boolean # whether a signal has stopped it
function M.is_stopped(pid)
  return fields(pid)[1] == "T"
end

---@param pid integer
---@return integer? # the user it runs as
function M.user(pid)
  local text = process.read("/proc/" .. pid .. "/status")
  return text and tonumber(text:match("\nUid:%s+%d+%s+(%d+)"))
end

---Its descendants that run, parents before children.
---@param pid integer
---@return integer[]
function M.descendants(pid)
  local found = process.children(pid)
  local index = 1
  while found[index] do
    for _, child in ipairs(process.children(found[index])) do
      found[#found + 1] = child
    end
    index = index + 1
  end
  return found
end

---Stops it first, so that it starts no more.
---@param pid integer
---@return integer[] # those that were stopped, the first of them `pid`
function M.pause(pid)
  process.signal(pid, "STOP")
  local pids = M.descendants(pid)
  for _, child in ipairs(pids) do
    process.signal(child, "STOP")
  end
  table.insert(pids, 1, pid)
  return pids
end

---@param pid integer
function M.resume(pid)
  for _, child in ipairs(M.descendants(pid)) do
    process.signal(child, "CONT")
  end
  process.signal(pid, "CONT")
end

---@param pid integer
---@return integer[] # those that were killed
function M.kill(pid)
  local pids = M.pause(pid)
  for index = #pids, 1, -1 do
    process.signal(pids[index], "KILL")
  end
  return pids
end

---@param pids integer[]
---@param seconds number
---@return boolean # whether all have ended
function M.wait_ended(pids, seconds)
  return process.poll(function()
    for _, pid in ipairs(pids) do
      if M.is_running(pid) then
        return false
      end
    end
    return true
  end, seconds)
end

return M
