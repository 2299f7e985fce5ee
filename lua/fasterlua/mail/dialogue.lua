-- What is said to a mail server once it is connected, secured and knows who we are (RFC 5321).
--
--     dialogue.run(connection, message.build(options))

local driver = require "fasterlua.http.driver"
local exchange = require "fasterlua.http.exchange"
local fault = require "fasterlua.http.fault"

local dialogue = {}

local PIECE = 65536 -- bytes given to C at once
local REPLY_MOST = 65536 -- bytes of one reply

local function say(connection, text)
  local core, transfer = driver.load(), connection.transfer
  for first = 1, #text, PIECE do
    if not core.send(transfer, text:sub(first, first + PIECE - 1)) then
      exchange.wait(transfer, "room")
    end
  end
end

-- The next line, without its end.
local function hear_line(connection)
  local core, transfer = driver.load(), connection.transfer
  while true do
    local line, rest = connection.heard:match "^(.-)\r?\n(.*)$"
    if line then
      connection.heard = rest
      return line
    end
    local has_ended = core.ended(transfer)
    local piece = core.take(transfer)
    connection.heard = connection.heard .. piece
    if piece == "" and has_ended then
      exchange.raise_fault(connection)
    elseif #connection.heard > REPLY_MOST then
      error(fault.new("protocol", "the server's reply has no end", connection.url, "mail"), 0)
    elseif piece == "" then
      exchange.wait(transfer, "body")
    end
  end
end

--- Reads a reply: its code, and its text.
local function hear(connection)
  local texts, size = {}, 0
  while true do
    local line = hear_line(connection)
    local code, dash, text = line:match "^(%d%d%d)([ -]?)(.*)$"
    size = size + #line
    if not code or size > REPLY_MOST then
      error(fault.new("protocol", "the server's reply is malformed", connection.url, "mail"), 0)
    end
    texts[#texts + 1] = text
    if dash ~= "-" then
      return tonumber(code), table.concat(texts, " ")
    end
  end
end

local function expect(connection, wanted, about)
  local code, text = hear(connection)
  if math.floor(code / 100) ~= wanted then
    local message = ("the server refuses %s: %d %s"):format(about, code, text)
    error(fault.new("rejected", message, connection.url, "mail", code), 0)
  end
end

-- A line that begins with a dot gets another one (RFC 5321 section 4.5.2).
local function stuffed(text)
  return (("\r\n" .. text):gsub("\r\n%.", "\r\n.."):sub(3))
end

--- Hands a message over. Raises what the server refuses.
---@param connection fasterlua.HttpExchange
---@param built fasterlua.BuiltMail
function dialogue.run(connection, built)
  connection.heard = ""
  exchange.wait(connection.transfer, "head")
  exchange.raise_fault(connection)
  say(connection, ("MAIL FROM:<%s>\r\n"):format(built.from))
  expect(connection, 2, "the sender " .. built.from)
  for _, mailbox in ipairs(built.recipients) do
    say(connection, ("RCPT TO:<%s>\r\n"):format(mailbox))
    expect(connection, 2, "the recipient " .. mailbox)
  end
  say(connection, "DATA\r\n")
  expect(connection, 3, "to take a message")
  say(connection, stuffed(built.text) .. ".\r\n")
  expect(connection, 2, "the message")
  say(connection, "QUIT\r\n")
end

return dialogue
