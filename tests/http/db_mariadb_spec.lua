-- fl.db on MariaDB keeps what it promises of every database.

local databases = require "support.databases"
local db_contract = require "support.db_contract"

databases.describe("fl.db", "mariadb", {}, function(get_database)
  db_contract("MariaDB", {
    url = function()
      return get_database().url
    end,
    id = "integer auto_increment primary key",
    sleep = function(ms)
      return ("select sleep(%f) as slept"):format(ms / 1000)
    end,
    json = "json",
    bytes = "longblob",
    bool = "boolean",
    double = "double",
    returning = true,
    last_id = true,
    unique = "^23000$",
  })
end)
