local text = require "fasterlua.core.text"

describe("text.escape_html", function()
  it("escapes what has a meaning in HTML", function()
    assert.are.equal(
      "&lt;a href=&quot;x&quot; id=&#39;y&#39;&gt;Tom &amp; Ann&lt;/a&gt;",
      text.escape_html([[<a href="x" id='y'>Tom & Ann</a>]])
    )
  end)

  it("leaves the rest alone, whatever the bytes", function()
    for _, harmless in ipairs({ "", "plain", "grün 🙂", "a\0b\255" }) do
      assert.are.equal(harmless, text.escape_html(harmless))
    end
    assert.are.equal("a\0&lt;\255", text.escape_html("a\0<\255"))
  end)

  it("escapes again what is escaped already", function()
    assert.are.equal("&amp;amp;", text.escape_html("&amp;"))
  end)

  it("handles long texts", function()
    assert.are.equal(("&amp;"):rep(50000), text.escape_html(("&"):rep(50000)))
  end)

  it("accepts text only", function()
    assert.has_error(function() text.escape_html() end)
    assert.has_error(function() text.escape_html({}) end)
  end)
end)

describe("text.percent_encode", function()
  it("keeps the unreserved characters of RFC 3986", function()
    assert.are.equal("AZaz09-._~", text.percent_encode("AZaz09-._~"))
  end)

  it("encodes all others byte by byte", function()
    assert.are.equal("a%20b%2Fc%3F%25%2B", text.percent_encode("a b/c?%+"))
    assert.are.equal("%C3%A4%00%FF", text.percent_encode("ä\0\255"))
  end)
end)

describe("text.percent_decode", function()
  it("brings any bytes back", function()
    local bytes = {}
    for byte = 0, 255 do
      bytes[#bytes + 1] = string.char(byte)
    end
    local all = table.concat(bytes)
    assert.are.equal(all, text.percent_decode(text.percent_encode(all)))
  end)

  it("takes both cases and leaves a plus alone", function()
    assert.are.equal("ää+", text.percent_decode("%c3%a4%C3%A4+"))
    assert.are.equal("", text.percent_decode(""))
  end)

  it("decodes once", function()
    assert.are.equal("%41", text.percent_decode("%2541"))
  end)

  it("refuses a broken sequence", function()
    for _, broken in ipairs({ "%", "%4", "a%4", "%zz", "%4g", "%%41", "% 41" }) do
      local result, message = text.percent_decode(broken)
      assert.is_nil(result)
      assert.is_string(message)
    end
  end)
end)

describe("text.http_date", function()
  it("writes the date of RFC 9110", function()
    assert.are.equal("Sun, 06 Nov 1994 08:49:37 GMT", text.http_date(784111777))
    assert.are.equal("Thu, 01 Jan 1970 00:00:00 GMT", text.http_date(0))
  end)

  it("knows leap years and years long ago", function()
    assert.are.equal("Tue, 29 Feb 2000 12:00:00 GMT", text.http_date(951825600))
    assert.are.equal("Mon, 01 Mar 2100 00:00:00 GMT", text.http_date(4107542400))
    assert.are.equal("Wed, 31 Dec 1969 23:59:59 GMT", text.http_date(-1))
    assert.are.equal("Sat, 01 Jan 0000 00:00:00 GMT", text.http_date(-62167219200))
    assert.are.equal("Fri, 31 Dec 9999 23:59:59 GMT", text.http_date(253402300799))
  end)

  it("agrees with the C library", function()
    for seconds = -2000000000, 6000000000, 86399 * 97 do
      assert.are.equal(os.date("!%a, %d %b %Y %H:%M:%S GMT", seconds), text.http_date(seconds))
    end
  end)

  it("drops fractions", function()
    assert.are.equal("Thu, 01 Jan 1970 00:00:01 GMT", text.http_date(1.9))
    assert.are.equal("Wed, 31 Dec 1969 23:59:59 GMT", text.http_date(-0.5))
  end)

  it("refuses years that do not fit", function()
    for _, seconds in ipairs({ -62167219201, 253402300800, 1 / 0, 0 / 0 }) do
      assert.has_error(function() text.http_date(seconds) end)
    end
  end)
end)

describe("text.parse_http_date", function()
  it("reads all three forms", function()
    for _, date in ipairs({
      "Sun, 06 Nov 1994 08:49:37 GMT",
      "Sunday, 06-Nov-94 08:49:37 GMT",
      "Sun Nov  6 08:49:37 1994",
    }) do
      assert.are.equal(784111777, text.parse_http_date(date))
    end
    assert.are.equal(784975777, text.parse_http_date("Wed Nov 16 08:49:37 1994"))
  end)

  it("reads what http_date writes", function()
    for seconds = -62167219200, 253402300799, 86399 * 36001 do
      assert.are.equal(seconds, text.parse_http_date(text.http_date(seconds)))
    end
  end)

  it("takes two digits for a year within fifty years", function()
    local this_year = os.date("!*t").year
    local function year_of(year)
      local date = ("Monday, 02-Mar-%02d 00:00:00 GMT"):format(year % 100)
      return os.date("!*t", text.parse_http_date(date)).year
    end
    assert.are.equal(this_year, year_of(this_year))
    assert.are.equal(this_year + 50, year_of(this_year + 50))
    assert.are.equal(this_year - 49, year_of(this_year + 51))
  end)

  it("knows every weekday of the second form", function()
    for _, name in ipairs({
      "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday",
    }) do
      assert.are.equal(784111777, text.parse_http_date(name .. ", 06-Nov-94 08:49:37 GMT"))
    end
  end)

  it("accepts a leap second", function()
    assert.are.equal(1483228800, text.parse_http_date("Sat, 31 Dec 2016 23:59:60 GMT"))
  end)

  for _, date in ipairs({
    "",
    "Sun",
    "yesterday",
    "Sun, 6 Nov 1994 08:49:37 GMT",
    "Sun, 06 nov 1994 08:49:37 GMT",
    "Sun, 06 Nov 1994 08:49:37",
    "Sun, 06 Nov 1994 08:49:37 UTC",
    "Sun, 06 Nov 1994 08:49:37 GMT ",
    " Sun, 06 Nov 1994 08:49:37 GMT",
    "Sun, 06 Nov 94 08:49:37 GMT",
    "Sun, 31 Nov 1994 08:49:37 GMT",
    "Sun, 00 Nov 1994 08:49:37 GMT",
    "Sun, 29 Feb 1900 08:49:37 GMT",
    "Sun, 06 Nov 1994 24:00:00 GMT",
    "Sun, 06 Nov 1994 08:60:00 GMT",
    "Sun, 06 Nov 1994 08:49:61 GMT",
    "Sun, 06 Nov 1994 8:49:37 GMT",
    "Sun, 06 Nov -994 08:49:37 GMT",
    "Sunny, 06-Nov-94 08:49:37 GMT",
    "Sun Nov 6 08:49:37 1994",
    "Sun Nov  6 08:49:37 94",
    "Sun, 06 Nov 1994 08:49:37 GMT\0",
  }) do
    it(("refuses %q"):format(date), function()
      assert.is_nil(text.parse_http_date(date))
    end)
  end
end)
