-- db_contract: what fl.db promises of every database. Each one's spec runs it against its own.
--
--     db_contract("SQLite", { url = function() return "sqlite:test.db" end, … })
--
-- The app under test runs Lua that the test posts: `run [[return await(db:one("select 1 as a"))]]`.

local busted = require "busted"
local in_app = require "support.in_app"
local support = require "support"

local describe, it, assert = busted.describe, busted.it, require "luassert"

local app = [==[
local fl = require "fasterlua"
local await, gather, spawn = fl.await, fl.gather, fl.spawn
local app = fl.app { title = "databases" }
local url = assert(os.getenv "TEST_DATABASE_URL")
local db, problem_of = fl.db(url), require("testing").problem_of

local chunks = {}
local function compile(text)
  if not chunks[text] then
    local names = "local db, fl, await, gather, spawn, problem_of, url, req = ... "
    chunks[text] = assert(load(names .. text, "=test", "t"))
  end
  return chunks[text]
end

app:on_start(function() -- connections and threads that stay are there before the tests begin
  local list = {}
  for index = 1, 12 do
    list[index] = spawn(function() return await(db:transaction(function(tx)
      await(tx:value "select 1")
      await(fl.sleep(0.02))
    end, { read_only = true })) end)
  end
  await(gather(list))
  await(db:exec "drop table if exists warm")
  await(db:exec "create table warm (n integer)")
  await(db:exec "insert into warm values (1)")
  for index = 1, 8 do
    list[index] = fl.run_in_state(function(handle)
      local own = require "fasterlua"
      own.await(handle:value "select count(*) from warm")
      own.await(own.sleep(0.05))
    end, db)
  end
  await(gather(list))
  for _ = 1, 5 do -- by now it is known to be fast
    await(db:value "select 1")
  end
end)

app:post("/run", { timeout = 20 }, function(req)
  local text = req:text()
  local value = compile(text)(db, fl, await, gather, spawn, problem_of, url, req)
  return { value = value == nil and fl.null or value }
end)
app:post("/raw", { timeout = 20 }, function(req)
  return compile(req:text())(db, fl, await, gather, spawn, problem_of, url, req)
end)
app:post("/short", { timeout = 0.3 }, function(req)
  return compile(req:text())(db, fl, await, gather, spawn, problem_of, url, req)
end)
app:get("/short", { timeout = 0.3 }, function(req)
  return compile(req.query.code)(db, fl, await, gather, spawn, problem_of, url, req)
end)
return app
]==]

---@class support.db_contract
---@field url fun(): string
---@field id string type of an integer primary key that counts by itself
---@field sleep fun(ms: integer): string a SELECT that takes so long, as column `slept`
---@field json string? column type of JSON; nil: there is none
---@field bytes string column type of bytes
---@field bool string column type of booleans
---@field double string column type
---@field returning boolean whether INSERT … RETURNING is known
---@field last_id boolean whether exec tells the id of what was inserted
---@field unique string Lua pattern of the code of a broken unique constraint
---@field parallel boolean? false: queries do not overlap
---@field env table<string, string>?

---@param title string
---@param d support.db_contract
---@param define fun(get_server: fun(): support.server, run: function)? more tests of its own
local function db_contract(title, d, define)
  support.describe_server(title, function()
    local env = { TEST_DATABASE_URL = d.url() }
    for name, value in pairs(d.env or {}) do
      env[name] = value
    end
    return { app = in_app.files(app), env = env,
      flags = { "--threads", "1" } }
  end, function(get_server)
    local function run(code, ...)
      local response = get_server():post("/run", code:format(...))
      assert.equal(200, response.status, response.body .. "\n" .. get_server():log():sub(-3000))
      return response:json().value
    end

    local function table_of(name, columns)
      run('await(db:exec "drop table if exists %s") await(db:exec [[create table %s (%s)]])', name,
        name, columns)
    end

    describe("reads", function()
      it("one row, as a table of its columns", function()
        assert.same({ a = 1, b = "x" }, run 'return await(db:one("select 1 as a, \'x\' as b"))')
      end)
      it("nothing where there is no row", function()
        assert.same({ one = "nil", value = "nil", all = 0 }, run [[
          local none = "select 1 as a where 1 = 0"
          return { one = tostring(await(db:one(none))), value = tostring(await(db:value(none))),
            all = #await(db:all(none)) }]])
      end)
      it("all rows in their order, a list even when it is empty", function()
        table_of("numbers", "n integer")
        run 'await(db:exec "insert into numbers values (1), (2), (3)")'
        local response = get_server():post("/raw",
          'return await(db:all "select n from numbers order by n desc")')
        assert.equal('[{"n":3},{"n":2},{"n":1}]', response.body)
        response = get_server():post("/raw",
          'return await(db:all "select n from numbers where n > 9")')
        assert.equal("[]", response.body)
      end)
      it("NULL as nil, which is null in JSON, and fields that the app adds", function()
        local response = get_server():post("/raw", [[
          local row = await(db:one "select 1 as a, null as b, 'c' as c")
          assert(row.b == nil)
          row.extra = true
          return row]])
        assert.equal('{"a":1,"b":null,"c":"c","extra":true}', response.body)
      end)
      it("rows that cross into another state", function()
        assert.same({ a = 1 }, run [[
          local row = await(db:one "select 1 as a, null as b")
          return await(fl.run_in_state(function(r) return r end, row))]])
      end)
      it("in another state, by the same handle", function()
        assert.equal(42, run [[
          return await(fl.run_in_state(function(handle)
            return require("fasterlua").await(handle:value "select 42")
          end, db))]])
      end)
    end)

    describe("arguments", function()
      it("stand for ?, and are never text of the statement", function()
        table_of("texts", "t varchar(200)")
        run([[
          local evil = "'); drop table texts; --"
          await(db:exec("insert into texts (t) values (?)", evil))
          assert(await(db:value("select t from texts where t = ?", evil)) == evil)
          assert(await(db:value "select count(*) from texts") == 1)]])
      end)
      it("may be nil, also the last one", function()
        table_of("holes", "a integer, b varchar(10), c integer")
        assert.same({ 1, true, true }, run [[
          await(db:exec("insert into holes (a, b, c) values (?, ?, ?)", 1, nil, nil))
          local row = await(db:one("select a, b, c from holes"))
          return { row.a, row.b == nil, row.c == nil }]])
      end)
      it("must be as many as there are ?", function()
        local problem = run [[return problem_of(function()
          return await(db:one("select ? as a", 1, 2)) end)]]
        assert.equal("argument", problem.code)
        assert.matches("1 argument expected, got 2", problem.message)
        assert.matches("select", problem.sql)
      end)
      it("may be a list where it stands as in (?)", function()
        table_of("members", "n integer")
        assert.same({ 2, 2, 0, 3, 1 }, run [[
          await(db:exec "insert into members values (1), (2), (3)")
          local function count(...) return await(db:value(...)) end
          local sql = "select count(*) from members where n in (?)"
          return { count(sql, { 1, 3 }), count(sql, { 2, 3, 9 }), count(sql, {}),
            count("select count(*) from members where n not in (?)", {}), count(sql, 2) }]])
      end)
      it("that nobody can send are named", function()
        for value, words in pairs { ["print"] = "argument 2 is a function",
          ["coroutine.create(print)"] = "argument 2 is a thread",
          ["{ print }"] = "argument 2" } do
          local problem = run([[return problem_of(function()
            return await(db:all("select ?, ?", 1, %s)) end)]], value)
          assert.equal("argument", problem.code)
          assert.matches(words, problem.message, 1, true)
        end
      end)
      it("write a question mark as ??, or in quotes", function()
        assert.equal("?", run [[return await(db:value "select '?' as q")]])
      end)
    end)

    describe("values come back as they were sent:", function()
      local function round_trip(column, values)
        local name = "trips_" .. column:gsub("%W", "_")
        table_of(name, "n integer, v " .. column)
        return run([[
          local insert = "insert into %s (n, v) values (?, ?)"
          local select = "select v from %s where n = ?"
          local values = %s
          local wrong = {}
          for index, value in ipairs(values) do
            await(db:exec(insert, index, value))
            local got = await(db:value(select, index))
            if got ~= value then wrong[#wrong + 1] = tostring(value) .. " -> " .. tostring(got) end
          end
          return wrong]], name, name, values)
      end
      it("integers", function()
        assert.same({}, round_trip("bigint",
          "{ 0, 1, -1, 127, 128, 65536, -2147483648, 2^31, 2^53, -2^53 }"))
      end)
      it("int64 beyond 2^53, exactly", function()
        assert.same({}, round_trip("bigint", "{ 9007199254740993LL, 9223372036854775807LL, "
          .. "-9223372036854775807LL - 1 }"))
      end)
      it("numbers", function()
        assert.same({}, round_trip(d.double, "{ 0.1, -1.5, 1e300, 1e-300, 3.141592653589793 }"))
      end)
      it("booleans", function()
        assert.same({}, round_trip(d.bool, "{ true, false }"))
      end)
      it("texts in any script, long ones too", function()
        assert.same({}, round_trip("text",
          '{ "", "a", "äöü €", "日本語", ("x"):rep(60000), "a\'b\\\\c" }'))
      end)
      it("bytes", function()
        assert.same({}, round_trip(d.bytes, [[{ "\0\1\255", "\\x00", ("\200\0"):rep(20000) }]]))
      end)
      if d.json then
        it("JSON, as tables", function()
          table_of("documents", "v " .. d.json)
          assert.same({ a = { 1, 2, { b = "c" } }, d = true }, run [[
            local document = { a = { 1, 2, { b = "c" } }, d = true }
            await(db:exec("insert into documents values (?)", document))
            return await(db:value "select v from documents")]])
        end)
      end
    end)

    describe("exec", function()
      it("tells how many rows were affected", function()
        table_of("counts", "n integer")
        assert.same({ 3, 2, 0 }, run [[
          local inserted = await(db:exec "insert into counts values (1), (2), (3)")
          local changed = await(db:exec("update counts set n = n + 10 where n > ?", 1))
          local none = await(db:exec "delete from counts where n = 99")
          return { inserted, changed, none }]])
      end)
      if d.last_id then
        it("tells the id of what was inserted", function()
          table_of("ids", "id " .. d.id .. ", t varchar(9)")
          assert.same({ 1, 2 }, run [[
            local _, first = await(db:exec("insert into ids (t) values (?)", "a"))
            local _, second = await(db:exec("insert into ids (t) values (?)", "b"))
            return { first, second }]])
        end)
      end
      if d.returning then
        it("has rows where the statement returns some", function()
          table_of("returned", "id " .. d.id .. ", t varchar(9)")
          assert.same({ id = 1, t = "a" },
            run [[return await(db:one("insert into returned (t) values (?) returning *", "a"))]])
        end)
      end
    end)

    describe("errors", function()
      it("are tables with the database's code and the statement", function()
        local problem = run [[
          return problem_of(function() return await(db:all "select * from nowhere") end)]]
        assert.equal("db", problem.kind)
        assert.matches("nowhere", problem.message)
        assert.equal("select * from nowhere", problem.sql)
        assert.is_true(#problem.code > 0)
      end)
      it("name the constraint", function()
        table_of("unique_names", "n varchar(9) unique")
        local problem = run [[
          await(db:exec "insert into unique_names values ('a')")
          return problem_of(function() await(db:exec "insert into unique_names values ('a')") end)]]
        assert.matches(d.unique, problem.code)
        assert.is_string(problem.constraint)
      end)
      it("that nobody handles are answered with 500", function()
        local code = 'return await(db:all "select * from nowhere")'
        assert.equal(500, get_server():post("/raw", code).status)
      end)
      it("leave the connection as it was", function()
        assert.equal(20, run [[
          for i = 1, 20 do problem_of(function() await(db:all "select * from nowhere") end) end
          local n = 0
          for i = 1, 20 do n = n + await(db:value "select 1") end
          return n]])
      end)
      it("refuse what changes a connection that others use", function()
        for _, sql in ipairs { "begin", "commit", "rollback", "savepoint a" } do
          local problem = run('return problem_of(function() return await(db:exec "%s") end)', sql)
          assert.equal("refused", problem.code)
          assert.matches("transaction", problem.message)
        end
      end)
      it("refuse a second statement", function()
        local problem = run [[
          return problem_of(function() await(db:all "select 1; select 2") end)]]
        assert.equal("syntax", problem.code)
      end)
    end)

    describe("a batch", function()
      it("runs all statements", function()
        table_of("batched", "n integer")
        assert.same({ 1, 1, 2 }, run [[
          local results = await(db:batch("insert into batched values (?)", { { 1 }, { 2 } }))
          local more = await(db:batch { { "update batched set n = n + ?", 1 } })
          return { results[1].affected, results[2].affected, more[1].affected }]])
      end)
      it("is all or nothing", function()
        table_of("atomic", "n integer primary key")
        assert.equal(0, run [[
          problem_of(function()
            await(db:batch("insert into atomic values (?)", { { 1 }, { 2 }, { 1 } }))
          end)
          return await(db:value "select count(*) from atomic")]])
      end)
      it("brings rows", function()
        assert.same({ { a = 7 } }, run [[
          return await(db:batch { { "select ? + 0 as a", 7 } })[1].rows]])
      end)
    end)

    describe("a transaction", function()
      it("is committed when its function returns, with what that returned", function()
        table_of("kept", "n integer")
        assert.same({ "done", 1 }, run [[
          local text = await(db:transaction(function(tx)
            await(tx:exec "insert into kept values (1)")
            return "done"
          end))
          return { text, await(db:value "select count(*) from kept") }]])
      end)
      it("is rolled back when it raises", function()
        table_of("undone", "n integer")
        assert.same({ "no", 0 }, run [[
          local problem = problem_of(function()
            await(db:transaction(function(tx)
              await(tx:exec "insert into undone values (1)")
              error("no", 0)
            end))
          end)
          return { problem.message, await(db:value "select count(*) from undone") }]])
      end)
      it("is rolled back when its request runs out of time, and others go on", function()
        table_of("late", "n integer")
        local response = get_server():post("/short", [[
          await(db:transaction(function(tx)
            await(tx:exec "insert into late values (1)")
            await(fl.sleep(10))
          end))]])
        assert.equal(504, response.status)
        support.eventually(function()
          return run [[return await(db:value "select count(*) from late")]] == 0
        end, 5)
        run [[await(db:exec "insert into late values (2)")]]
      end)
      it("has parts that are rolled back by themselves", function()
        table_of("parts", "n integer")
        assert.same({ 1, 3 }, run [[
          await(db:transaction(function(tx)
            await(tx:exec "insert into parts values (1)")
            pcall(await, tx:transaction(function(inner)
              await(inner:exec "insert into parts values (2)")
              error "no"
            end))
            await(tx:transaction(function(inner)
              await(inner:exec "insert into parts values (3)")
            end))
          end))
          local list = {}
          for i, row in ipairs(await(db:all "select n from parts order by n")) do
            list[i] = row.n
          end
          return list]])
      end)
      if d.parallel ~= false then
        it("sees its own changes, which others see after it", function()
          table_of("seen", "n integer")
          assert.same({ 1, 0, 1 }, run [[
            local inside, outside
            await(db:transaction(function(tx)
              await(tx:exec "insert into seen values (1)")
              inside = await(tx:value "select count(*) from seen")
              outside = await(db:value "select count(*) from seen")
            end))
            return { inside, outside, await(db:value "select count(*) from seen") }]])
        end)
      end
      it("cannot be used when it is over", function()
        assert.matches("over", run [[
          local kept
          await(db:transaction(function(tx) kept = tx end))
          return problem_of(function() await(kept:exec "select 1") end).message]])
      end)
      it("refuses to commit or roll back by hand", function()
        assert.equal("refused", run [[
          return await(db:transaction(function(tx)
            return problem_of(function() await(tx:exec "commit") end).code
          end))]])
      end)
      it("of many tasks at once counts right", function()
        table_of("counter", "n integer")
        assert.equal(200, run [[
          await(db:exec "insert into counter values (0)")
          local list = {}
          for i = 1, 200 do
            list[i] = db:transaction(function(tx)
              await(tx:exec "update counter set n = n + 1")
            end, { retry = 20 })
          end
          await(gather(list))
          return await(db:value "select n from counter")]])
      end)
    end)

    describe("a loop over rows", function()
      local function many(count)
        table_of("many", "n integer")
        run([[
          for from = 1, %d, 500 do
            local values = {}
            for n = from, math.min(from + 499, %d) do values[#values + 1] = "(" .. n .. ")" end
            await(db:exec("insert into many values " .. table.concat(values, ",")))
          end]], count, count)
      end
      it("sees each row once, in order", function()
        many(3000)
        assert.same({ 3000, 3000 * 3001 / 2, true }, run [[
          local count, sum, sorted, last = 0, 0, true, 0
          for row in db:each("select n from many where n > ? order by n", 0) do
            count, sum, sorted, last = count + 1, sum + row.n, sorted and row.n > last, row.n
          end
          return { count, sum, sorted }]])
      end)
      it("may be left early, many times", function()
        many(2000)
        assert.equal(60, run [[
          local n = 0
          for i = 1, 30 do
            local rows = db:each "select n from many order by n"
            for row in rows do
              n = n + row.n
              if row.n == 1 then n = n + 1 break end
            end
            rows:close()
          end
          return n]])
      end)
      it("works in a transaction", function()
        many(1200)
        assert.same({ 1200, 1200 }, run [[
          return await(db:transaction(function(tx)
            local count = 0
            for _ in tx:each "select n from many" do count = count + 1 end
            return { count, await(tx:value "select count(*) from many") }
          end))]])
      end)
      it("raises the error of its statement", function()
        assert.matches("nowhere", run [[return problem_of(function()
          for _ in db:each "select * from nowhere" do end end).message]])
      end)
    end)

    describe("time", function()
      if d.parallel ~= false then
        it("is shared by queries that wait at once", function()
          local took = run([[
            local now, best = require("testing").now, math.huge
            for _ = 1, 5 do
              local from = now()
              await(gather(db:value %q, db:value %q, db:value %q))
              best = math.min(best, now() - from)
              if best < 0.33 then break end
            end
            return best]], d.sleep(100), d.sleep(200), d.sleep(300))
          assert.is_true(took >= 0.3 and took < 0.3 + 0.03 * support.slowdown, took)
        end)
      end
      it("of a query ends with its time-out, and the next one is answered", function()
        local result = run([[
          local now = require("testing").now
          local from = now()
          local problem = problem_of(function()
            await(db:with { timeout = 0.2 }:value %q)
          end)
          return { code = problem.code, took = now() - from, next = await(db:value "select 5") }]],
          d.sleep(3000))
        assert.equal("timeout", result.code)
        assert.is_true(result.took < 0.2 + 0.5 * support.slowdown, result.took)
        assert.equal(5, result.next)
      end)
      it("of a request ends its queries", function()
        local code = ("return await(db:value %q)"):format(d.sleep(5000))
        assert.equal(504, get_server():post("/short", code).status)
        assert.equal(1, run 'return await(db:value "select 1")')
      end)
    end)

    it("answers hundreds of queries at once, each with its own", function()
      assert.equal(0, run [[
        local list, wrong = {}, 0
        for i = 1, 500 do
          list[i] = spawn(function()
            for j = 1, 5 do
              local sent = i * 10 + j
              if await(db:value("select ? + 0", sent)) ~= sent then wrong = wrong + 1 end
            end
          end)
        end
        await(gather(list))
        return wrong]])
    end)

    it("is left by the states of pools some time after their last query", function()
      local function in_pool(code)
        return run([[return await(fl.run_in_state(function(location)
          local own = require "fasterlua"
          local handle = own.db(location, { idle_timeout = 0.2 })
          %s
          return handle:stats().connections
        end, url))]], code)
      end
      in_pool 'own.await(handle:value "select 1")'
      support.eventually(function()
        return in_pool "" == 0
      end, 5)
      run [[return await(fl.run_in_state(function(location)
        local own = require "fasterlua"
        return own.await(own.db(location, { idle_timeout = 0.2 }):value "select 1")
      end, url))]]
    end)

    it("tells what it has", function()
      local stats = run "return db:stats()"
      assert.is_true(stats.queries > 0)
      assert.equal(0, stats.pending)
    end)

    if define then
      define(get_server, run, table_of)
    end
  end)
end

return db_contract
