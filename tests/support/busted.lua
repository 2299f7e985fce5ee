-- busted: runs spec files and reports to a file, so that it works in any Lua, the server's too.
--
--     luajit tests/support/busted.lua REPORT SPEC…
--
-- The report holds every failure in full and ends with "N passed, N failed, N skipped".

local arguments = { ... }
local report_path = table.remove(arguments, 1)

package.path = "tests/?.lua;tests/?/init.lua;lua/?.lua;lua/?/init.lua;" .. package.path

local core = require "busted.core"()
require "busted"(core)
local load_files = require "busted.modules.test_file_loader"(core, { "lua" })
local execute = require "busted.execute"(core)

-- Loaded here, it is one for all specs: busted gives each file its own modules. Inside the server
-- there may be no sockets for it.
local has_support, support = pcall(require, "support")

local LOG_LINES = 40 -- of a server's log, shown with a failure

local counts = { success = 0, failure = 0, error = 0, pending = 0 }
local report = assert(io.open(report_path, "w"))

local function full_name(element, parent)
  local names, at = { element.name }, parent
  while at and at.name and at.descriptor ~= "file" do
    table.insert(names, 1, at.name)
    at = core.context.parent(at)
  end
  return table.concat(names, " ")
end

local function readable(message)
  if type(message) == "table" and message.message then
    message = message.message
  end
  return type(message) == "string" and message or require("pl.pretty").write(message)
end

local function last_lines(text)
  local lines = {}
  for line in text:gmatch("[^\n]*\n?") do
    lines[#lines + 1] = line
  end
  return table.concat(lines, "", math.max(1, #lines - LOG_LINES))
end

local function show_logs()
  for _, server in ipairs(has_support and support.running() or {}) do
    report:write("  the log of the server ", tostring(server.url), ":\n",
      (last_lines(server:log()):gsub("[^\n]+", "    %0")))
  end
end

local function show(kind, element, parent, message, trace)
  trace = trace or element and element.trace
  report:write(kind, ": ", element and full_name(element, parent) or "?", "\n")
  report:write("  ", (readable(message or "no message"):gsub("\n", "\n  ")), "\n")
  if trace and trace.traceback then
    report:write("  ", (trace.traceback:gsub("^\n", ""):gsub("\n", "\n  ")), "\n")
  end
  show_logs()
  report:flush()
end

core.subscribe({ "test", "end" }, function(_, _, status)
  counts[status] = counts[status] + 1
  return nil, true
end)

for _, kind in ipairs { "failure", "error" } do
  core.subscribe({ kind }, function(element, parent, message, trace)
    -- A failing `it` is counted at its end; set-up, tear-down, after_each and loading have no end.
    if not element or element.descriptor ~= "it" then
      counts.error = counts.error + 1
    end
    show(kind, element, parent, message, trace)
    return nil, true
  end)
end

load_files(arguments, {}, { excludes = {} })
execute(1, {})

local left = has_support and support.running() or {}
if #left > 0 then
  show("error", { name = "the spec leaves servers running" }, nil, tostring(#left))
  counts.error = counts.error + 1
end
core.publish({ "exit" })

report:write(("%d passed, %d failed, %d skipped\n"):format(
  counts.success, counts.failure + counts.error, counts.pending))
report:close()
if counts.failure + counts.error > 0 then
  os.exit(1, true)
end
