-- support: what the specs share. A server of its own for a block of tests:
--
--     local support = require "support"
--
--     support.describe_server("the hello app", { dir = "apps/hello" }, function(get_server)
--       it("greets", function()
--         assert.equal(200, get_server():get("/").status)
--       end)
--     end)

local block = require "support.block"
local busted = require "busted"
local connection = require "support.connection"
local databases = require "support.databases"
local leak = require "support.leak"
local process = require "support.process"
local Server = require "support.server"

local M = {
  start = Server.start,
  connect = connection.open,
  binary = Server.binary,
  slowdown = Server.slowdown, -- patience under sanitizers
  process = process,
  databases = databases,
}

local folders = {} -- to remove at the end

---A temporary app folder that lives until the specs end.
---@param files string|table<string, string> the text of app.lua, or texts by file name
---@return string dir
function M.app(files)
  local dir = Server.app(files)
  folders[#folders + 1] = dir
  return dir
end

---Runs the program to its end.
---@param arguments string[] { "routes", dir }
---@param options { env: table?, directory: string?, timeout: number? }?
---@return { code: integer?, signal: integer? } status
---@return string output both streams
function M.command(arguments, options)
  options = options or {}
  local dir = process.temporary_directory()
  local pid = process.spawn { argv = { Server.binary, unpack(arguments) },
    output = dir .. "/output", env = options.env, directory = options.directory }
  local status = process.wait(pid, (options.timeout or 5) * Server.slowdown)
  if not status then
    process.signal(pid, "KILL")
    process.wait(pid, 5)
  end
  local output = process.read(dir .. "/output")
  process.remove_directory(dir)
  if not status then
    error("the program does not end; its output:\n" .. output, 2)
  end
  return status, output
end

---Waits until `fn` neither raises nor returns false or nil.
---@param fn fun(): any
---@param seconds number? 2 by default
---@return any # what it returned
function M.eventually(fn, seconds)
  local ok, value
  process.poll(function()
    ok, value = pcall(fn)
    return ok and value
  end, (seconds or 2) * Server.slowdown)
  if not ok then
    error(value, 2)
  end
  return value or error("still " .. tostring(value) .. " after waiting", 2)
end

---@class support.checks
---@field leaks boolean? false: no leak check
---@field warm_up fun(server: support.server)? makes what stays once it is there: pools' threads

---A describe block with one server for its tests, checked for leaks after each of them.
---@param title string
---@param options support.options|support.checks|fun(): table
---@param define fun(get_server: fun(): support.server)
function M.describe_server(title, options, define)
  local before
  block(title, function()
    options = type(options) == "function" and options() or options
    local server = Server.start(options)
    if options.warm_up then
      options.warm_up(server)
    end
    if options.leaks ~= false then
      server:metrics()
      before = leak.snapshot(server)
    end
    return server
  end, define, function(server)
    if before then
      leak.check(server, before)
    else
      server:close_clients()
    end
  end)
end

---The servers that specs have started and not stopped.
---@return (support.server|support.database)[]
function M.running()
  local running = { unpack(Server.running) }
  for _, server in ipairs(databases.running()) do
    running[#running + 1] = server
  end
  return running
end

---Ends what specs have left behind.
---@return integer # how many servers that were
function M.clean_up()
  local count = #Server.running + databases.clean_up()
  while Server.running[1] do
    Server.running[1]:kill()
  end
  for _, dir in ipairs(folders) do
    process.remove_directory(dir)
  end
  folders = {}
  return count
end

busted.subscribe({ "exit" }, function()
  M.clean_up()
  return nil, true
end)

return M
