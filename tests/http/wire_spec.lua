-- Every case of wire_cases.lua on a connection of its own.

local support = require "support"
local wire = require "http.wire_cases"

local function allowed_text(allowed)
  local words = {}
  for i, status in ipairs(allowed) do words[i] = status and tostring(status) or "no answer" end
  return table.concat(words, " or ")
end

local function expect_answer(client, case, allowed)
  allowed = type(allowed) == "table" and allowed or { allowed }
  local answer, reason = client:response { method = case.method }
  local status = answer and answer.status or false
  for _, one in ipairs(allowed) do
    if one == status then return answer end
  end
  error(("the answer is %s, not %s"):format(status or "none: " .. reason, allowed_text(allowed)), 0)
end

-- Bytes of an error that the server misread as the start of a request would be answered here, or
-- would spoil the probe.
local function expect_kept(client)
  local answer, reason = client:request { path = "/probe" }
  assert.is_truthy(answer, "the connection is not kept: " .. tostring(reason))
  assert.equal("200 probe", answer.status .. " " .. answer.body)
end

local function expect_closed(client)
  local is_closed, how = client:closed(2)
  assert.is_true(is_closed, "the connection is not closed: " .. how)
end

local function expect_silence(client)
  local bytes = client:receive(nil, 0.05)
  assert.is_nil(bytes, "a second answer")
end

local function expect_fate(client, fate)
  if fate == "keep" then expect_kept(client)
  elseif fate == "close" then expect_closed(client)
  else expect_silence(client) end
end

-- A server that has refused a request need not take the rest of it: what send says is no matter.
local function play(client, case)
  client:send(case[3])
  if case.half_close then client:half_close() end
  for _ = 1, case.before or 0 do expect_answer(client, {}, 200) end
  local answer = expect_answer(client, case, case[4])
  if case.then_send then
    client:send(case.then_send)
    answer = expect_answer(client, case, case.then_status)
  end
  if case.body and answer.status == 200 then assert.equal(case.body, answer.body) end
  expect_fate(client, case[5])
end

support.describe_server("on the wire,", { app = wire.app }, function(get_server)
  for _, group in ipairs(wire.groups) do
    describe(group.title, function()
      for _, case in ipairs(group) do
        it(("%s (RFC %s)"):format(case[1], case[2]), function()
          play(get_server():connect(), case)
        end)
      end
    end)
  end

  it("has enough cases", function()
    local count = 0
    for _, group in ipairs(wire.groups) do count = count + #group end
    assert.is_true(count >= 140)
  end)
end)
