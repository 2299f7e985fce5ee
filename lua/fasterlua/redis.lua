-- Redis and Valkey: each command is a method, and its result a future.
--
--     local r = fl.redis "redis://localhost:6379/0"
--     await(r:set("greeting", "hello", "EX", 60))
--     local greeting = await(r:get("greeting"))
--
-- All tasks of a Lua state share one connection, on which their commands go out together at the end
-- of a turn and which is made again when it was lost. What needs a connection of its own (blocking
-- commands, `watch`) borrows one of a few.

local combine = require "fasterlua.combine"
local commands = require "fasterlua.redis.commands"
local digest = require "fasterlua.digest"
local failure = require "fasterlua.failure"
local future = require "fasterlua.future"
local json = require "fasterlua.json"
local options = require "fasterlua.redis.options"
local sync = require "fasterlua.sync"
local task = require "fasterlua.task"

local core = require("fasterlua.core.driver").load "redis"

local await, from_op, spawn = future.await, future.from_op, task.spawn
local raw_command, raw_batch, encode = core.command, core.batch, core.encode
local AS_IT_IS = commands.AS_IT_IS

-- Answers of several commands, as answer_kind in core/drivers/redis/bind.c.
local ONE, PIPELINE, WITH_ERRORS, TRANSACTION = 0, 1, 2, 3

local redis = {}

---@class fasterlua.RedisError: an error
---@field kind "redis"
---@field code string the server's, as "WRONGTYPE", or "CONNECTION", "TIMEOUT", "QUEUE_FULL"
---@field message string
---@field command string its name; "" when none was sent
---@field status? integer 503 when it was not the command's fault
---@field index? integer of a pipeline or transaction: which of its commands
---@field results? any[] of those: all results, with errors in their places
local RedisError = core.error_metatable
RedisError.__name = "fasterlua.redis_error"

function RedisError.__tostring(self)
  return self.message
end

function RedisError.__crossing(self)
  return "fasterlua.redis", "error", self.code, self.message, self.command, self.status or false
end

local function new_error(code, message, command)
  return setmetatable({ kind = "redis", code = code, message = message, command = command or "",
    status = code ~= "CROSSSLOT" and 503 or nil }, RedisError)
end

redis.new_error = new_error

local function is_error(value)
  return getmetatable(value) == RedisError
end

redis.is_error = is_error

-- The error of a list once more, which has the list: not the same, for that would be a cycle.
function redis.error_of_results(results, index)
  local err = setmetatable({ index = index, results = results }, RedisError)
  for name, value in pairs(results[index]) do
    err[name] = value
  end
  return err
end

-- methods by name: made when they are first used

-- Methods of our own, and behind them one for each command.
local function methods_of(make)
  local by_name = setmetatable({}, { __index = function(self, key)
    if type(key) ~= "string" or not key:find "^[a-z][a-z0-9_]*$" then
      return nil
    end
    local method = make(key:upper())
    rawset(self, key, method)
    return method
  end })
  return setmetatable({}, { __index = by_name }), by_name
end

local function check_name(name, level)
  if type(name) ~= "string" or name == "" then
    error(("redis: the name of a command expected, got %s"):format(
      type(name) == "string" and "an empty string" or type(name)), level + 1)
  end
  return name:upper()
end

local function check_allowed(name, word, level)
  local refusal = commands.refusal(name, word)
  if refusal then
    error(refusal, level + 1)
  end
end

local function kind_of(kind, ...)
  if type(kind) == "function" then
    return kind(...)
  end
  return kind
end

-- links of one server

---@class fasterlua.Redis
---@field get fun(self: fasterlua.Redis, key: string): fasterlua.Future
---@field set fun(self: fasterlua.Redis, key: string, value: string|number, ...): fasterlua.Future
---@field [string] fun(self: fasterlua.Redis, ...): fasterlua.Future any command by its name
---@field private _options table
---@field private _target userdata
---@field private _link userdata the connection that all share
---@field private _timeout number ms
---@field private _permits fasterlua.Semaphore for links of one's own
---@field private _idle userdata[]
---@field private _hub? table what is subscribed to
local Client = { __name = "fasterlua.redis" }

---@class fasterlua.RedisConnection one's own, inside `watch` and `connection`
---@field private _link userdata
---@field private _timeout number ms
local Connection = { __name = "fasterlua.redis_connection" }

-- Blocks as long as the command says, and its time-out more.
local function patience(self, seconds)
  if seconds <= 0 then
    return 0
  end
  return self._timeout == 0 and 0 or seconds * 1000 + self._timeout
end

local function wait_for(self, permit)
  if self._waiting >= self._options.max_commands then
    permit:cancel()
    error(new_error("QUEUE_FULL", ("%d wait for a connection of their own (max_commands)"):format(
      self._waiting)), 0)
  end
  self._waiting = self._waiting + 1
  local ok, err = pcall(await, combine.timeout(self._options.connection_wait, permit))
  self._waiting = self._waiting - 1
  if not ok and type(err) == "table" and err.kind == "timeout" then
    err = new_error("QUEUE_FULL", ("none of %d connections was free within %g s (connections)")
      :format(self._options.connections, self._options.connection_wait))
  end
  return ok or error(err, 0)
end

local function acquire(self)
  local permit = self._permits:acquire()
  if permit:done() then
    await(permit)
  else
    wait_for(self, permit)
  end
  local link = table.remove(self._idle) or core.link(self._target, false)
  core.pin(link, true)
  return link
end

local function release(loan)
  local self, link = loan.client, loan.link
  if not loan.is_clean then
    core.close(link)
  end
  core.pin(link, false)
  self._idle[#self._idle + 1] = link
  self._permits:release()
end

local function clean(loan, ...)
  loan.is_clean = true
  return ...
end

local function run_lent(loan, fn, ...)
  return clean(loan, fn(loan.link, ...))
end

-- Lends a link to fn, which leaves it as it was unless it raises.
local function with_link(self, fn, ...)
  local loan = { client = self, link = acquire(self), is_clean = false }
  return failure.finally(release, loan, run_lent, loan, fn, ...)
end

local function send_blocking(link, bytes, kind, timeout)
  return await(from_op(raw_batch(link, bytes, kind, ONE, false, timeout)))
end

-- The shared link

local function make_plain(name)
  local kind, may_repeat = commands.kind(name), commands.read_only[name] == true
  if type(kind) == "function" then
    return function(self, ...)
      local op = raw_command(self._link, kind(...), may_repeat, self._timeout, name, ...)
      return from_op(op)
    end
  end
  return function(self, ...)
    local op = raw_command(self._link, kind, may_repeat, self._timeout, name, ...)
    return from_op(op)
  end
end

local function make_blocking(name, plain)
  local seconds_of, kind = commands.blocking[name], commands.kind(name)
  return function(self, ...)
    local seconds = seconds_of(...)
    if not seconds then
      return plain(self, ...)
    end
    local bytes = encode(name, ...)
    return spawn(with_link, self, send_blocking, bytes, tostring(kind), patience(self, seconds))
  end
end

local function make_refused(name, plain)
  return function(self, word, ...)
    check_allowed(name, word, 2)
    return plain(self, word, ...)
  end
end

local function make_method(name)
  local method = make_plain(name)
  if commands.may_be_refused(name) then
    return make_refused(name, method)
  elseif commands.blocking[name] then
    return make_blocking(name, method)
  end
  return method
end

local methods, client_commands = methods_of(make_method)
Client.__index = methods

local function make_own(name)
  local plain, seconds_of = make_plain(name), commands.blocking[name]
  local kind = commands.kind(name)
  if commands.may_be_refused(name) and name ~= "WATCH" and name ~= "UNWATCH" then
    return make_refused(name, plain)
  elseif not seconds_of then
    return plain
  end
  return function(self, ...)
    local seconds = seconds_of(...)
    if not seconds then
      return plain(self, ...)
    end
    local op = raw_batch(self._link, encode(name, ...), tostring(kind), ONE, false,
      patience(self, seconds))
    return from_op(op)
  end
end

local own_methods, own_commands = methods_of(make_own)
Connection.__index = own_methods

function Connection.__tostring()
  return "fasterlua.redis_connection"
end

--- Any command by its name, for those that no method can be named after.
---@param name string
---@param ... string|number its arguments
---@return fasterlua.Future
function methods:call(name, ...)
  check_allowed(check_name(name, 2), (...), 2)
  local method = client_commands[name:lower()] or make_method(name:upper())
  local result = method(self, ...)
  return result
end

methods.command = methods.call

function own_methods:call(name, ...)
  local method = own_commands[check_name(name, 2):lower()] or make_own(name:upper())
  local result = method(self, ...)
  return result
end

own_methods.command = own_methods.call

-- several commands at once

---@class fasterlua.RedisBatch collects commands; its methods return nothing
---@field [string] fun(self: fasterlua.RedisBatch, ...)
local Batch = { __name = "fasterlua.redis_batch" }

local function add_command(self, name, kind, ...)
  if self._is_over then
    error("redis: this pipeline or transaction has been sent", 3)
  end
  local bytes = encode(name, ...)
  local count = self._count + 1
  self._count = count
  self._parts[count], self._kinds[count] = bytes, kind_of(kind, ...)
  self._may_repeat = self._may_repeat and commands.read_only[name] == true
  if self._keeps_keys then
    self._keys[count] = commands.key(name, ...) or false
  end
end

local function make_batched(name)
  local kind, seconds_of = commands.kind(name), commands.blocking[name]
  local must_ask = commands.may_be_refused(name)
  return function(self, ...)
    if must_ask then
      check_allowed(name, (...), 2)
    elseif seconds_of and not self._is_transaction and seconds_of(...) then
      error(("redis: %s in a pipeline would hold up everybody"):format(name), 2)
    end
    add_command(self, name, kind, ...)
  end
end

local batch_methods, batch_commands = methods_of(make_batched)

function batch_methods:call(name, ...)
  local method = batch_commands[check_name(name, 2):lower()] or make_batched(name:upper())
  method(self, ...)
end

batch_methods.command = batch_methods.call

Batch.__index = batch_methods

local function collect(fn, is_transaction, keeps_keys, what)
  if type(fn) ~= "function" then
    error(("redis: %s: a function expected, got %s"):format(what, type(fn)), 3)
  end
  local batch = setmetatable({ _parts = {}, _kinds = {}, _keys = {}, _count = 0,
    _may_repeat = true, _is_transaction = is_transaction, _keeps_keys = keeps_keys,
    _is_over = false }, Batch)
  fn(batch)
  batch._is_over = true
  return batch
end

redis.collect = collect

local function answer_of(self, what, given)
  local errors = given and given.errors
  if errors ~= nil and errors ~= "raise" and errors ~= "keep" then
    error(("redis: %s: option \"errors\" must be \"raise\" or \"keep\", got %s"):format(what,
      tostring(errors)), 3)
  end
  return self and errors == "keep" and WITH_ERRORS or PIPELINE
end

local function send_pipeline(self, fn, given)
  local answer = answer_of(self, "pipeline", given)
  local batch = collect(fn, false, false, "pipeline")
  if batch._count == 0 then
    return future.done(json.array {})
  end
  local op = raw_batch(self._link, table.concat(batch._parts), table.concat(batch._kinds), answer,
    batch._may_repeat, self._timeout)
  return from_op(op)
end

local MULTI, EXEC = encode "MULTI", encode "EXEC"

local function transaction_of(batch)
  return MULTI .. table.concat(batch._parts) .. EXEC,
    AS_IT_IS .. table.concat(batch._kinds) .. AS_IT_IS
end

local function send_transaction(self, fn)
  local batch = collect(fn, true, false, "multi")
  if batch._count == 0 then
    return future.done(json.array {})
  end
  local bytes, kinds = transaction_of(batch)
  local op = raw_batch(self._link, bytes, kinds, TRANSACTION, false, self._timeout)
  return from_op(op)
end

redis.transaction_of, redis.answer_of = transaction_of, answer_of
redis.ONE, redis.WITH_ERRORS, redis.TRANSACTION = ONE, WITH_ERRORS, TRANSACTION

--- Sends the commands that fn calls together: a future of the list of their results. Others'
--- commands may be carried out between them. The first error is raised, with `results` and `index`,
--- unless the option says to keep errors in the list.
---@param fn fun(p: fasterlua.RedisBatch)
---@param given? { errors: "raise"|"keep" }
---@return fasterlua.Future
function methods:pipeline(fn, given)
  return (send_pipeline(self, fn, given))
end

--- Sends the commands that fn calls as one transaction: a future of the list of their results. On
--- a connection of `watch` it is nil when a watched key has changed: then nothing was done.
---@param fn fun(t: fasterlua.RedisBatch)
---@return fasterlua.Future
function methods:multi(fn)
  return (send_transaction(self, fn))
end

own_methods.pipeline, own_methods.multi = methods.pipeline, methods.multi

-- connections of one's own

local function call_with(link, self, fn, ...)
  local connection = setmetatable({ _link = link, _timeout = self._timeout }, Connection)
  return fn(connection, ...)
end

local function lend(self, fn, ...)
  return with_link(self, call_with, self, fn, ...)
end

local function watch_and_call(connection, keys, fn)
  await(connection:watch(unpack(keys)))
  return fn(connection)
end

local function unwatch(connection, ...)
  await(connection:unwatch())
  return ...
end

local function watched(connection, keys, fn)
  return unwatch(connection, watch_and_call(connection, keys, fn))
end

--- Watches keys on a connection of its own, on which fn reads and then calls `multi`: a future of
--- what fn returns.
---@param keys string|string[]
---@param fn fun(c: fasterlua.RedisConnection): any
---@return fasterlua.Future
function methods:watch(keys, fn)
  keys = type(keys) == "table" and keys or { keys }
  if type(fn) ~= "function" or #keys == 0 then
    error("redis: watch: keys and a function expected", 2)
  end
  local check = encode("WATCH", unpack(keys))
  return check and spawn(lend, self, watched, keys, fn)
end

local function close_after(connection, ...)
  core.close(connection._link)
  return ...
end

local function call_and_close(connection, fn)
  return close_after(connection, fn(connection))
end

--- Calls fn with a connection of its own, closed afterwards: a future of what fn returns.
---@param fn fun(c: fasterlua.RedisConnection): any
---@return fasterlua.Future
function methods:connection(fn)
  if type(fn) ~= "function" then
    error(("redis: connection: a function expected, got %s"):format(type(fn)), 2)
  end
  return spawn(lend, self, call_and_close, fn)
end

-- scripts

---@class fasterlua.RedisScript
---@field source string
---@field sha string
local Script = { __name = "fasterlua.redis_script" }
Script.__index = Script

local function check_list(list, what)
  if list ~= nil and type(list) ~= "table" then
    error(("redis: script: a list of %s expected, got a %s"):format(what, type(list)), 3)
  end
  return list or {}
end

local function run_script(self, words)
  local client = self._client
  local ok, result = pcall(await, client:call("EVALSHA", self.sha, unpack(words)))
  if ok then
    return result
  elseif not (is_error(result) and result.code == "NOSCRIPT") then
    error(result, 0)
  end
  return await(client:call("EVAL", self.source, unpack(words)))
end

--- Runs it: a future of what it returns. Its source is sent only when the server does not know it.
---@param keys? string[]
---@param args? (string|number)[]
---@return fasterlua.Future
function Script:run(keys, args)
  keys, args = check_list(keys, "keys"), check_list(args, "arguments")
  local words = { #keys }
  for _, list in ipairs { keys, args } do
    for index = 1, #list do
      words[#words + 1] = list[index]
    end
  end
  local check = encode("EVALSHA", self.sha, unpack(words))
  return check and spawn(run_script, self, words)
end

function redis.new_script(client, source, level)
  if type(source) ~= "string" then
    error(("redis: script: Lua source expected, got a %s"):format(type(source)), level + 1)
  end
  local fields = { source = source, sha = digest.hex("sha1", source), _client = client }
  return setmetatable(fields, Script)
end

--- A script in Lua for the server to run.
---@param source string
---@return fasterlua.RedisScript
function methods:script(source)
  return (redis.new_script(self, source, 2))
end

-- iteration

local function scan_words(pattern, given)
  local words = {}
  if pattern ~= nil then
    words = { "MATCH", pattern }
  end
  for _, name in ipairs { "count", "type" } do
    if given and given[name] ~= nil then
      words[#words + 1] = name:upper()
      words[#words + 1] = given[name]
    end
  end
  return words
end

local function next_key(scan)
  while scan.place > #scan.keys do
    if scan.cursor == "0" then
      return nil
    end
    local reply = await(scan.client:call("SCAN", scan.cursor or "0", unpack(scan.words)))
    scan.cursor, scan.keys, scan.place = tostring(reply[1]), reply[2], 1
  end
  local key = scan.keys[scan.place]
  scan.place = scan.place + 1
  return key
end

--- For a loop over all keys, asked for in parts: what is added or removed meanwhile may be missing,
--- and a key may come twice.
---@param pattern? string
---@param given? { count: integer?, type: string? }
---@return fun(scan: table): string|nil
---@return table
function methods:scan(pattern, given)
  local words = scan_words(pattern, given)
  local check = encode("SCAN", "0", unpack(words))
  return check and next_key, { client = self, words = words, keys = {}, place = 1 }
end

--- How its connection is: `connected`, `waiting` and `sent` commands, their `bytes`, `connects`.
---@return table
function methods:stats()
  return core.look(self._link)
end

function Client.__tostring(self)
  return ("fasterlua.redis (%s)"):format(options.label(self._options))
end

-- subscriptions

local function hub_of(self)
  local hub = self._hub
  if not hub then
    hub = require("fasterlua.redis.pubsub").new_hub(core, self._target)
    self._hub = hub
  end
  return hub
end

--- Calls fn(message, channel) for each message, one after the other, until the subscription is
--- closed, or the request in which it was made has ended. Without fn: see its `messages`.
---@param channels string|string[]
---@param fn? fun(message: string, channel: string)
---@param given? fasterlua.RedisSubscribeOptions
---@return fasterlua.RedisSubscription
function methods:subscribe(channels, fn, given)
  return (hub_of(self):subscribe("SUBSCRIBE", channels, fn, given, 3))
end

--- The same for patterns of channels: fn(message, channel, pattern).
---@param patterns string|string[]
---@param fn? fun(message: string, channel: string, pattern: string)
---@param given? fasterlua.RedisSubscribeOptions
---@return fasterlua.RedisSubscription
function methods:psubscribe(patterns, fn, given)
  return (hub_of(self):subscribe("PSUBSCRIBE", patterns, fn, given, 3))
end

--- For a loop over the messages of channels.
---@param channels string|string[]
---@param given? fasterlua.RedisSubscribeOptions
---@return fun(subscription: fasterlua.RedisSubscription): string|nil, string
---@return fasterlua.RedisSubscription
function methods:messages(channels, given)
  local subscription = hub_of(self):subscribe("SUBSCRIBE", channels, nil, given, 3)
  return subscription:messages()
end

-- opening

local clients = {} -- by their options: one connection for all that name the same server so

local function target_of(read)
  return core.target {
    host = read.path and "" or read.host, path = read.path, port = read.port,
    label = options.label(read), user = read.user, password = read.password, name = read.name,
    database = read.database, tls = read.tls, ca = read.ca,
    tls_name = read.server_name or read.host, connect_timeout = read.connect_timeout * 1000,
    max_commands = read.max_commands, max_bytes = read.max_bytes, max_reply = read.max_reply,
  }
end

local function new_client(read)
  local target = target_of(read)
  return setmetatable({
    _options = read,
    _target = target,
    _link = core.link(target, false),
    _timeout = read.timeout * 1000,
    _permits = sync.semaphore(read.connections),
    _waiting = 0,
    _idle = {},
    _hub = false,
  }, Client)
end

redis.new_client, redis.methods_of, redis.check_allowed = new_client, methods_of, check_allowed
redis.check_name, redis.encode, redis.slot, redis.patience = check_name, encode, core.slot, patience
redis.raw_batch, redis.with_link, redis.send_blocking = raw_batch, with_link, send_blocking

local function open_read(read)
  local key = options.key(read)
  local client = clients[key]
  if not client then
    if read.cluster then
      client = require("fasterlua.redis.cluster").new(redis, read)
    else
      client = new_client(read)
    end
    clients[key] = client
  end
  return client
end

--- The server at a URL: redis://user:password@host:port/database, rediss:// for TLS, or
--- redis+unix:///path. It is connected to when the first command is sent.
---@param url? string|fasterlua.RedisOptions
---@param given? fasterlua.RedisOptions
---@return fasterlua.Redis
function redis.open(url, given)
  local ok, result = pcall(options.read, url, given)
  if ok then
    ok, result = pcall(open_read, result)
  end
  if not ok then
    error(result, 2)
  end
  return result
end

-- How it gets into another state: by its options.
function Client.__crossing(self)
  return "fasterlua.redis", "client", self._options
end

redis.crossing = Client.__crossing

--- What `__crossing` named.
---@return any
function redis.from_crossing(what, ...)
  if what == "error" then
    local code, message, command, status = ...
    return setmetatable({ kind = "redis", code = code, message = message, command = command,
      status = status or nil }, RedisError)
  end
  return open_read((...))
end

return redis
