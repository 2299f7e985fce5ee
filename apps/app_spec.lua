local support = require "support"

support.describe_server("the welcome app", { dir = "apps" }, function(get_server)
  it("greets at the root, beside the other apps", function()
    local response = get_server():get("/")
    assert.equal(200, response.status)
    assert.equal("text/html; charset=utf-8", response.headers["content-type"])
    assert.matches("fasterlua is running", response.body)
    assert.equal("Hello, World!", get_server():get("/hello/").body)
  end)

  it("links to every example app, and only to what is there", function()
    local body, linked = get_server():get("/").body, {}
    for target in body:gmatch('href="([^"]*)"') do
      linked[target:match("^[^/]*")] = true
      assert.is_true(get_server():get("/" .. target).status < 400, target)
    end
    for folder in io.popen("ls -d apps/*/"):lines() do
      local name = folder:match("^apps/(.-)/$")
      assert.is_true(linked[name], name .. " is not on the page")
    end
  end)

  it("shows commands for the address at which it was asked", function()
    local server = get_server()
    assert.is_truthy(server:get("/").body:find("curl -T FILE\nhttp://127.0.0.1:" .. server.port
      .. "/files/NAME", 1, true))
    assert.is_truthy(server:get("/", { Host = "a&b" }).body:find("http://a&amp;b/files", 1, true))
  end)
end)
