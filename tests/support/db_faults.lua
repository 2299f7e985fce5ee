-- db_faults: what fl.db promises when things break: the database stops, the network cuts, clients
-- leave, statements fail, threads get stuck. The specs of both servers share it.
--
--     db_faults.server("PostgreSQL", { server = "postgres", sleep = function(ms) … end, … })
--
-- SOAK set: more restarts, more statements. FIGURES: a file to which what was measured is added.

local busted = require "busted"
local databases = require "support.databases"
local db_quota = require "support.db_quota"
local evacuation = require "support.evacuation"
local in_app = require "support.in_app"
local load = require "support.load"
local report = require "support.report"
local support = require "support"

local describe, it, assert = busted.describe, busted.it, require "luassert"
local now, sleep = support.process.now, support.process.sleep
local slowdown, eventually = support.slowdown, support.eventually

local SOAK = os.getenv "SOAK"
local RESTARTS = SOAK and 20 or 4
local STATEMENTS = SOAK and 1000000 or 50000 / slowdown
local QUIET = 5 -- seconds: a KILL of MariaDB's may itself wait for two, and others with it
local OUTAGE = 2 -- seconds that the database is away, once

---@class support.db_faults
---@field server "postgres"|"mariadb"
---@field options table? of that server
---@field sleep fun(ms: integer): string a SELECT that takes so long
---@field series fun(count: integer): string a SELECT of so many rows, whose column n counts from 1
---@field text fun(size: integer): string a SELECT of so many bytes
---@field open_transactions string SQL: how many there are
---@field activity string SQL: what they are, for messages
---@field running string SQL: how many statements that sleep are running
---@field bad_url fun(database: support.database): string its URL with a wrong password
---@field refusals fun(database: support.database): integer how often it has refused a password
---@field bad_values string[][] { column type, value in Lua, pattern of the message … }

-- No spare thread, which would open connections of its own.
local PATIENT = { slow_handler = "10s" }

local app = [==[
local fl = require "fasterlua"
local await, gather, spawn = fl.await, fl.gather, fl.spawn
local app = fl.app { title = "faults" }
local url, proxy_url = os.getenv "TEST_DATABASE_URL", os.getenv "TEST_PROXY_URL"
local sleep_60, short_sleep = os.getenv "TEST_SLEEP_60", os.getenv "TEST_SHORT_SLEEP"
local db, codes, testing = fl.db(url), fl.shared "codes", require "testing"

local box = setmetatable({ fl = fl, await = await, gather = gather, spawn = spawn, db = db,
  url = url, proxy_url = proxy_url, now = testing.now,
  problem_of = testing.problem_of, codes = codes }, { __index = _G })

local function open_all(handle, count)
  local list = {}
  for index = 1, count do
    list[index] = spawn(function() return await(handle:transaction(function(tx)
      await(tx:value "select 1")
      await(fl.sleep(0.02))
    end)) end)
  end
  await(gather(list))
  for index = 1, count do list[index] = handle:value(short_sleep) end
  await(gather(list))
  for _ = 1, 6 do await(handle:value "select 1") end
end

local warm = os.getenv "TEST_WARM"
if warm == "db" then
  app:on_start(function() open_all(db, 12) end)
elseif warm then
  if proxy_url then box.proxied = fl.db(proxy_url) end
  box.small = fl.db(url, { pool = 2, pool_timeout = 0.4 })
  box.tiny = fl.db(url, { max_result = "1MB", pool = 1 })
  app:on_start(function() -- connections that stay are there before the tests begin
    open_all(db, 12)
    if proxy_url then open_all(box.proxied, 12) end
    open_all(box.small, 2)
    open_all(box.tiny, 1)
    await(fl.run_in_state(function() end))
    pcall(function() await(db:with { timeout = 0.05 }:value(sleep_60)) end)
    if proxy_url then
      pcall(function() await(box.proxied:with { timeout = 0.05 }:value(sleep_60)) end)
    end
  end)
end

local chunks = {}
local function compile(text)
  if not chunks[text] then
    chunks[text] = assert(load("local req = ... " .. text, "=test", "t", box))
  end
  return chunks[text]
end

app:post("/run", { timeout = 900 }, function(req)
  local value = compile(req:text())(req)
  return { value = value == nil and fl.null or value }
end)
app:get("/ping", function() return "pong" end)
app:get("/number/{n:int}", function(req)
  local ok, value = pcall(function()
    return await(db:value("select ? + 0", req.params.n))
  end)
  if ok then return ("%d"):format(value) end
  codes:incr(type(value) == "table" and tostring(value.code) or tostring(value))
  error(value, 0)
end)
app:get("/codes", function()
  local list = {}
  for _, key in ipairs(codes:keys()) do list[key] = codes:get(key) end
  return list
end)
app:get("/sleep", { timeout = 90 }, function()
  return await(db:with { timeout = 80 }:value(sleep_60))
end)
return app
]==]

local function options_of(d, url, proxy_url, settings, warm)
  return { app = in_app.files(app), settings = settings,
    env = { TEST_DATABASE_URL = url, TEST_PROXY_URL = proxy_url or false,
      TEST_SLEEP_60 = d.sleep(60000), TEST_SHORT_SLEEP = d.sleep(20),
      TEST_WARM = warm or false } }
end

local function run_on(server, code, ...)
  local text = select("#", ...) > 0 and code:format(...) or code
  local response, reason = server:request { method = "POST", path = "/run", body = text,
    timeout = SOAK and 900 or 30 * slowdown }
  if not response or response.status ~= 200 then
    error((response and response.body or reason) .. "\n" .. server:log():sub(-3000), 2)
  end
  return response:json().value
end

local function count_of(database, sql)
  return tonumber(database:query(sql)[1][1])
end

local function wait_for_none(database, d)
  eventually(function()
    local count = count_of(database, d.open_transactions)
    return count == 0 or error(("%d transactions are open: %s"):format(count,
      table.concat(database:query(d.activity)[1] or {}, " | ")), 0)
  end, QUIET)
end

-- What a load has seen: right numbers, and 503 that say when to come again; nothing else.
local function judge(results)
  local seen = { answers = 0, refusals = 0, slowest = 0 }
  for _, result in ipairs(results) do
    if result.status == 200 and result.right then
      seen.answers = seen.answers + 1
    elseif result.status == 503 and result.retry_after then
      seen.refusals = seen.refusals + 1
    else
      local what = result.status .. (result.status == 200 and " with a wrong row" or "")
      seen[what] = (seen[what] or 0) + 1
    end
    seen.slowest = math.max(seen.slowest, result.done - result.sent)
  end
  return seen
end

local function expect_only(seen, names)
  for name, value in pairs(seen) do
    if not names[name] then
      error(("%d requests got %s"):format(value, name), 2)
    end
  end
end

-- Seconds until a server answers again, whichever of its threads is asked.
local function time_until_well(server, began)
  local good = 0
  repeat
    local client = server:connect()
    local response = client:request { path = "/number/7" }
    client:close()
    good = response and response.status == 200 and good + 1 or 0
  until good == 8 or now() - began > 10 * slowdown
  return now() - began
end

-- Words for one server's tests.
local function tools_of(get_server)
  local function run(code, ...)
    return run_on(get_server(), code, ...)
  end
  local function begin(code, ...)
    local client = get_server():connect()
    local text = select("#", ...) > 0 and code:format(...) or code
    assert(client:send(("POST /run HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%s"):format(
      #text, text)))
    return client
  end
  local function finish(client)
    local response, reason = client:response { timeout = 20 * slowdown }
    assert.is_truthy(response, reason)
    assert.equal(200, response.status, response.body)
    return response:json().value
  end
  local function table_of(name, columns)
    run('await(db:exec "drop table if exists %s") await(db:exec [[create table %s (%s)]])', name,
      name, columns)
  end
  return { get_server = get_server, run = run, begin = begin, finish = finish,
    table_of = table_of }
end

-- What needs no network between.
local function describe_common(d, c)
  local run, get_server, table_of, expect_quiet = c.run, c.get_server, c.table_of, c.expect_quiet
  local begin, finish = c.begin, c.finish

  describe("a pool whose connections are all taken", function()
    it("lets others wait in their order", function()
      assert.same({ 1, 2, 3, 4, 5, 6, 7, 8 }, run [[
        local order, list = {}, {}
        list[1] = tiny:transaction(function() await(fl.sleep(0.1)) end)
        await(fl.sleep(0.02))
        for i = 1, 8 do
          list[#list + 1] = tiny:transaction(function()
            order[#order + 1] = i
            await(fl.sleep(0.01))
          end)
        end
        await(gather(list))
        return order]])
    end)

    it("is an error after its time, and all is free afterwards", function()
      local result = run([[
        local list, took, codes = {}, {}, {}
        for i = 1, %d do
          list[i] = small:transaction(function() await(fl.sleep(0.8)) end)
        end
        await(fl.sleep(0.02))
        for i = 1, 5 do
          list[#list + 1] = spawn(function()
            local from = now()
            local problem = problem_of(function()
              await(small:transaction(function() end))
            end)
            took[i], codes[i] = now() - from, problem and problem.code .. problem.status
          end)
        end
        await(gather(list))
        return { took = took, codes = codes, free = await(small:transaction(function(tx)
          return await(tx:value "select 3")
        end)) }]], d.most)
      for i = 1, 5 do
        assert.equal("pool_timeout503", result.codes[i])
        assert.is_true(result.took[i] >= 0.38 and result.took[i] < 0.4 + 0.15 * slowdown,
          result.took[i])
      end
      assert.equal(3, result.free)
    end)

    it("is answered with 503 and when to come again", function()
      local holder = begin([[
        local list = {}
        for i = 1, %d do
          list[i] = small:transaction(function() await(fl.sleep(0.8)) end)
        end
        await(gather(list))]], d.most)
      sleep(0.05)
      local response = get_server():post("/run", "await(small:transaction(function() end))")
      assert.equal(503, response.status)
      assert.is_string(response.headers["retry-after"])
      finish(holder)
    end)
  end)

  it("one user's error or lateness changes no other's result", function()
    local from = now()
    local result = run([[
      local all, tasks = %d, 256
      local seen = { answers = 0, errors = 0, late = 0, wrong = 0, in_time = 0 }
      local function note(what) seen[what] = seen[what] + 1 end
      local ways = {}
      ways[0] = function(n) return await(db:value("select ? + 0", n)) end
      ways[1] = function(n) return await(db:one("select ? + 0 as v, 'x' as x", n)).v end
      ways[2] = function(n) return await(db:all("select ? + 0 as v", n))[1].v end
      ways[3] = function(n) return await(db:value("select ? - 0", n)) end
      local function fail()
        local ok, err = pcall(function() return await(db:all "select * from nowhere") end)
        note(not ok and tostring(err):find "nowhere" and "errors" or "wrong")
      end
      local function hurry(n)
        local place = db:with { timeout = (n %% 20 + 1) / 1000 }
        local ok, value
        if n %% 200 < 100 then
          ok, value = pcall(function() return await(place:value(%q)) end)
          if ok then value = "an answer before its time" end
        else
          ok, value = pcall(function() return await(place:value("select ? + 0", n)) end)
        end
        if ok and value == n then return note "in_time" end
        if not ok and value.code == "timeout" then return note "late" end
        note "wrong"
        fl.log.error(("wrong: %%s for %%d in a hurry"):format(tostring(value), n))
      end
      local list = {}
      for task = 1, tasks do
        list[task] = spawn(function()
          for n = task, all, tasks do
            if n %% 100 == 7 then fail()
            elseif n %% 100 == 57 then hurry(n)
            else
              local ok, value = pcall(ways[n %% 4], n)
              note(ok and value == n and "answers" or "wrong")
              if not ok then fl.log.error("wrong: " .. tostring(value)) end
            end
          end
        end)
      end
      await(gather(list))
      return seen]], STATEMENTS, d.sleep(2000))
    report("%s: %d statements in %.1f s: %d late", d.server, STATEMENTS, now() - from,
      result.late)
    assert.equal(0, result.wrong)
    assert.equal(STATEMENTS / 100, result.errors)
    assert.equal(STATEMENTS / 100, result.late + result.in_time)
    assert.equal(STATEMENTS * 98 / 100, result.answers)
  end)

  describe("what is not wanted any more,", function()
    it("is not begun when it waits for others' connections", function()
      table_of("unwanted", "n integer")
      assert.same({ 0, 0, 1 }, run [[
        local holder = tiny:transaction(function() await(fl.sleep(0.1)) end)
        await(fl.sleep(0.02))
        local f = tiny:transaction(function(tx)
          await(tx:exec "insert into unwanted values (1)")
        end)
        local g = tiny:exec "insert into unwanted values (1)"
        await(fl.sleep(0.02))
        f:cancel()
        g:cancel()
        await(holder)
        await(tiny:transaction(function(tx) await(tx:value "select 1") end))
        return { await(tiny:value "select count(*) from unwanted"), tiny:stats().waiting,
          await(tiny:value "select 1") }]])
    end)

    it("hits nothing else, whenever it is cancelled", function()
      table_of("crossings", "n integer")
      run("await(db:exec 'insert into crossings values (0)')")
      local result = run([[
        local wrong, undone = 0, 0
        local function other(n)
          return spawn(function()
            if await(db:value("select ? + 0", n)) ~= n then wrong = wrong + 1 end
          end)
        end
        local texts = { %q, %q, "select 1" }
        for round = 1, 90 do
          local f = db:all(texts[round %% 3 + 1])
          local a = other(round)
          await(fl.sleep(round %% 15 / 1500))
          f:cancel()
          local b = other(-round)
          await(gather(a, b))
        end
        for round = 1, 40 do
          local f = db:transaction(function(tx)
            await(tx:exec "update crossings set n = n + 1")
            await(tx:value "select 1")
          end)
          await(fl.sleep(round / 8000))
          local a = other(round)
          f:cancel()
          if problem_of(await, f) then undone = undone + 1 end
          await(a)
        end
        return { wrong = wrong, undone = undone }]], d.series(20000), d.sleep(20))
      assert.equal(0, result.wrong)
      expect_quiet()
      run "await(db:exec 'update crossings set n = n + 1')"
    end)

    it("leaves no transaction open: after BEGIN, between statements, in them", function()
      table_of("left_over", "n integer")
      assert.equal(0, run([[
        local list = {}
        for n = 1, 9 do
          list[n] = db:transaction(function(tx)
            if n %% 3 == 0 then await(fl.sleep(10)) end
            await(tx:exec "insert into left_over values (1)")
            if n %% 3 == 1 then await(fl.sleep(10)) end
            await(tx:value(%q))
          end)
        end
        await(fl.sleep(0.1))
        for n = 1, 9 do list[n]:cancel() end
        for n = 1, 9 do problem_of(await, list[n]) end
        return await(db:value "select count(*) from left_over")]], d.sleep(10000)))
      expect_quiet()
    end)
  end)

  describe("large", function()
    it("values of 16 MB come whole", function()
      assert.equal(16777216, run("return #await(db:value %q)", d.text(16777216)))
    end)

    it("results beyond max_result are an error, and the next one is answered", function()
      for _, sql in ipairs { d.text(2000000), d.series(200000), d.text(16777216) } do
        local problem = run("return problem_of(function() return await(tiny:all %q) end)", sql)
        assert.equal("too_large", problem.code, problem.message)
        assert.equal(8, run 'return await(tiny:value "select 8")')
      end
    end)
  end)

  it("values that no column takes are clear errors, and leave the connection good", function()
    for index, case in ipairs(d.bad_values) do
      table_of("strict_values_" .. index, "first_column integer, v " .. case[1])
      local problem = run([[return problem_of(function()
        await(db:exec("insert into strict_values_%d (first_column, v) values (?, ?)", 1, %s))
      end)]], index, case[2])
      assert.is_truthy(problem, case[1] .. " takes " .. case[2])
      for pattern = 3, #case do
        assert.matches(case[pattern], problem.text)
      end
      assert.equal(index, run("return await(db:value 'select %d')", index))
    end
  end)
end

-- A server with its proxy, one thread, and all connections open before the tests.
local function describe_faults(d, get_database)
  local proxy, baseline
  busted.strict_setup(function()
    proxy = databases.proxy { target = get_database() }
  end)
  busted.strict_teardown(function()
    if proxy then
      proxy:stop()
    end
  end)
  support.describe_server("while it runs", function()
    local options = options_of(d, get_database().url, proxy.url, PATIENT, "all")
    options.flags = { "--threads", "1" }
    return options
  end, function(get_server)
    local c = tools_of(get_server)
    local run, begin, finish, table_of = c.run, c.begin, c.finish, c.table_of
    local function expect_quiet()
      wait_for_none(get_database(), d)
    end
    c.expect_quiet = expect_quiet

    busted.before_each(function()
      baseline = baseline or get_database():connections()
    end)
    busted.after_each(function()
      proxy:resume()
      eventually(function()
        local count = get_database():connections()
        return count <= baseline or error(("%d connections, %d before: %s"):format(count, baseline,
          run [[return table.concat({ db:stats().connections, proxied:stats().connections,
            small:stats().connections, tiny:stats().connections }, ", ")]]), 0)
      end, 4)
      for _, name in ipairs { "db", "proxied", "small", "tiny" } do
        eventually(function()
          local stats = run("return %s:stats()", name)
          local left = stats.sessions + stats.pending + stats.waiting
          return left == 0 or error(("%s has %d sessions, %d pending, %d waiting"):format(name,
            stats.sessions, stats.pending, stats.waiting), 0)
        end, QUIET)
      end
    end)

    describe("a connection that is cut", function()
      it("in the middle of a result fails its query, and the next one is answered", function()
        proxy:cut_after(200000)
        local problem = run("return problem_of(function() return await(proxied:value %q) end)",
          d.text(1000000))
        assert.equal("connection", problem.code, problem.message)
        assert.equal(503, problem.status)
        assert.equal(42, run 'return await(proxied:value "select 42")')
      end)

      it("in the middle of a result is made good where the query may be run twice", function()
        proxy:cut_after(200000)
        assert.equal(1000000, run("return #await(proxied:with { retry = true }:value %q)",
          d.text(1000000)))
      end)

      it("while idle is noticed, and nobody else does", function()
        local from = #get_server():log()
        for _ = 1, 5 do
          proxy:cut()
          assert.equal(0, run [[
            local list, wrong = {}, 0
            for n = 1, 30 do
              list[n] = spawn(function()
                if await(proxied:value("select ? + 0", n)) ~= n then wrong = wrong + 1 end
              end)
            end
            await(gather(list))
            return wrong]])
        end
        eventually(function()
          return get_server():log():find(": connection lost: ", from + 1, true)
        end)
      end)

      it("while idle is noticed by a transaction, too", function()
        proxy:cut()
        assert.equal(7, run [[return await(proxied:transaction(function(tx)
          return await(tx:value "select 7")
        end))]])
      end)

      it("takes its transaction along, and no statement of it runs elsewhere", function()
        table_of("cut_off", "n integer")
        local client = begin [[
          box_event = fl.event()
          local problems = {}
          local outside = problem_of(function()
            await(proxied:transaction(function(tx)
              await(tx:exec "insert into cut_off values (1)")
              box_inside = true
              await(box_event:wait())
              for n = 2, 4 do
                local problem = problem_of(function()
                  await(tx:exec("insert into cut_off values (?)", n))
                end)
                problems[#problems + 1] = problem and (problem.code or problem.message) or "none"
              end
            end))
          end)
          return { problems, outside and (outside.code or outside.message) }]]
        eventually(function() return run "return box_inside or false" end)
        proxy:cut()
        run "box_event:set()"
        assert.same({ { "connection", "connection", "connection" }, "connection" }, finish(client))
        assert.equal(0, run 'return await(db:value "select count(*) from cut_off")')
        assert.equal(1, run 'return await(proxied:value "select 1")')
      end)

      it("during COMMIT raises, and the transaction is not tried again", function()
        table_of("committed", "n integer")
        local client = begin [[
          box_event, box_waits, box_runs = fl.event(), false, 0
          local problem = problem_of(function()
            await(proxied:transaction(function(tx)
              box_runs = box_runs + 1
              await(tx:exec "insert into committed values (1)")
              box_waits = true
              await(box_event:wait())
            end, { retry = 5 }))
          end)
          return { problem and problem.code, box_runs }]]
        eventually(function() return run "return box_waits" end)
        proxy:stall()
        run "box_event:set()"
        sleep(0.05)
        proxy:cut()
        proxy:resume()
        assert.same({ "connection", 1 }, finish(client))
        assert.is_true(run 'return await(db:value "select count(*) from committed")' <= 1)
      end)

      it("ends a loop over rows with an error", function()
        proxy:cut_after(100000)
        local result = run([[
          local count = 0
          local problem = problem_of(function()
            for row in proxied:each %q do count = count + 1 end
          end)
          return { code = problem and problem.code, count = count }]], d.series(100000))
        assert.equal("connection", result.code)
        assert.is_true(result.count < 100000)
        assert.equal(1, run 'return await(proxied:value "select 1")')
      end)
    end)

    describe("a server that stalls", function()
      -- What the others' requests take meanwhile.
      local function stall()
        local pings = load.start(get_server(), { path = "/ping", clients = 8, pause = 0.005 })
        sleep(0.1)
        proxy:stall()
        local result = run([[
          local list, took, others = {}, 0, 0
          for n = 1, 40 do
            list[n] = spawn(function()
              local from = now()
              local sql, arguments = "select ? + 0", { n }
              if n %% 4 == 0 then sql, arguments = %q, {} end
              local problem = problem_of(function()
                await(proxied:with { timeout = 0.3 }:value(sql, unpack(arguments)))
              end)
              took = math.max(took, now() - from)
              if not problem or problem.code ~= "timeout" then others = others + 1 end
            end)
          end
          await(gather(list))
          return { took = took, others = others }]], d.sleep(10))
        proxy:resume()
        local wrong = run [[
          local list, wrong = {}, 0
          for n = 1, 100 do
            list[n] = spawn(function()
              if await(proxied:value("select ? + 0", n * 1000)) ~= n * 1000 then
                wrong = wrong + 1
              end
            end)
          end
          await(gather(list))
          return wrong]]
        local p99 = load.percentile(pings:stop(), 0.99)
        report("%s stalled: took %.3f s, p99 of others %.1f ms", d.server, result.took, p99 * 1000)
        assert.equal(0, result.others)
        assert.equal(0, wrong)
        assert.is_true(result.took < 0.3 + 0.2 * slowdown, result.took)
        return p99
      end

      it("keeps nobody beyond his time, nor others at all, and gives no wrong answer", function()
        local p99
        for _ = 1, 3 do -- others may want the machine, too
          p99 = stall()
          if p99 < 0.05 * slowdown then break end
        end
        assert.is_true(p99 < 0.05 * slowdown, p99)
      end)

      it("and one that answers late gives each his own answer or none", function()
        proxy:delay(0.03)
        local result = run [[
          local list, wrong, late, answered = {}, 0, 0, 0
          for n = 1, 200 do
            list[n] = spawn(function()
              await(fl.sleep(n % 10 / 200))
              local ok, value = pcall(function()
                local place = n % 3 == 0 and proxied
                  or proxied:with { timeout = 0.02 + n % 30 / 1000 }
                return await(place:value("select ? + 0", n))
              end)
              if ok and value == n then
                answered = answered + 1
              elseif not ok and value.code == "timeout" then
                late = late + 1
              else
                wrong = wrong + 1
                fl.log.error("wrong: " .. tostring(value))
              end
            end)
          end
          await(gather(list))
          return { wrong = wrong, late = late, answered = answered }]]
        assert.equal(0, result.wrong)
        assert.is_true(result.answered > 60, result.answered)
      end)

      it("even where the process itself has stopped", function()
        get_database():pause()
        local ok, took = pcall(run, [[
          local from = now()
          local problem = problem_of(function()
            await(db:with { timeout = 0.2 }:value "select 5")
          end)
          return problem.code == "timeout" and now() - from]])
        get_database():resume()
        assert.is_true(ok, took)
        assert.is_true(took < 0.2 + 0.2 * slowdown, took)
        assert.equal(6, run 'return await(db:value "select 6")')
      end)
    end)

    describe("what is not wanted any more", function()
      it("ends in the database within a second after its client has left", function()
        local client = get_server():connect()
        client:send("GET /sleep HTTP/1.1\r\nHost: a\r\n\r\n")
        eventually(function() return count_of(get_database(), d.running) == 1 end)
        client:reset()
        local left = now()
        eventually(function() return count_of(get_database(), d.running) == 0 end)
        report("%s: gone %.0f ms after the client", d.server, (now() - left) * 1000)
        assert.is_true(now() - left < slowdown, now() - left)
      end)

      it("is not begun when it waits for a connection to be made", function()
        proxy:cut()
        eventually(function() return run "return proxied:stats().connections" == 0 end)
        proxy:stall()
        assert.equal("cancelled", run [[
          local f = proxied:value "select 1"
          await(fl.sleep(0.02))
          f:cancel()
          return problem_of(await, f).kind]])
        proxy:resume()
        assert.equal(9, run 'return await(proxied:value "select 9")')
      end)

      it("is not cancelled during COMMIT, which is shielded", function()
        table_of("shielded", "n integer")
        proxy:delay(0.06)
        run [[
          local f = proxied:transaction(function(tx)
            await(tx:exec "insert into shielded values (1)")
            box_committing = true
          end)
          while not box_committing do await(fl.sleep(0.005)) end
          await(fl.sleep(0.02))
          f:cancel()
          problem_of(await, f)]]
        proxy:resume()
        eventually(function()
          return run 'return await(db:value "select count(*) from shielded")' == 1
        end)
        expect_quiet()
      end)
    end)


    describe_common(d, c)
  end)
end

local function describe_restarts(d, get_database)
  support.describe_server("stopped and started again", function()
    local options = options_of(d, get_database().url, nil, nil, "db")
    options.flags = { "--threads", "2" }
    return options
  end, function(get_server)
    local connections
    it("is missed for a moment, and answers nobody wrongly", function()
      local server, database = get_server(), get_database()
      connections = database:connections()
      local clients = load.start(server, { path = "/number/%d", clients = 16 })
      local slowest = 0
      sleep(0.3)
      for round = 1, RESTARTS do
        database:restart { immediate = round % 2 == 0 }
        if round == RESTARTS then
          database:kill()
          sleep(OUTAGE)
          database:start()
        end
        local took = time_until_well(server, now())
        report("%s: back %.3f s after restart %d", d.server, took, round)
        slowest = math.max(slowest, took)
        sleep(0.2)
      end
      local seen = judge(clients:stop())
      report("%s: %d answers, %d refusals, the slowest took %.3f s", d.server, seen.answers,
        seen.refusals, seen.slowest)
      expect_only(seen, { answers = true, refusals = true, slowest = true })
      assert.is_true(seen.refusals > 0)
      assert.is_true(slowest < 1 * slowdown, slowest)
      assert.is_true(seen.slowest < 1 + 1 * slowdown, seen.slowest) -- connect_timeout, and a bit
      for code in pairs(server:get("/codes"):json()) do
        assert.equal("connection", code)
      end
      eventually(function() return database:connections() <= connections end)
    end)

    it("fails no request when the server itself is replaced", function()
      local server, database = get_server(), get_database()
      local old = server:server_pid()
      local clients = load.start(server, { path = "/number/%d", clients = 16 })
      sleep(0.3)
      server:signal("HUP")
      eventually(function()
        local pids = server:pids()
        return #pids == 1 and pids[1] ~= old
      end, 10)
      sleep(0.2)
      local seen = judge(clients:stop())
      expect_only(seen, { answers = true, slowest = true, refusals = true })
      assert.equal(0, seen.refusals)
      eventually(function()
        return database:connections() <= connections
      end)
    end)
  end)
end

local stuck_app = [[
local fl = require "fasterlua"
local await = fl.await
local app = fl.app { title = "stuck" }
local ffi = require "ffi"
ffi.cdef "typedef struct { long s, ns; } spin_time; int clock_gettime(int, spin_time *);"
local time = ffi.new "spin_time"
local function spin(seconds)
  ffi.C.clock_gettime(3, time)
  local till = tonumber(time.s) + tonumber(time.ns) / 1e9 + seconds
  repeat
    ffi.C.clock_gettime(3, time)
  until tonumber(time.s) + tonumber(time.ns) / 1e9 >= till
end
local db = fl.db(%q)
app:get("/", function() return "well" end)
app:get("/number", function() return ("%%d"):format(await(db:value "select 11")) end)
app:get("/hold", function()
  await(db:transaction(function(tx)
    await(tx:exec "update held set n = n + 1")
    spin(0.5)
  end))
end)
app:get("/slow", function() await(db:value(%q)) return "answered" end)
local pool
app:get("/job", function()
  pool = pool or fl.state_pool { name = "stuck", size = 1, timeout = 0.3 }
  await(pool:run(function(handle)
    local own = require "fasterlua"
    own.await(handle:transaction(function(tx)
      own.await(tx:exec "update held set n = n + 1")
      while true do end
    end))
  end, db))
end)
return app
]]

local function describe_evacuation(d, get_database)
  describe("what gets stuck in a transaction", function()
    local server
    busted.before_each(function()
      get_database():query "drop table if exists held"
      get_database():query "create table held (n integer)"
      get_database():query "insert into held values (0)"
      local text = stuck_app:format(get_database().url, d.sleep(700))
      server = evacuation.serve(nil, { a = text, b = text })
      assert.equal("11", server:get("/a/number").body)
      assert.equal("11", server:get("/b/number").body)
    end)
    busted.after_each(function()
      server:stop()
      eventually(function() return get_database():connections() == 0 end)
    end)

    local function expect_rolled_back()
      local from = now()
      wait_for_none(get_database(), d)
      report("%s: rolled back after %.0f ms", d.server, (now() - from) * 1000)
      assert.is_true(now() - from < slowdown, now() - from)
      get_database():query "update held set n = n + 10"
      assert.equal("10", get_database():query("select n from held")[1][1])
    end

    it("is rolled back when its thread is given up, whose other queries are answered", function()
      local other = evacuation.begin(server, "/b/slow")
      sleep(0.05)
      local client = evacuation.stick(server, "/a/hold")
      expect_rolled_back()
      evacuation.expect(client, 503)
      evacuation.expect(other, 200, "answered")
      assert.equal("11", server:get("/a/number").body)
      assert.equal("11", server:get("/b/number").body)
      evacuation.wait_joined(server)
    end)

    it("in a pool is rolled back when its job's time is over", function()
      assert.equal(504, server:get("/b/job").status)
      expect_rolled_back()
      assert.equal("11", server:get("/b/number").body)
    end)
  end)
end

local function describe_absence(d, get_database)
  describe("a database that is not there", function()
    local server
    busted.after_each(function()
      server:stop()
      if get_database().pid then
        eventually(function() return get_database():connections() == 0 end)
      end
    end)

    it("at the start is waited for, and named until it has come", function()
      get_database():kill()
      server = support.start(options_of(d, get_database().url))
      local from = now()
      local response = server:get("/number/1")
      local took = now() - from
      get_database():start()
      local well = time_until_well(server, now())
      report("%s: first refused after %.3f s, well %.3f s after it came", d.server, took, well)
      assert.equal(503, response.status)
      assert.is_string(response.headers["retry-after"])
      assert.is_true(took < 1 + 0.3 * slowdown, took) -- connect_timeout
      assert.is_truthy(server:wait_log(": cannot connect: "))
      eventually(function() -- the thread that had found nobody may be asked only now
        assert.equal(200, server:get("/number/1").status)
        return server:log():find(": connected again", 1, true)
      end)
      assert.is_true(well < 1 * slowdown, well)
    end)

    it("for a wrong password says so, and is not stormed", function()
      local options = options_of(d, d.bad_url(get_database()))
      options.flags = { "--threads", "1" }
      server = support.start(options)
      local before = d.refusals(get_database())
      local clients = load.start(server, { path = "/number/%d", clients = 16 })
      sleep(0.7)
      local first = d.refusals(get_database()) - before
      sleep(1.5)
      local seen = judge(clients:stop())
      local problem = run_on(server, [[return problem_of(function()
        return await(db:value "select 1") end)]])
      local second = d.refusals(get_database()) - before - first
      report("%s: %d refusals of the password, then %d, for %d requests (the slowest %.3f s): %s",
        d.server, first, second, seen.refusals, seen.slowest, problem.message)
      expect_only(seen, { refusals = true, slowest = true, answers = true })
      assert.equal(0, seen.answers)
      assert.matches("test", problem.message)
      assert.matches("password", problem.message)
      assert.is_true(first >= 1 and first <= 11, first) -- a pool's, before the first answer came
      assert.is_true(second <= 2 * slowdown, second)
    end)
  end)
end

local M = {}

---What a server promises.
---@param title string
---@param d support.db_faults
function M.server(title, d)
  databases.describe(title, d.server, d.options, function(get_database)
    describe_faults(d, get_database)
    describe_restarts(d, get_database)
    db_quota.describe(d, get_database, { judge = judge, expect_only = expect_only,
      stuck_app = stuck_app })
    describe_evacuation(d, get_database)
    describe_absence(d, get_database)
  end)
end

---What a library does, without a server.
---@param title string
---@param d support.db_faults
---@param url string
---@param define fun(d: support.db_faults, c: table) more tests
function M.library(title, d, url, define)
  support.describe_server(title, function()
    local options = options_of(d, url, nil, PATIENT, "all")
    options.flags = { "--threads", "1" }
    return options
  end, function(get_server)
    local c = tools_of(get_server)
    function c.expect_quiet()
      c.run 'await(db:with { timeout = 2 }:exec "create table if not exists quiet (n integer)")'
    end
    describe_common(d, c)
    define(d, c)
  end)
end

M.judge, M.expect_only, M.options_of = judge, expect_only, options_of

return M
