-- fl.redis against real servers of Redis, with faults between them.

local cjson = require "cjson"
local databases = require "support.databases"
local support = require "support"

local now, sleep = support.process.now, support.process.sleep
local slowdown = support.slowdown

-- Tests send what is to be run: `r` is the client of the server under test.
local app = [[
local fl = require "fasterlua"
local await, gather = fl.await, fl.gather
local app = fl.app { title = "redis" }
local URL, OPTIONS = %q, %s

local function problem(fn, ...)
  local ok, err = pcall(fn, ...)
  if ok then return "no error" end
  if type(err) ~= "table" then return { message = tostring(err) } end
  return { kind = err.kind, code = err.code, message = err.message, command = err.command,
    status = err.status, index = err.index, results = err.results }
end

kept = {} -- what tests leave for their next request
app:post("/run", function(req)
  local head = "local fl, await, gather, r, url, problem = ... "
  local chunk, err = load(head .. req:text(), "=test", "t", nil)
  if not chunk then error(err) end
  return { value = chunk(fl, await, gather, fl.redis(URL, OPTIONS), URL, problem) }
end)
app:get("/get/{key}", function(req) return await(fl.redis(URL, OPTIONS):get(req.params.key)) end)
return app
]]

local function app_for(url, options)
  return app:format(url, options or "nil")
end

-- The value of the code; raises what the app raises.
local function run(server, code, timeout)
  local response, reason = server:connect():request {
    method = "POST", path = "/run", body = code, timeout = (timeout or 10) * slowdown }
  assert(response, "no answer: " .. tostring(reason))
  if response.status ~= 200 then
    error(response.status .. " " .. response.body .. "\n" .. server:log():sub(-2000), 2)
  end
  return cjson.decode(response.body).value
end

-- A server of our own beside one of Redis, and its proxy.
local function describe_with(title, database_options, client_options, define)
  databases.describe(title, "redis", database_options, function(get_redis)
    local server
    strict_setup(function()
      local redis = get_redis()
      local url = redis.options and redis.options.tls and redis.tcp_url or redis.url
      local options = client_options
      if type(options) == "function" then
        options = options(redis)
      end
      server = support.start { app = app_for(url, options), settings = { threads = 1 } }
    end)
    strict_teardown(function()
      if server then
        server:stop()
      end
    end)
    define(function(code, timeout)
      return run(server, code, timeout)
    end, get_redis, function()
      return server
    end)
  end)
end

describe_with("fl.redis", {}, nil, function(run_code, get_redis, get_server)
  before_each(function()
    get_redis():query("flushall")
  end)

  describe("of replies", function()
    it("gives strings, integers and nil", function()
      assert.same({ "OK", "v", "nil", 6, "number" }, run_code [[
        local set = await(r:set("k", "v"))
        local n = await(r:incrby("n", 6))
        return { set, await(r:get("k")), tostring(await(r:get("none"))), n, type(n) } ]])
    end)

    it("keeps any bytes", function()
      assert.is_true(run_code [[
        local all = {}
        for byte = 0, 255 do all[#all + 1] = string.char(byte) end
        local text = table.concat(all):rep(1000) .. "\r\n$-1\r\n"
        await(r:set(text, text))
        await(r:set("", ""))
        return await(r:get(text)) == text and await(r:get("")) == "" ]])
    end)

    it("keeps integers exact, as numbers to 2^53 and as int64 beyond", function()
      assert.same({ "9007199254740993", "-9223372036854775808", "9223372036854775807LL", "number" },
        run_code [[
        await(r:set("a", 9007199254740993LL))
        await(r:set("b", -9223372036854775807LL - 1))
        await(r:set("c", 9223372036854775806LL))
        await(r:set("d", 2^53 - 1))
        local c = await(r:incr("c"))
        return { await(r:get("a")), await(r:get("b")), tostring(c), type(await(r:incr("d"))) } ]])
    end)

    it("writes numbers so that they read back", function()
      assert.same({ "0.1", "1e+300", "-3", "inf" }, run_code [[
        await(r:rpush("l", 0.1, 1e300, -3, math.huge))
        return await(r:lrange("l", 0, -1)) ]])
    end)

    it("marks lists, also empty ones, and has null in them for nil", function()
      assert.same({ true, true, true, cjson.null }, run_code [[
        await(r:set("k", "v"))
        local list = await(r:mget("k", "none"))
        return { fl.json.is_array(list), #list == 2, fl.json.is_array(await(r:lrange("l", 0, -1))),
          list[2] } ]])
    end)

    it("makes maps of HGETALL and CONFIG GET", function()
      assert.same({ { a = "1", b = "2" }, {}, "yes" }, run_code [[
        await(r:hset("h", "a", 1, "b", 2))
        local config = await(r:call("config", "get", "appendonly"))
        return { await(r:hgetall("h")), await(r:hgetall("none")), config.appendonly } ]])
    end)

    it("makes numbers of scores", function()
      assert.same({ 1.5, { { "a", 1.5 }, { "b", 2 } }, { "a", "b" }, 3.5, { { "b", 2 } } },
        run_code [[
        await(r:zadd("z", 1.5, "a", 2, "b"))
        return { await(r:zscore("z", "a")), await(r:zrange("z", 0, -1, "withscores")),
          await(r:zrange("z", 0, -1)), await(r:zincrby("z", 2, "a")), await(r:zpopmin("z")) } ]])
    end)

    it("has one shape for pairs and maps, whatever the protocol", function()
      assert.same({ { { "f", "v" } }, 1, "g", { { "s", { { "1-1", { "a", "1" } } } } }, 1 },
        run_code [[
        await(r:hset("h", "f", "v"))
        await(r:xadd("s", "1-1", "a", 1))
        await(r:xgroup("CREATE", "s", "g", "$"))
        await(r:geoadd("geo", 1, 2, "here"))
        local here = await(r:geopos("geo", "here"))[1]
        return { await(r:hrandfield("h", 1, "WITHVALUES")), await(r:xinfo("STREAM", "s")).length,
          await(r:xinfo("GROUPS", "s"))[1].name, await(r:xread("STREAMS", "s", 0)),
          math.floor(here[1] + 0.5) } ]])
    end)

    it("nests lists as scripts do", function()
      assert.same({ 1, { "two", { 3 }, cjson.null }, "four" }, run_code [[
        return await(r:eval("return {1, {'two', {3}, false}, 'four'}", 0)) ]])
    end)

    it("raises errors with their code and command", function()
      assert.same({ kind = "redis", code = "WRONGTYPE", command = "LPUSH", message =
        "LPUSH: WRONGTYPE Operation against a key holding the wrong kind of value" }, run_code [[
        await(r:set("k", "v"))
        return problem(await, r:lpush("k", 1)) ]])
      assert.equal("ERR", run_code [[ return problem(await, r:nosuch("k")).code ]])
      assert.equal("MYCODE", run_code [[
        return problem(await, r:eval("return redis.error_reply('MYCODE told')", 0)).code ]])
    end)

    it("takes a large one", function()
      assert.same({ 20000000, 100000 }, run_code [[
        await(r:set("big", ("x"):rep(20000000)))
        local list = {}
        for i = 1, 1000 do list[i] = i end
        for _ = 1, 100 do await(r:rpush("long", unpack(list))) end
        return { #await(r:get("big")), #await(r:lrange("long", 0, -1)) } ]])
    end)

    it("refuses one that is larger than max_reply, and goes on", function()
      local result = run_code [[
        local small = fl.redis(url, { max_reply = "100KB" })
        await(r:set("big", ("x"):rep(200000)))
        return { problem(await, small:get("big")), await(small:get("none")) == nil } ]]
      assert.equal("CONNECTION", result[1].code)
      assert.matches("a reply is larger than max_reply", result[1].message)
      assert.is_true(result[2])
    end)
  end)

  describe("of arguments", function()
    local function message(code)
      return run_code("return problem(function() " .. code .. " end).message")
    end

    it("refuses what is neither string nor number, naming it", function()
      assert.matches("^test:1: redis: argument 2 of SET is a boolean: a string or a number is",
        message [[ r:set("k", true) ]])
      assert.matches("argument 2 of SET is nil$", message [[ r:set("k", nil) ]])
      assert.matches("argument 1 of DEL is a table", message [[ r:del({}) ]])
      assert.matches("argument 1 of GET is a null", message [[ r:get(fl.null) ]])
      assert.matches("argument 1 of GET is nan", message [[ r:get(0/0) ]])
      assert.matches("the name of a command expected, got nil", message [[ r:call() ]])
    end)

    it("refuses what would change the connection of all", function()
      assert.matches("^test:1: redis: MULTI cannot be sent by itself: use r:multi",
        message [[ r:multi_() r:call("MULTI") ]])
      assert.matches("SELECT cannot be sent by itself", message [[ r:select(1) ]])
      assert.matches("SUBSCRIBE cannot be sent by itself", message [[ r:call("subscribe", "x") ]])
      assert.matches("MONITOR cannot be used here", message [[ r:monitor() ]])
      assert.matches("CLIENT cannot be used here", message [[ r:client("reply", "off") ]])
    end)

    it("refuses unknown options and URLs at the call", function()
      assert.matches('^test:1: redis: unknown option "timout": did you mean "timeout"',
        message [[ fl.redis(url, { timout = 1 }) ]])
      assert.matches("redis://, rediss:// or redis%+unix:// expected",
        message [[ fl.redis("http://localhost") ]])
      assert.matches('"/x" is no number of a database', message [[ fl.redis("redis://h/x") ]])
      assert.matches("option \"timeout\" must be seconds", message [[ fl.redis { timeout = -1 } ]])
      assert.is_nil(message([[ fl.redis("redis://:secret@h:x") ]]):find("secret"))
    end)
  end)

  describe("of many tasks", function()
    it("gives each its own reply on one connection, in order", function()
      assert.same({ 256, 1 }, run_code [[
        local before = r:stats().connects
        local right = 0
        local tasks = {}
        for number = 1, 256 do
          tasks[number] = fl.spawn(function()
            for round = 1, 20 do
              local value = number .. ":" .. round .. ("x"):rep(number * 3)
              await(r:set("key" .. number, value))
              if await(r:get("key" .. number)) ~= value then error("another's reply") end
            end
            right = right + 1
          end)
        end
        await(gather(tasks))
        return { right, r:stats().connects } ]])
    end)

    it("sends what one turn asks for at once", function()
      get_redis():query("config", "resetstat")
      local reads = run_code [[
        local futures = {}
        for number = 1, 500 do futures[number] = r:incr("n") end
        local results = await(gather(futures))
        local last = select("#", unpack(results)) == 500 and results[500]
        local info = await(r:info("stats"))
        return { last, tonumber(info:match("total_reads_processed:(%d+)")) } ]]
      assert.equal(500, reads[1])
      assert.is_true(reads[2] < 50, reads[2] .. " reads")
    end)
  end)

  describe("of several commands", function()
    it("pipelines them and gives the list of results", function()
      assert.same({ { "OK", 1, { a = "1" }, cjson.null }, {} }, run_code [[
        await(r:hset("h", "a", 1))
        return { await(r:pipeline(function(p)
          p:set("k", "v") p:incr("n") p:hgetall("h") p:get("none")
        end)), await(r:pipeline(function() end)) } ]])
    end)

    it("has commands in a pipeline that are named like its own fields", function()
      assert.same({ { "k" }, "none" }, run_code [[
        await(r:set("k", "v"))
        return await(r:pipeline(function(p) p:keys("*") p:type("x") end)) ]])
    end)

    it("raises the first error of a pipeline, with all results, or keeps errors", function()
      local result = run_code [[
        await(r:set("k", "v"))
        local function fill(p) p:get("k") p:lpush("k", 1) p:get("k") end
        return { problem(await, r:pipeline(fill)), await(r:pipeline(fill, { errors = "keep" })) } ]]
      assert.equal("WRONGTYPE", result[1].code)
      assert.equal(2, result[1].index)
      assert.equal("LPUSH", result[1].command)
      assert.equal("v", result[1].results[3])
      assert.equal("v", result[2][1])
      assert.equal("WRONGTYPE", result[2][2].code)
    end)

    it("refuses what blocks in a pipeline, and what comes too late", function()
      assert.matches("BLPOP in a pipeline would hold up everybody", run_code [[
        return problem(function() r:pipeline(function(p) p:blpop("l", 1) end) end).message ]])
      assert.matches("has been sent", run_code [[
        local late
        await(r:pipeline(function(p) late = p end))
        return problem(function() late:get("k") end).message ]])
    end)

    it("carries a transaction out as a whole", function()
      local result = run_code [[
        await(r:set("k", "v"))
        return { await(r:multi(function(t) t:incr("n") t:hset("h", "f", 1) t:hgetall("h") end)),
          problem(await, r:multi(function(t) t:incr("n") t:incr("k") t:get("n") end)),
          problem(await, r:multi(function(t) t:incr("n") t:nosuch() end)),
          await(r:get("n")) } ]]
      assert.same({ 1, 1, { f = "1" } }, result[1])
      assert.equal("ERR", result[2].code)
      assert.equal(2, result[2].index)
      assert.equal("2", result[2].results[3])
      assert.equal("NOSUCH", result[3].command)
      assert.equal("2", result[4])
    end)

    it("does not mix transactions of many tasks", function()
      assert.is_true(run_code [[
        local tasks = {}
        for number = 1, 50 do
          tasks[number] = fl.spawn(function()
            local results = await(r:multi(function(t)
              t:set("x", number) t:incr("total") t:get("x")
            end))
            return results[3] == tostring(number)
          end)
        end
        local results = await(fl.all_settled(tasks))
        return await(r:get("total")) == "50" ]])
    end)

    it("tells a transaction whose watched key has changed", function()
      assert.same({ "nil", { "OK" }, "other" }, run_code [[
        await(r:set("k", "v"))
        local conflict = await(r:watch("k", function(c)
          await(r:set("k", "other"))
          return (await(c:multi(function(t) t:set("k", "mine") end)))
        end))
        local value = await(r:get("k"))
        local done = await(r:watch({ "k", "l" }, function(c)
          return (await(c:multi(function(t) t:set("k", await(c:get("k")) .. "!") end)))
        end))
        return { tostring(conflict), done, value } ]])
    end)

    it("fails a transaction whose connection was lost since it watched", function()
      assert.same({ "CONNECTION", "before" }, run_code [[
        await(r:set("k", "before"))
        local code = problem(await, r:watch("k", function(c)
          local id = await(c:call("CLIENT", "ID"))
          await(r:call("CLIENT", "KILL", "ID", id))
          await(fl.sleep(0.05))
          return (await(c:multi(function(t) t:set("k", "after") end)))
        end)).code
        return { code, await(r:get("k")) } ]])
    end)

    it("lends a connection of its own, closed afterwards", function()
      assert.same({ "OK", "mine", true }, run_code [[
        local before = #await(r:call("CLIENT", "LIST"))
        local name = await(r:connection(function(c)
          local set = await(c:call("CLIENT", "SETNAME", "mine"))
          return { set, await(c:call("CLIENT", "GETNAME")) }
        end))
        await(fl.sleep(0.05))
        name[3] = not await(r:call("CLIENT", "LIST")):find("name=mine", 1, true)
        return name ]])
    end)

    it("leaves nothing watched behind", function()
      assert.same({ "OK" }, run_code [[
        await(r:watch("k", function(c) return 1 end))
        problem(await, r:watch("k", function(c) error("no") end))
        await(r:set("k", 1))
        return await(r:watch("other", function(c)
          return (await(c:multi(function(t) t:set("other", 1) end)))
        end)) ]])
    end)

    it("runs scripts by their digest, and by their source once", function()
      get_redis():query("script", "flush")
      assert.same({ { "a", "1", "x" }, { "b", "2", "y" }, 1 }, run_code [[
        local script = r:script("return {KEYS[1], ARGV[1], ARGV[2]}")
        local first = await(script:run({ "a" }, { 1, "x" }))
        local second = await(script:run({ "b" }, { 2, "y" }))
        return { first, second, await(r:call("SCRIPT", "EXISTS", script.sha))[1] } ]])
    end)

    it("iterates over all keys", function()
      assert.equal(1000, run_code [[
        await(r:pipeline(function(p)
          for number = 1, 1000 do p:set("scan:" .. number, 1) end
          p:set("other", 1)
        end))
        local seen, count = {}, 0
        for key in r:scan("scan:*", { count = 50 }) do
          if not seen[key] then seen[key], count = true, count + 1 end
        end
        return count ]])
    end)
  end)

  describe("of commands that block", function()
    it("holds nobody else up", function()
      local result = run_code [[
        local popped = r:blpop("list", 5)
        await(fl.sleep(0.05))
        for number = 1, 10 do await(r:set("k", number)) end
        await(r:rpush("list", "item"))
        return { await(popped), await(r:get("k")), await(r:blpop("list", 0.05)) == nil } ]]
      assert.same({ { "list", "item" }, "10", true }, result)
    end)

    it("waits as long as the command says, and not for its time-out", function()
      assert.is_true(run_code [[
        local quick = fl.redis(url, { timeout = 0.2 })
        local nothing = await(quick:blpop("list", 0.5))
        return nothing == nil ]])
    end)

    it("reads streams, blocking or not", function()
      assert.same({ "one", "nil" }, run_code [[
        local reading = r:xread("BLOCK", 2000, "STREAMS", "s", "$")
        await(fl.sleep(0.1))
        await(r:xadd("s", "*", "field", "one"))
        local streams = await(reading)
        return { streams[1][2][1][2][2], tostring(await(r:xread("STREAMS", "s", "$"))) } ]])
    end)

    it("has few connections for it, whose waiters are served in order and not for ever", function()
      local result = run_code [[
        local few = fl.redis(url, { connections = 2, connection_wait = 0.4 })
        local popped = {}
        for number = 1, 5 do popped[number] = few:blpop("q" .. number, 1) end
        await(fl.sleep(0.05))
        await(r:rpush("q1", "a"))
        await(r:rpush("q3", "c"))
        await(fl.sleep(0.1))
        return { await(popped[1])[2], await(popped[3])[2], problem(await, popped[5]) } ]]
      assert.equal("a", result[1])
      assert.equal("c", result[2])
      assert.equal("QUEUE_FULL", result[3].code)
      assert.equal(503, result[3].status)
    end)

    it("takes nothing off a list once it was cancelled", function()
      assert.same({ "cancelled", 1 }, run_code [[
        local popped = r:blpop("list", 5)
        await(fl.sleep(0.1))
        popped:cancel()
        local kind = problem(await, popped).kind
        await(fl.sleep(0.1))
        await(r:rpush("list", "item"))
        return { kind, await(r:llen("list")) } ]])
    end)
  end)

  describe("of messages", function()
    it("calls the function with each, in order", function()
      assert.same({ "news:1", "news:2", "news:3" }, run_code [[
        local seen = {}
        local subscription = r:subscribe("news", function(message, channel)
          seen[#seen + 1] = channel .. ":" .. message
          await(fl.sleep(0.01))
        end)
        await(subscription:ready())
        for number = 1, 3 do await(r:publish("news", number)) end
        await(fl.sleep(0.3))
        subscription:close()
        await(r:publish("news", 4))
        await(fl.sleep(0.05))
        return seen ]])
    end)

    it("is a loop over several channels and patterns", function()
      assert.same({ "a:1:nil", "b:2:nil", "c.x:3:c.*" }, run_code [[
        local seen = {}
        local subscription = r:subscribe({ "a", "b" })
        local pattern = r:psubscribe("c.*")
        await(gather(subscription:ready(), pattern:ready()))
        await(r:publish("a", 1)) await(r:publish("b", 2)) await(r:publish("c.x", 3))
        await(fl.sleep(0.1))
        subscription:close() pattern:close()
        for _, one in ipairs { subscription, pattern } do
          for message, channel, by in one:messages() do
            seen[#seen + 1] = channel .. ":" .. message .. ":" .. tostring(by)
          end
        end
        return seen ]])
    end)

    it("drops the oldest, or the newest, or closes, when nobody takes them", function()
      assert.same({ { "4", "5" }, 3, { "1", "2" }, 3, { "1", "2" }, 1 }, run_code [[
        local result = {}
        for _, policy in ipairs { "drop_oldest", "drop_newest", "close" } do
          local subscription = r:subscribe("full", nil, { buffer = 2, on_full = policy })
          await(subscription:ready())
          for number = 1, 5 do await(r:publish("full", number)) end
          await(fl.sleep(0.1))
          subscription:close()
          local seen = {}
          for message in subscription:messages() do seen[#seen + 1] = message end
          result[#result + 1] = seen
          result[#result + 1] = subscription:dropped()
        end
        return result ]])
    end)

    it("goes on when a function raises, and says so in the log", function()
      assert.same({ "2" }, run_code [[
        local seen = {}
        local subscription = r:subscribe("raise", function(message)
          if message == "1" then error("the subscriber failed") end
          seen[#seen + 1] = message
        end)
        await(subscription:ready())
        await(r:publish("raise", 1)) await(r:publish("raise", 2))
        await(fl.sleep(0.1))
        return seen ]])
      get_server():wait_log("the subscriber failed")
    end)

    it("ends with the request, and lets its connection go", function()
      run_code [[ await(r:subscribe("ends"):ready()) ]]
      support.eventually(function()
        return get_redis():query("pubsub", "numsub", "ends")[2][1] == "0"
      end)
    end)

    it("subscribes again after the connection was lost", function()
      assert.same({ "before", "after" }, run_code([[
        local seen = {}
        local subscription = r:subscribe("again", function(message) seen[#seen + 1] = message end)
        await(subscription:ready())
        await(r:publish("again", "before"))
        await(fl.sleep(0.1))
        await(r:call("CLIENT", "KILL", "TYPE", "pubsub"))
        local count = 0
        repeat
          await(fl.sleep(0.02))
          count = count + 1
          local received = await(r:publish("again", "after"))
        until received == 1 or count > 200
        await(fl.sleep(0.1))
        subscription:close()
        return seen ]]))
    end)

    it("may be closed and opened again at once", function()
      assert.equal(20, run_code [[
        local count = 0
        for round = 1, 20 do
          local first = r:subscribe("flip", function() error("closed") end)
          if round % 2 == 0 then await(first:ready()) end
          first:close()
          local second = r:subscribe("flip", function() count = count + 1 end)
          await(second:ready())
          await(r:publish("flip", round))
          for _ = 1, 100 do
            if count == round then break end
            await(fl.sleep(0.01))
          end
          second:close()
        end
        return count ]])
    end)

    it("takes many without losing one", function()
      assert.equal(20000, run_code [[
        local count = 0
        local subscription = r:subscribe("many", function() count = count + 1 end,
          { buffer = 100000 })
        await(subscription:ready())
        for _ = 1, 20 do
          await(r:pipeline(function(p) for n = 1, 1000 do p:publish("many", n) end end))
        end
        for _ = 1, 100 do
          if count == 20000 then break end
          await(fl.sleep(0.05))
        end
        return count ]])
    end)
  end)

  describe("of cancelling", function()
    it("does not send what was cancelled before", function()
      assert.same({ "nil", "1" }, run_code [[
        local cancelled = r:set("cancelled", 1)
        local kept = r:set("kept", 1)
        cancelled:cancel()
        await(kept)
        return { tostring(await(r:get("cancelled"))), await(r:get("kept")) } ]])
    end)

    it("drops the reply of what was cancelled after", function()
      assert.same({ "b", 0, 0 }, run_code [[
        await(r:set("a", "a")) await(r:set("b", "b"))
        local slow = r:eval("local x = 0 for i = 1, 1e7 do x = x + i end return 'slow'", 0)
        local other = r:get("b")
        await(fl.sleep(0.01))
        slow:cancel()
        local value = await(other)
        local stats = r:stats()
        return { value, stats.sent, stats.waiting } ]])
    end)

    it("is harmless when it comes at any time", function()
      assert.is_true(run_code [[
        for round = 1, 200 do
          local futures = {}
          for number = 1, 20 do futures[number] = r:echo(number) end
          for number = 1, 20, 3 do
            if round % 2 == 0 then await(fl.sleep(0)) end
            futures[number]:cancel()
          end
          for number = 1, 20 do
            if number % 3 ~= 1 and await(futures[number]) ~= tostring(number) then
              error("a wrong reply")
            end
          end
        end
        return true ]])
    end)
  end)

  describe("of bounds", function()
    it("refuses more commands than may wait", function()
      local result = run_code [[
        local few = fl.redis(url, { max_commands = 10 })
        local futures = {}
        for number = 1, 10 do futures[number] = few:incr("n") end
        local refused = problem(await, few:incr("n"))
        await(gather(futures))
        return { refused, await(few:incr("n")) } ]]
      assert.equal("QUEUE_FULL", result[1].code)
      assert.equal(503, result[1].status)
      assert.matches("max_commands", result[1].message)
      assert.equal(11, result[2])
    end)

    it("refuses more bytes than may wait", function()
      assert.matches("max_bytes", run_code [[
        local few = fl.redis(url, { max_bytes = "10KB" })
        return problem(await, few:set("k", ("x"):rep(20000))).message ]])
    end)
  end)

  it("tells what is slow after its time-out, and nobody else gets that reply", function()
    local result = run_code [[
      local quick = fl.redis(url, { timeout = 0.3 })
      await(quick:mset("k", "v", "slow", "too late"))
      await(quick:client("PAUSE", 700))
      local failed = problem(await, quick:get("slow"))
      await(fl.sleep(0.6))
      return { failed, await(quick:get("k")) } ]]
    assert.equal("TIMEOUT", result[1].code)
    assert.equal(503, result[1].status)
    assert.equal("GET", result[1].command)
    assert.equal("v", result[2])
  end)

  it("is used in jobs of pools, by handles that cross", function()
    assert.same({ "from the job", "redis", "WRONGTYPE" }, run_code [[
      await(r:set("k", "v"))
      local value = await(fl.run_in_state(function()
        local fl = require "fasterlua"
        fl.await(r:set("job", "from the job"))
        return fl.await(r:get("job"))
      end))
      local err = problem(await, fl.run_in_state(function()
        require("fasterlua").await(r:lpush("k", 1))
      end))
      return { value, err.kind, err.code } ]])
  end)

  it("is one client for all that ask for the same", function()
    assert.same({ true, false }, run_code [[
      return { rawequal(fl.redis(url), fl.redis(url)),
        rawequal(fl.redis(url), fl.redis(url, { timeout = 1 })) } ]])
  end)

  it("has the database of its URL", function()
    assert.same({ "three", "nil" }, run_code [[
      local three = fl.redis(url .. "?db=3")
      await(three:set("which", "three"))
      return { await(three:get("which")), tostring(await(r:get("which"))) } ]])
  end)

  it("closes its connections when the server ends", function()
    local server = support.start { app = app_for(get_redis().url), settings = { threads = 1 } }
    local before = get_redis():connections()
    run(server, [[
      kept[1] = r:subscribe("kept")
      fl.detach(function() await(r:blpop("nothing", 0)) end)
      await(r:set("k", "v"))
      await(fl.sleep(0.1)) ]])
    assert.is_true(get_redis():connections() > before)
    server:stop()
    support.eventually(function() return get_redis():connections() == before end)
  end)
end)

it("lets apps load where there is no server", function()
  local status, output = support.command { "routes", support.app(app_for("redis://localhost")) }
  assert.equal(0, status.code, output)
  assert.matches("/run", output)
end)

describe_with("fl.redis with a password", { password = "s3cr:t@" }, nil,
  function(run_code, get_redis)
  it("authenticates", function()
    assert.equal("v", run_code [[ await(r:set("k", "v")) return await(r:get("k")) ]])
  end)

  it("says at once when the password is wrong, or there is none", function()
    local result = run_code [[
      local path = url:match("@(.*)$")
      return { problem(await, fl.redis("redis+unix://:wrong@" .. path):get("k")),
        problem(await, fl.redis("redis+unix://" .. path):get("k")) } ]]
    assert.equal("WRONGPASS", result[1].code)
    assert.equal("NOAUTH", result[2].code)
  end)

  it("authenticates users of an access list", function()
    get_redis():query("acl", "setuser", "alice", "on", ">wonder", "+get", "~a*")
    local result = run_code [[
      local path = url:match("@(.*)$")
      local alice = fl.redis("redis+unix://alice:wonder@" .. path)
      return { tostring(await(alice:get("a"))), problem(await, alice:set("a", 1)).code } ]]
    assert.same({ "nil", "NOPERM" }, result)
  end)

  it("tells who subscribes and may not", function()
    assert.equal("NOPERM", run_code [[
      local path = url:match("@(.*)$")
      local alice = fl.redis("redis+unix://alice:wonder@" .. path)
      return problem(await, alice:subscribe("x"):ready()).code ]])
  end)
end)

describe_with("fl.redis over TLS", { tls = true }, function(redis)
  return ("{ ca = %q }"):format(redis.ca)
end, function(run_code, get_redis)
  it("checks the certificate and works as without", function()
    assert.same({ "v", 3000000 }, run_code([[
      await(r:set("k", "v"))
      await(r:set("big", ("x"):rep(3000000)))
      local tasks = {}
      for number = 1, 100 do
        tasks[number] = fl.spawn(function()
          local value = number .. ("y"):rep(5000)
          await(r:set("tls" .. number, value))
          if await(r:get("tls" .. number)) ~= value then error("another's reply") end
        end)
      end
      await(gather(tasks))
      return { await(r:get("k")), #await(r:get("big")) } ]]))
  end)

  it("subscribes", function()
    assert.same({ "hello" }, run_code [[
      local seen = {}
      local subscription = r:subscribe("tls", function(message) seen[#seen + 1] = message end)
      await(subscription:ready())
      await(r:publish("tls", "hello"))
      await(fl.sleep(0.1))
      return seen ]])
  end)

  it("refuses a certificate that it does not know", function()
    local err = run_code [[ return problem(await, fl.redis(url):get("k")) ]]
    assert.equal("CONNECTION", err.code)
    assert.matches("TLS: the certificate: ", err.message)
  end)

  it("refuses a certificate of another host", function()
    local err = run_code(([[ return problem(await, fl.redis(url, { ca = %q,
      server_name = "another.example" }):get("k")) ]]):format(get_redis().ca))
    assert.matches("[Hh]ostname mismatch", err.message)
  end)

  it("says what is wrong with a file of certificates", function()
    assert.matches("cannot use /no/such/file for TLS", run_code [[
      return problem(fl.redis, url, { ca = "/no/such/file" }).message ]])
  end)
end)

describe_with("fl.redis when its server is away", {}, nil, function(run_code, get_redis, get_server)
  it("waits for a connection at most as long as connect_timeout says", function()
    local began = now()
    local err = run_code [[
      return problem(await, fl.redis("redis://127.0.0.1:1", { connect_timeout = 0.5 }):get("k")) ]]
    local took = now() - began
    assert.equal("CONNECTION", err.code)
    assert.equal(503, err.status)
    assert.matches("cannot connect to 127.0.0.1:1: connection refused", err.message)
    assert.is_true(took >= 0.45 and took < 2 * slowdown, took)
  end)

  it("says when there is no such host", function()
    local err = run_code [[
      return problem(await, fl.redis("redis://no-such-host.invalid",
        { connect_timeout = 3 }):get("k")) ]]
    assert.equal("CONNECTION", err.code)
    assert.matches("cannot connect to no%-such%-host.invalid:6379: ", err.message)
  end)

  it("connects by a host's name", function()
    local server = databases.redis { tcp = true }
    local value = run_code(([[
      local named = fl.redis(%q)
      await(named:set("k", "by name"))
      return await(named:get("k")) ]]):format(server.tcp_url:gsub("127%.0%.0%.1", "localhost")))
    server:stop()
    assert.equal("by name", value)
  end)

  it("lets commands wait while it restarts", function()
    run_code [[ await(r:set("k", "v")) ]]
    get_redis():kill()
    local client = get_server():connect()
    client:send("POST /run HTTP/1.1\r\nHost: a\r\nContent-Length: 54\r\n\r\n"
      .. ("%-54s"):format('return await(fl.redis(url, {connect_timeout=9}):get("k"))'):sub(1, 54))
    client:close()
    get_redis():start()
    assert.equal("v", run_code [[ return await(r:get("k")) ]])
  end)

  it("logs the loss of a connection, that there is none, and that there is one again", function()
    local from = #get_server():log()
    local function is_logged(text)
      return support.process.poll(function()
        return get_server():log():sub(from + 1):match(text)
      end, 5 * slowdown)
    end
    run_code [[ await(r:set("k", "v")) ]]
    get_redis():kill()
    assert.is_truthy(is_logged "redis [^ ]+: connection lost: ")
    run_code [[ problem(await, fl.redis(url, { connect_timeout = 0.2 }):get("k")) ]]
    assert.is_truthy(is_logged "redis [^ ]+: cannot connect: ")
    get_redis():start()
    run_code [[ await(fl.redis(url, { connect_timeout = 9 }):get("k")) ]]
    run_code [[ await(fl.redis(url, { connect_timeout = 0.2 }):get("k")) ]]
    assert.is_truthy(is_logged "redis [^ ]+: connected again")
  end)

  it("neither hangs nor gives a wrong reply while it is restarted under load", function()
    local client = get_server():connect()
    local code = [[
      local patient = fl.redis(url, { connect_timeout = 10 })
      local counts = { right = 0, lost = 0 }
      local till = require("fasterlua.core.task") and os.time() + 3
      local tasks = {}
      for number = 1, 64 do
        tasks[number] = fl.spawn(function()
          local key = "load" .. number
          while os.time() < till do
            local ok, err = pcall(function()
              local value = number .. ":" .. math.random()
              await(patient:set(key, value))
              local got = await(patient:get(key))
              if got ~= value and got ~= nil then
                error("a wrong reply: " .. tostring(got) .. " for " .. value)
              end
              counts.right = counts.right + 1
            end)
            if not ok then
              if type(err) ~= "table" then error(err, 0) end
              if err.code ~= "CONNECTION" and err.code ~= "LOADING" then error(err, 0) end
              counts.lost = counts.lost + 1
            end
          end
        end)
      end
      await(gather(tasks))
      return counts ]]
    client:send(("POST /run HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%s"):format(#code,
      code))
    for _ = 1, 3 do
      sleep(0.6)
      get_redis():restart { immediate = true }
    end
    local response = assert(client:response { timeout = 30 * slowdown })
    assert.equal(200, response.status, response.body)
    local counts = cjson.decode(response.body).value
    assert.is_true(counts.right > 500, response.body)
  end)

  it("fails what changes something, and repeats what only reads", function()
    local proxy = databases.proxy { target = get_redis() }
    local result = run_code(([[
      local through = fl.redis(%q, { timeout = 3 })
      await(through:set("k", "v"))
      kept.through = through
      return "connected" ]]):format(proxy.url))
    assert.equal("connected", result)
    proxy:cut_after(0)
    local err = run_code [[ return problem(await, kept.through:incr("cut")) ]]
    assert.equal("CONNECTION", err.code)
    assert.equal(503, err.status)
    assert.matches("was lost while it was under way", err.message)
    assert.equal("v", run_code [[ return await(kept.through:get("k")) ]])
    proxy:cut_after(0)
    assert.equal("v", run_code [[ return await(kept.through:get("k")) ]])
    proxy:stop()
  end)

  it("recovers when a reply is cut in its middle", function()
    local proxy = databases.proxy { target = get_redis() }
    run_code(([[
      kept.through = fl.redis(%q, { timeout = 3 })
      await(kept.through:set("long", ("abc"):rep(100000))) ]]):format(proxy.url))
    for _, bytes in ipairs { 1, 5, 1000, 150000 } do
      proxy:cut_after(bytes)
      assert.same({ 300000, "CONNECTION" }, run_code [[
        local read = kept.through:get("long")
        local changed = kept.through:append("other", ("x"):rep(10))
        return { #await(read), problem(await, changed).code } ]])
    end
    proxy:stop()
  end)

  it("closes a connection on which it does not understand what comes", function()
    local proxy = databases.proxy { target = get_redis() }
    run_code(([[
      kept.through = fl.redis(%q, { timeout = 3 })
      await(kept.through:set("k", "v")) ]]):format(proxy.url))
    proxy:corrupt(0)
    local err = run_code [[ return problem(await, kept.through:incr("n")) ]]
    assert.equal("CONNECTION", err.code)
    assert.matches("its answer is not understood: ", err.message)
    assert.equal("v", run_code [[ return await(kept.through:get("k")) ]])
    proxy:stop()
  end)

  it("tells who waits for one that is stalled, and makes a new connection", function()
    local proxy = databases.proxy { target = get_redis() }
    run_code(([[
      kept.through = fl.redis(%q, { timeout = 0.5 })
      await(kept.through:set("k", "v")) ]]):format(proxy.url))
    proxy:stall()
    local began = now()
    local err = run_code [[ return problem(await, kept.through:incr("n")) ]]
    assert.equal("TIMEOUT", err.code)
    assert.is_true(now() - began < 3 * slowdown)
    proxy:resume()
    assert.equal("v", run_code [[
      local ok, value
      for _ = 1, 20 do
        ok, value = pcall(await, kept.through:get("k"))
        if ok then break end
      end
      return value ]])
    proxy:stop()
  end)

  it("resets are no different", function()
    local proxy = databases.proxy { target = get_redis() }
    run_code(([[
      kept.through = fl.redis(%q, { timeout = 3 })
      await(kept.through:set("k", "v")) ]]):format(proxy.url))
    for _ = 1, 5 do
      proxy:cut { reset = true }
      assert.equal("v", run_code [[ return await(kept.through:get("k")) ]])
    end
    proxy:stop()
  end)
end)

describe_with("fl.redis of a cluster", { cluster = true }, "{ cluster = true }",
  function(run_code, get_redis)
  it("sends each command to the server that has its key", function()
    assert.equal(200, run_code [[
      local right = 0
      for number = 1, 200 do
        await(r:set("key" .. number, number))
        if await(r:get("key" .. number)) == tostring(number) then right = right + 1 end
      end
      return right ]])
  end)

  it("knows where the keys of commands are, and tags", function()
    assert.same({ { "1", "2" }, { "x" }, 1, { 2, "2" }, { { "{t}l", { "i" } } } }, run_code [[
      await(r:mset("{tag}:a", 1, "{tag}:b", 2))
      await(r:rpush("{t}l", "i"))
      return { await(r:mget("{tag}:a", "{tag}:b")),
        await(r:script("return {KEYS[1]}"):run({ "x" })),
        await(r:call("OBJECT", "REFCOUNT", "{t}l")),
        await(r:multi(function(t) t:incr("{tag}:a") t:get("{tag}:b") end)),
        { await(r:lmpop(1, "{t}l", "LEFT")) } } ]])
  end)

  it("pipelines over all servers", function()
    assert.same({ "OK", "OK", "OK", "1", "2", "3" }, run_code [[
      return await(r:pipeline(function(p)
        for number = 1, 3 do p:set("pipe" .. number, number) end
        for number = 1, 3 do p:get("pipe" .. number) end
      end)) ]])
  end)

  it("iterates over the keys of all servers", function()
    assert.equal(100, run_code [[
      for number = 1, 100 do await(r:set("scanned" .. number, 1)) end
      local count = 0
      for _ in r:scan("scanned*") do count = count + 1 end
      return count ]])
  end)

  it("blocks on the server that has the key", function()
    assert.same({ "blocked", "item" }, run_code [[
      local popped = r:blpop("blocked", 5)
      await(fl.sleep(0.05))
      await(r:rpush("blocked", "item"))
      return await(popped) ]])
  end)

  it("follows a slot that has moved, and asks for one that is moving", function()
    local cluster = get_redis()
    local code = [[
      await(r:set("{moving}a", "v"))
      return await(r:call("CLUSTER", "KEYSLOT", "{moving}a")) ]]
    local slot = run_code(code)
    local ids, from = {}, nil
    for index, node in ipairs(cluster.nodes) do
      ids[index] = node:query("cluster", "myid")[1][1]
      if pcall(node.query, node, "get", "{moving}a")
        and (node:query("cluster", "countkeysinslot", slot)[1][1] ~= "0") then
        from = index
      end
    end
    local to = from % #cluster.nodes + 1
    cluster.nodes[to]:query("cluster", "setslot", slot, "importing", ids[from])
    cluster.nodes[from]:query("cluster", "setslot", slot, "migrating", ids[to])
    cluster.nodes[from]:query("migrate", "127.0.0.1", cluster.nodes[to].port, "{moving}a", 0, 5000)
    assert.equal("v", run_code [[ return await(r:get("{moving}a")) ]])
    for _, node in ipairs(cluster.nodes) do
      node:query("cluster", "setslot", slot, "node", ids[to])
    end
    assert.equal("v", run_code [[ return await(r:get("{moving}a")) ]])
    assert.equal("v", run_code [[ return await(r:get("{moving}a")) ]])
  end)

  it("gives up after so many redirects", function()
    local err = run_code [[
      local none = fl.redis(url, { cluster = true, max_redirects = 0 })
      local errors = {}
      for number = 1, 5 do await(none:set("redirect" .. number, 1)) end
      return problem(await, none:mset("a", 1, "b", 2)) ]]
    assert.equal("CROSSSLOT", err.code)
  end)
end)

local stuck_app = [[
local fl = require "fasterlua"
local app = fl.app { title = "stuck" }
local r = fl.redis(%q)
app:get("/", function() return "a" end)
app:get("/use", function() return fl.await(r:incr("stuck")) end)
app:get("/loop", function()
  r:set("never", "sent")
  local till = os.clock() + 1.5
  while os.clock() < till do end
  return "late"
end)
for _ = 1, 100 do local t = os.clock() + 0.00001 while os.clock() < t do end end
return app
]]

databases.describe("fl.redis when its thread is evacuated", "redis", {}, function(get_redis)
  it("goes on in the states of other apps, and lets go what the stuck one had", function()
    local milliseconds = slowdown > 1 and 10 or 200
    local server = support.start {
      settings = { threads = 1, stuck_handler = milliseconds .. "ms", blocked_handler = "10s",
        exile = 0 },
      env = { TSAN_OPTIONS = "report_thread_leaks=0" },
      app = { ["a/app.lua"] = stuck_app:format(get_redis().url),
        ["b/app.lua"] = app_for(get_redis().url) } }
    assert.equal("1", server:get("/a/use").body)
    local before = get_redis():connections()
    local function post(code)
      local client = server:connect()
      client:send(("POST /b/run HTTP/1.1\r\nHost: b\r\nContent-Length: %d\r\n\r\n%s"):format(#code,
        code))
      return client
    end
    local blocked = post [[ return await(r:blpop("evacuated", 20))[2] ]]
    local subscribed = post [[
      local subscription = r:subscribe("evacuated")
      await(subscription:ready())
      for message in subscription:messages() do return message end ]]
    local slow = post [[
      local futures = {}
      for number = 1, 200 do
        futures[number] = fl.spawn(function()
          for round = 1, 20 do
            if await(r:echo(number .. "." .. round)) ~= number .. "." .. round then
              error("a wrong reply")
            end
            await(fl.sleep(0.05))
          end
          return number
        end)
      end
      return #{ await(gather(futures)) } ]]
    sleep(0.3)
    local stuck = server:connect()
    stuck:send("GET /a/loop HTTP/1.1\r\nHost: a\r\n\r\n")
    server:wait_log("evacuated web thread", 10 * slowdown)
    assert.equal(503, stuck:response({ timeout = 10 * slowdown }).status)
    get_redis():query("rpush", "evacuated", "item")
    get_redis():query("publish", "evacuated", "message")
    assert.equal("item", cjson.decode(blocked:response({ timeout = 10 * slowdown }).body).value)
    assert.equal("message",
      cjson.decode(subscribed:response({ timeout = 10 * slowdown }).body).value)
    assert.equal(200, slow:response({ timeout = 30 * slowdown }).status)
    assert.equal("2", server:get("/a/use").body) -- in a new state
    assert.same({}, get_redis():query("get", "never")[1][1] == "" and {} or { "sent" })
    assert.is_true(get_redis():connections() >= before)
    server:stop()
    support.eventually(function() return get_redis():connections() == 0 end)
  end)
end)
