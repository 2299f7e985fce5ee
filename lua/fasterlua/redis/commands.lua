-- What the client has to know of Redis' commands: which ones change nothing, what becomes of their
-- replies, which block, and where their keys are.

local commands = {}

local function set(text)
  local names = {}
  for name in text:gmatch "%S+" do
    names[name] = true
  end
  return names
end

--- Those that may be sent once more when their connection was lost: they change nothing.
commands.read_only = set [[
  GET MGET STRLEN EXISTS TTL PTTL EXPIRETIME PEXPIRETIME TYPE GETRANGE SUBSTR LCS
  HGET HMGET HGETALL HKEYS HVALS HLEN HEXISTS HSTRLEN HRANDFIELD
  LRANGE LINDEX LLEN LPOS SMEMBERS SCARD SISMEMBER SMISMEMBER SRANDMEMBER SUNION SINTER SDIFF
  SINTERCARD ZRANGE ZRANGEBYSCORE ZREVRANGE ZREVRANGEBYSCORE ZRANGEBYLEX ZREVRANGEBYLEX ZSCORE
  ZMSCORE ZCARD ZCOUNT ZLEXCOUNT ZRANK ZREVRANK ZRANDMEMBER ZDIFF ZINTER ZUNION ZINTERCARD
  XLEN XRANGE XREVRANGE XINFO XPENDING GETBIT BITCOUNT BITPOS BITFIELD_RO GEODIST GEOHASH GEOPOS
  GEOSEARCH GEORADIUS_RO GEORADIUSBYMEMBER_RO SCAN SSCAN HSCAN ZSCAN KEYS RANDOMKEY DBSIZE PING
  ECHO TIME OBJECT DUMP INFO SORT_RO EVAL_RO EVALSHA_RO FCALL_RO]]

-- As fl_redis_kind in core/drivers/redis/reply.h.
local AS_IT_IS, MAP, NUMBER, SCORES, PAIRS, MAPS = 0, 1, 2, 3, 4, 5
commands.AS_IT_IS = AS_IT_IS

local kinds = {
  HGETALL = MAP, ZSCORE = NUMBER, ZINCRBY = NUMBER, ZMSCORE = NUMBER, ZPOPMIN = SCORES,
  ZPOPMAX = SCORES, XREAD = PAIRS, XREADGROUP = PAIRS, GEOPOS = NUMBER,
}

local with_scores = set [[
  ZRANGE ZREVRANGE ZRANGEBYSCORE ZREVRANGEBYSCORE ZRANDMEMBER ZDIFF ZINTER ZUNION]]

-- Whether one of the arguments behind the first is this word.
local function has_word(wanted, ...)
  for index = select("#", ...), 2, -1 do
    local word = select(index, ...)
    if type(word) == "string" and #word == #wanted and word:upper() == wanted then
      return true
    end
  end
  return false
end

-- By the first argument of these commands.
local by_word = {
  CONFIG = { GET = MAP },
  MEMORY = { STATS = MAP },
  XINFO = { STREAM = MAP, GROUPS = MAPS, CONSUMERS = MAPS },
}

--- What becomes of the reply; a function of the arguments where it depends on them.
---@param name string in capitals
---@return integer|fun(...): integer
function commands.kind(name)
  local words = by_word[name]
  if with_scores[name] then
    return function(...)
      return has_word("WITHSCORES", ...) and SCORES or AS_IT_IS
    end
  elseif name == "HRANDFIELD" then
    return function(...)
      return has_word("WITHVALUES", ...) and PAIRS or AS_IT_IS
    end
  elseif words then
    return function(word)
      return type(word) == "string" and words[word:upper()] or AS_IT_IS
    end
  end
  return kinds[name] or AS_IT_IS
end

-- What cannot be sent on a connection that others use too, and what to use instead.
local elsewhere = {
  MULTI = "r:multi(function(t) … end)", EXEC = "r:multi", DISCARD = "r:multi",
  WATCH = "r:watch(keys, function(c) … end)", UNWATCH = "r:watch",
  SUBSCRIBE = "r:subscribe(channel, fn)", PSUBSCRIBE = "r:psubscribe(pattern, fn)",
  SSUBSCRIBE = "r:subscribe(channel, fn)", UNSUBSCRIBE = "subscription:close()",
  PUNSUBSCRIBE = "subscription:close()", SUNSUBSCRIBE = "subscription:close()",
  SELECT = "the database in the URL", AUTH = "the password in the URL",
  HELLO = "the password in the URL",
}
local refused = set "MONITOR SYNC PSYNC QUIT RESET"

--- Why a command cannot be sent, nil when it can.
---@param name string in capitals
---@param word any its first argument
---@return string|nil
function commands.refusal(name, word)
  if elsewhere[name] then
    return ("redis: %s cannot be sent by itself: use %s"):format(name, elsewhere[name])
  elseif refused[name] or name == "CLIENT" and type(word) == "string"
    and word:upper() == "REPLY" then
    return ("redis: %s cannot be used here"):format(name)
  end
end

--- Whether `commands.refusal` must be asked.
---@param name string
---@return boolean
function commands.may_be_refused(name)
  return elsewhere[name] ~= nil or refused[name] ~= nil or name == "CLIENT"
end

local function last_seconds(...)
  return tonumber((select(select("#", ...), ...)))
end

local function first_seconds(seconds)
  return tonumber(seconds)
end

local function last_milliseconds(...)
  local milliseconds = last_seconds(...)
  return milliseconds and milliseconds / 1000
end

-- nil: this one does not block.
local function block_option(...)
  for index = 1, select("#", ...) - 1 do
    local word, value = select(index, ...)
    if type(word) == "string" and #word == 5 and word:upper() == "BLOCK" then
      return (tonumber(value) or 0) / 1000
    end
  end
end

--- Commands that block their connection: how many seconds at most by their arguments, 0 for ever,
--- nil when they do not block.
---@type table<string, fun(...): number|nil>
commands.blocking = {
  BLPOP = last_seconds, BRPOP = last_seconds, BRPOPLPUSH = last_seconds, BLMOVE = last_seconds,
  BZPOPMIN = last_seconds, BZPOPMAX = last_seconds, BLMPOP = first_seconds,
  BZMPOP = first_seconds, WAIT = last_milliseconds, WAITAOF = last_milliseconds,
  XREAD = block_option, XREADGROUP = block_option,
}

-- Where the first key is, for clusters: the argument's number, or a function of the arguments.

local function behind_count(place)
  return function(...)
    return tonumber((select(place, ...))) ~= 0 and select(place + 1, ...) or nil
  end
end

local function behind_streams(...)
  for index = 1, select("#", ...) - 1 do
    local word, key = select(index, ...)
    if type(word) == "string" and word:upper() == "STREAMS" then
      return key
    end
  end
end

local second_key = function(_, key)
  return key
end

local no_key = function() end

local keys = {
  OBJECT = second_key, XINFO = second_key, XGROUP = second_key, MEMORY = second_key,
  BITOP = second_key, XREAD = behind_streams, XREADGROUP = behind_streams,
}
for _, name in ipairs { "EVAL", "EVALSHA", "EVAL_RO", "EVALSHA_RO", "FCALL", "FCALL_RO", "BLMPOP",
  "BZMPOP" } do
  keys[name] = behind_count(2)
end
for _, name in ipairs { "LMPOP", "ZMPOP", "SINTERCARD", "ZINTER", "ZUNION", "ZDIFF",
  "ZINTERCARD" } do
  keys[name] = behind_count(1)
end
for name in pairs(set [[PING ECHO INFO TIME DBSIZE CONFIG CLIENT COMMAND CLUSTER SCRIPT PUBLISH
  RANDOMKEY KEYS FLUSHALL FLUSHDB WAIT WAITAOF FUNCTION LATENCY SLOWLOG ACL MODULE SCAN LASTSAVE
  SAVE BGSAVE BGREWRITEAOF ROLE SWAPDB PUBSUB]]) do
  keys[name] = no_key
end

--- The first key of a command, nil when it has none.
---@param name string in capitals
---@param ... any its arguments
---@return any
function commands.key(name, ...)
  local find = keys[name]
  if find then
    return (find(...))
  end
  return (...)
end

return commands
