local databases = require "support.databases"
local support = require "support"

support.describe_server("the bench app", { dir = "apps/bench" }, function(get_server)
  it("answers plain text", function()
    local response = get_server():get("/plaintext")
    assert.equal(200, response.status)
    assert.equal("Hello, World!", response.body)
    assert.equal("13", response.headers["content-length"])
    assert.matches("^text/plain", response.headers["content-type"])
    assert.matches("^%a%a%a, %d%d %a%a%a %d%d%d%d %d%d:%d%d:%d%d GMT$", response.headers.date)
  end)

  it("answers JSON", function()
    local response = get_server():get("/json")
    assert.equal('{"message":"Hello, World!"}', response.body)
    assert.matches("^application/json", response.headers["content-type"])
  end)

  it("takes a parameter from the path", function()
    assert.equal("user 42", get_server():get("/user/42").body)
    assert.equal("user a b", get_server():get("/user/a%20b").body)
  end)

  it("sends JSON back", function()
    local value = { id = 42, name = "fasterlua", tags = { "a", "b" } }
    assert.same(value, get_server():post("/echo", value):json())
  end)

  it("refuses what is not JSON", function()
    local broken = { ["Content-Type"] = "application/json" }
    assert.equal(422, get_server():post("/echo", '{"id":', broken).status)
  end)

  it("answers a pipeline of sixteen in order", function()
    local client, batch = get_server():connect(), {}
    for i = 1, 16 do batch[i] = ("GET /user/%d HTTP/1.1\r\nHost: a\r\n\r\n"):format(i) end
    client:send(table.concat(batch))
    local answers = assert(client:responses(16))
    for i = 1, 16 do assert.equal("user " .. i, answers[i].body) end
  end)
end)

local function check_database_routes(get_server)
  it("reads one row", function()
    local row = get_server():get("/db"):json()
    assert.is_true(row.id >= 1 and row.id <= 10000)
    assert.is_true(row.randomNumber >= 1 and row.randomNumber <= 10000)
    assert.matches('^{"id":%d+,"randomNumber":%d+}$', get_server():get("/db").body)
  end)

  it("reads as many rows as are asked for, from 1 to 500", function()
    for asked, count in pairs { ["3"] = 3, ["20"] = 20, ["0"] = 1, x = 1, ["501"] = 500 } do
      assert.equal(count, #get_server():get("/queries?n=" .. asked):json())
      assert.equal(count, #get_server():get("/cached-queries?n=" .. asked):json())
    end
  end)

  it("writes what it says it has written", function()
    local rows = get_server():get("/updates?n=20"):json()
    assert.equal(20, #rows)
    for _, row in ipairs(rows) do
      assert.is_true(row.randomNumber >= 1 and row.randomNumber <= 10000)
    end
  end)

  it("shows fortunes sorted and escaped", function()
    local response = get_server():get "/fortunes"
    assert.matches("^text/html", response.headers["content-type"])
    assert.matches("<td>0</td><td>Additional fortune added at request time.</td>", response.body,
      1, true)
    assert.matches("&lt;script&gt;", response.body, 1, true)
    assert.is_nil(response.body:find("<script>", 1, true))
    local first, last = response.body:find("<td>11</td>", 1, true),
      response.body:find("<td>12</td>", 1, true)
    assert.is_true(first < last)
  end)
end

support.describe_server("the bench app, with a database in memory", {
  dir = "apps/bench", env = { DATABASE_URL = false },
}, check_database_routes)

local TABLES = {
  "create table world (id integer primary key, randomnumber integer not null)",
  "insert into world select n, n from generate_series(1, 10000) n",
  "create table fortune (id integer primary key, message text not null)",
  "insert into fortune values (11, '<script>alert(1)</script>'), (12, 'Y9')",
}

databases.describe("with PostgreSQL", "postgres", {}, function(get_database)
  support.describe_server("the bench app", function()
    for _, sql in ipairs(TABLES) do
      get_database():query(sql)
    end
    return { dir = "apps/bench", env = { DATABASE_URL = get_database().url },
      flags = { "--threads", "1" }, warm_up = function(server)
        for _ = 1, 10 do
          server:get "/updates?n=20"
          server:get "/fortunes"
        end
      end }
  end, check_database_routes)
end)
