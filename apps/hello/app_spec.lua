local support = require "support"

support.describe_server("the hello app", { dir = "apps/hello" }, function(get_server)
  it("greets the world in plain text", function()
    local response = get_server():get("/")
    assert.equal(200, response.status)
    assert.equal("Hello, World!", response.body)
    assert.equal("text/plain; charset=utf-8", response.headers["content-type"])
  end)

  it("greets by name in JSON", function()
    local response = get_server():get("/Ada%20Lovelace")
    assert.equal("application/json", response.headers["content-type"])
    assert.same({ hello = "Ada Lovelace" }, response:json())
  end)
end)
