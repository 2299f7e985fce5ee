local support = require "support"

local now = support.process.now

support.describe_server("the concurrency app", { dir = "apps/concurrency" }, function(get_server)
  it("is healthy", function()
    assert.same({ status = "ok" }, get_server():get("/health"):json())
  end)

  it("answers after two seconds of sleep", function()
    local started = now()
    assert.equal(2, get_server():get("/async"):json().slept)
    assert.is_true(now() - started >= 2)
  end)

  it("lets two hundred requests sleep at the same time", function()
    local started, clients = now(), {}
    for i = 1, 200 do
      clients[i] = get_server():connect()
      clients[i]:send("GET /async HTTP/1.1\r\nHost: a\r\n\r\n")
    end
    for i = 1, 200 do
      assert.equal(200, assert(clients[i]:responses(1))[1].status)
    end
    assert.is_true(now() - started < 4 * support.slowdown)
  end)

  it("serves others while a request sleeps", function()
    local sleeping, started = get_server():connect(), now()
    sleeping:send("GET /async HTTP/1.1\r\nHost: a\r\n\r\n")
    for _ = 1, 20 do
      assert.equal(200, get_server():get("/health").status)
    end
    assert.is_true(now() - started < 1 * support.slowdown)
    assert.equal(200, assert(sleeping:responses(1))[1].status)
  end)

  it("gathers three sleeps in the time of the longest", function()
    local started = now()
    local board = get_server():get("/dashboard"):json()
    local took = now() - started
    assert.same({ from = "users", seconds = 0.1 }, board.users)
    assert.same({ from = "news", seconds = 0.3 }, board.news)
    assert.is_true(took >= 0.3)
    assert.is_true(took < 0.55 * support.slowdown, ("it took %.2f s"):format(took))
  end)
end)
