-- redis: Redis under test, one or a cluster of three. See databases/init.lua.

local account = require "support.databases.account"
local process = require "support.process"
local service = require "support.databases.service"
local slowdown = require("support.server").slowdown

local SLOTS, MASTERS, BUS_DISTANCE = 16384, 3, 10000

---@class support.redis: support.database
---@field url string for its socket
---@field tcp_url string?
---@field ca string? the certificate that its own is checked by
local redis = service.kind()
redis.stop_signal, redis.immediate_signal = "TERM", "KILL"

local M = {}

---@return string? # path of the server; nil: not installed
function M.program()
  return service.find_program("redis-cli") and service.find_program("redis-server")
end

local function quoted(value)
  if type(value) == "boolean" then
    return value and "yes" or "no"
  end
  return '"' .. tostring(value):gsub('[\\"]', "\\%0"):gsub("\n", "\\n") .. '"'
end

-- Written at once, synced by the kernel's leisure: this outlives SIGKILL, not the machine.
local function all_settings(self)
  local dir, options = self.dir, self.options
  local settings = {
    dir = dir .. "/data", unixsocket = dir .. "/redis.sock", bind = "127.0.0.1",
    port = not options.tls and self.port or 0, requirepass = self.password, save = "",
    appendonly = true, appendfsync = options.durable and "always" or "no",
    ["cluster-enabled"] = options.cluster,
  }
  if options.tls then
    settings["tls-port"], settings["tls-auth-clients"] = self.port, false
    settings["tls-cert-file"], settings["tls-key-file"] = self.ca, dir .. "/key.pem"
    settings["tls-ca-cert-file"] = self.ca
  end
  for name, value in pairs(options.settings or {}) do
    settings[name] = value
  end
  return settings
end

local function prepare(self)
  os.execute("mkdir '" .. self.dir .. "/data'")
  if self.options.tls then
    service.make_certificate(self.dir)
    self.ca = self.dir .. "/cert.pem"
  end
end

function redis:command()
  local lines = {}
  for name, value in pairs(all_settings(self)) do
    lines[#lines + 1] = name .. " " .. quoted(value) .. "\n"
  end
  service.write_file(self.dir .. "/redis.conf", table.concat(lines))
  return { self.program, self.dir .. "/redis.conf" }
end

function redis:is_ready()
  return self:recent_log():find("eady to accept connections", 1, true) ~= nil
end

local function user_part(self)
  return self.password and ":" .. service.percent_encode(self.password) .. "@" or ""
end

---@param path string of its socket, or a proxy's
---@return string url
function redis:url_at(path)
  return ("redis+unix://%s%s"):format(user_part(self), service.percent_encode(path))
end

local function set_urls(self)
  self.socket = self.dir .. "/redis.sock"
  self.url = self:url_at(self.socket)
  if self.port then
    self.tcp_url = ("%s://%s127.0.0.1:%d"):format(self.options.tls and "rediss" or "redis",
      user_part(self), self.port)
  end
end

local function run_command(self, address, ...)
  local argv = { "redis-cli", "-e", "--no-auth-warning" }
  for _, words in ipairs { address, { ... } } do
    for _, word in ipairs(words) do
      argv[#argv + 1] = tostring(word)
    end
  end
  local rows = {}
  for line in service.run(argv, { env = { REDISCLI_AUTH = self.password or false } })
    :gmatch("([^\n]*)\n") do
    rows[#rows + 1] = { line }
  end
  return rows
end

---Runs one command by redis-cli: server:query("set", "key", "value").
---@param ... string|number
---@return string[][] rows one cell each: the lines that redis-cli prints
function redis:query(...)
  return run_command(self, { "-s", self.socket }, ...)
end

---@return integer # clients connected now
function redis:connections()
  local count = -1 -- without redis-cli itself
  for _, row in ipairs(self:query("client", "list", "type", "normal")) do
    count = count + (row[1]:find("^id=") and 1 or 0)
  end
  return count
end

local function start_one(options)
  local self = service.open(redis, {
    title = "Redis", options = options, program = assert(M.program()),
    account = account.find { "redis" }, password = options.password,
  }, prepare, (options.tcp or options.tls or options.cluster) and function(server)
    server.port = service.free_port(options.cluster and BUS_DISTANCE)
  end)
  set_urls(self)
  return self
end

---@class support.redis_cluster
---@field nodes support.redis[] each of which can be killed, paused, … by itself
---@field url string of one of them, for TCP
---@field urls string[]
local cluster = {}
cluster.__index = cluster

for _, verb in ipairs { "stop", "kill", "discard", "pause", "resume", "restart" } do
  cluster[verb] = function(self, ...)
    for _, node in ipairs(self.nodes) do
      node[verb](node, ...)
    end
  end
end

---@return boolean # whether every node knows of every slot and node
function cluster:is_ready()
  for _, node in ipairs(self.nodes) do
    local info = {}
    for _, row in ipairs(node:query("cluster", "info")) do
      local name, value = row[1]:match("^(.-):([%w]+)")
      info[name or ""] = value
    end
    if info.cluster_state ~= "ok" or info.cluster_known_nodes ~= tostring(#self.nodes) then
      return false
    end
  end
  return true
end

---Waits until the nodes have found each other, after a restart too.
function cluster:wait_ready()
  if not process.poll(function()
    return self:is_ready()
  end, 20 * slowdown) then
    error("the cluster does not form; a node's log:\n" .. self.nodes[1]:log(), 2)
  end
end

---Runs one command by redis-cli, on the node whose key it is.
---@param ... string|number
---@return string[][] rows
function cluster:query(...)
  return run_command(self, { "-c", "-h", "127.0.0.1", "-p", self.nodes[1].port }, ...)
end

---@return integer # clients connected now, to all nodes
function cluster:connections()
  local count = 0
  for _, node in ipairs(self.nodes) do
    count = count + node:connections()
  end
  return count
end

---@return string # what all of them have written
function cluster:log()
  local logs = {}
  for _, node in ipairs(self.nodes) do
    logs[#logs + 1] = node:log()
  end
  return table.concat(logs)
end

-- Each gets an equal share of the slots.
local function form(self)
  for index, node in ipairs(self.nodes) do
    node:query("cluster", "addslotsrange", math.floor(SLOTS * (index - 1) / MASTERS),
      math.floor(SLOTS * index / MASTERS) - 1)
    node:query("cluster", "set-config-epoch", index)
    node:query("cluster", "meet", "127.0.0.1", self.nodes[1].port)
  end
  self:wait_ready()
end

local function start_cluster(options)
  assert(not options.tls, "a cluster with TLS is not made here")
  local self = setmetatable({ nodes = {}, urls = {}, password = options.password }, cluster)
  service.guard(self, function()
    for index = 1, MASTERS do
      self.nodes[index] = start_one(options)
      self.urls[index] = self.nodes[index].tcp_url
    end
    form(self)
  end)
  self.url, self.tcp_url = self.urls[1], self.urls[1]
  return self
end

---@param options support.redis_options?
---@return support.redis|support.redis_cluster
function M.start(options)
  options = options or {}
  return (options.cluster and start_cluster or start_one)(options)
end

return M
