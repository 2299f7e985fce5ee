-- Every block of the README is run. support.blocks says how.

local blocks = require "support.blocks"

blocks.describe "README.md"

describe("the README", function()
  it("names only files that are there", function()
    local file = assert(io.open("README.md"))
    local text = file:read("*a")
    file:close()
    for path in text:gmatch("%]%(([%w_./-]+)%)") do
      assert.is_truthy(io.open(path), path)
    end
  end)
end)
