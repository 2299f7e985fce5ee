-- Counts how deep app code recurses through C, where Lua's own stack check does not reach: gsub
-- callbacks, sort comparators, coroutines inside coroutines. Without a limit they overflow the C
-- stack and end the process.
--
-- The count belongs to the Lua state. An error that leaves a gsub callback skips the decrement, so
-- the count may drift upwards: when it reaches the limit the frames are counted one by one, and
-- only their number decides.

local getinfo = debug.getinfo

local recursion = {
  limit = 150,
  level = 0, -- guarded calls on this C stack, or more
  base = 0, -- those below the running coroutine
  guards = {}, -- the guarded functions: what to look for on the stack
}

local function frames_of_guards()
  local count, depth = 0, 2
  local info = getinfo(depth, "f")
  while info do
    if recursion.guards[info.func] then
      count = count + 1
    end
    depth = depth + 1
    info = getinfo(depth, "f")
  end
  return count
end

--- To be called by a guard at the limit, before it enters C. Raises when that many calls are true.
---@param what string names the function in the error
---@param level integer of the guard's caller, as for `error`
function recursion.check(what, level)
  recursion.level = recursion.base + frames_of_guards()
  if recursion.level > recursion.limit then
    error(("recursion through %s is too deep"):format(what), level + 1)
  end
end

--- Ends a guarded call: restores the level and passes the results on.
---@param level integer
---@param ... any
---@return any ...
function recursion.leave(level, ...)
  recursion.level = level
  return ...
end

return recursion
