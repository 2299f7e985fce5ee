-- fl.db on SQLite keeps what it promises of every database.

local db_contract = require "support.db_contract"
local support = require "support"

local folder = support.process.temporary_directory()

db_contract("SQLite", {
  url = function()
    return "sqlite:" .. folder .. "/test.db?functions=sleep"
  end,
  id = "integer primary key",
  sleep = function(ms)
    return ("select fasterlua_sleep(%d) as slept"):format(ms)
  end,
  json = "json",
  bytes = "blob",
  bool = "boolean",
  double = "double",
  returning = true,
  last_id = true,
  unique = "^SQLITE_CONSTRAINT",
})

db_contract("SQLite in memory", {
  url = function()
    return "sqlite::memory:?functions=sleep"
  end,
  id = "integer primary key",
  sleep = function(ms)
    return ("select fasterlua_sleep(%d) as slept"):format(ms)
  end,
  json = "json",
  bytes = "blob",
  bool = "boolean",
  double = "double",
  returning = true,
  last_id = true,
  unique = "^SQLITE_CONSTRAINT",
  parallel = false,
})

describe("the folder of the database", function()
  it("can be removed", function()
    support.process.remove_directory(folder)
  end)
end)
