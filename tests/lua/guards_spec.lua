local fake = require "support.fake_core"

describe("the guards", function()
  local restore, raw_format

  before_each(function()
    fake.install()
    restore = fake.keep_globals()
    raw_format = string.format
    require("fasterlua.guards").install()
  end)

  after_each(function()
    restore()
  end)

  local function message_of(fn, ...)
    local ok, message = pcall(fn, ...)
    assert.is_false(ok)
    return message
  end

  it("refuse loops over a future, and let others through", function()
    local future = require("fasterlua.future").new()
    for _, loop in ipairs { pairs, ipairs } do
      local message = message_of(function() loop(future) end)
      assert.matches("guards_spec.lua:%d+: a loop over a future: did you forget await%?", message)
      assert.matches("table expected", message_of(loop, 5))
    end
    local seen = {}
    for key, value in pairs(setmetatable({ a = 1 }, { __name = "rows" })) do seen[key] = value end
    for index, value in ipairs { "x", "y" } do seen[index] = value end
    assert.same({ "x", "y", a = 1 }, seen)
  end)

  it("load text only", function()
    local bytecode = string.dump(function() return 1 end)
    assert.is_nil((load(bytecode)))
    assert.is_nil((loadstring(bytecode)))
    assert.is_nil((load(bytecode, "x", "b")))
    assert.is_nil((load(function() local piece = bytecode bytecode = nil return piece end)))
    assert.equal(7, load("return x", "chunk", nil, { x = 7 })())
    assert.equal(7, loadstring("return 7")())
    local path = os.tmpname()
    local file = assert(io.open(path, "wb"))
    file:write(string.dump(function() return 1 end))
    file:close()
    assert.is_nil((loadfile(path)))
    assert.is_false((pcall(dofile, path)))
    os.remove(path)
    assert.matches("guards_spec", message_of(function() dofile() end))
  end)

  it("keep the process and its locale", function()
    assert.matches("guards_spec.*os.exit is refused", message_of(function() os.exit(1) end))
    assert.matches("os.setlocale is refused", message_of(function() os.setlocale("C") end))
    assert.is_string(os.setlocale())
    assert.matches("sethook", message_of(function() debug.sethook() end))
  end)

  it("clear metatables, also in compiled loops, as before", function()
    local metatable = { __index = { x = 1 } }
    local object = setmetatable({}, metatable)
    assert.equal(1, object.x)
    assert.equal(object, setmetatable(object, nil))
    assert.is_nil(object.x)
    for _ = 1, 1000 do
      setmetatable({}, nil)
    end
    local protected = setmetatable({}, { __metatable = false })
    assert.matches("guards_spec.*cannot change a protected metatable",
      message_of(function() setmetatable(protected, nil) end))
    assert.matches("guards_spec.*bad argument #2 to 'setmetatable'",
      message_of(function() setmetatable({}) end))
    assert.matches("guards_spec.*bad argument #1 to 'setmetatable'",
      message_of(function() setmetatable(1, nil) end))
  end)

  it("format %g with a width as it should be", function()
    local x = 0x1.144399609d407p+401
    assert.equal("5.5733e+120", string.format("%g", x))
    assert.equal("5.5733e+120", ("%7g"):format(x))
    assert.equal("[5.573e+120    ] 7 %", ("[%-14.4g] %d %%"):format(x, 7))
    assert.equal("+005.573E+120", ("%+013.4G"):format(x))
    assert.equal("    inf", ("%07g"):format(1 / 0))
    assert.equal(" 007 nil x", ("%4s %s %s"):format("007", nil, "x"))
    assert.matches("guards_spec.*bad argument #1 to 'format'",
      message_of(function() local s = ("%7g"):format("x") return s end))
    for _, format in ipairs { "%7g", "%-9.3g", "%09g", "% 8.2g", "%+7G" } do
      for _, value in ipairs { 0, 1, -1.5, 100, 0.25, -12345 } do
        assert.equal(raw_format(format, value), string.format(format, value))
      end
    end
    for index = 1, 2500 do -- more formats than are remembered
      assert.equal("    1" .. index, ("%5g" .. index):format(1))
    end
  end)

  describe("stop recursion through C", function()
    it("of gsub with functions and tables", function()
      local function recurse() return (("x"):gsub("x", recurse)) end
      assert.matches("recursion through gsub is too deep", message_of(recurse))
      local metatable = {}
      local object = setmetatable({}, metatable)
      metatable.__index = function() return (("x"):gsub("x", object)) end
      assert.matches("recursion through gsub", message_of(string.gsub, "x", "x", object))
    end)

    it("of coroutines", function()
      local depth = 0
      local function recurse()
        depth = depth + 1
        return coroutine.wrap(recurse)()
      end
      assert.matches("recursion through coroutines is too deep", message_of(recurse))
      assert.is_true(depth > 100 and depth < 200)
      local function mixed()
        return coroutine.wrap(function() return (("x"):gsub("x", mixed)) end)()
      end
      assert.matches("is too deep", message_of(mixed))
    end)

    it("of sort", function()
      local function recurse()
        table.sort({ 1, 2, 3 }, recurse)
      end
      assert.matches("recursion through table.sort", message_of(recurse))
    end)

    it("and nothing else: errors in callbacks do not add up", function()
      for _ = 1, 1000 do
        pcall(string.gsub, "x", "x", function() error "no" end)
      end
      assert.equal("y", (("x"):gsub("x", function() return "y" end)))
      local function nest(depth)
        return depth == 0 and "z" or (("x"):gsub("x", function() return nest(depth - 1) end))
      end
      assert.equal("z", nest(100))
    end)
  end)

  it("leave gsub and sort as they were", function()
    assert.same({ "b-b", 2 }, { ("a-a"):gsub("a", { a = "b" }) })
    assert.same({ "b-a", 1 }, { ("a-a"):gsub("a", string.char, 0) and "b-a", 1 })
    assert.same({ "<a>-a", 1 }, { ("a-a"):gsub("a", function(c) return "<" .. c .. ">" end, 1) })
    local list = { 3, 1, 2 }
    table.sort(list, function(a, b) return a > b end)
    assert.same({ 3, 2, 1 }, list)
    assert.matches("guards_spec.*bad argument #3 to 'gsub'",
      message_of(function() local s = string.gsub("a", "a") return s end))
    assert.matches("guards_spec.*bad argument #1 to 'sort'",
      message_of(function() table.sort(1) end))
  end)

  it("send print and io.write to the log", function()
    print("a", nil, 7)
    io.write("b", 1, "\n")
    io.stdout:write("c"):write("d\n")
    io.stderr:write("e")
    local messages = {}
    for index, line in ipairs(fake.lines) do
      messages[index] = line.level .. " " .. line.message
    end
    assert.same({ "info a\tnil\t7", "info b1", "info c", "info d", "info e" }, messages)
  end)

  it("let wrapped coroutines fail as they did", function()
    local fail = coroutine.wrap(function() error("text", 0) end)
    assert.equal("text", message_of(fail))
    assert.matches("cannot resume dead coroutine", message_of(fail))
    local co = coroutine.create(function(...) return coroutine.yield(...) end)
    assert.same({ true, 1, 2 }, { coroutine.resume(co, 1, 2) })
    assert.same({ true, 3 }, { coroutine.resume(co, 3) })
    assert.is_false((coroutine.resume(co)))
  end)
end)
