local support = require "support"

local databases, process = support.databases, support.process

local APP = [==[
local fl = require "fasterlua"
local app = fl.app { title = "Items" }
local db = fl.db(os.getenv "TEST_DATABASE_URL")
app:post("/all", function(req) return fl.await(db:all(req:text())) end)
app:post("/exec", function(req) fl.await(db:exec(req:text())) end)
return app
]==]

local ITEMS = "-- up\ncreate table items (id integer primary key, n varchar(20));\n"
  .. "-- down\ndrop table items;\n"
local FILLED = "-- up\ninsert into items values (1, 'a;b');\ninsert into items values (2, 'c');\n"
  .. "-- down\ndelete from items;\n"

local function lines_with(text, part)
  local count = 0
  for line in text:gmatch("[^\n]+") do
    count = count + (line:find(part, 1, true) and 1 or 0)
  end
  return count
end

---@class migrations_spec.Database
---@field url string
---@field tables string a query of its tables, as column `name`
---@field sleep string a statement that takes a moment
---@field is_transactional boolean
---@field locks boolean? it says that it waits

---@param title string
---@param get_database fun(): migrations_spec.Database
local function specify(title, get_database)
  describe(title, function()
    local root, server, database

    local function write(name, text)
      local file = assert(io.open(root .. "/apps/items/" .. name, "w"))
      file:write(text)
      file:close()
    end

    local function environment()
      return { TEST_DATABASE_URL = database.url, DATABASE_URL = false, FASTERLUA_CONF = false }
    end

    local function command(...)
      local status, output = support.command({ "db", ... }, { env = environment(),
        directory = root, timeout = 20 })
      return status.code, output
    end

    local function succeed(...)
      local code, output = command(...)
      assert.equal(0, code, output)
      return output
    end

    local function fail(...)
      local code, output = command(...)
      assert.equal(1, code, output)
      return output
    end

    local function query(sql)
      local response = server:post("/all", sql)
      assert.equal(200, response.status, sql .. response.body .. server:log():sub(-2000))
      return response:json()
    end

    local function exec(sql)
      assert.equal(204, server:post("/exec", sql).status, sql)
    end

    local function tables()
      local names = {}
      for _, row in ipairs(query(database.tables)) do
        names[row.name] = true
      end
      return names
    end

    local function contains(text, part)
      assert.is_truthy(text:find(part, 1, true), ("%q lacks %q"):format(text, part))
    end

    strict_setup(function()
      database = get_database()
      root = process.temporary_directory()
      os.execute("mkdir -p " .. root .. "/apps/items/migrations")
      write("app.lua", APP)
      server = support.start { dir = root .. "/apps/items", env = environment(),
        flags = { "--threads", "1" } }
    end)

    strict_teardown(function()
      if server then
        server:stop()
      end
      process.remove_directory(root)
    end)

    before_each(function()
      os.execute("rm -f " .. root .. "/apps/items/migrations/*")
      for name in pairs(tables()) do
        exec("drop table " .. name)
      end
    end)

    it("applies what is pending, once, and says so", function()
      write("migrations/0001_items.sql", ITEMS)
      write("migrations/0002_fill.sql", FILLED)
      local output = succeed "migrate"
      contains(output, "applied 0001_items.sql")
      contains(output, "applied 0002_fill.sql")
      assert.same({ { id = 1, n = "a;b" }, { id = 2, n = "c" } },
        query "select * from items order by id")
      contains(succeed "migrate", "nothing to apply")
      write("migrations/0003_more.sql", "insert into items values (3, 'd')")
      output = succeed "migrate"
      assert.is_nil(output:find("0001", 1, true))
      contains(output, "applied 0003_more.sql")
      assert.equal(3, #query "select * from items")
    end)

    it("finds the app as serve does, and the database by its URL", function()
      write("migrations/0001_items.sql", ITEMS)
      contains(succeed("migrate", "apps/items/app.lua"), "applied 0001_items.sql")
      contains(succeed("status", "apps/items", "--database", database.url), "applied  ")
    end)

    it("stops where it is told", function()
      write("migrations/0001_items.sql", ITEMS)
      write("migrations/0002_fill.sql", FILLED)
      write("migrations/0003_more.sql", "insert into items values (3, 'd')")
      local output = succeed("migrate", "--to", "1")
      assert.equal(1, lines_with(output, "applied 0"))
      output = succeed("migrate", "--steps", "1")
      contains(output, "applied 0002_fill.sql")
      assert.is_nil(output:find("0003", 1, true))
      contains(fail("migrate", "--to", "9"), "there is no migration with version 9")
    end)

    it("rolls back the last one, or more", function()
      write("migrations/0001_items.sql", ITEMS)
      write("migrations/0002_fill.sql", FILLED)
      succeed "migrate"
      contains(succeed "rollback", "rolled back 0002_fill.sql")
      assert.same({}, query "select * from items")
      succeed "migrate"
      local output = succeed("rollback", "--to", "0")
      assert.is_true(output:find("0002_fill", 1, true) < output:find("0001_items", 1, true))
      assert.is_nil(tables().items)
      contains(succeed "rollback", "nothing to roll back")
    end)

    it("cannot roll back what has no way down", function()
      write("migrations/0001_items.sql", "create table items (id integer)")
      succeed "migrate"
      contains(fail "rollback", "apps/items/migrations/0001_items.sql cannot be rolled back: it "
        .. "has no `-- down`")
      assert.is_true(tables().items)
    end)

    it("tells what is applied and what is not", function()
      write("migrations/0001_items.sql", ITEMS)
      contains(succeed "status", "pending")
      assert.is_nil(tables().fasterlua_migrations)
      succeed "migrate"
      write("migrations/0002_fill.sql", FILLED)
      local output = succeed "status"
      assert.is_truthy(output:find("applied +%d%d%d%d%-%d%d%-%d%dT%d%d:%d%d:%d%dZ +0001_items.sql"),
        output)
      assert.is_truthy(output:find("pending +%- +0002_fill.sql"), output)
    end)

    it("says what it would do, and does nothing", function()
      write("migrations/0001_items.sql", ITEMS)
      local output = succeed("migrate", "--dry-run")
      contains(output, "would apply 0001_items.sql")
      contains(output, "create table items")
      assert.same({}, tables())
      succeed "migrate"
      contains(succeed("rollback", "--dry-run"), "would roll back 0001_items.sql")
      assert.is_true(tables().items)
    end)

    it("tries in a dry run what can be tried", function()
      write("migrations/0001_items.sql", ITEMS .. "-- nothing")
      write("migrations/0002_wrong.sql", "insert into nowhere values (1)")
      if database.is_transactional then
        contains(fail("migrate", "--dry-run"), "apps/items/migrations/0002_wrong.sql:1: ")
      else
        succeed("migrate", "--dry-run")
      end
      assert.same({}, tables())
    end)

    it("names file and line of what fails, and what of it stays", function()
      write("migrations/0001_items.sql", ITEMS)
      write("migrations/0002_wrong.sql", "create table others (id integer);\n\n"
        .. "-- the next one fails\ninsert into nowhere values (1);\n")
      local output = fail "migrate"
      contains(output, "applied 0001_items.sql")
      contains(output, "apps/items/migrations/0002_wrong.sql:4: ")
      contains(output, "nowhere")
      if database.is_transactional then
        contains(output, "nothing of this file stays")
        assert.is_nil(tables().others)
        write("migrations/0002_wrong.sql", "create table others (id integer)")
        contains(succeed "migrate", "applied 0002_wrong.sql")
      else
        contains(output, "the statement before line 4 stays done")
        assert.is_true(tables().others)
      end
      assert.is_true(tables().items)
    end)

    it("takes back changed rows where a later statement fails", function()
      write("migrations/0001_items.sql", ITEMS)
      write("migrations/0002_wrong.sql", "insert into items values (1, 'a');\n"
        .. "insert into items values (1, 'b');\n")
      contains(fail "migrate", "0002_wrong.sql:2: ")
      assert.same({}, query "select * from items")
      write("migrations/0002_wrong.sql", "insert into items values (1, 'a')")
      succeed "migrate"
    end)

    it("reads all files before it runs one", function()
      write("migrations/0001_items.sql", ITEMS)
      write("migrations/0002_wrong.sql", "insert into items values (1, 'a);\n")
      contains(fail "migrate", "apps/items/migrations/0002_wrong.sql:1: an unterminated string")
      write("migrations/0002_wrong.sql", "-- up\n\nbegin;\ncommit;\n")
      contains(fail "migrate", "0002_wrong.sql:3: BEGIN: a migration is one transaction")
      write("migrations/0002_wrong.sql", "select 1;\n-- up\n")
      contains(fail "migrate", "0002_wrong.sql:1: a statement before `-- up`")
      write("migrations/0002_wrong.sql", "-- up\n-- down\n-- up\n")
      contains(fail "migrate", "0002_wrong.sql:3: a second `-- up`")
      os.execute("rm " .. root .. "/apps/items/migrations/0002_wrong.sql")
      write("migrations/two.sql", "select 1")
      contains(fail "migrate", "two.sql: the name of a migration begins with its version")
      os.execute("rm " .. root .. "/apps/items/migrations/two.sql")
      write("migrations/1_again.sql", "select 1")
      contains(fail "migrate", "have the same version")
      assert.same({}, tables())
    end)

    it("takes the file that is for this database", function()
      write("migrations/0001_items.sql", "this is no SQL")
      write("migrations/0001_items." .. database.driver .. ".sql", ITEMS)
      local other = database.driver == "sqlite" and "mariadb" or "sqlite"
      write("migrations/0002_fill." .. other .. ".sql", "nor is this")
      local output = succeed "migrate"
      contains(output, "applied 0001_items." .. database.driver .. ".sql")
      assert.equal(1, lines_with(output, "applied"))
      write("migrations/0003_fill.postgre.sql", "select 1")
      contains(fail "migrate", 'did you mean "postgres"')
    end)

    it("refuses a file that was changed", function()
      write("migrations/0001_items.sql", ITEMS)
      succeed "migrate"
      write("migrations/0001_items.sql", ITEMS .. "\n") -- the way down may change
      succeed "migrate"
      write("migrations/0001_items.sql", ITEMS:gsub("20", "30"))
      contains(fail "migrate", "apps/items/migrations/0001_items.sql was changed")
      contains(fail "rollback", "was changed")
      contains(fail "status", "changed")
      succeed("migrate", "--allow-changed")
      contains(succeed "migrate", "nothing to apply")
    end)

    it("refuses to go on without a file that was applied", function()
      write("migrations/0001_items.sql", ITEMS)
      succeed "migrate"
      os.execute("rm " .. root .. "/apps/items/migrations/0001_items.sql")
      write("migrations/0002_fill.sql", FILLED)
      contains(fail "migrate", "version 1 (items) was applied, but has no file")
      contains(fail "status", "missing")
      contains(fail "rollback", "version 1 (items) cannot be rolled back: it has no file")
      contains(succeed("migrate", "--allow-missing"), "applied 0002_fill.sql")
    end)

    it("refuses a file before one that was applied", function()
      write("migrations/0002_items.sql", ITEMS)
      succeed "migrate"
      write("migrations/0001_early.sql", "create table early (id integer)")
      contains(fail "migrate", "apps/items/migrations/0001_early.sql comes before others")
      contains(fail "status", "out of order")
      contains(succeed("migrate", "--allow-out-of-order"), "applied 0001_early.sql")
    end)

    it("runs a file without a transaction where it says so", function()
      write("migrations/0001_items.sql", ITEMS)
      write("migrations/0002_plain.sql", "-- no transaction\n" .. database.outside .. ";\n"
        .. "insert into items values (1, 'a');\ninsert into nowhere values (1);\n")
      local output = fail "migrate"
      contains(output, "0002_plain.sql:4: ")
      contains(output, "the 2 statements before line 4 stays done (-- no transaction)")
      assert.equal(1, #query "select * from items")
      write("migrations/0002_plain.sql", "-- no transaction\ninsert into items values (2, 'a');\n")
      if database.is_transactional then
        contains(succeed("migrate", "--dry-run"), "checked only what comes before 0002_plain.sql")
      end
      contains(succeed "migrate", "applied 0002_plain.sql")
    end)

    it("lets two at once take turns", function()
      write("migrations/0001_items.sql", ITEMS)
      write("migrations/0002_slow.sql", database.sleep)
      for n = 3, 12 do
        write(("migrations/%04d_fill.sql"):format(n),
          ("insert into items values (%d, 'a')"):format(n))
      end
      local pids, outputs = {}, {}
      for index = 1, 2 do
        outputs[index] = root .. "/output" .. index
        pids[index] = process.spawn { argv = { support.binary, "db", "migrate" },
          env = environment(), directory = root, output = outputs[index] }
      end
      local total, waited = 0, 0
      for index, pid in ipairs(pids) do
        local status = process.wait(pid, 20 * support.slowdown)
        local output = process.read(outputs[index])
        assert.equal(0, status and status.code, output)
        total = total + lines_with(output, "  applied 0")
        waited = waited + lines_with(output, "waiting for another migration")
        os.remove(outputs[index])
      end
      assert.equal(12, total)
      assert.equal(10, #query "select * from items")
      if database.locks then
        assert.equal(1, waited)
      end
    end)

    it("goes on while the database is in use", function()
      write("migrations/0001_items.sql", ITEMS)
      succeed "migrate"
      for n = 2, 6 do
        exec(("insert into items values (%d, 'a')"):format(n))
        write(("migrations/%04d_fill.sql"):format(n),
          ("insert into items values (%d, 'a')"):format(n + 100))
        succeed "migrate"
      end
      assert.equal(10, #query "select * from items")
    end)
  end)
end

specify("migrations of SQLite", function()
  local folder = process.temporary_directory()
  return { driver = "sqlite", url = "sqlite:" .. folder .. "/items.db", is_transactional = true,
    tables = "select name from sqlite_master where type = 'table'", outside = "vacuum",
    sleep = "create table slow as with recursive c(n) as (select 1 union all select n + 1 from c "
      .. "where n < 300000) select max(n) as n from c" }
end)

databases.describe("on a server", "postgres", {}, function(get_server)
  specify("migrations of PostgreSQL", function()
    return { driver = "postgres", url = get_server().url, is_transactional = true, locks = true,
      tables = "select tablename as name from pg_tables where schemaname = 'public'",
      outside = "create index concurrently items_n on items (n)",
      sleep = "do $$ begin perform pg_sleep(1); end $$" }
  end)
end)

databases.describe("on a server", "mariadb", {}, function(get_server)
  specify("migrations of MariaDB", function()
    return { driver = "mariadb", url = get_server().url, is_transactional = false, locks = true,
      tables = "select table_name as name from information_schema.tables "
        .. "where table_schema = database()",
      outside = "create index items_n on items (n)",
      sleep = "do sleep(1)" }
  end)
end)

describe("a server that starts", function()
  local root, server

  before_each(function()
    root = process.temporary_directory()
    os.execute("mkdir -p " .. root .. "/shop/migrations " .. root .. "/blog/migrations")
  end)

  after_each(function()
    if server then
      server:stop()
      server = nil
    end
    process.remove_directory(root)
  end)

  local function write(name, text)
    local file = assert(io.open(root .. "/" .. name, "w"))
    file:write(text)
    file:close()
  end

  local function write_app(name, url, extra)
    write(name .. "/app.lua", ([[
local fl = require "fasterlua"
local app = fl.app {}
local db = fl.db(%q, { connect_timeout = "300ms" })
app:get("/", function() return fl.await(db:value "select 1") end)
%s
return app
]]):format(url, extra or ""))
  end

  local function start(flags)
    server = support.start { dir = root, flags = flags or { "--threads", "2" } }
    return server
  end

  local PENDING = "warn  migrations are not applied"

  local function count_warnings()
    return lines_with(server:log(), PENDING)
  end

  -- What would have been logged has been: each app's check ends before this one's.
  local function wait_for_all(name)
    assert.is_truthy(server:wait_log(PENDING .. "[^\n]*app=" .. name), server:log())
    process.sleep(0.2 * support.slowdown)
  end

  it("says once for each app that migrations are not applied", function()
    write_app("shop", "sqlite:shop.db")
    write("shop/migrations/0001_items.sql", ITEMS)
    write("shop/migrations/0002_fill.sql", FILLED)
    write_app("blog", "sqlite:blog.db")
    write("blog/migrations/0001_posts.sql", ITEMS)
    start()
    wait_for_all "shop"
    wait_for_all "blog"
    assert.equal(2, count_warnings())
    assert.is_truthy(server:log():find("migrations are not applied: 0001_items.sql and 1 more; "
      .. "fasterlua db migrate applies them", 1, true), server:log())
    assert.is_truthy(server:log():find("database=sqlite:blog.db", 1, true))
  end)

  it("says nothing of an app that applies them itself, or has none to apply", function()
    write_app("shop", "sqlite:shop.db", [[
app:on_start(function() require("fasterlua.migrations").apply(db) end)]])
    write("shop/migrations/0001_items.sql", ITEMS)
    write_app("blog", "sqlite:blog.db")
    write("blog/migrations/0001_posts.sql", ITEMS)
    os.execute(("cp -r %s/shop %s/bare && rm -r %s/bare/migrations"):format(root, root, root))
    write_app("bare", "sqlite:bare.db")
    start { "--threads", "2", "--workers", "2" }
    wait_for_all "blog"
    assert.equal(1, count_warnings())
    assert.is_nil(server:log():find("unknown whether", 1, true), server:log())
  end)

  it("neither waits for a database that is away nor fails", function()
    write_app("shop", "postgres://nobody@127.0.0.1:1/none")
    write("shop/migrations/0001_items.sql", ITEMS)
    write("blog/app.lua", 'return require("fasterlua").app {}')
    start()
    assert.equal(503, server:get("/shop/").status)
    assert.is_truthy(server:wait_log("unknown whether migrations are applied[^\n]*app=shop"))
    assert.equal(0, count_warnings())
  end)

  it("says so of files that it cannot read, too", function()
    write_app("shop", "sqlite:shop.db")
    write("shop/migrations/items.sql", ITEMS)
    start()
    assert.is_truthy(server:wait_log("unknown whether migrations are applied[^\n]*the name of a "
      .. "migration begins with its version"))
  end)
end)

describe("the command db", function()
  local root

  before_each(function()
    root = process.temporary_directory()
    os.execute("mkdir -p " .. root .. "/apps/a " .. root .. "/apps/b")
  end)

  after_each(function()
    process.remove_directory(root)
  end)

  local function write(name, text)
    os.execute("mkdir -p " .. (root .. "/" .. name):match("^(.*)/"))
    local file = assert(io.open(root .. "/" .. name, "w"))
    file:write(text)
    file:close()
  end

  local function command(arguments, env)
    env = env or {}
    env.DATABASE_URL = env.DATABASE_URL or false
    local status, output = support.command({ "db", unpack(arguments) },
      { env = env, directory = root, timeout = 20 })
    return status.code, output
  end

  local EMPTY = 'return require("fasterlua").app {}'

  it("says where it has looked", function()
    write("apps/a/app.lua", EMPTY)
    local code, output = command { "migrate" }
    assert.equal(1, code)
    assert.matches("there are no migrations: looked for apps/a/migrations", output, 1, true)
  end)

  it("says when an app has no database", function()
    write("apps/a/app.lua", EMPTY)
    write("apps/a/migrations/1_a.sql", "create table a (n integer)")
    local code, output = command { "migrate" }
    assert.equal(1, code)
    assert.matches("app a opens no database while it is loaded", output, 1, true)
    write("apps/a/app.lua", "error 'broken'")
    code, output = command { "migrate" }
    assert.equal(1, code)
    assert.matches("app a cannot be loaded: apps/a/app.lua:1: broken", output, 1, true)
  end)

  it("takes DATABASE_URL, and --database before it", function()
    write("apps/a/app.lua", EMPTY)
    write("apps/a/migrations/1_a.sql", "create table a (n integer)")
    local env = { DATABASE_URL = "sqlite:" .. root .. "/env.db" }
    local _, output = command({ "migrate" }, env)
    assert.matches("env.db", output, 1, true)
    assert.matches("applied 1_a.sql", output, 1, true)
    _, output = command({ "migrate", "apps/a", "--database", "sqlite:" .. root .. "/flag.db" }, env)
    assert.matches("flag.db", output, 1, true)
    assert.matches("applied 1_a.sql", output, 1, true)
    local code
    code, output = command { "migrate", "--database", "nonsense:x" }
    assert.equal(1, code)
    assert.matches("no database is reached by", output, 1, true)
  end)

  it("goes through all apps, each with its own", function()
    for _, name in ipairs { "a", "b" } do
      write("apps/" .. name .. "/app.lua",
        ('require("fasterlua").db "sqlite:%s/%s.db" %s'):format(root, name, EMPTY))
      write("apps/" .. name .. "/migrations/1_a.sql", "create table a (n integer)")
    end
    local code, output = command { "migrate" }
    assert.equal(0, code, output)
    assert.equal(2, lines_with(output, "applied 1_a.sql"))
    code, output = command({ "migrate" }, { DATABASE_URL = "sqlite:" .. root .. "/one.db" })
    assert.equal(1, code)
    assert.matches("2 apps have migrations (a, b)", output, 1, true)
  end)

  it("says how to use it when used wrongly", function()
    assert.equal(2, (command { "migrate", "--steps", "0" }))
    assert.equal(2, (command { "migrate", "--to", "x" }))
    assert.equal(2, (command { "migarte" }))
    assert.equal(2, (command {}))
  end)
end)

describe("an app that applies its migrations when it starts", function()
  it("does so in one of its states, before the first request", function()
    local folder = process.temporary_directory()
    local dir = support.app { ["app.lua"] = [==[
      local fl = require "fasterlua"
      local migrations = require "fasterlua.migrations"
      local app = fl.app {}
      local db = fl.db(os.getenv "TEST_DATABASE_URL")
      app:on_start(function() migrations.apply(db) end)
      app:get("/", function() return fl.await(db:all "select * from items") end)
      return app]==] }
    os.execute("mkdir " .. dir .. "/migrations")
    local file = assert(io.open(dir .. "/migrations/1_items.sql", "w"))
    file:write("create table items (n integer); insert into items values (7);")
    file:close()
    local server = support.start { dir = dir, flags = { "--threads", "4" },
      env = { TEST_DATABASE_URL = "sqlite:" .. folder .. "/a.db" } }
    assert.same({ { n = 7 } }, server:get("/"):json())
    server:stop()
    process.remove_directory(folder)
  end)
end)
