-- Builds mails: RFC 5322 messages with MIME parts.
--
--     local built = message.build { from = "a@example.org", to = "b@example.org", text = "Hello" }
--     built.text, built.from, built.recipients

local address = require "fasterlua.mail.address"
local digest = require "fasterlua.digest"
local encoding = require "fasterlua.mail.encoding"

local message = {}

local MB = 1024 * 1024
local SIZE_MOST = 50 * MB
local RECIPIENTS_MOST = 1000

-- Those that this module writes.
local OWN = { from = true, to = true, cc = true, bcc = true, subject = true,
  ["mime-version"] = true, ["content-type"] = true, ["content-transfer-encoding"] = true,
  ["content-disposition"] = true }

---@class fasterlua.MailAttachment
---@field name string of the file
---@field type? string default application/octet-stream
---@field data string

local function check_header(name, value)
  if type(value) == "number" then
    value = tostring(value)
  end
  if type(value) ~= "string" then
    error(("mail: header %q must be a string, got %s"):format(name, type(value)), 0)
  elseif value:find "[%z\1-\8\10-\31\127]" then
    error(("mail: header %q has a line break or another control character"):format(name), 0)
  elseif not encoding.is_utf8(value) then
    error(("mail: header %q is not UTF-8"):format(name), 0)
  end
  return value
end

local function header(lines, name, value)
  value = check_header(name, value)
  lines[#lines + 1] = name .. ": " .. encoding.header(value, #name + 2)
end

local function written(one)
  if not one.name then
    return one.mailbox
  end
  return encoding.phrase(check_header("name of an address", one.name)) .. " <" .. one.mailbox
    .. ">"
end

local function addresses(lines, name, list)
  local texts = {}
  for index, one in ipairs(list) do
    texts[index] = written(one)
  end
  if #texts > 0 then
    lines[#lines + 1] = name .. ": " .. table.concat(texts, ",\r\n ")
  end
end

local function check_own_header(name)
  if type(name) ~= "string" or not name:find "^[\33-\57\59-\126]+$" then
    error(("mail: %q is no name of a header"):format(tostring(name)), 0)
  elseif OWN[name:lower()] then
    error(("mail: header %q is made from the other options"):format(name), 0)
  end
end

local function app_headers(lines, headers)
  local names = {}
  for name in pairs(headers or {}) do
    check_own_header(name)
    names[#names + 1] = name
  end
  table.sort(names)
  for _, name in ipairs(names) do
    header(lines, name, headers[name])
  end
end

local function has_header(headers, wanted)
  for name in pairs(headers or {}) do
    if type(name) == "string" and name:lower() == wanted then
      return headers[name]
    end
  end
end

local function random_hex(count)
  return (digest.random(count):gsub(".", function(byte)
    return ("%02x"):format(byte:byte())
  end))
end

local function identity(options, lines, from)
  if not has_header(options.headers, "date") then
    header(lines, "Date", os.date "!%a, %d %b %Y %H:%M:%S +0000")
  end
  local id = has_header(options.headers, "message-id")
  if not id then
    id = ("<%s@%s>"):format(random_hex(16), from.mailbox:match "@(.*)$")
    header(lines, "Message-ID", id)
  end
  return id
end

-- parts: { headers = { line… }, body }

local function text_part(kind, text)
  if type(text) ~= "string" then
    error(("mail: %s must be a string, got %s"):format(kind == "html" and "html" or "text",
      type(text)), 0)
  elseif not encoding.is_utf8(text) then
    error(("mail: %s is not UTF-8"):format(kind == "html" and "html" or "text"), 0)
  end
  local name, encoded = encoding.body(text)
  return { headers = { ("Content-Type: text/%s; charset=utf-8"):format(kind),
    "Content-Transfer-Encoding: " .. name }, body = encoded }
end

local function check_attachment(index, given)
  local place = ("mail: attachment %d"):format(index)
  if type(given) ~= "table" or type(given.data) ~= "string" or type(given.name) ~= "string" then
    error(place .. " must be { name = …, data = … } of strings", 0)
  elseif given.name == "" or given.name:find "[%z\1-\31\127]"
    or not encoding.is_utf8(given.name) then
    error(place .. " has a name with control characters, or none", 0)
  elseif given.type ~= nil and not (type(given.type) == "string"
    and given.type:find "^[%w!#$&^_.+-]+/[%w!#$&^_.+-]+;?[\32-\126]*$") then
    error(("%s has a malformed type: %q"):format(place, tostring(given.type)), 0)
  end
end

local function attachment_part(index, given)
  check_attachment(index, given)
  return { headers = { "Content-Type: " .. (given.type or "application/octet-stream"),
    "Content-Disposition: attachment;\r\n " .. encoding.parameter("filename", given.name),
    "Content-Transfer-Encoding: base64" }, body = encoding.base64(given.data) }
end

local function multipart(kind, parts)
  local boundary = "=_" .. random_hex(16) -- in no encoding's alphabet
  local pieces = {}
  for _, part in ipairs(parts) do
    pieces[#pieces + 1] = "--" .. boundary .. "\r\n" .. table.concat(part.headers, "\r\n")
      .. "\r\n\r\n" .. part.body .. "\r\n"
  end
  pieces[#pieces + 1] = "--" .. boundary .. "--"
  return { headers = { ('Content-Type: multipart/%s;\r\n boundary="%s"'):format(kind, boundary) },
    body = table.concat(pieces) }
end

local function content(options)
  local text = options.text and text_part("plain", options.text)
  local html = options.html and text_part("html", options.html)
  if text and html then
    return multipart("alternative", { text, html })
  end
  return text or html or text_part("plain", "")
end

local function whole(options)
  local attachments = options.attachments or {}
  local parts = { content(options) }
  for index, given in ipairs(attachments) do
    parts[#parts + 1] = attachment_part(index, given)
  end
  return #parts > 1 and multipart("mixed", parts) or parts[1]
end

local function recipients_of(...)
  local all, seen = {}, {}
  for _, list in ipairs { ... } do
    for _, one in ipairs(list) do
      if not seen[one.mailbox] then
        seen[one.mailbox] = true
        all[#all + 1] = one.mailbox
      end
    end
  end
  if #all == 0 or #all > RECIPIENTS_MOST then
    error(("mail: from 1 to %d recipients expected, got %d"):format(RECIPIENTS_MOST, #all), 0)
  end
  return all
end

---@class fasterlua.BuiltMail
---@field text string
---@field from string
---@field recipients string[]
---@field id string its Message-ID

--- Raises, naming the field, what cannot be sent.
---@param options fasterlua.MailOptions
---@return fasterlua.BuiltMail
function message.build(options)
  local from = address.parse(options.from, "from")
  local to, cc = address.list(options.to, "to"), address.list(options.cc, "cc")
  local bcc = address.list(options.bcc, "bcc")
  local lines = {}
  addresses(lines, "From", { from })
  addresses(lines, "To", to)
  addresses(lines, "Cc", cc)
  header(lines, "Subject", options.subject or "")
  local id = identity(options, lines, from)
  app_headers(lines, options.headers)
  local part = whole(options)
  lines[#lines + 1] = "MIME-Version: 1.0"
  local text = table.concat(lines, "\r\n") .. "\r\n" .. table.concat(part.headers, "\r\n")
    .. "\r\n\r\n" .. part.body .. "\r\n"
  if #text > SIZE_MOST then
    error(("mail: %d bytes are more than %d"):format(#text, SIZE_MOST), 0)
  end
  return { text = text, from = from.mailbox, recipients = recipients_of(to, cc, bcc), id = id }
end

return message
