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
end)
