-- The experiment by which asynchronous frameworks are judged: what waits, what computes and what
-- blocks, each where it harms nobody. tests/bench/concurrency.lua runs it and prints its table.
local ffi = require "ffi"
local fl = require "fasterlua"
local await, async, gather = fl.await, fl.async, fl.gather

local app = fl.app { title = "Concurrency" }

app:get("/health", function()
  return { status = "ok" }
end)

-- Where this runs. Two requests seldom agree.
app:get("/where", function()
  return fl.here()
end)

-- Waits: thousands may, on one thread.
app:get("/async", function()
  await(fl.sleep(2))
  return { slept = 2, thread = fl.here().thread }
end)

-- Blocks: as a library does that knows no await. In a state of the blocking pool it stops nobody.
ffi.cdef "int poll(void *fds, unsigned long count, int milliseconds);"

app:get("/sync", { run_in = "blocking" }, function()
  ffi.C.poll(nil, 0, 2000)
  return { slept = 2, thread = fl.here().thread }
end)

-- Computes: in another Lua state, on another core.
local function sha256(data)
  local digest = require "fasterlua.digest"
  return digest.hex("sha256", data)
end

app:post("/hash", { max_body = "64MB" }, function(req)
  return { sha256 = await(fl.run_in_state(sha256, req:text())) }
end)

-- Several at once: each text is compressed by whichever state is idle.
local function gzip(text)
  local compress = require "fasterlua.compress"
  return #compress.compress("gzip", text)
end

app:post("/batch-compress", { max_body = "16MB" }, function(req)
  local texts = req:json()
  if not fl.json.is_array(texts) and #texts == 0 then
    return fl.http_error(422, "a list of texts is expected")
  end
  local jobs, sizes = {}, fl.array {}
  for index, text in ipairs(texts) do
    jobs[index] = fl.run_in_state(gzip, text)
  end
  for index, compressed in ipairs(await(gather(jobs))) do
    sizes[index] = { bytes = #texts[index], compressed = compressed }
  end
  return sizes
end)

local function fib(n)
  return n < 2 and n or fib(n - 1) + fib(n - 2)
end

-- Inline: right for small n. Beyond, all other requests of the thread wait for it.
app:get("/fib/{n:int}", function(req)
  return { fib = fib(req.params.n), thread = fl.here().thread }
end)

app:get("/fib/{n:int}/pooled", function(req)
  local value, thread = await(fl.run_in_state(function(n)
    return fib(n), fl.here().thread
  end, req.params.n))
  return { fib = value, thread = thread }
end)

local ask = async(function(name, seconds)
  await(fl.sleep(seconds))
  return { from = name, seconds = seconds }
end)

-- Three questions at once: the answer comes after the slowest, not after the sum.
app:get("/dashboard", function()
  local users, orders, news = await(gather(ask("users", 0.1), ask("orders", 0.2), ask("news", 0.3)))
  return { users = users, orders = orders, news = news }
end)

-- The same of a database: three queries that take 100, 200 and 300 ms, all under way at once.
local url = os.getenv "DATABASE_URL"
local db = url and url:find "^postgres" and fl.db(url)
local SLOW = "select ? as name, ?::float8 as seconds from pg_sleep(?)"

local function slow_query(name, seconds)
  return db:one(SLOW, name, seconds, seconds)
end

app:get("/db-dashboard", function()
  if not db then
    return fl.http_error(503, "DATABASE_URL names no PostgreSQL")
  end
  local users, orders, news = await(gather(slow_query("users", 0.1), slow_query("orders", 0.2),
    slow_query("news", 0.3)))
  return { users = users, orders = orders, news = news }
end)

return app
