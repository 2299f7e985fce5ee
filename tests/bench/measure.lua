-- measure: what a client saw and what a server used meanwhile, and the figures of several rounds.
--
--     local load = { url = url, seconds = 3, threads = 2, connections = 64 }
--     local rounds = { measure.round(server, load), measure.round(server, load) }
--     print(measure.medians(rounds).rate)
local cjson = require "cjson"

local usage = require "usage"

local M = {}

local script = debug.getinfo(1, "S").source:match("^@(.*)measure%.lua$") .. "wrk.lua"

---@class bench.load
---@field url string
---@field seconds integer
---@field threads integer of wrk
---@field connections integer
---@field method string? default GET
---@field depth integer? of the pipeline, default 1
---@field body string?

---@class bench.seen
---@field requests integer
---@field seconds number
---@field p50 number seconds
---@field p99 number seconds
---@field failed integer

--- Runs wrk.
---@param load bench.load
---@return bench.seen
function M.wrk(load)
  local command = ("wrk -t%d -c%d -d%ds --timeout 5s -s %s '%s' -- %s %d"):format(load.threads,
    load.connections, load.seconds, script, load.url, load.method or "GET", load.depth or 1)
  if load.body then command = command .. " '" .. load.body .. "'" end
  local pipe = assert(io.popen(command))
  local output = pipe:read("*a")
  pipe:close()
  local line = output:match("\n({[^\n]*})\n*$")
  if not line then error("wrk failed:\n" .. command .. "\n" .. output, 0) end
  return cjson.decode(line)
end

local function threads_used(before, after)
  local earlier, used = {}, {}
  for _, thread in ipairs(before) do earlier[thread.tid] = thread end
  for _, thread in ipairs(after) do
    local first = earlier[thread.tid] or { user = 0, system = 0 }
    used[#used + 1] = { pid = thread.pid, tid = thread.tid, name = thread.name,
      user = thread.user - first.user, system = thread.system - first.system }
  end
  return used
end

local function per_request(before, after, requests)
  local user, system = after.user - before.user, after.system - before.system
  return user / requests * 1e6, system / requests * 1e6
end

--- One round: what wrk saw, and what the server used meanwhile, in µs per request.
---@param server bench_server
---@param load bench.load
---@param database_pid integer? of a database whose use is counted beside the server's
function M.round(server, load, database_pid)
  local before, database_before = usage.of(server.pid), database_pid and usage.of(database_pid)
  local seen = M.wrk(load)
  local after, database_after = usage.of(server.pid), database_pid and usage.of(database_pid)
  if seen.failed > 0 then
    print(("warning: %s %s: %d requests failed"):format(server.name, load.url, seen.failed))
  end
  local requests = math.max(seen.requests, 1)
  local user, system = per_request(before, after, requests)
  local round = { rate = seen.requests / seen.seconds, p50 = seen.p50, p99 = seen.p99,
    failed = seen.failed, user = user, system = system, cpu = user + system, rss = after.rss,
    threads = threads_used(before.threads, after.threads) }
  if database_pid then
    user, system = per_request(database_before, database_after, requests)
    round.database_cpu = user + system
  end
  return round
end

---@param values number[] is sorted
---@return number
function M.median(values)
  table.sort(values)
  local middle = math.floor(#values / 2)
  if #values % 2 == 1 then return values[middle + 1] end
  return (values[middle] + values[middle + 1]) / 2
end

---@param rounds table[]
---@param key string
---@return number
function M.median_of(rounds, key)
  local values = {}
  for i, round in ipairs(rounds) do values[i] = round[key] end
  return M.median(values)
end

--- Of all numbers that the rounds have.
---@param rounds table[]
---@return table<string, number>
function M.medians(rounds)
  local medians = {}
  for key, value in pairs(rounds[1]) do
    if type(value) == "number" then medians[key] = M.median_of(rounds, key) end
  end
  return medians
end

--- The median of the rounds' own ratios; nil when a peer did not run or used no measurable time.
---@param rounds table[]
---@param peer_rounds table[]?
---@param key string
---@return number?
function M.median_ratio(rounds, peer_rounds, key)
  local values = {}
  for i, round in ipairs(rounds) do
    local peer = peer_rounds and peer_rounds[i]
    if peer and peer[key] > 0 then values[#values + 1] = round[key] / peer[key] end
  end
  return #values > 0 and M.median(values) or nil
end

---@param ratio number?
---@return string
function M.ratio_text(ratio)
  return ratio and ("%.2f"):format(ratio) or "-"
end

--- wrk times a batch when its last answer is in; with no batch ended so it knows no latency.
---@param seconds number
---@return string
function M.milliseconds_text(seconds)
  return seconds > 0 and ("%.3f"):format(seconds * 1e3) or "-"
end

return M
