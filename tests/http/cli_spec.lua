local lfs = require "lfs"

local binary = os.getenv("FASTERLUA_BIN") or "build/fasterlua"
if binary:sub(1, 1) ~= "/" then
  binary = lfs.currentdir() .. "/" .. binary
end

local root

local function write(name, text)
  local path = root .. "/" .. name
  local file = assert(io.open(path, "w"))
  file:write(text)
  file:close()
  return path
end

local function quote(word)
  return "'" .. word:gsub("'", "'\\''") .. "'"
end

-- Runs the command in the empty folder `root`, without variables of ours from outside.
---@return integer status, string stdout, string stderr
local function run(args, variables)
  local words = { "cd", quote(root), "&&", "env", "-u", "FASTERLUA_CONF", "-u", "WEB_CONCURRENCY" }
  for name, value in pairs(variables or {}) do
    words[#words + 1] = quote(name .. "=" .. value)
  end
  words[#words + 1] = quote(binary)
  for _, arg in ipairs(args) do
    words[#words + 1] = quote(arg)
  end
  local errors = os.tmpname()
  local command = ("%s 2>%s; echo status=$?"):format(table.concat(words, " "), errors)
  local pipe = assert(io.popen(command))
  local out, status = pipe:read("*a"):match("^(.*)status=(%d+)\n$")
  pipe:close()
  local file = assert(io.open(errors))
  local err = file:read("*a")
  file:close()
  os.remove(errors)
  return tonumber(status), out, err
end

local function contains(text, part)
  assert.truthy(text:find(part, 1, true), ("%q lacks %q"):format(text, part))
end

-- Of `config --explain`: the value and the source.
local function explain(name, args, variables)
  local words = { "config", "--explain" }
  for _, arg in ipairs(args) do
    words[#words + 1] = arg
  end
  local status, out, err = run(words, variables)
  assert.equal("", err)
  assert.equal(0, status)
  local value, source = ("\n" .. out):match("\n" .. name .. " = (.-), +%-%- %[(.-)%]")
  return value, source
end

before_each(function()
  root = os.tmpname()
  os.remove(root)
  lfs.mkdir(root)
end)

after_each(function()
  os.execute("rm -r " .. quote(root))
end)

describe("the command", function()
  it("tells its version", function()
    local status, out = run { "version" }
    assert.equal(0, status)
    assert.truthy(out:find("^fasterlua %d+%.%d+%.%d+ %(LuaJIT "))
    assert.equal(out, select(2, run { "--version" }))
  end)

  it("helps with everything", function()
    local commands = { "serve", "routes", "check", "config", "top", "profile", "version",
      "completion" }
    local status, out = run { "--help" }
    assert.equal(0, status)
    for _, command in ipairs(commands) do
      contains(out, command)
      local command_status, help = run { command, "--help" }
      assert.equal(0, command_status)
      contains(help, "Usage: fasterlua " .. command)
    end
  end)

  it("has the flags that are promised", function()
    local _, out = run { "serve", "--help" }
    local flags = "host port uds fd workers threads cpu-states conf log-level log-format "
      .. "access-log root-path proxy-headers forwarded-allow-ips backlog limit-requests user "
      .. "group env-file admin environment set"
    for flag in flags:gmatch("%S+") do
      contains(out, "--" .. flag)
    end
  end)

  it("completes in every shell", function()
    for _, shell in ipairs { "bash", "zsh", "fish" } do
      local status, out, err = run { "completion", shell }
      assert.equal("", err)
      assert.equal(0, status)
      contains(out, "forwarded-allow-ips")
      contains(out, "profile")
    end
  end)

  it("says how to use it when used wrongly", function()
    local wrong = {
      { {}, "a command is required\nTry 'fasterlua --help'." },
      { { "sevre" }, "unknown command 'sevre'\nDid you mean 'serve'?" },
      { { "serve", "--prot", "80" }, "Did you mean '--port'?\nTry 'fasterlua serve --help'." },
      { { "serve", "--port" }, "option '--port' requires an argument" },
      { { "serve", "--port", "80000" }, '--port: "80000" is not valid: expected an integer' },
      { { "serve", "--log-level", "loud" }, "must be one of 'debug', 'info', 'warn', 'error'" },
      { { "serve", "--set", "keep_alive" }, "--set expects KEY=VALUE, got 'keep_alive'" },
      { { "serve", "--set", "kep_alive=5" }, 'did you mean "keep_alive"?' },
      { { "serve", "a", "b" }, "too many arguments" },
      { { "completion", "tcsh" }, "must be one of" },
    }
    for _, case in ipairs(wrong) do
      local status, out, err = run(case[1])
      contains(err, case[2])
      contains(err, "fasterlua: ")
      assert.equal(2, status)
      assert.equal("", out)
    end
  end)

  it("says where its files should be", function()
    local status, _, err = run({ "version" }, { FASTERLUA_HOME = root })
    assert.equal(3, status)
    contains(err, root)
  end)
end)

describe("config", function()
  it("prints what could be a conf file", function()
    local status, out = run { "config", "--set", "keep_alive=90" }
    assert.equal(0, status)
    local values = loadstring("return {" .. out .. "}")()
    assert.equal("127.0.0.1", values.host)
    assert.equal("90s", values.keep_alive)
    assert.equal("1MB", values.max_body)
  end)

  it("takes a flag before the environment before the conf file before the default", function()
    local conf = write("my.lua", "return { port = 1 }")
    local variables = { FASTERLUA_PORT = "2" }
    assert.same({ "8000", "default" }, { explain("port", {}) })
    assert.same({ "1", conf }, { explain("port", { "--conf", conf }) })
    assert.same({ "2", "FASTERLUA_PORT" }, { explain("port", { "--conf", conf }, variables) })
    local args = { "--conf", conf, "--port", "3" }
    assert.same({ "3", "--port" }, { explain("port", args, variables) })
    assert.same({ "4", "--set port" }, { explain("port", { "--set", "port=4" }, variables) })
  end)

  it("finds the conf file of the environment in the working directory", function()
    lfs.mkdir(root .. "/conf")
    write("conf/production.lua", "return { port = 1 }")
    write("conf/development.lua", "return { port = 2 }")
    assert.same({ "1", "conf/production.lua" }, { explain("port", {}) })
    local args = { "--environment", "development" }
    assert.same({ "2", "conf/development.lua" }, { explain("port", args) })
    local variables = { FASTERLUA_ENVIRONMENT = "development" }
    assert.same({ "2", "conf/development.lua" }, { explain("port", {}, variables) })
    assert.same({ '"debug"', "default of development" }, { explain("log_level", {}, variables) })
  end)

  it("takes the conf file from FASTERLUA_CONF", function()
    local conf = write("my.lua", "return { port = 1 }")
    assert.same({ "1", conf }, { explain("port", {}, { FASTERLUA_CONF = conf }) })
  end)

  it("has switches", function()
    assert.equal("false", (explain("access_log", { "--access-log", "off" })))
    assert.equal("true", (explain("proxy_headers", { "--proxy-headers" })))
    local variables = { FASTERLUA_PROXY_HEADERS = "on" }
    assert.equal("true", (explain("proxy_headers", {}, variables)))
    assert.equal("false", (explain("proxy_headers", { "--no-proxy-headers" }, variables)))
  end)

  it("reads an environment file, which does not override the environment", function()
    local file = write("my.env", "# ours\nexport FASTERLUA_PORT=5\nFASTERLUA_HOST='::1' # local\n")
    local args = { "--env-file", file }
    assert.same({ "5", "FASTERLUA_PORT in " .. file }, { explain("port", args) })
    assert.same({ '"::1"', "FASTERLUA_HOST in " .. file }, { explain("host", args) })
    assert.equal("6", (explain("port", args, { FASTERLUA_PORT = "6" })))
    assert.equal("5", (explain("port", {}, { FASTERLUA_ENV_FILE = file })))
  end)

  it("says what is wrong, and where", function()
    local conf = write("my.lua", "return { prot = 1 }")
    local status, _, err = run { "config", "--conf", conf }
    assert.equal(1, status)
    contains(err, conf .. ': unknown setting "prot": did you mean "port"?')
    local file = write("my.env", "A=1\nB\n")
    status, _, err = run { "config", "--env-file", file }
    assert.equal(1, status)
    contains(err, file .. ":2: expected KEY=VALUE")
    status, _, err = run({ "config" }, { FASTERLUA_PROT = "1" })
    assert.equal(1, status)
    contains(err, 'unknown variable FASTERLUA_PROT: did you mean "FASTERLUA_PORT"?')
  end)
end)

describe("serve fails to start with status 3", function()
  it("when there is no app", function()
    local status, _, err = run { "serve", root }
    assert.equal(3, status)
    contains(err, ("no app in %q: looked for"):format(root))
  end)

  it("when there is nothing at the path", function()
    local status, _, err = run { "serve", "nowhere" }
    assert.equal(3, status)
    contains(err, 'cannot serve "nowhere": ')
  end)

  it("when a conf file is wrong", function()
    local status, _, err = run { "serve", "--conf", write("my.lua", "return { port = 'x' }") }
    assert.equal(3, status)
    contains(err, 'my.lua: port: "x" is not valid: expected an integer from 0 to 65535')
  end)
end)

describe("routes and check", function()
  local good = [[
local fl = require "fasterlua"
local app = fl.app {}
app:get("/items/{id:int}", function() end)
return app
]]

  local function make_app(name, text)
    lfs.mkdir(root .. "/apps")
    lfs.mkdir(root .. "/apps/" .. name)
    write(("apps/%s/app.lua"):format(name), text)
  end

  it("list every route with its place", function()
    make_app("shop", good)
    local status, out, err = run { "routes" }
    assert.equal("", err)
    assert.equal(0, status)
    assert.truthy(out:find("GET +/shop/items/{id:int} +%S+ +apps/shop/app.lua:3\n"), out)
  end)

  it("say that all is well", function()
    make_app("shop", good)
    local status, out = run { "check" }
    assert.equal(0, status)
    assert.equal("shop: ok, 1 route at /shop/\n", out)
  end)

  it("say what is wrong, of every app", function()
    make_app("blog", "return {")
    make_app("shop", good)
    make_app("wiki", "local function open() error('no pages') end\nopen()")
    local status, out, err = run { "check" }
    assert.equal(1, status)
    assert.equal("shop: ok, 1 route at /shop/\n", out)
    contains(err, "blog: apps/blog/app.lua:1: unexpected symbol")
    contains(err, "wiki: apps/wiki/app.lua:1: no pages\nstack traceback:")
    contains(err, "apps/wiki/app.lua:2: in function 'chunk'")
    assert.is_nil(err:find("cli.lua", 1, true))
    local routes_status, _, problem = run { "routes" }
    assert.equal(1, routes_status)
    contains(problem, "fasterlua: app blog: ")
  end)

  it("say where an app waits while it is loaded", function()
    local uses = { sleep = "fl.sleep(1)", ["fs.read"] = "fl.fs.read 'x'",
      ["a task"] = "fl.spawn(print)", redis = "fl.redis():get 'x'" }
    for what, use in pairs(uses) do
      make_app("wiki", "local fl = require 'fasterlua'\n" .. use .. "\nreturn fl.app {}")
      local _, _, err = run { "check" }
      contains(err, ("wiki: apps/wiki/app.lua:2: %s: at the top level of a file nothing can wait: "
        .. "use app:on_start"):format(what))
    end
    make_app("wiki", "require('fasterlua').db('sqlite:x.db'):all 'select 1'")
    contains(select(3, run { "check" }), "wiki: at the top level of a file a database can be "
      .. "opened, but not used: use app:on_start")
  end)

  it("name a route that there is twice", function()
    make_app("wiki", "local fl = require 'fasterlua'\nlocal app = fl.app {}\n"
      .. "app:get('/{a}', print)\napp:get('/{b}', function() end)\nreturn app")
    contains(select(3, run { "check" }), 'wiki: route "GET /{b}" (apps/wiki/app.lua:4): taken '
      .. 'already by "/{a}"')
  end)

  it("let the apps see what an environment file brings", function()
    make_app("shop", 'assert(os.getenv("TOKEN") == "secret")\n' .. good)
    local status, _, err = run { "check", "--env-file", write("my.env", "TOKEN=secret") }
    assert.equal("", err)
    assert.equal(0, status)
  end)
end)
