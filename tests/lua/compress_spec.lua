local compress = require "fasterlua.compress"

local formats = { "gzip", "deflate", "br", "zstd" }
local levels = { gzip = { 0, 9 }, deflate = { 0, 9 }, br = { 0, 11 }, zstd = { 1, 19 } }

local function from_hex(text)
  return (text:gsub("%x%x", function(digits) return string.char(tonumber(digits, 16)) end))
end

local function raises(pattern, ...)
  local ok, message = pcall(...)
  assert.is_false(ok)
  assert.matches(pattern, message, 1, true)
end

-- Bytes that no compressor makes smaller, the same in every run.
local function noise(size)
  local bytes, seed = {}, 1
  for index = 1, size do
    seed = (seed * 16807) % 2147483647
    bytes[index] = string.char(seed % 256)
  end
  return table.concat(bytes)
end

-- Text that compresses better the longer one tries.
local function numbers(count)
  local words = {}
  for index = 1, count do
    words[index] = ("%d,%d"):format(index, index * index % 1009)
  end
  return table.concat(words, "\n")
end

-- Sanitizers give back late, up to 256 MB, and see what is never given back.
local is_sanitized = (os.getenv("FASTERLUA_BIN") or ""):find("[at]san/") ~= nil
local rounds, leak = 250, 100e6
if is_sanitized then rounds, leak = 600, 400e6 end

local function resident_pages()
  local file = assert(io.open("/proc/self/statm"))
  local _, pages = file:read("*n", "*n")
  file:close()
  return pages
end

local texts = {
  ["nothing"] = "",
  ["one byte"] = "x",
  ["NULs"] = ("\0"):rep(1000) .. "\0a\0",
  ["every byte"] = from_hex("000102ff80fe7f") .. noise(70000),
  ["5 MB"] = ("a line of a log, much like the next\n"):rep(5 * 2 ^ 20 / 36),
}

-- "hello hello hello\n" and "", as the commands gzip and zstd and Python's zlib wrote them; brotli
-- by hand, by RFC 7932 section 9.2: a meta-block that is not compressed.
local foreign = {
  gzip = { "1f8b0800000000000203cb48cdc9c957c840905c003b7c8adf12000000",
    "1f8b080000000000000303000000000000000000" },
  deflate = { "78dacb48cdc9c957c840905c0040b50687", "789c030000000001" },
  zstd = { "28b52ffd04586d00003868656c6c6f200a0100314a11a3aa74ce", "28b52ffd240001000099e9d851" },
  br = { "8b088068656c6c6f2068656c6c6f2068656c6c6f0a03", "06" },
}

for _, format in ipairs(formats) do
  describe("compress, " .. format, function()
    for name, text in pairs(texts) do
      it("gives " .. name .. " back", function()
        local packed = compress.compress(format, text)
        assert.is_true(text == compress.decompress(format, packed))
      end)
    end

    it("reads what others wrote", function()
      local packed = foreign[format]
      assert.equal("hello hello hello\n", compress.decompress(format, from_hex(packed[1])))
      assert.equal("", compress.decompress(format, from_hex(packed[2])))
    end)

    it("takes the lowest and the highest level", function()
      local text, sizes = numbers(5000), {}
      for index, level in ipairs(levels[format]) do
        local packed = compress.compress(format, text, { level = level })
        assert.is_true(text == compress.decompress(format, packed))
        sizes[index] = #packed
      end
      assert.is_true(sizes[2] < sizes[1])
    end)

    it("refuses levels beyond them", function()
      local low, high = unpack(levels[format])
      local expected = ("level of %s: expected a whole number from %d to %d, got "):format(format,
        low, high)
      for _, level in ipairs { low - 1, high + 1, 1.5, 0 / 0, 1e300 } do
        raises(expected, compress.compress, format, "x", { level = level })
      end
      raises(expected .. "best", compress.compress, format, "x", { level = "best" })
      raises(expected .. "table", compress.compress, format, "x", { level = {} })
    end)

    it("refuses data that ends too early, wherever it ends", function()
      local packed = compress.compress(format, "some text, and some text again")
      for size = 0, #packed - 1 do
        raises(("the %s data ends too early"):format(format), compress.decompress, format,
          packed:sub(1, size))
      end
    end)

    it("refuses bytes behind the end", function()
      local packed = compress.compress(format, "text")
      raises(("3 bytes follow the end of the %s data"):format(format), compress.decompress, format,
        packed .. "abc")
      raises("1 bytes follow", compress.decompress, format, packed .. "\31")
    end)

    it("refuses what is something else", function()
      raises(("not %s data, or corrupt: "):format(format), compress.decompress, format,
        ("\255\254 no such format"):rep(10))
    end)

    it("stops at the limit", function()
      local bomb = compress.compress(format, ("\0"):rep(1000000))
      assert.is_true(#bomb < 6000)
      raises(("the %s data holds more than the limit of 999999 bytes"):format(format),
        compress.decompress, format, bomb, { limit = 999999 })
      assert.equal(1000000, #compress.decompress(format, bomb, { limit = 1000000 }))
      raises("more than the limit of 1 bytes", compress.decompress, format, bomb, { limit = 1 })
    end)

    it("has a limit of 64 MB, and needs little memory to stop there", function()
      local bomb = compress.compress(format, ("\0"):rep(64 * 2 ^ 20 + 1), { level = 1 })
      raises("more than the limit of 67108864 bytes", compress.decompress, format, bomb)
      assert.equal(2 ^ 26 + 1, #compress.decompress(format, bomb, { limit = "65MB" }))
    end)

    it("gives all memory back when it refuses", function()
      local packed = compress.compress(format, ("0123456789"):rep(100000) .. noise(1000))
      local cut = packed:sub(1, -2)
      pcall(compress.decompress, format, cut)
      local before = resident_pages()
      for _ = 1, rounds do
        raises("ends too early", compress.decompress, format, cut)
      end
      local grown = (resident_pages() - before) * 4096
      assert.is_true(grown < leak, grown) -- of more than 1 MB each
    end)
  end)
end

describe("compress", function()
  for _, format in ipairs { "gzip", "deflate", "zstd" } do
    it("notices one wrong bit anywhere behind the head of " .. format, function()
      local text = ("some text, and some text again; "):rep(4)
      local packed = compress.compress(format, text)
      for at = format == "gzip" and 11 or 7, #packed do
        local wrong = string.char(bit.bxor(packed:byte(at), 4))
        local ok, result = pcall(compress.decompress, format, packed:sub(1, at - 1) .. wrong
          .. packed:sub(at + 1))
        assert.is_true(not ok or result == text) -- a bit that pads stands for nothing
      end
      raises("corrupt", compress.decompress, format, packed:sub(1, -2)
        .. string.char(bit.bxor(packed:byte(-1), 1)))
    end)
  end

  it("reads members of gzip and frames of zstd in a row", function()
    for _, format in ipairs { "gzip", "zstd" } do
      local one, two = compress.compress(format, "one, "), compress.compress(format, "two")
      assert.equal("one, two", compress.decompress(format, one .. two))
      raises("ends too early", compress.decompress, format, one .. two:sub(1, 8))
      raises("more than the limit", compress.decompress, format, one .. two, { limit = 7 })
    end
    local skipped = "\x5a\x2a\x4d\x18\3\0\0\0abc"
    local frame = compress.compress("zstd", "text")
    assert.equal("text", compress.decompress("zstd", skipped .. frame .. skipped))
  end)

  it("reads one text only of deflate and br", function()
    for _, format in ipairs { "deflate", "br" } do
      local packed = compress.compress(format, "text")
      raises(#packed .. " bytes follow", compress.decompress, format, packed .. packed)
    end
  end)

  it("says that a zlib text needs a dictionary", function()
    raises("not deflate data, or corrupt: it needs a dictionary", compress.decompress, "deflate",
      from_hex("78f9068f01edcb48cdc9c95748cb2fca4d2c01002be20636"))
  end)

  it("names the formats there are", function()
    raises('unknown format "brotli", known are gzip, deflate, br, zstd', compress.compress,
      "brotli", "x")
    raises('unknown format "x-gzip", known are', compress.decompress, "x-gzip", "x")
  end)

  it("takes sizes as conf files spell them, and no others", function()
    local packed = compress.compress("gzip", ("x"):rep(3000))
    for _, limit in ipairs { 3000, "3000", "3KB", "3 kib", "0.5M", "1GB", "3000b" } do
      assert.equal(3000, #compress.decompress("gzip", packed, { limit = limit }))
    end
    raises("the limit of 2048 bytes", compress.decompress, "gzip", packed, { limit = "2k" })
    for _, limit in ipairs { 0, -1, 1.5, 2 ^ 30 + 1, 0 / 0, 1 / 0, "", "0", "2GB", "-1", "1e3",
      "0x10", "1.2.3", "3 parsecs", "3KB\0", true, {} } do
      raises('limit: expected a size in bytes, or as in "10MB", from 1 to 1GB, got ',
        compress.decompress, "gzip", packed, { limit = limit })
    end
  end)

  it("refuses options it does not know", function()
    raises('unknown option "levl", known is level', compress.compress, "gzip", "x", { levl = 6 })
    raises('unknown option "level", known is limit', compress.decompress, "gzip", "x",
      { level = 6 })
    raises('unknown option "1", known is level', compress.compress, "gzip", "x", { 6 })
    raises('unknown option "boolean", known is level', compress.compress, "gzip", "x",
      { [true] = 6 })
    raises("table expected, got number", compress.compress, "gzip", "x", 6)
  end)

  it("names the caller's line", function()
    local ok, message = pcall(function() compress.decompress("gzip", "x") end)
    assert.is_false(ok)
    assert.matches("compress_spec.lua:%d+: the gzip data ends too early", message)
  end)

  it("asks for text", function()
    raises("string expected, got nil", compress.compress, "gzip", nil)
    raises("string expected, got table", compress.decompress, "gzip", {})
  end)

  it("is fl.compress too", function()
    assert.equal(compress, require("fasterlua").compress)
  end)
end)
