-- The page at "/": what runs here, and where the guide is.
local fl = require "fasterlua"

local app = fl.app { title = "Welcome" }

app:on_start(function()
  app.state.page = fl.await(fl.fs.read "welcome.html")
end)

app:get("/", function(req)
  local here = fl.escape_html(req.scheme .. "://" .. (req:header "host" or "127.0.0.1:8000"))
  return fl.html((app.state.page:gsub("{{here}}", function() return here end)))
end)

return app
