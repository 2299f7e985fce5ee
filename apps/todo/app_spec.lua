local busted = require "busted"
local support = require "support"

local process = support.process

-- Adds so many items at once.
local function add_many(server, list, count)
  local clients = {}
  for n = 1, count do
    local body = ('{"title":"%d"}'):format(n)
    clients[n] = server:connect()
    clients[n]:send(("POST /api/lists/%d/items HTTP/1.1\r\nHost: localhost\r\n"
      .. "Content-Length: %d\r\n\r\n%s"):format(list, #body, body))
  end
  for _, client in ipairs(clients) do
    assert.equal(201, client:response().status)
    client:close()
  end
end

-- Connections to the database that stay are there before the tests begin.
local function warm_up(server)
  local list = server:post("/api/lists", '{"name":"Warm"}'):json().id
  for _ = 1, 3 do
    add_many(server, list, 20)
    server:get "/api/stats"
    server:get(("/api/lists/%d/export.csv"):format(list))
  end
  server:request { method = "DELETE", path = "/api/lists/" .. list }
end

---@param title string
---@param get_url fun(): string|false
local function specify(title, get_url)
  support.describe_server(title, function()
    return { dir = "apps/todo", env = { DATABASE_URL = get_url(), STATE_DIRECTORY = false },
      flags = { "--threads", "1" }, warm_up = warm_up }
  end, function(get_server)
    local function send(method, path, body)
      local response = assert(get_server():request { method = method, path = "/api/" .. path,
        body = body, headers = body and { ["Content-Type"] = "application/json" } })
      return response, response.body ~= "" and response:json() or nil
    end

    local function made(path, body)
      local response, value = send("POST", path, body)
      assert.equal(201, response.status, response.body)
      return value
    end

    local function titles(list, query)
      local _, items = send("GET", ("lists/%d/items%s"):format(list.id, query or ""))
      local found = {}
      for index, item in ipairs(items) do
        found[index] = item.title
      end
      return found
    end

    local list

    before_each(function()
      list = made("lists", '{"name":"Home"}')
    end)

    after_each(function()
      local _, all = send("GET", "lists")
      for _, each in ipairs(all) do
        assert.equal(204, send("DELETE", "lists/" .. each.id).status)
      end
    end)

    local function add(name, note)
      return made(("lists/%d/items"):format(list.id),
        ('{"title":"%s"%s}'):format(name, note and (',"note":"%s"'):format(note) or ""))
    end

    it("shows a page that needs no other host", function()
      local response = get_server():get("/")
      assert.equal("text/html; charset=utf-8", response.headers["content-type"])
      assert.is_nil(response.body:find("https?://"))
    end)

    it("has lists, and counts what is on them", function()
      local item = add "Milk"
      add "Bread"
      send("PATCH", "items/" .. item.id, '{"is_done":true}')
      local _, all = send("GET", "lists")
      assert.same({ { id = list.id, name = "Home", items = 2, done = 1 } }, all)
    end)

    it("refuses a second list of a name", function()
      local response, value = send("POST", "lists", '{"name":"Home"}')
      assert.equal(409, response.status)
      assert.equal("there is a list of that name", value.detail)
    end)

    it("adds items at the end", function()
      add "Milk"
      local item = add("Bread", "the dark one")
      assert.same({ id = item.id, list_id = list.id, title = "Bread", note = "the dark one",
        is_done = false, position = 2 }, item)
      assert.same({ "Milk", "Bread" }, titles(list))
    end)

    it("changes and deletes them", function()
      local id = add("Milk").id
      local _, item = send("PATCH", "items/" .. id, '{"title":"Tea","note":"green","is_done":true}')
      assert.equal("Tea", item.title)
      assert.equal("green", item.note)
      assert.is_true(item.is_done)
      assert.equal(204, send("DELETE", "items/" .. id).status)
      assert.equal(404, send("DELETE", "items/" .. id).status)
      assert.equal(404, send("PATCH", "items/" .. id, '{"title":"Tea"}').status)
      assert.same({}, titles(list))
    end)

    it("refuses what is not an item", function()
      local path = ("lists/%d/items"):format(list.id)
      for _, body in ipairs { "{}", '{"title":7}', '{"title":" "}', "7",
        ('{"title":"%s"}'):format(("x"):rep(300)) } do
        assert.equal(422, send("POST", path, body).status, body)
      end
      local id = add("Milk").id
      assert.equal(422, send("PATCH", "items/" .. id, '{"id":7}').status)
      assert.equal(422, send("PATCH", "items/" .. id, '{"is_done":"yes"}').status)
      assert.equal(404, send("POST", "lists/987654/items", '{"title":"a"}').status)
      assert.same({ "Milk" }, titles(list))
    end)

    it("filters and searches", function()
      local item = add("Milk", "from the 100% oat shop")
      add "Bread_rolls"
      add "Brush"
      send("PATCH", "items/" .. item.id, '{"is_done":true}')
      assert.same({ "Milk" }, titles(list, "?state=done"))
      assert.same({ "Bread_rolls", "Brush" }, titles(list, "?state=open"))
      assert.same({ "Bread_rolls", "Brush" }, titles(list, "?q=BR"))
      assert.same({ "Bread_rolls" }, titles(list, "?q=_"))
      assert.same({ "Milk" }, titles(list, "?q=100%25+oat"))
      assert.same({}, titles(list, "?q=oat&state=open"))
      assert.equal(422, send("GET", ("lists/%d/items?state=x"):format(list.id)).status)
    end)

    it("puts a list in another order, as a whole or not at all", function()
      local a, b, c = add("a").id, add("b").id, add("c").id
      local path = ("lists/%d/order"):format(list.id)
      assert.equal(204, send("PUT", path, ('{"items":[%d,%d,%d]}'):format(c, a, b)).status)
      assert.same({ "c", "a", "b" }, titles(list))
      for _, ids in ipairs { { a, b }, { a, b, b }, { a, b, c, 987654 } } do
        local body = ('{"items":[%s]}'):format(table.concat(ids, ","))
        assert.equal(409, send("PUT", path, body).status)
      end
      assert.equal(422, send("PUT", path, '{"items":["a"]}').status)
      assert.same({ "c", "a", "b" }, titles(list))
    end)

    it("completes a whole list", function()
      local done = add "a"
      add "b"
      add "c"
      send("PATCH", "items/" .. done.id, '{"is_done":true}')
      local _, value = send("POST", ("lists/%d/complete"):format(list.id))
      assert.same({ completed = 2 }, value)
      assert.same({}, titles(list, "?state=open"))
      assert.equal(404, send("POST", "lists/987654/complete").status)
    end)

    it("tells what there is in all", function()
      made("lists", '{"name":"Work"}')
      local item = add "a"
      add "b"
      send("PATCH", "items/" .. item.id, '{"is_done":true}')
      local _, stats = send("GET", "stats")
      assert.same({ lists = 2, items = 2, done = 1, open = 1,
        longest = { name = "Home", items = 2 } }, stats)
    end)

    it("exports a list as CSV", function()
      add("Milk", "say \\\"please\\\", twice")
      local item = add "=1+1"
      send("PATCH", "items/" .. item.id, '{"is_done":true}')
      local response = get_server():get(("/api/lists/%d/export.csv"):format(list.id))
      assert.equal("text/csv; charset=utf-8", response.headers["content-type"])
      assert.equal('position,title,note,done\r\n1,Milk,"say ""please"", twice",no\r\n'
        .. "2,'=1+1,,yes\r\n", response.body)
      assert.equal(404, get_server():get("/api/lists/987654/export.csv").status)
    end)

    it("takes many at once", function()
      add_many(get_server(), list.id, 20)
      local _, all = send("GET", "lists")
      assert.equal(20, all[1].items)
    end)
  end)
end

specify("the todo app, in memory", function()
  return false
end)

local folder

specify("the todo app on SQLite", function()
  folder = process.temporary_directory()
  return "sqlite:" .. folder .. "/todo.db"
end)

busted.subscribe({ "exit" }, function()
  if folder then
    process.remove_directory(folder)
  end
  return nil, true
end)

for name, kind in pairs { postgres = "PostgreSQL", mariadb = "MariaDB" } do
  support.databases.describe("a server", name, {}, function(get_server)
    specify("the todo app on " .. kind, function()
      return get_server().url .. "&pool=2"
    end)
  end)
end
