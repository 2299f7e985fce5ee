-- What an app does by the clock: each run takes place once per server, in one of its states.
--
--     app:every(60, function() await(remove_old_sessions()) end)
--     app:cron("30 4 * * mon-fri", send_reports, { name = "reports" })
--     app:once("fill", fill_the_cache)
--
-- Every web state has a timer. When a time has come, all race for its number in a dictionary of the
-- segment ("fasterlua.schedule"); who raises it first runs the job, as a task of its own. A job of
-- which the previous run still goes on is left out, unless `overlap` is set: a run holds a lease,
-- which its state extends. The numbers outlive processes, so a reload neither repeats nor omits a
-- time. A state that dies in the middle of a run loses that run alone. A process that drains begins
-- no run, and the runs that go on are cancelled when its last request has ended.

local combine = require "fasterlua.combine"
local core = require "fasterlua.core.shared"
local core_log = require "fasterlua.core.log"
local cron = require "fasterlua.cron"
local failure = require "fasterlua.failure"
local future = require "fasterlua.future"
local leases = require "fasterlua.lease"
local report = require "fasterlua.report"
local suggest = require "fasterlua.suggest"
local task = require "fasterlua.task"
local units = require "fasterlua.units"

local await = future.await

local DICTIONARY, BYTES = "fasterlua.schedule", 256 * 1024
local LONGEST_SLEEP = 30 -- seconds: whoever puts the clock may do so meanwhile
local TELL_AGAIN = 60 -- seconds
local SHORTEST, LONGEST = 0.01, 30 * 86400 -- seconds of an interval
local NAME_MOST, EXPRESSION_MOST = 100, 80 -- bytes

local schedule = {}

---@class fasterlua.JobOptions
---@field name? string in the log, and what makes it the same job after a reload
---@field overlap? boolean a run begins though the previous one still goes on
---@field timeout? number|string seconds after which a run is cancelled

---@class fasterlua.Job
---@field name string
---@field fn function
---@field options fasterlua.JobOptions
---@field interval? number
---@field spec? fasterlua.Cron
---@field key string of its runs
---@field due number when it runs next, by its own clock

local option_names = { "name", "overlap", "timeout" }
local option_types = { name = "string", overlap = "boolean" }

local function check_timeout(label, value)
  local seconds = units.seconds(value)
  if not seconds or not (seconds > 0 and seconds < 4e9) then
    error(('%s: option "timeout" must be above 0, in seconds or as "5m", got %s'):format(label,
      tostring(value)), 6)
  end
end

local function check_options(label, options)
  suggest.check_options(label, options, option_names, 5)
  for option, value in pairs(options) do
    if option == "timeout" then
      check_timeout(label, value)
    elseif type(value) ~= option_types[option] then
      error(("%s: option %q must be a %s, got %s"):format(label, option, option_types[option],
        tostring(value)), 5)
    end
  end
  if options.name and (options.name == "" or #options.name > NAME_MOST) then
    error(("%s: option \"name\" must have 1 to %d bytes"):format(label, NAME_MOST), 5)
  end
end

-- Adds a job to the app; `label` begins what is said about it.
local function add(app, label, job, options)
  if type(job.fn) ~= "function" then
    error(("%s: a function expected, got %s"):format(label, type(job.fn)), 4)
  end
  options = options or {}
  check_options(label, options)
  job.options = options
  job.name = options.name or ("%d %s"):format(#app._jobs + 1, label)
  for _, other in ipairs(app._jobs) do
    if other.name == job.name then
      error(("%s: there is a job %q already"):format(label, job.name), 4)
    end
  end
  app._jobs[#app._jobs + 1] = job
end

--- Behind `app:every`.
---@param app fasterlua.App
---@param seconds number|string
---@param fn fun()
---@param options? fasterlua.JobOptions
function schedule.every(app, seconds, fn, options)
  local label = ("every %s"):format(tostring(seconds))
  if type(seconds) == "string" then
    seconds = units.seconds(seconds)
  end
  if type(seconds) ~= "number" or not (seconds >= SHORTEST and seconds <= LONGEST) then
    error(("%s: seconds from %g to %d expected, or a time as \"5m\""):format(label, SHORTEST,
      LONGEST), 3)
  end
  add(app, label, { fn = fn, interval = seconds }, options)
end

--- Behind `app:cron`.
---@param app fasterlua.App
---@param expression string
---@param fn fun()
---@param options? fasterlua.JobOptions
function schedule.cron(app, expression, fn, options)
  if type(expression) ~= "string" or #expression > EXPRESSION_MOST then
    error(("cron: an expression of at most %d bytes expected, got %s"):format(EXPRESSION_MOST,
      tostring(expression)), 3)
  end
  local label = ("cron %q"):format(expression)
  local ok, result = pcall(cron.parse, expression)
  if not ok then
    error(("%s: %s"):format(label, result), 3)
  end
  add(app, label, { fn = fn, spec = result, expression = expression }, options)
end

--- Behind `app:once`.
---@param app fasterlua.App
---@param name string
---@param fn fun()
---@param options? fasterlua.JobOptions
function schedule.once(app, name, fn, options)
  if type(name) ~= "string" or name == "" or #name > NAME_MOST then
    error(("once: a name of 1 to %d bytes expected, got %s"):format(NAME_MOST, tostring(name)), 3)
  end
  local copy = { name = name }
  for option, value in pairs(options or {}) do
    copy[option] = value
  end
  add(app, ("once %q"):format(name), { fn = fn, is_once = true }, copy)
end

-- Clocks: a job of an interval counts from the server's start, one of cron's since 1970.

local function now_of(job)
  return job.spec and os.time() or core.clock()
end

local function due_after(job, now)
  if job.spec then
    return cron.next(job.spec, now)
  end
  return (math.floor(now / job.interval) + 1) * job.interval
end

-- The number of the time that has come, which only grows.
local function tick_of(job, now)
  if job.spec then
    return job.due
  end
  return math.floor(math.max(now, job.due) / job.interval + 1e-6)
end

local function call(job)
  local seconds = job.options.timeout
  if not seconds then
    return job.fn()
  end
  return await(combine.timeout(seconds, task.spawn(job.fn)))
end

local function run(job)
  local ok, err = xpcall(call, failure.keep_traceback, job)
  local traceback = not ok and failure.take_traceback(err)
  if ok then
    return
  elseif failure.is_cancelled(err) then
    core_log.line("warn", ("the job %q was cancelled (%s)"):format(job.name, err.reason))
  else
    core_log.unhandled(("the job %q failed: %s"):format(job.name, report.message(err)),
      traceback or "")
  end
end

local function run_with(lease, job)
  failure.finally(leases.drop, lease, run, job)
end

-- Counted each time, and logged once a minute at most.
local function leave_out(dictionary, job)
  local count = dictionary:incr("skipped " .. job.key)
  if dictionary:add("told " .. job.key, true, TELL_AGAIN) then
    local message = "the job %q is left out this time: its previous run still goes on"
    core_log.line("warn", message:format(job.name), { left_out = count })
  end
end

local function begin(dictionary, job)
  if job.options.overlap then
    task.detach(run, job)
    return
  end
  local lease = leases.take(dictionary, "lock", job.key, leases.TTL)
  if lease then
    task.detach(run_with, leases.keep(lease), job)
    return
  end
  leave_out(dictionary, job)
end

local function begin_if_due(dictionary, job)
  local now = now_of(job)
  if now < job.due then
    return
  end
  local tick = tick_of(job, now)
  job.due = due_after(job, now)
  if core.raise(dictionary, job.tick_key, tick) then
    begin(dictionary, job)
  end
end

local function begin_all(dictionary, jobs)
  local pause = LONGEST_SLEEP
  for _, job in ipairs(jobs) do
    begin_if_due(dictionary, job)
    pause = math.min(pause, job.due - now_of(job))
  end
  return math.max(pause, 0)
end

-- Ends when the process drains, or with its error when the task is cancelled.
local function keep_time(dictionary, jobs)
  while not core.is_draining() do
    await(future.sleep(begin_all(dictionary, jobs)))
  end
end

local function prepare(job, app_name)
  local how = job.spec and job.expression or job.interval
  job.key = ("%s/%s"):format(app_name, job.name)
  job.tick_key = ("%s (%s)"):format(job.key, tostring(how))
  job.due = due_after(job, now_of(job))
end

--- Starts the timer of a state, and what is to be done once. Called by the start hook, in a task;
--- in a pool's state it does nothing.
---@param app fasterlua.App
---@param app_name string
function schedule.start(app, app_name)
  if core.is_pooled() then
    return
  end
  local dictionary, timed = core.open(DICTIONARY, BYTES), {}
  app_name = app_name:sub(1, 40)
  for _, job in ipairs(app._jobs) do
    if not job.is_once then
      prepare(job, app_name)
      timed[#timed + 1] = job
    elseif dictionary:add(("once %s/%s"):format(app_name, job.name), true) then
      job.key = ("%s/%s"):format(app_name, job.name)
      task.detach(run, job)
    end
  end
  if #timed > 0 then
    task.detach(keep_time, dictionary, timed)
  end
end

return schedule
