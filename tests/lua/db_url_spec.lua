local url = require "fasterlua.db.url"

describe("the URL of a database", function()
  it("names the driver", function()
    local schemes = { sqlite = "sqlite", postgres = "postgres", postgresql = "postgres",
      mysql = "mariadb", mariadb = "mariadb" }
    for scheme, driver in pairs(schemes) do
      local text = scheme == "sqlite" and "sqlite:a.db" or scheme .. "://h/a"
      assert.equal(driver, url.read(text).driver)
    end
  end)

  it("of SQLite is a path", function()
    assert.equal("shop.db", url.read("sqlite:shop.db").settings.options.path)
    assert.equal("/var/shop.db", url.read("sqlite:///var/shop.db").settings.options.path)
    assert.equal(":memory:", url.read("sqlite::memory:").settings.options.path)
    local options = url.read("sqlite:a%20b.db?mode=ro").settings.options
    assert.same({ path = "a b.db", mode = "ro" }, options)
  end)

  it("of MariaDB is host, port, user, password, database and options", function()
    local options = url.read("mysql://me:p%40ss@db.example:3307/shop?ssl=true").settings.options
    assert.same({ host = "db.example", port = "3307", user = "me", password = "p@ss",
      database = "shop", ssl = "true" }, options)
    assert.same({ host = "::1", database = "shop" },
      url.read("mysql://[::1]/shop").settings.options)
    assert.same({ socket = "/run/a.sock", user = "me", database = "shop" },
      url.read("mysql://me@/shop?socket=/run/a.sock").settings.options)
  end)

  it("of PostgreSQL goes to its library, but for what is ours", function()
    local target = url.read("postgres://me@h/shop?sslmode=require&pool=3&shared=2&timeout=1s")
    assert.equal("postgres://me@h/shop?sslmode=require", target.settings.url)
    assert.equal(3, target.settings.pool)
    assert.equal(1000, target.settings.timeout)
    assert.equal("2", target.settings.options.shared)
  end)

  it("has a name without the password", function()
    assert.equal("postgres://me@h/shop", url.read("postgres://me:secret@h/shop").settings.name)
    assert.is_nil(url.read("postgres:///a?password=secret").settings.name:find("secret", 1, true))
    for _, text in ipairs { "postgres://me:a/secret@host/a", "mysql://me:a@secret@host/a",
      "postgres:///a?sslpassword=secret" } do
      assert.is_nil(url.read(text).settings.name:find("secret", 1, true), text)
    end
  end)

  it("is overruled by options", function()
    local settings = url.read("postgres://h/a?pool=3",
      { pool = 5, timeout = "500ms", max_result = "1MB" }).settings
    assert.equal(5, settings.pool)
    assert.equal(500, settings.timeout)
    assert.equal(1048576, settings.max_result)
  end)

  local wrong = {
    ["oracle://h/a"] = "no database is reached",
    ["postgre://h/a"] = 'did you mean "postgres"',
    ["nothing"] = "no database is reached",
    ["sqlite:"] = "a path expected",
    ["mysql:shop"] = "//",
    ["mysql://h:x/a"] = "no host with a port",
    ["mysql://h/a?pol=3"] = 'unknown option "pol" of mariadb: did you mean "pool"?',
    ["sqlite:a.db?pool=none"] = 'option "pool" must be an integer from 1 to a million, got none',
    ["sqlite:a.db?pool=1000001"] = 'option "pool" must be an integer from 1 to a million',
    ["sqlite:a.db?timeout=10000000000"] = 'option "timeout" must be seconds',
    ["sqlite:a.db?max_result=0"] = 'option "max_result" must be bytes',
  }
  for text, words in pairs(wrong) do
    it("is refused, saying why: " .. text, function()
      local ok, message = pcall(url.read, text)
      assert.is_false(ok)
      assert.is_truthy(tostring(message):find(words, 1, true), tostring(message))
    end)
  end

  it("never has its password in a message", function()
    local _, message = pcall(url.read, "oracle://me:secret@h/a")
    assert.is_nil(message:find("secret", 1, true))
  end)
end)
