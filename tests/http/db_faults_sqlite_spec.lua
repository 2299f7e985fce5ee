-- fl.db on SQLite keeps its promises when things break: what of them there is without a server.

local db_faults = require "support.db_faults"
local evacuation = require "support.evacuation"
local load = require "support.load"
local report = require "support.report"
local support = require "support"

local now, sleep = support.process.now, support.process.sleep
local eventually, slowdown = support.eventually, support.slowdown
local folder = support.process.temporary_directory()
local url = "sqlite:" .. folder .. "/test.db?functions=sleep"

local description = {
  server = "sqlite",
  most = 1, -- one writer
  sleep = function(ms)
    return ("select fasterlua_sleep(%d) as slept"):format(ms)
  end,
  series = function(count)
    return ("with recursive t(n) as (select 1 union all select n + 1 from t where n < %s) "
      .. "select n from t"):format(count)
  end,
  text = function(size)
    return ("select replace(hex(zeroblob(%d)), '0', 'x')"):format(size / 2)
  end,
  bad_values = {
    { "integer check (typeof(v) = 'integer')", "'abc'", "CHECK", "v" },
    { "integer not null", "nil", "NOT NULL", "v" },
    { "integer", "print", "argument 2 is a function" },
  },
}

db_faults.library("fl.db on SQLite, when things break:", description, url, function(_, c)
  it("a statement ends within a second after its client has left", function()
    local server = c.get_server()
    local client = server:connect()
    client:send("GET /sleep HTTP/1.1\r\nHost: a\r\n\r\n")
    eventually(function() return c.run "return db:stats().pending" == 1 end)
    client:reset()
    local left = now()
    eventually(function() return c.run "return db:stats().pending" == 0 end)
    report("sqlite: gone %.0f ms after the client", (now() - left) * 1000)
    assert.is_true(now() - left < slowdown, now() - left)
  end)

  it("another process that holds the lock keeps writers for their time, and readers not", function()
    c.table_of("shared_table", "n integer")
    local server = support.start(db_faults.options_of(description, url))
    local client = server:connect()
    local text = [[await(db:transaction(function(tx)
      await(tx:exec "insert into shared_table values (1)")
      await(fl.sleep(0.9))
    end))]]
    client:send(("POST /run HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%s"):format(#text,
      text))
    sleep(0.2)
    local result = c.run [[
      local from = now()
      local count = await(db:value "select count(*) from shared_table")
      local read = now() - from
      local problem = problem_of(function()
        await(small:exec "insert into shared_table values (2)")
      end)
      return { count = count, read = read, code = problem and problem.code,
        status = problem and problem.status, took = now() - from }]]
    assert.equal(0, result.count)
    assert.is_true(result.read < 0.2 * slowdown, result.read)
    assert.equal("pool_timeout", result.code)
    assert.equal(503, result.status)
    assert.is_true(result.took < 0.4 + 0.3 * slowdown, result.took)
    assert.equal(200, client:response().status)
    assert.equal(1, c.run [[return await(db:exec "insert into shared_table values (3)")]])
    server:stop()
  end)
end)

describe("fl.db on SQLite, when the server itself is replaced,", function()
  it("fails no request", function()
    local options = db_faults.options_of(description, url)
    options.flags = { "--threads", "2" }
    local server = support.start(options)
    local old = server:server_pid()
    local clients = load.start(server, { path = "/number/%d", clients = 16 })
    sleep(0.3)
    server:signal("HUP")
    eventually(function()
      local pids = server:pids()
      return #pids == 1 and pids[1] ~= old
    end, 10)
    sleep(0.2)
    local seen = db_faults.judge(clients:stop())
    db_faults.expect_only(seen, { answers = true, slowest = true, refusals = true })
    assert.equal(0, seen.refusals)
    server:stop()
    assert.is_nil(server:log():match("did not end cleanly"))
  end)
end)

describe("fl.db on SQLite, when a thread is stuck in a transaction,", function()
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
app:get("/make", function()
  await(db:exec "drop table if exists held")
  await(db:exec "create table held (n integer)")
  await(db:exec "insert into held values (0)")
end)
app:get("/hold", function()
  await(db:transaction(function(tx)
    await(tx:exec "update held set n = n + 1")
    spin(0.5)
  end))
end)
app:get("/add", function()
  await(db:with { timeout = 1 }:exec "update held set n = n + 10")
  return ("%%d"):format(await(db:value "select n from held"))
end)
return app
]]

  it("rolls it back for others to write", function()
    local text = stuck_app:format(url)
    local server = evacuation.serve(nil, { a = text, b = text })
    assert.equal(204, server:get("/a/make").status)
    assert.equal("10", server:get("/b/add").body)
    local client = evacuation.stick(server, "/a/hold")
    local from = now()
    local response = server:get("/b/add")
    report("sqlite: written %.0f ms after the evacuation", (now() - from) * 1000)
    assert.equal("20", response.body)
    assert.is_true(now() - from < slowdown, now() - from)
    evacuation.expect(client, 503)
    assert.equal("30", server:get("/a/add").body)
    evacuation.wait_joined(server)
    server:stop()
  end)
end)

describe("the folder of the database", function()
  it("can be removed", function()
    support.process.remove_directory(folder)
  end)
end)
