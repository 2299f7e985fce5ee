-- What parallel.lua measures: jobs on every core, and what they leave of the web threads.
local fl = require "fasterlua"
local burn = require "burn"
local await, gather = fl.await, fl.gather

local app = fl.app { title = "Parallel" }

local function compute(units)
  return require("burn").run(units)
end

app:get("/health", function()
  return { status = "ok" }
end)

app:get("/pooled/{jobs:int}/{units:int}", { timeout = 0 }, function(req)
  local futures = {}
  for index = 1, req.params.jobs do
    futures[index] = fl.run_in_state(compute, req.params.units)
  end
  return { values = await(gather(futures)) }
end)

-- The control: the same work where it harms everybody.
app:get("/inline/{units:int}", { timeout = 0, stuck = false }, function(req)
  return { value = burn.run(req.params.units) }
end)

return app
