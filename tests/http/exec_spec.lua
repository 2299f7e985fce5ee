-- fl.exec in a real server. After each test no program may be left, not even as a zombie.

local support = require "support"

local process = support.process
local now = process.now
local MB = 1024 * 1024

local app = [[
local fl = require "fasterlua"
local await = fl.await
local app = fl.app { title = "exec" }

-- The first one makes libuv's pipe for signals, which stays.
app:on_start(function() await(fl.exec { "true" }) end)

app:post("/run", function(req)
  local call = req:json()
  if call.input_size then call.options.stdin = ("x"):rep(call.input_size) end
  local ok, value = pcall(function() return await(fl.exec(call.argv, call.options)) end)
  if ok then return value end
  if type(value) ~= "table" then return { raised = value } end
  return { kind = value.kind, code = value.code, message = value.message }
end)

app:get("/sleep", function() return await(fl.exec { "sh", "-c", "sleep 60; true" }) end)

app:get("/stubborn", function()
  local running = fl.exec { "sh", "-c", "trap '' TERM; echo on; while :; do sleep 0.05; done" }
  await(fl.sleep(0.2))
  running:cancel()
  return "given up"
end)

app:get("/many", function()
  local futures, texts = {}, {}
  for i = 1, 20 do futures[i] = fl.exec { "echo", tostring(i) } end
  for i, result in ipairs { await(fl.gather(unpack(futures))) } do texts[i] = result.stdout end
  return table.concat(texts)
end)

return app
]]

support.describe_server("fl.exec", {
  app = app,
  settings = { threads = 1, exec_output = "64KB" },
  env = { SECRET_OF_SERVER = "inherited" },
}, function(get_server)
  local function run(argv, options, input_size)
    return get_server():post("/run",
      { argv = argv, options = options, input_size = input_size }):json()
  end

  local function sh(script, options)
    return run({ "sh", "-c", script }, options)
  end

  -- Zombies included.
  local function children()
    local pid = get_server():server_pid()
    return process.read(("/proc/%d/task/%d/children"):format(pid, pid)) or error("no such process")
  end

  local function assert_none_left(seconds)
    support.eventually(function() return children() == "" end, seconds)
  end

  after_each(function()
    assert_none_left(3)
  end)

  it("collects what a program writes and how it ends", function()
    assert.same({ code = 3, stdout = "out\n", stderr = "err\n", timed_out = false,
      truncated = false }, sh "echo out; echo err >&2; exit 3")
  end)

  it("tells the signal that ended it", function()
    local result = sh "kill -9 $$"
    assert.equal(9, result.signal)
    assert.is_nil(result.code)
  end)

  it("passes arguments as they are", function()
    assert.equal("a b|$HOME|*||", run({ "printf", "%s|", "a b", "$HOME", "*", "" }).stdout)
  end)

  it("gives a program its input, and none otherwise", function()
    assert.equal("hello", run({ "cat" }, { stdin = "hello" }).stdout)
    assert.equal("", run({ "cat" }, { stdin = "" }).stdout)
    assert.equal("", run({ "cat" }).stdout)
    assert.equal("hello", run({ "cat", "/dev/stdin" }, { stdin = "hello" }).stdout)
  end)

  it("writes a large input while it reads the output", function()
    assert.equal(tostring(8 * MB), run({ "wc", "-c" }, {}, 8 * MB).stdout:match("%d+"))
    local result = run({ "cat" }, {}, 8 * MB)
    assert.equal(64 * 1024, #result.stdout)
    assert.is_true(result.truncated)
  end)

  it("does not mind a program that reads nothing of its input", function()
    assert.equal(0, run({ "true" }, {}, 8 * MB).code)
  end)

  it("keeps so much output and drops the rest", function()
    local result = sh "head -c 65536 /dev/zero; head -c 65537 /dev/zero >&2"
    assert.equal(65536, #result.stdout)
    assert.equal(65536, #result.stderr)
    assert.is_true(result.truncated)
    assert.is_false((sh "head -c 65536 /dev/zero").truncated)
  end)

  it("runs in the app's folder or another one", function()
    local folder = get_server().app_dir
    assert.equal(folder .. "\n", run({ "pwd" }).stdout)
    os.execute("mkdir '" .. folder .. "/below'")
    assert.equal(folder .. "/below\n", run({ "pwd" }, { cwd = "below" }).stdout)
    assert.equal("/\n", run({ "pwd" }, { cwd = "/" }).stdout)
  end)

  it("hands the environment down, or another one", function()
    local inherited = run({ "env" }).stdout
    assert.matches("SECRET_OF_SERVER=inherited\n", inherited)
    assert.is_nil(inherited:find("FASTERLUA_SERVER", 1, true))
    local own = run({ "env" }, { env = { PATH = "/usr/bin:/bin", A = "b=c" } }).stdout
    assert.is_truthy(own:find("A=b=c\n", 1, true))
    assert.is_nil(own:find("SECRET", 1, true))
  end)

  it("hands no descriptor down but the three", function()
    assert.matches("^/dev/null\npipe:%[%d+%]\npipe:%[%d+%]\n$",
      (sh "for fd in /proc/$$/fd/*; do readlink $fd; done").stdout)
  end)

  it("gives a program default signals", function()
    local status = run({ "cat", "/proc/self/status" }).stdout -- 31 of them, a bit each
    assert.matches("SigIgn:%s*%x+[08]0000000\n", status)
    assert.matches("SigBlk:%s*%x+[08]0000000\n", status)
  end)

  it("says why a program cannot run", function()
    assert.same({ kind = "exec", code = "ENOENT",
      message = "cannot run no-such-program: no such file or directory" },
      run { "no-such-program" })
    assert.same({ kind = "exec", code = "EACCES",
      message = "cannot run /etc/passwd: permission denied" }, run { "/etc/passwd" })
  end)

  it("refuses bad arguments", function()
    assert.matches("program and its arguments", run({}).raised)
    assert.matches("without NUL", run({ "a\0b" }).raised)
    assert.matches("env", run({ "env" }, { env = { ["A=B"] = "c" } }).raised)
    assert.matches("timeout", run({ "env" }, { timeout = -1 }).raised)
    assert.matches("unknown option", run({ "env" }, { time_out = 1 }).raised)
  end)

  it("ends a program that takes too long, and what that has started", function()
    local began = now()
    local result = sh("echo begun; sleep 60 & sleep 60; true", { timeout = 0.2 })
    assert.equal("begun\n", result.stdout)
    assert.is_true(result.timed_out)
    assert.equal(15, result.signal)
    assert.is_true(now() - began < 1 * support.slowdown)
  end)

  it("kills one that will not end a second later", function()
    local began = now()
    local result = sh("trap '' TERM; while :; do sleep 0.05; done", { timeout = 0.1 })
    assert.is_true(result.timed_out)
    assert.equal(9, result.signal)
    assert.is_true(now() - began >= 1 and now() - began < 2 * support.slowdown)
  end)

  it("does not wait for ever for one that has left the process group", function()
    local began = now()
    local result = sh("setsid sleep 3 & echo gone", { timeout = 0.1 })
    assert.equal("gone\n", result.stdout)
    assert.equal(0, result.code)
    assert.is_true(result.timed_out)
    assert.is_true(now() - began < 2 * support.slowdown)
  end)

  it("ends a program when the client has left", function()
    local client = get_server():connect()
    client:send("GET /sleep HTTP/1.1\r\nHost: a\r\n\r\n")
    support.eventually(function() return children() ~= "" end)
    client:close()
    assert_none_left(2)
  end)

  it("kills a cancelled program that will not end", function()
    assert.equal("given up", get_server():get("/stubborn").body)
    assert.not_equal("", children())
    assert_none_left(2)
  end)

  it("runs many programs at once", function()
    local expected = {}
    for i = 1, 20 do expected[i] = i .. "\n" end
    assert.equal(table.concat(expected), get_server():get("/many").body)
  end)
end)

describe("a server with a running program", function()
  -- It may be left to init as a zombie.
  local function assert_ends(pid)
    support.eventually(function()
      local stat = process.read("/proc/" .. pid .. "/stat")
      return not stat or stat:match("%) Z ")
    end)
  end

  it("ends it when it stops", function()
    local server = support.start { app = app, settings = { threads = 1 } }
    local client = server:connect()
    client:send("GET /sleep HTTP/1.1\r\nHost: a\r\n\r\n")
    local child = support.eventually(function()
      return process.children(server:server_pid())[1]
    end)
    server:stop()
    assert_ends(child)
  end)
end)
