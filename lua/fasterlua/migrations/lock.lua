-- One migration at a time, however many processes try: PostgreSQL's advisory lock, MariaDB's named
-- one. SQLite needs none: each migration is a transaction of the one that may write.
--
--     lock.hold(session, "postgres", waiting, fn)
--
-- It is asked for again and again rather than waited for: a session that waits within a statement
-- would hold up CREATE INDEX CONCURRENTLY.

local core = require "fasterlua.core.db"
local failure = require "fasterlua.failure"
local future = require "fasterlua.future"
local task = require "fasterlua.task"

local await, from_op, sleep = future.await, future.from_op, future.sleep

local VALUE, FOREVER = 2, 0
local FIRST_PAUSE, LONGEST_PAUSE = 0.05, 1 -- seconds

local lock = {}

local takes = {
  postgres = "select pg_try_advisory_lock(5207346)",
  mariadb = "select get_lock(concat('fasterlua_migrations_', md5(database())), 0)",
}

local gives = {
  postgres = "select pg_advisory_unlock(5207346)",
  mariadb = "select release_lock(concat('fasterlua_migrations_', md5(database())))",
}

local function ask(session, sql)
  local answer = await(from_op(core.query(session, VALUE, FOREVER, false, sql)))
  return answer == true or answer == 1
end

local function take(session, driver, waiting)
  local pause = FIRST_PAUSE
  while not ask(session, takes[driver]) do
    waiting()
    await(sleep(pause))
    pause = math.min(pause * 2, LONGEST_PAUSE)
  end
end

local function give(place)
  pcall(task.shield, ask, place.session, gives[place.driver]) -- it ends with the session too
end

--- Runs fn(...) while the session has the lock; awaits.
---@param session userdata
---@param driver string
---@param waiting fun() called while another has it
---@param fn fun(...): any
---@param ... any
---@return any ... what fn returned
function lock.hold(session, driver, waiting, fn, ...)
  if not takes[driver] then
    return fn(...)
  end
  take(session, driver, waiting)
  return failure.finally(give, { session = session, driver = driver }, fn, ...)
end

return lock
