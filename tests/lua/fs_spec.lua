local fake = require "support.fake_core"

describe("files and programs", function()
  local await, fs, exec, calls, answers

  local function record(name)
    return function(...)
      calls[#calls + 1] = { name, ... }
      return fake.op(1, unpack(table.remove(answers, 1)))
    end
  end

  before_each(function()
    fake.install()
    local core = {}
    for _, name in ipairs { "read", "write", "stat", "list", "mkdir", "remove", "rename" } do
      core[name] = record(name)
    end
    package.loaded["fasterlua.core.fs"] = core
    package.loaded["fasterlua.core.exec"] = { run = record "run" }
    calls, answers = {}, {}
    await = require("fasterlua.future").await
    fs, exec = require "fasterlua.fs", require "fasterlua.exec"
  end)

  it("are read and written by operations that begin at the call", function()
    answers = { { true, "text" }, { true }, { true } }
    fake.run(function()
      local reading, writing = fs.read("a", { size = 4 }), fs.write("b", "data")
      assert.equal(2, #calls)
      assert.equal("text", await(reading))
      await(writing)
      await(fs.append("c", "more"))
    end)
    assert.same({ { "read", "a", { size = 4 } }, { "write", "b", "data" },
      { "write", "c", "more", { append = true } } }, calls)
  end)

  it("exist or not, or fail for another reason", function()
    answers = { { true, {} }, { false, { code = "ENOENT" } }, { false, { code = "EACCES" } } }
    fake.run(function()
      assert.is_true(await(fs.exists "a"))
      assert.is_false(await(fs.exists "b"))
      local ok, err = pcall(await, fs.exists "c")
      assert.is_false(ok)
      assert.equal("EACCES", err.code)
    end)
  end)

  it("come in pieces", function()
    answers = { { true, "abc" }, { true, "d" }, { true, "" } }
    fake.run(function()
      local pieces = {}
      for piece in fs.chunks("a", 3) do
        pieces[#pieces + 1] = piece
      end
      assert.same({ "abc", "d" }, pieces)
    end)
  end)

  it("run without a shell", function()
    answers = { { true, { code = 0 } } }
    fake.run(function()
      assert.equal(0, await(exec({ "true" }, { stdin = "x" })).code)
    end)
    assert.same({ { "run", { "true" }, { stdin = "x" } } }, calls)
  end)

  it("refuse what makes no sense, with a suggestion", function()
    local function refuses(pattern, fn, ...)
      local ok, message = pcall(fn, ...)
      assert.is_false(ok)
      assert.matches(pattern, message)
    end
    refuses("fs.read: a path expected", fs.read, nil)
    refuses("fs.read: a path expected", fs.read, "a\0b")
    refuses('unknown option "ofset": did you mean "offset"', fs.read, "a", { ofset = 1 })
    refuses("fs.write: a string expected", fs.write, "a", nil)
    refuses("exec: a list", exec, {})
    refuses("argument 2 must be a string", exec, { "a", 1 })
    refuses('option "cwd" must be a string', exec, { "a" }, { cwd = 1 })
    refuses('unknown option "cdw": did you mean "cwd"', exec, { "a" }, { cdw = "x" })
  end)
end)
