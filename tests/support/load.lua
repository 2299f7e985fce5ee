-- load: clients in a process of their own, which ask while a test does other things.
--
--     local load = load.start(server, { path = "/number/%d", clients = 16 })
--     database:restart()
--     for _, result in ipairs(load:stop()) do
--       assert.is_true(result.status ~= 200 or result.right)
--     end

local process = require "support.process"
local service = require "support.databases.service"

local M = {}

---@class support.load.result
---@field sent number as of process.now
---@field done number
---@field status integer -1: closed without an answer, -2: none after 20 s, -3: cannot connect
---@field retry_after string?
---@field right boolean the answer is the number that was sent

---@class support.load
local load = {}
load.__index = load

---@class support.load.options
---@field path string "%d" in it becomes a number that the answer is to be
---@field clients integer? 16, each with a connection of its own
---@field pause number? seconds between an answer and the next request, 0.01

---@param server support.server
---@param options support.load.options
---@return support.load
function M.start(server, options)
  local self = setmetatable({ dir = process.temporary_directory() }, load)
  self.pid = service.spawn { output = self.dir .. "/log", env = { LUA_PATH =
    "tests/?.lua;tests/?/init.lua;;" }, argv = { "luajit", "tests/support/load_main.lua",
    tostring(server.port), tostring(options.clients or 16), tostring(options.pause or 0.01),
    options.path, self.dir .. "/results", self.dir .. "/stop" } }
  return self
end

local function read_results(path)
  local list = {}
  for line in io.lines(path) do
    local sent, done, status, retry_after, right = line:match("^(%S+) (%S+) (%S+) (%S+) (%S+)$")
    list[#list + 1] = { sent = tonumber(sent), done = tonumber(done), status = tonumber(status),
      retry_after = retry_after ~= "-" and retry_after or nil, right = right == "true" }
  end
  return list
end

---No more requests; waits for the answers.
---@return support.load.result[]
function load:stop()
  service.write_file(self.dir .. "/stop", "")
  local status = process.wait(self.pid, 30)
  if not status then
    process.signal(self.pid, "KILL")
    process.wait(self.pid, 5)
  end
  local log = process.read(self.dir .. "/log")
  local results = status and status.code == 0 and read_results(self.dir .. "/results")
  process.remove_directory(self.dir)
  return results or error("the clients end badly: " .. log, 2)
end

---@param results support.load.result[]
---@param part number 0.99
---@return number # seconds that so many answers took at most
function M.percentile(results, part)
  local times = {}
  for index, result in ipairs(results) do
    times[index] = result.done - result.sent
  end
  table.sort(times)
  return times[math.max(1, math.ceil(#times * part))] or 0
end

return M
