local support = require "support"

support.describe_server("the bench app", { dir = "apps/bench" }, function(get_server)
  it("answers plain text", function()
    local response = get_server():get("/plaintext")
    assert.equal(200, response.status)
    assert.equal("Hello, World!", response.body)
    assert.equal("13", response.headers["content-length"])
    assert.matches("^text/plain", response.headers["content-type"])
    assert.matches("^%a%a%a, %d%d %a%a%a %d%d%d%d %d%d:%d%d:%d%d GMT$", response.headers.date)
  end)

  it("answers JSON", function()
    local response = get_server():get("/json")
    assert.equal('{"message":"Hello, World!"}', response.body)
    assert.matches("^application/json", response.headers["content-type"])
  end)

  it("takes a parameter from the path", function()
    assert.equal("user 42", get_server():get("/user/42").body)
    assert.equal("user a b", get_server():get("/user/a%20b").body)
  end)

  it("sends JSON back", function()
    local value = { id = 42, name = "fasterlua", tags = { "a", "b" } }
    assert.same(value, get_server():post("/echo", value):json())
  end)

  it("refuses what is not JSON", function()
    local broken = { ["Content-Type"] = "application/json" }
    assert.equal(422, get_server():post("/echo", '{"id":', broken).status)
  end)

  it("answers a pipeline of sixteen in order", function()
    local client, batch = get_server():connect(), {}
    for i = 1, 16 do batch[i] = ("GET /user/%d HTTP/1.1\r\nHost: a\r\n\r\n"):format(i) end
    client:send(table.concat(batch))
    local answers = assert(client:responses(16))
    for i = 1, 16 do assert.equal("user " .. i, answers[i].body) end
  end)
end)
