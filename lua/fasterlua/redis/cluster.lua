-- A cluster of Redis: each command goes to the server that has its key.
--
--     local r = fl.redis("redis://node-1:6379", { cluster = true })
--     await(r:mset("{user:1}:name", "Ada", "{user:1}:age", 36)) -- one slot: what is in braces
--
-- Which server has which slot is learned from any of them, and again when one says that it has
-- moved. A command that no server takes after so many redirects fails.

local commands = require "fasterlua.redis.commands"
local future = require "fasterlua.future"
local json = require "fasterlua.json"
local task = require "fasterlua.task"

local await, spawn = future.await, task.spawn

local cluster = {}

local PAUSE = 0.05 -- seconds before a command is tried again that the cluster cannot take just now

---@class fasterlua.RedisCluster: fasterlua.Redis
---@field private _redis table
---@field private _options table
---@field private _nodes table<string, fasterlua.Redis> by "host:port"
---@field private _slots table<integer, string>
local Cluster = { __name = "fasterlua.redis_cluster" }

local function address_of(host, port)
  return ("%s:%d"):format(host, port)
end

local function node_at(self, address)
  local node = self._nodes[address]
  if not node then
    local read = {}
    for name, value in pairs(self._options) do
      read[name] = value
    end
    local host, port = address:match "^(.*):(%d+)$"
    read.host, read.port, read.cluster, read.nodes = host:match "^%[(.*)%]$" or host,
      tonumber(port), false, nil
    node = self._redis.new_client(read)
    self._nodes[address] = node
  end
  return node
end

-- who has which slot

local function learn_from(self, address)
  local slots, ranges = {}, await(node_at(self, address):call("CLUSTER", "SLOTS"))
  local here = address:match "^(.*):%d+$"
  for _, range in ipairs(ranges) do
    local first, last, master = range[1], range[2], range[3]
    local host = type(master[1]) == "string" and master[1] ~= "" and master[1] or here
    for slot = first, last do
      slots[slot] = address_of(host, master[2])
    end
  end
  if next(slots) == nil then
    error(self._redis.new_error("CLUSTERDOWN", address .. " knows of no server that has slots"), 0)
  end
  self._slots = slots
end

local function known(self)
  local list, seen = {}, {}
  local function add(address)
    if not seen[address] then
      seen[address] = true
      list[#list + 1] = address
    end
  end
  for _, address in pairs(self._slots) do
    add(address)
  end
  for _, address in ipairs(self._seeds) do
    add(address)
  end
  return list
end

local function learn(self)
  local err
  for _, address in ipairs(known(self)) do
    local ok
    ok, err = pcall(learn_from, self, address)
    if ok then
      return
    elseif task.is_cancelled() then
      break
    end
  end
  error(err, 0)
end

-- One at a time, for everybody who waits for it.
local function refresh(self)
  local learning = self._learning
  if not learning or learning:done() then
    learning = task.detach(learn, self)
    learning._is_awaited = true
    self._learning = learning
  end
  return await(learning)
end

local function address_for(self, key)
  if next(self._slots) == nil then
    refresh(self)
  end
  if key == nil or key == false then
    return self._slots[next(self._slots)]
  end
  local slot = self._redis.slot(tostring(key))
  local address = self._slots[slot]
  if not address then
    refresh(self)
    address = self._slots[slot]
  end
  return address or error(self._redis.new_error("CLUSTERDOWN",
    ("no server has the slot %d"):format(slot)), 0)
end

-- redirects

local function redirect_of(err, from)
  local word, slot, host, port = err.message:match "(%u+) (%d+) (%S-):(%d+)$"
  if word ~= "MOVED" and word ~= "ASK" then
    return nil
  end
  if host == "" then
    host = from:match "^(.*):%d+$"
  end
  return word, tonumber(slot), address_of(host, tonumber(port))
end

local waits = { TRYAGAIN = true, CLUSTERDOWN = true }

-- Where to try again, and whether that has to be asked for; nil: nowhere.
local function after(self, err, address, key)
  if not self._redis.is_error(err) then
    return nil
  end
  local word, slot, other = redirect_of(err, address)
  if word == "MOVED" then
    self._slots[slot] = other
    return other, false
  elseif word == "ASK" then
    return other, true
  elseif waits[err.code] then
    await(future.sleep(PAUSE))
    pcall(refresh, self)
    return address_for(self, key), false
  elseif err.code == "CONNECTION" then
    pcall(refresh, self) -- for those that come later
  end
end

-- send(node, is_asking, …) -> future
local function follow(self, key, send, ...)
  local address, is_asking = address_for(self, key), false
  for _ = 0, self._options.max_redirects do
    local ok, result = pcall(await, send(node_at(self, address), is_asking, ...))
    if ok then
      return result
    end
    local other, asks = after(self, result, address, key)
    if not other then
      error(result, 0)
    end
    address, is_asking, self._last = other, asks, result
  end
  error(self._last, 0)
end

-- commands

local function second(list)
  local value = list[2]
  if value == json.null then
    return nil
  end
  return value
end

local function send_asking(node, redis, bytes, kind)
  return spawn(function()
    local op = redis.raw_batch(node._link, redis.encode "ASKING" .. bytes, "0" .. kind,
      redis.WITH_ERRORS, false, node._timeout)
    local all = await(future.from_op(op))
    if redis.is_error(all[2]) then
      error(all[2], 0)
    end
    return second(all)
  end)
end

local function send_one(node, is_asking, redis, bytes, kind, may_repeat)
  if is_asking then
    return send_asking(node, redis, bytes, kind)
  end
  return future.from_op(redis.raw_batch(node._link, bytes, kind, redis.ONE, may_repeat,
    node._timeout))
end

local function send_blocking(node, _, redis, bytes, kind, seconds)
  return spawn(redis.with_link, node, redis.send_blocking, bytes, kind,
    redis.patience(node, seconds))
end

local function make_method_of(redis)
  return function(name)
    local kind, may_repeat = commands.kind(name), commands.read_only[name] == true
    local seconds_of, must_ask = commands.blocking[name], commands.may_be_refused(name)
    return function(self, ...)
      if must_ask then
        redis.check_allowed(name, (...), 2)
      end
      local bytes = redis.encode(name, ...)
      local seconds = seconds_of and seconds_of(...)
      local wanted = tostring(type(kind) == "function" and kind(...) or kind)
      local key = commands.key(name, ...)
      if seconds then
        return spawn(follow, self, key, send_blocking, redis, bytes, wanted, seconds)
      end
      return spawn(follow, self, key, send_one, redis, bytes, wanted, may_repeat)
    end
  end
end

-- several at once

local function pipeline(self, batch, keeps_errors)
  local redis, waiting, results, failed = self._redis, {}, {}, nil
  for index = 1, batch._count do
    waiting[index] = spawn(follow, self, batch._keys[index], send_one, redis, batch._parts[index],
      tostring(batch._kinds[index]), batch._may_repeat)
  end
  for index = 1, batch._count do
    local ok, result = pcall(await, waiting[index])
    if not ok and not redis.is_error(result) then
      error(result, 0)
    end
    failed = failed or not ok and index
    results[index] = result == nil and json.null or result
  end
  results = json.array(results)
  if failed and not keeps_errors then
    error(redis.error_of_results(results, failed), 0)
  end
  return results
end

local function send_transaction(node, is_asking, redis, batch)
  local bytes, kinds = redis.transaction_of(batch)
  if is_asking then
    error(redis.new_error("TRYAGAIN", "the slot of a transaction is being moved"), 0)
  end
  return future.from_op(redis.raw_batch(node._link, bytes, kinds, redis.TRANSACTION, false,
    node._timeout))
end

local function add_batches(methods, redis)
  function methods:pipeline(fn, given)
    local answer = redis.answer_of(self, "pipeline", given)
    local batch = redis.collect(fn, false, true, "pipeline")
    return spawn(pipeline, self, batch, answer == redis.WITH_ERRORS)
  end

  function methods:multi(fn)
    local batch = redis.collect(fn, true, true, "multi")
    if batch._count == 0 then
      return future.done(json.array {})
    end
    return spawn(follow, self, batch._keys[1], send_transaction, redis, batch)
  end

  -- On the server that has the first key.
  function methods:watch(keys, fn)
    keys = type(keys) == "table" and keys or { keys }
    return spawn(function()
      return await(node_at(self, address_for(self, keys[1])):watch(keys, fn))
    end)
  end
end

-- iteration over all servers

local function masters(self)
  local list, seen = {}, {}
  for _, address in pairs(self._slots) do
    if not seen[address] then
      seen[address] = true
      list[#list + 1] = address
    end
  end
  return list
end

local function next_key(scan)
  if not scan.left then
    refresh(scan.cluster)
    scan.left = masters(scan.cluster)
  end
  while true do
    if scan.next then
      local key = scan.next(scan.state)
      if key then
        return key
      end
    end
    local address = table.remove(scan.left)
    if not address then
      return nil
    end
    scan.next, scan.state = node_at(scan.cluster, address):scan(scan.pattern, scan.given)
  end
end

local function add_rest(methods)
  function methods:scan(pattern, given)
    return next_key, { cluster = self, pattern = pattern, given = given }
  end

  -- Messages reach all servers: any will do.
  for _, name in ipairs { "subscribe", "psubscribe", "messages", "stats", "connection" } do
    methods[name] = function(self, ...)
      local node = node_at(self, self._seeds[1])
      local first, rest = node[name](node, ...)
      return first, rest
    end
  end
end

local function make_metatable(redis)
  local make = make_method_of(redis)
  local methods, by_name = redis.methods_of(make)

  function methods:call(name, ...)
    local method = by_name[redis.check_name(name, 2):lower()] or make(name:upper())
    local result = method(self, ...)
    return result
  end

  methods.command = methods.call
  function methods:script(source)
    return redis.new_script(self, source, 2)
  end
  add_batches(methods, redis)
  add_rest(methods)
  Cluster.__index = methods
  Cluster.__crossing = redis.crossing
end

function Cluster.__tostring(self)
  return ("fasterlua.redis_cluster (%s)"):format(self._seeds[1])
end

--- The cluster that these options lead to.
---@param redis table
---@param read table
---@return fasterlua.RedisCluster
function cluster.new(redis, read)
  if not Cluster.__index then
    make_metatable(redis)
  end
  local seeds = { address_of(read.host, read.port) }
  for _, address in ipairs(read.nodes or {}) do
    seeds[#seeds + 1] = address
  end
  return setmetatable({ _redis = redis, _options = read, _nodes = {}, _slots = {}, _seeds = seeds,
    _learning = false, _last = false }, Cluster)
end

return cluster
