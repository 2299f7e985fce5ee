-- fl.db on MariaDB keeps its promises when things break.

local db_faults = require "support.db_faults"

db_faults.server("fl.db on MariaDB, when things break:", {
  server = "mariadb",
  options = { settings = { max_allowed_packet = "64M" } },
  most = 2,
  sleep = function(ms)
    return ("select sleep(%f) as slept"):format(ms / 1000)
  end,
  series = function(count)
    return ("select seq as n from seq_1_to_%s"):format(count)
  end,
  text = function(size)
    return ("select repeat('x', %d)"):format(size)
  end,
  -- What it shows is kept for 0.1 s from the last look.
  open_transactions = "do sleep(0.12); select count(*) from information_schema.innodb_trx",
  activity = "select trx_started, trx_state, coalesce(trx_query, ''), command, time, "
    .. "coalesce(info, '') from information_schema.innodb_trx left join "
    .. "information_schema.processlist on id = trx_mysql_thread_id",
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
