-- Channels between the states of a server process, as clients of a server see them.

local support = require "support"

local app = [[
local fl = require "fasterlua"
local await, gather = fl.await, fl.gather
local app = fl.app { title = "channels" }
local states = fl.shared("states")
local state = states:incr("states")
local work = fl.channel("work", 10)
local small = fl.channel("small", 1)

local function produce(channel, from, count)
  local fl = require "fasterlua"
  for number = from, from + count - 1 do
    fl.await(channel:put(number, { text = "item " .. number }))
  end
  return true
end

local function consume(channel)
  local count, sum, longest = 0, 0, 0
  for number, item in channel:items() do
    if item.text ~= "item " .. number then error("broken: " .. tostring(item.text)) end
    count, sum = count + 1, sum + number
    longest = math.max(longest, channel:len())
  end
  return { count = count, sum = sum, longest = longest }
end

local function problem_of(fn, ...)
  local ok, err = pcall(fn, ...)
  return not ok and { kind = type(err) == "table" and err.kind, message = tostring(err) } or nil
end

app:on_start(function() -- all threads of the pool are there before the tests begin
  local jobs = {}
  for index = 1, 4 do
    jobs[index] = fl.run_in_state(function() await(fl.sleep(0.05)) end)
  end
  await(gather(jobs))
end)
app:get("/state", function() return tostring(state) end)
app:get("/open/{name}", function(req)
  fl.channel(req.params.name, tonumber(req.query.size))
  return "open"
end)
app:post("/produce/{name}/{from:int}/{count:int}", function(req)
  produce(fl.channel(req.params.name), req.params.from, req.params.count)
  return tostring(state)
end)
app:post("/consume/{name}", function(req)
  local result = consume(fl.channel(req.params.name))
  result.state = state
  return result
end)
app:post("/produce-in-pool/{name}/{from:int}/{count:int}", function(req)
  await(fl.run_in_state(produce, fl.channel(req.params.name), req.params.from, req.params.count))
  return "pool"
end)
app:post("/consume-in-pool/{name}", function(req)
  return await(fl.run_in_state(consume, fl.channel(req.params.name)))
end)
app:post("/close/{name}", function(req) fl.channel(req.params.name):close() end)
app:get("/len/{name}", function(req) return tostring(fl.channel(req.params.name):len()) end)

app:post("/put/{name}/{value:int}", function(req)
  await(fl.channel(req.params.name):put(req.params.value))
  return "in"
end)
app:get("/take/{name}", function(req)
  local taken = fl.channel(req.params.name):take()
  states:incr(req.params.name)
  return tostring(await(taken))
end)
app:get("/takers/{name}", function(req) return tostring(states:get(req.params.name)) end)
app:get("/try-take/{name}", function(req)
  local ok, value = fl.channel(req.params.name):try_take()
  return ok and tostring(value) or "nothing"
end)
app:get("/take-and-wait/{name}", function(req) -- has it, and has not received it
  await(gather(fl.channel(req.params.name):take(), fl.sleep(60)))
end)
app:get("/take-within/{name}/{ms:int}", function(req)
  local taken = fl.timeout(req.params.ms / 1000, fl.channel(req.params.name):take())
  local ok, value = pcall(await, taken)
  return ok and tostring(value) or value.kind
end)
app:get("/take-and-get-stuck/{name}", function(req)
  local job = fl.run_in_state(function(channel)
    local ffi = require "ffi"
    ffi.cdef "typedef struct { long seconds, nanoseconds; } a_time;"
    ffi.cdef "int clock_gettime(int clock, a_time *time);"
    local time = ffi.new("a_time")
    local taken = channel:take()
    ffi.C.clock_gettime(1, time)
    local till = tonumber(time.seconds) + 4
    while tonumber(time.seconds) < till do ffi.C.clock_gettime(1, time) end
    return (fl.await(taken))
  end, fl.channel(req.params.name))
  return problem_of(await, job)
end)
app:get("/loop", function() while true do end end)

local alone = fl.state_pool { name = "alone", size = 1, isolation = "process" }
app:get("/in-process", function()
  local function try(channel) return (channel:try_put(1)) end
  return problem_of(function() await(alone:run(try, fl.channel("process"))) end)
end)
app:get("/values", function()
  local channel = fl.channel("values")
  local big = ("x"):rep(200000)
  await(channel:put(nil, false, 1.5, big, { channel, fl.null, { "deep" } }))
  await(channel:put())
  await(channel:put(nil))
  local function pack(...) return { n = select("#", ...), ... } end
  local all = pack(await(channel:take()))
  local none, nothing = pack(await(channel:take())), pack(channel:try_take())
  local empty = pack(channel:try_take())
  return { n = all.n, first = tostring(all[1]), second = all[2], third = all[3],
    big = all[4] == big, name = all[5][1]:name(), null = all[5][2] == fl.null,
    deep = all[5][3][1], none = none.n, nothing = { nothing.n, nothing[1], tostring(nothing[2]) },
    empty = { empty.n, empty[1] } }
end)
app:get("/nil-items", function()
  local channel = fl.channel("nils")
  channel:put(nil, 1)
  channel:put(2)
  channel:close()
  local seen = {}
  for item, more in channel:items() do
    seen[#seen + 1] = tostring(item == fl.null) .. tostring(more)
  end
  return seen
end)
app:get("/closed", function()
  local channel = fl.channel("closed", 1)
  channel:put(1)
  local waiting = channel:put(2)
  channel:close()
  return { len = channel:len(), waiting = problem_of(await, waiting),
    put = problem_of(await, channel:put(3)), try_put = problem_of(channel.try_put, channel, 3),
    rest = await(channel:take()), take = problem_of(await, channel:take()),
    try_take = problem_of(channel.try_take, channel) }
end)
app:get("/full", function()
  local channel = fl.channel("full", 2)
  local first, second, third = channel:try_put(1), channel:try_put(2), channel:try_put(3)
  return { first, second, third, channel:len(), channel:size() }
end)
app:get("/mistakes", function()
  local channel = fl.channel("mistakes", 1)
  return { name = problem_of(fl.channel, ""), no_name = problem_of(fl.channel),
    size = problem_of(fl.channel, "mistakes", 2), zero = problem_of(fl.channel, "zero", 0),
    value = problem_of(channel.put, channel, { conn = print }),
    large = problem_of(await, channel:put(("x"):rep(200000))),
    method = problem_of(function() return channel:puts(1) end) }
end)
app:get("/bytes", function()
  local channel = fl.channel("bytes", 100)
  local count = 0
  while channel:try_put(("x"):rep(10000)) do count = count + 1 end
  return { count = count, waits = not channel:put(("x"):rep(10000)):done() }
end)
app:get("/cancelled", function()
  local channel = fl.channel("cancelled", 10)
  local takers = {}
  for index = 1, 5 do takers[index] = channel:take() end
  for number = 1, 5 do channel:put(number) end
  takers[2]:cancel() -- whatever has arrived by now
  local two = pcall(await, takers[2])
  await(fl.sleep(0.02))
  takers[4]:cancel() -- what has arrived, and nobody has seen
  local got = { await(takers[1]), await(takers[3]), await(takers[5]) }
  return { got = got, two = two, rest = { await(channel:take()), await(channel:take()) } }
end)
app:get("/race", function()
  local channel = fl.channel("race", 10)
  local first = await(fl.race(channel:take(), fl.sleep(0.005)))
  channel:put(1)
  local second = await(fl.race(channel:take(), fl.sleep(5)))
  return { tostring(first), second, channel:len() }
end)
return app
]]

local flags = { "--threads", "2", "--set", "cpu_states=4" }

local function begin(server, path, method)
  local client = server:connect()
  client:send(("%s %s HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n"):format(method or "POST",
    path))
  return client
end

local function answer(client, seconds)
  local response, reason = client:response { timeout = (seconds or 15) * support.slowdown }
  assert(response, reason)
  assert.equal(200, response.status, response.body)
  return response
end

-- A connection to each of the two web states.
local function one_of_each(server)
  local found = {}
  return support.eventually(function()
    local client = server:connect()
    found[client:request({ path = "/state" }).body] = client
    local _, first = next(found)
    local _, second = next(found, (next(found)))
    return second and { first, second }
  end)
end

local function send(client, path, method)
  client:send(("%s %s HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n"):format(method or "POST",
    path))
end

local function length(server, name)
  return tonumber(server:get("/len/" .. name).body)
end

support.describe_server("a channel", { app = app, flags = flags }, function(get_server)
  it("brings ten thousand items from four states to four others, each once", function()
    local server = get_server()
    server:get("/open/many?size=10")
    local consumers, producers = one_of_each(server), one_of_each(server)
    for _, client in ipairs(consumers) do send(client, "/consume/many") end
    for index, client in ipairs(producers) do
      send(client, ("/produce/many/%d/2500"):format(1 + (index - 1) * 2500))
    end
    for index = 3, 4 do
      consumers[index] = begin(server, "/consume-in-pool/many")
      producers[index] = begin(server, ("/produce-in-pool/many/%d/2500"):format(
        1 + (index - 1) * 2500))
    end
    local states = {}
    for index, client in ipairs(producers) do states[index] = answer(client, 30).body end
    assert.are_not.equal(states[1], states[2])
    server:post("/close/many")
    local count, sum, active = 0, 0, 0
    for _, client in ipairs(consumers) do
      local result = answer(client):json()
      count, sum = count + result.count, sum + result.sum
      active = active + (result.count > 0 and 1 or 0)
      assert.is_true(result.longest <= 10)
    end
    assert.equal(10000, count)
    assert.equal(10000 * 10001 / 2, sum)
    assert.is_true(active > 1)
  end)

  it("makes producers wait until there is room", function()
    local server = get_server()
    server:get("/open/slow?size=2")
    local producer = begin(server, "/produce/slow/1/5")
    support.eventually(function() return length(server, "slow") == 2 end)
    assert.is_nil((producer:response { timeout = 0.1 }))
    for number = 1, 5 do assert.equal(tostring(number), server:get("/take/slow").body) end
    answer(producer)
  end)

  it("serves who waits in order of arrival", function()
    local server = get_server()
    local clients = {}
    for index = 1, 6 do
      clients[index] = begin(server, "/take/queue", "GET")
      support.eventually(function()
        return server:get("/takers/queue").body == tostring(index)
      end)
    end
    for number = 1, 6 do server:post("/put/queue/" .. number) end
    for index = 1, 6 do assert.equal(tostring(index), answer(clients[index]).body) end
  end)

  it("carries values and nothing, and tells nil from nothing", function()
    assert.same({ n = 5, first = "nil", second = false, third = 1.5, big = true, name = "values",
      null = true, deep = "deep", none = 0, nothing = { 2, true, "nil" }, empty = { 1, false } },
      get_server():get("/values"):json())
    assert.same({ "true1", "falsenil" }, get_server():get("/nil-items"):json())
  end)

  it("gives what is left when it is closed, then an error", function()
    local closed = { kind = "closed", message = 'channel "closed" is closed' }
    assert.same({ len = 1, waiting = closed, put = closed, try_put = closed, rest = 1,
      take = closed, try_take = closed }, get_server():get("/closed"):json())
  end)

  it("ends who waits in other states when it is closed", function()
    local server = get_server()
    local waiting = { begin(server, "/consume/ending"), begin(server, "/consume-in-pool/ending") }
    for _, client in ipairs(one_of_each(server)) do
      send(client, "/consume/ending")
      waiting[#waiting + 1] = client
    end
    support.process.sleep(0.1)
    server:post("/close/ending")
    for _, client in ipairs(waiting) do assert.equal(0, answer(client):json().count) end
  end)

  it("says whether there was room", function()
    assert.same({ true, true, false, 2, 2 }, get_server():get("/full"):json())
  end)

  it("loses nothing that cancelled takers were given", function()
    local result = get_server():get("/cancelled"):json()
    assert.is_false(result.two)
    local all = { result.got[1], result.got[2], result.got[3], result.rest[1], result.rest[2] }
    table.sort(all)
    assert.same({ 1, 2, 3, 4, 5 }, all)
    assert.same({ "nil", 1, 0 }, get_server():get("/race"):json())
  end)

  it("loses nothing when takers give up in time", function()
    local server = get_server()
    local clients = {}
    for index = 1, 20 do
      clients[index] = begin(server, "/take-within/timed/" .. 5 * index, "GET")
    end
    for number = 1, 20 do
      server:post("/put/timed/" .. number)
      support.process.sleep(0.004)
    end
    local seen, count = {}, 0
    local function note(body)
      if not tonumber(body) then return false end
      assert.is_nil(seen[body], "twice: " .. body)
      seen[body], count = true, count + 1
      return true
    end
    for _, client in ipairs(clients) do note(answer(client).body) end
    while note(server:get("/try-take/timed").body) do end
    assert.equal(20, count)
  end)

  it("loses nothing when clients leave that wait for items, or have them", function()
    local server = get_server()
    for number = 1, 10 do server:post("/put/left/" .. number) end
    local clients = {}
    for index = 1, 14 do clients[index] = begin(server, "/take-and-wait/left", "GET") end
    support.eventually(function() return length(server, "left") == 0 end)
    for _, client in ipairs(clients) do client:reset() end
    support.eventually(function() return length(server, "left") == 10 end)
    for number = 1, 10 do assert.equal(tostring(number), server:get("/take/left").body) end
  end)

  it("bounds the bytes of its items", function()
    local result = get_server():get("/bytes"):json()
    assert.equal(100, result.count)
  end)

  it("names mistakes", function()
    local result = get_server():get("/mistakes"):json()
    assert.matches("channel: a name of 1 to 200 bytes expected, got one of 0", result.name.message)
    assert.matches("got a nil", result.no_name.message)
    assert.matches('channel "mistakes" is there with a size of 1, and was asked for with 2',
      result.size.message)
    assert.matches('channel "zero": a size from 1 to 10000000 expected, got 0',
      result.zero.message)
    assert.matches('channel "mistakes": value 1.conn is a function', result.value.message)
    assert.matches("puts", result.method.message)
  end)
end)

support.describe_server("a channel with few bytes", {
  app = app, flags = flags, settings = { channel_bytes = "64KB" },
}, function(get_server)
  it("makes putters wait, and refuses what never fits", function()
    assert.same({ count = 3, waits = true }, get_server():get("/bytes"):json())
    local large = get_server():get("/mistakes"):json().large
    assert.equal("too_large", large.kind)
    assert.matches('channel "mistakes": an item of %d+ bytes does not fit.* %(setting '
      .. "channel_bytes%)", large.message)
  end)
end)

-- A sanitized server is 20 times as patient.
local function limit(milliseconds)
  return ("%dms"):format(support.slowdown > 1 and milliseconds / 20 or milliseconds)
end

support.describe_server("a channel whose takers are lost", {
  app = app, flags = flags, leaks = false, env = { TSAN_OPTIONS = "report_thread_leaks=0" },
  settings = { stuck_handler = limit(200), pool_timeout = "1s", retire_rate = 1000 },
}, function(get_server)
  it("gives their items to others when their state is given up", function()
    local server = get_server()
    local holder, other = unpack(one_of_each(server))
    local stuck = server:connect()
    local state = holder:request({ path = "/state" }).body
    while stuck:request({ path = "/state" }).body ~= state do
      stuck = server:connect()
    end
    for number = 1, 3 do other:request { method = "POST", path = "/put/lost/" .. number } end
    for _ = 1, 2 do
      holder:send("GET /take-and-wait/lost HTTP/1.1\r\nHost: a\r\n\r\n")
      support.process.sleep(0.05)
      holder = server:connect()
      while holder:request({ path = "/state" }).body ~= state do
        holder = server:connect()
      end
    end
    support.eventually(function()
      return other:request({ path = "/len/lost" }).body == "1"
    end)
    stuck:send("GET /loop HTTP/1.1\r\nHost: a\r\n\r\n")
    server:wait_log("evacuated web thread", 10)
    -- requests that wait for nothing but items run once more in the new state, and take them again
    local seen = {}
    for _, client in ipairs(server.clients) do
      if client ~= other then client:reset() end
    end
    support.eventually(function()
      return other:request({ path = "/len/lost" }).body == "3"
    end, 5)
    for number = 1, 3 do
      seen[number] = other:request({ path = "/take/lost" }).body
    end
    assert.same({ "1", "2", "3" }, seen)
  end)

  it("refuses to be used in the process of a job", function()
    local problem = get_server():get("/in-process"):json()
    assert.matches('channel "process" does not reach into the process of a job', problem.message)
  end)

  it("gives their items to others when the thread of their pool is retired", function()
    local server = get_server()
    server:post("/put/retired/7")
    local stuck = begin(server, "/take-and-get-stuck/retired", "GET")
    support.eventually(function() return length(server, "retired") == 0 end)
    assert.equal("7", answer(begin(server, "/take/retired", "GET"), 3).body)
    assert.equal("timeout", answer(stuck):json().kind)
  end)
end)

describe("channels and topics", function()
  it("can be opened where there is no server", function()
    local dir = support.app [[
local fl = require "fasterlua"
local app = fl.app {}
local channel, topic = fl.channel("jobs", 3), fl.topic("news")
local ok, err = pcall(channel.put, channel, 1)
assert(not ok and tostring(err):find('channel "jobs": there is no server here', 1, true))
app:get("/" .. channel:size() .. "/" .. topic:publish("nobody hears it"), function() end)
return app
]]
    local status, output = support.command { "routes", dir }
    assert.equal(0, status.code, output)
    assert.matches("/3/0", output)
  end)

  it("has a limit", function()
    local server = support.start { wait = false, settings = { channels = 2 }, app = [[
local fl = require "fasterlua"
KEPT = { fl.channel("a"), fl.channel("b"), fl.channel("c") }
return fl.app {}
]] }
    local status = server:wait_end(5)
    local log = server:log()
    server:kill()
    assert.equal(3, status and status.code, log)
    assert.matches('app.lua:2: channel "c": there are 2 already %(setting channels%)', log)
  end)
end)
