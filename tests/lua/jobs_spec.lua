local fake = require "support.fake_core"

describe("jobs", function()
  local future, jobs, spawn, pieces, room, waiting_for_room

  before_each(function()
    fake.install()
    pieces, room, waiting_for_room = {}, 100, nil
    package.loaded["fasterlua.core.pool"] = {
      has_room = function()
        return #pieces < room
      end,
      wait_room = function(_, ticket)
        waiting_for_room = ticket
      end,
      emit = function(...)
        pieces[#pieces + 1] = { n = select("#", ...), ... }
      end,
    }
    package.loaded["fasterlua.jobs"] = nil
    future, jobs = require "fasterlua.future", require "fasterlua.jobs"
    spawn = require("fasterlua.task").spawn
  end)

  after_each(function()
    package.loaded["fasterlua.core.pool"], package.loaded["fasterlua.jobs"] = nil, nil
  end)

  describe("describe", function()
    it("leaves plain errors as they are", function()
      for _, err in ipairs { "text", 42, true } do
        assert.same({ err, "where", tostring(err) }, { jobs.describe(err, "where") })
      end
      local err, traceback = jobs.describe(nil, "where")
      assert.is_nil(err)
      assert.equal("where", traceback)
    end)

    it("names what cannot cross", function()
      assert.matches("^function: ", (jobs.describe(print, "")))
      assert.matches("^thread: ", (jobs.describe(coroutine.create(print), "")))
    end)

    it("takes the plain fields of a table, and its text as the message", function()
      local err = setmetatable({ kind = "odd", status = 409, fn = print, list = {}, [1] = "one" },
        { __tostring = function() return "the text" end })
      assert.same({ kind = "odd", status = 409, message = "the text" }, (jobs.describe(err, "")))
    end)

    it("keeps a message", function()
      assert.same({ message = "said" }, (jobs.describe({ message = "said" }, "")))
    end)

    it("survives a text that raises", function()
      local err = setmetatable({}, { __tostring = function() error "no" end })
      assert.same({ message = "(error object that tostring cannot show)" },
        (jobs.describe(err, "")))
    end)

    it("leaves what can cross by itself", function()
      local err = setmetatable({ seconds = 1 }, { __crossing = function() end })
      assert.equal(err, (jobs.describe(err, "")))
    end)

    it("says for the log what was raised", function()
      local function message_of(err)
        return (select(3, jobs.describe(err, "")))
      end
      assert.equal("text", message_of "text")
      assert.equal("nil", message_of(nil))
      assert.equal("said", message_of { message = "said", code = 7 })
      assert.equal('{ kind = "odd" }', message_of { kind = "odd" })
      assert.equal("the text", message_of(setmetatable({}, {
        __crossing = function() end, __tostring = function() return "the text" end })))
      assert.matches("^function: ", message_of(print))
    end)

    it("says nothing for the log where there is no text", function()
      local err = setmetatable({ kind = "odd" }, { __tostring = function() return {} end })
      local copy, traceback, message = jobs.describe(err, "where")
      assert.equal("odd", copy.kind)
      assert.equal("where", traceback)
      assert.is_nil(message)
    end)

    it("joins the tracebacks of what the job awaited", function()
      fake.run(function()
        local failing = spawn(function() error({ kind = "inner" }, 0) end)
        local ok, err = pcall(future.await, failing)
        assert.is_false(ok)
        local _, traceback = jobs.describe(err, "the job")
        assert.matches("jobs_spec.lua.*\nawaited by\nthe job$", traceback)
      end)
    end)
  end)

  it("maps a list in order, nil results among them", function()
    local results = jobs.map(function(i)
      return i ~= 2 and i * 10 or nil
    end, { 1, 2, 3 })
    assert.equal(10, results[1])
    assert.is_nil(results[2])
    assert.equal(30, results[3])
  end)

  describe("drive", function()
    it("emits what is yielded and returns what is returned", function()
      local seen = {}
      local function emit(...)
        seen[#seen + 1] = { ... }
      end
      local a, b = jobs.drive(emit, function(x, y)
        coroutine.yield(x)
        coroutine.yield(y, "two", "three")
        return "a", "b"
      end, 1, 2)
      assert.same({ { 1 }, { 2, "two", "three" } }, seen)
      assert.same({ "a", "b" }, { a, b })
    end)

    it("takes no more stack for many pieces than for one", function()
      local count = 0
      jobs.drive(function() count = count + 1 end, function()
        for i = 1, 100000 do
          coroutine.yield(i)
        end
      end)
      assert.equal(100000, count)
    end)

    it("raises the function's error, with its traceback", function()
      local err = { kind = "odd" }
      local ok, raised = pcall(jobs.drive, function() end, function() error(err) end)
      assert.is_false(ok)
      assert.equal(err, raised)
      assert.matches("jobs_spec.lua", require("fasterlua.failure").explain(err))
    end)

    it("raises the error of whoever takes the pieces", function()
      local ok, raised = pcall(jobs.drive, function() error("not taken", 0) end, function()
        coroutine.yield(1)
      end)
      assert.is_false(ok)
      assert.equal("not taken", raised)
    end)
  end)

  describe("stream", function()
    it("gives the pieces to C, and returns nothing", function()
      assert.equal(0, select("#", jobs.stream(function(to)
        for i = 1, to do
          coroutine.yield(i, nil)
        end
        return "dropped"
      end, 3)))
      assert.same({ { 1, n = 2 }, { 2, n = 2 }, { 3, n = 2 } }, pieces)
    end)

    it("refuses nil, which would end the reader's loop", function()
      for _, values in ipairs { { n = 0 }, { nil, 1, n = 2 } } do
        local ok, err = pcall(jobs.stream, function()
          coroutine.yield(unpack(values, 1, values.n))
        end)
        assert.is_false(ok)
        assert.matches("a stream cannot yield nil", err)
      end
    end)

    it("waits while there is no room, and goes on when there is", function()
      fake.run(function()
        room = 2
        local wake = require("fasterlua.core.task").wake
        local producer = spawn(jobs.stream, function()
          for i = 1, 4 do
            coroutine.yield(i)
          end
        end)
        future.await(future.sleep(1))
        assert.equal(2, #pieces)
        assert.is_number(waiting_for_room)
        wake(waiting_for_room) -- for nothing: it waits again
        future.await(future.sleep(1))
        assert.equal(2, #pieces)
        room = 100
        wake(waiting_for_room)
        future.await(producer)
        assert.equal(4, #pieces)
      end)
    end)

    it("ends when its task is cancelled while it waits", function()
      fake.run(function()
        room = 0
        local producer = spawn(jobs.stream, function()
          coroutine.yield(1)
        end)
        future.await(future.sleep(1))
        producer:cancel()
        local ok, err = pcall(future.await, producer)
        assert.is_false(ok)
        assert.equal("cancelled", err.kind)
        assert.equal(0, #pieces)
      end)
    end)
  end)
end)
