-- Dictionaries that all states of all server processes share, as clients of a server see them.

local support = require "support"

local now, sleep = support.process.now, support.process.sleep

local app = [[
local fl = require "fasterlua"
local await = fl.await
local app = fl.app { title = "shared" }
local cache = fl.shared("cache", { bytes = "2MB" })
local state = cache:incr("states")
local pid = io.open("/proc/self/stat"):read("*n")

app:get("/state", function() return tostring(state) end)
app:get("/get/{key}", function(req)
  local value = cache:get(req.params.key)
  return { state = state, value = value == nil and "nothing" or value }
end)
app:get("/incr", function() return tostring(cache:incr("n")) end)
app:post("/set/{key}", function(req) cache:set(req.params.key, req:json()) end)
app:get("/stats", function() return cache:stats() end)

app:get("/made/{key}", function(req)
  return await(cache:get_or_set(req.params.key, 60, function()
    cache:incr("calls of " .. req.params.key)
    await(fl.sleep(0.3))
    return "made"
  end))
end)
app:get("/dying/{key}", function(req)
  return await(cache:get_or_set(req.params.key, 60, function()
    if cache:add("first", true) then
      cache:set("leader", pid)
      await(fl.sleep(60))
    end
    return "made"
  end))
end)

app:get("/locked", function()
  return cache:with("job", 20, function()
    local inside = cache:incr("inside")
    await(fl.sleep(0.01))
    cache:incr("inside", -1)
    return tostring(inside)
  end)
end)
app:get("/hold/{ttl}", function(req)
  local lease = await(cache:lock("held", tonumber(req.params.ttl)))
  cache:set("token", lease.token)
  cache:set("holder", pid)
  await(fl.sleep(60))
end)
app:get("/take-and-leave", function()
  local lease = await(cache:lock("held", 60, { wait = 5 }))
  return tostring(lease ~= nil)
end)
app:get("/try", function()
  local lease = await(cache:lock("held", 60, { wait = 0 }))
  if lease then lease:release() end
  return tostring(lease and lease.token)
end)
app:get("/in-pool", function()
  local seen = await(fl.run_in_state(function(given)
    local sleep = require("fasterlua").sleep
    given:set("from the pool", { 1 })
    return require("fasterlua").await(given:get_or_set("pooled", 60, function()
      require("fasterlua").await(sleep(0.01))
      return "made in the pool"
    end))
  end, cache))
  return { seen = seen, value = cache:get "from the pool", kept = cache:get "pooled" }
end)
app:get("/lock-in-pool", function()
  return tostring(await(fl.run_in_state(function(given)
    local lease = require("fasterlua").await(given:lock("pool lock", 60, { wait = 3 }))
    return lease ~= nil
  end, cache)))
end)
local touchy = fl.state_pool { name = "touchy", size = 1, timeout = 0.2 }
app:get("/stuck-job", function()
  local ok, err = pcall(await, touchy:run(function(given)
    require("fasterlua").await(given:lock("stuck job", 60))
    given:set("stuck job", "locked")
    return ("a"):rep(300):find((".-"):rep(3) .. "b") -- nothing interrupts it
  end, cache))
  return tostring(not ok and err.kind)
end)
app:get("/stuck-job-held", function() return cache:get "stuck job" end)
app:get("/stuck-job-lock", function()
  return await(cache:lock("stuck job", 1, { wait = 0 })) and "free" or "locked"
end)
app:get("/wait", function()
  local lease = await(cache:lock("held", 60))
  return { token = lease.token, before = cache:get "token" }
end)
return app
]]

local two_by_two = { "--workers", "2", "--threads", "2" }
local request_bytes = "GET %s HTTP/1.1\r\nHost: a\r\n\r\n"

-- Sends the request on so many connections at once; they are answered meanwhile.
local function begin(server, path, count)
  local clients = {}
  for index = 1, count do
    clients[index] = server:connect()
    clients[index]:send(request_bytes:format(path))
  end
  return clients
end

local function bodies(clients)
  local found = {}
  for index, client in ipairs(clients) do
    local response, reason = client:response { timeout = 15 }
    found[index] = response and response.status == 200 and response.body or reason or
      response.status
  end
  return found
end

-- The numbers of the states that answer now.
local function states_of(server)
  local found, count = {}, 0
  for _, body in ipairs(bodies(begin(server, "/state", 32))) do
    count = count + (found[body] and 0 or 1)
    found[body] = true
  end
  server:close_clients()
  return found, count
end

local function value_of(server, key)
  return server:get("/get/" .. key):json().value
end

local function wait_for_all_states(server)
  support.eventually(function()
    local _, count = states_of(server)
    return count == 4
  end, 5)
end

support.describe_server("shared data in one process", {
  app = app, flags = { "--threads", "2" },
}, function(get_server)
  it("keeps tables, and leaves nothing behind", function()
    get_server():post("/set/list", { a = { 1, 2 }, b = "text" })
    local response = get_server():get("/get/list"):json()
    assert.same({ a = { 1, 2 }, b = "text" }, response.value)
  end)

  it("is made once for all who ask, and leaves no task behind", function()
    local clients = begin(get_server(), "/made/leak", 10)
    for _, body in ipairs(bodies(clients)) do
      assert.equal("made", body)
    end
    assert.equal(1, value_of(get_server(), "calls%20of%20leak"))
    assert.equal(0, get_server():get("/stats"):json().leases)
  end)

  it("is locked no longer than the request that took the lock lasts", function()
    for _ = 1, 3 do
      assert.equal("true", get_server():get("/take-and-leave").body)
    end
    support.eventually(function()
      return get_server():get("/try").body ~= "nil"
    end)
  end)

  it("is locked no longer when the client of who locked it has left", function()
    local holder = begin(get_server(), "/hold/60", 1)[1]
    support.eventually(function()
      return get_server():get("/try").body == "nil"
    end)
    holder:close()
    support.eventually(function()
      return get_server():get("/try").body ~= "nil"
    end)
  end)
end)

support.describe_server("shared data", {
  app = app, leaks = false, flags = two_by_two, settings = { shared_memory = "4MB" },
  env = { TSAN_OPTIONS = "report_thread_leaks=0" }, -- its last thread may not have ended
}, function(get_server)
  it("is the same in all states of all processes", function()
    local server = get_server()
    wait_for_all_states(server)
    server:post("/set/greeting", { "hello" })
    local seen, count = {}, 0
    for _, body in ipairs(bodies(begin(server, "/get/greeting", 32))) do
      local state, value = body:match('"state":(%d+),"value":(%b[])')
      if not state then
        value, state = body:match('"value":(%b[]),"state":(%d+)')
      end
      assert.equal('["hello"]', value)
      count = count + (seen[state] and 0 or 1)
      seen[state] = true
    end
    assert.equal(4, count)
  end)

  it("goes to the states of pools, as an argument", function()
    assert.same({ seen = "made in the pool", value = { 1 }, kept = "made in the pool" },
      get_server():get("/in-pool"):json())
  end)

  it("is locked no longer than the job that took the lock lasts", function()
    for _ = 1, 3 do
      assert.equal("true", get_server():get("/lock-in-pool").body)
    end
  end)

  it("counts every increment once", function()
    local server = get_server()
    local before = value_of(server, "n")
    before = before == "nothing" and 0 or before
    local clients = {}
    for index = 1, 20 do
      clients[index] = server:connect()
      clients[index]:send(request_bytes:format("/incr"):rep(50))
    end
    local seen = {}
    for _, client in ipairs(clients) do
      for _, response in ipairs(assert(client:responses(50))) do
        assert.is_nil(seen[response.body], "counted twice")
        seen[response.body] = true
      end
    end
    assert.equal(before + 1000, value_of(server, "n"))
  end)

  it("survives a reload", function()
    local server = get_server()
    local old = states_of(server)
    server:post("/set/kept", { "over the reload" })
    server:signal "HUP"
    support.eventually(function()
      local states, count = states_of(server)
      for state in pairs(states) do
        if old[state] then return false end
      end
      return count == 4
    end, 5)
    assert.same({ "over the reload" }, value_of(server, "kept"))
  end)

  it("survives the death of server processes", function()
    local server = get_server()
    server:post("/set/kept", { "over the crash" })
    for _ = 1, 2 do
      support.eventually(function() return #server:pids() == 2 end, 5) -- old ones have gone
      local pids = server:pids()
      server:signal("KILL", pids[1])
      support.eventually(function()
        return server:pids()[2] ~= nil and server:pids()[1] ~= pids[1]
      end, 5)
      wait_for_all_states(server)
      assert.same({ "over the crash" }, value_of(server, "kept"))
    end
    assert.equal(0, server:get("/stats"):json().emptied)
  end)

  it("is made once for fifty who ask at once", function()
    local server = get_server()
    for _, body in ipairs(bodies(begin(server, "/made/fifty", 50))) do
      assert.equal("made", body)
    end
    assert.equal(1, value_of(server, "calls%20of%20fifty"))
  end)

  it("is made by another one when the process of who makes it dies", function()
    local server = get_server()
    wait_for_all_states(server)
    local clients = begin(server, "/dying/key", 20)
    support.eventually(function() return value_of(server, "leader") ~= "nothing" end)
    sleep(0.2)
    local began = now()
    server:signal("KILL", value_of(server, "leader"))
    local count = 0
    for _, body in ipairs(bodies(clients)) do
      count = count + (body == "made" and 1 or 0)
      assert.is_true(body == "made" or body == "closed" or body == "reset", body)
    end
    assert.is_true(count > 0, "all of them were in the process that died")
    assert.is_true(now() - began < 3 * support.slowdown)
  end)

  it("is locked by one at a time, wherever it is", function()
    wait_for_all_states(get_server())
    for _, body in ipairs(bodies(begin(get_server(), "/locked", 60))) do
      assert.equal("1", body)
    end
  end)

  it("is free again when the process of who locked it was killed", function()
    local server = get_server()
    begin(server, "/hold/60", 1)
    support.eventually(function() return value_of(server, "token") ~= "nothing" end)
    local token = value_of(server, "token")
    server:signal("KILL", value_of(server, "holder"))
    local response = support.eventually(function()
      local ok, answer = pcall(server.request, server, { path = "/wait", timeout = 10 })
      return ok and answer
    end, 10)
    assert.equal(token, response:json().before)
    assert.is_true(response:json().token > token)
  end)

  it("is free again when the thread of a job that locked it is given up", function()
    local server = get_server()
    assert.equal("timeout", server:get("/stuck-job").body)
    support.eventually(function() return server:get("/stuck-job-lock").body == "free" end)
    assert.equal("locked", server:get("/stuck-job-held").body)
  end)
end)

describe("shared memory", function()
  local function refuse(text, settings)
    local server = support.start { wait = false, settings = settings, app = [[
local fl = require "fasterlua"
]] .. text .. "\nreturn fl.app {}" }
    local status = server:wait_end(5)
    local log = server:log()
    server:kill()
    assert.equal(3, status and status.code, log)
    return log
  end

  it("that is too small for an app fails the start and names the setting", function()
    local log = refuse('fl.shared("a", { bytes = "2MB" })', { shared_memory = "1MB" })
    assert.matches('app.lua:2: shared "a": no room for 2097152 bytes: '
      .. "of the setting shared_memory, 1048576 are left", log)
  end)

  it("that one app opens with another size than another fails the start", function()
    local log = refuse('fl.shared("a", { bytes = "2MB" })\nfl.shared("a", { bytes = "1MB" })')
    assert.matches('app.lua:3: shared "a" has 2097152 bytes, not 1048576', log)
  end)

  it("is there when routes are listed without a server", function()
    local dir = support.app [[
local fl = require "fasterlua"
local app = fl.app {}
local cache = fl.shared("cache")
cache:set("a", 1)
app:get("/" .. cache:get("a"), function() end)
return app
]]
    local status, output = support.command { "routes", dir }
    assert.equal(0, status.code)
    assert.matches("/1", output)
  end)
end)
