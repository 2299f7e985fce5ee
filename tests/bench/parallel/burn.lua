-- A second of computing that allocates nothing, the same in a state and in a process of its own:
--
--     luajit burn.lua [units]
local burn = {}

--- Computes; 50 units are about a second.
---@param units integer
---@return integer
function burn.run(units)
  local value = 1
  for _ = 1, units do
    for _ = 1, 3000000 do
      value = (value * 48271) % 2147483647
    end
  end
  return value
end

if arg and arg[0] and arg[0]:find("burn%.lua$") then
  print(burn.run(tonumber(arg[1]) or 50))
end

return burn
