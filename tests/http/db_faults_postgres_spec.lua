-- fl.db on PostgreSQL keeps its promises when things break.

local db_faults = require "support.db_faults"

db_faults.server("fl.db on PostgreSQL, when things break:", {
  server = "postgres",
  options = { tcp = true },
  most = 2,
  sleep = function(ms)
    return ("select 1 as slept from pg_sleep(%f)"):format(ms / 1000)
  end,
  series = function(count)
    return ("select n from generate_series(1, %s) as n"):format(count)
  end,
  text = function(size)
    return ("select repeat('x', %d)"):format(size)
  end,
  open_transactions = "select count(*) from pg_stat_activity where state like 'idle in%' "
    .. "and pid <> pg_backend_pid()",
  activity = "select state, query, now() - state_change from pg_stat_activity "
    .. "where state like 'idle in%'",
  running = "select count(*) from pg_stat_activity where state = 'active' "
    .. "and query like '%pg_sleep%' and pid <> pg_backend_pid()",
  bad_url = function(database)
    return (database.tcp_url:gsub(":test@", ":wrong@"))
  end,
  refusals = function(database)
    return select(2, database:log():gsub("password authentication failed", ""))
  end,
  bad_values = {
    { "smallint", "70000", "70000", "smallint" },
    { "integer", "2^40", "1099511627776", "integer" },
    { "integer", "'abc'", "abc", "integer" },
    { "integer", "1.5", "1.5", "integer" },
    { "boolean", "'perhaps'", "perhaps", "boolean" },
    { "date", "'yesterdays'", "yesterdays", "date" },
    { "integer", "{ a = 1 }", "integer" },
    { "varchar(3)", "'four'", "character varying%(3%)" },
  },
})
