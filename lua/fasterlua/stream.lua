-- Runs the function of `fl.stream`: what it writes goes out piece by piece, and waits while the
-- client does not read.
--
--     return fl.stream(function(write) for line in lines() do write(line) end end)

local core = require "fasterlua.core.request"
local future = require "fasterlua.future"
local waiting = require "fasterlua.waiting"

local stream = {}

local function write(handle, piece)
  if type(piece) == "number" then
    piece = tostring(piece)
  elseif type(piece) ~= "string" then
    error(("write: a string expected, got %s"):format(type(piece)), 3)
  end
  local went_out = core.write(handle, piece)
  if went_out == nil then
    future.raise_cancelled("client left")
  elseif not went_out then
    waiting.suspend(core.drained, handle)
  end
end

--- Called by the server in a task of its own once the response's head is written.
---@param handle number the request
---@param fn fun(write: fun(piece: string))
function stream.run(handle, fn)
  return fn(function(piece)
    write(handle, piece)
  end)
end

return stream
