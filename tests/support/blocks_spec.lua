local blocks = require "support.blocks"

describe("the blocks of a document", function()
  local sandbox

  before_each(function()
    sandbox = blocks.open()
  end)

  after_each(function()
    blocks.close(sandbox)
  end)

  local function run(language, text)
    return pcall(blocks.run, sandbox, { language = language, text = text, line = 7 })
  end

  local function assert_refused(pattern, language, text)
    local ok, problem = run(language, text)
    assert.is_false(ok)
    assert.matches(pattern, problem)
  end

  it("are found with their lines and languages", function()
    local path = sandbox.folder .. "/text.md"
    local file = assert(io.open(path, "w"))
    file:write("# A\n\n```sh\ntrue\n```\n\n```\nx\n```\n")
    file:close()
    local found = blocks.parse(path)
    assert.same({ "sh", "true\n", 3 }, { found[1].language, found[1].text, found[1].line })
    assert.same({ "", 7 }, { found[2].language, found[2].line })
  end)

  it("must have a language that is known", function()
    assert_refused('line 7: unknown language ""', "", "x\n")
    assert_refused('line 7: unknown language "python"', "python", "x\n")
  end)

  it("must be Lua that starts", function()
    assert_refused("boom", "lua", 'error "boom"\n')
  end)

  it("must print what they show", function()
    assert.is_true(run("lua", 'app:get("/", function() return { a = 1, b = "two" } end)\n'))
    assert.is_true(run("sh", '$ curl -s http://127.0.0.1:8000/\n{"b":"two","a":1}\n'))
    assert.is_true(run("sh", '$ curl -s http://127.0.0.1:8000/\n{"b":"t…","a":1}\n'))
    assert.is_true(run("sh",
      '$ curl -si http://127.0.0.1:8000/\nHTTP/1.1 200 OK\n…\n{"b":"two","a":1}\n'))
    assert_refused("should print", "sh", '$ curl -s http://127.0.0.1:8000/\n{"a":1}\n')
    assert_refused("should print", "sh", '$ curl -s http://127.0.0.1:8000/\n{"b":"x…","a":1}\n')
    assert_refused("should print", "sh", "$ echo one\none\ntwo\n")
  end)

  it("must end well", function()
    assert_refused("ended with 1", "sh", "false\n")
    assert_refused("ended with", "sh", "make nothing-of-that-name\n")
    assert_refused("ended with 2", "sh", "fasterlua serve apps --no-such-flag\n")
  end)

  it("must be settings that exist", function()
    assert.is_true(run("lua", "-- conf/production.lua\nreturn { port = 9000 }\n"))
    assert_refused("unknown setting", "lua", "-- conf/production.lua\nreturn { prt = 9000 }\n")
    assert_refused("unknown option", "ini", "[Service]\nExecStart=/x serve /apps --prt 9000\n")
  end)

  it("must be JSON", function()
    assert.is_true(run("json", '{"a":1}\n[2]\n'))
    assert_refused("not JSON", "json", '{"a":1\n')
  end)
end)
