local address = require "fasterlua.mail.address"
local digest = require "fasterlua.digest"
local encoding = require "fasterlua.mail.encoding"
local message = require "fasterlua.mail.message"

-- The lines of a message's head, unfolded; and its body.
local function parse(text)
  local head, body = text:match "^(.-)\r\n\r\n(.*)$"
  local fields = {}
  for line in (head:gsub("\r\n[ \t]", " ") .. "\r\n"):gmatch "(.-)\r\n" do
    local name, value = line:match "^([^:]+): (.*)$"
    fields[name:lower()] = value
  end
  return fields, body, head
end

local function build(options)
  options.from = options.from or "ann@example.org"
  options.to = options.to or "bob@example.org"
  return message.build(options)
end

local function parts_of(text)
  local fields, body = parse(text)
  local boundary = assert(fields["content-type"]:match 'boundary="([^"]+)"')
  local found, rest = {}, "\r\n" .. body
  local mark = "\r\n--" .. boundary
  while true do
    local from = rest:find(mark, 1, true)
    local after = rest:sub(from + #mark)
    if after:sub(1, 2) == "--" then
      return fields, found
    end
    rest = after:sub(3)
    found[#found + 1] = rest:sub(1, rest:find(mark, 1, true) - 1)
  end
end

local function refuses(pattern, options)
  local ok, problem = pcall(build, options)
  assert.is_false(ok)
  assert.matches(pattern, problem)
end

describe("addresses of mail", function()
  it("are mailboxes with or without a name", function()
    assert.same({ mailbox = "a.b+c@x-1.example.org" }, address.parse("a.b+c@x-1.example.org", "to"))
    assert.same({ mailbox = "ann@example.org", name = "Ann Lee" },
      address.parse(" Ann Lee  <ann@example.org> ", "to"))
    assert.same({ mailbox = "ann@example.org", name = "Lee, Ann" },
      address.parse('"Lee, Ann" <ann@example.org>', "to"))
    assert.same({ mailbox = "ann@example.org" }, address.parse("<ann@example.org>", "to"))
  end)

  it("are refused when malformed, naming the field", function()
    for _, text in ipairs { "", "ann", "@example.org", "ann@", "a b@example.org", "a@b@c",
      "ann@-x.org", "ann@x-.org", "ann@x..org", ".ann@x.org", "ann.@x.org", "a..b@x.org",
      "ann@exämple.org", "änn@example.org", "<ann@example.org", "ann@x.org>", "a@x.org, b@x.org",
      ("a"):rep(65) .. "@x.org", "ann@" .. ("x."):rep(130) .. "org" } do
      local ok, problem = pcall(address.parse, text, "cc")
      assert.is_false(ok, text)
      assert.matches("^mail: cc: .*is no address$", problem)
    end
    assert.matches("cc has a control character",
      select(2, pcall(address.parse, "a@x.org\r\nBcc: b@x.org", "cc")))
    assert.matches("to must be an address, got number", select(2, pcall(address.list, 7, "to")))
  end)
end)

describe("the encodings of mail", function()
  it("write foreign text in words that are folded between characters", function()
    assert.equal("=?UTF-8?B?R3LDvMOfZQ==?=", encoding.words "Grüße")
    local words = encoding.words(("ü"):rep(100))
    local whole = {}
    for word in (words .. "\r\n "):gmatch "(.-)\r\n " do
      assert.is_true(#word <= 75)
      local piece = digest.base64_decode(word:match "^=%?UTF%-8%?B%?(.*)%?=$")
      assert.is_true(encoding.is_utf8(piece))
      whole[#whole + 1] = piece
    end
    assert.equal(("ü"):rep(100), table.concat(whole))
  end)

  it("fold long headers at spaces", function()
    local text = encoding.header(("word "):rep(40), 9)
    for line in (text .. "\r\n"):gmatch "(.-)\r\n" do
      assert.is_true(#line <= 76)
    end
    assert.equal(("word "):rep(39) .. "word", (text:gsub("\r\n", "")))
    assert.equal("plain", encoding.header("plain", 9))
    assert.equal("=?UTF-8?B?PT94Pz0=?=", encoding.header("=?x?=", 9))
  end)

  it("quote what is not printable", function()
    assert.equal("a=3Db =C3=BC\r\nend=20", encoding.quoted_printable "a=b ü\r\nend ")
    assert.equal("=46rom here", encoding.quoted_printable "From here")
    local long = encoding.quoted_printable(("ü"):rep(100))
    for line in (long .. "\r\n"):gmatch "(.-)\r\n" do
      assert.is_true(#line <= 76)
    end
    local joined = long:gsub("=\r\n", ""):gsub("=(%x%x)", function(hex)
      return string.char(tonumber(hex, 16))
    end)
    assert.equal(("ü"):rep(100), joined)
  end)

  it("choose what suits a body", function()
    assert.same({ "7bit", "a\r\nb\r\n" }, { encoding.body "a\nb\r\n" })
    assert.equal("quoted-printable", (encoding.body("mostly plain, but ü")))
    assert.equal("quoted-printable", (encoding.body(("x"):rep(2000))))
    assert.equal("quoted-printable", (encoding.body "a\nFrom b"))
    assert.equal("base64", (encoding.body(("ü"):rep(20))))
  end)
end)

describe("a mail", function()
  it("has the headers that every mail needs", function()
    local built = build { subject = "Hello", text = "Hi" }
    local fields, body = parse(built.text)
    assert.equal("ann@example.org", fields.from)
    assert.equal("bob@example.org", fields.to)
    assert.equal("Hello", fields.subject)
    assert.equal("1.0", fields["mime-version"])
    assert.equal("text/plain; charset=utf-8", fields["content-type"])
    assert.equal("7bit", fields["content-transfer-encoding"])
    assert.matches("^%a%a%a, %d%d %a%a%a %d%d%d%d %d%d:%d%d:%d%d %+0000$", fields.date)
    assert.matches("^<%x+@example%.org>$", fields["message-id"])
    assert.equal(built.id, fields["message-id"])
    assert.equal("Hi\r\n", body)
    assert.not_equal(built.id, build({}).id)
  end)

  it("goes to everybody once, and names the hidden ones nowhere", function()
    local built = build { from = "Änn <ann@example.org>", to = { "b@x.org", "C, D <c@x.org>" },
      cc = "b@x.org", bcc = { "e@x.org" } }
    assert.same({ "b@x.org", "c@x.org", "e@x.org" }, built.recipients)
    assert.equal("ann@example.org", built.from)
    local fields = parse(built.text)
    assert.equal('b@x.org,  "C, D" <c@x.org>', (fields.to:gsub(", ", ",  ", 1)))
    assert.matches("^=%?UTF%-8%?B%?.*%?= <ann@example%.org>$", fields.from)
    assert.is_nil(built.text:find("e@x.org", 1, true))
    refuses("from 1 to 1000 recipients expected, got 0", { to = {} })
  end)

  it("has text and HTML as alternatives, and attachments beside them", function()
    local data = "\0\1\2" .. ("x"):rep(200)
    local built = build { text = "plain", html = "<b>rich</b>", attachments = {
      { name = "a b.bin", data = data }, { name = "ü.txt", type = "text/plain", data = "t" } } }
    local fields, parts = parts_of(built.text)
    assert.matches("^multipart/mixed;", fields["content-type"])
    assert.equal(3, #parts)
    local inner, alternatives = parts_of(parts[1])
    assert.matches("^multipart/alternative;", inner["content-type"])
    assert.matches("text/plain.*\r\n\r\nplain$", alternatives[1])
    assert.matches("text/html.*\r\n\r\n<b>rich</b>$", alternatives[2])
    local first, body = parse(parts[2])
    assert.equal("application/octet-stream", first["content-type"])
    assert.matches('^attachment; +filename="a b%.bin"$', first["content-disposition"])
    assert.equal(data, digest.base64_decode((body:gsub("\r\n", ""))))
    for line in body:gmatch "[^\r\n]+" do
      assert.is_true(#line <= 76)
    end
    assert.matches("filename%*=UTF%-8''%%C3%%BC%.txt", (parse(parts[3]))["content-disposition"])
  end)

  it("takes more headers", function()
    local fields = parse(build({ headers = { ["Reply-To"] = "x@y.org", ["X-Ü"] = nil,
      Date = "Sun, 06 Nov 1994 08:49:37 +0000", ["Message-ID"] = "<1@x>" } }).text)
    assert.equal("x@y.org", fields["reply-to"])
    assert.equal("Sun, 06 Nov 1994 08:49:37 +0000", fields.date)
    assert.equal("<1@x>", fields["message-id"])
  end)

  it("refuses what would be another header, naming it", function()
    refuses('header "Subject" has a line break', { subject = "a\r\nBcc: x@y.org" })
    refuses('header "Subject" has a line break', { subject = "a\nb" })
    refuses('header "X%-A" has a line break', { headers = { ["X-A"] = "a\rb" } })
    refuses('"X A" is no name of a header', { headers = { ["X A"] = "a" } })
    refuses("is no name of a header", { headers = { ["X-A\r\nBcc: x@y.org"] = "a" } })
    refuses('header "bcc" is made from the other options', { headers = { bcc = "x@y.org" } })
    refuses("from has a control character", { from = "A\r\nX: y <ann@example.org>" })
    refuses("attachment 1 has a name with control characters",
      { attachments = { { name = "a\r\nb", data = "" } } })
    refuses("attachment 1 has a malformed type",
      { attachments = { { name = "a", data = "", type = "text/plain\r\nX: y" } } })
    refuses('header "Subject" is not UTF%-8', { subject = "\255" })
    refuses("text is not UTF%-8", { text = "\255" })
    refuses('attachment 1 must be { name', { attachments = { { name = "a" } } })
  end)
end)
