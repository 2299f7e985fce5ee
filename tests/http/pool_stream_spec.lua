-- Jobs of pools whose results come piece by piece.

local pools = require "support.pools"
local support = require "support"

local app, json = pools.app, pools.json
local sleep, slowdown = support.process.sleep, support.slowdown

local stream_app = app [==[
local own, second = pool("own", { size = 2 }), pool("second", { size = 1 })
warm(own, second)

local function numbers(from, to)
  for i = from, to do coroutine.yield(i, "piece " .. i) end
  return "ignored"
end

local function endless(size)
  local pad, made = ("x"):rep(size), 0
  while true do
    made = made + 1
    coroutine.yield(made, pad)
  end
end

local function counted(size)
  local pad, made = ("x"):rep(size), 0
  while true do
    made = made + 1
    fl.log.info(("made %d of %d"):format(made, size))
    coroutine.yield(made, pad)
  end
end

local function is_free()
  return until_true(function() return own:stats().busy == 0 end, 2)
end

app:get("/all", function()
  local sum, last, texts = 0, nil, 0
  for number, text in own:stream(numbers, 1, 5000) do
    sum, last = sum + number, text
    texts = texts + 1
  end
  return { sum, last, texts }
end)
app:get("/none", function()
  local count = 0
  for _ in own:stream(function() end) do count = count + 1 end
  return count
end)
app:get("/module", function()
  local sum = 0
  for i in own:stream(shapes.pieces, 1, 10) do sum = sum + i end
  for i in own:stream("shapes:pieces", 1, 10) do sum = sum + i end
  return sum
end)
app:get("/values", function()
  local seen = {}
  for a, b, c in own:stream(function()
    coroutine.yield(false, nil, { deep = { 1 } })
    coroutine.yield(fl.null, ("y"):rep(100000), 0 / 0)
  end) do
    seen[#seen + 1] = { type(a), b == nil and "nil" or #b, type(c) }
  end
  return seen
end)
app:get("/awaits", function()
  local list = {}
  for i in own:stream(function()
    for i = 1, 5 do
      fl.await(fl.sleep(0.005))
      coroutine.yield(i)
    end
  end) do
    list[#list + 1] = i
    await(fl.sleep(0.002))
  end
  return list
end)
app:get("/next", function()
  local stream = own:stream(numbers, 1, 2)
  local first, second = stream:next(), nil
  second = stream:next()
  return { first, second, tostring(stream:next()), tostring(stream:next()) }
end)
app:get("/pressure", function(req)
  local stream = own:stream(counted, tonumber(req.query.size))
  local first = stream:next()
  await(fl.sleep(0.2)) -- time enough to make thousands
  stream:close()
  return { first = first, free = is_free(), after = tostring(stream:next()) }
end)
app:get("/break", function()
  for i in own:stream(endless, 10) do
    if i == 3 then break end
  end
  return "left"
end)
app:get("/break-collected", function()
  for i in own:stream(endless, 10) do
    if i == 3 then break end
  end
  await(fl.sleep(0.01))
  collectgarbage()
  collectgarbage()
  return is_free()
end)
app:get("/detached", function()
  fl.detach(function()
    local count = 0
    for i in own:stream(numbers, 1, 100) do count = count + i end
    fl.log.info("detached loop: " .. count)
  end)
  return "answered"
end)
app:get("/cancelled", function()
  for i in own:stream(function()
    coroutine.yield(1)
    fl.await(fl.sleep(60))
  end) do
    fl.log.info("client may leave: " .. i)
  end
end)
app:get("/free", function() return is_free() end)
app:get("/raises", function()
  for i in own:stream(function()
    coroutine.yield(1)
    shapes.fail()
  end) do
    fl.log.info("before the error: " .. i)
  end
end)
app:get("/raised-kind", function()
  local seen = {}
  local result = caught(function()
    for i in own:stream(function()
      for i = 1, 3 do coroutine.yield(i) end
      error { kind = "odd", message = "in the middle" }
    end) do
      seen[#seen + 1] = i
    end
  end)
  result.seen = seen
  return result
end)
app:get("/cannot-cross", function()
  local function read(fn)
    return caught(function() for _ in own:stream(fn) do end end)
  end
  return { read(function() coroutine.yield(print) end), read(function() coroutine.yield(nil) end),
    read(function() coroutine.yield(1, { a = newproxy() }) end) }
end)
app:get("/timeout", function()
  local brief = pool("brief", { size = 1, timeout = 0.1 })
  local count = 0
  local result = caught(function()
    for _ in brief:stream(function()
      while true do
        coroutine.yield(1)
        fl.await(fl.sleep(0.01))
      end
    end) do
      count = count + 1
    end
  end)
  result.count = count
  brief:close()
  until_true(function() return brief:stats().threads == 0 end)
  return result
end)
app:get("/memory", function()
  local small = pool("small", { size = 1, max_memory = "16MB" })
  local result = caught(function()
    for _ in small:stream(function()
      local list = {}
      coroutine.yield(1)
      for i = 1, 1e7 do list[i] = ("x"):rep(100) .. i end
    end) do end
  end)
  small:close()
  until_true(function() return small:stats().threads == 0 end)
  return result
end)
app:get("/nested", function()
  local sum = 0
  for i in own:stream(function()
    for i in second:stream(shapes.pieces, 1, 100) do coroutine.yield(i * 2) end
  end) do sum = sum + i end
  return sum
end)
app:get("/at-once", function()
  local function sum_of(from)
    local sum = 0
    for i in own:stream(shapes.pieces, from, from + 500) do sum = sum + i end
    return sum
  end
  return await(gather { spawn(sum_of, 1), spawn(sum_of, 2), spawn(sum_of, 3), spawn(sum_of, 4) })
end)
app:get("/left", function(req)
  local i = tonumber(req.query.i)
  local stream = own:stream(endless, i)
  if i % 3 > 0 then stream:next() end
  if i % 3 > 1 then stream:close() end
  return "left"
end)
app:get("/passed-on", function()
  return fl.stream(function(write)
    for i, text in own:stream(numbers, 1, 1000) do write(text .. "\n") end
  end)
end)
app:get("/passed-on-large", function()
  return fl.stream(function(write)
    for _, text in own:stream(endless, 100000) do write(text) end
  end)
end)
]==]

support.describe_server("a stream from a pool", pools.options(stream_app), function(get_server)
  it("gives what its function yields, in order, then nil", function()
    assert.same({ 12502500, "piece 5000", 5000 }, json(get_server(), "/all"))
    assert.equal("0", get_server():get("/none").body)
    assert.equal("110", get_server():get("/module").body)
    assert.same({ 1, 2, "nil", "nil" }, json(get_server(), "/next"))
  end)

  it("carries several values of every kind", function()
    assert.same({ { "boolean", "nil", "table" }, { "userdata", 100000, "number" } },
      json(get_server(), "/values"))
  end)

  it("may await on both sides", function()
    assert.same({ 1, 2, 3, 4, 5 }, json(get_server(), "/awaits"))
  end)

  for size, most in pairs { [10] = 18, [200000] = 9, [2000000] = 4 } do
    it("is held up while nobody takes: pieces of " .. size .. " bytes", function()
      local result = json(get_server(), "/pressure?size=" .. size)
      assert.same({ first = 1, free = true, after = "nil" }, result)
      local made = tonumber(get_server():log():match(".*made (%d+) of " .. size .. " "))
      assert.is_true(made <= most, made .. " pieces")
    end)
  end

  it("is cancelled when its loop is left and the request ends", function()
    assert.equal("left", get_server():get("/break").body)
    assert.equal("true", get_server():get("/free").body)
    for i = 1, 100 do
      assert.equal("left", get_server():get("/left?i=" .. i).body)
    end
    assert.equal("true", get_server():get("/free").body)
  end)

  it("is cancelled when its loop is left and the iterator collected", function()
    assert.equal("true", get_server():get("/break-collected").body)
  end)

  it("may belong to no request", function()
    assert.equal("answered", get_server():get("/detached").body)
    get_server():wait_log("detached loop: 5050")
  end)

  it("is cancelled with the request that reads it", function()
    local server = get_server()
    local client = server:connect()
    client:send("GET /cancelled HTTP/1.1\r\nHost: a\r\n\r\n")
    server:wait_log("client may leave: 1")
    client:reset()
    assert.equal("true", server:get("/free").body)
  end)

  it("raises its function's error in the loop, after the pieces, with both tracebacks", function()
    assert.equal(500, get_server():get("/raises").status)
    local log = get_server():wait_log 'before the error: 1.*route="GET /raises".*'
    assert.matches("a shape fails.*shapes.lua:%d+: in.*awaited by.*app.lua:%d+: in", log)
    assert.same({ ok = false, kind = "odd", text = "in the middle", message = "in the middle",
      seen = { 1, 2, 3 } }, json(get_server(), "/raised-kind"))
  end)

  it("refuses what cannot cross, and nil, in the loop", function()
    local results = json(get_server(), "/cannot-cross")
    assert.matches("value 1 is a function", results[1].text, 1, true)
    assert.matches("cannot yield nil", results[2].text, 1, true)
    assert.matches("value 2.a is a userdata", results[3].text, 1, true)
  end)

  it("ends when its time is over, or memory", function()
    local result = json(get_server(), "/timeout")
    assert.equal("timeout", result.kind)
    assert.is_true(result.count >= 1 and result.count <= 12)
    assert.equal("memory", json(get_server(), "/memory").kind)
  end)

  it("may read another one, and several may be read at once", function()
    assert.equal("10100", get_server():get("/nested").body)
    assert.same({ 125751, 126252, 126753, 127254 }, json(get_server(), "/at-once"))
  end)

  it("can be passed on to the client, who may leave", function()
    local server = get_server()
    local body = server:get("/passed-on").body
    assert.equal(1000, select(2, body:gsub("piece %d+\n", "")))
    for _ = 1, 5 do
      local client = server:connect({ receive_buffer = 4096 })
      client:send("GET /passed-on-large HTTP/1.1\r\nHost: a\r\n\r\n")
      client:receive(1000)
      client:reset()
    end
    sleep(0.05 * slowdown)
    assert.equal("true", server:get("/free").body)
  end)
end)
