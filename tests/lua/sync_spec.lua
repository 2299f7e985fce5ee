local fake = require "support.fake_core"

describe("sync", function()
  local combine, sync, await, spawn, sleep, seen

  before_each(function()
    fake.install()
    local future = require "fasterlua.future"
    combine, sync = require "fasterlua.combine", require "fasterlua.sync"
    await, spawn, sleep = future.await, require("fasterlua.task").spawn, future.sleep
    seen = {}
  end)

  local function note(value)
    seen[#seen + 1] = value
  end

  describe("a lock", function()
    it("lets in one at a time, first come first served", function()
      fake.run(function()
        local lock, tasks = sync.lock(), {}
        for index = 1, 3 do
          tasks[index] = spawn(lock.with, lock, function()
            note("in " .. index)
            await(sleep(1))
            note("out " .. index)
          end)
        end
        await(combine.gather(tasks))
        assert.same({ "in 1", "out 1", "in 2", "out 2", "in 3", "out 3" }, seen)
        assert.is_false(lock:is_locked())
      end)
    end)

    it("returns what the function returns, and is released by errors, which keep their traceback",
      function()
        fake.run(function()
          local lock = sync.lock()
          assert.same({ 1, 2 }, { lock:with(function(...) return ... end, 1, 2) })
          local err = { kind = "odd" }
          local ok, raised = pcall(lock.with, lock, function() error(err) end)
          assert.is_false(ok)
          assert.equal(err, raised)
          assert.matches("sync_spec.lua", require("fasterlua.failure").explain(err))
          assert.is_false(lock:is_locked())
        end)
      end)

    it("passes over waiters that were cancelled", function()
      fake.run(function()
        local lock = sync.lock()
        await(lock:acquire())
        local a = spawn(function() await(lock:acquire()) note "a" end)
        local b = spawn(function() await(lock:acquire()) note "b" lock:release() end)
        await(sleep(1))
        a:cancel()
        lock:release()
        await(b)
        assert.same({ "b" }, seen)
        assert.is_false(lock:is_locked())
      end)
    end)

    it("goes to the next when the one it was handed to is cancelled before it resumes", function()
      fake.run(function()
        local lock = sync.lock()
        await(lock:acquire())
        local a = spawn(function() await(lock:acquire()) note "a" end)
        local b = spawn(function() await(lock:acquire()) note "b" lock:release() end)
        await(sleep(1))
        lock:release() -- handed to a, which has not run yet
        a:cancel()
        await(b)
        assert.same({ "b" }, seen)
        assert.is_false(lock:is_locked())
      end)
    end)

    it("is given back when a timeout or race around it is cancelled in that moment", function()
      fake.run(function()
        local lock = sync.lock()
        await(lock:acquire())
        local a = spawn(function() await(combine.timeout(9, lock:acquire())) note "a" end)
        local b = spawn(function() await(combine.race(lock:acquire(), sleep(9))) note "b" end)
        await(sleep(1))
        lock:release()
        a:cancel()
        b:cancel()
        await(sleep(1))
        assert.same({}, seen)
        assert.is_false(lock:is_locked())
      end)
    end)

    it("is kept by who got it through a timeout", function()
      fake.run(function()
        local lock = sync.lock()
        local permit = lock:acquire()
        await(combine.timeout(9, permit))
        assert.is_false(permit:cancel())
        assert.is_true(lock:is_locked())
        assert.is_false(lock:try())
        lock:release()
        assert.has_error(function() lock:release() end, "lock: released more often than acquired")
      end)
    end)

    it("times out", function()
      fake.run(function()
        local lock = sync.lock()
        await(lock:acquire())
        local ok, err = pcall(await, combine.timeout(2, lock:acquire()))
        assert.is_false(ok)
        assert.equal("timeout", err.kind)
        lock:release()
        assert.is_false(lock:is_locked())
      end)
    end)

    it("forgets many cancelled waiters", function()
      fake.run(function()
        local lock = sync.lock()
        await(lock:acquire())
        for _ = 1, 1000 do
          lock:acquire():cancel()
        end
        local waiters = lock._waiters
        assert.is_true(waiters.last - waiters.first < 40)
      end)
    end)
  end)

  it("a semaphore lets in so many", function()
    fake.run(function()
      local semaphore, tasks = sync.semaphore(2), {}
      for index = 1, 4 do
        tasks[index] = spawn(semaphore.with, semaphore, sleep, 0)
      end
      assert.is_true(semaphore:try())
      semaphore:release()
      await(combine.gather(tasks))
      assert.has_error(function() sync.semaphore(0) end)
    end)
  end)

  describe("a queue", function()
    it("keeps the order and holds back who puts too much", function()
      fake.run(function()
        local queue = sync.queue(2)
        local producer = spawn(function()
          for index = 1, 5 do
            await(queue:put(index))
            note("put " .. index)
          end
          queue:close()
        end)
        await(sleep(1))
        assert.same({ "put 1", "put 2" }, seen)
        local items = {}
        while true do
          local ok, item = pcall(await, queue:get())
          if not ok then
            assert.equal("queue_closed", item.kind)
            break
          end
          items[#items + 1] = item
        end
        assert.same({ 1, 2, 3, 4, 5 }, items)
        assert.is_true(producer:done())
      end)
    end)

    it("hands an item on when the one that got it is cancelled before it resumes", function()
      fake.run(function()
        local queue = sync.queue()
        local a = spawn(function() note("a " .. await(queue:get())) end)
        local b = spawn(function() note("b " .. await(queue:get())) end)
        await(sleep(1))
        queue:put("x")
        a:cancel()
        await(b)
        assert.same({ "b x" }, seen)
        queue:put("y")
        local c = spawn(function() note("c " .. await(queue:get())) end)
        await(c)
        assert.equal("c y", seen[2])
        assert.equal(0, queue:size())
      end)
    end)

    it("takes nil", function()
      fake.run(function()
        local queue = sync.queue(1)
        await(queue:put(nil))
        assert.is_nil(await(queue:get()))
      end)
    end)
  end)

  it("an event wakes all who wait, in order", function()
    fake.run(function()
      local event, tasks = sync.event(), {}
      for index = 1, 3 do
        tasks[index] = spawn(function() await(event:wait()) note(index) end)
      end
      await(sleep(1))
      assert.same({}, seen)
      event:set()
      await(combine.gather(tasks))
      assert.same({ 1, 2, 3 }, seen)
      await(event:wait())
      event:clear()
      assert.is_false(event:is_set())
      assert.is_false(event:wait():done())
    end)
  end)
end)
