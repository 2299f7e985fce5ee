local environment = require "fasterlua.environment"

local function parse(text)
  return environment.parse(text, ".env")
end

describe("an environment file", function()
  it("holds a variable per line", function()
    assert.same({ A = "1", B = "two words", C = "" }, parse "A=1\n\n  B = two words  \nC=\n")
  end)

  it("may be a shell script's exports", function()
    assert.same({ A = "1" }, parse "export A=1\r\n")
  end)

  it("has comments", function()
    assert.same({ A = "1", B = "x#y", C = "#z", D = "" },
      parse "# all\nA=1 # one\nB=x#y\nC='#z' # two\nD=# three")
  end)

  it("has quoted values", function()
    assert.same({ A = " a\n\"b\" ", B = "\\n$HOME", C = "it's" },
      parse [[
A=" a\n\"b\" "
B='\n$HOME'
C="it's"
]])
  end)

  it("gives the last of two values", function()
    assert.same({ A = "2" }, parse "A=1\nA=2")
  end)

  local wrong = {
    ["A"] = "expected KEY=VALUE",
    ["1A=2"] = '"1A" is no name of a variable',
    ["=2"] = '"" is no name of a variable',
    ["A='x"] = "the closing quote is missing",
    ["A='x'y"] = "there is text behind the closing quote",
    ["A=\0"] = "a value cannot hold a NUL byte",
  }
  for line, problem in pairs(wrong) do
    it(("says where it is wrong: %s"):format(problem), function()
      assert.same({ false, ".env:2: " .. problem }, { pcall(parse, "OK=1\n" .. line) })
    end)
  end

  it("must be there", function()
    local is_done, problem = pcall(environment.read, "/nowhere/.env")
    assert.is_false(is_done)
    local expected = "cannot read the environment file /nowhere/.env: No such file or directory"
    assert.equal(expected, problem)
  end)
end)

describe("the process' environment", function()
  it("can be read and added to", function()
    environment.set("A_NAME_FOR_THIS_SPEC", "a=b")
    assert.equal("a=b", environment.all().A_NAME_FOR_THIS_SPEC)
    assert.equal("a=b", os.getenv("A_NAME_FOR_THIS_SPEC"))
  end)
end)
