local fake = require "support.fake_core"

describe("response", function()
  local response

  before_each(function()
    fake.install()
    response = require "fasterlua.response"
  end)

  local function refuses(pattern, fn, ...)
    local arguments = { ... }
    local ok, message = pcall(function()
      local result = fn(unpack(arguments))
      return result
    end)
    assert.is_false(ok)
    assert.matches(pattern, message)
    assert.matches("response_spec.lua", message)
  end

  describe("headers", function()
    it("are found whatever their case, and keep their order", function()
      local headers = response.headers { ["X-One"] = "1" }
      headers:add("Vary", "a")
      headers:add("vary", "b")
      assert.equal("1", headers:get "x-one")
      assert.same({ "a", "b" }, headers:get_all "VARY")
      headers:set("VARY", 7)
      assert.same({ "7" }, headers:get_all "vary")
      headers:delete "x-ONE"
      local seen = {}
      for _, name, value in headers:each() do
        seen[#seen + 1] = name .. "=" .. value
      end
      assert.same({ "VARY=7" }, seen)
      assert.is_nil(headers:get "x-one")
    end)

    it("take lists, and refuse what cannot be sent", function()
      assert.same({ "a", "b" }, response.headers({ link = { "a", "b" } }):get_all "Link")
      assert.has_error(function() response.headers { x = "a\nb" } end)
      assert.has_error(function() response.headers { "x" } end)
      assert.has_error(function() response.headers { x = false } end)
    end)
  end)

  it("carries status, headers and cookies", function()
    local made = response.response({ id = 1 }, {
      status = 201,
      headers = { location = "/1" },
      cookies = { a = "b", c = { value = "d", max_age = 1 } },
    })
    assert.equal(201, made.status)
    assert.equal("/1", made.headers:get "Location")
    assert.equal(2, #made.headers:get_all "set-cookie")
    made:delete_cookie "a"
    assert.equal(3, #made.headers:get_all "set-cookie")
    assert.equal(204, response.response().status)
  end)

  it("refuses what is misspelt, naming it and the app's line", function()
    refuses('unknown option "stauts": did you mean "status"', response.response, 1, { stauts = 1 })
    refuses("status must be", response.response, 1, { status = 99 })
    refuses("needs { external", response.redirect, "//evil.example")
    refuses("status from 400", response.http_error, 200)
    refuses("header", response.html, "x", 200, { x = "\n" })
    local made = response.response(1)
    local ok, message = pcall(function() made.boddy = 1 end)
    assert.is_false(ok)
    assert.matches('no field "boddy": did you mean "body"', message)
    made.body, made.stream = nil, nil
  end)

  it("redirects to paths of this host only, unless told otherwise", function()
    local made = response.redirect "/a b?x=1#é"
    assert.equal(307, made.status)
    assert.equal("/a%20b?x=1#%C3%A9", made.headers:get "location")
    assert.equal(303, response.redirect("next", 303).status)
    assert.equal("/%5Cevil", response.redirect("/\\evil").headers:get "location")
    assert.equal("https://example.org/",
      response.redirect("https://example.org/", { external = true }).headers:get "location")
    refuses("external", response.redirect, "https://example.org/")
    refuses("scheme", response.redirect, "javascript:alert(1)", { external = true })
    refuses("control", response.redirect, "/\r\nx")
    refuses("no redirect", response.redirect, "/", 200)
  end)

  it("makes pages and streams with their type", function()
    local page = response.html("<p>", 201)
    assert.equal("text/html; charset=utf-8", page.headers:get "content-type")
    assert.equal("<p>", page.body)
    local stream = response.stream(print, { content_type = "text/csv" })
    assert.equal("text/csv", stream.headers:get "content-type")
    assert.equal(print, stream.stream)
  end)

  it("makes errors with the status' reason", function()
    local err = response.http_error(404)
    assert.equal("Not Found", err.detail)
    assert.equal("404 Not Found", tostring(err))
    assert.is_true(response.is_http_error(err))
  end)

  describe("from what a handler returned", function()
    it("follows the conventions", function()
      assert.equal(204, response.from(nil).status)
      assert.equal(200, response.from("text").status)
      assert.equal(false, response.from(false).body)
      local made = response.from({ 1 }, 201, { x = "y" })
      assert.same({ 201, "y" }, { made.status, made.headers:get "X" })
      local given = response.html "x"
      assert.equal(given, response.from(given))
      assert.equal(202, response.from(given, 202, { ["set-cookie"] = { "a", "b" } }).status)
      assert.equal(2, #given.headers:get_all "set-cookie")
      assert.same({ detail = "gone" }, response.from(response.http_error(410, "gone")).body)
    end)

    it("refuses futures and functions", function()
      fake.run(function()
        local future = require "fasterlua.future"
        local ok, message = pcall(response.from, future.sleep(1))
        assert.is_false(ok)
        assert.matches("did you forget await", message)
      end)
      assert.has_error(function() response.from(print) end)
      assert.has_error(function() response.from("x", "200") end)
    end)
  end)
end)
