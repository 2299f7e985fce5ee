-- Addresses of mail: `ann@example.org`, `Ann Lee <ann@example.org>`.
--
--     local address = address.parse("Ann Lee <ann@example.org>", "to")
--     address.name, address.mailbox -- "Ann Lee", "ann@example.org"

local address = {}

local LOCAL_MOST, MAILBOX_MOST = 64, 254 -- bytes (RFC 5321 section 4.5.3.1)
local ATOM = "^[%w!#$%%&'*+/=?^_`{|}~-]+$"

---@class fasterlua.MailAddress
---@field mailbox string
---@field name string|nil

local function is_local_part(text)
  if #text > LOCAL_MOST or text:find "%.%." then
    return false
  end
  for atom in (text .. "."):gmatch "([^.]*)%." do
    if not atom:find(ATOM) then
      return false
    end
  end
  return true
end

local function is_domain(text)
  for label in (text .. "."):gmatch "([^.]*)%." do
    if #label > 63 or not label:find "^%w[%w-]*$" or label:find "%-$" then
      return false
    end
  end
  return true
end

local function is_mailbox(text)
  local name, domain = text:match "^([^@]+)@([^@]+)$"
  return name ~= nil and #text <= MAILBOX_MOST and is_local_part(name) and is_domain(domain)
end

--- The parts of an address; raises, naming the field, when it is none.
---@param text any
---@param field string "from", "to" …
---@return fasterlua.MailAddress
function address.parse(text, field)
  if type(text) ~= "string" then
    error(("mail: %s must be an address, got %s"):format(field, type(text)), 0)
  elseif text:find "[%z\1-\31\127]" then
    error(("mail: %s has a control character"):format(field), 0)
  end
  local name, mailbox = text:match "^%s*(.-)%s*<([^<>]*)>%s*$"
  mailbox = mailbox or text:match "^%s*(.-)%s*$"
  if not is_mailbox(mailbox) then
    error(("mail: %s: %q is no address"):format(field, text), 0)
  end
  name = name and name:match '^"(.*)"$' or name
  return { mailbox = mailbox, name = name ~= "" and name or nil }
end

--- The addresses of a field: one, or a list.
---@param value any
---@param field string
---@return fasterlua.MailAddress[]
function address.list(value, field)
  local list = {}
  for index, text in ipairs(type(value) == "table" and value or { value }) do
    list[index] = address.parse(text, field)
  end
  return list
end

return address
