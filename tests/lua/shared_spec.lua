local fake = require "support.fake_core"

describe("shared", function()
  local future, combine, leases, shared, await, spawn, sleep, cache
  local count = 0

  before_each(function()
    fake.install()
    future, shared = require "fasterlua.future", require "fasterlua.shared"
    combine, leases = require "fasterlua.combine", require "fasterlua.lease"
    await, spawn, sleep = future.await, require("fasterlua.task").spawn, future.sleep
    count = count + 1
    cache = shared.open("cache " .. count, { bytes = "64KB" })
  end)

  -- The error that fn(...) raises.
  local function problem(fn, ...)
    local ok, err = pcall(fn, ...)
    assert.is_false(ok, "no error")
    return tostring(err)
  end

  -- Until the real clock has moved by so many seconds.
  local function pass(seconds)
    local core = require "fasterlua.core.shared"
    local last = core.clock() + seconds
    repeat until core.clock() > last
  end

  describe("a dictionary", function()
    it("keeps numbers, booleans, strings and tables", function()
      for _, value in ipairs { 0, -0.5, 2 ^ 53, math.huge, true, false, "", "a\0b",
        ("x"):rep(9000), { 1, 2, { deep = { "yes" } } } } do
        cache:set("key", value)
        assert.same(value, cache:get("key"))
      end
      assert.is_nil(cache:get("none"))
    end)

    it("copies tables", function()
      local list = { 1 }
      cache:set("list", list)
      list[1] = 2
      assert.same({ 1 }, cache:get("list"))
      assert.are_not.equal(cache:get("list"), cache:get("list"))
    end)

    it("adds and replaces", function()
      assert.is_false(cache:replace("a", 1))
      assert.is_true(cache:add("a", 1))
      assert.is_false(cache:add("a", 2))
      assert.equal(1, cache:get("a"))
      assert.is_true(cache:replace("a", "x"))
      assert.equal("x", cache:get("a"))
      assert.is_true(cache:delete("a"))
      assert.is_false(cache:delete("a"))
    end)

    it("counts", function()
      assert.equal(1, cache:incr("n"))
      assert.equal(3, cache:incr("n", 2))
      assert.equal(2.5, cache:incr("n", -0.5))
      assert.equal(11, cache:incr("m", 1, 10))
      assert.equal(2.5, cache:get("n"))
    end)

    it("forgets", function()
      cache:set("a", 1, 0.02)
      cache:incr("n", 1, 0, 0.02)
      cache:set("b", 1)
      assert.is_true(cache:ttl("a") > 0 and cache:ttl("a") <= 0.02)
      assert.equal(math.huge, cache:ttl("b"))
      assert.is_nil(cache:ttl("c"))
      assert.is_true(cache:expire("b", 60))
      assert.is_false(cache:expire("c", 60))
      assert.is_true(cache:ttl("b") > 50)
      pass(0.03)
      assert.is_nil(cache:get("a"))
      assert.is_nil(cache:get("n"))
      assert.equal(1, cache:get("b"))
    end)

    it("lists and clears", function()
      for index = 1, 5 do
        cache:set("a" .. index, index)
        cache:set("b" .. index, index)
      end
      local keys = cache:keys("a")
      table.sort(keys)
      assert.same({ "a1", "a2", "a3", "a4", "a5" }, keys)
      assert.equal(10, #cache:keys())
      assert.equal(3, #cache:keys("b", 3))
      assert.equal(10, cache:stats().entries)
      cache:clear()
      assert.same({}, cache:keys())
      assert.equal(0, cache:stats().entries)
    end)

    it("tells hits, misses and what was evicted", function()
      cache:set("a", ("x"):rep(20000))
      cache:get("a")
      cache:get("b")
      for index = 1, 4 do
        cache:set(tostring(index), ("x"):rep(20000))
      end
      local stats = cache:stats()
      assert.same({ 1, 1, 65536, 0 }, { stats.hits, stats.misses, stats.bytes, stats.emptied })
      assert.is_true(stats.evicted >= 2)
      assert.is_nil(cache:get("a"))
      assert.equal(20000, #cache:get("4"))
    end)

    it("is the same one for all who open the name", function()
      local other = shared.open(cache:name())
      other:set("a", 1)
      assert.equal(1, cache:get("a"))
      assert.equal(("fasterlua.shared (%s)"):format(cache:name()), tostring(other))
    end)

    it("crosses to other states by its name", function()
      local module, name = getmetatable(cache).__crossing(cache)
      cache:set("a", 7)
      assert.equal(7, require(module).from_crossing(name):get("a"))
    end)
  end)

  describe("mistakes", function()
    local function says(text, fn, ...)
      local message = problem(fn, ...)
      assert.is_truthy(message:find(text, 1, true), message)
    end

    it("in opening are told", function()
      says("shared: a name expected, got a nil", shared.open)
      says('unknown option "byts": did you mean "bytes"?', shared.open, "x", { byts = 1 })
      says("bytes must be a size", shared.open, "x", { bytes = "4 apples" })
      says("bytes must be a size", shared.open, "x", { bytes = {} })
      says("from 65536 to", shared.open, "x", { bytes = 1000 })
      says("has 65536 bytes, not 1048576", shared.open, cache:name(), { bytes = "1MB" })
      says("from 65536 bytes expected, got 0", shared.open, "x", { bytes = 0 })
      says("from 65536 bytes expected", shared.open, "x", { bytes = "9999999999GB" })
      shared.open("large " .. count, { bytes = "40GB" })
      says("of the setting shared_memory", shared.open, "x", { bytes = "40GB" })
      says("the server's own", shared.open, "fasterlua.schedule")
      says("a name of 1 to 64 bytes", shared.open, "")
      says("shared_spec.lua:", function() shared.open("x", { bytes = 1 }) end)
    end)

    it("in keys and values are told", function()
      says("a key must be a string, got number", cache.get, cache, 1)
      says("a key must be a string, got nil", cache.set, cache, nil, 1)
      says("a key has 250 bytes at most, got one of 251", cache.get, cache, ("k"):rep(251))
      says('key "a": the value is nil: to remove it, use delete', cache.set, cache, "a", nil)
      says('the value of "a".x is a function', cache.set, cache, "a", { x = print })
      says('key "a": a value of 70000 bytes is more than', cache.set, cache, "a", ("x"):rep(70000))
      says("a dictionary expected, got table: a method has been called with a dot", cache.get, {},
        "a")
    end)

    it("in numbers are told", function()
      cache:set("text", "x")
      cache:set("large", 2 ^ 53)
      says('key "text": it holds no number', cache.incr, cache, "text")
      says('key "large": the sum is too large', cache.incr, cache, "large")
      says("a finite number expected, got nan", cache.incr, cache, "n", 0 / 0)
      says("a finite number expected, got string", cache.incr, cache, "n", "x")
      for _, ttl in ipairs { 0, -1, "x", 0 / 0 } do
        says('a ttl must be seconds above 0 and up to 1e9, or a time as "5m"', cache.set, cache,
          "a", 1, ttl)
      end
      says('or a time as "5m", got no value', cache.expire, cache, "a")
      says("a limit from 1 to", cache.keys, cache, "", 0)
      assert.is_nil(cache:get("n"))
    end)

    it("in locks and get_or_set are told", function()
      says('lock: a ttl must be seconds above 0 and up to 1e9, or a time as "5m", got nil',
        cache.lock, cache, "a")
      says("lock: a key must be a string", cache.lock, cache, nil, 1)
      says('unknown option "wiat": did you mean "wait"?', cache.lock, cache, "a", 1, { wiat = 1 })
      says("wait must be seconds from 0", cache.lock, cache, "a", 1, { wait = -1 })
      says("with: a function expected, got a nil", cache.with, cache, "a", 1)
      says("get_or_set: a function expected, got a number", cache.get_or_set, cache, "a", 1, 2)
      says("get_or_set: a ttl", cache.get_or_set, cache, "a", 0, print)
      assert.equal(0, cache:stats().leases)
    end)
  end)

  describe("get_or_set", function()
    it("calls the function once for all who ask, with its arguments", function()
      local calls = 0
      local function make(...)
        calls = calls + 1
        await(sleep(1))
        return { ... }
      end
      fake.run(function()
        local asked = {}
        for index = 1, 20 do
          asked[index] = cache:get_or_set("key", 60, make, 1, "two")
        end
        for _, result in ipairs(await(combine.gather(asked))) do
          assert.same({ 1, "two" }, result)
        end
        assert.same({ 1, "two" }, await(cache:get_or_set("key", 60, make)))
      end)
      assert.equal(1, calls)
      assert.is_true(cache:ttl("key") > 50)
      assert.equal(0, cache:stats().leases)
    end)

    it("gives an error to the caller that it happened to, and goes on with the next", function()
      local calls = 0
      local function make()
        calls = calls + 1
        await(sleep(0.1))
        if calls < 3 then
          error { kind = "odd" }
        end
        return "made"
      end
      fake.run(function()
        local asked = {}
        for index = 1, 5 do
          asked[index] = cache:get_or_set("key", 60, make)
        end
        local failed = 0
        for _, result in ipairs(await(combine.all_settled(asked))) do
          failed = failed + (result.ok and 0 or 1)
          assert.equal(result.ok and "made" or "odd", result.value or result.error.kind)
        end
        assert.equal(2, failed)
      end)
      assert.equal(3, calls)
    end)

    it("goes on with the next when the caller is cancelled", function()
      fake.run(function()
        local first = cache:get_or_set("key", 60, function() await(sleep(1000)) end)
        await(sleep(0.01))
        local second = cache:get_or_set("key", 60, function() return "second" end)
        await(sleep(0.05))
        assert.is_false(second:done())
        first:cancel()
        assert.equal("second", await(second))
      end)
    end)

    it("returns false and keeps it, returns nil and does not", function()
      fake.run(function()
        assert.is_false(await(cache:get_or_set("no", nil, function() return false end)))
        assert.is_false(await(cache:get_or_set("no", nil, error)))
        assert.is_nil(await(cache:get_or_set("nil", nil, function() end)))
        assert.equal(1, await(cache:get_or_set("nil", nil, function() return 1 end)))
      end)
    end)

    it("goes on with the next when whoever makes it has died", function()
      local core = require "fasterlua.core.shared"
      assert.is_number(core.take(cache, "flight", "key", 0.05))
      fake.run(function()
        assert.equal("made", await(cache:get_or_set("key", 60, function() return "made" end)))
      end)
    end)

    it("may take longer than a lease", function()
      leases.TTL, leases.BEAT = 0.3, 0.02
      fake.run(function()
        local first = cache:get_or_set("key", 60, function()
          for _ = 1, 20 do
            pass(0.02)
            await(sleep(0.02))
          end
          return "first"
        end)
        await(sleep(0.001))
        assert.equal("first", await(cache:get_or_set("key", 60, error)))
        assert.equal("first", await(first))
      end)
    end)
  end)

  describe("a lock", function()
    it("lets in one at a time", function()
      local inside, seen = 0, 0
      fake.run(function()
        local tasks = {}
        for index = 1, 10 do
          tasks[index] = spawn(cache.with, cache, "job", 60, function(...)
            inside, seen = inside + 1, seen + 1
            assert.equal(1, inside)
            await(sleep(0.1))
            inside = inside - 1
            return ...
          end, index)
        end
        local results = await(combine.gather(tasks))
        assert.equal(10, #results)
        assert.equal(7, results[7])
      end)
      assert.equal(10, seen)
      assert.equal(0, cache:stats().leases)
    end)

    it("is a lease with a token that grows", function()
      fake.run(function()
        local first = await(cache:lock("job", 60))
        assert.is_true(first:is_held())
        assert.is_true(first:extend(70))
        assert.is_true(first:release())
        assert.is_false(first:release())
        assert.is_false(first:is_held())
        assert.is_false(first:extend(60))
        local second = await(cache:lock("job", 60))
        assert.is_true(second.token > first.token)
        assert.is_false(first:release())
        assert.is_true(second:is_held())
        second:release()
      end)
    end)

    it("ends with its ttl", function()
      fake.run(function()
        local first = await(cache:lock("job", 0.05))
        local second = await(cache:lock("job", 60))
        assert.is_false(first:is_held())
        assert.is_true(second:is_held())
        second:release()
      end)
    end)

    it("is waited for as long as was said", function()
      fake.run(function()
        local held = await(cache:lock("job", 60))
        assert.is_nil(await(cache:lock("job", 60, { wait = 0 })))
        local core = require "fasterlua.core.shared"
        local before = core.clock()
        assert.is_nil(await(cache:lock("job", 60, { wait = 0.05 })))
        assert.is_true(core.clock() - before >= 0.05)
        held:release()
        local lease = await(cache:lock("job", 60, { wait = 0 }))
        assert.is_true(lease:is_held())
        lease:release()
      end)
    end)

    it("is given back by who was cancelled before it got it", function()
      fake.run(function()
        local lock = cache:lock("job", 60)
        lock:cancel()
        assert.equal(0, cache:stats().leases)
        local held = await(cache:lock("job", 60))
        local waiting = cache:lock("job", 60)
        await(sleep(0.01))
        held:release()
        await(sleep(1)) -- it has it by now, but nobody has seen it
        waiting:cancel()
      end)
      assert.equal(0, cache:stats().leases)
    end)

    it("is released by errors, and has nothing to do with the value of its name", function()
      cache:set("job", "value")
      fake.run(function()
        local ok, err = pcall(cache.with, cache, "job", 60, function() error("oh", 0) end)
        assert.same({ false, "oh" }, { ok, err })
        cache:clear()
        local lease = await(cache:lock("job", 60))
        cache:clear()
        assert.is_true(lease:is_held())
        lease:release()
      end)
    end)
  end)
end)
