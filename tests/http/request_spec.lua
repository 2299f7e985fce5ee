-- What a handler sees of a request, and how its body gets there.

local support = require "support"

local sleep = support.process.sleep

local app = [[
local fl = require "fasterlua"
local await = fl.await
local app = fl.app { title = "requests" }

local function fields(req)
  return {
    method = req.method, url = req.url, path = req.path, query = req.query,
    query_string = req.query_string, headers = req.headers, cookies = req.cookies,
    client = req.client, id = req.id, host = req.host, scheme = req.scheme,
    version = req.version, route = req.route,
  }
end

app:get("/fields", fields)
app:get("/fields/{id}", fields)
app:post("/fields", fields)
app:get("/query", function(req) return { last = req.query.a, all = req:query_values("a") } end)
app:get("/header/{name}", function(req)
  return { first = req:header(req.params.name), all = fl.array(req:header_values(req.params.name)),
    joined = req.headers[req.params.name] }
end)
app:get("/cookies", function(req) return req.cookies end)
app:get("/same", function(req)
  return { req.query == req.query, req.headers == req.headers, req.state == req.state,
    req.id == req.id }
end)
app:get("/unknown", function(req) return { value = req.nothing == nil } end)
app:get("/write", function(req)
  req.user = "me"
  req.state.x = 1
  return { req.user, req.state.x }
end)
app:get("/state", function(req)
  local before = req.state.seen
  req.state.seen = true
  return tostring(before)
end)
app:get("/later", function(req)
  await(fl.sleep(0.05))
  return { path = req.path, agent = req.headers["user-agent"], q = req.query.q }
end)
app:get("/over", function(req)
  fl.detach(function()
    await(fl.sleep(0.05))
    local ok, err = pcall(function() return req.headers end)
    fl.log.info("afterwards: " .. tostring(ok) .. " " .. tostring(err))
  end)
  return "gone"
end)

app:post("/text", function(req) return req:text() end)
app:post("/text-twice", function(req) return (req:text() == req:text()) and "same" or "differs" end)
app:post("/late-text", function(req) await(fl.sleep(0.05)) return req:text() end)
app:post("/length", function(req) return { length = #req:text() } end)
app:post("/json", function(req)
  local value = req:json()
  return { kind = value == fl.null and "null" or type(value), value = value }
end)
app:post("/form", function(req) return req:form() end)
app:post("/form-values", function(req) return fl.array(req:form_values("a")) end)
app:post("/chunks", function(req)
  local sizes, total = {}, 0
  for chunk in req:chunks() do
    sizes[#sizes + 1] = #chunk
    total = total + #chunk
  end
  return { total = total, count = #sizes, trailers = req.trailers }
end)
app:post("/first-chunk", function(req)
  for chunk in req:chunks() do return chunk end
end)
app:post("/ignore", function() return "ignored" end)
app:post("/sleepy-ignore", function() await(fl.sleep(0.05)) return "ignored" end)
app:post("/small", { max_body = 10 }, function(req) return req:text() end)
app:post("/big", { max_body = 3 * 1024 * 1024 }, function(req) return { length = #req:text() } end)
app:get("/with-body", function(req) return "got " .. req:text() end)
app:post("/trailers", function(req)
  local before = req.trailers
  req:text()
  return { before = before == nil or next(before) == nil, after = req.trailers }
end)

return app
]]

support.describe_server("a request", { app = app }, function(get_server)
  local function json(path, headers)
    local response = get_server():get(path, headers)
    assert.equal(200, response.status, response.body)
    return response:json()
  end

  local function post(client, path, body)
    return client:request { method = "POST", path = path, body = body }
  end

  describe("has", function()
    it("method, url, path, query and route", function()
      local seen = json "/fields/a%20b?x=1&y=%32"
      assert.equal("GET", seen.method)
      assert.equal("/fields/a%20b?x=1&y=%32", seen.url)
      assert.equal("/fields/a%20b", seen.path)
      assert.equal("x=1&y=%32", seen.query_string)
      assert.same({ x = "1", y = "2" }, seen.query)
      assert.equal("/fields/{id}", seen.route)
    end)

    it("host, scheme and version", function()
      local seen = json "/fields"
      assert.equal("127.0.0.1:" .. get_server().port, seen.host)
      assert.equal("http", seen.scheme)
      assert.equal("1.1", seen.version)
    end)

    it("the version it came with", function()
      local client = get_server():connect()
      client:send "GET /fields HTTP/1.0\r\nHost: a\r\n\r\n"
      assert.equal("1.0", client:response():json().version)
    end)

    it("an empty query without one", function()
      local seen = json "/fields"
      assert.same({}, seen.query)
      assert.equal("", seen.query_string)
    end)

    it("the client's address", function()
      local client = get_server():connect()
      local seen = client:request({ path = "/fields" }):json().client
      assert.equal("127.0.0.1", seen.host)
      local _, port = client.socket:getsockname()
      assert.equal(tonumber(port), seen.port)
    end)

    it("an id of its own", function()
      local one, two = json("/fields").id, json("/fields").id
      assert.matches("^[%w-]+$", one)
      assert.is_true(#one >= 8)
      assert.not_equal(one, two)
    end)

    it("no id from a client that is not trusted", function()
      assert.not_equal("mine", json("/fields", { ["X-Request-ID"] = "mine" }).id)
    end)

    it("no address, scheme or host from a client that is not trusted", function()
      local seen = json("/fields", { ["X-Forwarded-For"] = "1.2.3.4",
        ["X-Forwarded-Proto"] = "https", ["X-Forwarded-Host"] = "evil.example" })
      assert.equal("127.0.0.1", seen.client.host)
      assert.equal("http", seen.scheme)
      assert.not_equal("evil.example", seen.host)
    end)

    it("a table of state that nobody else has", function()
      local client = get_server():connect()
      assert.equal("nil", client:request({ path = "/state" }).body)
      assert.equal("nil", client:request({ path = "/state" }).body)
    end)

    it("the same table however often one looks", function()
      assert.same({ true, true, true, true }, json "/same")
    end)

    it("nil for what it does not have", function()
      assert.is_true(json("/unknown").value)
    end)

    it("room for fields of the app's", function()
      assert.same({ "me", 1 }, json "/write")
    end)

    it("all that also after an await", function()
      local client = get_server():connect()
      client:send("GET /later?q=1 HTTP/1.1\r\nHost: a\r\nUser-Agent: one\r\n\r\n"
        .. "GET /later?q=2 HTTP/1.1\r\nHost: a\r\nUser-Agent: two\r\n\r\n")
      assert.same({ path = "/later", agent = "one", q = "1" }, client:response():json())
      assert.same({ path = "/later", agent = "two", q = "2" }, client:response():json())
    end)

    it("a clear error when it is over", function()
      assert.equal("gone", get_server():get("/over").body)
      get_server():wait_log "afterwards: false .-the request is over"
    end)
  end)

  describe("query", function()
    it("gives the last value of a name, and all of them", function()
      assert.same({ last = "3", all = { "1", "2", "3" } }, json "/query?a=1&a=2&b=9&a=3")
    end)

    it("is decoded, + as a space", function()
      assert.equal("a b+c&\195\169", json("/query?a=a+b%2Bc%26%C3%A9").last)
    end)

    it("takes names without a value", function()
      assert.equal("", json("/query?a").last)
      assert.equal("", json("/query?a=").last)
      assert.equal("=", json("/query?a==").last)
    end)

    it("separates by & only", function()
      assert.equal("1;b=2", json("/query?a=1;b=2").last)
    end)

    it("ignores empty pairs", function()
      assert.same({ last = "1", all = { "1" } }, json "/query?&&a=1&&")
    end)

    it("leaves broken encodings alone", function()
      assert.equal("%zz%4", json("/query?a=%zz%4").last)
    end)

    it("has keys that are no methods", function()
      assert.same({ __index = "1", text = "2" }, json("/fields?__index=1&text=2").query)
    end)

    it("has at most 1,000 fields", function()
      assert.equal(200, get_server():get("/query?" .. ("a=1&"):rep(1000)).status)
      local response = get_server():get("/query?" .. ("a=1&"):rep(1001))
      assert.is_true(response.status >= 400 and response.status < 500, response.status)
    end)
  end)

  describe("headers", function()
    it("are named in lower case", function()
      local seen = json("/fields", { ["X-Mixed-CASE"] = "Value" }).headers
      assert.equal("Value", seen["x-mixed-case"])
    end)

    it("are found whatever the case", function()
      assert.equal("v", json("/header/X-ONE", { ["x-oNe"] = "v" }).first)
    end)

    it("join several values of one name", function()
      local seen = json("/header/x-many", { ["X-Many"] = { "a", "b", "c" } })
      assert.equal("a", seen.first)
      assert.same({ "a", "b", "c" }, seen.all)
      assert.equal("a, b, c", seen.joined)
    end)

    it("are none of that name without it", function()
      assert.same({ all = {} }, json "/header/x-none")
    end)

    it("are trimmed", function()
      local client = get_server():connect()
      client:send "GET /header/x HTTP/1.1\r\nHost: a\r\nX: \t v w \t \r\n\r\n"
      assert.equal("v w", client:response():json().first)
    end)

    it("may be empty", function()
      local client = get_server():connect()
      client:send "GET /header/x HTTP/1.1\r\nHost: a\r\nX:\r\n\r\n"
      assert.same({ first = "", all = { "" }, joined = "" }, client:response():json())
    end)

    it("do not confuse _ with -", function()
      local seen = json("/fields", { X_One = "underscore", ["X-One"] = "hyphen" }).headers
      assert.equal("underscore", seen["x_one"])
      assert.equal("hyphen", seen["x-one"])
    end)

    it("are plain keys", function()
      local seen = json("/fields", { ["__index"] = "a", ["__proto__"] = "b" }).headers
      assert.equal("a", seen.__index)
      assert.equal("b", seen.__proto__)
    end)

    it("may be as many as 100", function()
      local list = {}
      for i = 1, 98 do list[i] = { "x-" .. i, tostring(i) } end
      local seen = json("/fields", list).headers
      assert.equal("1", seen["x-1"])
      assert.equal("98", seen["x-98"])
    end)
  end)

  describe("cookies", function()
    it("are parsed", function()
      assert.same({ a = "1", b = "x=y" }, json("/cookies", { Cookie = "a=1; b=x=y" }))
    end)

    it("lose their quotes", function()
      assert.equal("v", json("/cookies", { Cookie = 'a="v"' }).a)
    end)

    it("are the first of a name", function()
      assert.equal("1", json("/cookies", { Cookie = "a=1; a=2" }).a)
    end)

    it("come in several fields too", function()
      assert.same({ a = "1", b = "2" }, json("/cookies", { Cookie = { "a=1", "b=2" } }))
    end)

    it("are none without the field", function()
      assert.same({}, json "/cookies")
    end)

    it("survive nonsense", function()
      local seen = json("/cookies", { Cookie = ";;; ;=x; lone; a=1;" })
      assert.equal("1", seen.a)
    end)

    local function status_of(cookie)
      return get_server():get("/cookies", { Cookie = cookie }).status
    end

    it("are at most 50", function()
      assert.equal(200, status_of(("a=1; "):rep(49) .. "b=2"))
      local status = status_of(("a=1; "):rep(50) .. "b=2")
      assert.is_true(status >= 400 and status < 500, status)
    end)

    it("are at most 8 KB", function()
      assert.equal(200, status_of("a=" .. ("x"):rep(8000)))
      local status = status_of("a=" .. ("x"):rep(8200))
      assert.is_true(status >= 400 and status < 500, status)
    end)
  end)

  describe("body", function()
    it("is text, any bytes", function()
      local bytes = "\0\1\255 text \r\n\r\n"
      assert.equal(bytes, get_server():post("/text", bytes).body)
    end)

    it("may be empty or absent", function()
      assert.equal("", get_server():post("/text", "").body)
      local client = get_server():connect()
      client:send "POST /text HTTP/1.1\r\nHost: a\r\n\r\n"
      assert.equal("", client:response().body)
    end)

    it("can be asked for twice", function()
      assert.equal("same", get_server():post("/text-twice", "abc").body)
    end)

    it("can be asked for late", function()
      local client = get_server():connect()
      assert.equal("abc", post(client, "/late-text", "abc").body)
    end)

    it("comes with GET too", function()
      local client = get_server():connect()
      assert.equal("got it", client:request({ path = "/with-body", body = "it" }).body)
      assert.equal("got ", client:request({ path = "/with-body" }).body)
    end)

    it("comes in as many pieces as it likes", function()
      local client = get_server():connect()
      local message = "POST /text HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello"
      for i = 1, #message do
        client:send(message:sub(i, i))
        if i % 16 == 0 then sleep(0.001) end
      end
      assert.equal("hello", client:response().body)
      assert.equal("again", post(client, "/text", "again").body)
    end)

    it("comes in chunks, in as many pieces", function()
      local client = get_server():connect()
      local message = "POST /text HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
        .. "3;ext=1\r\nhel\r\n002\r\nlo\r\n0\r\nX-Trailer: t\r\n\r\n"
      for i = 1, #message do
        client:send(message:sub(i, i))
        if i % 16 == 0 then sleep(0.001) end
      end
      assert.equal("hello", client:response().body)
      assert.equal("again", post(client, "/text", "again").body)
    end)

    it("of 1 MB arrives whole", function()
      local bytes = ("0123456789abcdef"):rep(65536)
      assert.equal(1048576, get_server():post("/length", bytes):json().length)
      assert.equal(bytes, get_server():post("/text", bytes).body)
    end)

    it("brings trailers after chunks", function()
      local response = get_server():request { method = "POST", path = "/trailers", chunked = true,
        body = { "a", "b" }, trailers = { ["X-Sum"] = "42" } }
      local seen = response:json()
      assert.equal("42", seen.after["x-sum"])
    end)

    it("pipelined, each request has its own", function()
      local client, parts = get_server():connect(), {}
      for i = 1, 20 do
        local body = ("%d"):format(i):rep(i * 10)
        local framed = i % 2 == 0 and "Content-Length: %d\r\n\r\n%s"
          or "Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n"
        parts[i] = "POST /text HTTP/1.1\r\nHost: a\r\n" .. framed:format(#body, body)
      end
      client:send(table.concat(parts))
      for i, response in ipairs(assert(client:responses(20))) do
        assert.equal(("%d"):format(i):rep(i * 10), response.body)
      end
    end)
  end)

  describe("however the network cuts it", function()
    local parts = {
      "POST /text HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello",
      "GET /later?q=1 HTTP/1.1\r\nHost: a\r\nUser-Agent: one\r\n\r\n",
      "POST /chunks HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
        .. "3;x=y\r\nabc\r\n2\r\nde\r\n0\r\nX-T: 1\r\n\r\n",
      "GET /nowhere HTTP/1.1\r\nHost: a\r\nX-Empty:\r\n\r\n",
      "POST /sleepy-ignore HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n12345",
      "GET /fields/a%20b?x=1 HTTP/1.1\r\nHost: a\r\nCookie: c=1\r\n\r\n",
    }
    local message = table.concat(parts)

    local function check(client)
      local answers = assert(client:responses(#parts))
      assert.equal("hello", answers[1].body)
      assert.same({ path = "/later", agent = "one", q = "1" }, answers[2]:json())
      assert.equal(5, answers[3]:json().total)
      assert.equal("1", answers[3]:json().trailers["x-t"])
      assert.equal(404, answers[4].status)
      assert.equal("ignored", answers[5].body)
      local fields = answers[6]:json()
      assert.same({ "/fields/a%20b?x=1", "1", "1" }, { fields.url, fields.query.x,
        fields.cookies.c })
    end

    -- Sends on several connections at once, so that the pauses cost little.
    local function send_cut(cuts_of, count)
      local clients, cuts, most = {}, {}, 0
      for i = 1, count do
        clients[i], cuts[i] = get_server():connect(), cuts_of(i)
        most = math.max(most, #cuts[i])
      end
      for round = 1, most + 1 do
        for i = 1, count do
          local from, to = cuts[i][round - 1] or 0, cuts[i][round] or #message
          if round <= #cuts[i] + 1 then clients[i]:send(message:sub(from + 1, to)) end
        end
        sleep(0.003)
      end
      for i = 1, count do check(clients[i]) end
      get_server():close_clients()
    end

    it("in two, at any place", function()
      for first = 1, #message - 1, 64 do
        send_cut(function(i) return { first + i - 1 } end, math.min(64, #message - first))
      end
    end)

    it("in many", function()
      math.randomseed(7)
      for _ = 1, 4 do
        send_cut(function()
          local cuts, at = {}, math.random(1, 20)
          while at < #message do
            cuts[#cuts + 1] = at
            at = at + math.random(1, 40)
          end
          return cuts
        end, 32)
      end
    end)
  end)

  describe("a body that nobody reads", function()
    local function then_next(path, body, fields)
      local client = get_server():connect()
      client:send(("POST %s HTTP/1.1\r\nHost: a\r\n%s\r\n"):format(path, fields))
      client:send(body)
      assert.equal("ignored", client:response().body)
      assert.equal("next", post(client, "/text", "next").body)
    end

    it("is dropped", function()
      then_next("/ignore", "12345", "Content-Length: 5\r\n")
      then_next("/sleepy-ignore", "12345", "Content-Length: 5\r\n")
    end)

    it("is dropped in chunks", function()
      then_next("/ignore", "5\r\n12345\r\n0\r\nX: y\r\n\r\n", "Transfer-Encoding: chunked\r\n")
      then_next("/sleepy-ignore", "5\r\n12345\r\n0\r\n\r\n", "Transfer-Encoding: chunked\r\n")
    end)

    it("is dropped when it is large", function()
      local size = 200 * 1024
      then_next("/ignore", ("x"):rep(size), ("Content-Length: %d\r\n"):format(size))
      then_next("/sleepy-ignore", ("x"):rep(size), ("Content-Length: %d\r\n"):format(size))
    end)

    it("is dropped although it comes later than the answer", function()
      local client = get_server():connect()
      client:send "POST /ignore HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n"
      assert.equal("ignored", client:response().body)
      client:send "GET /"
      assert.equal(200, client:request({ path = "/state" }).status)
    end)

    it("is dropped where there is no route", function()
      local client = get_server():connect()
      assert.equal(404, post(client, "/nowhere", "GET / HTTP/1.1").status)
      assert.equal("next", post(client, "/text", "next").body)
    end)

    it("is dropped after its first piece was read", function()
      local client = get_server():connect()
      local response = client:request { method = "POST", path = "/first-chunk", chunked = true,
        body = { "one", ("x"):rep(100000), "two" } }
      assert.equal(200, response.status)
      assert.equal("next", post(client, "/text", "next").body)
    end)
  end)

  describe("json()", function()
    local function post_json(text)
      return get_server():post("/json", text)
    end

    it("decodes any value", function()
      assert.same({ kind = "table", value = { a = { 1, 2.5, true, "\195\169" } } },
        post_json('{"a":[1,2.5,true,"\\u00e9"]}'):json())
      assert.equal("number", post_json("1"):json().kind)
      assert.equal("string", post_json('"x"'):json().kind)
      assert.equal("boolean", post_json("true"):json().kind)
      assert.equal("null", post_json("null"):json().kind)
    end)

    it("does not mind the content type", function()
      assert.equal(200, get_server():post("/json", "1", { ["Content-Type"] = "text/plain" }).status)
    end)

    it("gives back what it got", function()
      for _, text in ipairs { "[]", "{}", '[1,[],{}]', "9007199254740993", "1763754000123456",
        "0.1", '"\\u0000"', "null", '[null]' } do
        assert.matches('"value":' .. text:gsub("%p", "%%%0") .. "[,}]", post_json(text).body)
      end
    end)

    for _, wrong in ipairs { "", "{", "nope", "[1,]", '{"a":1}x', "{'a':1}", "01", "NaN", "1.",
      '"\255"', '"\1"', '{"a":1}\0', "\239\187\191{}", '"\\ud800"', "[1 2]", "+1", "// c\n1" } do
      it(("answers 422 to %q"):format(wrong), function()
        local response = post_json(wrong)
        assert.equal(422, response.status)
        local fault = response:json().detail[1]
        assert.equal("json_invalid", fault.type)
        assert.same("body", fault.loc[1])
        assert.is_string(fault.msg)
      end)
    end

    it("answers 422 to what is too deep", function()
      assert.equal(200, post_json(("["):rep(90) .. ("]"):rep(90)).status)
      assert.equal(422, post_json(("["):rep(97) .. ("]"):rep(97)).status)
      assert.equal(422, post_json(("["):rep(500000)).status)
    end)
  end)

  describe("form()", function()
    local urlencoded = { ["Content-Type"] = "application/x-www-form-urlencoded" }

    it("decodes", function()
      assert.same({ a = "1 2", b = "&=", c = "" },
        get_server():post("/form", "a=1+2&b=%26%3D&c", urlencoded):json())
    end)

    it("takes a charset, and any case", function()
      local response = get_server():post("/form", "a=1",
        { ["Content-Type"] = "Application/X-WWW-Form-URLencoded; charset=UTF-8" })
      assert.same({ a = "1" }, response:json())
    end)

    it("gives all values of a field", function()
      assert.same({ "1", "2" }, get_server():post("/form-values", "a=1&b=3&a=2", urlencoded):json())
    end)

    it("answers 415 to other types", function()
      assert.equal(415, get_server():post("/form", "a=1").status)
      assert.equal(415, get_server():post("/form", "{}", { ["Content-Type"] = "application/json" })
        .status)
      assert.equal(415, get_server():post("/form", "a=1",
        { ["Content-Type"] = "application/x-www-form-urlencodedx" }).status)
    end)

    it("has at most 1,000 fields", function()
      assert.equal(200, get_server():post("/form", ("a=1&"):rep(1000), urlencoded).status)
      local status = get_server():post("/form", ("a=1&"):rep(1001), urlencoded).status
      assert.is_true(status >= 400 and status < 500, status)
    end)
  end)

  describe("chunks()", function()
    it("gives the body piece by piece", function()
      local client = get_server():connect()
      client:send "POST /chunks HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
      for _ = 1, 3 do
        client:send "5\r\nhello\r\n"
        sleep(0.02)
      end
      client:send "0\r\nX-T: 1\r\n\r\n"
      local seen = client:response():json()
      assert.equal(15, seen.total)
      assert.is_true(seen.count >= 3)
      assert.equal("1", seen.trailers["x-t"])
    end)

    it("gives nothing for an empty body", function()
      assert.equal(0, get_server():post("/chunks", ""):json().count)
    end)
  end)

  describe("limits", function()
    it("refuse a body above 1 MB by 413 with a JSON detail", function()
      local response = get_server():post("/text", ("x"):rep(1048577))
      assert.equal(413, response.status)
      assert.is_string(response:json().detail)
    end)

    it("are lowered and raised by max_body", function()
      assert.equal("1234567890", get_server():post("/small", "1234567890").body)
      assert.equal(413, get_server():post("/small", "12345678901").status)
      assert.equal(2097152, get_server():post("/big", ("x"):rep(2097152)):json().length)
    end)

    it("count chunks as they come", function()
      local response = get_server():request { method = "POST", path = "/small", chunked = true,
        body = { "12345", "67890", "1" } }
      assert.equal(413, response.status)
    end)

    it("refuse before the body is sent", function()
      local client = get_server():connect()
      client:send "POST /small HTTP/1.1\r\nHost: a\r\nContent-Length: 11\r\n\r\n"
      assert.equal(413, client:response().status)
    end)

    it("refuse instead of 100 Continue", function()
      local client = get_server():connect()
      client:send("POST /small HTTP/1.1\r\nHost: a\r\nContent-Length: 11\r\n"
        .. "Expect: 100-continue\r\n\r\n")
      assert.equal(413, client:response().status)
    end)
  end)

  describe("Expect: 100-continue", function()
    local function expect(path, size)
      local client = get_server():connect()
      client:send(("POST %s HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n"
        .. "Expect: 100-continue\r\n\r\n"):format(path, size))
      return client
    end

    it("is answered when the handler reads the body", function()
      local client = expect("/text", 5)
      assert.equal(100, client:response().status)
      client:send "hello"
      assert.equal("hello", client:response().body)
      assert.equal(200, client:request({ path = "/state" }).status)
    end)

    it("is answered when it reads late, and once", function()
      local client = expect("/late-text", 5)
      assert.equal(100, client:response().status)
      client:send "he"
      sleep(0.02)
      client:send "llo"
      assert.equal("hello", client:response().body)
    end)

    it("is answered for chunks()", function()
      local client = expect("/chunks", 5)
      assert.equal(100, client:response().status)
      client:send "hello"
      assert.equal(5, client:response():json().total)
    end)

    it("is not answered when the handler does not", function()
      local client = expect("/ignore", 5)
      assert.equal("ignored", client:response().body)
    end)

    it("is not answered where there is no route", function()
      assert.equal(404, expect("/nowhere", 5):response().status)
      assert.equal(405, expect("/query", 5):response().status)
    end)

    it("is not answered when the body is there already", function()
      local client = get_server():connect()
      client:send("POST /text HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n"
        .. "Expect: 100-continue\r\n\r\nhello")
      assert.equal("hello", client:response().body)
    end)

    it("is not answered without a body to come", function()
      local client = expect("/text", 0)
      assert.equal(200, client:response().status)
    end)

    it("is not understood by HTTP/1.0", function()
      local client = get_server():connect()
      client:send("POST /text HTTP/1.0\r\nHost: a\r\nContent-Length: 5\r\n"
        .. "Expect: 100-continue\r\n\r\n")
      assert.is_nil(client:receive(nil, 0.05))
      client:send "hello"
      assert.equal("hello", client:response().body)
    end)

    it("is refused with 417 when it expects something else", function()
      local client = get_server():connect()
      client:send "POST /text HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nExpect: miracles\r\n\r\n"
      local status = client:response().status
      assert.is_true(status == 417 or status == 200, status) -- RFC 9110 10.1.1: MAY
    end)
  end)
end)

support.describe_server("behind a trusted proxy, a request",
  { app = app, flags = { "--proxy-headers" } }, function(get_server)
    it("has the client's address, scheme, host and id", function()
      local seen = get_server():get("/fields", { ["X-Forwarded-For"] = "1.2.3.4",
        ["X-Forwarded-Proto"] = "https", ["X-Request-ID"] = "abc-123" }):json()
      assert.equal("1.2.3.4", seen.client.host)
      assert.equal("https", seen.scheme)
      assert.equal("abc-123", seen.id)
    end)

    it("does not believe what the client itself put before", function()
      local seen = get_server():get("/fields", { ["X-Forwarded-For"] = "9.9.9.9, 1.2.3.4" }):json()
      assert.equal("1.2.3.4", seen.client.host)
    end)
  end)

support.describe_server("over a Unix socket, a request", { app = app, uds = true },
  function(get_server)
    it("has a client without a port", function()
      local seen = get_server():get("/fields"):json()
      assert.equal("GET", seen.method)
      assert.is_table(seen.client)
    end)
  end)
