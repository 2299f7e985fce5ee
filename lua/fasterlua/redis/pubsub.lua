-- Subscriptions to channels of a server of Redis, all of a Lua state on one connection.
--
--     local subscription = r:subscribe("news", function(message) print(message) end)
--     subscription:close()
--
-- One task reads what comes and puts it into the subscriptions' own queues, so that none holds up
-- another. When the connection is lost, everything is subscribed to again; what was published
-- meanwhile is lost.

local future = require "fasterlua.future"
local log = require "fasterlua.log"
local suggest = require "fasterlua.suggest"
local sync = require "fasterlua.sync"
local core_task = require "fasterlua.core.task"
local failure = require "fasterlua.failure"
local task = require "fasterlua.task"
local topic = require "fasterlua.core.topic"

local await, from_op = future.await, future.from_op

local BUFFER, BUFFER_MOST = 1000, 1000000

local pubsub = {}

---@class fasterlua.RedisSubscribeOptions
---@field buffer? integer messages that may wait to be taken: 1,000
---@field on_full? "drop_oldest"|"drop_newest"|"close" what a message does that finds it full

---@class fasterlua.RedisSubscription
---@field private _hub table
---@field private _entries table[]
---@field private _queue fasterlua.Queue
---@field private _dropped integer
local Subscription = { __name = "fasterlua.redis_subscription" }
Subscription.__index = Subscription

local Hub = {}
Hub.__index = Hub

function pubsub.new_hub(core, target)
  return setmetatable({
    _core = core,
    _link = core.link(target, true),
    _entries = { SUBSCRIBE = {}, PSUBSCRIBE = {} }, -- by name: { verb, name, subscriptions }
    _count = 0,
    _asked = {}, -- those whose answers are to come, in order
    _first = 1,
    _is_running = false,
    _is_closing = false,
  }, Hub)
end

local function ask(self, verb, entry)
  self._asked[#self._asked + 1] = entry
  self._core.write(self._link, self._core.encode(verb, entry.name))
end

local function forget_asked(self)
  self._asked, self._first = {}, 1
end

-- who is subscribed

local function enter(self, verb, name, subscription)
  local entry = self._entries[verb][name]
  if not entry then
    entry = { verb = verb, name = name, subscriptions = {}, is_ready = false }
    self._entries[verb][name] = entry
    self._count = self._count + 1
    ask(self, verb, entry)
  end
  entry.subscriptions[#entry.subscriptions + 1] = subscription
  return entry
end

local function leave(self, entry, subscription)
  for index, other in ipairs(entry.subscriptions) do
    if other == subscription then
      table.remove(entry.subscriptions, index)
      break
    end
  end
  if #entry.subscriptions > 0 or self._entries[entry.verb][entry.name] ~= entry then
    return
  end
  self._entries[entry.verb][entry.name] = nil
  self._count = self._count - 1
  if self._count == 0 then
    forget_asked(self)
    self._is_closing = true -- that its connection is lost is no surprise
    self._core.close(self._link)
  else
    ask(self, entry.verb == "SUBSCRIBE" and "UNSUBSCRIBE" or "PUNSUBSCRIBE", entry)
  end
end

local function end_subscription(self, err)
  if self._is_closed then
    return
  end
  self._is_closed = true
  for _, entry in ipairs(self._entries) do
    leave(self._hub, entry, self)
  end
  self._queue:close()
  if err and not self._ready:done() then
    future.fail(self._ready, err, false)
  elseif not self._ready:done() then
    future.settle(self._ready)
  end
end

--- Ends it: what waits to be taken still can be.
function Subscription:close()
  end_subscription(self)
end

--- Messages that did not fit.
---@return integer
function Subscription:dropped()
  return self._dropped
end

--- A future that is done when the server has confirmed all channels: what is published from then on
--- arrives.
---@return fasterlua.Future
function Subscription:ready()
  self._is_asked = true
  return self._ready
end

function Subscription.__tostring()
  return "fasterlua.redis_subscription"
end

-- what comes

local function put(self, item)
  if self._is_closed then
    return
  elseif self._queue:size() >= self._buffer then
    self._dropped = self._dropped + 1
    if self._on_full == "close" then
      log.warn("redis: a subscription is closed: nobody takes its messages",
        { channel = item.channel })
      return end_subscription(self)
    elseif self._on_full == "drop_newest" then
      return
    end
    self._queue:_take()
  end
  self._queue:put(item)
end

local function settle_if_ready(subscription)
  for _, entry in ipairs(subscription._entries) do
    if not entry.is_ready then
      return
    end
  end
  future.settle(subscription._ready)
end

local function copy(list)
  return { unpack(list) }
end

local function next_asked(self)
  local entry = self._asked[self._first]
  if entry then
    self._asked[self._first] = nil
    self._first = self._first + 1
    if self._first > #self._asked and not self._asked[self._first] then
      forget_asked(self)
    end
  end
  return entry
end

-- Of one that was asked for twice there are two.
local function confirm(self, name, verb)
  local asked, entry = self._asked[self._first], verb and self._entries[verb][name]
  if asked and asked.name == name then
    next_asked(self)
  end
  if entry and not entry.is_ready then
    entry.is_ready = true
    for _, subscription in ipairs(entry.subscriptions) do
      settle_if_ready(subscription)
    end
  end
end

local function refuse_asked(self, err)
  local entry = next_asked(self)
  if not entry then
    return
  end
  for _, subscription in ipairs(copy(entry.subscriptions)) do
    if not subscription._is_asked then
      log.error("redis: cannot subscribe: " .. tostring(err), { channel = entry.name })
    end
    end_subscription(subscription, err)
  end
end

local function deliver(self, verb, name, item)
  local entry = self._entries[verb][name]
  for _, subscription in ipairs(entry and copy(entry.subscriptions) or {}) do
    put(subscription, item)
  end
end

local function dispatch(self, message)
  if type(message) ~= "table" then
    return
  elseif message.kind == "redis" then
    return refuse_asked(self, message)
  end
  local kind, first, second, third = message[1], message[2], message[3], message[4]
  if kind == "message" then
    deliver(self, "SUBSCRIBE", first, { message = second, channel = first })
  elseif kind == "pmessage" then
    deliver(self, "PSUBSCRIBE", first, { message = third, channel = second, pattern = first })
  elseif kind == "subscribe" or kind == "psubscribe" then
    confirm(self, first, kind:upper())
  elseif kind == "unsubscribe" or kind == "punsubscribe" then
    confirm(self, first)
  end
end

-- the task that reads

local function subscribe_again(self, err)
  forget_asked(self)
  if self._is_closing then
    self._is_closing = false
  elseif self._problem ~= err.message then
    self._problem = err.message
    log.warn("redis: subscribing again: " .. err.message)
  end
  for _, verb in ipairs { "SUBSCRIBE", "PSUBSCRIBE" } do
    for _, entry in pairs(self._entries[verb]) do
      entry.is_ready = false
      ask(self, verb, entry)
    end
  end
end

local function read(self)
  while self._count > 0 do
    local ok, messages = pcall(await, from_op(self._core.next(self._link)))
    if ok then
      self._problem = nil
      for _, message in ipairs(messages) do
        dispatch(self, message)
      end
    elseif task.is_cancelled() then
      break
    elseif self._count > 0 then
      subscribe_again(self, messages)
    end
  end
  self._is_running = false
end

local function wake(self)
  if not self._is_running then
    self._is_running = true
    task.detach(read, self)
  end
end

-- the ways to take messages

local function is_closed(err)
  return type(err) == "table" and err.kind == "queue_closed"
end

local function run_fn(self, fn)
  while true do
    local ok, item = pcall(await, self._queue:get())
    if not ok then
      return not is_closed(item) and error(item, 0) or nil
    end
    local err
    ok, err = xpcall(fn, failure.keep_traceback, item.message, item.channel, item.pattern)
    if task.is_cancelled() then
      return
    elseif not ok then
      log.error("redis: a subscriber's function raised: " .. tostring(err),
        { channel = item.channel, traceback = failure.take_traceback(err) or nil })
    end
  end
end

local function take_next(self)
  local ok, item = pcall(await, self._queue:get())
  if ok then
    return item.message, item.channel, item.pattern
  elseif not is_closed(item) then
    error(item, 0)
  end
end

--- For a loop over the messages that come, until the subscription is closed.
---@return fun(self: fasterlua.RedisSubscription): string|nil, string, string|nil
---@return fasterlua.RedisSubscription
function Subscription:messages()
  return take_next, self
end

-- subscribing

local policies = { drop_oldest = true, drop_newest = true, close = true }
local option_names = { "buffer", "on_full" }

local function check_options(given, level)
  for name in pairs(given) do
    if name ~= "buffer" and name ~= "on_full" then
      error(("redis: subscribe: unknown option %q%s"):format(tostring(name),
        suggest.hint(tostring(name), option_names)), level + 1)
    end
  end
  local buffer, on_full = given.buffer, given.on_full
  if buffer ~= nil and not (type(buffer) == "number" and buffer >= 1 and buffer % 1 == 0
    and buffer <= BUFFER_MOST) then
    error(("redis: subscribe: option \"buffer\" must be an integer from 1 to %d, got %s"):format(
      BUFFER_MOST, tostring(buffer)), level + 1)
  elseif on_full ~= nil and not policies[on_full] then
    error(("redis: subscribe: option \"on_full\" must be \"drop_oldest\", \"drop_newest\" or "
      .. "\"close\", got %s"):format(tostring(on_full)), level + 1)
  end
end

local function check_names(names, level)
  names = type(names) == "table" and names or { names }
  if #names == 0 then
    error("redis: subscribe: no channel is named", level + 1)
  end
  for index, name in ipairs(names) do
    if type(name) ~= "string" then
      error(("redis: subscribe: channel %d is a %s: a string is expected"):format(index,
        type(name)), level + 1)
    end
  end
  return names
end

function Hub:subscribe(verb, names, fn, given, level)
  given = given or {}
  names = check_names(names, level)
  check_options(given, level)
  if fn ~= nil and type(fn) ~= "function" then
    error(("redis: subscribe: a function expected, got a %s"):format(type(fn)), level)
  end
  local subscription = setmetatable({
    _hub = self, _entries = {}, _queue = sync.queue(), _dropped = 0, _ready = future.new(),
    _buffer = given.buffer or BUFFER, _on_full = given.on_full or "drop_oldest",
    _is_closed = false, _is_asked = false,
  }, Subscription)
  subscription._ready._is_awaited = true
  for index, name in ipairs(names) do
    subscription._entries[index] = enter(self, verb, name, subscription)
  end
  settle_if_ready(subscription)
  wake(self)
  if fn then
    task.detach(run_fn, subscription, fn)
  end
  if topic.has_request() then
    core_task.at_end(end_subscription, subscription)
  end
  return subscription
end

return pubsub
