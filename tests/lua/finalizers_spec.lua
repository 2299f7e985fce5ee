local fake = require "support.fake_core"

describe("finalizers", function()
  local restore, calls, restore_ffi

  before_each(function()
    fake.install()
    restore = fake.keep_globals()
    local ffi = require "ffi"
    local gc, metatype = ffi.gc, ffi.metatype
    restore_ffi = function()
      ffi.gc, ffi.metatype = gc, metatype
    end
    require("fasterlua.finalizers").install()
    calls = {}
  end)

  after_each(function()
    restore()
    restore_ffi()
  end)

  local function collect()
    collectgarbage()
    collectgarbage()
  end

  local function note(object)
    calls[#calls + 1] = type(object)
  end

  local function fail()
    error "in a finalizer"
  end

  it("of proxies run, and their errors are logged", function()
    getmetatable(newproxy(true)).__gc = note
    getmetatable(newproxy(true)).__gc = fail
    collect()
    assert.same({ "userdata" }, calls)
    assert.matches("in a finalizer", fake.unhandled[1].error)
  end)

  it("of cdata run, and their errors are logged", function()
    local ffi = require "ffi"
    ffi.gc(ffi.new "char[1]", note)
    ffi.gc(ffi.new "char[1]", fail)
    ffi.gc(ffi.gc(ffi.new "char[1]", fail), nil)
    local made = ffi.metatype("struct { int fl_test_finalizers; }", { __gc = fail })
    made()
    collect()
    assert.same({ "cdata" }, calls)
    assert.equal(2, #fake.unhandled)
  end)

  it("leave everything else as it was", function()
    local plain, first = newproxy(), newproxy(true)
    assert.is_nil(getmetatable(plain))
    getmetatable(first).__index = { x = 7 }
    getmetatable(first).__len = function() return 3 end
    local second = newproxy(first)
    assert.equal(7, second.x)
    assert.equal(3, #second)
    assert.equal(getmetatable(first), getmetatable(second))
    assert.has_error(function() newproxy(7) end)
  end)
end)
