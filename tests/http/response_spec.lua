-- What a handler returns, and what the client gets for it.

local support = require "support"

local app = [[
local fl = require "fasterlua"
local await = fl.await
local app = fl.app { title = "responses" }

local returns = {
  text = function() return "text" end,
  ["empty-text"] = function() return "" end,
  bytes = function() return "\0\255" end,
  table = function() return { a = 1 } end,
  list = function() return { 1, 2 } end,
  ["empty-table"] = function() return {} end,
  ["empty-list"] = function() return fl.array {} end,
  number = function() return 42 end,
  float = function() return 0.1 end,
  big = function() return 9007199254740993LL end,
  ["true"] = function() return true end,
  ["false"] = function() return false end,
  null = function() return fl.null end,
  ["nil"] = function() return nil end,
  nothing = function() end,
  ["nil-200"] = function() return nil, 200 end,
  ["nil-headers"] = function() return nil, nil, { ["x-a"] = "1" } end,
  status = function() return "made", 201 end,
  headers = function() return "h", 200, { ["X-One"] = "1", ["x-two"] = 2 } end,
  ["header-list"] = function() return "h", 200, { ["x-many"] = { "a", "b" } } end,
  ["status-nil"] = function() return "h", nil, { ["x-one"] = "1" } end,
  type = function() return "a,b", 200, { ["Content-Type"] = "text/csv" } end,
  ["json-type"] = function() return { a = 1 }, 200, { ["content-type"] = "application/x+json" } end,
  ["nil-type"] = function() return nil, 200, { ["content-type"] = "text/css" } end,
  ["204-body"] = function() return "dropped", 204 end,
  ["304"] = function() return nil, 304, { etag = '"x"' } end,
  ["304-body"] = function() return "dropped", 304, { etag = '"x"' } end,
  ["205"] = function() return nil, 205 end,
  html = function() return fl.html "<p>" end,
  ["html-404"] = function() return fl.html("<p>", 404, { ["x-a"] = "b" }) end,
  redirect = function() return fl.redirect "/there?a=b" end,
  ["redirect-303"] = function() return fl.redirect("/there", 303) end,
  ["redirect-space"] = function() return fl.redirect "/a b/\195\169" end,
  ["redirect-out"] = function()
    return fl.redirect("https://example.com/x", { external = true })
  end,
  ["redirect-refused"] = function() return fl.redirect "//evil.example" end,
  ["redirect-scheme"] = function()
    return fl.redirect("javascript:alert(1)", { external = true })
  end,
  ["redirect-break"] = function() return fl.redirect "/a\r\nX-Evil: 1" end,
  response = function()
    return fl.response({ id = 7 }, { status = 201, headers = { location = "/items/7" },
      cookies = { session = "s", plain = { value = "p", http_only = false } } })
  end,
  ["response-nil"] = function() return fl.response(nil) end,
  ["response-status"] = function() return fl.response("x"), 202 end,
  ["response-option"] = function() return fl.response("x", { staus = 200 }) end,
  ["http-error"] = function() return fl.http_error(404, "no such item") end,
  ["http-error-raised"] = function() error(fl.http_error(409, { why = { 1, 2 } })) end,
  ["http-error-plain"] = function() return fl.http_error(418) end,
  ["http-error-headers"] = function()
    return fl.http_error(401, "who?", { ["www-authenticate"] = { "Basic", "Bearer" } })
  end,
  ["http-error-bad"] = function() return fl.http_error(200, "no error") end,
  cookie = function(req) req:set_cookie("a", "1") return "c" end,
  ["cookie-two"] = function(req)
    req:set_cookie("a", "1", { max_age = 60, path = "/x", domain = "example.com", secure = true,
      same_site = "Strict" })
    req:set_cookie("b", "2", { http_only = false })
    return "c"
  end,
  ["cookie-error"] = function(req) req:set_cookie("a", "1") error(fl.http_error(400, "x")) end,
  ["cookie-delete"] = function()
    local response = fl.response "x"
    response:delete_cookie "a"
    return response
  end,
  ["cookie-bad"] = function(req) req:set_cookie("a", "1; Domain=evil") return "c" end,
  ["cookie-bad-name"] = function(req) req:set_cookie("a b", "1") return "c" end,
  date = function() return "d", 200, { date = "Sun, 06 Nov 1994 08:49:37 GMT" } end,
  large = function() return ("0123456789"):rep(300000) end,
  ["methods"] = function()
    local response = fl.response("x", { headers = { a = "1" } })
    response.headers:set("A", "2")
    response.headers:add("b", "1")
    response.headers:add("B", "2")
    response.headers:set("c", "gone")
    response.headers:delete "C"
    response.status = 203
    response.body = table.concat(response.headers:get_all "b") .. response.headers:get "a"
    return response
  end,
  -- what cannot be sent
  ["bad-break"] = function() return "x", 200, { ["x-a"] = "1\r\nX-Evil: 1" } end,
  ["bad-lf"] = function() return "x", 200, { ["x-a"] = "1\n2" } end,
  ["bad-cr"] = function() return "x", 200, { ["x-a"] = "1\r2" } end,
  ["bad-nul"] = function() return "x", 200, { ["x-a"] = "1\0002" } end,
  ["bad-name"] = function() return "x", 200, { ["x a"] = "1" } end,
  ["bad-name-colon"] = function() return "x", 200, { ["x:"] = "1" } end,
  ["bad-name-empty"] = function() return "x", 200, { [""] = "1" } end,
  ["bad-name-break"] = function() return "x", 200, { ["x\r\ny"] = "1" } end,
  ["bad-list"] = function() return "x", 200, { ["x-a"] = { "1", "2\r\n3" } } end,
  ["bad-response"] = function()
    return fl.response("x", { headers = { ["x-a"] = "1\r\n2" } })
  end,
  ["bad-value"] = function() return "x", 200, { ["x-a"] = {} , ["x-b"] = print } end,
  ["bad-headers"] = function() return "x", 200, "headers" end,
  ["bad-length"] = function() return "x", 200, { ["content-length"] = "100" } end,
  ["bad-encoding"] = function() return "x", 200, { ["transfer-encoding"] = "chunked" } end,
  ["bad-status"] = function() return "x", 99 end,
  ["bad-status-100"] = function() return "x", 100 end,
  ["bad-status-600"] = function() return "x", 600 end,
  ["bad-status-half"] = function() return "x", 200.5 end,
  ["bad-status-text"] = function() return "x", "OK" end,
  ["bad-function"] = function() return print end,
  ["bad-thread"] = function() return coroutine.create(print) end,
  future = function() return fl.sleep(0) end,
  ["future-in-table"] = function() return { later = fl.sleep(0) } end,
  ["json-function"] = function() return { a = { b = print } } end,
  ["json-cycle"] = function() local t = {} t.self = t return t end,
  ["json-utf8"] = function() return { name = "\255" } end,
  ["json-nan"] = function() return { x = 0 / 0 } end,
  ["json-inf"] = function() return { x = math.huge } end,
  ["json-key"] = function() return { [true] = 1 } end,
  ["json-sparse"] = function() return { [1] = 1, [100] = 2 } end,
  ["json-mixed"] = function() return { 1, a = 2 } end,
  ["json-deep"] = function() local t = {} for _ = 1, 200 do t = { t } end return t end,
}

for name, fn in pairs(returns) do
  app:route({ "GET", "POST" }, "/" .. name, fn)
end

app:get("/raise", function() error "an ordinary error" end)
app:get("/raise-table", function() error { code = 7 } end)
app:get("/mutated", function()
  local response = fl.response("x")
  rawset(response, "status", "nonsense")
  return response
end)
app:get("/smuggled-headers", function()
  local response = fl.response("x")
  local headers = response.headers
  headers[#headers + 1] = "x-evil"
  headers[#headers + 1] = "1\r\nX-Evil-Too: 1"
  return response
end)

return app
]]

support.describe_server("a handler's answer:", { app = app }, function(get_server)
  local function get(name)
    return get_server():get("/" .. name)
  end

  local function expect(name, status, body, content_type)
    local response = get(name)
    assert.equal(status, response.status, response.body)
    assert.equal(body, response.body)
    assert.equal(content_type, response.headers["content-type"])
    return response
  end

  local TEXT, JSON = "text/plain; charset=utf-8", "application/json"

  describe("a string", function()
    it("is sent as text", function()
      expect("text", 200, "text", TEXT)
      expect("empty-text", 200, "", TEXT)
      expect("bytes", 200, "\0\255", TEXT)
    end)
  end)

  describe("another value", function()
    it("is sent as JSON", function()
      expect("table", 200, '{"a":1}', JSON)
      expect("list", 200, "[1,2]", JSON)
      expect("number", 200, "42", JSON)
      expect("true", 200, "true", JSON)
      expect("false", 200, "false", JSON)
      expect("null", 200, "null", JSON)
    end)

    it("keeps its precision", function()
      expect("float", 200, "0.1", JSON)
      expect("big", 200, "9007199254740993", JSON)
    end)

    it("is an empty object unless marked as a list", function()
      expect("empty-table", 200, "{}", JSON)
      expect("empty-list", 200, "[]", JSON)
    end)
  end)

  describe("nil", function()
    it("is 204 without a body", function()
      for _, name in ipairs { "nil", "nothing", "response-nil", "nil-headers" } do
        local response = get(name)
        assert.equal(204, response.status)
        assert.is_nil(response.headers["content-length"], "RFC 9110 8.6: no length in a 204")
        assert.is_nil(response.headers["content-type"])
      end
      assert.equal("1", get("nil-headers").headers["x-a"])
    end)

    it("with another status is an empty body", function()
      local response = get "nil-200"
      assert.equal(200, response.status)
      assert.equal("0", response.headers["content-length"])
      assert.equal("text/css", get("nil-type").headers["content-type"])
    end)
  end)

  describe("status and headers", function()
    it("follow the value", function()
      expect("status", 201, "made", TEXT)
      local response = get "headers"
      assert.equal("1", response.headers["x-one"])
      assert.equal("2", response.headers["x-two"])
      assert.equal("1", get("status-nil").headers["x-one"])
    end)

    it("may be lists", function()
      assert.same({ "a", "b" }, get("header-list"):values "x-many")
    end)

    it("may say the content type", function()
      local response = expect("type", 200, "a,b", "text/csv")
      assert.equal(1, #response:values "content-type")
      assert.equal(1, #get("json-type"):values "content-type")
    end)
  end)

  describe("every answer", function()
    it("has one Content-Length that is right", function()
      for _, name in ipairs { "text", "empty-text", "table", "html", "http-error", "raise",
        "large", "nowhere", "redirect" } do
        local response = get(name)
        assert.same({ tostring(#response.body) }, response:values "content-length")
      end
    end)

    it("has one Date, of now", function()
      for _, name in ipairs { "text", "nil", "nowhere", "raise", "304" } do
        local dates = get(name):values "date"
        assert.equal(1, #dates)
        assert.matches("^%a%a%a, %d%d %a%a%a %d%d%d%d %d%d:%d%d:%d%d GMT$", dates[1])
        assert.equal(os.date("!%a, %d %b %Y %H:", os.time()), dates[1]:sub(1, 20))
      end
    end)

    it("has not two Dates when the handler gives one", function()
      assert.equal(1, #get("date"):values "date")
    end)

    it("does not tell the server's version", function()
      local server = get("text").headers.server
      assert.is_nil((server or ""):match "%d")
    end)

    it("has the reason phrase of its status", function()
      assert.equal("Created", get("status").reason)
      assert.equal("No Content", get("nil").reason)
      assert.equal("Not Found", get("nowhere").reason)
    end)
  end)

  describe("HEAD", function()
    it("gets the same head and no body", function()
      local client = get_server():connect()
      for _, name in ipairs { "text", "table", "large", "nil", "http-error", "304", "html" } do
        local full = client:request { path = "/" .. name }
        local head = client:request { path = "/" .. name, method = "HEAD" }
        assert.equal(full.status, head.status)
        for _, field in ipairs { "content-length", "content-type", "etag" } do
          assert.equal(full.headers[field], head.headers[field], name .. ": " .. field)
        end
      end
      assert.equal("text", client:request({ path = "/text" }).body)
    end)
  end)

  describe("statuses without a body", function()
    it("have none, whatever was returned", function()
      local client = get_server():connect()
      for _, name in ipairs { "204-body", "304", "304-body", "205" } do
        local response = client:request { path = "/" .. name }
        assert.equal(tonumber(name:sub(1, 3)), response.status)
        assert.equal("", response.body)
      end
      assert.is_nil(client:request({ path = "/204-body" }).headers["content-length"])
      assert.equal('"x"', client:request({ path = "/304" }).headers.etag)
      assert.equal("text", client:request({ path = "/text" }).body)
    end)
  end)

  describe("fl.html", function()
    it("is a page", function()
      expect("html", 200, "<p>", "text/html; charset=utf-8")
      local response = expect("html-404", 404, "<p>", "text/html; charset=utf-8")
      assert.equal("b", response.headers["x-a"])
    end)
  end)

  describe("fl.redirect", function()
    it("is 307 with a location", function()
      local response = get "redirect"
      assert.equal(307, response.status)
      assert.equal("/there?a=b", response.headers.location)
      assert.equal("", response.body)
    end)

    it("takes another status", function()
      assert.equal(303, get("redirect-303").status)
    end)

    it("encodes what a URL cannot carry", function()
      assert.equal("/a%20b/%C3%A9", get("redirect-space").headers.location)
    end)

    it("leaves this host only when told", function()
      assert.equal("https://example.com/x", get("redirect-out").headers.location)
      assert.equal(500, get("redirect-refused").status)
      assert.equal(500, get("redirect-scheme").status)
    end)

    it("carries no line breaks", function()
      local response = get "redirect-break"
      assert.equal(500, response.status)
      assert.is_nil(response.headers["x-evil"])
    end)
  end)

  describe("fl.response", function()
    it("has status, headers and cookies", function()
      local response = expect("response", 201, '{"id":7}', JSON)
      assert.equal("/items/7", response.headers.location)
      local cookies = response:values "set-cookie"
      table.sort(cookies)
      assert.same({ "plain=p; Path=/; SameSite=Lax", "session=s; Path=/; HttpOnly; SameSite=Lax" },
        cookies)
    end)

    it("has headers to set, add, get and delete", function()
      local response = expect("methods", 203, "122", TEXT)
      assert.same({ "2" }, response:values "a")
      assert.same({ "1", "2" }, response:values "b")
      assert.same({}, response:values "c")
    end)

    it("refuses options it does not know, with a suggestion", function()
      assert.equal(500, get("response-option").status)
      get_server():wait_log 'unknown option "staus".-status'
    end)
  end)

  describe("fl.http_error", function()
    it("is sent as a JSON detail, returned", function()
      expect("http-error", 404, '{"detail":"no such item"}', JSON)
    end)

    it("is sent as a JSON detail, raised, with any value", function()
      local response = get "http-error-raised"
      assert.equal(409, response.status)
      assert.same({ detail = { why = { 1, 2 } } }, response:json())
    end)

    it("says the status' own phrase without a detail", function()
      local response = get "http-error-plain"
      assert.equal(418, response.status)
      assert.equal("I'm a Teapot", (response:json().detail:gsub("teapot", "Teapot")))
    end)

    it("carries headers", function()
      assert.same({ "Basic", "Bearer" }, get("http-error-headers"):values "www-authenticate")
    end)

    it("is not logged as unhandled", function()
      local before = select(2, get_server():log():gsub("unhandled", ""))
      get "http-error"
      get "http-error-raised"
      local after = select(2, get_server():log():gsub("unhandled", ""))
      assert.equal(before, after)
    end)

    it("is an error's status only", function()
      assert.equal(500, get("http-error-bad").status)
    end)
  end)

  describe("cookies", function()
    it("have safe defaults", function()
      assert.same({ "a=1; Path=/; HttpOnly; SameSite=Lax" }, get("cookie"):values "set-cookie")
    end)

    it("come one per field, with their options", function()
      local values = get("cookie-two"):values "set-cookie"
      assert.equal(2, #values)
      for _, part in ipairs { "^a=1;", "Max%-Age=60", "Path=/x", "Domain=example.com", "Secure",
        "SameSite=Strict", "HttpOnly" } do
        assert.matches(part, values[1])
      end
      assert.equal("b=2; Path=/; SameSite=Lax", values[2])
    end)

    it("go with an error too", function()
      local response = get "cookie-error"
      assert.equal(400, response.status)
      assert.equal(1, #response:values "set-cookie")
    end)

    it("are deleted by an age of none", function()
      assert.matches("^a=;.*Max%-Age=0", get("cookie-delete").headers["set-cookie"])
    end)

    it("cannot be injected", function()
      assert.equal(500, get("cookie-bad").status)
      assert.equal(500, get("cookie-bad-name").status)
      assert.is_nil(get("cookie-bad").headers["set-cookie"])
    end)
  end)

  describe("what cannot be sent", function()
    local function refused(name, logged)
      local client = get_server():connect()
      local at = #get_server():log()
      local response = client:request { path = "/" .. name }
      assert.equal(500, response.status, name)
      assert.same({ detail = "Internal Server Error" }, response:json())
      assert.is_nil(response.headers["x-evil"])
      assert.equal("text", client:request({ path = "/text" }).body)
      support.eventually(function()
        local log = get_server():log():sub(at + 1)
        return log:find(logged) or error(("%s does not match %q"):format(log, logged), 0)
      end)
    end

    for name, logged in pairs {
      ["bad-break"] = "x%-a.*line break",
      ["bad-lf"] = "x%-a.*line break",
      ["bad-cr"] = "x%-a.*line break",
      ["bad-nul"] = "x%-a",
      ["bad-name"] = "x a",
      ["bad-name-colon"] = "x:",
      ["bad-name-empty"] = 'header ""',
      ["bad-name-break"] = "header",
      ["bad-list"] = "x%-a.*line break",
      ["bad-response"] = "x%-a.*line break",
      ["bad-value"] = "x%-b",
      ["bad-headers"] = "headers",
      ["smuggled-headers"] = "x%-evil.*line break",
    } do
      it(("is a header: %s"):format(name), function()
        refused(name, logged)
      end)
    end

    for _, name in ipairs { "bad-status", "bad-status-100", "bad-status-600", "bad-status-half",
      "bad-status-text", "mutated" } do
      it(("is a status: %s"):format(name), function()
        refused(name, "status")
      end)
    end

    it("is a function", function()
      refused("bad-function", "function")
    end)

    it("is a coroutine", function()
      refused("bad-thread", "thread")
    end)

    it("is a future that nobody awaited", function()
      refused("future", "did you forget await%?")
      refused("future-in-table", "did you forget await%?")
    end)

    for name, logged in pairs {
      ["json-function"] = "a%.b.*function",
      ["json-cycle"] = "cycle",
      ["json-utf8"] = "name.*UTF%-8",
      ["json-nan"] = "x.*[nN]a[nN]",
      ["json-inf"] = "x.*[iI]nf",
      ["json-key"] = "keys",
      ["json-deep"] = "deep",
    } do
      it(("is JSON that would be wrong: %s"):format(name), function()
        refused(name, logged)
      end)
    end

    it("is the app's own framing", function()
      for _, name in ipairs { "bad-length", "bad-encoding" } do
        local client = get_server():connect()
        local response = client:request { path = "/" .. name }
        local lengths = response:values "content-length"
        assert.same({ tostring(#response.body) }, lengths)
        assert.is_nil(response.headers["transfer-encoding"])
        assert.equal("text", client:request({ path = "/text" }).body)
      end
    end)
  end)

  describe("an unhandled error", function()
    it("is 500, its text in the log only, with request id and route", function()
      local response = get "raise"
      assert.equal(500, response.status)
      assert.equal('{"detail":"Internal Server Error"}', response.body)
      local log = get_server():wait_log(
        "(unhandled error[^\n]*\n.-an ordinary error.-traceback.-\n)")
      assert.matches("request_id=", log)
      assert.matches("GET /raise", log)
      assert.matches("app.lua:%d+", log)
    end)

    it("may be a table", function()
      assert.equal(500, get("raise-table").status)
    end)
  end)

  it("a large one arrives whole", function()
    assert.equal(("0123456789"):rep(300000), get("large").body)
  end)

  it("HTTP/1.0 gets the same, and the connection closes", function()
    local client = get_server():connect()
    client:send "GET /table HTTP/1.0\r\nHost: a\r\n\r\n"
    local response = client:response()
    assert.equal('{"a":1}', response.body)
    assert.is_true(client:closed())
  end)

  it("HTTP/1.0 may ask to keep the connection", function()
    local client = get_server():connect()
    client:send "GET /table HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n"
    assert.equal("keep-alive", client:response().headers.connection)
    client:send "GET /text HTTP/1.0\r\nHost: a\r\n\r\n"
    assert.equal("text", client:response().body)
  end)

  it("Connection: close is obeyed and echoed", function()
    local client = get_server():connect()
    assert.equal("close", client:request({ path = "/text", headers = { Connection = "close" } })
      .headers.connection)
    assert.is_true(client:closed())
  end)
end)

support.describe_server("in development,", { app = app, environment = "development",
  settings = { threads = 1 } }, function(get_server)
    it("the client sees the error with its traceback", function()
      local response = get_server():get "/raise"
      assert.equal(500, response.status)
      assert.matches("an ordinary error", response.body)
    end)
  end)
