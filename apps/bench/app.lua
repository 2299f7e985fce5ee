-- The four routes that framework benchmarks measure: fixed text, JSON out, a path parameter, JSON
-- in and out. `make bench` compares them with the same routes of other servers.
local fl = require "fasterlua"

local app = fl.app { title = "Bench", version = "1.0.0" }

app:get("/plaintext", function()
  return "Hello, World!"
end)

app:get("/json", function()
  return { message = "Hello, World!" }
end)

app:get("/user/{id}", function(req)
  return "user " .. req.params.id
end)

app:post("/echo", function(req)
  return req:json()
end)

return app
