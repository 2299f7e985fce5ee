-- Which handler answers which path, and what the server says when none does.

local support = require "support"

local app = [[
local fl = require "fasterlua"
local app = fl.app { title = "routing" }

local function kind(name)
  return function(req)
    local value = req.params[name]
    return { kind = type(value), value = value, text = tostring(value) }
  end
end

local function says(text)
  return function() return text end
end

app:get("/", says "root")
app:get("/text/{id}", kind "id")
app:get("/int/{id:int}", kind "id")
app:get("/number/{x:number}", kind "x")
app:get("/uuid/{u:uuid}", kind "u")
app:get("/files/{rest:path}", kind "rest")
app:get("/two/{a}/and/{b:int}", function(req) return { req.params.a, req.params.b } end)

app:get("/order/me", says "static")
app:get("/order/{id:int}", says "int")
app:get("/order/{x:number}", says "number")
app:get("/order/{u:uuid}", says "uuid")
app:get("/order/{id}", says "text")
app:get("/order/{rest:path}", says "rest")

app:get("/back/static/only", says "static")
app:get("/back/{id}/other", function(req) return "other of " .. req.params.id end)

app:get("/methods", says "get")
app:post("/methods", says "post")
app:delete("/methods", says "delete")
app:put("/write-only", says "put")
app:get("/own-head", says "get")
app:head("/own-head", function() return nil, 200, { ["x-own"] = "head" } end)
app:get("/own-options", says "get")
app:options("/own-options", says "my options")
app:patch("/patched", says "patch")
app:route({ "GET", "POST" }, "/both", function(req) return req.method end)

app:get("/plain", says "plain")
app:get("/folder/", says "folder")
app:get("/pair", says "pair")
app:get("/pair/", says "pair/")
app:post("/posted", says "posted")

app:get("/caf\195\169", says "a coffee")
app:get("/a b", says "a space")

local inner = fl.router { prefix = "/inner" }
inner:get("", says "inner root")
inner:get("/leaf/{id:int}", function(req) return "leaf " .. req.params.id end)
local outer = fl.router "/outer"
outer:include(inner)
outer:include(inner, { prefix = "/again" })
outer:get("/own", says "own")
app:include(outer)

app:get("/named/{id:int}/{rest:path}", { name = "named" }, says "named")
app:get("/url-for", function()
  return app:url_for("named", { id = 7, rest = "a b/c" }, { q = "x&y", n = 1 })
end)
app:get("/url-for-wrong", function() return app:url_for("name", {}) end)

app:get("/params-raw", function(req) return tostring(next(req.params)) end)

return app
]]

support.describe_server("routing", { app = app }, function(get_server)
  local function body_of(path)
    local response = get_server():get(path)
    assert.equal(200, response.status, path .. " answers " .. response.status)
    return response.body
  end

  local function status_of(path, method)
    return get_server():request({ path = path, method = method }).status
  end

  describe("parameters", function()
    local function value_of(path)
      return get_server():get(path):json()
    end

    it("are text without a type", function()
      assert.same({ kind = "string", value = "7", text = "7" }, value_of "/text/7")
      assert.equal("a.b-c_~", value_of("/text/a.b-c_~").value)
    end)

    it("are not empty", function()
      assert.equal(404, status_of "/text/")
    end)

    it("do not span segments", function()
      assert.equal(404, status_of "/text/a/b")
    end)

    it("of type int are numbers", function()
      assert.same({ kind = "number", value = 7, text = "7" }, value_of "/int/7")
      assert.equal(-7, value_of("/int/-7").value)
      assert.matches('"value":9007199254740992[,}]', body_of "/int/9007199254740992")
    end)

    it("of type int keep all 64 bits", function()
      assert.equal("cdata", value_of("/int/9223372036854775807").kind)
      assert.matches('"value":9223372036854775807[,}]', body_of "/int/9223372036854775807")
      assert.matches('"value":%-9223372036854775808[,}]', body_of "/int/-9223372036854775808")
      assert.matches('"value":9007199254740993[,}]', body_of "/int/9007199254740993")
    end)

    for _, wrong in ipairs { "x", "1.5", "1e3", "0x10", "", "+1", "-", "9223372036854775808",
      "-9223372036854775809", "1_000", "%201", "1%20", "\217\161" } do
      it(("of type int are not %q"):format(wrong), function()
        local path = "/int/" .. wrong:gsub("[\128-\255]", function(c)
          return ("%%%02X"):format(c:byte())
        end)
        assert.equal(wrong == "" and 404 or 422, status_of(path))
      end)
    end

    it("of type number are doubles", function()
      assert.equal(1.5, value_of("/number/1.5").value)
      assert.equal(-0.25, value_of("/number/-0.25").value)
      assert.equal(1e10, value_of("/number/1e10").value)
      assert.equal(3, value_of("/number/3").value)
    end)

    for _, wrong in ipairs { "nan", "inf", "1e999", "0x1p3", "1,5", "--1", "." } do
      it(("of type number are not %q"):format(wrong), function()
        local status = status_of("/number/" .. wrong)
        -- "." is a dot segment: the path is then "/number/"
        assert.equal(wrong == "." and 404 or 422, status)
      end)
    end

    it("of type uuid are 32 hexadecimal digits in five groups", function()
      local uuid = "123e4567-e89b-12d3-a456-426614174000"
      assert.equal(uuid, value_of("/uuid/" .. uuid).value)
      assert.equal(422, status_of("/uuid/" .. uuid:sub(1, -2)))
      assert.equal(422, status_of("/uuid/" .. uuid:gsub("%-", "+")))
      assert.equal(422, status_of("/uuid/" .. uuid:gsub("e", "g")))
    end)

    it("of type path keep their slashes and may be empty", function()
      assert.equal("a/b/c.txt", value_of("/files/a/b/c.txt").value)
      assert.equal("", value_of("/files/").value)
      assert.equal("a//b/", value_of("/files/a//b/").value)
    end)

    it("come several in one path", function()
      assert.same({ "x", 5 }, get_server():get("/two/x/and/5"):json())
    end)

    it("are an empty table without any", function()
      assert.equal("nil", body_of "/params-raw")
    end)
  end)

  describe("a parameter of the wrong type", function()
    it("is described as FastAPI does", function()
      local response = get_server():get("/int/abc")
      assert.equal(422, response.status)
      assert.equal("application/json", response.headers["content-type"])
      assert.same({ detail = { {
        type = "int_parsing", loc = { "path", "id" }, input = "abc",
        msg = "Input should be a valid integer, unable to parse string as an integer",
      } } }, response:json())
    end)

    it("is quoted safely", function()
      local response = get_server():get("/int/%22%0A%3C")
      assert.equal(422, response.status)
      assert.equal('"\n<', response:json().detail[1].input)
    end)

    it("is named among good ones", function()
      local fault = get_server():get("/two/x/and/y"):json().detail[1]
      assert.same({ "path", "b" }, fault.loc)
    end)

    it("does not matter when another route fits", function()
      assert.equal("text", body_of "/order/abc")
    end)
  end)

  describe("precedence", function()
    for path, expected in pairs {
      ["/order/me"] = "static",
      ["/order/12"] = "int",
      ["/order/1.5"] = "number",
      ["/order/123e4567-e89b-12d3-a456-426614174000"] = "uuid",
      ["/order/you"] = "text",
      ["/order/you/and/me"] = "rest",
      ["/order/me/"] = "rest",
    } do
      it(("finds %s for %s"):format(expected, path), function()
        assert.equal(expected, body_of(path))
      end)
    end

    it("goes back when the better beginning has no end", function()
      assert.equal("static", body_of "/back/static/only")
      assert.equal("other of static", body_of "/back/static/other")
    end)
  end)

  describe("a path without a route", function()
    it("gets 404 with a JSON detail", function()
      local response = get_server():get("/nowhere")
      assert.equal(404, response.status)
      assert.equal("application/json", response.headers["content-type"])
      assert.same({ detail = "Not Found" }, response:json())
    end)

    it("gets 404 whatever the method", function()
      for _, method in ipairs { "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD" } do
        assert.equal(404, status_of("/nowhere", method), method)
      end
    end)

    it("is compared with its case", function()
      assert.equal(404, status_of "/Plain")
    end)

    it("is not served by a longer or shorter one", function()
      assert.equal(404, status_of "/plain/more")
      assert.equal(404, status_of "/outer")
      assert.equal(404, status_of "/plai")
    end)
  end)

  describe("a method without a route", function()
    it("gets 405 with Allow and a JSON detail", function()
      local response = get_server():request { path = "/methods", method = "PATCH" }
      assert.equal(405, response.status)
      assert.equal("GET, HEAD, POST, DELETE, OPTIONS", response.headers.allow)
      assert.same({ detail = "Method Not Allowed" }, response:json())
    end)

    it("is not offered HEAD without GET", function()
      local response = get_server():get "/write-only"
      assert.equal(405, response.status)
      assert.equal("PUT, OPTIONS", response.headers.allow)
    end)

    it("keeps the connection", function()
      local client = get_server():connect()
      assert.equal(405, client:request({ path = "/methods", method = "PUT", body = "x" }).status)
      assert.equal(200, client:request({ path = "/methods" }).status)
    end)
  end)

  describe("methods", function()
    it("have handlers of their own", function()
      assert.equal("get", body_of "/methods")
      assert.equal("post", get_server():post("/methods").body)
      assert.equal("delete", get_server():request({ path = "/methods", method = "DELETE" }).body)
      assert.equal("patch", get_server():request({ path = "/patched", method = "PATCH" }).body)
    end)

    it("can share one", function()
      assert.equal("GET", body_of "/both")
      assert.equal("POST", get_server():post("/both").body)
    end)
  end)

  describe("OPTIONS", function()
    it("says what a path allows, without a body", function()
      local response = get_server():request { path = "/methods", method = "OPTIONS" }
      assert.equal(204, response.status)
      assert.equal("GET, HEAD, POST, DELETE, OPTIONS", response.headers.allow)
      assert.equal("", response.body)
    end)

    it("is left to a route of the app's", function()
      local response = get_server():request { path = "/own-options", method = "OPTIONS" }
      assert.equal("my options", response.body)
    end)

    it("may ask about the whole server", function()
      local response = get_server():request { path = "*", method = "OPTIONS" }
      assert.equal(204, response.status)
    end)
  end)

  describe("HEAD", function()
    it("is answered by GET without the body", function()
      local client = get_server():connect()
      local get = client:request { path = "/text/7" }
      local head = client:request { path = "/text/7", method = "HEAD" }
      assert.equal(200, head.status)
      assert.equal(get.headers["content-length"], head.headers["content-length"])
      assert.equal(get.headers["content-type"], head.headers["content-type"])
      assert.equal("", head.body)
      assert.equal(200, client:request({ path = "/plain" }).status)
    end)

    it("can have a handler of its own", function()
      local response = get_server():request { path = "/own-head", method = "HEAD" }
      assert.equal("head", response.headers["x-own"])
      assert.equal("get", body_of "/own-head")
    end)

    it("has no body with errors either", function()
      local client = get_server():connect()
      for path, status in pairs { ["/nowhere"] = 404, ["/int/x"] = 422, ["/write-only"] = 405 } do
        assert.equal(status, client:request({ path = path, method = "HEAD" }).status)
      end
      assert.equal(200, client:request({ path = "/plain" }).status)
    end)
  end)

  describe("a final slash", function()
    local function location_of(path, method)
      local response = get_server():request { path = path, method = method }
      assert.equal(307, response.status)
      return response.headers.location
    end

    it("too much redirects", function()
      assert.equal("/plain", location_of "/plain/")
    end)

    it("too few redirects", function()
      assert.equal("/folder/", location_of "/folder")
    end)

    it("keeps the query", function()
      assert.equal("/plain?a=1&b=%20x", location_of "/plain/?a=1&b=%20x")
    end)

    it("keeps method and body by 307", function()
      assert.equal("/posted", location_of("/posted/", "POST"))
    end)

    it("distinguishes two routes", function()
      assert.equal("pair", body_of "/pair")
      assert.equal("pair/", body_of "/pair/")
    end)

    it("stays encoded as it came", function()
      assert.equal("/text/a%20b", location_of "/text/a%20b/")
    end)

    it("never leads to another host", function()
      for _, path in ipairs { "//evil.example/", "/%2Fevil.example/", "//evil.example/plain/" } do
        local response = get_server():request { path = path }
        local location = response.headers.location or ""
        assert.is_nil(location:match "^//", path)
        assert.is_nil(location:match "^%w+:", path)
      end
    end)
  end)

  describe("percent-encoding", function()
    it("is decoded in parameters", function()
      assert.equal("a b/c", get_server():get("/text/a%20b%2Fc"):json().value)
      assert.equal("+", get_server():get("/text/+"):json().value)
      assert.equal("\195\169", get_server():get("/text/%c3%a9"):json().value)
    end)

    it("is decoded once only", function()
      assert.equal("%41", get_server():get("/text/%2541"):json().value)
    end)

    it("is decoded before static segments are compared", function()
      assert.equal("plain", body_of "/%70lain")
      assert.equal("a coffee", body_of "/caf%C3%A9")
      assert.equal("a space", body_of "/a%20b")
    end)

    it("of a slash never separates", function()
      assert.equal(404, status_of "/outer%2Fown")
    end)

    for _, wrong in ipairs { "%", "%4", "%zz", "%00", "%ff", "%c0%af", "%ed%a0%80" } do
      it(("is refused with 400 as %s"):format(wrong), function()
        assert.equal(400, status_of("/text/" .. wrong))
      end)
    end
  end)

  describe("dot segments", function()
    it("are resolved", function()
      assert.equal("plain", body_of "/./plain")
      assert.equal("plain", body_of "/a/../plain")
      assert.equal("plain", body_of "/a/b/../../plain")
    end)

    it("are resolved when encoded", function()
      assert.equal("plain", body_of "/a/%2e%2E/plain")
      assert.equal("plain", body_of "/%2e/plain")
    end)

    it("do not climb above the root", function()
      assert.equal("plain", body_of "/../../plain")
    end)

    it("never reach a catch-all", function()
      for _, path in ipairs { "/files/../../etc", "/files/a%2F..%2F..%2Fetc", "/files/..%2Fetc",
        "/files/%2e%2e%2fetc" } do
        local response = get_server():get(path)
        local value = response.status == 200 and response:json().value or ""
        assert.is_nil(value:find("..", 1, true), path)
      end
    end)

    it("are ordinary with three dots", function()
      assert.equal("...", get_server():get("/text/..."):json().value)
    end)
  end)

  describe("routers", function()
    it("have a prefix", function()
      assert.equal("own", body_of "/outer/own")
    end)

    it("nest", function()
      assert.equal("leaf 5", body_of "/outer/inner/leaf/5")
      assert.equal("inner root", body_of "/outer/inner")
    end)

    it("can be included again under another prefix", function()
      assert.equal("leaf 6", body_of "/outer/again/inner/leaf/6")
    end)
  end)

  describe("url_for", function()
    it("builds an encoded path with its query", function()
      assert.equal("/named/7/a%20b/c?n=1&q=x%26y", body_of "/url-for")
    end)

    it("leads back to its route", function()
      assert.equal("named", body_of(body_of "/url-for"))
    end)

    it("suggests a name for one it does not know", function()
      assert.equal(500, status_of "/url-for-wrong")
      get_server():wait_log 'url_for%("name"%).-no such route.-named'
    end)
  end)

  it("takes the absolute form of a target", function()
    local client = get_server():connect()
    client:send("GET http://example.com/plain?x=1 HTTP/1.1\r\nHost: example.com\r\n\r\n")
    assert.equal("plain", client:response().body)
  end)

  it("takes the absolute form without a path", function()
    local client = get_server():connect()
    client:send("GET http://example.com HTTP/1.1\r\nHost: example.com\r\n\r\n")
    assert.equal("root", client:response().body)
  end)
end)

local function mounted(name)
  return ([[
local fl = require "fasterlua"
local app = fl.app { title = %q }
app:get("/", function() return %q end)
app:get("/path", function(req) return { path = req.path, url = req.url, route = req.route } end)
app:get("/folder/", function() return "folder" end)
app:get("/item/{id:int}", { name = "item" }, function() return app:url_for("item", { id = 1 }) end)
app:get("/global", function()
  visits = (visits or 0) + 1
  return tostring(visits)
end)
app:get("/module", function() return require("own").name end)
return app
]]):format(name, name)
end

local several = {
  ["app.lua"] = mounted "at the root",
  ["own.lua"] = 'return { name = "module at the root" }',
  ["shop/app.lua"] = mounted "shop",
  ["shop/own.lua"] = 'return { name = "module of shop" }',
  ["shopping/app.lua"] = mounted "shopping",
  ["shopping/own.lua"] = 'return { name = "module of shopping" }',
}

support.describe_server("several apps", { app = several, settings = { threads = 1 } },
  function(get_server)
    local function body_of(path)
      return get_server():get(path).body
    end

    it("are served under their names", function()
      assert.equal("shop", body_of "/shop/")
      assert.equal("shopping", body_of "/shopping/")
      assert.equal("at the root", body_of "/")
    end)

    it("are redirected to from the bare prefix, with the query", function()
      local response = get_server():get "/shop?a=1"
      assert.equal(307, response.status)
      assert.equal("/shop/?a=1", response.headers.location)
    end)

    it("end at their prefix's segment", function()
      assert.equal(404, get_server():get("/shopp").status)
      assert.equal(404, get_server():get("/shop.txt").status)
    end)

    it("see the whole path, and match the rest of it", function()
      local seen = get_server():get("/shop/path?x=1"):json()
      assert.equal("/shop/path", seen.path)
      assert.equal("/shop/path?x=1", seen.url)
    end)

    it("redirect within their prefix", function()
      assert.equal("/shop/folder/", get_server():get("/shop/folder").headers.location)
      assert.equal("/shop/path", get_server():get("/shop/path/").headers.location)
    end)

    it("build paths with their prefix", function()
      assert.equal("/shop/item/1", body_of "/shop/item/1")
      assert.equal("/item/1", body_of "/item/1")
    end)

    it("do not fall back to the app at the root", function()
      assert.equal(404, get_server():get("/shop/nowhere").status)
    end)

    it("are found after dot segments are resolved and names decoded", function()
      assert.equal("shopping", body_of "/shop/../shopping/")
      assert.equal("at the root", body_of "/shop/../")
      assert.equal("shop", body_of "/%73hop/")
    end)

    it("have modules of their own", function()
      assert.equal("module of shop", body_of "/shop/module")
      assert.equal("module of shopping", body_of "/shopping/module")
    end)

    it("have globals of their own", function()
      assert.equal("1", body_of "/shop/global")
      assert.equal("2", body_of "/shop/global")
      assert.equal("1", body_of "/shopping/global")
    end)
  end)

support.describe_server("behind a proxy that has cut a root path off",
  { app = several, flags = { "--root-path", "/api" } }, function(get_server)
    it("url_for puts it in front", function()
      assert.equal("/api/shop/item/1", get_server():get("/shop/item/1").body)
    end)

    it("redirects put it in front", function()
      assert.equal("/api/shop/path?y=2", get_server():get("/shop/path/?y=2").headers.location)
      assert.equal("/api/shop/", get_server():get("/shop").headers.location)
    end)
  end)

support.describe_server("apps mounted by conf",
  { app = { ["a/app.lua"] = mounted "a", ["b/app.lua"] = mounted "b" },
    settings = { mounts = { ["/"] = "a", ["/deep/b"] = "b" } } }, function(get_server)
    it("are served where it says", function()
      assert.equal("a", get_server():get("/").body)
      assert.equal("b", get_server():get("/deep/b/").body)
      assert.equal("/deep/b/item/1", get_server():get("/deep/b/item/1").body)
      assert.equal(404, get_server():get("/b/").status)
    end)
  end)

support.describe_server("many routes", { app = [[
local fl = require "fasterlua"
local app = fl.app { title = "many" }
for i = 1, 10000 do
  app:get(("/r%d/{id:int}/x"):format(i), function(req) return i .. ":" .. req.params.id end)
end
return app
]] }, function(get_server)
  it("are all found", function()
    local client = get_server():connect()
    for i = 1, 10000, 499 do
      local path = ("/r%d/3/x"):format(i)
      assert.equal(i .. ":3", client:request({ path = path }).body)
    end
  end)
end)
