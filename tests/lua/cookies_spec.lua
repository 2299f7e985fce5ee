local cookies = require "fasterlua.cookies"

describe("cookies", function()
  local function refuses(pattern, ...)
    local ok, message = pcall(cookies.serialise, ...)
    assert.is_false(ok)
    assert.matches(pattern, message)
  end

  it("are safe by default", function()
    assert.equal("a=b; Path=/; HttpOnly; SameSite=Lax", cookies.serialise("a", "b"))
  end)

  it("carry all attributes", function()
    assert.equal("a=b; Max-Age=60; Expires=Sun, 06 Nov 1994 08:49:37 GMT; Domain=example.org; "
      .. "Path=/x; Secure; SameSite=None; Partitioned",
      cookies.serialise("a", "b", { max_age = 60, expires = 784111777, domain = "example.org",
        path = "/x", secure = true, http_only = false, same_site = "none", partitioned = true }))
  end)

  it("are deleted by an end in the past", function()
    assert.equal("a=; Max-Age=0; Expires=Thu, 01 Jan 1970 00:00:00 GMT; Path=/x; HttpOnly; "
      .. "SameSite=Lax", cookies.deletion("a", { path = "/x" }))
  end)

  it("take no name or value that browsers misread", function()
    refuses("must be a token", "", "x")
    refuses("must be a token", "a b", "x")
    refuses("must be a token", "a=b", "x")
    refuses("must be a token", 7, "x")
    refuses("must be a string, got number", "a", 7)
    for _, value in ipairs { "a b", "a;b", "a,b", 'a"b', "a\\b", "a\r\nb", "\0", "\127", "é" } do
      refuses("encode it first", "a", value)
    end
    assert.matches("^a=!#%$%%&'%(%)%*%+%-%./:<=>%?@%[%]%^_`{|}~; ",
      cookies.serialise("a", "!#$%&'()*+-./:<=>?@[]^_`{|}~"))
    refuses("browsers keep 4096", "a", ("x"):rep(4096))
  end)

  it("take no option that is unknown or wrong", function()
    refuses('unknown option "http_onyl": did you mean "http_only"', "a", "b", { http_onyl = true })
    refuses('option "path" is not valid', "a", "b", { path = "x" })
    refuses('option "path" is not valid', "a", "b", { path = "/; Domain=evil" })
    refuses('option "domain" is not valid', "a", "b", { domain = "a;b" })
    refuses('option "max_age" is not valid', "a", "b", { max_age = 1.5 })
    refuses('option "max_age" is not valid', "a", "b", { max_age = 0 / 0 })
    refuses('option "same_site" is not valid', "a", "b", { same_site = "Loose" })
    refuses("needs secure = true", "a", "b", { same_site = "None" })
    refuses("needs secure = true", "a", "b", { partitioned = true })
  end)

  it("with a prefix keep its promise", function()
    assert.equal("__Host-a=b; Path=/; Secure; HttpOnly; SameSite=Lax",
      cookies.serialise("__Host-a", "b"))
    assert.matches("; Secure", cookies.serialise("__Secure-a", "b", { domain = "example.org" }))
    refuses("needs secure = true", "__Host-a", "b", { secure = false })
    refuses("allows no domain", "__Host-a", "b", { domain = "example.org" })
    refuses("allows no path", "__host-a", "b", { path = "/x" })
  end)
end)
