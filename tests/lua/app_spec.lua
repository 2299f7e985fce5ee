local fake = require "support.fake_core"

describe("an app", function()
  local fl, boot

  before_each(function()
    fake.install()
    package.loaded["fasterlua.guards"] = { install = function() end }
    fl, boot = require "fasterlua", require "fasterlua.boot"
  end)

  local function load(chunk, settings)
    return boot.load(chunk, "shop", settings)
  end

  local function refuses(pattern, fn)
    local ok, message = pcall(fn)
    assert.is_false(ok)
    assert.matches(pattern, message)
    assert.matches("app_spec.lua", message)
  end

  local function hello() return "Hello" end

  it("loads into the routes the server runs, the handlers untouched", function()
    local loaded = load(function()
      local app = fl.app { title = "Shop", version = "2.0" }
      app:get("/", hello)
      app:post("/items/{id:int}", { timeout = 5, name = "items.post" }, hello)
      app:route({ "PUT", "patch" }, "/x", { max_body = 10 }, hello)
      return app
    end)
    assert.same({
      { method = "GET", pattern = "/", handler = hello },
      { method = "POST", pattern = "/items/{id:int}", handler = hello, timeout = 5,
        name = "items.post" },
      { method = "PUT", pattern = "/x", handler = hello, max_body = 10 },
      { method = "PATCH", pattern = "/x", handler = hello, max_body = 10 },
    }, loaded.routes)
    assert.is_nil(loaded.fallback)
    assert.is_nil(loaded.start)
    assert.is_nil(loaded.stop)
  end)

  it("takes times and sizes of routes as settings are written", function()
    local options = { timeout = "1500ms", max_body = "10MB", stuck = "2s", blocked = false }
    local loaded = load(function() return fl.app():get("/", options, hello) end)
    local route = loaded.routes[1]
    assert.same({ 1.5, 10 * 1024 * 1024, 2, false },
      { route.timeout, route.max_body, route.stuck, route.blocked })
    assert.equal("10MB", options.max_body)
    refuses('option "timeout" must be seconds', function()
      fl.app():get("/", { timeout = "soon" }, hello)
    end)
    refuses('option "max_body" must be', function()
      fl.app():get("/", { max_body = "10XB" }, hello)
    end)
  end)

  it("includes routers with their prefixes, nested and more than once", function()
    local loaded = load(function()
      local app, items, parts = fl.app(), fl.router { prefix = "/items" }, fl.router "/parts/"
      app:include(items)
      app:include(items, { prefix = "/v2" })
      items:get("", hello):include(parts)
      parts:get("/{id}", hello)
      return app
    end)
    local patterns = {}
    for index, route in ipairs(loaded.routes) do
      patterns[index] = route.pattern
    end
    assert.same({ "/items", "/items/parts/{id}", "/v2/items", "/v2/items/parts/{id}" }, patterns)
  end)

  it("wraps the routes of a router in its middlewares, inside the app's", function()
    local order = {}
    local function trace(name)
      return function(req, next)
        order[#order + 1] = name
        return next(req)
      end
    end
    local loaded = load(function()
      local app, items = fl.app(), fl.router "/items"
      app:include(items):get("/", hello)
      items:use(trace "items"):get("/", hello)
      app:use(trace "first"):use(trace "second")
      return app
    end)
    assert.equal("Hello", fake.run(loaded.routes[1].handler, {}).body)
    assert.same({ "first", "second", "items" }, order)
    fake.run(loaded.routes[2].handler, {})
    assert.same({ "first", "second" }, { order[4], order[5] })
    assert.equal(404, fake.run(loaded.fallback, {}, 404, "Not Found").status)
    assert.equal(7, #order)
  end)

  it("answers errors by its handlers, and tells the client more in development", function()
    local function chunk()
      local app = fl.app()
      app:on_error("teapot", function() return "tea", 418 end)
      app:get("/tea", function() error { kind = "teapot" } end)
      app:get("/", function() error "oh" end)
      return app
    end
    local loaded = load(chunk, { environment = "production" })
    assert.equal(418, fake.run(loaded.routes[1].handler, {}).status)
    assert.is_nil(fake.run(loaded.routes[2].handler, {}).body.traceback)
    loaded = load(chunk, { environment = "development" })
    assert.is_string(fake.run(loaded.routes[2].handler, {}).body.traceback)
  end)

  it("runs its hooks in order, and the last ones all, backwards", function()
    local order = {}
    local function note(name) return function() order[#order + 1] = name end end
    local loaded = load(function()
      local app = fl.app()
      app:on_start(function() fl.await(fl.sleep(1)) order[#order + 1] = "a" end)
      app:on_start(note "b"):on_stop(note "c"):on_stop(error):on_stop(note "d")
      return app
    end)
    fake.run(loaded.start)
    fake.run(loaded.stop)
    assert.same({ "a", "b", "d", "c" }, order)
    assert.equal(1, #fake.unhandled)
  end)

  describe("that is wrong", function()
    it("is refused at its line, with a suggestion", function()
      local app = fl.app()
      refuses('route "GET /x": unknown option "timeot": did you mean "timeout"', function()
        app:get("/x", { timeot = 1 }, hello)
      end)
      refuses('option "timeout" must be seconds', function()
        app:get("/x", { timeout = -1 }, hello)
      end)
      refuses("handler must be a function, got nil", function() app:get("/x", {}) end)
      refuses("handler must be a function, got string", function() app:get("/x", "y") end)
      refuses('path must start with "/"', function() app:get("x", hello) end)
      refuses('route "/{id:itn}": unknown parameter type "itn": did you mean "int"', function()
        app:get("/{id:itn}", hello)
      end)
      refuses('type "integer": int, number, uuid and path are known', function()
        app:get("/{id:integer}", hello)
      end)
      refuses("get: call it with a colon, as app:get%(…%)", function() app.get("/x", hello) end)
      refuses("route: call it with a colon", function() app.route("GET", "/x", hello) end)
      refuses("use: call it with a colon", function() app.use(hello) end)
      refuses('unknown method "A B"', function() app:route("A B", "/", hello) end)
      refuses('unknown method "PSOT": did you mean "POST"', function()
        app:route({ "GET", "PSOT" }, "/", hello)
      end)
      refuses('unknown option "titel": did you mean "title"', function() fl.app { titel = "" } end)
      refuses("on_error: a status", function() app:on_error(200, hello) end)
      refuses("use: a function", function() app:use(nil) end)
      refuses("include: a router", function() app:include(fl.app()) end)
      local router = fl.router "/r"
      refuses("include itself", function() router:include(router) end)
      refuses("prefix must be", function() fl.router "r" end)
    end)

    it("does not load", function()
      local function message_of(chunk)
        local ok, message = pcall(load, chunk)
        assert.is_false(ok)
        return message
      end
      assert.matches("^tests/lua/app_spec.lua must return an app.*nothing",
        message_of(function() end))
      assert.matches("same name", message_of(function()
        return fl.app():get("/a", { name = "n" }, hello):get("/b", { name = "n" }, hello)
      end))
      assert.matches('^route "GET /a/{y:int}" %([^)]*app_spec.lua:%d+%): taken already by '
        .. '"/a/{x:int}" %([^)]*app_spec.lua:%d+%)$', message_of(function()
          return fl.app():get("/a/{x:int}", hello):post("/a/{x:int}", hello)
            :get("/a/{y:int}", hello)
        end))
      assert.matches("appears twice", message_of(function()
        return fl.app():get("/{a}/{a}", hello)
      end))
      assert.matches("is no parameter", message_of(function()
        return fl.app():get("/{}", hello)
      end))
    end)
  end)

  describe("builds paths of named routes", function()
    local app

    before_each(function()
      load(function()
        app = fl.app()
        app:get("/items/{id:int}", { name = "item" }, hello)
        app:get("/n/{x:number}", { name = "number" }, hello)
        app:get("/u/{u:uuid}", { name = "uuid" }, hello)
        app:get("/files/{rest:path}", { name = "file" }, hello)
        app:get("/{a}/{b}", { name = "two" }, hello)
        return app
      end, { prefix = "/shop", root_path = "/proxy" })
    end)

    it("with prefix, encoded parameters and query", function()
      assert.equal("/proxy/shop/items/7", app:url_for("item", { id = 7 }))
      assert.equal("/proxy/shop/items/-9007199254740993",
        app:url_for("item", { id = -9007199254740993LL }))
      assert.equal("/proxy/shop/n/0.10000000000000001", app:url_for("number", { x = 0.1 }))
      assert.equal("/proxy/shop/files/a%20b/c", app:url_for("file", { rest = "a b/c" }))
      assert.equal("/proxy/shop/a%2Fb/1", app:url_for("two", { a = "a/b", b = 1 }))
      assert.equal("/proxy/shop/items/1?a=1&b=x%20y&b=2&c=true",
        app:url_for("item", { id = 1 }, { a = 1, b = { "x y", 2 }, c = true }))
      assert.matches("/u/0", app:url_for("uuid", { u = "01234567-89ab-cdef-0123-456789abcdef" }))
    end)

    it("and says what is missing, unknown or of the wrong type", function()
      local function fails(pattern, ...)
        local arguments = { ... }
        refuses(pattern, function()
          local path = app:url_for(unpack(arguments))
          return path
        end)
      end
      fails('url_for%("itme"%): no such route: did you mean "item"', "itme")
      fails('parameter "id" is missing', "item")
      fails('unknown parameter "di": did you mean "id"', "item", { id = 1, di = 2 })
      fails('parameter "id" must be a whole number, got 1.5', "item", { id = 1.5 })
      fails('parameter "x" must be a finite number', "number", { x = 1 / 0 })
      fails('parameter "u" must be a UUID', "uuid", { u = "7" })
      fails('parameter "a" must be', "two", { a = "..", b = 1 })
      fails('parameter "rest" must be', "file", { rest = "a/../b" })
      fails('query "a" must be', "item", { id = 1 }, { a = print })
    end)
  end)

  it("has all of fl's names", function()
    for _, name in ipairs { "app", "router", "await", "async", "spawn", "gather", "race",
      "all_settled", "timeout", "sleep", "shield", "detach", "background", "lock", "semaphore",
      "queue", "event", "html", "redirect", "stream", "response", "http_error", "array", "null",
      "log", "escape_html", "digest", "json", "version" } do
      assert.is_truthy(fl[name], name)
    end
    assert.is_nil(fl.nothing)
  end)
end)
