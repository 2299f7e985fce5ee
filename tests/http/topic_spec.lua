-- Topics: what one state publishes reaches subscribers in all states and all server processes.

local support = require "support"

local app = [[
local fl = require "fasterlua"
local await = fl.await
local app = fl.app { title = "topics" }
local cache = fl.shared("topics", { bytes = "1MB" })
local state = cache:incr("states")
local pid = io.open("/proc/self/stat"):read("*n")
local news = fl.topic("news")

local function problem_of(fn, ...)
  local ok, err = pcall(fn, ...)
  return not ok and { kind = type(err) == "table" and err.kind, message = tostring(err) } or nil
end

-- Reads numbered messages of so many publishers, until each has said "last".
local function read(topic, publishers, buffer, ready)
  local subscription = topic:subscribe { buffer = buffer }
  fl.shared("topics"):incr(ready)
  local count, ended, next_of = 0, 0, {}
  for publisher, number in subscription:items() do
    if number == "last" then
      ended = ended + 1
      if ended == publishers then break end
    else
      if number ~= (next_of[publisher] or 1) then
        return { count = count, broken = publisher .. " " .. number }
      end
      next_of[publisher] = number + 1
      count = count + 1
    end
  end
  return { count = count, dropped = subscription:dropped() }
end

app:on_start(function() await(fl.run_in_state(function() await(fl.sleep(0.01)) end)) end)
app:get("/state", function() return { state = state, pid = pid } end)
app:get("/ready/{key}", function(req) return tostring(cache:get(req.params.key) or 0) end)
app:get("/read/{topic}/{publishers:int}/{buffer:int}/{key}", function(req)
  local p = req.params
  return read(fl.topic(p.topic), p.publishers, p.buffer, p.key)
end)
app:get("/read-in-pool/{topic}/{publishers:int}/{buffer:int}/{key}", function(req)
  local p = req.params
  return await(fl.run_in_state(read, fl.topic(p.topic), p.publishers, p.buffer, p.key))
end)
app:post("/publish/{topic}/{name}/{count:int}", function(req)
  local topic, name = fl.topic(req.params.topic), req.params.name
  local pause = tonumber(req.query.pause or 0)
  for number = 1, req.params.count do
    topic:publish(name, number)
    if pause > 0 then await(fl.sleep(pause / 1000)) end
  end
  return tostring(topic:publish(name, "last"))
end)
app:post("/say/{topic}/{text}", function(req)
  return tostring(fl.topic(req.params.topic):publish(req.params.text))
end)
app:get("/listen/{topic}", function(req)
  local subscription = fl.topic(req.params.topic):subscribe()
  cache:incr("listen " .. req.params.topic)
  return await(subscription:next())
end)

app:get("/values", function()
  local topic = fl.topic("values")
  local one, two = topic:subscribe(), topic:subscribe()
  local big = ("x"):rep(100000)
  local count = topic:publish(nil, big, { topic, fl.null })
  topic:publish()
  local function pack(...) return { n = select("#", ...), ... } end
  local first, second, nothing = pack(await(one:next())), pack(await(two:next())),
    pack(await(one:next()))
  return { count = count, n = first.n, first = tostring(first[1]), big = first[2] == big,
    name = first[3][1]:name(), null = first[3][2] == fl.null, apart = first[3] ~= second[3],
    nothing = nothing.n }
end)
app:get("/full/{policy}", function(req)
  local topic = fl.topic("full")
  local subscription = topic:subscribe { buffer = 3, on_full = req.params.policy }
  for number = 1, 5 do topic:publish(number) end
  local seen = {}
  for index = 1, 3 do seen[index] = await(subscription:next()) end
  local more, dropped = topic:publish(6), subscription:dropped()
  local last = more == 1 and await(subscription:next()) or problem_of(await, subscription:next())
  subscription:close() -- or the next request might still find it
  return { seen = seen, dropped = dropped, more = more, last = last }
end)
app:get("/closed", function()
  local subscription = news:subscribe()
  news:publish("unread")
  local waiting = { subscription:next(), subscription:next() }
  subscription:close()
  local count = 0
  for _ in subscription:items() do count = count + 1 end
  return { first = await(waiting[1]), waiting = problem_of(await, waiting[2]), count = count,
    next = problem_of(await, subscription:next()), publish = news:publish(1) }
end)
app:get("/cancelled", function()
  local subscription = news:subscribe()
  local early = fl.timeout(0.005, subscription:next())
  local timeout = problem_of(await, early)
  local given = subscription:next()
  local after = subscription:next()
  news:publish(1)
  news:publish(2)
  await(fl.sleep(0.01))
  given:cancel()
  return { timeout = timeout.kind, after = await(after), rest = await(subscription:next()) }
end)
app:get("/collected", function()
  local done = false
  fl.detach(function()
    news:subscribe()
    collectgarbage()
    collectgarbage()
    done = true
  end)
  while not done do await(fl.sleep(0.001)) end
  return tostring(news:publish("anybody?"))
end)
app:get("/job", function()
  await(fl.run_in_state(function(topic) topic:subscribe() end, news))
end)
local alone = fl.state_pool { name = "alone", size = 1, isolation = "process" }
app:get("/in-process", function()
  local topic, back = fl.topic("process"), fl.topic("back")
  local answers = back:subscribe()
  local job = alone:run(function(topic, back)
    local fl = require "fasterlua"
    local subscription = topic:subscribe()
    back:publish("ready")
    back:publish(fl.await(subscription:next()) .. ", too")
  end, topic, back)
  local first = await(answers:next())
  topic:publish("hello")
  local second = await(answers:next())
  await(job)
  return { first, second }
end)
app:get("/mistakes", function()
  local function subscribe(options)
    return problem_of(news.subscribe, news, options)
  end
  return { name = problem_of(fl.topic, ""), buffer = subscribe { buffer = 0 },
    policy = subscribe { on_full = "explode" }, option = subscribe { bufer = 1 },
    options = subscribe(7), value = problem_of(news.publish, news, { f = print }),
    large = problem_of(news.publish, news, ("x"):rep(300000)) }
end)
return app
]]

local function begin(server, path, method)
  local client = server:connect()
  client:send(("%s %s HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n"):format(method or "GET",
    path))
  return client
end

local function answer(client, seconds)
  local response, reason = client:response { timeout = (seconds or 15) * support.slowdown }
  assert(response, reason)
  assert.equal(200, response.status, response.body)
  return response
end

local function wait_ready(server, key, count)
  support.eventually(function()
    return server:get("/ready/" .. key).body == tostring(count)
  end, 5)
end

support.describe_server("a topic", { app = app, flags = { "--threads", "2" } }, function(get_server)
  it("brings a thousand messages to 64 subscribers in two threads, in order", function()
    local server = get_server()
    local clients = {}
    for index = 1, 64 do clients[index] = begin(server, "/read/many/2/3000/many") end
    wait_ready(server, "many", 64)
    local publishers = { begin(server, "/publish/many/a/500", "POST"),
      begin(server, "/publish/many/b/500", "POST") }
    for _, publisher in ipairs(publishers) do answer(publisher) end
    for _, client in ipairs(clients) do
      assert.same({ count = 1000, dropped = 0 }, answer(client):json())
    end
    support.eventually(function() return server:post("/say/many/over").body == "0" end)
  end)

  it("reaches jobs in pools", function()
    local server = get_server()
    local reader = begin(server, "/read-in-pool/pooled/1/1000/pooled")
    wait_ready(server, "pooled", 1)
    assert.equal("1", server:post("/publish/pooled/a/200").body)
    assert.same({ count = 200, dropped = 0 }, answer(reader):json())
  end)

  it("carries values, to each subscriber its own copy", function()
    assert.same({ count = 2, n = 3, first = "nil", big = true, name = "values", null = true,
      apart = true, nothing = 0 }, get_server():get("/values"):json())
  end)

  it("drops what its subscribers choose, and says so in the log", function()
    local server = get_server()
    assert.same({ seen = { 3, 4, 5 }, dropped = 2, more = 1, last = 6 },
      server:get("/full/drop_oldest"):json())
    assert.same({ seen = { 1, 2, 3 }, dropped = 2, more = 1, last = 6 },
      server:get("/full/drop_newest"):json())
    local closed = server:get("/full/close"):json()
    assert.same({ seen = { 1, 2, 3 }, dropped = 1, more = 0, last = { kind = "closed",
      message = "the subscription is closed: its buffer was full" } }, closed)
    server:wait_log('topic "full": subscribers are too slow: %d messages? dropped')
  end)

  it("ends a subscription that is closed", function()
    local closed = { kind = "closed", message = "the subscription is closed" }
    assert.same({ first = "unread", waiting = closed, count = 0, next = closed, publish = 0 },
      get_server():get("/closed"):json())
  end)

  it("keeps messages for others when who waited is cancelled", function()
    assert.same({ timeout = "timeout", after = 2, rest = 1 }, get_server():get("/cancelled"):json())
  end)

  it("ends subscriptions with their request, their job or their last reference", function()
    local server = get_server()
    server:get("/job")
    support.eventually(function() return server:post("/say/news/over").body == "0" end)
    assert.equal("0", server:get("/collected").body)
    local clients = {}
    for index = 1, 10 do clients[index] = begin(server, "/listen/left") end
    wait_ready(server, "listen%20left", 10)
    for _, client in ipairs(clients) do client:reset() end
    support.eventually(function() return server:post("/say/left/hello").body == "0" end)
  end)

  it("names mistakes", function()
    local result = get_server():get("/mistakes"):json()
    assert.matches("topic: a name of 1 to 200 bytes expected", result.name.message)
    assert.matches('option "buffer" must be an integer from 1 to 1000000, got 0',
      result.buffer.message)
    assert.matches('"on_full" must be "drop_oldest", "drop_newest" or "close", got explode',
      result.policy.message)
    assert.matches('unknown option "bufer": did you mean "buffer"?', result.option.message, 1, true)
    assert.matches("a table of options expected, got a number", result.options.message)
    assert.matches('topic "news": value 1.f is a function', result.value.message)
    assert.is_nil(result.large) -- there is only one process
  end)
end)

-- A connection to each process, by pid.
local function one_of_each(server, expected)
  local found = {}
  support.eventually(function()
    local client = server:connect()
    local pid = client:request({ path = "/state" }):json().pid
    if found[pid] then client:close() end
    found[pid] = found[pid] or client
    local count = 0
    for _ in pairs(found) do count = count + 1 end
    return count == expected
  end, 5)
  return found
end

local function publish_from(client, name, count)
  client:send(("POST /publish/wide/%s/%d?pause=1 HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n")
    :format(name, count))
end

support.describe_server("a topic of two server processes", {
  app = app, leaks = false, flags = { "--workers", "2", "--threads", "2" },
}, function(get_server)
  it("reaches all subscribers of both, in the order of each publisher", function()
    local server = get_server()
    local publishers = one_of_each(server, 2)
    local clients = {}
    for index = 1, 24 do clients[index] = begin(server, "/read/wide/2/2000/wide") end
    wait_ready(server, "wide", 24)
    for pid, client in pairs(publishers) do publish_from(client, pid, 500) end
    for _, client in pairs(publishers) do answer(client) end
    for _, client in ipairs(clients) do
      assert.same({ count = 1000, dropped = 0 }, answer(client):json())
    end
  end)

  it("reaches the processes of jobs, and what they publish reaches everybody", function()
    assert.same({ "ready", "hello, too" }, get_server():get("/in-process"):json())
  end)

  it("refuses messages that are too large for the others", function()
    local result = get_server():get("/mistakes"):json()
    assert.equal("too_large", result.large.kind)
    assert.matches('topic "news": a message of 30%d+ bytes is more than the 2%d+ that reach other '
      .. "server processes", result.large.message)
  end)

  it("reaches those that a reload replaces, and those that replace them", function()
    local server = get_server()
    local old = begin(server, "/listen/reload")
    wait_ready(server, "listen%20reload", 1)
    server:signal "HUP"
    server:wait_log "new server process serves  worker=1"
    local new = begin(server, "/listen/reload")
    wait_ready(server, "listen%20reload", 2)
    server:post("/say/reload/hello")
    assert.equal("hello", answer(old).body)
    assert.equal("hello", answer(new).body)
  end)

  it("goes on when a process is killed", function()
    local server = get_server()
    support.eventually(function() return #server:pids() == 2 end, 5) -- the reload is over
    local victim = server:pids()[1]
    server:signal("KILL", victim)
    support.eventually(function()
      return #server:pids() == 2 and server:pids()[1] ~= victim
    end, 5)
    support.eventually(function() return pcall(one_of_each, server, 2) end, 5)
    local readers = {}
    for index = 1, 8 do readers[index] = begin(server, "/listen/killed") end
    wait_ready(server, "listen%20killed", 8)
    server:post("/say/killed/alive")
    for _, client in ipairs(readers) do assert.equal("alive", answer(client).body) end
  end)
end)
