local databases = require "support.databases"
local db_contract = require "support.db_contract"

databases.describe("fl.db and MariaDB", "mariadb", nil, function(get_server)
  db_contract("what every database does", {
    url = function()
      return get_server().url
    end,
    id = "bigint auto_increment primary key",
    sleep = function(ms)
      return ("select sleep(%s) as slept"):format(ms / 1000)
    end,
    json = "json", bytes = "blob", bool = "boolean", double = "double",
    returning = true, last_id = true, unique = "^23000$",
  })
end)
