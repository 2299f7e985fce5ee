local fake = require "support.fake_core"

describe("a failure", function()
  local failure, await, spawn, sleep

  before_each(function()
    fake.install()
    local future, task = require "fasterlua.future", require "fasterlua.task"
    failure = require "fasterlua.failure"
    await, spawn, sleep = future.await, task.spawn, future.sleep
  end)

  it("leaves a traceback through all that awaited it", function()
    local function inner() error { kind = "odd" } end
    local function middle() return await(spawn(inner)) end
    local function outer() return await(spawn(middle)) end
    fake.run(function()
      local f = spawn(outer)
      local ok, err = pcall(await, f)
      assert.is_false(ok)
      local text = failure.explain(err)
      assert.equal(2, select(2, text:gsub("awaited by", "")))
      assert.equal(text, failure.traceback(err, text))
    end)
  end)

  it("is explained by its last raise only", function()
    fake.run(function()
      pcall(await, spawn(error, "one", 0))
      assert.is_string(failure.explain "one")
      assert.is_nil(failure.explain "two")
    end)
    assert.is_string(failure.explain "one")
  end)

  it("passes through clean-up with its traceback, unless that fails itself", function()
    local released = {}
    local function release(owner) released[#released + 1] = owner end
    local function fault(message) error(message, 0) end
    fake.run(function()
      local f = spawn(failure.finally, release, "first", function()
        await(sleep(1))
        fault "broken"
      end)
      local _, err = pcall(await, f)
      assert.equal("broken", err)
      assert.matches("failure_spec.lua", failure.explain(err))
      assert.same({ "a", nil, "c" }, { failure.finally(release, "second", function(...)
        return ...
      end, "a", nil, "c") })
      assert.same({ "first", "second" }, released)
      _, err = pcall(failure.finally, fault, "while cleaning up", fault, "before")
      assert.equal("while cleaning up", err)
    end)
  end)

  it("of a cancelled task says why", function()
    local _, err = pcall(failure.raise_cancelled, "client left")
    assert.is_true(failure.is_cancelled(err))
    assert.equal("cancelled: client left", tostring(err))
    assert.equal("cancelled", tostring(failure.cancelled()))
    assert.is_false(failure.is_cancelled("cancelled"))
  end)
end)
