local fake = require "support.fake_core"

describe("a report of an error", function()
  local report

  before_each(function()
    fake.install()
    package.loaded["fasterlua.report"] = nil
    report = require "fasterlua.report"
  end)

  after_each(function()
    package.loaded["fasterlua.report"] = nil
  end)

  it("is its text and its traceback", function()
    assert.equal("wrong\nstack traceback:\n\tapp.lua:3: in function",
      report.explain("wrong", "stack traceback:\n\tapp.lua:3: in function"))
    assert.equal("nil\nstack traceback:\n\tx", report.explain(nil, "stack traceback:\n\tx"))
  end)

  it("leaves out a traceback that has nothing to say", function()
    assert.equal("wrong", report.explain("wrong", "stack traceback:"))
    assert.equal("wrong", report.explain("wrong", ""))
  end)

  it("has what the database tells", function()
    local err = { kind = "db", code = "22P02", message = "invalid input", sql = "select ?::int",
      status = 500 }
    assert.equal("invalid input\n  code: 22P02\n  sql: select ?::int", report.message(err))
  end)

  it("cuts what is long", function()
    local text = report.message { message = "wrong", sql = ("x"):rep(10000) }
    assert.is_true(#text < 600)
    assert.matches("x …$", text)
  end)

  it("shows the fields of a table that the app has raised", function()
    assert.equal('{ count = 2, item = "tea", kind = "out_of_stock" }',
      report.message { kind = "out_of_stock", item = "tea", count = 2 })
    assert.equal("an empty table", report.message {})
  end)

  it("shows a dozen of them", function()
    local err = {}
    for index = 10, 40 do
      err["field" .. index] = index
    end
    local text = report.message(err)
    assert.matches("field21 = 21, … }$", text)
  end)

  it("uses tostring where the table has its own", function()
    local metatable = { __tostring = function(self) return "sold out: " .. self.item end }
    assert.equal("sold out: tea", report.message(setmetatable({ item = "tea" }, metatable)))
    metatable.__tostring = function() error("no text") end
    assert.equal("(error object that tostring cannot show)",
      report.message(setmetatable({}, metatable)))
  end)
end)
