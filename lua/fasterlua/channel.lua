-- Queues between all Lua states of an app in a server process: its web threads and its pools.
--
--     local mails = fl.channel("mails", 100)
--     await(mails:put(address, text)) -- waits while 100 are in it
--     local address, text = await(mails:take())
--
-- First in, first out; who waits is served in order of arrival over all states. Values are packed
-- once and unpacked where they are taken: plain data and handles, as for jobs of a pool. An item
-- whose taker is cancelled, or whose state is lost, before it got there goes back to its place and
-- the next taker gets it. Apps do not see each other's channels.

local core = require "fasterlua.core.channel"
local future = require "fasterlua.future"
local items = require "fasterlua.items"

local from_op, new, fail = future.from_op, future.new, future.fail
local done, FAILED = future.done, future.FAILED
local raw_put, raw_take, received, give_back =
  core.put, core.take, core.received, core.give_back

local NAME_MOST, SIZE_MOST = 200, 10000000

local channel = {}

---@class fasterlua.Channel
---@field name fun(self: fasterlua.Channel): string
---@field size fun(self: fasterlua.Channel): integer items that it has room for
---@field len fun(self: fasterlua.Channel): integer items that are in it now
---@field close fun(self: fasterlua.Channel) who takes gets what is left, then a ChannelError

---@type table
local Channel = core.metatable
local methods = Channel.__index

---@class fasterlua.ChannelError
---@field kind "closed"|"too_large"|"item"|"cancelled"
---@field message string
local ChannelError = { __name = "fasterlua.channel_error" }

function ChannelError.__tostring(self)
  return self.message
end

function Channel.__tostring(self)
  return ("fasterlua.channel (%s)"):format(self:name())
end

-- How it gets into another state: by its name.
function Channel.__crossing(self)
  return "fasterlua.channel", self:name(), self:size()
end

--- The channel that `__crossing` named.
---@param name string
---@param size integer
---@return fasterlua.Channel
function channel.from_crossing(name, size)
  return core.open(name, size)
end

--- Opens a channel of this app, making it when there is none of this name in the server process.
--- With another size than it has that is an error; without one it is taken as it is, or gets 100.
---@param name string
---@param size? integer items that it has room for
---@return fasterlua.Channel
function channel.open(name, size)
  if type(name) ~= "string" or #name < 1 or #name > NAME_MOST or name:find("%z") then
    error(("channel: a name of 1 to %d bytes expected, got %s"):format(NAME_MOST,
      type(name) == "string" and ("one of %d"):format(#name) or "a " .. type(name)), 2)
  elseif size ~= nil and not (type(size) == "number" and size >= 1 and size % 1 == 0
    and size <= SIZE_MOST) then
    error(("channel %q: a size from 1 to %d expected, got %s"):format(name, SIZE_MOST,
      tostring(size)), 2)
  end
  local ok, result = pcall(core.open, name, size)
  if not ok then
    error(result, 2)
  end
  return result
end

local function failed(problem)
  local self = new()
  fail(self, setmetatable(problem, ChannelError), false)
  return self
end

--- A future that is done when the item is in the channel: at once unless that is full. Cancelled
--- before, nothing is put. Of a closed channel it raises an error of kind "closed".
---@param ... any the values of one item
---@return fasterlua.Future
function methods:put(...)
  local op, problem = raw_put(self, ...)
  if op == true then
    return done()
  end
  return op and from_op(op) or failed(problem)
end

local function undo(taker)
  give_back(taker._op)
end

local function has_reached(taker)
  if taker._state ~= FAILED then
    received(taker._op)
  end
end

--- A future of the values of the oldest item. Of a channel that is closed and empty it raises an
--- error of kind "closed".
---@return fasterlua.Future
function methods:take()
  local op, problem = raw_take(self)
  if not op then
    local ended = failed(problem)
    ended._is_awaited = true
    return ended
  end
  local taker = from_op(op)
  taker._undo, taker._received = undo, has_reached
  return taker
end

local function raise_problem(ok, ...)
  if ok == nil then
    error(setmetatable((...), ChannelError), 3)
  end
  return ok, ...
end

--- Puts the item if there is room now; whether it did.
---@param ... any the values of one item
---@return boolean
function methods:try_put(...)
  return (raise_problem(core.try_put(self, ...)))
end

--- Takes the oldest item if there is one now: true and its values, or false.
---@return boolean
---@return any ...
function methods:try_take()
  return raise_problem(core.try_take(self))
end

local function take_next(self)
  return items.await(self:take())
end

--- For a loop over the items that come, until the channel is closed and empty. An item whose first
--- value is nil comes as fl.null, for nil ends a loop.
---@return fun(self: fasterlua.Channel): any ...
---@return fasterlua.Channel
function methods:items()
  return take_next, self
end

return channel
