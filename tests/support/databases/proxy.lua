-- proxy: stands between a client and a server under test, and makes what networks do to them. See
-- databases/init.lua.

local account = require "support.databases.account"
local lfs = require "lfs"
local service = require "support.databases.service"
local slowdown = require("support.server").slowdown
local unix = require "socket.unix"

---@class support.proxy: support.database
---@field socket string? path of its Unix socket, named like the target's
---@field port integer? on loopback, instead
---@field url string? the target's URL, through this proxy, when the target is a server of ours
local proxy = service.kind()
proxy.stop_signal, proxy.immediate_signal = "TERM", "KILL"
proxy.end_signal = 15

local M = {}

function proxy:command()
  return { "luajit", lfs.currentdir() .. "/tests/support/proxy_main.lua", self.target,
    self.dir .. "/control", self.socket or "127.0.0.1:0" }
end

function proxy:is_ready()
  self.port = tonumber(self:recent_log():match("listening on 127%.0%.0%.1:(%d+)\n"))
  return self:recent_log():find("listening on [^\n]+\n") ~= nil
end

-- One command, carried out when this returns.
local function ask(self, ...)
  local control = assert(unix.stream())
  control:settimeout(5 * slowdown)
  assert(control:connect(self.dir .. "/control"))
  assert(control:send(table.concat({ ... }, " ") .. "\n"))
  local answer, reason = control:receive("*l")
  control:close()
  local value = answer and answer:match("^ok ?(.*)")
  return value or error("the proxy says: " .. tostring(answer or reason), 3)
end

---Passes so many more bytes of answers, then closes that connection to both sides; others and
---later ones are not touched.
---@param bytes integer
function proxy:cut_after(bytes)
  ask(self, "cut_after", bytes)
end

---Each piece of an answer comes so much later.
---@param seconds number
function proxy:delay(seconds)
  ask(self, "delay", seconds)
end

---The next so many requests of PostgreSQL's to cancel do not reach it.
---@param count integer
---@param options { hang: boolean? }? hang: their connections stay open; else they are closed, as
---  when they had been heard
function proxy:lose_cancels(count, options)
  ask(self, "lose_cancels", count, options and options.hang and "hang" or nil)
end

---Passes nothing more, either way; connections stay and new ones are taken.
function proxy:stall()
  ask(self, "stall")
end

---Closes all connections to both sides.
---@param options { reset: boolean? }? reset: the client sees a reset where it can, on TCP
function proxy:cut(options)
  ask(self, "cut", options and options.reset and "reset" or nil)
end

---Refuses new connections, as when no server is there. The others stay.
function proxy:refuse()
  ask(self, "refuse")
end

---Inverts one byte of the answers.
---@param offset integer how many bytes of answers are passed before it, from now on
function proxy:corrupt(offset)
  ask(self, "corrupt", offset)
end

---Takes all faults back; what was stalled or delayed is passed.
function proxy:resume()
  ask(self, "resume")
end

---@return integer # open through it now
function proxy:connections()
  return tonumber(ask(self, "connections"))
end

local function set_url(self, server)
  if self.port then
    self.url = server.tcp_url:gsub("127%.0%.0%.1:%d+", "127.0.0.1:" .. self.port)
  else
    -- A client of PostgreSQL names the folder of a socket.
    self.url = server:url_at(server.title == "PostgreSQL" and self.dir or self.socket)
  end
end

local function target_of(options)
  local target = options.target
  if type(target) == "string" then
    return target
  end
  return options.tcp and "127.0.0.1:" .. target.port or target.socket
end

local function socket_name(target)
  return target:match("^/.*/([^/]+)$") or "proxy.sock"
end

---@param options support.proxy_options
---@return support.proxy
function M.start(options)
  local self = service.open(proxy, { title = "the proxy", account = account.own(),
    target = target_of(options) }, function(self)
    self.socket = not options.tcp and self.dir .. "/" .. socket_name(self.target) or nil
  end)
  if type(options.target) == "table" then
    set_url(self, options.target)
  end
  return self
end

return M
