-- What fl.db does on PostgreSQL and nowhere else: statements of many tasks on one connection, its
-- types, its COPY and notifications, and what becomes of queries when connections are lost.

local databases = require "support.databases"
local evacuation = require "support.evacuation"
local in_app = require "support.in_app"
local service = require "support.databases.service"
local support = require "support"

local process = support.process
local now, sleep = process.now, process.sleep
local eventually, slowdown = support.eventually, support.slowdown

-- Runs what tests post; TEST_DATABASE_URL names the database.
local app = [==[
local fl = require "fasterlua"
local await, gather, spawn = fl.await, fl.gather, fl.spawn
local app = fl.app { title = "postgres" }
local db = fl.db(assert(os.getenv "TEST_DATABASE_URL"))
local kept = {}

local testing = require "testing"
local clock, problem_of = testing.now, testing.problem_of
local function run(req)
  local names = "local db, fl, await, gather, spawn, problem_of, kept, clock = ... "
  local chunk = assert(load(names .. (req.query.code or req:text()), "=test", "t"))
  return chunk(db, fl, await, gather, spawn, problem_of, kept, clock)
end

app:post("/run", { timeout = 60 }, function(req)
  local value = run(req)
  return { value = value == nil and fl.null or value }
end)
app:get("/get", { timeout = 120 }, function(req) run(req) return "done" end)

-- Compiled, so that nothing can interrupt it.
local function spin(seconds)
  local till = clock() + seconds
  while clock() < till do end
end
for _ = 1, 100 do spin(0.00001) end

app:get("/stuck", function(req)
  run(req)
  spin(tonumber(os.getenv "SPIN_SECONDS"))
  return "too late"
end)
return app
]==]

local function serve(url, options)
  options = options or {}
  options.app = options.app or in_app.files(app)
  options.env = { TEST_DATABASE_URL = url, SPIN_SECONDS = "2",
    TSAN_OPTIONS = "report_thread_leaks=0" }
  options.flags = options.flags or { "--threads", "1" }
  return support.start(options)
end

local function runner(server)
  return function(code, ...)
    local response = server:post("/run", select("#", ...) > 0 and code:format(...) or code)
    assert.equal(200, response.status, response.body .. "\n" .. server:log():sub(-3000))
    return response:json().value
  end
end

local function with(url, character)
  return url .. (url:find("?", 1, true) and "&" or "?") .. character
end

-- One database, one server for each test.
local function describe_postgres(title, options, define)
  databases.describe(title, "postgres", options, function(get_database)
    local server, run
    local function start(url, server_options)
      server = serve(url or get_database().url, server_options)
      run = runner(server)
      return server
    end
    after_each(function()
      if server then
        server:stop()
        server = nil
      end
    end)
    define(get_database, start, function(...)
      return run(...)
    end)
  end)
end

local function encode(code)
  return (code:gsub("[^%w]", function(c)
    return ("%%%02X"):format(c:byte())
  end))
end

local function running(database, what)
  local rows = database:query(("select count(*) from pg_stat_activity where query like '%s' and "
    .. "state = 'active' and pid <> pg_backend_pid()"):format(what), { admin = true })
  return tonumber(rows[1][1])
end

describe_postgres("postgres: statements of many tasks", {}, function(get_database, start, run)
  it("share a connection, and an error is of its own statement alone", function()
    start(with(get_database().url, "pool=2"))
    assert.same({ 192, 64 }, run [[
      local sqls = { "select ?::int as n", "select 100 / ?::int as n", "select ?::text as n" }
      for _, sql in ipairs(sqls) do for i = 1, 5 do await(db:value(sql, 1)) end end
      local right, failed, tasks = 0, 0, {}
      for i = 1, 256 do
        tasks[i] = spawn(function()
          if i % 4 == 0 then
            local problem = problem_of(function() return await(db:value(sqls[2], 0)) end)
            if problem and problem.code == "22012" then failed = failed + 1 end
          elseif await(db:value(sqls[1], i)) == i then right = right + 1 end
        end)
      end
      await(gather(tasks))
      return { right, failed }]])
    assert.is_true(get_database():connections() <= 3)
  end)

  it("that are slow do not hold up those that are fast", function()
    start()
    local took = run [[
      for i = 1, 5 do await(db:value("select ?::int", i)) end
      local slow = spawn(function() await(db:all "select pg_sleep(1)") end)
      await(fl.sleep(0.05))
      local from = clock()
      for i = 1, 20 do await(db:value("select ?::int", i)) end
      local took = clock() - from
      await(slow)
      return took]]
    assert.is_true(took < 0.5 * slowdown, "took " .. took)
  end)

  it("sleep at the same time", function()
    start()
    local code = [[
      local from = clock()
      await(gather(db:all "select pg_sleep(0.1)", db:all "select pg_sleep(0.2)",
        db:all "select pg_sleep(0.3)"))
      return clock() - from]]
    run(code)
    local took = run(code)
    assert.is_true(took >= 0.3 and took < 0.3 + 0.2 * slowdown, "took " .. took)
  end)

  it("wait in line for a connection of their own, for so long and no longer", function()
    start(with(get_database().url, "pool=1&pool_timeout=300ms"))
    local problem = run [[
      local first = spawn(function() await(db:all "select pg_sleep(1)") end)
      await(fl.sleep(0.05))
      local problem = problem_of(function() await(db:transaction(function() end)) end)
      await(first)
      return problem]]
    assert.equal("pool_timeout", problem.code)
    assert.equal(503, problem.status)
    assert.equal(1, run [[return await(db:transaction(function(tx)
      return await(tx:value "select 1") end))]])
  end)

  it("are more than a connection keeps prepared", function()
    start(with(get_database().url, "pool=1"))
    assert.equal(700, run [[
      local right = 0
      for round = 1, 2 do
        for i = 1, 350 do
          if await(db:value("select ?::int + " .. i, 1)) == i + 1 then right = right + 1 end
        end
      end
      return right]])
    assert.is_true(run [[return await(db:transaction(function(tx)
      return await(tx:value "select count(*) from pg_prepared_statements")
    end))]] <= 257)
  end)

  it("are asked anew when a table has changed", function()
    start(with(get_database().url, "pool=1"))
    assert.same({ { a = 1 }, { a = 1, b = 2 }, { a = "x", b = 2 } }, run [[
      await(db:exec "create table changing (a integer)")
      await(db:exec "insert into changing values (1)")
      local sql, rows = "select * from changing", {}
      for i = 1, 5 do rows[1] = await(db:one(sql)) end
      await(db:exec "alter table changing add column b integer default 2")
      rows[2] = await(db:one(sql))
      await(db:exec "alter table changing alter column a type text using 'x'")
      rows[3] = await(db:one(sql))
      return rows]])
    assert.equal(0.5, run [[
      await(db:exec "create table made_anew (a integer)")
      for i = 1, 5 do await(db:exec("insert into made_anew values (?)", i)) end
      await(db:exec "drop table made_anew")
      await(db:exec "create table made_anew (a double precision)")
      await(db:exec("insert into made_anew values (?)", 0.5))
      return await(db:value "select a from made_anew")]])
  end)

  it("may create what the next one of a batch uses", function()
    start()
    assert.same({ { n = 3 } }, run [[
      local results = await(db:batch { { "create table in_batch (n integer)" },
        { "insert into in_batch values (?)", 3 }, { "select n from in_batch" } })
      return results[3].rows]])
    local problem = run [[return problem_of(function()
      local sql = "insert into in_batch values (?)"
      await(db:batch { { sql, 4 }, { sql, 5e10 } })
    end)]]
    assert.equal("argument", problem.code)
    assert.equal(1, run [[return await(db:value "select count(*) from in_batch")]])
  end)
end)

describe_postgres("postgres: values", {}, function(_, start, run)
  it("of its types become Lua's", function()
    start()
    local function value(sql)
      return run("local v = await(db:value [[select %s]]) return { tostring(v), type(v) }", sql)
    end
    local expected = {
      ["1::smallint"] = { "1", "number" },
      ["-5::bigint"] = { "-5", "number" },
      ["9007199254740993"] = { "9007199254740993LL", "cdata" },
      ["0.1::real"] = { "0.1", "number" },
      ["1e300::float8"] = { "1e+300", "number" },
      ["true"] = { "true", "boolean" },
      ["'x'::varchar"] = { "x", "string" },
      ["'x'::char(3)"] = { "x  ", "string" },
      ["'\\x00ff'::bytea = '\\x00ff'"] = { "true", "boolean" },
      ["12345678901234567890.0012300"] = { "12345678901234567890.0012300", "string" },
      ["-0.00001"] = { "-0.00001", "string" },
      ["10000::numeric"] = { "10000", "string" },
      ["'NaN'::numeric"] = { "NaN", "string" },
      ["'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'::uuid"] =
        { "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", "string" },
      ["'2024-02-29'::date"] = { "2024-02-29", "string" },
      ["'0044-03-15 BC'::date"] = { "-0043-03-15", "string" },
      ["'infinity'::date"] = { "infinity", "string" },
      ["'12:34:56.5'::time"] = { "12:34:56.500000", "string" },
      ["'2024-02-29 12:00'::timestamp"] = { "2024-02-29T12:00:00", "string" },
      ["'1969-12-31 23:59:59.999999'::timestamp"] = { "1969-12-31T23:59:59.999999", "string" },
      ["'2024-02-29 12:00:00.25+02'::timestamptz"] = { "2024-02-29T10:00:00.250000Z", "string" },
      ["'-infinity'::timestamptz"] = { "-infinity", "string" },
      ["'1 day'::interval"] = { "1 day", "string" },
      ["'10.0.0.1'::inet"] = { "10.0.0.1", "string" },
      ["null::int"] = { "nil", "nil" },
    }
    for sql, result in pairs(expected) do
      assert.same(result, value(sql), sql)
    end
  end)

  it("may be arrays and JSON, both ways", function()
    start()
    assert.same({ { 1, 2, 3 }, { { "a", "b" }, { "c\"\\", "," } }, { a = { 1, true } }, {},
      { true, false }, { "2024-01-01" } }, run [[
      return { await(db:value("select ?::int[]", { 1, 2, 3 })),
        await(db:value("select ?::text[]", { { "a", "b" }, { "c\"\\", "," } })),
        await(db:value("select ?::jsonb", { a = { 1, true } })),
        await(db:value("select ?::int[]", {})),
        await(db:value("select ?::bool[]", { true, false })),
        await(db:value("select ?::date[]", { "2024-01-01" })) }]])
    assert.equal(2, run [[return await(db:value("select count(*) from generate_series(1, 3) n "
      .. "where n = any(?)", { 1, 3 }))]])
    assert.equal('{"value":[1,null,[[2],[3]]]}', run [[
      local list = await(db:value "select '{1,NULL}'::int[]")
      list[3] = await(db:value "select '{{2},{3}}'::int[]")
      return require "fasterlua.json".encode({ value = list })]])
  end)

  it("that a type does not hold are refused by number, value and type", function()
    start()
    local problem = run [[return problem_of(function()
      await(db:value("select ?::text, ?::int", "x", 3000000000)) end)]]
    assert.equal("argument", problem.code)
    assert.matches("argument 2 is 3000000000, .*integer", problem.message)
    assert.equal("7", run [[return await(db:value("select ?::text", 7))]])
    assert.equal("0.5", run [[return await(db:value("select ?::numeric", 0.5))]])
    assert.is_true(run [[return await(db:value("select ?::bigint = 9007199254740993",
      9007199254740993LL))]])
  end)

  it("are named in errors with constraint, table, column, detail", function()
    start()
    run [[await(db:exec "create table named (n integer not null constraint small check (n < 9))")]]
    local problem = run [[return problem_of(function()
      await(db:exec("insert into named values (?)", 10)) end)]]
    assert.same({ "23514", "small", "named" },
      { problem.code, problem.constraint, problem.table })
    assert.matches("10", problem.detail)
    problem = run [[return problem_of(function()
      await(db:exec("insert into named values (?)", nil)) end)]]
    assert.same({ "23502", "n" }, { problem.code, problem.column })
  end)
end)

describe_postgres("postgres: a cancelled query", {}, function(get_database, start, run)
  local function leave_during(server, code)
    local client = server:connect()
    client:send("GET /get?code=" .. encode(code) .. " HTTP/1.1\r\nHost: x\r\n\r\n")
    return client
  end

  it("is gone from the database when its client has left", function()
    local server, database = start(), get_database()
    local client = leave_during(server, 'await(db:all "select pg_sleep(60)")')
    eventually(function() return running(database, "%pg_sleep(60)%") == 1 end, 5)
    client:close()
    eventually(function() return running(database, "%pg_sleep(60)%") == 0 end, 2)
    assert.equal(1, run [[return await(db:value "select 1")]])
  end)

  it("is gone from a transaction, which is rolled back", function()
    local server, database = start(), get_database()
    run [[await(db:exec "create table locked (n integer)")]]
    local client = leave_during(server, [[await(db:transaction(function(tx)
      await(tx:exec "insert into locked values (1)")
      await(tx:all "select pg_sleep(61)")
    end))]])
    eventually(function() return running(database, "%pg_sleep(61)%") == 1 end, 5)
    client:close()
    eventually(function() return running(database, "%pg_sleep(61)%") == 0 end, 2)
    run [[await(db:exec "drop table locked")]]
    local open = database:query("select count(*) from pg_stat_activity where state like "
      .. "'idle in transaction%'", { admin = true })
    assert.equal("0", open[1][1])
  end)

  it("at any moment leaves the others alone", function()
    start(with(get_database().url, "pool=4"))
    assert.same({ 400, 0 }, run [[
      for i = 1, 5 do await(db:value("select ?::int", i)) end
      local right, wrong, tasks = 0, 0, {}
      for i = 1, 400 do
        tasks[#tasks + 1] = spawn(function()
          local ok, value = pcall(await, db:value("select ?::int", i))
          if ok and value == i then right = right + 1 else wrong = wrong + 1 end
        end)
        local other = spawn(function()
          await(db:value(i % 2 == 0 and "select ?::int" or "select ?::int from pg_sleep(0.002)", i))
        end)
        if i % 3 == 0 then await(fl.sleep(0)) end
        if i % 5 == 0 then await(fl.sleep(0.001)) end
        other:cancel()
      end
      await(gather(tasks))
      return { right, wrong }]])
  end)

  -- Through a proxy, whose faults each test chooses.
  describe("between which and the server something is wrong", function()
    local proxy
    before_each(function() proxy = databases.proxy { target = get_database() } end)
    after_each(function() proxy:stop() end)

    local function leave_sleeping(server, seconds)
      local what = ("%%pg_sleep(%d)%%"):format(seconds)
      local client = leave_during(server, ('await(db:all "select pg_sleep(%d)")'):format(seconds))
      eventually(function() return running(get_database(), what) > 0 end, 5)
      client:reset()
      return what
    end

    local faults = {
      ["is heard late"] = function() proxy:lose_cancels(3) end,
      ["hangs"] = function() proxy:lose_cancels(3, { hang = true }) end,
      ["is refused"] = function()
        proxy:refuse()
        return function()
          sleep(0.6)
          proxy:resume()
        end
      end,
    }
    for name, fault in pairs(faults) do
      it("is asked for again when the request " .. name, function()
        local server = start(proxy.url)
        run [[await(db:value "select 1")]]
        local afterwards = fault()
        local what = leave_sleeping(server, 70)
        if afterwards then afterwards() end
        eventually(function() return running(get_database(), what) == 0 end, 2)
        assert.equal(2, run [[return await(db:value "select 2")]])
        assert.is_nil(server:log():find("connection lost", 1, true))
      end)
    end

    it("loses its connection when it does not end, and ends all the same", function()
      local server = start(proxy.url)
      run [[await(db:value "select 1")]]
      proxy:lose_cancels(9)
      local what = leave_sleeping(server, 71)
      eventually(function() return running(get_database(), what) == 0 end, 8)
      eventually(function()
        return server:log():find("connection lost: it did not cancel", 1, true)
      end)
      assert.equal(2, run [[return await(db:value "select 2")]])
    end)

    it("does not begin when its types have not come yet", function()
      local server = start(proxy.url)
      run [[await(db:value "select 1")]]
      proxy:delay(0.4)
      local what = leave_sleeping(server, 72)
      local left = now()
      eventually(function() return running(get_database(), what) == 0 end, 2)
      sleep(math.max(0, left + 1 - now()))
      assert.equal(0, running(get_database(), what))
    end)

    it("is ended in its turn, although the request for the one before it hangs", function()
      start(proxy.url)
      run [[await(db:transaction(function(tx) await(tx:value "select 1") end))]]
      proxy:lose_cancels(1, { hang = true })
      run [[
        fl.detach(function() await(db:transaction(function(tx)
          local first = tx:all "select pg_sleep(0.05)"
          local second = tx:all "select pg_sleep(74)"
          await(fl.sleep(0.02))
          first:cancel()
          second:cancel()
          await(fl.sleep(4))
        end)) end)
        await(fl.sleep(0.3))]] -- the first has ended by itself
      eventually(function() return running(get_database(), "select pg_sleep(74)") == 0 end)
      assert.equal(3, run [[return await(db:value "select 3")]])
    end)

    it("has another run again that was hit in its place", function()
      local server, rounds = start(proxy.url), 0
      repeat
        proxy:resume()
        run [[
          local same, sql = 0, "select pg_backend_pid() from pg_sleep(?)"
          for _ = 1, 2000 do
            local first, second = db:value(sql, 0), db:value(sql, 0)
            same = await(first) == await(second) and same + 1 or 0
            if same == 20 then return end
          end
          error "they never share a connection"]]
        proxy:delay(0.2) -- the first has ended long before we know
        assert.is_true(run [[
          local sql = "select pg_backend_pid() from pg_sleep(?)"
          local first, second = db:value(sql, 0), db:value(sql, 0.7)
          await(fl.sleep(0.1))
          first:cancel()
          return await(second) > 0]])
        rounds = rounds + 1
      until rounds == 10 or get_database():log():find("pg_backend_pid() from pg_sleep($1)", 1, true)
      assert.is_true(rounds < 10)
      assert.is_nil(server:log():find("connection lost", 1, true))
    end)

    it("ends COPY, however early", function()
      local server = start(with(proxy.url, "pool=1"))
      run [[await(db:exec "create table early (n integer)")]]
      proxy:delay(0.15)
      for _, moment in ipairs { 0.1, 0.25, 0.4 } do
        local from = now()
        assert.equal(4, run([[
          local copy = spawn(function() await(db:copy("copy early from stdin", "1\n")) end)
          await(fl.sleep(%f))
          copy:cancel()
          return await(db:transaction(function(tx) return await(tx:value "select 4") end))]],
          moment))
        assert.is_true(now() - from < 3 * slowdown, now() - from)
      end
      assert.is_nil(server:log():find("connection lost", 1, true))
    end)
  end)

  it("of each of 200 clients that leave at any moment is gone soon", function()
    local server, clients = start(with(get_database().url, "pool=40")), {}
    local request = "GET /get?code=" .. encode('await(db:all "select pg_sleep(73)")')
      .. " HTTP/1.1\r\nHost: x\r\n\r\n"
    for i = 1, 200 do clients[i] = { socket = server:connect() } end
    local leaving = {}
    for _, client in ipairs(clients) do
      client.socket:send(request)
      client.leaves = now() + math.random() * 0.05
      leaving[#leaving + 1] = client
      for at = #leaving, 1, -1 do
        if leaving[at].leaves <= now() then table.remove(leaving, at).socket:reset() end
      end
    end
    sleep(0.05)
    for _, client in ipairs(leaving) do client.socket:reset() end
    eventually(function() return running(get_database(), "%pg_sleep(73)%") == 0 end, 2)
    sleep(0.3) -- nor does another one begin
    assert.equal(0, running(get_database(), "%pg_sleep(73)%"))
    assert.equal(1, run [[return await(db:value "select 1")]])
    assert.is_nil(server:log():find("connection lost", 1, true))
  end)

  it("for its timeout tells it, and its connection is used again", function()
    start(with(get_database().url, "pool=1&timeout=200ms"))
    local problem = run [[return problem_of(function() await(db:all "select pg_sleep(30)") end)]]
    assert.equal("timeout", problem.code)
    assert.equal(1, run [[return await(db:transaction(function(tx)
      return await(tx:value "select 1") end))]])
    assert.is_true(get_database():connections() <= 2)
  end)
end)

describe_postgres("postgres: a lost connection", {}, function(get_database, start, run)
  it("is made anew, whatever restarts the database", function()
    local server = start(with(get_database().url, "connect_timeout=20&pool=4"))
    run [[
      kept.right, kept.codes = 0, {}
      kept.tasks = {}
      for i = 1, 5 do await(db:value("select ?::int", i)) end
      for i = 1, 8 do
        kept.tasks[i] = fl.detach(function()
          while not kept.stop do
            local ok, value = pcall(await, db:value("select ?::int", i))
            if ok and value == i then
              kept.right = kept.right + 1
            else
              local code = type(value) == "table" and value.code or tostring(value)
              kept.codes[code] = (kept.codes[code] or 0) + 1
            end
            await(fl.sleep(0.001))
          end
        end)
      end]]
    get_database():restart()
    local before = run [[return kept.right]]
    eventually(function() return run [[return kept.right]] > before + 100 end, 10)
    run [[kept.stop = true]]
    assert.same({}, run [[return kept.codes]])
    assert.is_true(run [[return db:stats().reconnects]] >= 1)
    assert.is_nil(server:log():find("unhandled", 1, true))
  end)

  it("in the midst of a statement is an error that says so, unless it may be run twice", function()
    local proxy = databases.proxy { target = get_database() }
    start(with(proxy.url, "pool=1"))
    run [[
      kept.problem = nil
      kept.twice = nil
      await(db:value "select 1")
      kept.first = fl.detach(function()
        kept.problem = problem_of(function() await(db:all "select pg_sleep(0.7)") end) or "none"
      end)]]
    sleep(0.2)
    proxy:cut()
    eventually(function() return run [[return kept.problem ~= nil]] end, 5)
    local problem = run [[return kept.problem]]
    assert.equal("connection", problem.code)
    assert.equal(503, problem.status)
    assert.matches("may have taken effect", problem.message)
    run [[fl.detach(function()
      kept.twice = await(db:with { retry = true }:value "select 5 from pg_sleep(0.7)")
    end)]]
    sleep(0.2)
    proxy:cut()
    eventually(function() return run [[return kept.twice]] == 5 end, 5)
    proxy:stop()
  end)

  it("takes its transaction along", function()
    local proxy = databases.proxy { target = get_database() }
    start(with(proxy.url, "pool=2"))
    run [[
      await(db:exec "create table cut_off (n integer)")
      kept.event, kept.problems = fl.event(), {}
      fl.detach(function()
        local outside = problem_of(function()
          await(db:transaction(function(tx)
            await(tx:exec "insert into cut_off values (1)")
            kept.is_inside = true
            await(kept.event:wait())
            for n = 2, 4 do
              local problem = problem_of(function()
                await(tx:exec("insert into cut_off values (?)", n))
              end)
              table.insert(kept.problems, problem and problem.code or "none")
            end
          end))
        end)
        table.insert(kept.problems, outside and outside.code or "none")
      end)]]
    eventually(function() return run [[return kept.is_inside == true]] end)
    proxy:cut()
    run [[kept.event:set()]]
    eventually(function() return run [[return #kept.problems]] == 4 end)
    assert.same({ "connection", "connection", "connection", "connection" },
      run [[return kept.problems]])
    assert.equal(0, run [[return await(db:value "select count(*) from cut_off")]])
    proxy:stop()
  end)

  it("in the midst of a result is an error, and of bytes that are none, too", function()
    local proxy = databases.proxy { target = get_database() }
    start(with(proxy.url, "pool=1"))
    run [[await(db:value "select 1")]]
    for _, fault in ipairs { "cut_after", "corrupt" } do
      proxy[fault](proxy, 20000)
      local problem = run [[return problem_of(function()
        await(db:all "select n, repeat('x', 100) from generate_series(1, 10000) n") end)
        or { code = "connection" }]]
      assert.is_string(problem.code)
      eventually(function()
        return run [[local ok, v = pcall(await, db:value "select 1") return ok and v == 1]]
      end, 5)
    end
    proxy:stop()
  end)

  it("that nobody answers any more is given up, and another one made", function()
    local proxy = databases.proxy { target = get_database() }
    start(with(proxy.url, "pool=1&connect_timeout=1&timeout=500ms"))
    run [[await(db:value "select 1")]]
    proxy:stall()
    local problem = run [[return problem_of(function() await(db:value "select 1") end)]]
    assert.equal("timeout", problem.code)
    proxy:resume()
    proxy:cut()
    eventually(function()
      return run [[local ok, v = pcall(await, db:value "select 1") return ok and v == 1]]
    end, 10)
    proxy:stop()
  end)

  it("is an error within its time when the database does not come back", function()
    local proxy = databases.proxy { target = get_database() }
    local server = start(with(proxy.url, "pool=2&connect_timeout=500ms"))
    run [[await(db:value "select 1")]]
    proxy:refuse()
    proxy:cut()
    local problem
    eventually(function()
      problem = run [[return problem_of(function() await(db:value "select 1") end)]]
      return problem
    end, 5)
    assert.equal("connection", problem.code)
    assert.equal(503, problem.status)
    sleep(0.6)
    local from = now()
    for _ = 1, 5 do
      problem = run [[return problem_of(function() await(db:value "select 1") end)]]
      assert.matches("cannot connect", problem.message)
    end
    assert.is_true(now() - from < 1.5 * slowdown)
    proxy:resume()
    eventually(function()
      return run [[local ok, v = pcall(await, db:value "select 1") return ok and v == 1]]
    end, 8)
    server:wait_log("connected again")
    proxy:stop()
  end)
end)

describe_postgres("postgres: pieces", {}, function(get_database, start, run)
  it("of a million rows take no more memory than a few", function()
    local server = start(get_database().url)
    run [[for row in db:each "select n from generate_series(1, 1000) n" do end]]
    local before = server:rss()
    local allowed = slowdown > 1 and 512 or 32 -- MB; sanitizers keep what has been freed
    assert.equal(1000000, run [[
      local sum = 0
      for row in db:each "select n, repeat('x', 50) as x from generate_series(1, 1000000) n" do
        sum = sum + 1
      end
      return sum]])
    assert.is_true(server:rss() - before < allowed * 1024 * 1024,
      ("from %d to %d"):format(before, server:rss()))
  end)

  it("in a transaction end with the loop, and it goes on", function()
    start()
    assert.same({ 1200, 7, 8 }, run [[
      return await(db:transaction(function(tx)
        local count, seventh = 0, nil
        for _ in tx:each "select n from generate_series(1, 1200) n" do count = count + 1 end
        local rows = tx:each "select n from generate_series(1, 5000) n"
        for row in rows do
          if row.n == 7 then seventh = row.n break end
        end
        rows:close()
        return { count, seventh, await(tx:value("select ?::int", 8)) }
      end))]])
  end)

  it("that nobody wants any more leave the connection as it was", function()
    start(with(get_database().url, "pool=1"))
    assert.same({ 3, 2 }, run [[
      local sum = 0
      local rows = db:each "select n from generate_series(1, 100000) n"
      for row in rows do
        sum = sum + row.n
        if row.n == 2 then break end
      end
      rows:close()
      return { sum, await(db:transaction(function(tx) return await(tx:value "select 2") end)) }]])
  end)

  it("go into a table by COPY and out of it", function()
    start(with(get_database().url, "pool=1"))
    assert.same({ 100000, 100000, "1\tx\n" }, run [[
      await(db:exec "create table copied (n integer, t text)")
      local n = 0
      local count = await(db:copy("copy copied from stdin", function()
        if n == 100000 then return nil end
        local lines = {}
        for i = 1, 1000 do n = n + 1 lines[i] = n .. "\tx\n" end
        return table.concat(lines)
      end))
      local chunks, first = 0, nil
      for chunk in db:copy "copy copied to stdout" do
        first = first or chunk
        chunks = chunks + 1
      end
      return { count, chunks, first }]])
    assert.same({ "22P02", 100000, 1 }, run [[
      local problem = problem_of(function() await(db:copy("copy copied from stdin", "x\ty\n")) end)
      local next_chunk, chunks = db:copy "copy copied to stdout"
      assert(next_chunk(chunks) == "1\tx\n")
      chunks:close()
      return { problem.code, await(db:value "select count(*) from copied"),
        await(db:transaction(function(tx) return await(tx:value "select 1") end)) }]])
    assert.same({ "no more", 100000 }, run [[
      local sent = false
      local problem = problem_of(function()
        await(db:copy("copy copied from stdin", function()
          if sent then error("no more", 0) end
          sent = true
          return "1\ty\n"
        end))
      end)
      return { problem.message, await(db:value "select count(*) from copied") }]])
  end)
end)

describe_postgres("postgres: notifications", {}, function(get_database, start, run)
  it("are heard, in order, and again after the connection was lost", function()
    start()
    run [[
      kept.heard = {}
      kept.listener = db:listen("news", function(payload) table.insert(kept.heard, payload) end)]]
    eventually(function()
      return #get_database():query("select 1 from pg_stat_activity where query ilike 'listen%'",
        { admin = true }) > 0
    end, 5)
    run [[for i = 1, 5 do await(db:all("select pg_notify('news', ?)", tostring(i))) end]]
    eventually(function() return run [[return #kept.heard]] == 5 end, 5)
    assert.same({ "1", "2", "3", "4", "5" }, run [[return kept.heard]])
    get_database():query("select pg_terminate_backend(pid) from pg_stat_activity where query ilike "
      .. "'listen%'", { admin = true })
    eventually(function()
      run [[await(db:all("select pg_notify('news', 'again')"))]]
      return run [[return kept.heard[#kept.heard] ]] == "again"
    end, 10)
    run [[kept.listener:close()]]
    eventually(function()
      return #get_database():query("select 1 from pg_stat_activity where query ilike 'listen%'",
        { admin = true }) == 0
    end, 5)
  end)
end)

describe_postgres("postgres: a session", {}, function(get_database, start, run)
  it("takes what it changed with it", function()
    start(with(get_database().url, "pool=1"))
    assert.same({ "off", "on" }, run [[
      local function scans() return "show enable_seqscan" end
      local within = await(db:transaction(function(tx)
        await(tx:exec "set enable_seqscan = off")
        await(tx:value "select pg_advisory_lock(7)")
        return await(tx:value(scans()))
      end))
      local after = await(db:transaction(function(tx)
        assert(await(tx:value "select count(*) from pg_locks where locktype = 'advisory'") == 0)
        return await(tx:value(scans()))
      end))
      return { within, after }]])
  end)
end)

describe_postgres("postgres: an evacuation", {}, function(get_database, start, run)
  local function begin(server, path, code)
    local client = server:connect()
    client:send("GET " .. path .. "?code=" .. encode(code) .. " HTTP/1.1\r\nHost: x\r\n\r\n")
    return client
  end

  local function serve_impatient(files)
    return start(nil, { app = files, flags = {}, settings = { threads = 1, exile = 0,
      stuck_handler = evacuation.limit(200), blocked_handler = evacuation.limit(200) } })
  end

  local function expect_nothing_open(database)
    eventually(function()
      return running(database, "%pg_sleep(62)%") == 0
    end, 3)
    eventually(function()
      return database:query("select count(*) from pg_stat_activity where state like "
        .. "'idle in transaction%'", { admin = true })[1][1] == "0"
    end, 3)
  end

  it("rolls back at once what the stuck state had open", function()
    local database = get_database()
    database:query("create table held (n integer)")
    local server = serve_impatient()
    local client = begin(server, "/stuck", [[
      spawn(function() await(db:all "select pg_sleep(62)") end)
      local ready = false
      fl.detach(function() await(db:transaction(function(tx)
        await(tx:exec "insert into held values (1)")
        ready = true
        await(fl.sleep(60))
      end)) end)
      while not ready do await(fl.sleep(0.01)) end]])
    server:wait_log("evacuated web thread", 10)
    expect_nothing_open(database)
    database:query("drop table held")
    client:close()
    assert.equal(1, run [[return await(db:value "select 1")]])
  end)

  it("takes the queries of other apps along", function()
    local server = serve_impatient(in_app.files(app, "main/", in_app.files(app, "other/")))
    local other = begin(server, "/other/get", [[
      await(db:value "select 1")
      await(db:transaction(function(tx)
        await(tx:exec "create table moved (n integer)")
        await(tx:all "select pg_sleep(1.5)")
        await(tx:exec "insert into moved values (1)")
      end))]])
    eventually(function() return running(get_database(), "%pg_sleep(1.5)%") == 1 end, 5)
    local stuck = begin(server, "/main/stuck", "")
    server:wait_log("evacuated web thread", 10)
    assert.equal(200, other:response().status)
    assert.equal("1", get_database():query("select count(*) from moved")[1][1])
    stuck:close()
    other:close()
  end)
end)

describe_postgres("postgres by TCP", { tcp = true }, function(get_database, start, run)
  for _, host in ipairs { "127.0.0.1", "localhost" } do
    it("connects to " .. host, function()
      start((get_database().tcp_url:gsub("@[^:/]+", "@" .. host)))
      assert.equal(1, run [[return await(db:value "select 1")]])
    end)
  end

  it("connects to the first host of several that answers", function()
    local database = get_database()
    local closed = ("127.0.0.1:%d"):format(service.free_port())
    start((database.tcp_url:gsub("@[^/]+", ("@%s,localhost:%d"):format(closed, database.port))))
    assert.equal(1, run [[return await(db:value "select 1")]])
  end)

  it("tells a port that nobody listens at", function()
    start((get_database().tcp_url:gsub(":%d+/", (":%d/"):format(service.free_port())))
      .. "?connect_timeout=500ms")
    local problem = run [[return problem_of(function() await(db:value "select 1") end)]]
    assert.equal("connection", problem.code)
    assert.matches("refused", problem.message)
  end)

  it("tells a server that does not speak TLS, when that is required", function()
    local server = start(get_database().tcp_url .. "?sslmode=require")
    local problem = run [[return problem_of(function() await(db:value "select 1") end)]]
    assert.equal("connection", problem.code)
    assert.matches("does not support SSL", problem.message)
    eventually(function() return server:log():find("does not support SSL", 1, true) end)
  end)

  it("tells a host that is not found", function()
    start((get_database().tcp_url:gsub("@[^:/]+", "@no-such-host.invalid"))
      .. "?connect_timeout=500ms")
    local problem = run [[return problem_of(function() await(db:value "select 1") end)]]
    assert.equal("connection", problem.code)
    assert.matches("no%-such%-host", problem.message)
  end)

  it("tells a wrong password soon, and does not storm", function()
    local database = get_database()
    local url = database.tcp_url:gsub("(postgres://[^:]+:)[^@]*@", "%1wrong@")
    local server = start(url)
    local problem = run [[return problem_of(function() await(db:value "select 1") end)]]
    assert.equal("connection", problem.code)
    assert.matches("password authentication failed", problem.message)
    assert.is_nil(problem.message:find("wrong", 1, true))
    local before = select(2, database:log():gsub("password authentication failed", ""))
    run [[for i = 1, 50 do
      problem_of(function() await(db:value "select 1") end)
      await(fl.sleep(0.01))
    end]]
    local after = select(2, database:log():gsub("password authentication failed", ""))
    assert.is_true(after - before <= 4, ("%d attempts"):format(after - before))
    assert.is_nil(server:log():find("wrong", 1, true))
  end)
end)

describe_postgres("postgres by TLS", { tls = true }, function(get_database, start, run)
  it("speaks encrypted, large results too", function()
    start(get_database().tcp_url)
    assert.is_true(run [[return await(db:value
      "select ssl from pg_stat_ssl where pid = pg_backend_pid()")]])
    assert.same({ 2000, 20000000 }, run [[
      local rows = await(db:all "select repeat('x', 10000) as x from generate_series(1, 2000)")
      local size = 0
      for _, row in ipairs(rows) do size = size + #row.x end
      return { #rows, size }]])
    assert.equal(3000000, run [[return #await(db:value("select ?::text", ("y"):rep(3000000)))]])
  end)

  -- Whatever the name, it is there: hostaddr says where.
  local function url_of(host, mode, authority)
    local database = get_database()
    return ("postgres://%s:%s@%s:%d/%s?hostaddr=127.0.0.1&sslmode=%s%s"):format(database.user,
      database.password, host, database.port, database.database, mode,
      authority and "&sslrootcert=" .. authority or "")
  end

  local function expect_encrypted(url)
    start(url)
    assert.is_true(run [[return await(db:value
      "select ssl from pg_stat_ssl where pid = pg_backend_pid()")]])
  end

  local function expect_refused(url, ...)
    local server = start(url)
    local problem = run [[return problem_of(function() await(db:value "select 1") end)]]
    assert.equal("connection", problem.code)
    assert.equal(503, problem.status)
    for _, pattern in ipairs { ... } do assert.matches(pattern, problem.message) end
    local from = now() -- time does not heal it
    run [[problem_of(function() await(db:value "select 1") end)]]
    assert.is_true(now() - from < 0.5 * slowdown, now() - from)
    local logged = "cannot connect: [^\n]*" .. (...)
    eventually(function() return server:log():find(logged) end)
  end

  -- Another authority, which has not signed the server's certificate.
  local function with_stranger(fn)
    local folder = process.temporary_directory()
    service.make_certificate(folder)
    local ok, problem = pcall(fn, folder .. "/cert.pem")
    process.remove_directory(folder)
    if not ok then error(problem, 0) end
  end

  it("takes any certificate with sslmode=require", function()
    expect_encrypted(url_of("elsewhere.example", "require"))
  end)

  it("takes one of its authority for any host with sslmode=verify-ca", function()
    expect_encrypted(url_of("elsewhere.example", "verify-ca", get_database().ca))
  end)

  it("refuses another authority's with sslmode=verify-ca", function()
    with_stranger(function(authority)
      expect_refused(url_of("localhost", "verify-ca", authority), "certificate verify failed")
    end)
  end)

  it("takes its host's with sslmode=verify-full", function()
    expect_encrypted(url_of("localhost", "verify-full", get_database().ca))
  end)

  it("refuses another host's with sslmode=verify-full, and names both", function()
    expect_refused(url_of("elsewhere.example", "verify-full", get_database().ca),
      'certificate for "localhost"', 'does not match host name "elsewhere.example"')
  end)

  it("refuses another authority's with sslmode=verify-full", function()
    with_stranger(function(authority)
      expect_refused(url_of("localhost", "verify-full", authority), "certificate verify failed")
    end)
  end)

  it("tells an authority's file that is not there", function()
    expect_refused(url_of("localhost", "verify-full", "/nowhere/authority.pem"),
      "/nowhere/authority%.pem")
  end)

  it("has what is not wanted any more cancelled", function()
    start(with(get_database().tcp_url, "timeout=300ms"))
    local problem = run [[return problem_of(function() await(db:all "select pg_sleep(75)") end)]]
    assert.equal("timeout", problem.code)
    eventually(function() return running(get_database(), "%pg_sleep(75)%") == 0 end)
  end)

  it("is refused without by a server that takes nothing else", function()
    expect_refused(url_of("localhost", "disable"), "no encryption")
  end)
end)

describe_postgres("postgres with few connections to give", { settings = { max_connections = 6,
  superuser_reserved_connections = 2 } }, function(get_database, start, run)
  it("makes do with those it gets", function()
    start(with(get_database().url, "pool=10"))
    assert.equal(40, run [[
      local right, tasks = 0, {}
      for i = 1, 40 do
        tasks[i] = spawn(function()
          await(db:transaction(function(tx)
            await(tx:value("select pg_sleep(0.01)"))
            right = right + 1
          end))
        end)
      end
      await(gather(tasks))
      return right]])
  end)
end)

describe_postgres("postgres through PgBouncer", {}, function(get_database, start, run)
  local program = service.find_program("pgbouncer")
  if not program then
    pending("pgbouncer is not installed")
    return
  end

  it("needs nothing of a connection beyond a statement or a transaction", function()
    local database, folder = get_database(), process.temporary_directory()
    local account = databases.account.find { "postgres" }
    service.write_file(folder .. "/users", '"test" ""\n')
    service.write_file(folder .. "/ini", ([[
[databases]
test = host=%s port=%d dbname=test user=test
[pgbouncer]
unix_socket_dir = %s
listen_port = 6432
auth_type = any
auth_file = %s/users
pool_mode = transaction
default_pool_size = 2
server_reset_query_always = 1
]]):format(database.dir, database.port, folder, folder))
    databases.account.give(account, folder)
    local pid = process.spawn { argv = databases.account.command(account,
      { program, folder .. "/ini" }), output = folder .. "/output" }
    eventually(function() return process.read(folder .. "/output"):find("process up") end, 5)
    start(("postgres:///test?host=%s&port=6432&user=test&pgbouncer=true"):format(folder))
    assert.same({ 300, 45 }, run [[
      local right, tasks = 0, {}
      for i = 1, 300 do
        tasks[i] = spawn(function()
          if await(db:value("select ?::int", i)) == i then right = right + 1 end
        end)
      end
      await(gather(tasks))
      local sum = await(db:transaction(function(tx)
        local sum = 0
        for i = 1, 9 do sum = sum + await(tx:value("select ?::int", i)) end
        return sum
      end))
      return { right, sum }]])
    assert.equal("0", database:query("select count(*) from pg_prepared_statements")[1][1])
    process.signal(pid, "KILL")
    process.wait(pid, 5)
    process.remove_directory(folder)
  end)
end)
