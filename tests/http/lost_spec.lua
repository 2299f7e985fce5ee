-- What fails and nobody awaits: it is logged when the collector finds it.

local support = require "support"

local app = [[
local fl = require "fasterlua"
local await = fl.await
local app = fl.app { title = "lost" }

app:on_start(function() -- libuv's pipe for signals, and threads that stay
  await(fl.exec { "true" })
  await(fl.run_in_state(tostring, 1))
  await(fl.gather(fl.run_in_state(tostring, 1), fl.run_in_state(tostring, 1)))
  await(fl.state_pool { name = "lost", size = 1 }:run(tostring, 1))
end)

local chunks = {}
app:post("/run", function(req)
  local text = req:text()
  chunks[text] = chunks[text] or assert(load("local fl, await = ... " .. text, "=test", "t"))
  return { value = chunks[text](fl, await) }
end)
return app
]]

support.describe_server("What nobody awaits", {
  app = app, settings = { threads = 1, cpu_states = 1 },
}, function(get_server)
  local function run(code)
    local response = get_server():post("/run", code)
    assert.equal(200, response.status, response.body)
  end

  local function lost()
    return select(2, get_server():log():gsub("that nobody awaited has failed: was await", ""))
  end

  local function collect()
    run "collectgarbage() collectgarbage()"
  end

  -- Logged, once, though the collector comes twice more.
  local function is_told(code, line)
    local before = lost()
    run(code)
    support.eventually(function()
      collect()
      return lost() > before
    end)
    assert.is_truthy(get_server():wait_log(line), get_server():log())
    collect()
    collect()
    assert.equal(before + 1, lost())
  end

  it("is told of a file, with its path", function()
    is_told('fl.fs.read "missing.txt"', "fs.read that nobody awaited has failed: was await "
      .. 'forgotten%?  app=[^\n]*code=ENOENT error="no such file or directory" '
      .. "path=[^\n]*missing.txt")
  end)

  it("is told of a program, with its name", function()
    is_told('fl.exec { "no-such-program" }', "exec that nobody awaited has failed[^\n]*"
      .. "code=ENOENT[^\n]*program=no%-such%-program")
  end)

  it("is told of a job, with what it has raised and its pool", function()
    is_told('fl.run_in_state(function() error("it broke", 0) end)',
      'a job that nobody awaited has failed[^\n]*code=raised error="it broke" pool=cpu')
    is_told('fl.run_in_state(function() error {} end)',
      'a job that nobody awaited has failed[^\n]*error="an empty table" pool=cpu')
  end)

  it("is told what a raised table says", function()
    is_told([[fl.run_in_state(function()
      error(require("fasterlua").http_error(409, "sold out"))
    end)]], 'a job that nobody awaited has failed[^\n]*code=raised error="409 sold out" pool=cpu')
    is_told([[fl.run_in_state(function()
      local own = require "fasterlua"
      own.await(own.fs.read "missing.txt")
    end)]], 'a job that nobody awaited has failed[^\n]*error="cannot read [^\n]*missing.txt: no ')
    is_told([[fl.state_pool { name = "lost", size = 1 }:run(function()
      error { message = ("long "):rep(1000) }
    end)]], 'a job that nobody awaited has failed[^\n]*error="long long [a-z ]*" pool=lost')
    is_told('fl.run_in_state(function() error(("x"):rep(100000), 0) end)',
      "a job that nobody awaited has failed[^\n]*error=x+ pool=cpu")
  end)

  it("is told of a job whose time was over", function()
    is_told([[fl.state_pool { name = "lost", size = 1 }:run_within("20ms", function()
      local own = require "fasterlua"
      own.await(own.sleep(5))
    end)]], 'a job that nobody awaited has failed[^\n]*code=timeout[^\n]*pool=lost')
  end)

  it("is nothing where it was awaited, cancelled or well", function()
    local before = lost()
    run [[
      pcall(await, fl.fs.read "missing.txt")
      pcall(await, fl.exec { "no-such-program" })
      pcall(await, fl.run_in_state(error, "it broke"))
      await(fl.all_settled(fl.fs.read "missing.txt", fl.run_in_state(error, "it broke")))
      fl.fs.read("missing.txt"):cancel()
      fl.run_in_state(error, "it broke"):cancel()
      fl.fs.exists "missing.txt"
      fl.exec { "false" }
      fl.run_in_state(tostring, 1)
      await(fl.sleep(0.1))]]
    for _ = 1, 3 do
      run "collectgarbage() collectgarbage()"
    end
    assert.equal(before, lost(), get_server():log())
  end)

  -- The stream is garbage while its job runs; its op is collected before the job raises, and after.
  it("is nothing where the loop over a stream was left", function()
    local before = lost()
    for _, after in ipairs { 0, 0.1 } do
      run(([[
        local pool = fl.state_pool { name = "lost", size = 1 }
        local function left()
          for _ in pool:stream(function()
            coroutine.yield(1)
            local ends = os.clock() + 0.05
            repeat until os.clock() > ends
            error("too late", 0)
          end) do
            break
          end
        end
        local cancelled = pool:stats().cancelled
        left()
        collectgarbage() -- the stream; its op goes next
        await(fl.sleep(%g))
        collectgarbage() collectgarbage()
        await(pool:run(tostring, 1))
        assert(pool:stats().cancelled == cancelled + 1)]]):format(after))
    end
    assert.equal(before, lost(), get_server():log())
  end)
end)
