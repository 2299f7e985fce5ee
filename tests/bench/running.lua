-- running: starts the servers that benchmarks compare, and stops them.
--
--     running.start(server, place, "/plaintext")
--     …
--     running.stop(server.pid)
local http = require "socket.http"
local socket = require "socket"

local process = require "support.process"
local usage = require "usage"

local M = {}

local function free_port()
  local listener = assert(socket.bind("127.0.0.1", 0))
  local _, port = listener:getsockname()
  listener:close()
  return tonumber(port)
end

local function wait_ready(server, path)
  local deadline = socket.gettime() + 20
  local url = ("http://127.0.0.1:%d%s"):format(server.port, path)
  while socket.gettime() < deadline and not process.wait(server.pid, 0) do
    if select(2, http.request(url)) == 200 then return end
    socket.sleep(0.1)
  end
  error(("%s did not start:\n%s"):format(server.name, process.read(server.log)), 0)
end

--- Starts it on a free port and waits until it answers `path` with 200. Fills in port, log and pid.
---@param server bench_server
---@param place bench_place
---@param path string
function M.start(server, place, path)
  server.port = free_port()
  server.log = ("%s/%s.log"):format(place.temporary, server.name)
  server.pid = process.spawn { argv = server.command(server.port), output = server.log,
    env = server.environment }
  wait_ready(server, path)
end

--- Ends it and all its processes.
---@param pid integer
function M.stop(pid)
  local family = usage.family(pid)
  process.signal(pid, "TERM")
  if process.wait(pid, 5) then return end
  for _, member in ipairs(family) do process.signal(member, "KILL") end
  process.wait(pid, 5)
end

return M
