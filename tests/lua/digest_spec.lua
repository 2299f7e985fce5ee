local digest = require "fasterlua.digest"

local function to_hex(bytes)
  return (bytes:gsub(".", function(c) return ("%02x"):format(c:byte()) end))
end

describe("digest.hex", function()
  -- the examples of FIPS 180, FIPS 202, RFC 1321 and RFC 7693
  for algorithm, expected in pairs({
    md5 = "900150983cd24fb0d6963f7d28e17f72",
    sha1 = "a9993e364706816aba3e25717850c26c9cd0d89d",
    sha224 = "23097d223405d8228642a477bda255b32aadbce4bda0b3f7e36c9da7",
    sha256 = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
    sha384 = "cb00753f45a35e8bb5a03d699ac65007272c32ab0eded1631a8b605a43ff5bed"
      .. "8086072ba1e7cc2358baeca134c825a7",
    sha512 = "ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a"
      .. "2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f",
    ["sha3-256"] = "3a985da74fe225b2045c172d6bd390bd855f086e3e9d525b46bfe24511431532",
    blake2b512 = "ba80a53f981c4d0d6a2797b69f12f6e94c212f14685ac4b74b12bb6fdbffa2d1"
      .. "7d87c5392aab792dc252d5de4533cc9518d38aa8dbf1925ab92386edd4009923",
    blake2s256 = "508c5e8c327c14e2e1a72ba34eeb452f37458b209ed63a294d999b4c86675982",
  }) do
    it("gives the published " .. algorithm .. " of abc", function()
      assert.are.equal(expected, digest.hex(algorithm, "abc"))
    end)
  end

  it("takes the empty text and any bytes", function()
    assert.are.equal(
      "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
      digest.hex("sha256", "")
    )
    assert.are_not.equal(digest.hex("sha256", "a"), digest.hex("sha256", "a\0"))
  end)

  it("knows every algorithm it lists", function()
    local names = digest.algorithms()
    assert.is_true(#names >= 9)
    for _, name in ipairs(names) do
      assert.are.equal(#digest.raw(name, "abc") * 2, #digest.hex(name, "abc"))
      assert.are.equal(#digest.raw(name, "abc"), #digest.hmac_raw(name, "key", "abc"))
    end
  end)

  it("names an algorithm it does not know, and those it does", function()
    local ok, message = pcall(digest.hex, "sha265", "abc")
    assert.is_false(ok)
    assert.matches('unknown algorithm "sha265", known are md5, sha1, ', message, 1, true)
  end)

  it("asks for all arguments", function()
    assert.has_error(function() digest.hex("sha256") end)
    assert.has_error(function() digest.hex() end)
    assert.has_error(function() digest.hmac("sha256", "key") end)
  end)
end)

describe("digest.raw", function()
  it("gives the bytes that hex spells", function()
    assert.are.equal(digest.hex("sha256", "abc"), to_hex(digest.raw("sha256", "abc")))
  end)
end)

describe("digest.hmac", function()
  it("gives the codes of RFC 4231", function()
    local test_1 = digest.hmac("sha256", ("\11"):rep(20), "Hi There")
    assert.are.equal("b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7", test_1)
    local test_2 = digest.hmac("sha256", "Jefe", "what do ya want for nothing?")
    assert.are.equal("5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843", test_2)
  end)

  it("hashes a key longer than a block first, as in test 6", function()
    local text = "Test Using Larger Than Block-Size Key - Hash Key First"
    assert.are.equal(
      "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54",
      digest.hmac("sha256", ("\170"):rep(131), text)
    )
    assert.are.equal(
      digest.hmac("sha512", digest.raw("sha512", ("k"):rep(129)), "x"),
      digest.hmac("sha512", ("k"):rep(129), "x")
    )
  end)

  it("takes an empty key and an empty text", function()
    assert.are.equal(
      "b613679a0814d9ec772f95d778c35fc5ff1697c493715653c6c712144292c5ad",
      digest.hmac("sha256", "", "")
    )
  end)

  it("has a form that gives the bytes", function()
    local bytes = digest.hmac_raw("sha1", "key", "text")
    assert.are.equal(digest.hmac("sha1", "key", "text"), to_hex(bytes))
  end)
end)

describe("digest.equal", function()
  it("compares bytes", function()
    assert.is_true(digest.equal("", ""))
    assert.is_true(digest.equal("a\0b", "a\0b"))
    assert.is_false(digest.equal("a\0b", "a\0c"))
    assert.is_false(digest.equal("abc", "abcd"))
    assert.is_false(digest.equal("", "a"))
  end)
end)

describe("digest.random", function()
  it("gives as many bytes as asked for", function()
    for _, size in ipairs({ 0, 1, 16, 512, 513, 100000 }) do
      assert.are.equal(size, #digest.random(size))
    end
  end)

  it("never gives the same twice", function()
    assert.are_not.equal(digest.random(16), digest.random(16))
  end)

  it("refuses sizes that are none", function()
    for _, size in ipairs({ -1, 1.5, 2 ^ 20 + 1, 1 / 0, 0 / 0 }) do
      assert.has_error(function() digest.random(size) end)
    end
  end)
end)

describe("digest.base64", function()
  it("writes and reads the examples of RFC 4648", function()
    for text, expected in pairs({
      [""] = "",
      f = "Zg==",
      fo = "Zm8=",
      foo = "Zm9v",
      foob = "Zm9vYg==",
      fooba = "Zm9vYmE=",
      foobar = "Zm9vYmFy",
    }) do
      assert.are.equal(expected, digest.base64(text))
      assert.are.equal(text, digest.base64_decode(expected))
      assert.are.equal((expected:gsub("=", "")), digest.base64url(text))
      assert.are.equal(text, digest.base64url_decode(expected))
      assert.are.equal(text, digest.base64url_decode(digest.base64url(text)))
    end
  end)

  it("has an alphabet for URLs", function()
    assert.are.equal("+/+/", digest.base64("\251\255\191"))
    assert.are.equal("-_-_", digest.base64url("\251\255\191"))
    assert.is_nil(digest.base64_decode("-_-_"))
    assert.is_nil(digest.base64url_decode("+/+/"))
  end)

  it("brings any bytes back", function()
    for size = 0, 70 do
      local bytes = digest.random(size * 37)
      assert.are.equal(bytes, digest.base64_decode(digest.base64(bytes)))
      assert.are.equal(bytes, digest.base64url_decode(digest.base64url(bytes)))
    end
  end)

  it("refuses what it would not have written", function()
    for _, text in ipairs({
      "Zg", "Zg=", "Zg===", "Z", "Z===", "=", "====", "Zh==", "Zm9=", "Zm9v\n", " Zm9v", "Zm=v",
      "Zm9v====", "Zm8=Zm8=", "\255AAA",
    }) do
      local bytes, message = digest.base64_decode(text)
      assert.is_nil(bytes)
      assert.are.equal("invalid base64", message)
    end
    assert.is_nil(digest.base64url_decode("Z"))
    assert.is_nil(digest.base64url_decode("Zh"))
    assert.is_nil(digest.base64url_decode("Zg="))
  end)
end)
