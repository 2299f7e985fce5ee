-- Says, when a server has started, that migrations of an app are not applied: one line of the log.
--
--     require("fasterlua.migrations.notice").begin("shop") -- behind the app's start hooks
--
-- It looks once, in a task of its own, at the folder `migrations` and at the database that the app
-- opened first, those of `fasterlua db`. Nothing waits for it, and a database that is away
-- is no reason not to start. Of all states that start at about the same time one looks; in the same
-- process none looks again.

local combine = require "fasterlua.combine"
local core = require "fasterlua.core.shared"
local core_log = require "fasterlua.core.log"
local db = require "fasterlua.db"
local failure = require "fasterlua.failure"
local fs = require "fasterlua.fs"
local future = require "fasterlua.future"
local pool = require "fasterlua.core.pool"
local task = require "fasterlua.task"

local await = future.await

local DICTIONARY, BYTES = "fasterlua.migrations", 64 * 1024
local FOLDER = "migrations"
local TOGETHER = 10 -- seconds in which the processes of a server start
local LONGEST_NAME = 200 -- bytes
local LONGEST = 10 -- seconds that looking may take

local notice = {}

local function is_first(name)
  local dictionary = core.open(DICTIONARY, BYTES)
  local key = name:sub(1, LONGEST_NAME)
  local process = pool.here()
  return dictionary:add(("%s %d"):format(key, process), true)
    and dictionary:add(key, true, TOGETHER)
end

local function pending_of(handle)
  local files = {}
  for _, each in ipairs(require("fasterlua.migrations").status(handle)) do
    if not each.applied_at then
      files[#files + 1] = each.file
    end
  end
  return files
end

local function look(handle)
  local files = pending_of(handle)
  if files[1] then
    local others = #files > 1 and (" and %d more"):format(#files - 1) or ""
    core_log.line("warn", ("migrations are not applied: %s%s; fasterlua db migrate applies them")
      :format(files[1], others), { database = db.name_of(handle) })
  end
end

local function try(handle)
  if not await(fs.exists(FOLDER)) then
    return
  end
  local ok, err = pcall(await, combine.timeout(LONGEST, task.spawn(look, handle)))
  if not ok and not failure.is_cancelled(err) then
    core_log.line("info", "it is unknown whether migrations are applied: " .. tostring(err),
      { database = db.name_of(handle) })
  end
end

--- Begins to look, in a web thread's state whose app has opened a database; does not wait.
---@param name string of the app
function notice.begin(name)
  if not core.is_pooled() and is_first(name) then
    task.detach(try, db.open(db.first()))
  end
end

return notice
