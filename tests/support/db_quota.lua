-- db_quota: what becomes of the states of a server process that together want more connections to a
-- database than `db_connections` allows. db_faults runs it for both servers.

local busted = require "busted"
local evacuation = require "support.evacuation"
local load = require "support.load"
local report = require "support.report"
local support = require "support"

local describe, it, assert = busted.describe, busted.it, require "luassert"
local now, sleep = support.process.now, support.process.sleep
local slowdown, eventually = support.slowdown, support.eventually

local THREADS, JOBS = 4, 2 -- states of either kind
local TAKEN = "fasterlua_database_connections_open"
local AWAITED = "fasterlua_database_connections_awaited"

-- Each state says once that it is there, and counts its answers.
local app = [==[
local fl = require "fasterlua"
local await = fl.await
local app = fl.app { title = "quota" }
local db, seen = fl.db(os.getenv "TEST_DATABASE_URL"), fl.shared "seen"
local other = fl.db(os.getenv "TEST_DATABASE_URL", { pool = 3 })
local sleep_300 = os.getenv "TEST_SLEEP_300"

local function note(kind)
  local own = package.loaded["quota own"] or { name = kind .. fl.shared("seen"):incr "states" }
  package.loaded["quota own"] = own
  fl.shared("seen"):incr(own.name)
end

app:get("/number/{n:int}", function(req)
  local value = await(db:value("select ? + 0", req.params.n))
  note "web "
  return ("%d"):format(value)
end)
app:get("/transaction/{n:int}", function(req)
  local value = await(db:transaction(function(tx)
    return await(tx:value("select ? + 0", req.params.n))
  end))
  return ("%d"):format(value)
end)
app:get("/other/{n:int}", function(req)
  return ("%d"):format(await(other:value("select ? + 0", req.params.n)))
end)
app:get("/slow/{n:int}", function(req)
  await(other:value(sleep_300))
  return ("%d"):format(req.params.n)
end)
app:get("/job/{n:int}", function(req)
  local value = await(fl.run_in_state(function(handle, n)
    local result = require "fasterlua".await(handle:value("select ? + 0", n))
    note "job "
    return result
  end, db, req.params.n))
  return ("%d"):format(value)
end)
app:get("/hold", function()
  await(db:transaction(function(tx)
    await(tx:value "select 1")
    seen:set("held", true)
    while seen:get "held" do await(fl.sleep(0.01)) end
    await(tx:value "select 2")
  end))
  return "let go"
end)
app:get("/let-go", function() seen:delete "held" return "done" end)
app:get("/is-held", function() return seen:get "held" and "yes" or "no" end)
app:get("/stats", function() return db:stats() end)
app:get("/seen", function()
  local counts = {}
  for _, key in ipairs(seen:keys()) do counts[key] = seen:get(key) end
  return counts
end)
return app
]==]

local M = {}

---@param d support.db_faults
---@param get_database fun(): support.database
---@param tools { judge: function, expect_only: function, stuck_app: string }
function M.describe(d, get_database, tools)
  local judge, expect_only = tools.judge, tools.expect_only

  -- Connections of which each thread has some, as they are taken in turn.
  local function connect(server, count)
    local clients = {}
    for index = 1, count do clients[index] = server:connect() end
    return clients
  end

  local function send(client, path)
    assert(client:send(("GET %s HTTP/1.1\r\nHost: a\r\n\r\n"):format(path)))
  end

  local function begin_load(server, paths, clients)
    local list = {}
    for index, path in ipairs(paths) do
      list[index] = load.start(server, { path = path, clients = clients or 8 })
    end
    return list
  end

  -- States, threads and as many connections as may be are there before the tests begin.
  local function warm_up(server, connections)
    local list = begin_load(server, { "/number/%d", "/other/%d", "/job/%d" }, 16)
    sleep(0.5)
    for _, each in ipairs(list) do each:stop() end
    eventually(function()
      local clients = connect(server, 2 * THREADS)
      for index, client in ipairs(clients) do send(client, "/slow/" .. index) end
      for _, client in ipairs(clients) do client:response { timeout = 10 * slowdown } end
      server:close_clients()
      return server:metrics()[TAKEN] == connections
    end, 10)
  end

  local function options_of(connections)
    return { app = app, flags = { "--threads", tostring(THREADS), "--cpu-states",
      tostring(JOBS) }, settings = { db_connections = connections, slow_handler = "10s" },
      warm_up = function(server) warm_up(server, connections) end,
      env = { TEST_DATABASE_URL = get_database().url, TEST_SLEEP_300 = d.sleep(300) } }
  end

  -- All at once. -> seconds until the last answer
  local function round(clients, path, number)
    local from = now()
    for index, client in ipairs(clients) do send(client, path:format(number + index)) end
    for index, client in ipairs(clients) do
      local response, reason = client:response { timeout = 10 * slowdown }
      assert.is_truthy(response, reason)
      assert.equal(200, response.status, response.body)
      assert.equal(tostring(number + index), response.body)
    end
    return now() - from
  end

  local function states_of(server, kind)
    local count, fewest = 0, math.huge
    for name, answers in pairs(server:get("/seen"):json()) do
      if name:find("^" .. kind) then
        count, fewest = count + 1, math.min(fewest, answers)
      end
    end
    return count, fewest
  end

  local function expect_bounded(what, loads)
    for _, each in ipairs(loads) do
      local seen = judge(each:stop())
      report("%s: %s: %d answers, %d refusals, the slowest took %.3f s", d.server, what,
        seen.answers, seen.refusals, seen.slowest)
      expect_only(seen, { answers = true, refusals = true, slowest = true })
      assert.equal(0, seen.refusals)
      assert.is_true(seen.answers > 0)
      assert.is_true(seen.slowest < 1.5 * slowdown, seen.slowest) -- pool_timeout is 5 s
    end
  end

  -- As the database counts them, which it does for some milliseconds after their end, too: what it
  -- has seen at each of five looks in a row; and at any of them.
  local function most_connections(seconds)
    local most, any, count, looks, till = 0, 0, 0, {}, now() + seconds
    repeat
      count = count + 1
      table.insert(looks, 1, get_database():connections())
      looks[6] = nil
      any = math.max(any, looks[1])
      if #looks == 5 then most = math.max(most, math.min(unpack(looks))) end
      sleep(0.01)
    until now() > till and count >= 8
    return most, any
  end

  support.describe_server("with two connections for more states", function()
    return options_of(2)
  end, function(get_server)
    it("answers every state soon, though those that came first keep theirs while idle", function()
      local server = get_server()
      local web, jobs, slowest = connect(server, 4 * THREADS), connect(server, 2 * JOBS), 0
      for index = 1, 6 do
        local took = math.max(round(web, "/number/%d", 100 * index),
          round(jobs, "/job/%d", 100 * index))
        slowest = math.max(slowest, took)
        sleep(index % 2 * 0.15)
      end
      report("%s: the slowest round took %.3f s", d.server, slowest)
      assert.is_true(slowest < 1 * slowdown, slowest)
      assert.equal(THREADS, (states_of(server, "web")))
      assert.equal(JOBS, (states_of(server, "job")))
    end)

    it("lets nobody wait long under a steady load of all", function()
      local server = get_server()
      local loads = begin_load(server, { "/number/%d", "/transaction/%d", "/job/%d" })
      local most, any = most_connections(1.5)
      expect_bounded("steady", loads)
      assert.is_true(any >= 1 and most <= 2, most)
      local count, fewest = states_of(server, "web")
      assert.equal(THREADS, count)
      assert.is_true(fewest >= 5, fewest)
    end)

    it("lets nobody wait long while a transaction is held open", function()
      local server = get_server()
      local holder = server:connect()
      send(holder, "/hold")
      eventually(function() return server:get("/is-held").body == "yes" end)
      local loads = begin_load(server, { "/number/%d", "/transaction/%d", "/job/%d" }, 4)
      sleep(1)
      expect_bounded("beside a transaction", loads)
      assert.equal("done", server:get("/let-go").body)
      local response = holder:response { timeout = 5 * slowdown }
      assert.equal("let go", response and response.body)
    end)

    it("lets nobody wait long for another database of the same states", function()
      local loads = begin_load(get_server(), { "/number/%d", "/other/%d" }, 4)
      sleep(1)
      expect_bounded("two databases", loads)
    end)

    it("serves slow statements beside fast ones", function()
      local loads = begin_load(get_server(), { "/number/%d", "/slow/%d" }, 2)
      sleep(1.5)
      for index, seen in ipairs { judge(loads[1]:stop()), judge(loads[2]:stop()) } do
        report("%s: slow beside fast, %d: %d answers, the slowest took %.3f s", d.server, index,
          seen.answers, seen.slowest)
        expect_only(seen, { answers = true, refusals = true, slowest = true })
        assert.equal(0, seen.refusals)
        assert.is_true(seen.answers > 0)
      end
    end)

    it("counts them, and who waits for one", function()
      local server = get_server()
      local holders = connect(server, 2)
      for index, client in ipairs(holders) do
        send(client, "/slow/" .. index)
      end
      eventually(function()
        return server:metrics()[TAKEN] == 2 and server:metrics()[AWAITED] == 0
      end)
      for index = 1, 8 do
        holders[#holders + 1] = server:connect()
        send(holders[#holders], "/slow/" .. index)
      end
      eventually(function() return server:metrics()[AWAITED] > 0 end)
      assert.is_true(server:metrics()[TAKEN] <= 2)
      for _, client in ipairs(holders) do
        assert.equal(200, client:response({ timeout = 10 * slowdown }).status)
      end
      eventually(function() return server:metrics()[AWAITED] == 0 end)
    end)
  end)

  support.describe_server("with fewer connections than threads", function()
    local options = options_of(5)
    options.flags = { "--threads", "8" }
    return options
  end, function(get_server)
    it("never has more, and answers all states", function()
      local clients = load.start(get_server(), { path = "/number/%d", clients = 32 })
      local most, any = most_connections(1.2)
      report("%s: %d connections of 5", d.server, most)
      expect_bounded("eight threads", { clients })
      assert.is_true(any >= 1 and most <= 5, most)
    end)
  end)

  describe("the connection of a state that is given up", function()
    local server
    busted.before_each(function()
      get_database():query "drop table if exists held"
      get_database():query "create table held (n integer)"
      get_database():query "insert into held values (0)"
      local text = tools.stuck_app:format(get_database().url, d.sleep(100))
      server = evacuation.serve({ db_connections = 2 }, { a = text, b = text })
    end)
    busted.after_each(function()
      server:stop()
      eventually(function() return get_database():connections() == 0 end)
    end)

    local function expect_answers()
      for _ = 1, 3 do
        for _, path in ipairs { "/a/number", "/b/number" } do
          local from = now()
          local response = server:get(path)
          assert.equal("11", response.body)
          assert.is_true(now() - from < 1 * slowdown, now() - from)
        end
      end
      assert.is_true(server:metrics()[TAKEN] <= 2)
    end

    it("is another's then", function()
      assert.equal("11", server:get("/b/number").body)
      local client = evacuation.stick(server, "/a/hold")
      evacuation.expect(client, 503)
      expect_answers()
      evacuation.wait_joined(server)
    end)

    it("in a pool is another's then", function()
      for _ = 1, 3 do
        assert.equal(504, server:get("/b/job").status)
        expect_answers()
      end
    end)
  end)
end

return M
