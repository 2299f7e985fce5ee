-- `fasterlua profile`: asks a running server where an app's Lua spends its time.
--
--     local profile = require "fasterlua.profile"
--     local result, problem = profile.take("127.0.0.1:9000", { seconds = 10, app = "shop" })
--     print(profile.svg(result))

local admin = require "fasterlua.core.admin_client"
local flame = require "fasterlua.flame"

local profile = {}

local PATIENCE = 15 -- seconds beyond the profile's own

---@class fasterlua.profile.Order
---@field seconds number 0.1 to 300
---@field app? string by default the only one
---@field thread? integer by default the one that has computed most
---@field interval? integer ms of processor time between samples, 4 by default

---@class fasterlua.profile.Result
---@field folded string lines "a;b;c 12", by name
---@field samples integer
---@field totals table<string, string> app, thread, seconds, interval_ms, compiled, …
---@field note? string why it is not all

local function encode(text)
  return (text:gsub("[^%w._~-]", function(byte)
    return ("%%%02X"):format(byte:byte())
  end))
end

local function target_of(order)
  local words = { ("seconds=%.3f"):format(order.seconds) }
  for _, name in ipairs { "app", "thread", "interval" } do
    if order[name] then
      words[#words + 1] = name .. "=" .. encode(tostring(order[name]))
    end
  end
  return "/profile?" .. table.concat(words, "&")
end

-- "# app=shop thread=0 … note=anything to the end"
local function parse_totals(line)
  local totals = {}
  local rest, note = line:match("^(.-) note=(.*)$")
  for name, value in (rest or line):gmatch("([%w_]+)=(%S*)") do
    totals[name] = value
  end
  return totals, note
end

--- Reads what the admin listener answers.
---@param text string
---@return fasterlua.profile.Result
function profile.parse(text)
  local totals, note = parse_totals(text:match("^# ([^\n]*)") or "")
  local lines, samples = {}, 0
  for line in text:gmatch("[^\n]+") do
    local count = line:match("^[^#].* (%d+)$")
    if count then
      lines[#lines + 1] = line .. "\n"
      samples = samples + tonumber(count)
    end
  end
  table.sort(lines)
  return { folded = table.concat(lines), samples = samples, totals = totals, note = note }
end

--- Takes a profile; waits as long as it takes.
---@param address string of the admin listener
---@param order fasterlua.profile.Order
---@return fasterlua.profile.Result?
---@return string? message
function profile.take(address, order)
  local status, body = admin.request(address, "POST", target_of(order), order.seconds + PATIENCE)
  if status == 200 then
    return profile.parse(body)
  elseif not status then
    return nil, ("no answer at %s: %s\nIs that the address of `fasterlua serve --admin ADDRESS`?")
      :format(address, body)
  end
  return nil, body ~= "" and body or ("the answer has status %d"):format(status)
end

-- What is no Lua of this app, by the lowest frame.
local function count_outside(result, name)
  local count = 0
  for stack, samples in result.folded:gmatch("([^\n]+) (%d+)\n") do
    count = count + (stack:match("^[^;]+") == name and tonumber(samples) or 0)
  end
  return count
end

-- What was done, as shares of all samples.
local function describe_kinds(result)
  local words = {}
  local function add(name, count)
    if count > 0 then
      words[#words + 1] = ("%s %.0f %%"):format(name, 100 * count / math.max(result.samples, 1))
    end
  end
  for _, kind in ipairs { "compiled", "interpreted", "c", "collecting", "compiling" } do
    local name = kind == "c" and "C functions" or kind == "collecting" and "garbage collection"
      or kind
    add(name, tonumber(result.totals[kind]) or 0)
  end
  add("other apps", count_outside(result, "[other apps]"))
  add("the server", count_outside(result, "[server]"))
  return table.concat(words, ", ")
end

--- One line about it.
---@param result fasterlua.profile.Result
---@return string
function profile.describe(result)
  local totals = result.totals
  local text = ("%g s, %d samples, at most one in %s ms of processor time"):format(
    tonumber(totals.seconds) or 0, result.samples, totals.interval_ms or "?")
  local kinds = describe_kinds(result)
  return text .. (kinds ~= "" and ": " .. kinds or "")
    .. (result.note and " (" .. result.note .. ")" or "")
end

--- The flame graph.
---@param result fasterlua.profile.Result
---@return string
function profile.svg(result)
  return flame.svg(result.folded, {
    title = ("%s on web thread %s"):format(result.totals.app or "?", result.totals.thread or "?"),
    subtitle = profile.describe(result),
  })
end

return profile
