-- More than a server can take: refusals come soon and say when to try again, and what it has run
-- out of is not missed for longer than it lasts. How much work is still done is in load_spec.

local support = require "support"

local process = support.process
local now, sleep = process.now, process.sleep

local app = [[
local fl = require "fasterlua"
local await = fl.await
local app = fl.app { title = "overload" }

app:get("/", function() return "root" end)
app:get("/sleep", function() await(fl.sleep(1)) return "slept" end)
app:get("/work", function()
  local till = os.clock() + 0.002
  while os.clock() < till do end
  return "worked"
end)
app:get("/file", function() return await(fl.fs.read("/proc/self/comm")) end)

return app
]]

local request_bytes = "GET %s HTTP/1.1\r\nHost: a\r\n\r\n"

-- Sends one request on each of `count` connections at once; statuses by number, refusals in order.
local function flood(server, count, path)
  local clients, statuses, refusals = {}, {}, {}
  for i = 1, count do clients[i] = server:connect() end
  for i = 1, count do clients[i]:send(request_bytes:format(path)) end
  for i = 1, count do
    local response = assert(clients[i]:response { timeout = 20 })
    statuses[response.status] = (statuses[response.status] or 0) + 1
    if response.status ~= 200 then refusals[#refusals + 1] = response end
  end
  server:close_clients()
  return statuses, refusals
end

describe("work that waits for too long", function()
  it("is refused, saying when to try again; the connection stays", function()
    local server = support.start { app = app, settings = { threads = 1, queue_delay = "20ms" } }
    local statuses, refusals = flood(server, 400, "/work")
    assert.equal(400, (statuses[200] or 0) + (statuses[503] or 0))
    assert.is_true((statuses[200] or 0) >= 10, "nothing is done")
    assert.is_true(#refusals >= 100, #refusals .. " of 400 were refused")
    for _, response in ipairs(refusals) do
      assert.matches("^%d+$", response.headers["retry-after"])
      assert.not_equal("close", response.headers.connection)
    end
    assert.is_true(server:metrics().fasterlua_requests_shed_total >= #refusals)
    assert.equal(200, server:get("/").status)
    server:stop()
  end)

  it("is done all the same with queue_delay = 0", function()
    local server = support.start { app = app, settings = { threads = 1, queue_delay = 0 } }
    assert.same({ [200] = 200 }, (flood(server, 200, "/work")))
    server:stop()
  end)

  it("is not refused because others sleep", function()
    local server = support.start { app = app, settings = { threads = 1, queue_delay = "20ms" } }
    for _ = 1, 500 do server:connect():send(request_bytes:format("/sleep")) end
    sleep(0.2 * support.slowdown)
    for _ = 1, 20 do assert.equal(200, server:get("/").status) end
    server:stop()
  end)

  it("is refused soon, when it has come in a crowd that does not end", function()
    local server = support.start { app = app, settings = { threads = 1 } }
    local clients, refused, slowest = {}, 0, 0
    for i = 1, 300 do clients[i] = server:connect() end
    local sent, stop = {}, now() + 2
    for i = 1, 300 do
      clients[i]:send(request_bytes:format("/work"))
      sent[i] = now()
    end
    while now() < stop do
      for i = 1, 300 do
        local response = clients[i]:response { timeout = 0 }
        if response then
          if response.status == 503 and now() < stop then
            refused, slowest = refused + 1, math.max(slowest, now() - sent[i])
          end
          clients[i]:send(request_bytes:format("/work"))
          sent[i] = now()
        end
      end
    end
    server:kill()
    assert.is_true(refused > 0, "nothing is refused")
    assert.is_true(slowest < 1 * support.slowdown, ("a refusal took %.3f s"):format(slowest))
  end)
end)

describe("a server without a free descriptor", function()
  local server

  before_each(function()
    server = support.start { app = app, settings = { threads = 1 },
      prefix = { "sh", "-c", 'ulimit -n 64; exec "$@"', "sh" } }
    server:get("/file") -- its module is loaded when it is first used
  end)

  after_each(function()
    server:stop()
  end)

  -- Connects until the server can take no more; the answers to those beyond it.
  local function exhaust()
    local clients, refused = {}, {}
    for i = 1, 100 do
      clients[i] = server:connect()
      clients[i]:send(request_bytes:format("/"))
    end
    for i = 1, 100 do
      local response = clients[i]:response { timeout = 2 }
      if response and response.status == 200 then
        clients[i].is_served = true
      else
        refused[#refused + 1] = { client = clients[i], response = response }
      end
    end
    return clients, refused
  end

  it("tells those that it cannot take", function()
    local _, refused = exhaust()
    assert.is_true(#refused > 20 and #refused < 90, #refused .. " of 100 were refused")
    for _, each in ipairs(refused) do
      assert.equal(503, each.response and each.response.status)
      assert.matches("^%d+$", each.response.headers["retry-after"])
      assert.is_true((each.client:closed()))
    end
  end)

  it("serves those that it has taken", function()
    local clients = exhaust()
    for _, client in ipairs(clients) do
      if client.is_served then assert.equal("root", client:request({ path = "/" }).body) end
    end
  end)

  it("does not spin", function()
    exhaust()
    local user, system = server:cpu()
    sleep(1)
    local user_after, system_after = server:cpu()
    local used = user_after - user + system_after - system
    assert.is_true(used < 0.2, used .. " s of CPU time")
  end)

  it("is back as soon as one is free", function()
    exhaust()
    server:close_clients()
    local freed = now()
    support.eventually(function()
      local response = server:request { path = "/" }
      return response and response.status == 200
    end)
    assert.is_true(now() - freed < 1 * support.slowdown)
    assert.equal(200, server:get("/file").status)
  end)

  it("says that a file cannot be opened for want of one", function()
    local clients, served = exhaust(), nil
    for _, client in ipairs(clients) do served = served or client.is_served and client end
    assert.equal(500, served:request({ path = "/file" }).status)
    server:wait_log("too many open files")
    assert.equal("root", served:request({ path = "/" }).body)
  end)
end)
