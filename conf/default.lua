-- Every setting, with its default and what it means.
--
-- A setting is taken from the first of these that names it:
--   1. a flag: `--port 9000`, or `--set keep_alive=5s` for a setting without a flag of its own
--   2. the environment: FASTERLUA_PORT=9000, FASTERLUA_KEEP_ALIVE=5s, and files given by --env-file
--   3. the project's conf file: the one given by --conf or FASTERLUA_CONF, else
--      conf/<environment>.lua in the working directory, when there is one
--   4. conf/<environment>.lua beside this file
--   5. this file
-- The environment is production unless --environment or FASTERLUA_ENVIRONMENT says otherwise.
--
-- A conf file is Lua that returns a table like this one, with only the settings it changes; it sees
-- no globals. Sizes are bytes or "64KB", "1MB", "2GB" (KB = 1024 bytes). Times are seconds or
-- "500ms", "10s", "2m", "1h", "7d". `fasterlua config --explain` shows what is in effect.
return {
  -- What is served, and where
  path = "apps", -- folder of apps, or one app.lua, served when the command names none
  host = "127.0.0.1", -- address or name to listen on
  port = 8000, -- TCP port to listen on; 0 takes a free one
  uds = "", -- path of a Unix socket to listen on instead of host and port
  fd = -1, -- number of an inherited listening socket to use instead; -1 is none
  backlog = 2048, -- connections the kernel lets wait to be accepted
  mounts = {}, -- apps by prefix, as { ["/shop"] = "shop" }, instead of each under its name
  root_path = "", -- prefix that a proxy in front has cut off, as in "/api"
  admin = "", -- HOST:PORT or path of a socket for /health, /ready, /metrics and /profile; "" is off
  environment = "production", -- development, production or test: selects the conf file

  -- Processes and threads
  workers = 1, -- server processes; also read from WEB_CONCURRENCY
  threads = 0, -- web threads per server process; 0 is one per usable CPU
  cpu_states = 0, -- Lua states for computing per server process; 0 is one per usable CPU
  blocking_threads = 40, -- threads for calls that block per server process, at most
  pool_queue = 1000, -- jobs that may wait in a pool; one more is refused with 503
  pool_timeout = "30s", -- time that a job may run; 0 is for ever
  pool_idle = "30s", -- after which a thread for calls that block ends
  retire_rate = 60, -- threads replaced in a minute, per pool, whose job could not be stopped
  file_threads = 4, -- threads for files and name look-ups per server process
  user = "", -- user to become after binding
  group = "", -- group to become after binding

  -- Proxies in front
  proxy_headers = false, -- believe X-Forwarded-* and X-Request-ID of trusted peers
  forwarded_allow_ips = "127.0.0.1,::1", -- trusted peers: addresses, networks, or "*" for all

  -- Logs
  log_level = "info", -- least level that is written: debug, info, warn or error
  log_format = "auto", -- text, json, or auto: text on a terminal, else json
  access_log = true, -- one line for every request
  log_buffer = "1MB", -- lines kept while stdout blocks; more are dropped and counted

  -- Size of a request
  request_line = "8KB", -- method, target and version; longer is 414
  header_block = "16KB", -- all header lines together; more is 431
  header_fields = 100, -- header lines; more is 431
  chunk_extensions = "1KB", -- chunk extensions of a whole request
  trailer_block = "4KB", -- all trailer lines together
  trailer_fields = 20, -- trailer lines
  max_body = "1MB", -- body; larger is 413; a route's max_body goes before
  form_fields = 1000, -- fields of a form or a query
  cookie_fields = 50, -- cookies of a request
  cookie_bytes = "8KB", -- all cookies of a request together
  json_depth = 96, -- nesting of JSON that is read
  json_nodes = 1000000, -- values in JSON that is read
  json_bytes = "64MB", -- of one value as JSON that is written; a larger answer is 500

  -- Time of a request
  head_timeout = "10s", -- for a whole request head; then 408
  body_rate = 500, -- bytes per second that a body must bring; slower is 408
  body_grace = "10s", -- time before body_rate counts
  keep_alive = "60s", -- an idle connection is closed after this
  handler_timeout = "30s", -- to the first byte of the answer; then 504; 0 is no limit
  write_stall = "30s", -- a reader that takes nothing for this long is cut off

  -- Number of requests and connections
  requests_per_connection = 100000, -- requests after which a connection is closed
  connections = 16384, -- connections open at once per server process; further ones wait
  limit_requests = 0, -- requests in progress per server process; more get 503; 0 is no limit
  queue_delay = "100ms", -- wait for a thread beyond which new requests get 503; 0 is off

  -- Memory
  write_buffer = "64KB", -- bytes of a streamed answer that wait for a slow reader
  read_ahead = "64KB", -- bytes read before the handler asks for them
  lua_memory = "256MB", -- of one Lua state
  shared_memory = "64MB", -- for what all states share (fl.shared), in all server processes together
  topic_ring = "1MB", -- messages of topics on their way to other server processes
  topic_bytes = "16MB", -- messages that a topic's subscriber has not taken yet
  channels = 1000, -- channels per server process
  channel_bytes = "64MB", -- items in one channel
  exec_output = "1MB", -- output of a command that fl.exec keeps, per stream

  -- Handlers that hold their thread
  slow_handler = "50ms", -- is logged with its route; 0 is never
  stuck_handler = "1s", -- CPU time after which it is stopped; 0 is never
  blocked_handler = "2s", -- time blocked in the kernel after which it is stopped; 0 is never
  exile = "60s", -- that a route runs in the cpu pool after it had to be stopped by evacuation

  -- Databases: what options of fl.db leave open
  db_connections = 100, -- connections of a server process to all databases together
  db_pool = 10, -- connections of one Lua state to one database, beside those its requests share
  db_timeout = "30s", -- time that a query may take; 0 is for ever
  db_connect_timeout = "1s", -- that a query waits for a database that cannot be reached
  db_pool_timeout = "5s", -- that a query waits for a connection that others have
  db_idle = "30s", -- after which a pool's state closes connections that it does not use
  db_result = "64MB", -- rows of one query; db:each takes more, piece by piece
  db_queue = 10000, -- queries of one Lua state that may be under way; one more is refused with 503

  -- Stopping
  drain = "10s", -- for requests in progress to end
}
