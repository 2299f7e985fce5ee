-- Waiting for each other within a state: lock, semaphore, queue, event. All are first come, first
-- served, and everything that waits is a future.
--
--     local lock = fl.lock()
--     lock:with(function() return await(rebuild_cache()) end)
--
-- What is handed to a waiter that is cancelled before it resumes (a permit, an item) goes to the
-- next one: the futures carry `_undo`, which `future` calls when a result reached nobody.

local failure = require "fasterlua.failure"
local future = require "fasterlua.future"

local await, new_future, settle, fail = future.await, future.new, future.settle, future.fail
local PENDING = future.PENDING

local sync = {}

-- A list of pending futures. Cancelled ones stay until they come to the front, or until they are
-- the majority, and are skipped.
---@class fasterlua.Waiters
---@field first integer
---@field last integer
local Waiters = {}
Waiters.__index = Waiters

local function new_waiters()
  return setmetatable({ first = 1, last = 0, gone = 0 }, Waiters)
end

function Waiters:push(waiter)
  self.last = self.last + 1
  self[self.last] = waiter
end

-- The first that still waits, taken out; nil when nobody does.
function Waiters:pop()
  while self.first <= self.last do
    local waiter = self[self.first]
    self[self.first] = nil
    self.first = self.first + 1
    if waiter._state == PENDING then
      return waiter
    end
    self.gone = self.gone - 1
  end
  self.first, self.last = 1, 0
end

function Waiters:compact()
  local kept = 0
  for index = self.first, self.last do
    local waiter = self[index]
    self[index] = nil
    if waiter._state == PENDING then
      kept = kept + 1
      self[kept] = waiter
    end
  end
  self.first, self.last, self.gone = 1, kept, 0
end

function Waiters:forget_one()
  self.gone = self.gone + 1
  if self.gone > 16 and self.gone * 2 > self.last - self.first + 1 then
    self:compact()
  end
end

local function forget_waiter(waiter)
  waiter._extra:forget_one()
end

local function wait_in(waiters)
  local waiter = new_future()
  waiter._extra = waiters
  waiter._on_cancel = forget_waiter
  waiters:push(waiter)
  return waiter
end

---@class fasterlua.Semaphore
---@field private _free integer
---@field private _size integer
---@field private _waiters fasterlua.Waiters
local Semaphore = { __name = "fasterlua.semaphore" }
Semaphore.__index = Semaphore

local function give_back(permit)
  permit._extra:release()
end

local function hand_over(self, permit)
  permit._extra, permit._undo = self, give_back
  settle(permit)
end

--- A future that is done when a permit is ours.
---@return fasterlua.Future
function Semaphore:acquire()
  if self._free == 0 then
    return wait_in(self._waiters)
  end
  self._free = self._free - 1
  local permit = new_future()
  hand_over(self, permit)
  return permit
end

--- Takes a permit if one is free now.
---@return boolean
function Semaphore:try()
  if self._free == 0 then
    return false
  end
  self._free = self._free - 1
  return true
end

--- Gives a permit back; whoever has waited longest gets it.
function Semaphore:release()
  local waiter = self._waiters:pop()
  if waiter then
    return hand_over(self, waiter)
  end
  if self._free == self._size then
    error(("%s: released more often than acquired"):format(self._noun), 2)
  end
  self._free = self._free + 1
end

--- Acquires, calls fn, releases; returns what fn returns or raises its error.
---@param fn function
---@param ... any its arguments
---@return any ...
function Semaphore:with(fn, ...)
  await(self:acquire())
  return failure.finally(self.release, self, fn, ...)
end

--- Whether nobody could acquire it now.
---@return boolean
function Semaphore:is_locked()
  return self._free == 0
end

local function check_count(count, noun)
  if type(count) ~= "number" or count < 1 or count % 1 ~= 0 then
    error(("%s: a whole number from 1 expected, got %s"):format(noun, tostring(count)), 3)
  end
end

local function new_semaphore(size, noun)
  local fields = { _free = size, _size = size, _noun = noun, _waiters = new_waiters() }
  return setmetatable(fields, Semaphore)
end

--- At most `size` at a time.
---@param size integer
---@return fasterlua.Semaphore
function sync.semaphore(size)
  check_count(size, "semaphore")
  return new_semaphore(size, "semaphore")
end

--- One at a time. Not recursive.
---@return fasterlua.Semaphore
function sync.lock()
  return new_semaphore(1, "lock")
end

---@class fasterlua.Queue
---@field private _size integer
---@field private _items table from `_first` to `_last`
---@field private _getters fasterlua.Waiters
---@field private _putters fasterlua.Waiters
---@field private _is_closed boolean
local Queue = { __name = "fasterlua.queue" }
Queue.__index = Queue

---@class fasterlua.QueueClosed: an error: the queue is closed
---@field kind "queue_closed"
local QueueClosed = { __name = "fasterlua.queue_closed" }

function QueueClosed.__tostring()
  return "the queue is closed"
end

local NIL_ITEM = {} -- stands for the item nil

-- The item goes back to the front, or to the next in line.
local function put_back(getter)
  local self, item = getter._extra.queue, getter._extra.item
  local waiting = self._getters:pop()
  if waiting then
    return self:_hand_over(waiting, item)
  end
  self._first = self._first - 1
  self._items[self._first] = item
end

function Queue:_hand_over(getter, item)
  getter._extra, getter._undo = { queue = self, item = item }, put_back
  if item == NIL_ITEM then
    item = nil
  end
  settle(getter, item)
end

function Queue:_append(item)
  self._last = self._last + 1
  self._items[self._last] = item
end

function Queue:_take()
  local item = self._items[self._first]
  self._items[self._first] = nil
  self._first = self._first + 1
  return item
end

local function forget_putter(putter)
  putter._extra.waiters:forget_one()
end

function Queue:_wait_to_put(item)
  local putter = new_future()
  putter._extra = { waiters = self._putters, item = item }
  putter._on_cancel = forget_putter
  self._putters:push(putter)
  return putter
end

local function closed()
  local ended = new_future()
  ended._is_awaited = true
  fail(ended, setmetatable({ kind = "queue_closed" }, QueueClosed), false)
  return ended
end

--- A future that is done when the item is in the queue: at once unless it is full.
---@param item any
---@return fasterlua.Future
function Queue:put(item)
  if self._is_closed then
    return closed()
  end
  if item == nil then
    item = NIL_ITEM
  end
  local getter = self._getters:pop()
  if getter then
    self:_hand_over(getter, item)
  elseif self:size() >= self._size then
    return self:_wait_to_put(item)
  else
    self:_append(item)
  end
  local stored = new_future()
  settle(stored)
  return stored
end

--- A future of the oldest item. When the queue is closed and empty it raises a QueueClosed error.
---@return fasterlua.Future
function Queue:get()
  if self:size() == 0 then
    return self._is_closed and closed() or wait_in(self._getters)
  end
  local getter = new_future()
  self:_hand_over(getter, self:_take())
  local putter = self._putters:pop()
  if putter then
    self:_append(putter._extra.item)
    settle(putter)
  end
  return getter
end

--- How many items are in the queue.
---@return integer
function Queue:size()
  return self._last - self._first + 1
end

--- Ends the queue: what is in it can still be taken; who waits gets a QueueClosed error.
function Queue:close()
  self._is_closed = true
  for _, waiters in ipairs { self._getters, self._putters } do
    local waiter = waiters:pop()
    while waiter do
      waiter._is_awaited = true
      fail(waiter, setmetatable({ kind = "queue_closed" }, QueueClosed), false)
      waiter = waiters:pop()
    end
  end
end

--- A queue of at most `size` items.
---@param size? integer without it the queue has no limit
---@return fasterlua.Queue
function sync.queue(size)
  if size ~= nil then
    check_count(size, "queue")
  end
  return setmetatable({
    _size = size or math.huge,
    _items = {},
    _first = 1,
    _last = 0,
    _getters = new_waiters(),
    _putters = new_waiters(),
    _is_closed = false,
  }, Queue)
end

---@class fasterlua.Event
---@field private _is_set boolean
---@field private _waiters fasterlua.Waiters
local Event = { __name = "fasterlua.event" }
Event.__index = Event

--- A future that is done when the event is set.
---@return fasterlua.Future
function Event:wait()
  if not self._is_set then
    return wait_in(self._waiters)
  end
  local waiter = new_future()
  settle(waiter)
  return waiter
end

--- Sets it: all who wait go on, and who comes later does not wait.
function Event:set()
  self._is_set = true
  local waiter = self._waiters:pop()
  while waiter do
    settle(waiter)
    waiter = self._waiters:pop()
  end
end

--- Unsets it: who comes now waits for the next `set`.
function Event:clear()
  self._is_set = false
end

--- Whether it is set.
---@return boolean
function Event:is_set()
  return self._is_set
end

--- Something that happens once, for all who wait for it.
---@return fasterlua.Event
function sync.event()
  return setmetatable({ _is_set = false, _waiters = new_waiters() }, Event)
end

return sync
