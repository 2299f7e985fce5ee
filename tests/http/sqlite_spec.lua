-- What fl.db on SQLite has of its own, beside what every database promises (db_sqlite_spec.lua):
-- one writer for all, readers beside it, several processes at one file.

local lfs = require "lfs"
local support = require "support"

local process = support.process
local now, sleep = process.now, process.sleep

local app = [==[
local ffi = require "ffi"
local fl = require "fasterlua"
local await, gather, spawn = fl.await, fl.gather, fl.spawn
local app = fl.app { title = "sqlite" }
local db = fl.db(os.getenv "TEST_DATABASE_URL")

ffi.cdef "typedef struct { long seconds, nanoseconds; } a_time;"
ffi.cdef "int clock_gettime(int clock, a_time *time);"
local time = ffi.new("a_time")
local function clock(number)
  ffi.C.clock_gettime(number, time)
  return tonumber(time.seconds) + tonumber(time.nanoseconds) / 1e9
end
local function now() return clock(1) end
local function spin(seconds) -- compiled: nothing can interrupt it
  local till = clock(3) + seconds
  while clock(3) < till do end
end
for _ = 1, 100 do spin(0.00001) end

local function problem_of(fn, ...)
  local ok, err = pcall(fn, ...)
  if ok then return nil end
  if type(err) ~= "table" then return { message = tostring(err) } end
  local copy = {}
  for key, value in pairs(err) do copy[key] = value end
  return copy
end

app:on_start(function() -- threads and connections that stay
  if os.getenv "TEST_WARM" then
    local list = {}
    for index = 1, 16 do
      list[2 * index] = db:value "select fasterlua_sleep(100)"
      list[2 * index - 1] = db:transaction(function(tx)
        await(tx:value "select fasterlua_sleep(400)")
      end, { read_only = true })
    end
    await(gather(list))
  end
end)

app:post("/run", { timeout = 30 }, function(req)
  local names = "local db, fl, await, gather, spawn, now, problem_of, spin = ... "
  local chunk = assert(load(names .. req:text(), "=test", "t"))
  local value = chunk(db, fl, await, gather, spawn, now, problem_of, spin)
  return { value = value == nil and fl.null or value }
end)
app:get("/quick", function() return "quick" end)
app:post("/add", function()
  await(db:exec "insert into added (n) values (1)")
  return "added"
end)
app:get("/leave", function() -- its client does not wait for it
  await(db:transaction(function(tx)
    await(tx:exec "insert into left_alone values (1)")
    await(tx:value "select fasterlua_sleep(400)")
    await(fl.sleep(5))
  end))
end)
app:get("/stuck", function()
  await(db:transaction(function(tx)
    await(tx:exec "insert into stuck values (1)")
    spin(0.5)
    await(tx:exec "insert into stuck values (2)")
  end))
end)
return app
]==]

local folder = process.temporary_directory()
local count = 0

local function fresh(options)
  count = count + 1
  return ("sqlite:%s/%d.db?functions=sleep%s"):format(folder, count, options or "")
end

local function path_of(url)
  return url:match("^sqlite:([^?]*)") or url
end

local function run_on(server, code, ...)
  local response = server:post("/run", select("#", ...) > 0 and code:format(...) or code)
  assert.equal(200, response.status, response.body .. "\n" .. server:log():sub(-3000))
  return response:json().value
end

local function describe_sqlite(title, url, options, define)
  support.describe_server(title, function()
    local given = { app = app, env = { TEST_DATABASE_URL = url,
      TEST_WARM = not url:find("memory", 1, true) and "1" or nil },
      flags = { "--threads", "1" } }
    for name, value in pairs(options) do
      given[name] = value
    end
    return given
  end, function(get_server)
    define(function(...)
      return run_on(get_server(), ...)
    end, get_server)
  end)
end

local function start(url, options)
  local given = { app = app, env = { TEST_DATABASE_URL = url }, flags = { "--threads", "1" } }
  for name, value in pairs(options or {}) do
    given[name] = value
  end
  return support.start(given)
end

-- Another program's view of the file, when no server has it open.
local function command(url, sql)
  local pipe = assert(io.popen(("sqlite3 '%s' '%s' 2>&1"):format(path_of(url), sql)))
  local text = pipe:read("*a")
  pipe:close()
  return (text:gsub("%s+$", ""))
end

local function check_file(server)
  return run_on(server, 'return await(db:value "pragma integrity_check")')
end

describe_sqlite("SQLite in a file", fresh "&readers=4", {}, function(run, get_server)
  it("writes by a log beside it, with foreign keys", function()
    assert.same({ "wal", 1, 1 }, run [[return { await(db:value "pragma journal_mode"),
      await(db:value "pragma foreign_keys"),
      await(db:transaction(function(tx) return await(tx:value "pragma foreign_keys") end)) }]])
  end)

  it("fails only the statement that is wrong among those that are written together", function()
    run 'await(db:exec "create table mixed (n integer primary key)")'
    assert.same({ 30, 30 }, run [[
      local failed, list = 0, {}
      for i = 1, 60 do
        list[i] = spawn(function()
          local problem = problem_of(function()
            await(db:exec("insert into mixed values (?)", i % 30))
          end)
          if problem then
            assert(problem.code == "SQLITE_CONSTRAINT_PRIMARYKEY", problem.code)
            failed = failed + 1
          end
        end)
      end
      await(gather(list))
      return { failed, await(db:value "select count(*) from mixed") }]])
  end)

  it("keeps what others wrote when a statement rolls everything back", function()
    run 'await(db:exec "create table rolled (n integer primary key)")'
    assert.same({ 20, 40 }, run [[
      local failed, list = 0, {}
      for i = 1, 60 do
        list[i] = spawn(function()
          local sql = i % 3 == 0 and "insert or rollback into rolled values (1)"
            or "insert into rolled values (?)"
          if i % 3 == 0 then
            if problem_of(function() await(db:exec(sql)) end) then failed = failed + 1 end
          else
            await(db:exec(sql, i))
          end
        end)
      end
      await(gather(list))
      return { failed, await(db:value "select count(*) from rolled") }]])
  end)

  it("refuses a deferred foreign key to its own statement alone", function()
    run [[
      await(db:exec "create table parents (id integer primary key)")
      await(db:exec("create table children (id integer primary key, p integer "
        .. "references parents deferrable initially deferred)"))
      await(db:exec "insert into parents values (1)")]]
    assert.same({ 10, 20 }, run [[
      local failed, list = 0, {}
      for i = 1, 30 do
        list[i] = spawn(function()
          local parent = i % 3 == 0 and 9 or 1
          local problem = problem_of(function()
            await(db:exec("insert into children (p) values (?)", parent))
          end)
          if problem then
            assert(problem.code == "SQLITE_CONSTRAINT_FOREIGNKEY", problem.code)
            failed = failed + 1
          end
        end)
      end
      await(gather(list))
      return { failed, await(db:value "select count(*) from children") }]])
  end)

  it("sees what it wrote before", function()
    run 'await(db:exec "create table own (n integer)")'
    assert.equal(0, run [[
      local wrong = 0
      for i = 1, 300 do
        await(db:exec("insert into own values (?)", i))
        if await(db:value "select count(*) from own") ~= i then wrong = wrong + 1 end
      end
      return wrong]])
  end)

  it("lets others read while one reads for long", function()
    local took = run [[
      local slow = db:value "select fasterlua_sleep(600)"
      local from = now()
      for i = 1, 20 do await(db:value "select 1") end
      local took = now() - from
      slow:cancel()
      return took]]
    assert.is_true(took < 0.3 * support.slowdown, took)
  end)

  it("answers other requests while a statement takes long", function()
    local client = get_server():connect()
    client:send("POST /run HTTP/1.1\r\nHost: a\r\nContent-Length: 52\r\n\r\n"
      .. 'return await(db:value "select fasterlua_sleep(700)")')
    sleep(0.05)
    local from = now()
    assert.equal("quick", get_server():get("/quick").body)
    assert.is_true(now() - from < 0.3 * support.slowdown)
    client:close()
  end)

  it("stops a statement that was cancelled, even one that writes", function()
    run 'await(db:exec "create table endless (n integer)")'
    local result = run [[
      local from = now()
      local problem = problem_of(function()
        await(db:with { timeout = 0.1 }:exec("insert into endless with recursive c(n) as "
          .. "(select 1 union all select n + 1 from c) select n from c"))
      end)
      await(db:exec "insert into endless values (1)")
      return { code = problem.code, took = now() - from,
        count = await(db:value "select count(*) from endless") }]]
    assert.equal("timeout", result.code)
    assert.equal(1, result.count)
    assert.is_true(result.took < 1.5 * support.slowdown, result.took)
  end)

  it("stops a count, which is one step of SQLite, and nothing else", function()
    run [[
      await(db:exec "create table counted (n integer, t text)")
      await(db:exec("insert into counted with recursive c(n) as (select 1 union all "
        .. "select n + 1 from c limit 200000) select n, hex(randomblob(100)) from c"))]]
    assert.equal(0, run [[
      local wrong = 0
      for i = 1, 100 do
        local stopped = db:value "select count(t) + count(*) from counted"
        await(fl.sleep(0.001 * (i % 7)))
        stopped:cancel()
        for j = 1, 4 do
          if await(db:value("select ?", i)) ~= i then wrong = wrong + 1 end
        end
      end
      return wrong]])
  end)

  it("gives writers their turn in line, and up when it takes too long", function()
    run 'await(db:exec "create table turns (n integer)")'
    local result = run [[
      local impatient = fl.db(os.getenv "TEST_DATABASE_URL", { pool_timeout = 0.2 })
      local inside = spawn(function()
        await(db:transaction(function(tx)
          await(tx:exec "insert into turns values (1)")
          await(fl.sleep(0.6))
        end))
      end)
      await(fl.sleep(0.05))
      local problem = problem_of(function()
        await(impatient:exec "insert into turns values (2)")
      end)
      local other = problem_of(function()
        await(impatient:transaction(function(tx) await(tx:exec "insert into turns values (3)") end))
      end)
      await(inside)
      return { problem.code, problem.status, other.code, impatient:stats().sessions,
        await(db:value "select count(*) from turns") }]]
    assert.same({ "pool_timeout", 503, "pool_timeout", 0, 1 }, result)
  end)

  it("takes the other transaction back when one of its statements undid it", function()
    run 'await(db:exec "create table undone (n integer primary key)")'
    assert.same({ true, 0 }, run [[
      local problem = problem_of(function()
        await(db:transaction(function(tx)
          await(tx:exec "insert into undone values (1)")
          problem_of(function() await(tx:exec "insert or rollback into undone values (1)") end)
          await(tx:exec "insert into undone values (2)")
        end))
      end)
      return { problem.message:find("was ended", 1, true) ~= nil,
        await(db:value "select count(*) from undone") }]])
  end)

  it("rolls back a transaction whose client has left", function()
    run 'await(db:exec "create table left_alone (n integer)")'
    local client = get_server():connect()
    client:send("GET /leave HTTP/1.1\r\nHost: a\r\n\r\n")
    sleep(0.2 * support.slowdown)
    client:close()
    local from = now()
    assert.equal(0, run [[
      await(db:exec "insert into left_alone values (2)")
      return await(db:value "select count(*) from left_alone where n = 1")]])
    assert.is_true(now() - from < 3 * support.slowdown)
  end)

  it("lets others read while many loops over rows are open", function()
    run [[
      await(db:exec "create table open_loops (n integer)")
      await(db:exec("insert into open_loops with recursive c(n) as (select 1 union all "
          .. "select n + 1 from c limit 2000) select n from c"))]]
    assert.same({ 1, 2000 }, run [[
      local open = {}
      for i = 1, 8 do
        open[i] = db:each "select n from open_loops"
        assert(open[i]().n == 1)
      end
      local value = await(db:value "select 1")
      local count = 1
      for row in open[8] do count = count + 1 end
      for i = 1, 7 do open[i]:close() end
      return { value, count }]])
  end)

  it("keeps a snapshot in a transaction that reads", function()
    run 'await(db:exec "create table snapshots (n integer)")'
    assert.same({ 0, 0, 1, "SQLITE_READONLY" }, run [[
      local before, after, code
      await(db:transaction(function(tx)
        before = await(tx:value "select count(*) from snapshots")
        await(db:exec "insert into snapshots values (1)")
        after = await(tx:value "select count(*) from snapshots")
        code = problem_of(function() await(tx:exec "insert into snapshots values (2)") end).code
      end, { read_only = true }))
      return { before, after, await(db:value "select count(*) from snapshots"), code }]])
  end)

  it("streams what a statement returns that writes", function()
    run 'await(db:exec "create table streamed (n integer)")'
    assert.same({ 1200, 1200 }, run [[
      local count = 0
      for row in db:each("insert into streamed with recursive c(n) as (select 1 union all "
          .. "select n + 1 from c limit 1200) select n from c returning n") do
        count = count + 1
        assert(row.n == count)
      end
      return { count, await(db:value "select count(*) from streamed") }]])
  end)

  it("writes while a loop reads", function()
    run 'await(db:exec "create table looped (n integer)")'
    assert.equal(2000, run [[
      await(db:exec("insert into looped with recursive c(n) as (select 1 union all "
          .. "select n + 1 from c limit 2000) select n from c"))
      local count = 0
      for row in db:each "select n from looped" do
        count = count + 1
        if count % 500 == 0 then
          await(db:exec("update looped set n = n + 1 where n = ?", row.n))
        end
      end
      return count]])
  end)

  it("has bytes, booleans and JSON by the declared types of columns", function()
    assert.same({ bytes = true, yes = true, seven = 7, json = { a = { 1 } }, text = "{",
      type = "blob" }, run [[
      await(db:exec("create table typed (b blob, yes boolean, seven bool, j json, k json)"))
      local bytes = "\0\255\1" .. ("x"):rep(100000)
      await(db:exec("insert into typed values (?, ?, 7, ?, '{')", bytes, true, { a = { 1 } }))
      local row = await(db:one "select * from typed")
      return { bytes = row.b == bytes, yes = row.yes, seven = row.seven, json = row.j, text = row.k,
        type = await(db:value "select typeof(b) from typed") }]])
  end)

  it("follows the schema when it changes", function()
    assert.same({ { a = 1 }, { a = 1, b = 2 } }, run [[
      await(db:exec "create table grows (a integer)")
      await(db:exec "insert into grows values (1)")
      local first = await(db:one "select * from grows")
      await(db:exec "alter table grows add column b integer default 2")
      return { first, await(db:one "select * from grows") }]])
  end)

  it("names what is wrong", function()
    run 'await(db:exec "create table named (a integer, b integer not null, unique (a, b))")'
    local problems = run [[
      await(db:exec "insert into named values (1, 1)")
      local list = {}
      for i, sql in ipairs { "insert into named values (1, 1)",
          "insert into named values (2, null)", "select * from named where",
          "attach 'x.db' as x", "pragma wal_checkpoint" } do
        list[i] = problem_of(function() await(db:exec(sql)) end)
      end
      return list]]
    assert.equal("named.a, named.b", problems[1].constraint)
    assert.equal("named", problems[1].table)
    assert.equal("SQLITE_CONSTRAINT_NOTNULL", problems[2].code)
    assert.equal("b", problems[2].column)
    assert.matches("incomplete input", problems[3].message)
    assert.equal("refused", problems[4].code)
    assert.equal("refused", problems[5].code)
  end)

  it("copies itself to another file while others write", function()
    local path = folder .. "/copy.db"
    run 'await(db:exec "create table copied (n integer, t text)")'
    run([[
      await(db:exec("insert into copied with recursive c(n) as (select 1 union all "
          .. "select n + 1 from c limit 20000) select n, hex(randomblob(50)) from c"))
      local writing = true
      local writer = spawn(function()
        while writing do await(db:exec "insert into copied values (0, '')") end
      end)
      await(db:backup(%q))
      writing = false
      await(writer)
]], path)
    assert.equal("ok", command(path, "pragma integrity_check"))
    assert.equal("20000", command(path, "select count(*) from copied where n > 0"))
    assert.is_nil(lfs.attributes(path .. ".part"))
  end)

  it("does not leave half a copy", function()
    local problem = run([[return problem_of(function()
      await(db:backup "/nowhere/at/all.db") end)]])
    assert.matches("/nowhere/at/all.db", problem.message)
  end)

  it("is whole after all that", function()
    assert.equal("ok", check_file(get_server()))
  end)
end)

describe_sqlite("SQLite in memory", "sqlite::memory:?functions=sleep",
  { flags = { "--threads", "3" } }, function(run, get_server)
    it("is one for all states of the server process", function()
      run 'await(db:exec "create table shared (n integer)")'
      for _ = 1, 30 do
        get_server():close_clients()
        run 'await(db:exec "insert into shared values (1)")'
      end
      assert.equal(30, run 'return await(db:value "select count(*) from shared")')
    end)
    it("may be written while a loop reads it", function()
      assert.same({ 700, 701 }, run [[
        await(db:exec "create table looped (n integer)")
        await(db:exec("insert into looped with recursive c(n) as (select 1 union all "
            .. "select n + 1 from c limit 700) select n from c"))
        local count = 0
        for row in db:each "select n from looped" do
          count = count + 1
          if row.n == 300 then await(db:exec "insert into looped values (0)") end
        end
        return { count, await(db:value "select count(*) from looped") }]])
    end)
  end)

describe("SQLite that cannot be opened", function()
  local server
  setup(function()
    server = start(fresh())
  end)
  teardown(function()
    server:stop()
  end)
  local function problem_with(url)
    return run_on(server, [[return problem_of(function()
      await(fl.db(%q):value "select count(*) from sqlite_schema") end)]], url)
  end

  it("names a folder that is missing", function()
    local problem = problem_with("sqlite:/nowhere/at/all/x.db")
    assert.equal("SQLITE_CANTOPEN", problem.code)
    assert.matches("/nowhere/at/all/x.db: No such file or directory", problem.message, 1, true)
  end)
  it("names a folder in place of a file", function()
    assert.matches(folder, problem_with("sqlite:" .. folder).message, 1, true)
  end)
  it("names a file that is no database", function()
    local file = assert(io.open(folder .. "/text.db", "w"))
    file:write(("this is a text "):rep(1000))
    file:close()
    local problem = problem_with("sqlite:" .. folder .. "/text.db")
    assert.equal("SQLITE_NOTADB", problem.code)
    assert.matches("text.db: file is not a database", problem.message, 1, true)
  end)
  it("does not make a file that it is only to read", function()
    local problem = problem_with("sqlite:" .. folder .. "/none.db?mode=ro")
    assert.equal("SQLITE_CANTOPEN", problem.code)
    assert.is_nil(lfs.attributes(folder .. "/none.db"))
  end)
  it("refuses to write what it is only to read", function()
    local url = fresh "&mode=ro"
    command(url, "create table t (n integer)")
    assert.same({ 0, "SQLITE_READONLY" }, run_on(server, [[
      local copy = fl.db(%q)
      return { await(copy:value "select count(*) from t"),
        problem_of(function() await(copy:exec "insert into t values (1)") end).code }]], url))
  end)
  it("opens it when it can be opened after all", function()
    local url = "sqlite:" .. folder .. "/later/x.db"
    assert.equal("SQLITE_CANTOPEN", problem_with(url).code)
    lfs.mkdir(folder .. "/later")
    assert.equal(1, run_on(server, [[return await(fl.db(%q):value "select 1")]], url))
  end)
  it("is found in the app's folder", function()
    run_on(server, [[await(fl.db "sqlite:own.db":exec "create table t (n integer)")]])
    assert.is_table(lfs.attributes(server.app_dir .. "/own.db"))
  end)
  it("refuses options that it does not understand", function()
    for url, words in pairs { ["sqlite:x.db?mode=rw"] = '"rwc" or "ro"',
      ["sqlite:x.db?readers=99"] = "from 2 to 8", ["sqlite:x.db?synchronous=off"] = '"full"' } do
      assert.matches(words, run_on(server, "return problem_of(fl.db, %q)", url).message, 1, true)
    end
  end)
end)

-- Requests one after the other from several clients, until `seconds` are over; how many were
-- answered with 200, and how many with something else.
local function write_for(server, seconds, meanwhile)
  local till, good, bad = now() + seconds, 0, 0
  local clients = {}
  for index = 1, 8 do
    clients[index] = server:connect()
    clients[index]:send("POST /add HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n")
  end
  local steps = meanwhile or {}
  local began = now()
  while now() < till do
    local step = steps[1]
    if step and now() - began >= step[1] then
      table.remove(steps, 1)
      step[2]()
    end
    for index, client in ipairs(clients) do
      local ok, response = pcall(client.response, client)
      if ok and response and response.status == 200 then
        good = good + 1
      else
        bad = bad + 1
      end
      if not ok or not response or response.headers.connection == "close" then
        client:close()
        clients[index] = server:connect()
        client = clients[index]
      end
      client:send("POST /add HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n")
    end
  end
  for _, client in ipairs(clients) do
    local ok, response = pcall(client.response, client)
    if ok and response and response.status == 200 then
      good = good + 1
    end
    client:close()
  end
  return good, bad
end

describe("SQLite with synchronous=full", function()
  -- A statement that is committed by itself writes a page at least, of 4096 bytes.
  it("writes many small things at once, so that they wait for the disk together", function()
    local server = start(fresh "&synchronous=full")
    local function written()
      local text = process.read("/proc/" .. server:server_pid() .. "/io")
      return tonumber(text:match("wchar: (%d+)"))
    end
    run_on(server, 'await(db:exec "create table small (id integer primary key, n integer)")')
    local before = written()
    run_on(server, [[
      local list = {}
      for i = 1, 100 do
        list[i] = spawn(function()
          for j = 1, 100 do await(db:exec("insert into small (n) values (?)", j)) end
        end)
      end
      await(gather(list))]])
    local bytes = (written() - before) / 10000
    assert.equal(10000, run_on(server, 'return await(db:value "select count(*) from small")'))
    server:stop()
    assert.is_true(bytes < 1000, bytes)
  end)
end)

describe("SQLite and several processes", function()
  local function prepare(url)
    command(url, "create table added (id integer primary key, n integer)")
  end

  it("that write at once lose nothing and break nothing", function()
    local url = fresh()
    prepare(url)
    local server = start(url, { flags = { "--threads", "1", "--workers", "2" } })
    local good, bad = write_for(server, 2)
    server:stop()
    assert.equal(0, bad)
    assert.is_true(good > 50, good)
    assert.equal("ok", command(url, "pragma integrity_check"))
    assert.equal(tostring(good), command(url, "select count(*) from added"))
  end)

  it("of which one takes the place of another while it writes", function()
    local url = fresh()
    prepare(url)
    local server = start(url)
    local good, bad = write_for(server, 3 * math.min(support.slowdown, 2), {
      { 0.5, function() server:signal "HUP" end }, { 1.8, function() server:signal "HUP" end } })
    server:stop()
    assert.equal(0, bad)
    assert.equal("ok", command(url, "pragma integrity_check"))
    assert.equal(tostring(good), command(url, "select count(*) from added"))
  end)

  it("of which one holds the file wait for it, and say when it takes too long", function()
    local url = fresh "&pool_timeout=0.3"
    prepare(url)
    local first, second = start(url), start(url)
    local holder = first:connect()
    local code = [[await(db:transaction(function(tx)
      await(tx:exec "insert into added (n) values (1)") await(fl.sleep(1.2)) end))]]
    holder:send("POST /run HTTP/1.1\r\nHost: a\r\nContent-Length: " .. #code .. "\r\n\r\n" .. code)
    support.eventually(function()
      return run_on(first, "return db:stats().sessions") == 1
    end)
    sleep(0.1)
    local problem = run_on(second, [[return problem_of(function()
      await(db:exec "insert into added (n) values (2)") end)]])
    assert.equal("pool_timeout", problem.code)
    assert.equal(503, problem.status)
    assert.equal(200, holder:response().status)
    assert.equal(200, second:post("/add", "").status)
    first:stop()
    second:stop()
    assert.equal("2", command(url, "select count(*) from added"))
  end)

  it("lose nothing that was answered when they are killed, with synchronous=full", function()
    local url = fresh "&synchronous=full"
    prepare(url)
    local server = start(url)
    local answered = 0
    for _ = 1, 3 do
      local good = write_for(server, 0.8, {
        { 0.4, function() server:signal("KILL", server:server_pid()) sleep(0.3) end } })
      answered = answered + good
    end
    server:stop()
    assert.is_true(answered > 10, answered)
    assert.equal("ok", command(url, "pragma integrity_check"))
    assert.is_true(tonumber(command(url, "select count(*) from added")) >= answered)
  end)

  it("leave no log behind when they end", function()
    local url = fresh()
    prepare(url)
    local server = start(url)
    assert.equal(200, server:post("/add", "").status)
    server:stop()
    local log = lfs.attributes(path_of(url) .. "-wal")
    assert.is_true(not log or log.size == 0)
  end)

  it("keep the log small while they write much", function()
    local url = fresh()
    local server = start(url)
    run_on(server, [[
      await(db:exec "create table much (n integer, t text)")
      for i = 1, 300 do
        await(db:exec("insert into much values (?, ?)", i, ("x"):rep(100000)))
      end]])
    local log = lfs.attributes(path_of(url) .. "-wal")
    assert.is_true(log.size < 16 * 1024 * 1024, log.size)
    server:stop()
  end)
end)

describe("SQLite and a handler that cannot be stopped", function()
  it("rolls back its transaction, and others write on", function()
    local url = fresh()
    local limit = support.slowdown > 1 and "5ms" or "100ms"
    local server = start(url, { settings = { stuck_handler = limit }, env = {
      TEST_DATABASE_URL = url, TSAN_OPTIONS = "report_thread_leaks=0" } }) -- it ends as it is
    run_on(server, 'await(db:exec "create table stuck (n integer)")')
    local client = server:connect()
    client:send("GET /stuck HTTP/1.1\r\nHost: a\r\n\r\n")
    server:wait_log "stuck"
    local from = now()
    assert.equal(0, run_on(server, [[
      await(db:exec "insert into stuck values (3)")
      return await(db:value "select count(*) from stuck where n < 3")]]))
    assert.is_true(now() - from < 3 * support.slowdown)
    assert.equal(1, run_on(server, 'return await(db:value "select count(*) from stuck")'))
    client:close()
    support.eventually(function()
      return server:metrics().fasterlua_retired_threads == 0
    end, 5)
    server:stop()
  end)
end)

describe("the folder of the databases", function()
  it("can be removed", function()
    process.remove_directory(folder)
  end)
end)
