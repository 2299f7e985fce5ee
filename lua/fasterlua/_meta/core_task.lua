---@meta fasterlua.core.task
-- luacheck: ignore 212 241
-- Provided by C: the scheduler. All app code runs in tasks: coroutines that only C resumes.

---@class fasterlua.core.task
---@field AWAIT lightuserdata what a task yields to be suspended
local task = {}

--- Starts a task of the current request; it runs when the current one suspends or ends.
---@param fn function
---@param ... any
---@return integer task
function task.start(fn, ...) end

--- Starts a task that belongs to no request.
---@param fn function
---@param ... any
---@return integer task
function task.detach(fn, ...) end

--- Starts a task after the last byte of the current request's response.
---@param fn function
---@param ... any
function task.background(fn, ...) end

--- Calls fn in a task of its own when the current request has ended; outside of a request, or when
--- it has ended already, as soon as the current task suspends or ends.
---@param fn function
---@param ... any
function task.at_end(fn, ...) end

--- Names the next suspension of the current task; nil and the reason when the task was cancelled
--- and is not shielded.
---@return integer|nil ticket
---@return string|nil reason
function task.ticket() end

--- Ends a suspension; false when it is over.
---@param ticket integer
---@return boolean
function task.wake(ticket) end

--- A cancelled task ends at its next await. One that never ran is started all the same, so that its
--- future settles.
---@param id integer
---@param reason string
---@return boolean
function task.cancel(id, reason) end

--- Begins (true) or ends (false) a shield; shields nest.
---@param on boolean
function task.shield(on) end

---@return integer|nil task
function task.current() end

--- The running coroutine was handed to app code: it is not reused.
function task.seen() end

---@param seconds number
---@return userdata op
function task.sleep(seconds) end

---@param op userdata
---@return boolean
function task.op_done(op) end

--- Wakes the ticket when the operation completes; at once when it has.
---@param op userdata
---@param ticket integer
function task.op_wait(op, ticket) end

--- Suspends the task until the operation completes, which is to be looked at again: not at all when
--- it has. Only where the coroutine can yield.
---@param op userdata
---@return string|nil reason why the task was cancelled
function task.op_await(op) end

--- Nothing when it is not done yet.
---@param op userdata
---@return boolean|nil ok
---@return any ... values, or the error
function task.op_take(op) end

---@param op userdata
function task.op_cancel(op) end

return task
