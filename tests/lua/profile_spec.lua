describe("a profile", function()
  local profile, answer

  before_each(function()
    package.loaded["fasterlua.core.admin_client"] = {
      request = function() return unpack(answer) end,
    }
    package.loaded["fasterlua.profile"] = nil
    profile = require "fasterlua.profile"
  end)

  after_each(function()
    package.loaded["fasterlua.core.admin_client"], package.loaded["fasterlua.profile"] = nil, nil
  end)

  it("tells what all samples were taken of", function()
    local result = profile.parse("# app=shop thread=0 seconds=5 interval_ms=4 compiled=40 c=10\n"
      .. "GET /;total app.lua:3 50\n[other apps] 20\n[server] 30\n")
    assert.equal("5 s, 100 samples, at most one in 4 ms of processor time: compiled 40 %, "
      .. "C functions 10 %, other apps 20 %, the server 30 %", profile.describe(result))
  end)

  it("says what the server says, and which status it answers when it says nothing", function()
    answer = { 400, "which app? There are a, b" }
    assert.same({ nil, "which app? There are a, b" }, { profile.take("x", { seconds = 1 }) })
    answer = { 502, "" }
    assert.same({ nil, "the answer has status 502" }, { profile.take("x", { seconds = 1 }) })
    answer = { nil, "refused" }
    local result, problem = profile.take("x", { seconds = 1 })
    assert.is_nil(result)
    assert.matches("^no answer at x: refused\n.*serve %-%-admin ADDRESS", problem)
  end)
end)
