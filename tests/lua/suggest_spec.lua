local suggest = require "fasterlua.suggest"

describe("suggest", function()
  it("counts letters inserted, deleted, replaced and swapped", function()
    assert.equal(0, suggest.distance("port", "port"))
    assert.equal(1, suggest.distance("prt", "port"))
    assert.equal(1, suggest.distance("porrt", "port"))
    assert.equal(1, suggest.distance("pork", "port"))
    assert.equal(1, suggest.distance("prot", "port"))
    assert.equal(3, suggest.distance("", "abc"))
    assert.equal(3, suggest.distance("abc", ""))
    assert.equal(3, suggest.distance("kitten", "sitting"))
  end)

  it("finds the word that was meant", function()
    local words = { "host", "port", "workers", "access_log" }
    assert.equal("port", suggest.nearest("prot", words))
    assert.equal("workers", suggest.nearest("wokrers", words))
    assert.equal("access_log", suggest.nearest("acces_logs", words))
  end)

  it("finds nothing when no word is near", function()
    assert.is_nil(suggest.nearest("colour", { "host", "port" }))
    assert.is_nil(suggest.nearest("port", {}))
    assert.is_nil(suggest.nearest("", { "host" }))
  end)

  it("takes the first in the alphabet of equally near words", function()
    assert.equal("cat", suggest.nearest("bat", { "rat", "cat", "hat" }))
  end)

  it("ends a message", function()
    assert.equal(': did you mean "port"?', suggest.hint("prot", { "host", "port" }))
    assert.equal("", suggest.hint("colour", { "host", "port" }))
  end)
end)
