-- Lists of things to do, in SQLite, PostgreSQL or MariaDB: the same code, chosen by a URL.
--
--     fasterlua serve apps/todo                                        # kept in memory
--     DATABASE_URL=sqlite:todo.db fasterlua serve apps/todo            # a file beside this one
--     DATABASE_URL=postgres://me@localhost/todo fasterlua serve apps/todo
--
-- Without DATABASE_URL they are kept in STATE_DIRECTORY/todo.db, which systemd names, or else in
-- memory until the server ends. Its tables are made by the files in migrations/, which are applied
-- when it starts; `fasterlua db status apps/todo` lists them.
local fl = require "fasterlua"
local checks = require "checks"
local csv = require "csv"
local migrations = require "fasterlua.migrations"
local await, gather = fl.await, fl.gather

local function database_url()
  local folder = os.getenv "STATE_DIRECTORY"
  return os.getenv "DATABASE_URL" or folder and ("sqlite:%s/todo.db"):format(folder)
    or "sqlite::memory:"
end

local app = fl.app { title = "To do" }
local db = fl.db(database_url())

app:on_start(function()
  migrations.apply(db)
  app.state.page = await(fl.fs.read "todo.html")
end)

app:get("/", function()
  return fl.html(app.state.page)
end)

-- lists

local LISTS = [[
  select lists.id, lists.name, count(items.id) as items, count(case when is_done then 1 end) as done
  from lists left join items on items.list_id = lists.id
  group by lists.id, lists.name order by lists.id]]

local function check_list(place, id)
  if not await(place:value("select id from lists where id = ?", id)) then
    error(fl.http_error(404, "no such list"), 0)
  end
end

app:get("/api/lists", function()
  return await(db:all(LISTS))
end)

local function insert_list(name)
  return await(db:one("insert into lists (name) values (?) returning id, name", name))
end

app:post("/api/lists", function(req)
  local ok, result = pcall(insert_list, checks.name(req:json()))
  if ok then
    return result, 201
  elseif type(result) == "table" and result.kind == "db" and result.constraint then
    return fl.http_error(409, "there is a list of that name")
  end
  error(result, 0)
end)

app:delete("/api/lists/{id:int}", function(req)
  local count = await(db:exec("delete from lists where id = ?", req.params.id))
  return count == 0 and fl.http_error(404, "no such list") or nil
end)

-- items

local ITEM = "select id, list_id, title, note, is_done, position from items "

-- What stands for itself in a pattern of LIKE.
local function contains(text)
  return "%" .. text:lower():gsub("[!%%_]", "!%0") .. "%"
end

local function conditions(query, id)
  local parts, arguments = { "list_id = ?" }, { id }
  if query.state == "open" or query.state == "done" then
    parts[#parts + 1], arguments[#arguments + 1] = "is_done = ?", query.state == "done"
  elseif query.state then
    error(fl.http_error(422, "state is open or done"), 0)
  end
  if query.q and query.q ~= "" then
    parts[#parts + 1] = "(lower(title) like ? escape '!' or lower(note) like ? escape '!')"
    local pattern = contains(query.q)
    arguments[#arguments + 1], arguments[#arguments + 2] = pattern, pattern
  end
  return table.concat(parts, " and "), arguments
end

app:get("/api/lists/{id:int}/items", function(req)
  local id = req.params.id
  check_list(db, id)
  local where, arguments = conditions(req.query, id)
  return await(db:all(ITEM .. "where " .. where .. " order by position, id", unpack(arguments)))
end)

app:post("/api/lists/{id:int}/items", function(req)
  local list, new = req.params.id, checks.new_item(req:json())
  return await(db:transaction(function(tx)
    check_list(tx, list)
    local position = await(tx:value(
      "select coalesce(max(position), 0) + 1 from items where list_id = ?", list))
    return await(tx:one([[insert into items (list_id, title, note, position) values (?, ?, ?, ?)
      returning id, list_id, title, note, is_done, position]], list, new.title, new.note, position))
  end, { retry = 3 })), 201
end)

local function find_item(place, id)
  return await(place:one(ITEM .. "where id = ?", id))
    or error(fl.http_error(404, "no such item"), 0)
end

app:patch("/api/items/{id:int}", function(req)
  local id, changes = req.params.id, checks.changes(req:json())
  return await(db:transaction(function(tx)
    find_item(tx, id)
    for name, value in pairs(changes) do
      local column = db:identifier(name, { "title", "note", "is_done" })
      await(tx:exec("update items set " .. column .. " = ? where id = ?", value, id))
    end
    return find_item(tx, id)
  end, { retry = 3 }))
end)

app:delete("/api/items/{id:int}", function(req)
  local count = await(db:exec("delete from items where id = ?", req.params.id))
  return count == 0 and fl.http_error(404, "no such item") or nil
end)

-- all items of a list

local function ids_of(place, list)
  local ids = {}
  for index, row in ipairs(await(place:all("select id from items where list_id = ?", list))) do
    ids[index] = row.id
  end
  return ids
end

app:put("/api/lists/{id:int}/order", function(req)
  local list, order = req.params.id, checks.order(req:json())
  await(db:transaction(function(tx)
    check_list(tx, list)
    if not checks.are_same(order, ids_of(tx, list)) then
      error(fl.http_error(409, "the list has other items"), 0)
    end
    local positions = {}
    for position, id in ipairs(order) do
      positions[position] = { position, id }
    end
    if order[1] then
      await(tx:batch("update items set position = ? where id = ?", positions))
    end
  end, { retry = 3 }))
end)

app:post("/api/lists/{id:int}/complete", function(req)
  local list = req.params.id
  local count = await(db:transaction(function(tx)
    check_list(tx, list)
    return await(tx:exec("update items set is_done = ? where list_id = ? and is_done = ?", true,
      list, false))
  end, { retry = 3 }))
  return { completed = count }
end)

-- Four queries in flight at once.
app:get("/api/stats", function()
  local lists, items, done, longest = await(gather(
    db:value "select count(*) from lists",
    db:value "select count(*) from items",
    db:value("select count(*) from items where is_done = ?", true),
    db:one [[select lists.name, count(*) as items from items join lists on lists.id = list_id
      group by lists.id, lists.name order by 2 desc, lists.id limit 1]]))
  return { lists = lists, items = items, done = done, open = items - done,
    longest = longest or fl.null }
end)

-- However long the list is, a few hundred rows of it are in memory.
app:get("/api/lists/{id:int}/export.csv", function(req)
  local list = req.params.id
  check_list(db, list)
  return fl.stream(function(write)
    write(csv.line { "position", "title", "note", "done" })
    local query = ITEM .. "where list_id = ? order by position, id"
    for item in db:each(query, list) do
      write(csv.line { item.position, item.title, item.note or "", item.is_done and "yes" or "no" })
    end
  end, {
    content_type = "text/csv; charset=utf-8",
    headers = { ["Content-Disposition"] = 'attachment; filename="todo.csv"' },
  })
end)

return app
