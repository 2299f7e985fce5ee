-- fl.mail in a real server, against a small SMTP server.

local cjson = require "cjson"
local support = require "support"

local process = support.process

-- Speaks SMTP to one client after the other; prints its port, then each mail as a line of its
-- envelope and its text in hexadecimal.
local SMTP = [==[
local socket = require "socket"
local listener = assert(socket.bind("127.0.0.1", 0, 64))
print((select(2, listener:getsockname())))
io.stdout:flush()

local function hex(text)
  return (text:gsub(".", function(c) return ("%02x"):format(c:byte()) end))
end

local function converse(c)
  local from, to, user = "", {}, ""
  local function say(text) c:send(text .. "\r\n") end
  say "220 here"
  while true do
    local line = c:receive "*l"
    if not line then return end
    local verb = line:upper():match "^%a+"
    if verb == "EHLO" then say "250-here" say "250-AUTH PLAIN" say "250 SIZE 1000000"
    elseif verb == "HELO" then say "250 here"
    elseif verb == "AUTH" then
      say "334 "
      user = c:receive "*l" or ""
      say(user:find "^AHNob3A" and "235 welcome" or "535 who are you")
    elseif verb == "MAIL" then
      from = line
      say(line:find "refused@" and "550 not you" or "250 ok")
    elseif verb == "RCPT" then
      to[#to + 1] = line
      if line:find "silent@" then socket.sleep(5) return end
      say(line:find "nobody@" and "550 no such user" or "250 ok")
    elseif verb == "DATA" then
      say "354 go on"
      local lines = {}
      repeat
        local text, why = c:receive "*l"
        if not text then return end
        if text ~= "." then lines[#lines + 1] = text:gsub("^%.", "") end
      until text == "."
      local text = table.concat(lines, "\r\n")
      print("MAIL", from, table.concat(to, " "), user, #text, hex(text:sub(1, 20000)))
      io.stdout:flush()
      say(text:find "SPAM" and "554 spam" or "250 taken")
    elseif verb == "QUIT" then say "221 bye" return
    else say "502 what" end
  end
end

while true do
  local c = listener:accept()
  c:settimeout(5)
  converse(c)
  c:close()
end
]==]

local APP = [[
local fl = require "fasterlua"
local await = fl.await
local app = fl.app { title = "mail" }

app:post("/send", function(req)
  local given = req:json()
  if given.attachment_size then
    given.options.attachments = { { name = "big", data = ("x"):rep(given.attachment_size) } }
  end
  local ok, r = pcall(function() return await(fl.mail.send(given.options)) end)
  if ok then return r end
  if type(r) ~= "table" then return { raised = r } end
  return { kind = r.kind, code = r.code, message = r.message, status = r.status,
    reply = r.response_status }
end)

return app
]]

local dir = process.temporary_directory()
local file = assert(io.open(dir .. "/smtp.lua", "w"))
file:write(SMTP)
file:close()
local smtp = process.spawn { argv = { "luajit", dir .. "/smtp.lua" }, output = dir .. "/output" }
local port = support.eventually(function()
  return (process.read(dir .. "/output") or ""):match "^(%d+)\n"
end, 10)
local server = "smtp://127.0.0.1:" .. port

local function unhex(text)
  return (text:gsub("%x%x", function(digits) return string.char(tonumber(digits, 16)) end))
end

local function mails()
  local found = {}
  for from, to, user, size, text in process.read(dir .. "/output"):gmatch(
    "MAIL\t([^\t\n]*)\t([^\t\n]*)\t([^\t\n]*)\t(%d+)\t(%x*)\n") do
    found[#found + 1] = { from = from, to = to, user = user, size = tonumber(size),
      text = unhex(text) }
  end
  return found
end

support.describe_server("fl.mail", {
  app = APP,
  settings = { threads = 1 },
  warm_up = function(running)
    running:post("/send", { options = { server = "smtp://127.0.0.1:1", from = "a@x.org",
      to = "b@x.org" } })
  end,
}, function(get_server)
  teardown(function()
    process.signal(smtp, "KILL")
    process.wait(smtp, 5)
    process.remove_directory(dir)
  end)

  local function send(options, more)
    local given = more or {}
    options.server = options.server or server
    options.from = options.from or "Ann <ann@example.org>"
    options.to = options.to or "bob@example.org"
    given.options = options
    local response = get_server():post("/send", given)
    assert.equal(200, response.status)
    return response:json()
  end

  local function failed(code, options)
    local r = send(options)
    assert.equal(code, r.code, r.message or cjson.encode(r))
    assert.equal("mail", r.kind)
    return r
  end

  it("sends a message to all its recipients", function()
    local r = send { to = { "bob@example.org", "cy@example.org" }, bcc = "dan@example.org",
      subject = "Hello", text = "One\n.two\n..three\n" }
    assert.same({ "bob@example.org", "cy@example.org", "dan@example.org" }, r.recipients)
    local mail = table.remove(mails())
    assert.matches("^MAIL FROM:<ann@example.org>", mail.from)
    assert.equal("RCPT TO:<bob@example.org> RCPT TO:<cy@example.org> RCPT TO:<dan@example.org>",
      mail.to)
    assert.matches("\r\nSubject: Hello\r\n", mail.text)
    assert.is_truthy(mail.text:find("\r\nMessage-ID: " .. r.id .. "\r\n", 1, true))
    assert.matches("\r\n\r\nOne\r\n%.two\r\n%.%.three\r\n", mail.text)
    assert.is_nil(mail.text:find("dan@", 1, true))
  end)

  it("sends what is large", function()
    send({ subject = "big" }, { attachment_size = 3000000 })
    assert.is_true(table.remove(mails()).size > 4000000)
  end)

  it("authenticates, and gives no password away in the clear", function()
    assert.is_nil(send({ username = "shop", password = "secret", starttls = false }).code)
    assert.equal("AHNob3AAc2VjcmV0", table.remove(mails()).user)
    failed("login", { username = "other", password = "secret", starttls = false })
    local count = #mails()
    failed("tls", { username = "shop", password = "secret" })
    failed("tls", { starttls = "required" })
    assert.equal(count, #mails())
  end)

  it("says what the server refuses", function()
    local r = failed("rejected", { to = { "bob@example.org", "nobody@example.org" } })
    assert.equal(550, r.reply)
    assert.equal(502, r.status)
    assert.matches("refuses the recipient nobody@example.org: 550 no such user", r.message)
    failed("rejected", { from = "refused@example.org" })
    assert.equal(554, failed("rejected", { text = "SPAM" }).reply)
  end)

  it("says when the server is not there, or too slow", function()
    assert.equal(503, failed("connect", { server = "smtp://127.0.0.1:1" }).status)
    assert.equal(504, failed("timeout", { to = "silent@example.org", timeout = 0.3 }).status)
    failed("url", { server = "http://127.0.0.1/" })
  end)

  it("refuses at once what cannot be sent, naming it", function()
    local function message(options) return send(options).raised end
    assert.matches('app.lua:%d+: mail: header "Subject" has a line break',
      message { subject = "a\r\nBcc: x@y.org" })
    assert.matches("to: .*is no address", message { to = "bob@example.org>, <x@y.org" })
    assert.matches('unknown option "subjct": did you mean "subject"', message { subjct = "x" })
    assert.matches('option "timeout" must be seconds above 0', message { timeout = 0 })
    assert.matches("username and password go together", message { username = "x" })
    assert.matches('"starttls" must be', message { starttls = "maybe" })
  end)
end)
