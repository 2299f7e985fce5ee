-- leak: what a test has borrowed from a server must be given back soon after it.
--
--     local before = leak.snapshot(server)
--     … requests …
--     leak.check(server, before)

local process = require "support.process"

local PATIENCE = 2 -- seconds

local M = {}

---@class support.leak.snapshot
---@field descriptors table<integer, string>
---@field count integer

-- The sum of a gauge over threads and labels.
local function gauge(metrics, name)
  local sum, found = 0, false
  for key, value in pairs(metrics) do
    local base = key:match("^[^{]*")
    if base == name or base:sub(-#name - 1) == "_" .. name then
      sum, found = sum + value, true
    end
  end
  return found and sum or error("/metrics does not name " .. name, 0)
end

---How many descriptors a loop has: its poll, its events, its signals (2), 2 spares; and a ring
---where both libuv (from 1.45 on) and the kernel have it.
---@param descriptors table<integer, string> of a server
---@return integer
function M.of_a_loop(descriptors)
  for _, what in pairs(descriptors) do
    if what == "anon_inode:[io_uring]" then
      return 7
    end
  end
  return 6
end

-- A spare web thread, which is there from the first slow handler on, is no leak.
local function spare_descriptors(descriptors, metrics)
  return metrics.fasterlua_spare_threads * M.of_a_loop(descriptors)
end

---@param server support.server
---@return support.leak.snapshot
function M.snapshot(server)
  local descriptors, count = server:fds()
  count = count - spare_descriptors(descriptors, server:metrics())
  return { descriptors = descriptors, count = count }
end

-- Descriptors first: the question for metrics has one, which the server may keep for a moment after
-- its answer.
local function what_is_left(server, before)
  local descriptors, count = server:fds()
  local metrics = server:metrics()
  for _, name in ipairs { "in_flight", "connections", "tasks" } do
    local left = gauge(metrics, name)
    if left ~= 0 then
      return ("%s is %d"):format(name, left)
    end
  end
  count = count - spare_descriptors(descriptors, metrics)
  if count > before.count then
    local new = {}
    for fd, what in pairs(descriptors) do
      if before.descriptors[fd] ~= what then
        new[#new + 1] = fd .. " " .. what
      end
    end
    return ("%d descriptors instead of %d: %s"):format(count, before.count,
      table.concat(new, ", "))
  end
end

---Closes the test's clients and waits until requests, connections and tasks are back to none and
---descriptors to what they were; raises what is left after 2 s.
---@param server support.server
---@param before support.leak.snapshot
function M.check(server, before)
  server:close_clients()
  local left
  local clean = process.poll(function()
    left = what_is_left(server, before)
    return not left
  end, PATIENCE * require("support.server").slowdown)
  if not clean then
    error("the test leaks: " .. left, 0)
  end
end

return M
