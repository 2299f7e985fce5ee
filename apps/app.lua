-- The page at "/": what runs here, and where the guide is.
local fl = require "fasterlua"

local app = fl.app { title = "Welcome" }

app:on_start(function()
  app.state.page = fl.await(fl.fs.read "welcome.html")
end)

app:get("/", function()
  return fl.html(app.state.page)
end)

return app
