-- fl.db between Lua and its drivers: what every database has in common and no driver decides.

local support = require "support"

local app = [==[
local fl = require "fasterlua"
local await, gather, spawn = fl.await, fl.gather, fl.spawn
local app = fl.app { title = "databases" }
local db = fl.db "sqlite::memory:?functions=sleep"

local function problem_of(fn, ...)
  local ok, err = pcall(fn, ...)
  if ok then return nil end
  if err == "not enough memory" then collectgarbage() end
  if type(err) ~= "table" then return { message = tostring(err) } end
  local copy = { text = tostring(err) }
  for key, value in pairs(err) do copy[key] = value end
  return copy
end

app:on_start(function()
  await(fl.run_in_state(function(handle) -- its thread stays
    local own = require "fasterlua"
    own.await(handle:value "select 1")
  end, db))
  await(db:exec "drop table if exists numbers")
  await(db:exec "create table numbers (n integer)")
  await(db:exec [[insert into numbers with recursive c(n) as
    (select 1 union all select n + 1 from c where n < 2000) select n from c]])
end)

app:post("/run", { timeout = 20 }, function(req)
  local names = "local db, fl, await, gather, spawn, problem_of = ... "
  local chunk = assert(load(names .. req:text(), "=test", "t"))
  return { value = chunk(db, fl, await, gather, spawn, problem_of) }
end)
app:post("/raw", function(req)
  return assert(load("local db, await = ... " .. req:text(), "=test", "t"))(db, await)
end)
return app
]==]

-- No spare thread, whose start would make the table anew.
support.describe_server("databases", function()
  return { app = { ["app.lua"] = app }, flags = { "--threads", "1" },
    settings = { lua_memory = "32MB", cpu_states = 1, stuck_handler = 0, blocked_handler = 0 } }
end, function(get_server)
  local function run(code, ...)
    local response = get_server():post("/run", code:format(...))
    assert.equal(200, response.status, response.body .. "\n" .. get_server():log():sub(-3000))
    return response:json().value
  end

  describe("arguments", function()
    it("must have a statement before them", function()
      for code, what in pairs { ["nil"] = "nil", ["{}"] = "table", ["7"] = "number" } do
        local problem = run("return problem_of(function() db:all(%s) end)", code)
        assert.equal("argument", problem.code)
        assert.equal("the statement must be a string, got a " .. what,
          (problem.message:gsub("got nil", "got a nil")))
      end
    end)
    it("of a table that is no database are refused", function()
      local message = run [[
        local methods = getmetatable(db).__index
        return problem_of(function()
          methods.all(setmetatable({}, getmetatable(db)), "select 1")
        end).message]]
      assert.matches("a database expected, got table", message)
      assert.matches("fasterlua.op", run [[
        local op = db:value("select 1")._op
        local fake = db:value "select 1"
        fake._op = setmetatable({}, debug.getmetatable(op))
        return problem_of(await, fake).message]])
    end)
    it("may be JSON, whose faults are named, and which leaves nothing half written", function()
      local problem = run [[return problem_of(function()
        db:one("select ?, ?", { a = { 1, 2 } }, { b = { print } })
      end)]]
      assert.equal("argument", problem.code)
      assert.equal("argument 2: cannot encode b[1]: a function", problem.message)
      assert.equal('{"b":[1,2,"é"]}',
        run 'return await(db:value("select ?", { b = { 1, 2, "é" } }))')
    end)
    it("may be a list of a hundred thousand, if the database takes that many", function()
      local problem = run [[return problem_of(function()
        local list = {}
        for i = 1, 100000 do list[i] = i end
        return await(db:value("select count(*) from numbers where n in (?)", list))
      end)]]
      assert.equal("argument", problem and problem.code)
      assert.matches("more values", problem.message)
    end)
    it("of a batch are bounded, with a message that says where", function()
      local message = run [[
        local entry = { "select ?" }
        for i = 2, 9000 do entry[i] = i end
        return problem_of(function() db:batch { { "select 1" }, entry } end).message]]
      assert.matches("batch: entry 2 has 8999 arguments", message)
      assert.equal("batch: entry 2 is a string, not { sql, arguments }",
        run 'return problem_of(function() db:batch { { "select 1" }, "select 2" } end).message')
    end)
    it("outlive what finalizers ask of the database meanwhile", function()
      assert.equal(300, run [[
        local ffi = require "ffi"
        local n, sum = 0, 0
        local function ask()
          n = n + 1
          if n %% 50 ~= 1 then return end
          for i = 1, 1001 do -- looked at, and refused
            pcall(db.value, db, ("select %%d + %%d"):format(n, i), true)
          end
        end
        collectgarbage("setpause", 0)
        collectgarbage("setstepmul", 100000)
        for i = 1, 300 do
          for _ = 1, 4 do ffi.gc(ffi.new "int[1]", ask) end
          sum = sum + await(db:value("select json_extract(?, '$.a') + ? - ?",
            setmetatable({ a = 1 }, {}), i, i))
        end
        collectgarbage("setpause", 400)
        collectgarbage("setstepmul", 200)
        return sum]])
    end)
  end)

  describe("results", function()
    it("have columns of any name, and of the same name", function()
      local response = get_server():post("/raw", [[
        local row = await(db:one 'select 1 as "__index", 2 as "", 3 as a, 4 as a, 5 as "__name"')
        assert(row.__index == 1 and row[""] == 2 and row.a == 4 and row.missing == nil)
        return { row }]])
      assert.equal('[{"__index":1,"":2,"a":4,"__name":5}]', response.body)
    end)
    it("have a thousand columns", function()
      assert.equal(1000, run [[
        local parts = {}
        for i = 1, 1000 do parts[i] = i .. " as c" .. i end
        local row = await(db:one("select " .. table.concat(parts, ",")))
        local n = 0
        for name, value in pairs(row) do n = n + (name == "c" .. value and 1 or 0) end
        return n]])
    end)
    it("of ever new columns do not fill the heap", function()
      assert.is_true(run [[
        local function bytes() collectgarbage() return collectgarbage "count" end
        local before
        for i = 1, 5000 do
          await(db:one(("select 1 as column_%%d, 2 as other"):format(i)))
          if i == 1500 then before = bytes() end
        end
        return bytes() < before + 1000]])
    end)
    it("are written as JSON where fields are removed, renamed and added", function()
      local response = get_server():post("/raw", [[
        local row = await(db:one "select 1 as a, 2 as b")
        row.a, row.c = nil, row.b
        row.b = { await(db:one "select null as d") }
        return { rows = { row } }]])
      assert.equal('{"rows":[{"a":null,"b":[{"d":null}],"c":2}]}', response.body)
    end)
    it("that cannot be JSON are named by their path", function()
      assert.matches("cannot encode rows%[1%].*mixed keys", run [[
        local row = await(db:one "select 1 as a")
        row[1] = 2
        return problem_of(require("fasterlua.json").encode, { rows = { row } }).message]])
      assert.matches("cannot encode%s+a: a function", run [[
        local row = await(db:one "select 1 as a")
        row.a = print
        return problem_of(require("fasterlua.json").encode, row).message]])
    end)
    it("that Lua has no memory for are an error of who awaits, wherever that is", function()
      local text = "select randomblob(20000) as b, n from numbers"
      assert.same({ "not enough memory", "not enough memory", 1 }, run([[
        local alone = problem_of(function() await(db:all(%q)) end)
        local together = problem_of(function() await(gather(db:all(%q), db:value "select 1")) end)
        return { alone.message, together.message, await(db:value "select 1") }]], text, text))
    end)
    it("with more bytes than max_result are an error that names the option", function()
      local problem = run [[
        local small = fl.db("sqlite::memory:", { max_result = 1000 })
        return problem_of(function() await(small:value "select zeroblob(2000)") end)]]
      assert.equal("too_large", problem.code)
      assert.matches("1000 bytes.*max_result", problem.message)
    end)
  end)

  describe("futures of queries", function()
    local slow = "select fasterlua_sleep(5000)"
    it("end with the time they are given, and the query with them", function()
      assert.same({ "timeout", 0 }, run([[
        local problem = problem_of(function() await(fl.timeout(0.05, db:all(%q))) end)
        while db:stats().pending > 0 do await(fl.sleep(0.01)) end
        return { problem.kind, db:stats().pending }]], slow))
    end)
    it("are cancelled before, while and after they are awaited", function()
      assert.same({ true, "cancelled", true, "cancelled", false, 7 }, run([[
        local first, second, third = db:all(%q), db:all(%q), db:value "select 7"
        local before = first:cancel()
        local one = problem_of(await, first).kind
        local waiting = spawn(function() return problem_of(await, second).kind end)
        await(fl.sleep(0.02))
        local during = second:cancel()
        local two = await(waiting)
        await(third)
        return { before, one, during, two, third:cancel(), await(third) }]], slow, slow))
    end)
    it("are shared by tasks that await them, several times over", function()
      assert.same({ 7, 7, 7, 7 }, run [[
        local query = db:value "select 7 + fasterlua_sleep(30) * 0"
        local function twice() return { await(query), await(query) } end
        local a, b = await(gather(spawn(twice), spawn(twice)))
        return { a[1], a[2], b[1], b[2] }]])
    end)
    it("tell who forgot await where", function()
      local text = run [[
        local query = db:one "select 1 as a"
        local message = problem_of(function()
          return query.a
        end).message
        await(query)
        return message]]
      assert.equal('test:3: indexing (field "a") a future: did you forget await?', text)
    end)
    it("raise in all combinations what the database said", function()
      assert.same({ "syntax", "db", "db" }, run [[
        local bad = "select * from nowhere"
        local first = problem_of(function() db:all "select 1; select 2" end).code
        local second = problem_of(function() await(gather(db:all(bad), db:value "select 1")) end)
        local results = await(fl.all_settled(db:all(bad)))
        return { first, second.kind, results[1].error.kind }]])
    end)
    it("keep kind, code, message and statement out of other states", function()
      local sql = "select * from nowhere"
      assert.same({ "db", "SQLITE_ERROR", "no such table: nowhere", sql }, run [[
        local err = problem_of(function() await(fl.run_in_state(function(handle)
          local own = require "fasterlua"
          return own.await(handle:all "select * from nowhere")
        end, db)) end)
        return { err.kind, err.code, err.message, err.sql }]])
    end)
  end)

  it("says where a method was called with a dot", function()
    assert.matches("test:%d+: a database expected, got string: a method has been called with a dot",
      run [[
        local _, problem = pcall(function() local f = db.all("select 1") return f end)
        return tostring(problem)]])
  end)

  describe("a failure that nobody awaits", function()
    local function lost()
      local log = get_server():log()
      return select(2, log:gsub("a query that nobody awaited has failed: was await forgotten", ""))
    end

    it("is logged when the collector finds it", function()
      assert.equal("ok", run [[
        db:exec "insert into nowhere values (1)"
        await(fl.sleep(0.05))
        return "ok"]])
      run "collectgarbage() collectgarbage() return true"
      assert.is_truthy(get_server():wait_log("was await forgotten%?  app=[^\n]*code=SQLITE_ERROR "
        .. "[^\n]*nowhere[^\n]*sql="), get_server():log())
      assert.equal(1, lost())
    end)

    it("is none of one that was awaited, cancelled or well", function()
      local before = lost()
      run [[
        pcall(await, db:exec "insert into nowhere values (2)")
        local f = db:exec "insert into nowhere values (3)"
        f:cancel()
        db:value "select 1"
        pcall(await, gather(db:exec "insert into nowhere values (4)", db:value "select 2"))
        await(fl.sleep(0.05))
        return true]]
      run "collectgarbage() collectgarbage() return true"
      run "return true"
      assert.equal(before, lost())
    end)
  end)

  describe("a transaction", function()
    it("that cannot begin gives its session back", function()
      assert.equal(0, run [[
        for _ = 1, 20 do
          local future = db:transaction(function(tx)
            await(tx:exec "select fasterlua_sleep(20)")
          end)
          local late = db:transaction(function() end)
          await(fl.sleep(0))
          late:cancel()
          await(future)
        end
        await(fl.sleep(0.05))
        return db:stats().sessions]])
    end)
    it("refuses parts that overlap, for one's roll-back would undo the other", function()
      local problem = run [[
        return await(db:transaction(function(tx)
          local first = tx:transaction(function(part) await(part:value "select 1") return 1 end)
          local problem = problem_of(await, tx:transaction(function() end))
          assert(await(first) == 1)
          assert(await(tx:transaction(function() return 2 end)) == 2)
          return problem.message
        end))]]
      assert.matches("part of this transaction is open", problem)
    end)
    it("has parts in parts, by the part or the transaction itself", function()
      assert.same({ 1, 2, 2, 0 }, run [[
        await(db:exec "create table if not exists parts (n integer)")
        await(db:exec "delete from parts")
        return await(db:transaction(function(tx)
          local list = {}
          await(tx:transaction(function(part)
            await(part:exec "insert into parts values (1)")
            list[1] = await(tx:value "select count(*) from parts")
            await(tx:transaction(function() await(tx:exec "insert into parts values (2)") end))
            list[2] = await(tx:value "select count(*) from parts")
            pcall(await, part:transaction(function(inner)
              await(inner:exec "insert into parts values (3)")
              error "no"
            end))
          end))
          list[3] = await(tx:value "select count(*) from parts")
          list[4] = #problem_of(function() await(tx:transaction(function(part)
            await(part:exec "delete from parts")
            error("no", 0)
          end)) end).message - 2
          assert(await(tx:value "select count(*) from parts") == 2)
          return list
        end))]])
    end)
    it("has parts that are over at their end", function()
      assert.matches("over", run [[
        return await(db:transaction(function(tx)
          local kept
          await(tx:transaction(function(part) kept = part end))
          return problem_of(function() kept:value "select 1" end).message
        end))]])
    end)
    it("runs queries of several tasks in their order", function()
      assert.same({ 1, 2, 3 }, run [[
        return await(db:transaction(function(tx)
          return { await(gather(tx:value "select 1", tx:value "select 2", tx:value "select 3")) }
        end))]])
    end)
    it("names the faults of its options", function()
      for options, text in pairs {
        ['{ retry = "3" }'] = "^test:1: db:transaction: retry must be an integer from 0, got 3",
        ["{ isolation = {} }"] = "^test:1: db:transaction: isolation must be",
        ["{ isolated = true }"] = '^test:1: db:transaction: unknown option "isolated"',
      } do
        assert.matches(text,
          run("return problem_of(function() db:transaction(print, %s) end).message", options))
      end
    end)
    it("keeps the error and its place when it is rolled back", function()
      local response = get_server():post("/raw", [[
        return await(db:transaction(function(tx)
          await(tx:exec "select * from nowhere")
        end))]])
      assert.equal(500, response.status)
      assert.matches("no such table: nowhere.*test:2:", get_server():log())
    end)
    it("that is cancelled while it commits, begins or works leaves no session behind", function()
      assert.equal(0, run [[
        for turn = 0, 30 do
          local future = db:transaction(function(tx)
            await(tx:exec "select 1")
            await(tx:transaction(function(part) await(part:exec "select 2") end))
            for _ in tx:each "select n from numbers" do end
          end)
          for _ = 1, turn do await(fl.sleep(0)) end
          future:cancel()
          problem_of(await, future)
        end
        for _ = 1, 100 do
          if db:stats().sessions == 0 then break end
          await(fl.sleep(0.01))
        end
        return db:stats().sessions]])
    end)
  end)

  describe("a loop over rows", function()
    it("is not for two tasks at once, which would miss rows", function()
      assert.matches("two tasks", run [[
        local rows = db:each "select 1 as n, fasterlua_sleep(30) as slept"
        local first = spawn(function() return rows() end)
        await(fl.sleep(0.005))
        local problem = problem_of(function() rows() end)
        assert(await(first).n == 1)
        rows:close()
        return problem and problem.message or "none"]])
    end)
    it("ends when it is closed meanwhile, and its connection goes back", function()
      assert.same({ 0, 12 }, run [[
        local ended = 0
        for turns = 1, 12 do
          local rows = db:each "select 1 as n, fasterlua_sleep(100) as slept"
          local first = spawn(function() return rows() == nil and rows() == nil end)
          for _ = 1, turns do await(fl.sleep(0)) end
          rows:close()
          ended = ended + (await(first) and 1 or 0)
        end
        for _ = 1, 100 do
          if db:stats().sessions == 0 then break end
          await(fl.sleep(0.01))
        end
        return { db:stats().sessions, ended }]])
    end)
    it("is over for good when it was closed, twice too", function()
      assert.same({ 1, true, true }, run [[
        local rows = db:each "select n from numbers order by n"
        local first = rows().n
        rows:close()
        rows:close()
        return { first, rows() == nil, rows() == nil }]])
    end)
    it("in a transaction raises its statement's error, after which that goes on", function()
      assert.same({ "no such table: nowhere", "syntax", 7 }, run [[
        return await(db:transaction(function(tx)
          local one = problem_of(function() for _ in tx:each "select * from nowhere" do end end)
          local two = problem_of(function() for _ in tx:each "select 1; select 2" do end end)
          return { one.message, two.code, await(tx:value "select 7") }
        end))]])
    end)
    it("may stand within another one", function()
      assert.equal(3 * 4, run [[
        local count = 0
        for _ in db:each "select n from numbers where n <= 3" do
          for _ in db:each "select n from numbers where n <= 4" do count = count + 1 end
        end
        return count]])
    end)
  end)

  describe("opening", function()
    it("names what is wrong with its options", function()
      for code, text in pairs {
        ['fl.db("sqlite::memory:", 5)'] = "^test:1: fl.db: options must be a table, got a number",
        ['fl.db("sqlite::memory:", { pool = 1e300 })'] = 'option "pool" must be',
        ['fl.db("sqlite::memory:", { timeout = 1e300 })'] = 'option "timeout" must be',
        ['fl.db("sqlite::memory:", { timeout = -1 })'] = 'option "timeout" must be',
        ['fl.db("sqlite::memory:", { timeout = 0/0 })'] = 'option "timeout" must be',
        ['fl.db("sqlite::memory:", { max_result = -5 })'] = 'option "max_result" must be',
        ['fl.db("sqlite::memory:", { max_result = 1e300 })'] = 'option "max_result" must be',
        ["db:with(nil)"] = "^test:1: db:with: options must be a table, got nil",
        ["db:with { timeout = -1 }"] = "^test:1: db:with: timeout must be a time",
        ["db:with { timeout = 1e300 }"] = "^test:1: db:with: timeout must be a time",
      } do
        assert.matches(text, run("return problem_of(function() %s end).message", code))
      end
    end)
    it("takes the shortest time as a time, and none as for ever", function()
      assert.equal("timeout", run [[return problem_of(function()
        await(db:with { timeout = 0.0001 }:value "select fasterlua_sleep(5000)")
      end).code]])
    end)
    it("is bounded: databases stay open", function()
      local message = run [[
        local problem
        for i = 1, 100 do
          problem = problem_of(function() fl.db("sqlite:many" .. i .. ".db") end)
          if problem then break end
        end
        assert(fl.db "sqlite:many1.db" == fl.db "sqlite:many1.db")
        return problem.message]]
      assert.matches("^test:%d+: fl.db: more than 64 databases", message)
    end)
  end)
end)
