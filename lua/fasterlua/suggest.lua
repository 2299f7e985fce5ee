-- Finds the word that was meant.
--
--     local suggest = require "fasterlua.suggest"
--     suggest.nearest("prot", { "host", "port" }) -- "port"

local suggest = {}

--- The number of letters to insert, delete, replace or swap with their neighbour to make `from`
--- into `to` (optimal string alignment).
---@param from string
---@param to string
---@return integer
function suggest.distance(from, to)
  local above_that, above
  local row = {}
  for column = 0, #to do
    row[column] = column
  end
  for line = 1, #from do
    above_that, above, row = above, row, { [0] = line }
    local letter, letter_before = from:byte(line), from:byte(line - 1)
    for column = 1, #to do
      local replaced = above[column - 1] + (letter == to:byte(column) and 0 or 1)
      row[column] = math.min(above[column] + 1, row[column - 1] + 1, replaced)
      local can_swap = line > 1 and column > 1
      if can_swap and letter == to:byte(column - 1) and letter_before == to:byte(column) then
        row[column] = math.min(row[column], above_that[column - 2] + 1)
      end
    end
  end
  return row[#to]
end

--- The word of the list nearest to `word`, when it is near enough to be meant: a third of its
--- letters may differ. Of equally near ones the first in the alphabet.
---@param word string
---@param list string[]
---@return string|nil
function suggest.nearest(word, list)
  local best, best_distance
  local limit = math.max(1, math.floor(#word / 3))
  for _, candidate in ipairs(list) do
    if math.abs(#candidate - #word) <= limit then
      local distance = suggest.distance(word, candidate)
      local is_better = not best or distance < best_distance
        or (distance == best_distance and candidate < best)
      if distance <= limit and is_better then
        best, best_distance = candidate, distance
      end
    end
  end
  return best
end

--- The end of a message about an unknown word: `: did you mean "port"?`, or nothing.
---@param word string
---@param list string[]
---@return string
function suggest.hint(word, list)
  local nearest = suggest.nearest(word, list)
  return nearest and (': did you mean "%s"?'):format(nearest) or ""
end

--- Raises for options that are no table or not known.
---@param label string what takes them: "fs.read"
---@param options any
---@param known string[]
---@param level integer as of `error`, for the function that calls this one; 0: no place
function suggest.check_options(label, options, known, level)
  local place = level > 0 and level + 1 or 0
  if type(options) ~= "table" then
    error(("%s: options must be a table, got %s"):format(label, type(options)), place)
  end
  for option in pairs(options) do
    local is_known = false
    for _, one in ipairs(known) do
      is_known = is_known or one == option
    end
    if not is_known then
      local hint = suggest.hint(tostring(option), known)
      error(("%s: unknown option %q%s"):format(label, tostring(option), hint), place)
    end
  end
end

return suggest
