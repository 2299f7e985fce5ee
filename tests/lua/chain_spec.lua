local fake = require "support.fake_core"

describe("the chain", function()
  local chain, future, combine, response, policy

  before_each(function()
    fake.install()
    chain, future = require "fasterlua.middleware.chain", require "fasterlua.future"
    response, combine = require "fasterlua.response", require "fasterlua.combine"
    policy = { handlers = {}, is_development = false }
  end)

  local function call(middlewares, handler, ...)
    return fake.run(chain.compile(policy, middlewares, handler), { path = "/" }, ...)
  end

  local function mark(name)
    return function(req, next)
      local answer = next(req)
      answer.headers:add("x-seen", name)
      return answer
    end
  end

  it("calls the middlewares from the outside in, and shows them a response", function()
    local answer = call({ mark "outer", mark "inner" }, function(req) return "at " .. req.path end)
    assert.same({ "inner", "outer" }, answer.headers:get_all "x-seen")
    assert.equal("at /", answer.body)
  end)

  it("lets a middleware answer by itself", function()
    local answer = call({ mark "outer", function() return { no = true }, 403 end }, error)
    assert.equal(403, answer.status)
    assert.equal("outer", answer.headers:get "x-seen")
  end)

  it("turns errors into responses that the outer middlewares see, logged once", function()
    local answer = call({ mark "outer", mark "inner" }, function() error "broken" end)
    assert.equal(500, answer.status)
    assert.same({ detail = "Internal Server Error" }, answer.body)
    assert.same({ "inner", "outer" }, answer.headers:get_all "x-seen")
    assert.equal(1, #fake.unhandled)
    assert.matches("chain_spec.lua", fake.unhandled[1].traceback)
  end)

  it("shows errors and tracebacks in development only", function()
    policy.is_development = true
    local answer = call({}, function() error "broken" end)
    assert.matches("broken", answer.body.error)
    assert.matches("chain_spec.lua", answer.body.traceback)
  end)

  it("logs the traceback through awaits", function()
    call({}, function()
      future.await(require("fasterlua.task").spawn(function() error "deep" end))
    end)
    assert.equal(1, #fake.unhandled)
    assert.equal(1, select(2, fake.unhandled[1].traceback:gsub("awaited by", "")))
  end)

  it("answers HTTP errors, returned or raised, without logging", function()
    for _, raise in ipairs { function(err) return err end, function(err) error(err) end } do
      local answer = call({}, function()
        return raise(response.http_error(404, "no item", { ["x-why"] = "gone" }))
      end)
      assert.same({ 404, "no item", "gone" },
        { answer.status, answer.body.detail, answer.headers:get "x-why" })
    end
    assert.same({}, fake.unhandled)
  end)

  it("asks the error handlers by status and kind, and keeps the error's status", function()
    policy.handlers[404] = function(_, err) return { lost = err.detail } end
    policy.handlers.teapot = function() return "tea", 418 end
    policy.handlers.unhandled = function(_, err) return "sorry: " .. tostring(err) end
    local answer = call({}, function() return response.http_error(404, "x") end)
    assert.same({ 404, { lost = "x" } }, { answer.status, answer.body })
    assert.equal(418, call({}, function() error { kind = "teapot" } end).status)
    answer = call({}, function() error("oh", 0) end)
    assert.same({ 500, "sorry: oh" }, { answer.status, answer.body })
    assert.equal(1, #fake.unhandled)
  end)

  it("survives error handlers that fail", function()
    policy.handlers[404] = function() error "worse" end
    local answer = call({ mark "outer" }, function() return response.http_error(404) end)
    assert.equal(500, answer.status)
    assert.equal("outer", answer.headers:get "x-seen")
    assert.equal(1, #fake.unhandled)
  end)

  it("answers timeouts with 504 and errors with a status by it", function()
    local answer = call({}, function()
      future.await(combine.timeout(1, future.sleep(5)))
    end)
    assert.equal(504, answer.status)
    answer = call({}, function() error { kind = "queue_full", status = 503 } end)
    assert.equal(503, answer.status)
  end)

  it("answers a handler that ran out of time, and lets other cancellations pass", function()
    local run = chain.compile(policy, { mark "outer" }, function()
      future.await(future.sleep(10))
    end)
    local request = fake.request(run, {})
    fake.request(function()
      future.await(future.sleep(1))
      fake.cancel_request(request, "timeout")
    end)
    fake.finish()
    assert.equal(504, request.main.outcome[1].status)

    request = fake.request(run, {})
    fake.request(function()
      future.await(future.sleep(1))
      fake.cancel_request(request, "client left")
    end)
    fake.finish()
    assert.is_false(request.main.outcome.ok)
    assert.equal("client left", request.main.outcome[1].reason)
    assert.same({}, fake.unhandled)
  end)

  it("answers 500 when a future that somebody cancelled was awaited", function()
    local answer = call({}, function()
      local f = future.sleep(1)
      f:cancel()
      future.await(f)
    end)
    assert.equal(500, answer.status)
  end)

  it("notices futures that nobody awaited, and middlewares that return nothing", function()
    assert.equal(500, call({}, function() return future.sleep(0) end).status)
    assert.matches("did you forget await", fake.unhandled[1].error)
    assert.equal(500, call({ function(req, next) next(req) end }, function() return "x" end).status)
    assert.matches("return next", fake.unhandled[2].error)
  end)

  it("answers for the server itself, through the middlewares and error handlers", function()
    policy.handlers[404] = function(_, err) return err.detail .. "!" end
    local fallback = chain.compile_fallback(policy, { mark "outer" })
    local answer = fake.run(fallback, {}, 404, "Not Found")
    assert.same({ 404, "Not Found!" }, { answer.status, answer.body })
    answer = fake.run(fallback, {}, 405, "Method Not Allowed", { allow = "GET" })
    assert.same({ 405, "GET", "outer" },
      { answer.status, answer.headers:get "allow", answer.headers:get "x-seen" })
    answer = fake.run(fallback, {}, 307, nil, { location = "/x/" })
    assert.same({ 307, "/x/" }, { answer.status, answer.headers:get "location" })
  end)
end)
