-- fl.mail in a real server, against a small SMTP server.

local cjson = require "cjson"
local socket = require "socket"
local support = require "support"

local process = support.process

-- Speaks SMTP to one client after the other. It writes its port into a file, then each mail as a
-- line of its envelope and its text in hexadecimal. With a port of TLS to lead to it offers
-- STARTTLS; as "stdio" it is what stands behind that.
local SMTP = [==[
local path, mode, greets = ...
local function note(...)
  local file = io.open(path, "a")
  file:write(table.concat({ ... }, "\t"), "\n")
  file:close()
end

local function hex(text)
  return (text:gsub(".", function(c) return ("%02x"):format(c:byte()) end))
end

-- What goes on inside of TLS is none of its business.
local function relay(c, port)
  local socket = require "socket"
  local other = assert(socket.connect("127.0.0.1", port))
  local ends = { [c] = other, [other] = c }
  c:settimeout(0)
  other:settimeout(0)
  while true do
    for _, from in ipairs((socket.select({ c, other }, nil, 5))) do
      local data, why, part = from:receive(65536)
      data = data or part
      if data ~= "" then ends[from]:settimeout(5) ends[from]:send(data) ends[from]:settimeout(0) end
      if why == "closed" then other:close() return end
    end
  end
end

local function converse(c, tls_port)
  local from, to, user = "", {}, ""
  local function say(text) c:send(text .. "\r\n") end
  if mode ~= "stdio" then say "220 here" end
  while true do
    local line = c:receive "*l"
    if not line then return end
    local verb = line:upper():match "^%a+"
    if verb == "EHLO" then
      say "250-here"
      if tls_port then say "250-STARTTLS" end
      say "250-AUTH PLAIN"
      say "250 SIZE 1000000"
    elseif verb == "HELO" then say "250 here"
    elseif verb == "STARTTLS" and tls_port then
      say "220 go on"
      return relay(c, tls_port)
    elseif verb == "AUTH" then
      say "334 "
      user = c:receive "*l" or ""
      say(user:find "^AHNob3A" and "235 welcome" or "535 who are you")
    elseif verb == "MAIL" then
      from = line
      say(line:find "refused@" and "550 not you" or "250 ok")
    elseif verb == "RCPT" then
      to[#to + 1] = line
      if line:find "silent@" then require("socket").sleep(2) return end
      say(line:find "nobody@" and "550-no such\r\n550 user" or "250 ok")
    elseif verb == "DATA" then
      say "354 go on"
      local lines = {}
      repeat
        local text = c:receive "*l"
        if not text then return end
        if text ~= "." then lines[#lines + 1] = text:gsub("^%.", "") end
      until text == "."
      local text = table.concat(lines, "\r\n")
      note("MAIL", from, table.concat(to, " "), user, mode or "", #text, hex(text:sub(1, 20000)))
      say(text:find "SPAM" and "554 spam" or "250 taken")
    elseif verb == "QUIT" then say "221 bye" return
    else say "502 what" end
  end
end

if mode == "stdio" then
  local c = {}
  function c.send(_, text) io.stdout:write(text) io.stdout:flush() end
  if greets ~= "silent" then c:send "220 here\r\n" end
  function c.receive() local line = io.stdin:read "*l" return line and (line:gsub("\r$", "")) end
  while io.stdin:read(0) do converse(c) end
  return
end

local socket = require "socket"
local listener = assert(socket.bind("127.0.0.1", 0, 64))
note("PORT", (select(2, listener:getsockname())))
while true do
  local c = listener:accept()
  c:settimeout(5)
  converse(c, mode)
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

-- `openssl s_server` with the SMTP server behind it.
local TLS = [[
cd "$1" && openssl req -x509 -newkey rsa:2048 -nodes -keyout "$2.key" -out "$2.pem" -days 2 \
  -subj /CN=localhost -addext subjectAltName=DNS:localhost 2>/dev/null && mkfifo "$2.fifo" &&
openssl s_server -quiet -accept "127.0.0.1:$4" -cert "$2.pem" -key "$2.key" <"$2.fifo" |
  luajit smtp.lua "$2.mails" stdio "$3" >"$2.fifo"
]]

local dir = process.temporary_directory()
local file = assert(io.open(dir .. "/smtp.lua", "w"))
file:write(SMTP)
file:close()

local pids = {}
local function start_smtp(name, tls_port)
  pids[#pids + 1] = process.spawn { argv = { "luajit", dir .. "/smtp.lua", dir .. "/" .. name,
    tls_port }, output = dir .. "/errors" }
  return support.eventually(function()
    return (process.read(dir .. "/" .. name) or ""):match "^PORT\t(%d+)\n"
  end, 10)
end
local server = "smtp://127.0.0.1:" .. start_smtp "mails"

local function unhex(text)
  return (text:gsub("%x%x", function(digits) return string.char(tonumber(digits, 16)) end))
end

local function mails(name)
  local found = {}
  for from, to, user, mode, size, text in (process.read(dir .. "/" .. (name or "mails")) or "")
    :gmatch "MAIL\t([^\t\n]*)\t([^\t\n]*)\t([^\t\n]*)\t([^\t\n]*)\t(%d+)\t(%x*)\n" do
    found[#found + 1] = { from = from, to = to, user = user, mode = mode, size = tonumber(size),
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
    for _, pid in ipairs(pids) do
      for _, child in ipairs(process.children(pid)) do
        process.signal(child, "KILL")
      end
      process.signal(pid, "KILL")
      process.wait(pid, 5)
    end
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

  describe("over TLS", function()
    if os.execute "command -v openssl >/dev/null 2>&1" ~= 0 then
      pending("needs the program openssl")
      return
    end

    local function start_tls(name, greets)
      local listener = assert(socket.bind("127.0.0.1", 0))
      local _, port = listener:getsockname()
      listener:close()
      pids[#pids + 1] = process.spawn { argv = { "sh", "-c", TLS, "sh", dir, name, greets, port },
        output = dir .. "/" .. name .. ".log" }
      local listening = ("0100007F:%04X 00000000:0000 0A"):format(port)
      support.eventually(function()
        return process.read("/proc/net/tcp"):find(listening, 1, true)
      end, 20)
      return port
    end

    it("sends to a server that speaks it from the start", function()
      failed("tls", { server = "smtps://localhost:" .. start_tls("unknown", "greets") })
      local tls_server = "smtps://localhost:" .. start_tls("smtps", "greets")
      assert.is_nil(send({ server = tls_server, ca = dir .. "/smtps.pem", username = "shop",
        password = "secret", text = "sealed" }).code)
      local mail = table.remove(mails "smtps.mails")
      assert.equal("AHNob3AAc2VjcmV0", mail.user)
      assert.matches("sealed", mail.text)
    end)

    it("sends to a server that turns to it", function()
      local inner = start_tls("starttls", "silent")
      local tls_server = "smtp://localhost:" .. start_smtp("outer", inner)
      local r = send { server = tls_server, ca = dir .. "/starttls.pem", username = "shop",
        password = "secret", text = "sealed later" }
      assert.is_nil(r.code, r.message)
      assert.same({}, mails "outer")
      assert.matches("sealed later", table.remove(mails "starttls.mails").text)
    end)
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
