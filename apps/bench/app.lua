-- What framework benchmarks measure: fixed text, JSON out, a path parameter, JSON in and out; and
-- over a database one row, many rows, rows read and written, a page, and a cache. `make bench`
-- compares them with the same routes of other servers. DATABASE_URL names the database, with tables
-- `world` and `fortune`; without it there is one in memory.
local fl = require "fasterlua"

local await = fl.await
local random = math.random

local app = fl.app { title = "Bench", version = "1.0.0" }
local url = os.getenv "DATABASE_URL"
local db = fl.db(url or "sqlite::memory:")
local is_postgres = db:driver() == "postgres"

local ROWS, MOST = 10000, 500
local ONE = 'select id, randomnumber as "randomNumber" from world where id = ?'

app:get("/plaintext", function()
  return "Hello, World!"
end)

app:get("/json", function()
  return { message = "Hello, World!" }
end)

app:get("/user/{id}", function(req)
  return "user " .. req.params.id
end)

app:post("/echo", function(req)
  return req:json()
end)

-- How many rows a request asks for: anything else than 1 to 500 is the nearest of them.
local function count_of(req)
  local n = tonumber(req.query.n) or 1
  return math.floor(math.max(1, math.min(MOST, n)))
end

local function any_id()
  return random(1, ROWS)
end

-- All queries are under way before the first is waited for.
local function read_rows(count)
  local rows = {}
  for index = 1, count do
    rows[index] = db:one(ONE, any_id())
  end
  for index = 1, count do
    rows[index] = await(rows[index])
  end
  return fl.array(rows)
end

app:get("/db", function()
  return await(db:one(ONE, any_id()))
end)

app:get("/queries", function(req)
  return read_rows(count_of(req))
end)

local UPDATE_MANY = "update world set randomnumber = new.number "
  .. "from unnest(?::int[], ?::int[]) as new(id, number) where world.id = new.id"
local UPDATE_ONE = "update world set randomnumber = ? where id = ?"

-- In the order of ids, so that two requests cannot wait for each other's rows.
local function write_rows(rows)
  local sorted = { unpack(rows) }
  table.sort(sorted, function(a, b)
    return a.id < b.id
  end)
  if not is_postgres then
    local arguments = {}
    for index, row in ipairs(sorted) do
      arguments[index] = { row.randomNumber, row.id }
    end
    return await(db:batch(UPDATE_ONE, arguments))
  end
  local ids, numbers = {}, {}
  for index, row in ipairs(sorted) do
    ids[index], numbers[index] = row.id, row.randomNumber
  end
  return await(db:exec(UPDATE_MANY, ids, numbers))
end

app:get("/updates", function(req)
  local rows = read_rows(count_of(req))
  for _, row in ipairs(rows) do
    row.randomNumber = any_id()
  end
  write_rows(rows)
  return rows
end)

local PAGE = "<!DOCTYPE html><html><head><title>Fortunes</title></head><body><table>"
  .. "<tr><th>id</th><th>message</th></tr>%s</table></body></html>"
local LINE = "<tr><td>%d</td><td>%s</td></tr>"

app:get("/fortunes", function()
  local fortunes = await(db:all "select id, message from fortune")
  fortunes[#fortunes + 1] = { id = 0, message = "Additional fortune added at request time." }
  table.sort(fortunes, function(a, b)
    return a.message < b.message
  end)
  local lines = {}
  for index, fortune in ipairs(fortunes) do
    lines[index] = LINE:format(fortune.id, fl.escape_html(fortune.message))
  end
  return fl.html(PAGE:format(table.concat(lines)))
end)

local cache = {} -- rows by id, filled when they are first asked for

app:get("/cached-queries", function(req)
  local rows = {}
  if not cache[1] then
    for _, row in ipairs(await(db:all 'select id, randomnumber as "randomNumber" from world')) do
      cache[row.id] = row
    end
  end
  for index = 1, count_of(req) do
    rows[index] = cache[any_id()]
  end
  return fl.array(rows)
end)

local FILL = [[
insert into world
with recursive numbers (n) as (select 1 union all select n + 1 from numbers where n < ?)
select n, abs(random()) % ? + 1 from numbers]]
local FORTUNES = {
  "fortune: No such file or directory",
  "A computer scientist is someone who fixes things that aren't broken.",
  "After enough decimal places, nobody gives a damn.",
  "A bad random number generator: 1, 1, 1, 1, 1, 4.33e+67, 1, 1, 1",
  "A computer program does what you tell it to do, not what you want it to do.",
  "Emacs is a nice operating system, but I prefer UNIX. — Tom Christaensen",
  "Any program that runs right is obsolete.",
  "A list is only as strong as its weakest link. — Donald Knuth",
  "Feature: A bug with seniority.",
  "Computers make very fast, very accurate mistakes.",
  '<script>alert("This should not be displayed in a browser alert box.");</script>',
  "フレームワークのベンチマーク",
}

local function fill()
  await(db:transaction(function(tx)
    await(tx:exec "create table if not exists world (id integer primary key, randomnumber integer)")
    await(tx:exec "create table if not exists fortune (id integer primary key, message text)")
    if await(tx:value "select count(*) from world") > 0 then
      return
    end
    await(tx:exec(FILL, ROWS, ROWS))
    for id, message in ipairs(FORTUNES) do
      await(tx:exec("insert into fortune values (?, ?)", id, message))
    end
  end))
end

if not url then
  app:on_start(fill)
end

return app
