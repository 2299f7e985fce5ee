-- Runs the function of `fl.stream`: what it writes goes out piece by piece, and waits while the
-- client does not read.
--
--     return fl.stream(function(write) for line in lines() do write(line) end end)

local core = require "fasterlua.core.request"
local failure = require "fasterlua.failure"
local future = require "fasterlua.future"
local waiting = require "fasterlua.waiting"

local stream = {}

---@class fasterlua.Stream
---@field handle number the request
---@field drained fasterlua.Future|false settles when the writer that waits for the socket goes on

local function end_draining(self)
  local drained = self.drained
  self.drained = false
  future.settle(drained)
end

-- C wakes one writer of a stream: others wait for that one.
local function wait_for_socket(self)
  if self.drained then
    return future.await(self.drained)
  end
  self.drained = future.new()
  self.drained._is_detached = true -- who stops waiting for it does not cancel it for the others
  failure.finally(end_draining, self, waiting.suspend, core.drained, self.handle)
end

local function write(self, piece)
  if type(piece) == "number" then
    piece = tostring(piece)
  elseif type(piece) ~= "string" then
    error(("write: a string expected, got %s"):format(type(piece)), 3)
  end
  local went_out = core.write(self.handle, piece)
  if went_out == nil then
    failure.raise_cancelled("client left")
  elseif not went_out then
    wait_for_socket(self)
  end
end

--- Called by the server in a task of its own once the response's head is written.
---@param handle number the request
---@param fn fun(write: fun(piece: string))
function stream.run(handle, fn)
  local self = { handle = handle, drained = false }
  return fn(function(piece)
    write(self, piece)
  end)
end

return stream
