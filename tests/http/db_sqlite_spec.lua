-- fl.db on SQLite keeps what it promises of every database.

local db_contract = require "support.db_contract"
local support = require "support"

local folder = support.process.temporary_directory()

local function options(location, is_parallel)
  return {
    url = function()
      return "sqlite:" .. location .. "?functions=sleep"
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
    parallel = is_parallel,
  }
end

db_contract("SQLite", options(folder .. "/test.db", true))
db_contract("SQLite in memory", options(":memory:", false))

describe("the folder of the database", function()
  it("can be removed", function()
    support.process.remove_directory(folder)
  end)
end)
