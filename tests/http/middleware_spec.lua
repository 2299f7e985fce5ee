-- Middleware around everything, and what an app makes of errors.

local support = require "support"

local app = [[
local fl = require "fasterlua"
local await = fl.await
local app = fl.app { title = "middleware" }

local function mark(letter)
  return function(req, next)
    req.state.order = (req.state.order or "") .. letter
    local response = next(req)
    response.headers:set("x-order", (response.headers:get "x-order" or "") .. letter)
    return response
  end
end

app:use(function(req, next)
  local response = next(req)
  response.headers:set("access-control-allow-origin", "*")
  response.headers:set("x-status", response.status)
  return response
end)
app:use(mark "a")
app:use(mark "b")

app:get("/order", function(req) return req.state.order end)
app:post("/order", { max_body = 10 }, function(req) return req:text() end)
app:get("/int/{id:int}", function() return "int" end)
app:get("/slash", function() return "slash" end)
app:get("/raise", function() error "broken" end)
app:get("/raise-nil", function() error(nil) end)
app:get("/raise-late", function() await(fl.sleep(0.01)) error "broken late" end)
app:get("/http-error", function() return fl.http_error(404, "none", { ["x-why"] = "because" }) end)
app:get("/http-error-raised", function() error(fl.http_error(403, "no")) end)
app:get("/json-body", function(req) return req:json() end)
app:post("/json-body", function(req) return req:json() end)
app:get("/values", function() return { a = 1 }, 201, { ["x-own"] = "1" } end)
app:get("/nothing", function() end)
app:get("/bad-value", function() return { f = print } end)
app:get("/future", function() return fl.sleep(0) end)
app:get("/slow", { timeout = 0.1 }, function() await(fl.sleep(5)) end)
app:get("/stream", function()
  return fl.stream(function(write)
    for i = 1, 3 do write(i .. "\n") await(fl.sleep(0.005)) end
  end)
end)

local skipping = fl.router "/skip"
skipping:use(function() return "instead", 202 end)
skipping:get("/handler", function() error "not reached" end)
app:include(skipping)

local inside = fl.router "/inside"
inside:use(mark "c")
inside:get("/order", function(req) return req.state.order end)
inside:get("/raise", function() error "inside" end)
app:include(inside)

local faulty = fl.router "/faulty"
faulty:use(function(req, next)
  local response = next(req)
  error("middleware after " .. response.status)
end)
faulty:get("/after", function() return "fine" end)
app:include(faulty)

local forgetful = fl.router "/forgetful"
forgetful:use(function(req, next) next(req) end)
forgetful:get("/", function() return "lost" end)
app:include(forgetful)

local changing = fl.router "/changing"
changing:use(function(req, next)
  local response = next(req)
  return { was = response.body, status = response.status }, 200
end)
changing:get("/text", function() return "text", 203 end)
changing:get("/error", function() error "hidden" end)
app:include(changing)

local waiting = fl.router "/waiting"
waiting:use(function(req, next)
  await(fl.sleep(0.01))
  local response = next(req)
  await(fl.sleep(0.01))
  return response
end)
waiting:get("/", function() await(fl.sleep(0.01)) return "waited" end)
app:include(waiting)

local catching = fl.router "/catching"
catching:use(function(req, next)
  local ok, response = pcall(next, req)
  return ok and response.status == 500 and "a response" or "raised"
end)
catching:get("/", function() error "x" end)
app:include(catching)

return app
]]

support.describe_server("middleware", { app = app }, function(get_server)
  local function get(path)
    return get_server():get(path)
  end

  it("runs from the first added inwards, and back", function()
    local response = get "/order"
    assert.equal("ab", response.body)
    assert.equal("ba", response.headers["x-order"])
  end)

  it("of a router runs inside the app's", function()
    local response = get "/inside/order"
    assert.equal("abc", response.body)
    assert.equal("cba", response.headers["x-order"])
  end)

  it("sees a response whatever the handler returned", function()
    for path, status in pairs { ["/values"] = 201, ["/nothing"] = 204, ["/http-error"] = 404,
      ["/http-error-raised"] = 403, ["/order"] = 200 } do
      local response = get(path)
      assert.equal(status, response.status, path)
      assert.equal(tostring(status), response.headers["x-status"])
    end
    assert.equal("1", get("/values").headers["x-own"])
    assert.equal('{"a":1}', get("/values").body)
    assert.equal("because", get("/http-error").headers["x-why"])
  end)

  it("sees a 500 for an error, and its headers reach it", function()
    for _, path in ipairs { "/raise", "/raise-nil", "/raise-late", "/inside/raise", "/future" } do
      local response = get(path)
      assert.equal(500, response.status, path)
      assert.equal("*", response.headers["access-control-allow-origin"], path)
      assert.equal("500", response.headers["x-status"], path)
      assert.same({ detail = "Internal Server Error" }, response:json())
    end
  end)

  it("reaches a 500 for a value that cannot be sent", function()
    local response = get "/bad-value"
    assert.equal(500, response.status)
    assert.equal("*", response.headers["access-control-allow-origin"])
  end)

  it("reaches the server's own 404, 405, 307 and 422", function()
    local server = get_server()
    local refused = {
      [404] = server:get "/nowhere",
      [405] = server:request { path = "/order", method = "DELETE" },
      [422] = server:get "/int/x",
      [307] = server:get "/slash/",
    }
    for status, response in pairs(refused) do
      assert.equal(status, response.status)
      assert.equal("*", response.headers["access-control-allow-origin"], tostring(status))
      assert.equal("ba", response.headers["x-order"])
    end
    assert.same({ detail = "Not Found" }, refused[404]:json())
    assert.matches("GET", refused[405].headers.allow)
    assert.equal("int_parsing", refused[422]:json().detail[1].type)
    assert.equal("/slash", refused[307].headers.location)
  end)

  it("reaches OPTIONS", function()
    local response = get_server():request { path = "/order", method = "OPTIONS" }
    assert.equal(204, response.status)
    assert.equal("*", response.headers["access-control-allow-origin"])
    assert.matches("POST", response.headers.allow)
  end)

  it("reaches 413, known at once or only later", function()
    local known = get_server():post("/order", "12345678901")
    assert.equal(413, known.status)
    assert.equal("*", known.headers["access-control-allow-origin"])
    local later = get_server():request { path = "/order", method = "POST", chunked = true,
      body = { "123456", "7890123" } }
    assert.equal(413, later.status)
    assert.equal("*", later.headers["access-control-allow-origin"])
  end)

  it("reaches the 422 of a body that is no JSON", function()
    local response = get_server():post("/json-body", "{")
    assert.equal(422, response.status)
    assert.equal("*", response.headers["access-control-allow-origin"])
  end)

  it("reaches the 504 of a timeout", function()
    local response = get "/slow"
    assert.equal(504, response.status)
    assert.equal("*", response.headers["access-control-allow-origin"])
    assert.same({ detail = "Gateway Timeout" }, response:json())
  end)

  it("may answer instead of the handler", function()
    local response = get "/skip/handler"
    assert.equal(202, response.status)
    assert.equal("instead", response.body)
  end)

  it("may change the answer", function()
    assert.same({ was = "text", status = 203 }, get("/changing/text"):json())
  end)

  it("sees an error inside only as a response", function()
    assert.equal("a response", get("/catching/").body)
    assert.equal(500, get("/changing/error"):json().status)
  end)

  it("may fail itself", function()
    local response = get "/faulty/after"
    assert.equal(500, response.status)
    assert.equal("*", response.headers["access-control-allow-origin"])
    get_server():wait_log "middleware after 200"
  end)

  it("that returns nothing is told so in the log", function()
    assert.equal(500, get("/forgetful/").status)
    get_server():wait_log "a middleware returned nothing"
  end)

  it("may await", function()
    assert.equal("waited", get("/waiting/").body)
  end)

  it("lets streams pass, with its headers", function()
    local response = get "/stream"
    assert.equal("1\n2\n3\n", response.body)
    assert.equal("*", response.headers["access-control-allow-origin"])
    assert.is_true(#response.chunks >= 2)
  end)

  it("applies to HEAD, without a body", function()
    local client = get_server():connect()
    for _, path in ipairs { "/order", "/nowhere", "/raise", "/stream" } do
      local response = client:request { path = path, method = "HEAD" }
      assert.equal("*", response.headers["access-control-allow-origin"], path)
    end
  end)

  it("logs an error once", function()
    local at = #get_server():log()
    get "/inside/raise"
    get_server():wait_log "inside\n"
    local _, count = get_server():log():sub(at + 1):gsub("unhandled error", "")
    assert.equal(1, count)
  end)
end)

support.describe_server("middleware without awaiting anything", { app = app }, function(get_server)
  it("serves a pipeline in order", function()
    local client, parts = get_server():connect(), {}
    local paths = { "/order", "/raise-late", "/nowhere", "/waiting/", "/values" }
    local statuses = { 200, 500, 404, 200, 201 }
    for i, path in ipairs(paths) do
      parts[i] = ("GET %s HTTP/1.1\r\nHost: a\r\n\r\n"):format(path)
    end
    client:send(table.concat(parts))
    for i, response in ipairs(assert(client:responses(#paths))) do
      assert.equal(statuses[i], response.status)
    end
  end)
end)

support.describe_server("on_error", { app = [[
local fl = require "fasterlua"
local await = fl.await
local app = fl.app { title = "errors" }

app:on_error(404, function(req, err)
  return fl.html("<h1>" .. req.path .. "</h1>", err.status)
end)
app:on_error(403, function() return { sorry = true }, 451 end)
app:on_error(422, function(_, err) return { faults = err.detail } end)
app:on_error(500, function(_, err) return { oops = tostring(err):match "[^ ]*$" } end)
app:on_error("out_of_stock", function(_, err) return { item = err.item }, 409 end)
app:on_error("timeout", function() return { late = true } end)
app:on_error(409, function() error "the error handler fails" end)
app:on_error(410, function() error(fl.http_error(411, "another")) end)

app:get("/text", function() return "text" end)
app:get("/int/{id:int}", function() return "int" end)
app:get("/own-404", function() return fl.http_error(404, "own") end)
app:get("/403", function() error(fl.http_error(403)) end)
app:get("/500", function() error "crash" end)
app:get("/returned-500", function() return fl.http_error(500, "chosen") end)
app:get("/kind", function() error { kind = "out_of_stock", item = 7 } end)
app:get("/other-kind", function() error { kind = "unknown_kind" } end)
app:get("/409", function() return fl.http_error(409) end)
app:get("/410", function() return fl.http_error(410) end)
app:get("/slow", { timeout = 0.05 }, function() await(fl.sleep(5)) end)
app:get("/inner-timeout", function() await(fl.timeout(0.01, fl.sleep(5))) end)
app:get("/plain-404", function() return "just a status", 404 end)
app:get("/418", function() return fl.http_error(418, "tea") end)
return app
]] }, function(get_server)
  local function expect(path, status, body)
    local response = get_server():get(path)
    assert.equal(status, response.status, path)
    if type(body) == "table" then
      assert.same(body, response:json())
    else
      assert.equal(body, response.body)
    end
    return response
  end

  it("answers the server's own errors, keeping their status", function()
    local response = get_server():get "/nowhere"
    assert.equal(404, response.status)
    assert.equal("<h1>/nowhere</h1>", response.body)
    assert.matches("text/html", response.headers["content-type"])
    assert.equal("int_parsing", get_server():get("/int/x"):json().faults[1].type)
    assert.equal(422, get_server():get("/int/x").status)
  end)

  it("answers errors of handlers by status", function()
    expect("/own-404", 404, "<h1>/own-404</h1>")
    expect("/403", 451, { sorry = true })
  end)

  it("answers unhandled errors", function()
    expect("/500", 500, { oops = "crash" })
    get_server():wait_log "crash"
    expect("/returned-500", 500, { oops = "chosen" })
  end)

  it("answers by kind", function()
    expect("/kind", 409, { item = 7 })
  end)

  it("answers timeouts with 504", function()
    expect("/slow", 504, { late = true })
    expect("/inner-timeout", 504, { late = true })
  end)

  it("that fails gives a plain 500, and is logged", function()
    expect("/409", 500, { detail = "Internal Server Error" })
    get_server():wait_log "the error handler fails"
  end)

  it("may raise another http_error", function()
    expect("/410", 411, { detail = "another" })
  end)

  it("leaves what it does not name alone", function()
    expect("/418", 418, { detail = "tea" })
    expect("/text", 200, "text")
    expect("/plain-404", 404, "just a status")
  end)
end)
