-- What a loop over items takes next: of a channel, of a subscription, until it is closed.
--
--     local first, second = items.await(channel:take()) -- nothing when it is closed

local future = require "fasterlua.future"
local json = require "fasterlua.json"

local await = future.await

local items = {}

local function is_closed(err)
  return type(err) == "table" and rawget(err, "kind") == "closed"
end

-- A nil would end the loop: it is shown as null.
local function shown(ok, first, ...)
  if ok then
    if first == nil then
      first = json.null
    end
    return first, ...
  elseif not is_closed(first) then
    error(first, 0)
  end
end

--- The values of the future; nothing when its error says that what it came from is closed.
---@param item fasterlua.Future
---@return any ...
function items.await(item)
  return shown(pcall(await, item))
end

return items
