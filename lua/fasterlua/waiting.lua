-- Suspends the running task until C wakes it.
--
--     waiting.suspend(core.drained, handle) -- core.drained(handle, ticket) says whom to wake

local future = require "fasterlua.future"
local coroutines = require "fasterlua.coroutines"
local failure = require "fasterlua.failure"
local core_task = require "fasterlua.core.task"

local AWAIT = core_task.AWAIT
local raw_yield, isyieldable = coroutines.raw.yield, coroutines.raw.isyieldable

local waiting = {}

--- Registers the task's ticket by `register(subject, ticket, …)` and waits. Raises Cancelled when
--- the task is.
---@param register fun(subject: any, ticket: number, ...)
---@param subject any
---@param ... any
function waiting.suspend(register, subject, ...)
  if not isyieldable() then
    future.refuse_await()
  end
  local ticket, reason = core_task.ticket()
  if ticket then
    register(subject, ticket, ...)
    reason = raw_yield(AWAIT)
  end
  if reason then
    failure.raise_cancelled(reason)
  end
end

return waiting
