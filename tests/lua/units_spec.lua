local units = require "fasterlua.units"

describe("units", function()
  it("reads sizes", function()
    local sizes = {
      ["0"] = 0, ["17"] = 17, ["17b"] = 17, ["17 B"] = 17, ["64KB"] = 65536, ["64kb"] = 65536,
      ["64 KiB"] = 65536, ["64k"] = 65536, ["1.5MB"] = 1572864, ["2m"] = 2097152,
      ["2 GiB"] = 2147483648, ["3g"] = 3221225472,
    }
    for text, bytes in pairs(sizes) do
      assert.equal(bytes, units.bytes(text), text)
    end
    assert.equal(12.5, units.bytes(12.5))
  end)

  it("reads times", function()
    local times = { ["1"] = 1, ["0.25"] = 0.25, ["10s"] = 10, ["10 S"] = 10, ["500ms"] = 0.5,
      ["2m"] = 120, ["2min"] = 120, ["1.5h"] = 5400, ["2d"] = 172800 }
    for text, seconds in pairs(times) do
      assert.equal(seconds, units.seconds(text), text)
    end
    assert.equal(0.001, units.seconds(0.001))
  end)

  it("reads nothing else", function()
    for _, value in ipairs { "", "KB", "-1", "1 KB 2", "1xb", "1..5", "0x10", "1e3", "64 KBs", true,
      {}, print } do
      assert.is_nil(units.bytes(value), tostring(value))
      assert.is_nil(units.seconds(value), tostring(value))
    end
    assert.is_nil(units.bytes(nil))
    assert.is_nil(units.bytes "10s")
    assert.is_nil(units.seconds "10KB")
  end)

  it("writes them as a conf file would", function()
    assert.equal('"64KB"', units.format_bytes(65536))
    assert.equal('"3GB"', units.format_bytes(3 * 1024 ^ 3))
    assert.equal('"1536KB"', units.format_bytes(1.5 * 1024 ^ 2))
    assert.equal("1000", units.format_bytes(1000))
    assert.equal("0", units.format_bytes(0))
    assert.equal('"1h"', units.format_seconds(3600))
    assert.equal('"90m"', units.format_seconds(5400))
    assert.equal('"7d"', units.format_seconds(604800))
    assert.equal('"10s"', units.format_seconds(10))
    assert.equal('"250ms"', units.format_seconds(0.25))
    assert.equal("0.0001", units.format_seconds(0.0001))
  end)

  it("reads back what it wrote", function()
    for _, bytes in ipairs { 1, 1023, 1024, 65536, 10 * 1024 ^ 2, 5 * 1024 ^ 3 } do
      local text = units.format_bytes(bytes)
      assert.equal(bytes, units.bytes((text:gsub('"', ""))))
    end
    for _, seconds in ipairs { 0.001, 0.5, 1, 59, 60, 3600, 86400 } do
      local text = units.format_seconds(seconds)
      assert.near(seconds, units.seconds((text:gsub('"', ""))), 1e-12)
    end
  end)
end)
