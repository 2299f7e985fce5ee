-- fasterlua: write handlers as if they had the server to themselves; `await` everything that waits.
--
--     local fl = require "fasterlua"
--     local app = fl.app { title = "Hello" }
--     app:get("/", function() return "Hello, world" end)
--     return app

local app = require "fasterlua.app"
local combine = require "fasterlua.combine"
local future = require "fasterlua.future"
local json = require "fasterlua.json"
local log = require "fasterlua.log"
local response = require "fasterlua.response"
local router = require "fasterlua.router"
local task = require "fasterlua.task"
local text = require "fasterlua.core.text"
local units = require "fasterlua.units"
local type = type

--- A future that is done after so many seconds.
---@param seconds number|string
---@return fasterlua.Future
local function sleep(seconds)
  if type(seconds) == "string" then
    seconds = units.seconds(seconds) or seconds
  end
  return future.sleep(seconds)
end

---@class fasterlua
---@field lock fun(): fasterlua.Semaphore
---@field semaphore fun(size: integer): fasterlua.Semaphore
---@field queue fun(size?: integer): fasterlua.Queue
---@field event fun(): fasterlua.Event
---@field digest table SHA-256 and friends
---@field compress fasterlua.compress gzip, deflate, brotli and zstd
---@field fs table files
---@field shared fun(name: string, options?: fasterlua.SharedOptions): fasterlua.Shared
---@field channel fun(name: string, size?: integer): fasterlua.Channel
---@field topic fun(name: string): fasterlua.Topic
---@field db fun(url: string|table, options?: fasterlua.DbOptions): fasterlua.Db
---@field redis fun(url?: string|table, options?: fasterlua.RedisOptions): fasterlua.Redis
---@field http table an HTTP client: fasterlua.http
---@field mail table sends mail: fasterlua.mail
---@field exec fun(argv: string[], options?: fasterlua.ExecOptions): fasterlua.Future
---@field state_pool fun(options: fasterlua.PoolOptions): fasterlua.Pool
---@field run_in_state fun(fn: function|string, ...): fasterlua.Future
---@field run_blocking fun(fn: function|string, ...): fasterlua.Future
---@field here fun(): fasterlua.Here
local fl = {
  version = require("fasterlua.core.task").VERSION,

  app = app.new,
  router = router.new,

  await = future.await,
  async = task.async,
  spawn = task.spawn,
  gather = combine.gather,
  race = combine.race,
  all_settled = combine.all_settled,
  timeout = combine.timeout,
  sleep = sleep,
  shield = task.shield,
  detach = task.detach,
  background = task.background,

  html = response.html,
  redirect = response.redirect,
  stream = response.stream,
  response = response.response,
  http_error = response.http_error,

  json = json,
  array = json.array,
  null = json.null,
  log = log,
  escape_html = text.escape_html,
}

-- Loaded when an app first uses them: the module, and the field of it that is meant.
local lazy = {
  lock = { "fasterlua.sync", "lock" },
  semaphore = { "fasterlua.sync", "semaphore" },
  queue = { "fasterlua.sync", "queue" },
  event = { "fasterlua.sync", "event" },
  digest = { "fasterlua.digest" },
  compress = { "fasterlua.compress" },
  fs = { "fasterlua.fs" },
  exec = { "fasterlua.exec" },
  redis = { "fasterlua.redis", "open" },
  http = { "fasterlua.http" },
  mail = { "fasterlua.mail" },
  state_pool = { "fasterlua.pool", "new" },
  run_in_state = { "fasterlua.pool", "run_in_state" },
  run_blocking = { "fasterlua.pool", "run_blocking" },
  here = { "fasterlua.pool", "here" },
  shared = { "fasterlua.shared", "open" },
  channel = { "fasterlua.channel", "open" },
  topic = { "fasterlua.topic", "open" },
  db = { "fasterlua.db", "open" },
}

local function load_lazily(self, name)
  local source = lazy[name]
  if not source then
    return nil
  end
  local value = require(source[1])
  value = source[2] and value[source[2]] or value
  rawset(self, name, value)
  return value
end

return setmetatable(fl, { __index = load_lazily })
