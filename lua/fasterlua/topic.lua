-- Publish and subscribe: what one state publishes reaches all subscribers, in all Lua states of the
-- app and in all server processes of the server.
--
--     local news = fl.topic("news")
--     news:publish("it rains")
--     local subscription = news:subscribe { buffer = 10 }
--     for text in subscription:items() do print(text) end
--
-- Publishing does not wait for anybody. Each subscriber has a buffer of its own, and what becomes
-- of messages that do not fit is its choice. Messages of one publisher arrive in order. Who
-- subscribes later does not get what was published before. Apps do not see each other's topics.

local core = require "fasterlua.core.topic"
local future = require "fasterlua.future"
local items = require "fasterlua.items"
local suggest = require "fasterlua.suggest"
local core_task = require "fasterlua.core.task"

local from_op, new, fail = future.from_op, future.new, future.fail
local raw_publish, raw_next, received, put_back =
  core.publish, core.next, core.received, core.put_back

local NAME_MOST, BUFFER, BUFFER_MOST = 200, 100, 1000000

local topic = {}

---@class fasterlua.Topic
---@field name fun(self: fasterlua.Topic): string

---@class fasterlua.Subscription
---@field close fun(self: fasterlua.Subscription) who waits for a message gets a TopicError
---@field dropped fun(self: fasterlua.Subscription): integer messages that did not fit

---@type table
local Topic = core.metatable
local methods = Topic.__index
---@type table
local Subscription = core.subscription

---@class fasterlua.TopicError
---@field kind "closed"|"too_large"|"message"|"topic"
---@field message string
local TopicError = { __name = "fasterlua.topic_error" }

function TopicError.__tostring(self)
  return self.message
end

function Topic.__tostring(self)
  return ("fasterlua.topic (%s)"):format(self:name())
end

function Subscription.__tostring()
  return "fasterlua.subscription"
end

-- How it gets into another state: by its name.
function Topic.__crossing(self)
  return "fasterlua.topic", self:name()
end

--- The topic that `__crossing` named.
---@param name string
---@return fasterlua.Topic
function topic.from_crossing(name)
  return core.open(name)
end

--- The topic of this app that has this name.
---@param name string
---@return fasterlua.Topic
function topic.open(name)
  if type(name) ~= "string" or #name < 1 or #name > NAME_MOST or name:find("%z") then
    error(("topic: a name of 1 to %d bytes expected, got %s"):format(NAME_MOST,
      type(name) == "string" and ("one of %d"):format(#name) or "a " .. type(name)), 2)
  end
  return core.open(name)
end

--- Brings the values to everybody who has subscribed, and does not wait for them. Raises when they
--- are no plain data, and an error of kind "too_large" when they do not fit the setting topic_ring
--- on their way to other server processes.
---@param ... any
---@return integer # subscribers in this server process
function methods:publish(...)
  local count, problem = raw_publish(self, ...)
  if not count then
    error(setmetatable(problem, TopicError), 2)
  end
  return count
end

---@class fasterlua.SubscribeOptions
---@field buffer? integer messages that may wait to be taken, 100
---@field on_full? "drop_oldest"|"drop_newest"|"close" what a message does that finds it full

local policies = { drop_oldest = true, drop_newest = true, close = true }
local option_names = { "buffer", "on_full" }

local function refuse(self, message, ...)
  error(("topic %q: subscribe: %s"):format(self:name(), message:format(...)), 4)
end

local function check_options(self, options)
  if type(options) ~= "table" then
    refuse(self, "a table of options expected, got a %s", type(options))
  end
  for option in pairs(options) do
    if option ~= "buffer" and option ~= "on_full" then
      refuse(self, "unknown option %q%s", tostring(option),
        suggest.hint(tostring(option), option_names))
    end
  end
  local buffer, on_full = options.buffer, options.on_full
  if buffer ~= nil and not (type(buffer) == "number" and buffer >= 1 and buffer % 1 == 0
    and buffer <= BUFFER_MOST) then
    refuse(self, "option \"buffer\" must be an integer from 1 to %d, got %s", BUFFER_MOST,
      tostring(buffer))
  elseif on_full ~= nil and not policies[on_full] then
    refuse(self, "option \"on_full\" must be \"drop_oldest\", \"drop_newest\" or \"close\", got %s",
      tostring(on_full))
  end
end

local no_options = {}

--- Begins to receive what is published. Ends with `close`, with the request or job in which it
--- was made, or when nothing refers to it any more.
---@param options? fasterlua.SubscribeOptions
---@return fasterlua.Subscription
function methods:subscribe(options)
  options = options or no_options
  check_options(self, options)
  local subscription = core.subscribe(self, options.buffer or BUFFER,
    options.on_full or "drop_oldest")
  if core.has_request() then
    core_task.at_end(subscription.close, subscription)
  end
  return subscription
end

local function undo(waiter)
  put_back(waiter._op)
end

local function has_reached(waiter)
  received(waiter._op)
end

local function failed(problem)
  local self = new()
  self._is_awaited = true
  fail(self, setmetatable(problem, TopicError), false)
  return self
end

--- A future of the values of the next message. When the subscription is closed it raises an error
--- of kind "closed".
---@return fasterlua.Future
function Subscription.__index:next()
  local op, problem = raw_next(self)
  if not op then
    return failed(problem)
  end
  local waiter = from_op(op)
  waiter._undo, waiter._received = undo, has_reached
  waiter._extra = self -- it lives while somebody waits for it
  return waiter
end

local function take_next(self)
  return items.await(self:next())
end

--- For a loop over the messages that come, until the subscription is closed. A message whose first
--- value is nil comes as fl.null, for nil ends a loop.
---@return fun(self: fasterlua.Subscription): any ...
---@return fasterlua.Subscription
function Subscription.__index:items()
  return take_next, self
end

return topic
