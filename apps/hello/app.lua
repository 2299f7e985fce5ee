local fl = require "fasterlua"

local app = fl.app { title = "Hello" }

app:get("/", function()
  return "Hello, World!"
end)

app:get("/{name}", function(req)
  return { hello = req.params.name }
end)

return app
