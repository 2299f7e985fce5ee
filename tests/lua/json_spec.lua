local json = require "fasterlua.json"

local function same(text)
  assert.are.equal(text, json.encode(json.decode(text)))
end

local function encode_error(value)
  local ok, message = pcall(json.encode, value)
  assert.is_false(ok)
  return message
end

local function decode_error(text)
  local ok, message = pcall(json.decode, text)
  assert.is_false(ok)
  return message
end

describe("json.encode", function()
  it("writes scalars", function()
    assert.are.equal("null", json.encode(nil))
    assert.are.equal("null", json.encode(json.null))
    assert.are.equal("true", json.encode(true))
    assert.are.equal("12", json.encode(12))
    assert.are.equal('"text"', json.encode("text"))
  end)

  it("asks for a value", function()
    assert.has_error(function() json.encode() end)
  end)

  it("keeps every digit of an integer", function()
    assert.are.equal("1763754000123456", json.encode(1763754000123456))
    assert.are.equal("9007199254740992", json.encode(2 ^ 53))
    assert.are.equal("-9223372036854775808", json.encode(-9223372036854775807LL - 1))
    assert.are.equal("18446744073709551615", json.encode(18446744073709551615ULL))
  end)

  it("writes the shortest decimal that reads back the same", function()
    assert.are.equal("0.1", json.encode(0.1))
    assert.are.equal("0.30000000000000004", json.encode(0.1 + 0.2))
    assert.are.equal("19.99", json.encode(19.99))
    assert.are.equal("1e+300", json.encode(1e300))
  end)

  it("escapes only what must be escaped", function()
    assert.are.equal([["a/b \"c\" \\ \n\u0001 grün"]], json.encode('a/b "c" \\ \n\1 grün'))
  end)

  it("tells lists from objects by their keys", function()
    assert.are.equal("[1,2,3]", json.encode({ 1, 2, 3 }))
    assert.are.equal('{"a":[true]}', json.encode({ a = { true } }))
  end)

  it("writes an empty table as an object unless it is marked", function()
    assert.are.equal("{}", json.encode({}))
    assert.are.equal("[]", json.encode(json.array({})))
    assert.are.equal('{"rows":[]}', json.encode({ rows = json.array() }))
  end)

  it("reads tables as they are, without metamethods", function()
    local noisy = setmetatable({ a = 1 }, { __index = error, __len = error, __pairs = error })
    assert.are.equal('{"a":1}', json.encode(noisy))
  end)

  it("names the place of what it cannot write", function()
    local message = encode_error({ items = { 1, 2, { name = print } } })
    assert.matches("cannot encode items[3].name: a function", message, 1, true)
    message = encode_error({ user = { name = "\255" } })
    assert.matches("cannot encode user.name: invalid UTF-8", message, 1, true)
    assert.matches("a thread", encode_error({ coroutine.create(print) }), 1, true)
    assert.matches("a userdata", encode_error({ io.stdout }), 1, true)
  end)

  it("refuses numbers that JSON has no word for", function()
    assert.matches("NaN", encode_error(0 / 0), 1, true)
    assert.matches("infinite", encode_error(math.huge), 1, true)
    assert.matches("infinite", encode_error(-math.huge), 1, true)
  end)

  it("refuses holes and mixed keys", function()
    assert.matches("a list with holes", encode_error({ 1, nil, 3 }), 1, true)
    assert.matches("a table with mixed keys", encode_error({ 1, 2, a = 3 }), 1, true)
    assert.matches("neither strings nor 1 to n", encode_error({ [true] = 1 }), 1, true)
  end)

  it("refuses a cycle and shows how it goes", function()
    local node = {}
    node.next = node
    local message = encode_error({ first = node })
    assert.matches("first.next.next", message, 1, true)
    assert.matches("a cycle", message, 1, true)
  end)

  it("asks whether await was forgotten", function()
    local future = setmetatable({}, { __name = "fasterlua.future" })
    local message = encode_error({ user = future })
    assert.matches("user: a future: did you forget await?", message, 1, true)
  end)

  it("works again after a refusal", function()
    encode_error({ ("x"):rep(100), print })
    assert.are.equal("[1]", json.encode({ 1 }))
  end)
end)

describe("json.decode", function()
  it("builds what the text says", function()
    local value = json.decode([[ {"name": "Ann", "tags": ["a", "b"], "age": 41.5, "ok": true} ]])
    assert.are.same({ name = "Ann", tags = { "a", "b" }, age = 41.5, ok = true }, value)
  end)

  it("keeps null", function()
    assert.are.equal(json.null, json.decode("null"))
    assert.are.equal(json.null, json.decode('{"a":null}').a)
  end)

  it("keeps the difference between an empty list and an empty object", function()
    same("[]")
    same("{}")
    same('{"a":[]}')
    assert.is_true(json.is_array(json.decode("[]")))
    assert.is_false(json.is_array(json.decode("{}")))
  end)

  it("keeps integers a double cannot hold", function()
    same("9007199254740993")
    same("-9223372036854775808")
    assert.are.equal("number", type(json.decode("9007199254740992")))
    assert.are.equal("cdata", type(json.decode("9007199254740993")))
    assert.is_true(json.decode("9007199254740993") == 9007199254740993LL)
  end)

  it("gives a double for integers beyond int64", function()
    assert.are.equal(123456789012345678901234567890, json.decode("123456789012345678901234567890"))
  end)

  it("reads escapes and surrogate pairs", function()
    assert.are.equal('"\\/\b\f\n\r\t', json.decode([["\"\\\/\b\f\n\r\t"]]))
    assert.are.equal("Aä€🙂\0", json.decode([["\u0041\u00e4\u20ac\ud83d\ude42\u0000"]]))
  end)

  it("lets the last of two equal keys win", function()
    assert.are.same({ a = 2 }, json.decode('{"a":1,"a":2}'))
  end)

  it("says at which byte the text is wrong", function()
    assert.matches("invalid JSON at byte 4: expected a value", decode_error("[1,]"), 1, true)
    assert.matches("invalid JSON at byte 7: expected ',' or '}'", decode_error('{"a":1]'), 1, true)
    assert.matches("invalid JSON at byte 3: unexpected end", decode_error("[1"), 1, true)
  end)

  for name, text in pairs({
    ["an empty text"] = "",
    ["a second value"] = "1 2",
    ["a byte order mark"] = "\239\187\191{}",
    ["a NUL byte behind the text"] = '{"a":1}\0',
    ["a trailing comma"] = "[1,]",
    ["a comment"] = "1 // one",
    ["single quotes"] = "'a'",
    ["a key without quotes"] = "{a:1}",
    ["a leading zero"] = "01",
    ["a leading plus"] = "+1",
    ["a bare point"] = ".5",
    ["a point without digits"] = "1.",
    ["hexadecimal numbers"] = "0x10",
    ["NaN"] = "NaN",
    ["a number beyond a double"] = "1E400",
    ["a control character in a string"] = '"a\nb"',
    ["a lone surrogate"] = [["\ud800"]],
    ["an unknown escape"] = [["\x41"]],
    ["invalid UTF-8"] = '"\255"',
    ["an overlong form"] = '"\192\175"',
  }) do
    it("refuses " .. name, function()
      assert.matches("invalid JSON at byte %d+: ", decode_error(text))
    end)
  end

  it("accepts 96 levels and no more", function()
    same(("["):rep(96) .. ("]"):rep(96))
    local message = decode_error(("["):rep(97) .. ("]"):rep(97))
    assert.matches("byte 97: nested too deeply", message, 1, true)
  end)

  it("accepts strings only", function()
    assert.has_error(function() json.decode(12) end)
    assert.has_error(function() json.decode() end)
  end)
end)

describe("json.array", function()
  it("returns the table itself, marked", function()
    local list = {}
    assert.are.equal(list, json.array(list))
    assert.is_true(json.is_array(list))
    assert.are.equal(list, json.array(list))
  end)

  it("makes a new list when given nothing", function()
    assert.is_true(json.is_array(json.array()))
  end)

  it("does not replace another metatable", function()
    assert.has_error(function() json.array(setmetatable({}, {})) end)
  end)

  it("marks tables only", function()
    assert.has_error(function() json.array("text") end)
    assert.is_false(json.is_array("text"))
    assert.is_false(json.is_array({ 1 }))
  end)
end)
