-- bench: what every benchmark does around its measurements: options, a place to work in, servers
-- that are stopped whatever happens.
--
--     local parser = bench.parser("jobs.lua", "What a job costs.", { rounds = 5 })
--     bench.main(here, parser:parse(), function(options, place, started) … end)
local argparse = require "argparse"
local lfs = require "lfs"

local process = require "support.process"
local running = require "running"

local M = {}

---@class bench.options
---@field rounds integer
---@field build string directory of the built programs
---@field threads integer? of each server, default 2

--- A parser with the options that all benchmarks have.
---@param name string
---@param title string
---@param defaults { rounds: integer }
function M.parser(name, title, defaults)
  local parser = argparse(name, title)
  parser:option("--rounds", "Rounds; medians are printed."):default(tostring(defaults.rounds))
    :convert(tonumber)
  parser:option("--build", "Directory of the built programs.")
    :default(os.getenv("BUILD") or "build")
  return parser
end

local function name_set(list)
  if not list then return nil end
  local set = {}
  for name in list:gmatch("[^,%s]+") do set[name] = true end
  return set
end

--- The items whose names are in the list, all without one.
---@param items { name: string }[]
---@param list string? names, separated by commas
---@return { name: string }[]
function M.select_named(items, list)
  local selected, names = {}, name_set(list)
  for _, item in ipairs(items) do
    if not names or names[item.name] then selected[#selected + 1] = item end
    if names then names[item.name] = nil end
  end
  local unknown = names and next(names)
  if unknown then error("no such server or route: " .. unknown, 0) end
  return selected
end

--- The servers whose programs are there; says which are not.
---@param chosen bench_server[]
---@return bench_server[]
function M.leave_out_missing(chosen)
  local present = {}
  for _, server in ipairs(chosen) do
    if server.missing then print(("skipped %s: %s"):format(server.name, server.missing))
    else present[#present + 1] = server end
  end
  return present
end

local function absolute(path)
  return path:sub(1, 1) == "/" and path or lfs.currentdir() .. "/" .. path
end

local function make_place(here, options)
  local bench = absolute(here)
  return { bench = bench, root = bench .. "/../..", build = absolute(options.build),
    temporary = process.temporary_directory(), threads = options.threads or 2 }
end

--- Runs the benchmark and ends the program. What `run` puts into `started` is stopped afterwards,
--- last first: a server, or something with a function `stop`.
---@param here string directory of the benchmarks
---@param options bench.options
---@param run fun(options: bench.options, place: bench_place, started: table)
function M.main(here, options, run)
  local place, started = make_place(here, options), {}
  local ok, message = xpcall(run, debug.traceback, options, place, started)
  for index = #started, 1, -1 do
    local one = started[index]
    if one.stop then one:stop() elseif one.pid then running.stop(one.pid) end
  end
  process.remove_directory(place.temporary)
  if not ok then io.stderr:write(message, "\n") end
  os.exit(ok and 0 or 1)
end

return M
