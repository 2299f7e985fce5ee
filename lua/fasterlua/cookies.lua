-- Writes Set-Cookie fields (RFC 6265, section 4.1), by default HttpOnly; SameSite=Lax; Path=/.
--
--     cookies.serialise("theme", "dark", { max_age = 86400 })
--     -- "theme=dark; Max-Age=86400; Path=/; HttpOnly; SameSite=Lax"

local suggest = require "fasterlua.suggest"
local units = require "fasterlua.units"

local cookies = {}

---@class fasterlua.CookieOptions
---@field max_age? integer|string seconds to live; 0 deletes the cookie
---@field expires? integer the Unix time when it ends
---@field path? string default "/"
---@field domain? string default: this host only
---@field secure? boolean only over TLS; default: as the name's prefix demands
---@field http_only? boolean hidden from scripts; default true
---@field same_site? "Lax"|"Strict"|"None" default "Lax"
---@field partitioned? boolean one per top-level site; needs `secure`

local MAX_BYTES = 4096 -- what browsers keep of name and value (RFC 6265, section 6.1)
local WEEKDAYS = { "Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat" }
local MONTHS =
  { "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec" }
local SAME_SITES = { lax = "Lax", strict = "Strict", none = "None" }

local function is_whole(value)
  return type(value) == "number" and value % 1 == 0 and math.abs(value) < 2 ^ 53
end

-- An attribute's text: no control characters, no separator (RFC 6265, section 4.1.1: av-octet).
local function is_attribute_text(value)
  return type(value) == "string" and not value:find "[%c;]"
end

local checks = {
  max_age = function(value)
    return is_whole(units.seconds(value))
  end,
  expires = is_whole,
  path = function(value)
    return is_attribute_text(value) and value:sub(1, 1) == "/"
  end,
  domain = function(value)
    return type(value) == "string" and value:find "^%.?%w[%w.-]*$" ~= nil
  end,
  secure = function(value)
    return type(value) == "boolean"
  end,
  same_site = function(value)
    return type(value) == "string" and SAME_SITES[value:lower()] ~= nil
  end,
}
checks.http_only, checks.partitioned = checks.secure, checks.secure

local option_names = {}
for name in pairs(checks) do
  option_names[#option_names + 1] = name
end

local function refuse(name, message, ...)
  error(("cookie %q: "):format(tostring(name)) .. message:format(...), 0)
end

local function check_options(name, options)
  for option, value in pairs(options) do
    local check = checks[option]
    if not check then
      local hint = suggest.hint(tostring(option), option_names)
      refuse(name, "unknown option %q%s", tostring(option), hint)
    elseif not check(value) then
      refuse(name, "option %q is not valid: %s", option, tostring(value))
    end
  end
end

local function check_pair(name, value)
  if type(name) ~= "string" or not name:find "^[%w!#$%%&'*+.^_`|~-]+$" then
    refuse(name, "the name must be a token: letters, digits, - _ .")
  end
  if type(value) ~= "string" then
    refuse(name, "the value must be a string, got %s", type(value))
  end
  local bad = value:match "[^!#-+%-./0-:<-Z%[%]^-~]"
  if bad then
    refuse(name, "the value holds byte 0x%02X: encode it first, for example in hex", bad:byte())
  end
  if #name + #value > MAX_BYTES then
    refuse(name, "name and value have %d bytes, browsers keep %d", #name + #value, MAX_BYTES)
  end
end

-- What the name's prefix promises (draft-ietf-httpbis-rfc6265bis, section 4.1.3).
local function check_prefix(name, options, is_secure)
  local prefix = name:lower():match "^__host%-" or name:lower():match "^__secure%-"
  if prefix and not is_secure then
    refuse(name, "its prefix needs secure = true")
  end
  if prefix ~= "__host-" then
    return prefix ~= nil
  end
  if options.domain then
    refuse(name, "its prefix allows no domain")
  elseif options.path and options.path ~= "/" then
    refuse(name, 'its prefix allows no path but "/"')
  end
end

local function check_secure(name, options, is_secure)
  check_prefix(name, options, is_secure)
  if options.partitioned and not is_secure then
    refuse(name, "partitioned needs secure = true")
  end
  if options.same_site and options.same_site:lower() == "none" and not is_secure then
    refuse(name, 'same_site = "None" needs secure = true')
  end
end

--- A Unix time as HTTP writes it (RFC 9110, section 5.6.7), whatever the locale.
---@param time integer
---@return string
function cookies.date(time)
  local at = os.date("!*t", time)
  return ("%s, %02d %s %04d %02d:%02d:%02d GMT"):format(WEEKDAYS[at.wday], at.day,
    MONTHS[at.month], at.year, at.hour, at.min, at.sec)
end

local function attributes(options, is_secure)
  local parts = {}
  local function add(text)
    parts[#parts + 1] = text
  end
  if options.max_age then
    add(("Max-Age=%d"):format(units.seconds(options.max_age)))
  end
  if options.expires then
    add("Expires=" .. cookies.date(options.expires))
  end
  if options.domain then
    add("Domain=" .. options.domain)
  end
  add("Path=" .. (options.path or "/"))
  if is_secure then
    add "Secure"
  end
  if options.http_only ~= false then
    add "HttpOnly"
  end
  add("SameSite=" .. SAME_SITES[(options.same_site or "Lax"):lower()])
  if options.partitioned then
    add "Partitioned"
  end
  return table.concat(parts, "; ")
end

--- The value of a Set-Cookie field. Raises, naming the cookie, what browsers would refuse or
--- misread.
---@param name string
---@param value string
---@param options? fasterlua.CookieOptions
---@return string
function cookies.serialise(name, value, options)
  options = options or {}
  check_pair(name, value)
  check_options(name, options)
  local is_secure = options.secure
  if is_secure == nil then
    is_secure = name:lower():find "^__host%-" ~= nil or name:lower():find "^__secure%-" ~= nil
  end
  check_secure(name, options, is_secure)
  return ("%s=%s; "):format(name, value) .. attributes(options, is_secure)
end

--- The value of a Set-Cookie field that deletes a cookie; path and domain must be those it was set
--- with.
---@param name string
---@param options? fasterlua.CookieOptions
---@return string
function cookies.deletion(name, options)
  local expired = {}
  for option, value in pairs(options or {}) do
    expired[option] = value
  end
  expired.max_age, expired.expires = 0, 0
  return cookies.serialise(name, "", expired)
end

return cookies
