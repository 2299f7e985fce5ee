-- blocks: runs every fenced block of a Markdown document, so that no example is out of date.
--
--     blocks.describe("README.md")
--
-- The block's language says what becomes of it; any other is a failure:
--
--   lua   An app, served for the shell blocks behind it, up to the next app. A first line like
--         `-- apps/shop/items.lua` names its file (without it: app.lua) in a sandbox that all
--         blocks of the document share. A block without `fl.app` is a piece of an app: the lines
--         that make and return one are put around it, as the guide's first page says. A named file
--         that is no app.lua is written for the blocks behind it; one of conf/ must be a conf file
--         that is understood.
--   sh    Commands, run in the sandbox; each must end well. Where the block has lines beginning
--         with `$ `, those are the commands, and what stands behind each is its output: `…` stands
--         for anything, JSON is compared by value. Port 8000 becomes the port of the app.
--         `fasterlua serve …` is started, must get ready and is ended; of `make …` it is checked
--         that there is such a target. What stands before the first app meets the example apps.
--   ini   A systemd unit: the flags of its ExecStart must be understood.
--   nginx Part of nginx' configuration: checked by `nginx -t` where nginx is installed.
--   json  Must be JSON, one value a line.
--   text  An illustration; not run.

local busted = require "busted"
local cjson = require "cjson"
local process = require "support.process"
local Server = require "support.server"
local support = require "support"

local M = {}

local PREAMBLE = [[
local fl = require "fasterlua"
local await, async, gather = fl.await, fl.async, fl.gather
local app = fl.app { title = "Example" }
]]

---@class support.block
---@field language string
---@field text string
---@field line integer of its fence

---The fenced blocks of a document.
---@param path string
---@return support.block[]
function M.parse(path)
  local found, block, number = {}, nil, 0
  for line in assert(io.open(path)):lines() do
    number = number + 1
    local language = line:match("^```(.*)$")
    if language and block then
      block.text = table.concat(block.lines, "\n") .. "\n"
      found[#found + 1], block = block, nil
    elseif language then
      block = { language = language, line = number, lines = {} }
    elseif block then
      table.insert(block.lines, line)
    end
  end
  assert(not block, path .. ": the last block has no end")
  return found
end

local function write(path, text)
  os.execute("mkdir -p '" .. path:match("^(.*)/") .. "'")
  local file = assert(io.open(path, "wb"))
  file:write(text)
  file:close()
end

-- The sandbox's own `fasterlua` and `make`.
local FASTERLUA = [[
#!/bin/sh
[ "$1" = serve ] || exec "$BINARY" "$@"
: >serve.log
"$BINARY" "$@" --port 0 >serve.log 2>&1 &
server=$!
while kill -0 $server 2>/dev/null && ! grep -q 'listening on' serve.log; do sleep 0.05; done
kill -TERM $server 2>/dev/null
wait $server
status=$?
grep -q 'listening on' serve.log || cat serve.log
exit $status
]]
local MAKE = '#!/bin/sh\nexec /usr/bin/make -C "$PROJECT" -n "$@" >/dev/null\n'

---@class support.sandbox
---@field folder string
---@field server support.server? of the latest app

---A sandbox for the blocks of one document.
---@return support.sandbox
function M.open()
  local folder = process.temporary_directory()
  write(folder .. "/bin/fasterlua", FASTERLUA)
  write(folder .. "/bin/make", MAKE)
  os.execute("chmod +x '" .. folder .. "'/bin/*")
  os.execute("mkdir -p '" .. folder .. "/project'")
  return { folder = folder }
end

local function run_command(sandbox, port, command)
  local output = sandbox.folder .. "/output"
  os.remove(output)
  local pid = process.spawn {
    argv = { "sh", "-c", (command:gsub(":8000", ":" .. (port or 8000))) },
    output = output,
    directory = sandbox.folder .. "/project",
    env = {
      BINARY = Server.binary,
      PROJECT = os.getenv("PWD"),
      MAKEFLAGS = false, -- of the `make` that runs the tests
      MAKELEVEL = false,
      PATH = sandbox.folder .. "/bin:" .. os.getenv("PATH"),
      FASTERLUA_HOME = os.getenv("FASTERLUA_HOME") or os.getenv("PWD"),
    },
  }
  local status = process.wait(pid, 20 * Server.slowdown)
  if not status then
    process.signal(pid, "KILL")
    process.wait(pid, 5)
  end
  local text = process.read(output) or ""
  local how = status and (status.code or "signal " .. status.signal) or "none in 20 s"
  return how == 0, text, how
end

local function trim(text)
  return (text:gsub("\r", ""):gsub("%s+$", ""))
end

local function decoded(text)
  local first = text:sub(1, 1)
  local ok, value = pcall(cjson.decode, text)
  return (first == "{" or first == "[") and ok and value or nil
end

-- `…` stands for anything; on a line of its own also for no line.
local function as_pattern(text)
  text = text:gsub("[%^%$%(%)%%%.%[%]%*%+%-%?]", "%%%0")
  text = text:gsub("\n…$", "…"):gsub("\n…\n", "\n…"):gsub("…", ".-")
  return "^" .. text .. "$"
end

local function same(expected, actual)
  if type(expected) == "string" and type(actual) == "string" then
    return actual:find(as_pattern(expected)) ~= nil
  elseif type(expected) ~= "table" or type(actual) ~= "table" then
    return expected == actual
  end
  for key in pairs(actual) do
    if expected[key] == nil then
      return false
    end
  end
  for key, value in pairs(expected) do
    if not same(value, actual[key]) then
      return false
    end
  end
  return true
end

local function text_matches(expected, actual)
  local wanted = decoded(expected)
  if wanted then
    return same(wanted, decoded(actual))
  end
  return actual:find(as_pattern(expected)) ~= nil
end

-- As a whole, or its last line by itself: JSON behind a head.
local function output_matches(expected, actual)
  if text_matches(expected, actual) then
    return true
  end
  local head, last = expected:match("^(.*)\n([^\n]+)$")
  local actual_head, actual_last = actual:match("^(.*)\n([^\n]+)$")
  return head ~= nil and actual_head ~= nil and text_matches(trim(head), trim(actual_head))
    and text_matches(last, actual_last)
end

-- { command, output or nil } of a block.
local function commands_of(text)
  if not ("\n" .. text):find("\n%$ ") then
    return { { command = text } }
  end
  local commands, current = {}, nil
  for line in text:gmatch("(.-)\n") do
    local command = line:match("^%$ (.*)$")
    if command then
      current = { command = command, output = {} }
      commands[#commands + 1] = current
    elseif current.command:find("\\$") then
      current.command = current.command .. "\n" .. line
    else
      table.insert(current.output, line)
    end
  end
  return commands
end

local function run_shell(sandbox, block, server)
  for _, each in ipairs(commands_of(block.text)) do
    local ok, output, how = run_command(sandbox, server and server.port, each.command)
    output = trim(output)
    if not ok then
      error(("line %d: `%s` ended with %s:\n%s"):format(block.line, each.command, how, output), 0)
    end
    local expected = trim(table.concat(each.output or {}, "\n"))
    if expected ~= "" and not output_matches(expected, output) then
      local message = "line %d: `%s` should print\n%s\nbut printed\n%s"
      error(message:format(block.line, each.command, expected, output), 0)
    end
  end
end

local function check_conf(sandbox, path)
  local ok, output = run_command(sandbox, nil, "fasterlua config --conf " .. path)
  if not ok then
    error(output, 0)
  end
end

-- Writes the block's file; what to serve when it is an app.
local function place(sandbox, block)
  local name = block.text:match("^%-%- ([%w_/.-]+%.lua)")
  local is_app = block.text:find("fl.app", 1, true)
  local text = block.text
  if not is_app and not name then
    text = PREAMBLE .. text .. "\nreturn app\n"
  end
  name = name or "app.lua"
  write(sandbox.folder .. "/project/" .. name, text)
  if name:find("^conf/") then
    check_conf(sandbox, name)
  elseif name:find("app%.lua$") then
    return sandbox.folder .. "/project/" .. (name:find("^apps/") and "apps" or name)
  end
end

local function check_unit(sandbox, block)
  local flags = assert(block.text:match("ExecStart=%S+ serve ([^\n]*)"), "it starts no server")
  local ok, output = run_command(sandbox, nil, "fasterlua config " .. flags:gsub("^[^-]%S+ ?", ""))
  assert(ok, output)
end

local function check_nginx(sandbox, block)
  if not run_command(sandbox, nil, "command -v nginx") then
    return
  end
  local conf = sandbox.folder .. "/nginx.conf"
  write(conf, ("pid %s/pid;\nevents {}\nhttp { %s }\n"):format(sandbox.folder, block.text))
  local ok, output = run_command(sandbox, nil, "nginx -t -e stderr -c " .. conf)
  assert(ok, output)
end

local function check_json(_, block)
  for line in block.text:gmatch("[^\n]+") do
    assert(decoded(line), "not JSON: " .. line)
  end
end

local checks = {
  ini = check_unit,
  nginx = check_nginx,
  json = check_json,
  text = function() end,
}

local titles = {
  lua = "the Lua",
  sh = "the commands",
  ini = "the unit",
  nginx = "the nginx configuration",
  json = "the JSON",
  text = "the illustration",
}

-- Serves what the block is; the shell blocks behind it meet that server.
local function run_lua(sandbox, block)
  local path = place(sandbox, block)
  if not path then
    return
  end
  if sandbox.server then
    sandbox.server:stop()
    sandbox.server = nil
  end
  sandbox.server = support.start { dir = path }
end

---Does with a block what its language says; raises what is wrong with it.
---@param sandbox support.sandbox
---@param block support.block
function M.run(sandbox, block)
  if block.language == "lua" then
    run_lua(sandbox, block)
  elseif block.language == "sh" then
    sandbox.server = sandbox.server or support.start { dir = "apps" }
    run_shell(sandbox, block, sandbox.server)
  elseif checks[block.language] then
    checks[block.language](sandbox, block)
  else
    error(("line %d: unknown language %q"):format(block.line, block.language), 0)
  end
end

---@param sandbox support.sandbox
function M.close(sandbox)
  if sandbox.server then
    sandbox.server:stop()
  end
  process.remove_directory(sandbox.folder)
end

---Tests every block of a document.
---@param path string
function M.describe(path)
  busted.describe(path, function()
    local sandbox
    busted.strict_setup(function()
      sandbox = M.open()
    end)
    busted.strict_teardown(function()
      M.close(sandbox)
    end)
    for _, block in ipairs(M.parse(path)) do
      local title = titles[block.language] or "a block"
      busted.it(("keeps the promise of %s in line %d"):format(title, block.line), function()
        M.run(sandbox, block)
      end)
    end
  end)
end

return M
