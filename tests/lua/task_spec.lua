local fake = require "support.fake_core"

describe("a task", function()
  local future, task, await, spawn, sleep

  before_each(function()
    fake.install()
    future, task = require "fasterlua.future", require "fasterlua.task"
    await, spawn, sleep = future.await, task.spawn, future.sleep
  end)

  it("that is cancelled before it has begun never starts", function()
    local begun = false
    fake.run(function()
      spawn(function() begun = true end):cancel()
    end)
    assert.is_false(begun)
  end)

  it("ends with its request", function()
    local reason
    fake.run(function()
      spawn(function()
        local _, err = pcall(await, sleep(100))
        reason = err.reason
      end)
      await(sleep(1))
    end)
    assert.equal("request ended", reason)
  end)

  it("is not interrupted inside shield", function()
    local log = {}
    fake.run(function()
      local f = spawn(function()
        log[1] = task.shield(function(value)
          await(sleep(2))
          return value
        end, "cleaned")
        log[2] = (pcall(await, sleep(1)))
      end)
      await(sleep(1))
      f:cancel()
      await(sleep(5))
    end)
    assert.same({ "cleaned", false }, log)
  end)

  it("of async starts when its function is called", function()
    fake.run(function()
      local add = task.async(function(a, b) return a + b end)
      local f = add(1, 2)
      assert.is_true(future.is_future(f))
      assert.equal(3, await(f))
    end)
  end)
end)
