-- What sqlite.lua measures of fasterlua: a row by fl.db, the same statement in-line, and a small
-- write. WORLD is the path of the file.
local fl = require "fasterlua"
local inline = require "inline"
local await = fl.await

local WORLD_SIZE = 10000
local FIND = "select id, randomnumber from world where id = ?"
local WRITE = "update world set randomnumber = ? where id = ? returning id, randomnumber"

local app = fl.app { title = "SQLite" }
local path = os.getenv "WORLD"
local world, db = inline.open(path), fl.db("sqlite:" .. path)
local random = math.random

local function answer(id, number)
  return { id = id, randomNumber = number }
end

app:get("/inline", function()
  local id = random(WORLD_SIZE)
  return answer(id, inline.read(world, id))
end)

app:get("/db", function()
  local row = await(db:one(FIND, random(WORLD_SIZE)))
  return answer(row.id, row.randomnumber)
end)

app:get("/write", function()
  local row = await(db:one(WRITE, random(WORLD_SIZE), random(WORLD_SIZE)))
  return answer(row.id, row.randomnumber)
end)

return app
