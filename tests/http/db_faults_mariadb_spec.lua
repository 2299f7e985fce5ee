-- fl.db on MariaDB keeps its promises when things break.

local db_faults = require "support.db_faults"

db_faults("fl.db on MariaDB, when things break:", {
  server = "mariadb",
  options = { settings = { max_allowed_packet = "64M" } },
  sleep = function(ms)
    return ("select sleep(%f) as slept"):format(ms / 1000)
  end,
  series = function(count)
    return ("select seq as n from seq_1_to_%s"):format(count)
  end,
  text = function(size)
    return ("select repeat('x', %d)"):format(size)
  end,
  open_transactions = "select count(*) from information_schema.innodb_trx",
  running = "select count(*) from information_schema.processlist where info like "
    .. "'select sleep(%'",
  bad_url = function(database)
    return (database.url:gsub(":test@", ":wrong@"))
  end,
  refusals = function(database)
    return tonumber(database:query("show global status like 'Access_denied_errors'")[1][2])
  end,
  bad_values = {
    { "smallint", "70000", "Out of range", "'v'" },
    { "integer", "2^40", "Out of range", "'v'" },
    { "integer", "'abc'", "abc", "`v`" },
    { "date", "'yesterdays'", "yesterdays", "`v`" },
    { "varchar(3)", "'four'", "too long", "'v'" },
  },
})
