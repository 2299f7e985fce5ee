-- comparison: several servers under the same load, in interleaved rounds of one run; and the words
-- around its figures.
local cjson = require "cjson"

local measure = require "measure"

local M = {}

---@class bench.comparison
---@field options bench.options
---@field servers bench_server[]
---@field routes { name: string }[]
---@field load function (options, server, route, seconds) -> what measure.wrk takes
---@field database_pid integer? of the database that they share

local function warm_up(self)
  local rounds = {}
  for _, route in ipairs(self.routes) do
    rounds[route.name] = {}
    for _, server in ipairs(self.servers) do
      rounds[route.name][server.name] = {}
      measure.wrk(self.load(self.options, server, route, 1))
    end
  end
  return rounds
end

local function measure_round(self, rounds, round)
  for _, route in ipairs(self.routes) do
    for _, server in ipairs(self.servers) do
      rounds[route.name][server.name][round] = measure.round(server,
        self.load(self.options, server, route, self.options.seconds), self.database_pid)
    end
  end
end

--- Measures everything in each round.
---@param self bench.comparison
---@return table # [route name][server name] = list of measurements
function M.rounds(self)
  local rounds = warm_up(self)
  for round = 1, self.options.rounds do
    measure_round(self, rounds, round)
    io.stderr:write(("round %d of %d done\n"):format(round, self.options.rounds))
  end
  return rounds
end

--- Says what is compared and what they share.
---@param self bench.comparison
---@param shared string what shares the machine
function M.print_set_up(self, shared)
  local options = self.options
  print(("%d keep-alive connections, %d threads of wrk, %d threads or processes per server, %d "
    .. "rounds of %d s"):format(options.connections, options.threads, options.threads,
    options.rounds, options.seconds))
  print(shared .. "; medians of the rounds;")
  print("ratios are medians of each round's ratio")
  for _, server in ipairs(self.servers) do
    print(("  %-12s %s"):format(server.name, server.title))
  end
end

--- Writes it all into the file that the option `json` names, if there is one.
---@param self bench.comparison
---@param rounds table
---@param results table[] of its targets
function M.write_json(self, rounds, results)
  if not self.options.json then return end
  local file = assert(io.open(self.options.json, "w"))
  file:write(cjson.encode({ options = self.options, routes = rounds, targets = results }), "\n")
  file:close()
end

return M
