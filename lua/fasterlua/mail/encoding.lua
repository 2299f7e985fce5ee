-- How text travels in mail: encoded words in headers (RFC 2047), quoted-printable and Base64 in
-- bodies (RFC 2045).
--
--     encoding.words "Grüße" -- "=?UTF-8?B?R3LDvMOfZQ==?="

local digest = require "fasterlua.digest"
local json = require "fasterlua.json"

local encoding = {}

local LINE = 76 -- characters, without the line's end
local LINE_BYTES = LINE / 4 * 3 -- of data in a line of Base64
local WORD_BYTES = 45 -- of text in one encoded word: 60 characters of Base64
local HARD_LINE = 998 -- bytes that a line may have (RFC 5322 section 2.1.1)

---@param text string
---@return boolean
function encoding.is_utf8(text)
  return (pcall(json.encode, text))
end

-- A piece of at most so many bytes that ends with a whole character.
local function cut(text, first, most)
  local last = math.min(first + most - 1, #text)
  while last < #text and last > first and text:byte(last + 1) >= 128
    and text:byte(last + 1) < 192 do
    last = last - 1
  end
  return text:sub(first, last), last + 1
end

--- Encoded words, folded.
---@param text string UTF-8
---@return string
function encoding.words(text)
  local words, position = {}, 1
  while position <= #text do
    local piece
    piece, position = cut(text, position, WORD_BYTES)
    words[#words + 1] = "=?UTF-8?B?" .. digest.base64(piece) .. "?="
  end
  return table.concat(words, "\r\n ")
end

local function needs_words(text)
  return text:find "[\128-\255]" ~= nil or text:find("=?", 1, true) ~= nil
    or text:find "%S" ~= nil and #text:match "%S*$" > HARD_LINE
end

-- Breaks at spaces; the name of the header stands on the first line.
local function fold(text, used)
  local lines, line = {}, ""
  for space, word in text:gmatch "(%s*)(%S+)" do
    if line ~= "" and used + #line + #space + #word > LINE then
      lines[#lines + 1], line, used = line, space .. word, 0
    else
      line = line .. space .. word
    end
  end
  lines[#lines + 1] = line
  return table.concat(lines, "\r\n")
end

--- Unstructured text for a header whose name takes `used` characters.
---@param text string UTF-8 without control characters
---@param used integer
---@return string
function encoding.header(text, used)
  text = text:match "^%s*(.-)%s*$"
  for word in text:gmatch "%S+" do
    if #word > HARD_LINE - LINE then
      return encoding.words(text)
    end
  end
  return needs_words(text) and encoding.words(text) or fold(text, used)
end

--- A display name: as it is, quoted, or in encoded words.
---@param name string
---@return string
function encoding.phrase(name)
  if needs_words(name) then
    return encoding.words(name)
  elseif name:find "^[%w!#$%%&'*+/=?^_`{|}~ -]+$" then
    return name
  end
  return '"' .. name:gsub('[\\"]', "\\%0") .. '"'
end

--- A parameter of Content-Type or Content-Disposition (RFC 2231).
---@param name string
---@param value string
---@return string
function encoding.parameter(name, value)
  if value:find "^[%w!#$&+.^_`{|}~-]+$" then
    return ("%s=%s"):format(name, value)
  elseif not value:find "[\128-\255]" then
    return ('%s="%s"'):format(name, (value:gsub('[\\"]', "\\%0")))
  end
  return ("%s*=UTF-8''%s"):format(name, (value:gsub("[^%w.~_-]", function(byte)
    return ("%%%02X"):format(byte:byte())
  end)))
end

local function quote(byte)
  return ("=%02X"):format(byte:byte())
end

-- Soft breaks, none of them inside of an escape.
local function break_line(line)
  local parts = {}
  while #line > LINE do
    local length = LINE - 1
    local escape = line:sub(length - 1, length):find("=", 1, true)
    if escape then
      length = length - 3 + escape
    end
    parts[#parts + 1] = line:sub(1, length)
    line = line:sub(length + 1)
  end
  parts[#parts + 1] = line
  return table.concat(parts, "=\r\n")
end

local function quote_line(line)
  line = line:gsub("[^\9\32-\60\62-\126]", quote):gsub("[ \t]$", quote):gsub("^From ", "=46rom ")
  return break_line(line)
end

--- Quoted-printable.
---@param text string its lines end with \r\n
---@return string
function encoding.quoted_printable(text)
  local lines = {}
  for line in (text .. "\r\n"):gmatch "(.-)\r\n" do
    lines[#lines + 1] = quote_line(line)
  end
  return table.concat(lines, "\r\n")
end

--- Base64 in lines.
---@param data string
---@return string
function encoding.base64(data)
  local lines = {}
  for first = 1, #data, LINE_BYTES do
    lines[#lines + 1] = digest.base64(data:sub(first, first + LINE_BYTES - 1))
  end
  return table.concat(lines, "\r\n")
end

local function is_plain(text)
  if text:find "[^\9\10\13\32-\126]" or ("\r\n" .. text):find("\r\nFrom ", 1, true) then
    return false
  end
  for line in (text .. "\r\n"):gmatch "(.-)\r\n" do
    if #line > LINE or line:find "[ \t]$" then
      return false
    end
  end
  return true
end

--- A text body in whichever encoding suits it.
---@param text string
---@return string name "7bit", "quoted-printable" or "base64"
---@return string encoded
function encoding.body(text)
  text = text:gsub("\r\n", "\n"):gsub("\r", "\n"):gsub("\n", "\r\n")
  if is_plain(text) then
    return "7bit", text
  end
  local _, foreign = text:gsub("[\128-\255]", "")
  if foreign > #text / 5 then
    return "base64", encoding.base64(text)
  end
  return "quoted-printable", encoding.quoted_printable(text)
end

return encoding
