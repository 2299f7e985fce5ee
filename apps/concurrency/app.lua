-- Waiting costs nothing: thousands of requests may sleep at once, and each sees only its own time.
local fl = require "fasterlua"
local await, async, gather = fl.await, fl.async, fl.gather

local app = fl.app { title = "Concurrency" }

app:get("/health", function()
  return { status = "ok" }
end)

-- As if a slow service were asked. The thread serves others meanwhile.
app:get("/async", function()
  await(fl.sleep(2))
  return { slept = 2, message = "Nobody else had to wait." }
end)

local ask = async(function(name, seconds)
  await(fl.sleep(seconds))
  return { from = name, seconds = seconds }
end)

-- Three questions at once: the answer comes after the slowest, not after the sum.
app:get("/dashboard", function()
  local users, orders, news = await(gather(ask("users", 0.1), ask("orders", 0.2), ask("news", 0.3)))
  return { users = users, orders = orders, news = news }
end)

return app
