-- MariaDB: what every database promises, and what is its own.

local busted = require "busted"
local databases = require "support.databases"
local db_contract = require "support.db_contract"
local evacuation = require "support.evacuation"
local process = require "support.process"
local service = require "support.databases.service"
local support = require "support"

local it, assert = busted.it, require "luassert"

databases.describe("fl.db and MariaDB", "mariadb", nil, function(get_server)
  db_contract("do what every database does", {
    url = function()
      return get_server().url
    end,
    id = "bigint auto_increment primary key",
    sleep = function(ms)
      return ("select sleep(%s) as slept"):format(ms / 1000)
    end,
    json = "json", bytes = "longblob", bool = "boolean", double = "double",
    returning = true, last_id = true, unique = "^23000$",
  })
end)

-- Runs the Lua that a test sends. `open(options)` gives a database of its own, kept by options.
local app = [==[
local fl = require "fasterlua"
local await, gather, spawn = fl.await, fl.gather, fl.spawn
local app = fl.app { title = "MariaDB" }
local url = assert(os.getenv "TEST_DATABASE_URL")
local ffi = require "ffi"
ffi.cdef "typedef struct { long s, ns; } fl_test_time; int clock_gettime(int, fl_test_time *);"

local function clock()
  local time = ffi.new "fl_test_time"
  ffi.C.clock_gettime(1, time)
  return tonumber(time.s) + tonumber(time.ns) / 1e9
end

local function problem_of(fn, ...)
  local ok, err = pcall(fn, ...)
  if ok then return nil end
  if type(err) ~= "table" then return { message = tostring(err) } end
  local copy = {}
  for key, value in pairs(err) do copy[key] = value end
  return copy
end

local time = ffi.new "fl_test_time"
local function cpu()
  ffi.C.clock_gettime(3, time)
  return tonumber(time.s) + tonumber(time.ns) / 1e9
end

-- Compiled, so that nothing can interrupt it: seconds of CPU time.
local function spin(seconds)
  local till = cpu() + seconds
  while cpu() < till do end
end
for _ = 1, 100 do spin(0.00001) end

local opened = {}
local function open(options, other)
  local key = { other or url }
  for name, value in pairs(options or {}) do key[#key + 1] = name .. "=" .. tostring(value) end
  key = table.concat(key, " ")
  opened[key] = opened[key] or fl.db(other or url, options)
  return opened[key]
end
local db = open { connect_timeout = 1, pool_timeout = 5, timeout = 30 }

local env = setmetatable({ db = db, fl = fl, await = await, gather = gather, spawn = spawn,
  problem_of = problem_of, url = url, clock = clock, open = open, spin = spin },
  { __index = _G })

local function run(req)
  local fn = setfenv(assert(load(req.query.code or req:text(), "=test", "t")), env)
  local value = fn()
  return { value = value == nil and fl.null or value }
end
app:post("/run", { timeout = 30 }, run)
app:get("/run", { timeout = 90, replay = false }, run)
return app
]==]

local function escape(text)
  return (text:gsub("[^%w]", function(byte)
    return ("%%%02X"):format(byte:byte())
  end))
end

local function get_path(code, ...)
  return "/run?code=" .. escape(select("#", ...) > 0 and code:format(...) or code)
end

local function runner(get_server)
  return function(code, ...)
    local response = get_server():post("/run", select("#", ...) > 0 and code:format(...) or code)
    assert.equal(200, response.status, response.body .. "\n" .. get_server():log():sub(-3000))
    return response:json().value
  end
end

---@param options table of the database's server
---@param changes table? url, settings, apps
local function describe_app(title, options, changes, define)
  changes = changes or {}
  databases.describe(title, "mariadb", options, function(get_database)
    support.describe_server("and an app", function()
      local url = changes.url and changes.url(get_database()) or get_database().url
      local settings = changes.settings or {}
      settings.threads = 1
      return { app = changes.apps or { ["app.lua"] = app }, leaks = false, settings = settings,
        env = { TEST_DATABASE_URL = url,
          TSAN_OPTIONS = changes.apps and "report_thread_leaks=0" } } -- evacuated, it ends as it is
    end, function(get_server)
      define(get_server, runner(get_server), get_database)
    end)
  end)
end

local function running_sleeps(database)
  return tonumber(database:query([[select count(*) from information_schema.processlist
    where info like 'select sleep%']])[1][1])
end

describe_app("MariaDB's driver", {}, nil, function(get_server, run, get_database)
  it("runs queries of one request at once", function()
    run 'await(gather { db:value "select 1", db:value "select 2", db:value "select 3" })'
    local took = run [[
      local began = clock()
      await(gather { db:value "select sleep(0.1)", db:value "select sleep(0.2)",
        db:value "select sleep(0.3)" })
      return clock() - began]]
    assert.is_true(took >= 0.3 and took <= 0.33 + 0.3 * (support.slowdown - 1), took)
  end)

  it("gives each type as Lua has it, prepared or not", function()
    run [[
      await(db:exec "drop table if exists kinds")
      await(db:exec "create table kinds (flag tinyint(1), tiny tinyint, utiny tinyint unsigned, \
        small smallint, medium mediumint, \
        umedium mediumint unsigned, whole int, uwhole int unsigned, big bigint, \
        ubig bigint unsigned, single float, twice double, exact decimal(20,5), \
        day date, moment datetime, fine datetime(6), stamp timestamp null, span time, \
        fine_span time(3), y year, bits bit(12), bits64 bit(64), word varchar(20), page longtext, \
        fixed char(5), raw varbinary(9), bytes blob, choice enum('a','b'), several set('x','y'), \
        doc json, nothing int)")
      await(db:exec "insert into kinds values (1, -128, 255, -32768, -8388608, 16777215, \
        -2147483648, 4294967295, -9223372036854775808, 18446744073709551615, 0.1, 0.1, \
        '123456789012345.12345', \
        '2024-05-01', '2024-05-01 10:00:00', '2024-05-01 10:00:00.000125', '2024-02-29 23:59:59', \
        '-100:05:09', '10:11:12.5', 2024, b'101010101010', b'1111', 'wörd', 'page', 'fix', \
        x'00ff00', x'010200', 'b', 'x,y', '{\"a\":[1,null]}', null)")]]
    local expected = { flag = true, tiny = -128, utiny = 255, small = -32768, medium = -8388608,
      umedium = 16777215, whole = -2147483648, uwhole = 4294967295, big = "-9223372036854775808LL",
      ubig = "18446744073709551615", single = 0.1, twice = 0.1, exact = "123456789012345.12345",
      day = "2024-05-01", moment = "2024-05-01T10:00:00Z", fine = "2024-05-01T10:00:00.000125Z",
      stamp = "2024-02-29T23:59:59Z", span = "-100:05:09", fine_span = "10:11:12.500000", y = 2024,
      bits = 2730, bits64 = 15, word = "wörd", page = "page", fixed = "fix", raw = "00ff00",
      bytes = "010200", choice = "b", several = "x,y", first = 1, doc = "[1,null]" }
    local code = [[
      local row = await(db:transaction(function(tx) return await(tx:one(%q)) end))
      assert(row.nothing == nil)
      row.big, row.first = tostring(row.big), row.doc.a[1]
      row.doc = require("fasterlua.json").encode(row.doc.a)
      local function hex(s)
        return (s:gsub(".", function(c) return ("%%02x"):format(c:byte()) end))
      end
      row.raw, row.bytes = hex(row.raw), hex(row.bytes)
      local copy = {}
      for k, v in pairs(row) do copy[k] = v end
      return copy]]
    assert.same(expected, run(code, "select * from kinds"))
    expected.fine_span = "10:11:12.500"
    assert.same(expected, run(code, "execute immediate 'select * from kinds'"))
  end)

  it("leaves dates that are none as the database writes them", function()
    assert.same({ "0000-00-00", "0000-00-00 00:00:00", "2024-00-00" }, run [[
      return await(db:transaction(function(tx)
        await(tx:exec "set sql_mode = ''")
        local row = await(tx:one "select cast('0000-00-00' as date) as a, \
          cast('0000-00-00 00:00:00' as datetime) as b, cast('2024-00-00' as date) as c")
        return { row.a, row.b, row.c }
      end))]])
  end)

  it("takes and gives long columns, of several sizes, in one result", function()
    assert.same({}, run [[
      await(db:exec "drop table if exists longs")
      await(db:exec "create table longs (id int primary key, a longblob, b longtext, \
        c varchar(2000))")
      local wrong, sizes = {}, { 0, 1, 250, 251, 252, 65535, 65536, 70000, 1000000, 5000000 }
      for id, size in ipairs(sizes) do
        await(db:exec("insert into longs values (?, ?, ?, ?)", id, ("\0\255"):rep(size / 2) .. "x",
          ("é"):rep(size / 2), ("c"):rep(size % 2000)))
      end
      for id, row in ipairs(await(db:all "select a, b, c, id from longs order by id")) do
        local size = sizes[id]
        if row.a ~= ("\0\255"):rep(size / 2) .. "x" or row.b ~= ("é"):rep(size / 2)
          or row.c ~= ("c"):rep(size % 2000) or row.id ~= id then
          wrong[#wrong + 1] = size
        end
      end
      return wrong]])
  end)

  it("stops what nobody waits for any more, within a second", function()
    local server, database = get_server(), get_database()
    local client = server:connect()
    client:send(("GET %s HTTP/1.1\r\nHost: x\r\n\r\n"):format(
      get_path [[return await(db:value "select sleep(60)")]]))
    support.eventually(function()
      return running_sleeps(database) == 1
    end)
    client:reset()
    support.eventually(function()
      return running_sleeps(database) == 0
    end, 1)
    assert.equal(1, run 'return await(db:value "select 1")')
  end)

  it("stops many at once, and hits nothing else", function()
    assert.same({ timeouts = 60, ones = 300 }, run [[
      local timeouts, ones, list = 0, 0, {}
      local hasty = open { pool = 3 }
      for index = 1, 60 do
        list[#list + 1] = spawn(function()
          local wrong = problem_of(function()
            await(hasty:with { timeout = 0.05 }:value("select sleep(5)"))
          end)
          if wrong and wrong.code == "timeout" then timeouts = timeouts + 1 end
          for _ = 1, 5 do
            local one = await(hasty:value "select 1")
            ones = ones + one
          end
        end)
      end
      await(gather(list))
      return { timeouts = timeouts, ones = ones }]])
    support.eventually(function()
      return running_sleeps(get_database()) == 0
    end)
  end)

  it("never stops the statement after the one that was meant", function()
    assert.equal(200, run [[
      local one, sum = open { pool = 1 }, 0
      for index = 1, 200 do
        pcall(function()
          await(one:with { timeout = 0.002 }:value("select sleep(?)", 0.0005 * (index % 8)))
        end)
        sum = sum + await(one:value "select sleep(0) + 1")
      end
      return sum]])
  end)

  it("tells whoever waits too long for a connection", function()
    local answer = run [[
      local small = open { pool = 2, pool_timeout = 0.2 }
      local began = clock()
      local first, second = small:value "select sleep(1)", small:value "select sleep(1)"
      local problem = problem_of(function() await(small:value "select 1") end)
      problem.took = clock() - began
      await(gather { first, second })
      problem.after = await(small:value "select 2")
      return problem]]
    assert.equal("pool_timeout", answer.code)
    assert.equal(503, answer.status)
    assert.equal(2, answer.after)
    assert.is_true(answer.took > 0.19 and answer.took < 0.9, answer.took)
  end)

  it("uses statements on after their table was changed", function()
    local seen = run [[
      local one = open { pool = 1 }
      await(one:exec "drop table if exists changing")
      await(one:exec "create table changing (a int)")
      await(one:exec "insert into changing values (1)")
      local seen = {}
      local function look(sql)
        local names = {}
        for name, value in pairs(await(one:one(sql))) do
          names[#names + 1] = name .. " " .. (type(value) == "table" and "json" or tostring(value))
        end
        table.sort(names)
        seen[#seen + 1] = table.concat(names, ", ")
      end
      local function change(sql)
        await(one:exec(sql))
        look "select * from changing"
        look "select * from changing"
        look "insert into changing values () returning *"
      end
      change "alter table changing add b int default 2"
      change "alter table changing drop a, add c double default 0.5"
      await(one:exec "drop table changing")
      await(one:exec "create table changing (x varchar(9) default 'x', j json default '[1]')")
      await(one:exec "insert into changing values ()")
      change "alter table changing drop x, add y varchar(3) default 'y'"
      change "alter table changing add z longtext default 'z'"
      return seen]]
    assert.same({ "a 1, b 2", "a 1, b 2", "b 2", "b 2, c 0.5", "b 2, c 0.5", "b 2, c 0.5",
      "j json, y y", "j json, y y", "j [1], y y", -- the server does not say that it returns JSON
      "j json, y y, z z", "j json, y y, z z", "j [1], y y, z z" }, seen)
  end)

  it("keeps no more statements than it may, and shares what the server allows", function()
    local database = get_database()
    assert.is_true(run [[
      local one = open { pool = 1 }
      for index = 1, 300 do assert(await(one:value("select " .. index)) == index) end
      return true]])
    local function prepared()
      return tonumber(database:query("show global status like 'Prepared_stmt_count'")[1][2])
    end
    assert.is_true(prepared() <= 128 * run "return db:stats().connections" + 128 * 3, prepared())
    database:query "set global max_prepared_stmt_count = 10"
    local shared = run [[
      local fresh = open { pool = 2 }
      for index = 1, 50 do
        local problem = problem_of(function() await(fresh:value("select 1 + " .. index)) end)
        if problem and problem.code ~= "42000" then return problem end
      end
      return true]]
    database:query "set global max_prepared_stmt_count = 16382"
    assert.is_true(shared)
    assert.equal(7, run 'return await(open { pool = 2 }:value "select 7")')
  end)

  it("brings deadlocks in the code that transactions are retried by", function()
    assert.same({ without = "40001", with = 4 }, run [[
      await(db:exec "drop table if exists crossed")
      await(db:exec "create table crossed (id int primary key, n int) engine = innodb")
      await(db:exec "insert into crossed values (1, 0), (2, 0)")
      local function cross(options, first, second)
        return db:transaction(function(tx)
          await(tx:exec("update crossed set n = n + 1 where id = ?", first))
          await(fl.sleep(0.1))
          await(tx:exec("update crossed set n = n + 1 where id = ?", second))
        end, options)
      end
      local problem = problem_of(function() await(gather { cross({}, 1, 2), cross({}, 2, 1) }) end)
      await(fl.sleep(0.2))
      await(db:exec "update crossed set n = 0")
      await(gather { cross({ retry = 5 }, 1, 2), cross({ retry = 5 }, 2, 1) })
      local sum = await(db:value "select cast(sum(n) as int) from crossed")
      return { without = problem.code, with = sum }]])
  end)

  it("calls procedures, and takes statements that nobody can prepare", function()
    assert.same({ 1, 2, "three", 4 }, run [[
      await(db:exec "drop procedure if exists several")
      await(db:exec "create procedure several(n int) begin \
        select n as a; select 'x' as b, 2 as c; end")
      local seen = { await(db:value("call several(?)", 1)) }
      seen[2] = await(db:value("call several(2)"))
      await(db:transaction(function(tx)
        seen[3] = await(tx:value "execute immediate 'select \\'three\\''")
        seen[4] = await(tx:value "execute immediate 'call several(4)'")
      end))
      return seen]])
  end)

  it("forgets what a transaction has set, locked or left", function()
    assert.same({ "nil", 1, 1, 1, "é" }, run [[
      local one = open { pool = 1 }
      await(one:exec "drop table if exists left_open")
      await(one:exec "create table left_open (n int) engine = innodb")
      local locked = await(one:transaction(function(tx)
        await(tx:exec "set @mine = 5, sql_mode = 'ANSI_QUOTES', time_zone = '+05:00'")
        await(tx:exec "create temporary table temp_one (n int)")
        return await(tx:value "select get_lock('mine', 1)")
      end))
      local seen = { tostring(await(one:value "select @mine")), locked }
      seen[3] = await(one:value "select is_free_lock('mine')")
      assert(problem_of(function() await(one:value "select 1 from temp_one") end).code == "42S02")
      assert(await(one:value [=[select "text"]=]) == "text")
      seen[4] = await(one:value "select char_length('é')")
      seen[5] = await(one:value("select ?", "é"))
      return seen]])
  end)

  it("says what was broken", function()
    assert.same({
      { code = "23000", constraint = "only_one", detail = "errno 1062" },
      { code = "23000", constraint = "has_parent", detail = "errno 1452", table = "child" },
      { code = "23000", constraint = "positive", detail = "errno 4025", table = "parent" },
      { code = "23000", detail = "errno 1048", column = "n" },
      { code = "42S22", detail = "errno 1054", column = "nothing" },
      { code = "22001", detail = "errno 1406", column = "name" },
      { code = "42000", detail = "errno 1064" },
    }, run [[
      await(db:exec "drop table if exists child")
      await(db:exec "drop table if exists parent")
      await(db:exec "create table parent (id int primary key, n int not null, name varchar(3), \
        constraint only_one unique (n), constraint positive check (n > 0)) engine = innodb")
      await(db:exec "create table child (id int, p int, \
        constraint has_parent foreign key (p) references parent (id)) engine = innodb")
      await(db:exec "insert into parent values (1, 1, 'a')")
      local problems = {}
      for index, sql in ipairs {
        "insert into parent values (2, 1, 'a')", "insert into child values (1, 77)",
        "insert into parent values (3, -1, 'a')", "insert into parent values (4, null, 'a')",
        "select nothing from parent", "insert into parent values (5, 5, 'abcd')", "selec 1",
      } do
        local p = problem_of(function() await(db:exec(sql)) end)
        problems[index] = { code = p.code, constraint = p.constraint, detail = p.detail,
          column = p.column, table = p.table }
      end
      return problems]])
  end)

  it("streams 300,000 rows in constant memory, and lets a loop be left", function()
    local server = get_server()
    local code = [[
      local sum, count = 0, 0
      for row in db:each "select seq, repeat('x', 200) as filler from seq_1_to_%d" do
        sum, count = sum + row.seq, count + 1
        if count == 300000 then break end
      end
      return { sum, count }]]
    run(code, 20000)
    local before = server:rss()
    assert.same({ 45000150000, 300000 }, run(code, 300000))
    local grown = server:rss() - before
    if support.slowdown == 1 then -- sanitizers keep what was freed
      assert.is_true(grown < 24 * 1024 * 1024, "grown by " .. grown)
    end
    local began = process.now()
    assert.equal(7, run [[
      for _ = 1, 5 do
        for row in db:each "select seq from seq_1_to_2000000" do if row.seq == 3 then break end end
      end
      for row in db:each("select seq from seq_1_to_10 where seq > ?", 6) do return row.seq end]])
    assert.is_true(process.now() - began < 8 * support.slowdown)
  end)

  it("says what a statement may be too large for, and goes on", function()
    assert.same({ "connection", true, 5 }, run [[
      local problem = problem_of(function() await(db:value("select ?", ("x"):rep(20000000))) end)
      return { problem.code, problem.message:find("max_allowed_packet", 1, true) ~= nil,
        await(db:value "select 5") }]])
  end)

  it("refuses what only PostgreSQL has", function()
    assert.equal("refused", run [[
      return problem_of(function() await(db:copy("copy t from stdin", "x")) end).code]])
  end)

  it("bounds what a result may hold", function()
    assert.same({ "too_large", 1 }, run [[
      local small = open { max_result = 100000, pool = 1 }
      local problem = problem_of(function()
        await(small:all "select seq, repeat('x', 100) as x from seq_1_to_3000000")
      end)
      return { problem.code, await(small:value "select 1") }]])
  end)
end)

describe_app("MariaDB in a mode of its own", { settings = { sql_mode = "ANSI", autocommit = 0 } },
  nil, function(_, run)
    it("reads statements as others do, strictly, and commits each", function()
      assert.same({ "text", true, true, "22001", 1 }, run [[
        local mode = "," .. await(db:value "select @@sql_mode") .. ","
        await(db:exec "create table short (a varchar(1)) engine = innodb")
        await(db:exec "insert into short values ('a')")
        local problem = problem_of(function() await(db:exec "insert into short values ('ab')") end)
        return { await(db:value [=[select "text"]=]), mode:find(",STRICT_TRANS_TABLES,") ~= nil,
          mode:find(",PIPES_AS_CONCAT,") ~= nil, problem.code,
          await(open({ pool = 1 }):value "select count(*) from short") }]])
    end)
  end)

local function tcp_url(user, host, query)
  return function(database)
    return ("mysql://%s@%s:%d/test%s"):format(user, host, database.port, query or "")
  end
end

describe_app("MariaDB by the name of its host", { tcp = true },
  { url = tcp_url("test:test", "localhost") }, function(_, run)
    it("is looked up and connected to", function()
      assert.equal(3, run 'return await(db:value "select 1 + 2")')
    end)
    it("refuses a wrong password, and a database that is not there, at once", function()
      local codes = run [[
        local function code_of(other)
          return problem_of(function() await(open({}, other):value "select 1") end).code
        end
        local began = clock()
        return { code_of((url:gsub("test:test", "test:wrong"))),
          code_of((url:gsub("/test$", "/none"))), clock() - began }]]
      assert.same({ "28000", "42000" }, { codes[1], codes[2] })
      assert.is_true(codes[3] < 0.5 * support.slowdown, codes[3])
    end)
  end)

for title, target in pairs { ["is wanted"] = { "127.0.0.1", "?ssl=1" },
  ["is checked"] = { "127.0.0.1", "?ssl=verify&ssl_ca=%s" },
  ["is checked by its name"] = { "localhost", "?ssl=verify&ssl_ca=%s" } } do
  describe_app("MariaDB with TLS that " .. title, { tls = true }, { url = function(database)
    return tcp_url("test:test", target[1], target[2]:format(escape(database.ca)))(database)
  end }, function(_, run)
    it("encrypts, and runs what is asked for", function()
      local cipher = run [[return await(db:one "show session status like 'Ssl_cipher'").Value]]
      assert.matches("^TLS_", cipher)
      assert.equal(2000000, run [[return #await(db:value("select ?", ("x"):rep(2000000)))]])
    end)
    it("is not spoken where it is off, or the certificate is somebody else's", function()
      local folder = process.temporary_directory()
      service.make_certificate(folder)
      local codes = run([[
        local function code_of(other)
          local problem = problem_of(function() await(open({}, other):value "select 1") end)
          return problem and problem.code or "none"
        end
        local plain = url:gsub("%?.*", "")
        return { code_of(plain .. "?ssl=0"), code_of(plain .. "?ssl=verify&ssl_ca=/etc/hostname"),
          code_of(plain .. "?ssl=verify"), code_of(plain .. "?ssl=verify&ssl_ca=]]
        .. escape(folder .. "/cert.pem") .. [[") }]])
      process.remove_directory(folder)
      assert.equal(4, #codes)
      for _, code in ipairs(codes) do
        assert.not_equal("none", code)
      end
    end)
  end)
end

describe_app("MariaDB that comes and goes", { durable = true }, nil, function(get_server, run,
    get_database)
  it("is connected to again after a restart under load", function()
    local clients = {}
    for index = 1, 4 do
      clients[index] = get_server():connect()
      clients[index]:send(("GET %s HTTP/1.1\r\nHost: x\r\n\r\n"):format(get_path [[
        local seen, stop = {}, clock() + 60
        while clock() < (restarted and restarted + 1 or stop) do
          local problem = problem_of(function() await(db:value "select sleep(0.001)") end)
          local word = problem and problem.code .. " " .. tostring(problem.status) or "fine"
          seen[word] = (seen[word] or 0) + 1
          if problem then await(fl.sleep(0.01)) end
        end
        seen.last = problem_of(function() await(db:value "select 1") end) or "fine"
        return seen]]))
    end
    process.sleep(0.5)
    get_database():restart()
    run "restarted = clock()"
    for _, client in ipairs(clients) do
      local seen = client:response({ timeout = 20 }):json().value
      assert.equal("fine", seen.last)
      seen.last = nil
      for word in pairs(seen) do
        assert.is_true(word == "fine" or word == "connection 503", word)
      end
    end
  end)

  it("fails queries when it is away for longer than they wait, and serves them when it is back",
    function()
      local database = get_database()
      database:kill()
      local answer = run [[
        local began = clock()
        local problem = problem_of(function() await(db:value "select 1") end)
        problem.took = clock() - began
        return problem]]
      assert.equal("connection", answer.code)
      assert.equal(503, answer.status)
      assert.is_true(answer.took < 2.5 * support.slowdown, answer.took)
      database:start()
      support.eventually(function()
        return run 'return problem_of(function() await(db:value "select 1") end) == nil'
      end, 10)
    end)

  it("is heard when it hangs up on idle connections", function()
    run 'await(db:value "select 1")'
    get_database():restart()
    for _ = 1, 5 do
      assert.equal(1, run 'return await(db:value "select 1")')
    end
  end)

  it("fails what was cut in the middle of a result, and runs again what may be", function()
    local proxy = databases.proxy { target = get_database() }
    local function try(code)
      return run("local db = open({ pool = 1 }, %q) await(db:value 'select 1') " .. code, proxy.url)
    end
    try ""
    proxy:cut_after(100000)
    local problem = try [[return problem_of(function()
      await(db:all "select seq, repeat('x', 100) as x from seq_1_to_10000") end)]]
    assert.equal("connection", problem.code)
    assert.equal(503, problem.status)
    assert.matches("may have run", problem.message)
    proxy:cut_after(100000)
    assert.equal(10000, try [[return #await(db:with { retry = true }:all
      "select seq, repeat('x', 100) as x from seq_1_to_10000")]])
    proxy:cut_after(2000)
    assert.equal("connection", try [[return problem_of(function()
      await(db:transaction(function(tx)
        pcall(function() await(tx:all "select seq, repeat('x', 100) as x from seq_1_to_10000") end)
        await(tx:value "select 1")
      end)) end).code]])
    assert.equal(1, try 'return await(db:value "select 1")')
    proxy:stop()
  end)
end)

local function open_transactions(database)
  process.sleep(0.15) -- the server looks anew only when it was not asked for 0.1 s
  return tonumber(database:query("select count(*) from information_schema.innodb_trx")[1][1])
end

describe_app("MariaDB and an evacuation", {}, { apps = { ["a/app.lua"] = app, ["b/app.lua"] = app },
  settings = { stuck_handler = evacuation.limit(200), blocked_handler = evacuation.limit(400) } },
  function(get_server, _, get_database)
    local function ask(client, path)
      client:send(("GET %s HTTP/1.1\r\nHost: x\r\n\r\n"):format(path))
    end

    it("goes on with the neighbour's query, and rolls back what the stuck state had", function()
      local server, database = get_server(), get_database()
      database:query "create table if not exists held (n int) engine = innodb"
      local neighbour, holder, culprit = server:connect(), server:connect(), server:connect()
      ask(neighbour, "/b" .. get_path [[
        local list = {}
        for index = 1, 4 do list[index] = db:value("select sleep(?) + ?", 1.5, index) end
        return await(gather(list))]])
      ask(holder, "/a" .. get_path [[
        return await(db:transaction(function(tx)
          await(tx:exec "insert into held values (1)")
          await(fl.sleep(20))
        end))]])
      support.eventually(function()
        return open_transactions(database) >= 1
      end)
      ask(culprit, "/a" .. get_path "spin(2.5)")
      server:wait_log("evacuated web thread", 10)
      assert.equal(503, culprit:response({ timeout = 10 }).status)
      local response = neighbour:response({ timeout = 10 })
      assert.equal(200, response.status, response.body)
      support.eventually(function()
        return open_transactions(database) == 0
      end)
      assert.equal("0", database:query("select count(*) from held")[1][1])
      for _, name in ipairs { "a", "b" } do
        local client = server:connect()
        ask(client, "/" .. name .. get_path [[return await(db:value "select 5")]])
        assert.equal(5, client:response({ timeout = 5 }):json().value)
      end
    end)
  end)
