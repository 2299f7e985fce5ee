-- The errors of the HTTP client and of mail.
--
--     error(fault.new("timeout", "no end after 30 s", "https://example.org/"), 0)

local fault = {}

---@class fasterlua.HttpClientError
---@field kind "http_client"|"mail"
---@field code string "resolve", "connect", "timeout", "tls", "closed", "protocol", "too_large",
---  "redirects", "guard", "queue_full", "url", "status", "login", "rejected", "memory",
---  "cancelled"
---@field message string
---@field url string|nil what was asked for, without credentials
---@field status integer|nil what a request that does not catch it is answered with
---@field response_status integer|nil of `raise_for_status`, and what a mail server has answered
local Fault = { __name = "fasterlua.http_client_error" }

local statuses = {
  resolve = 503, connect = 503, queue_full = 503, timeout = 504,
  tls = 502, closed = 502, protocol = 502, too_large = 502, redirects = 502, status = 502,
  login = 502, rejected = 502,
}

function Fault.__tostring(self)
  return ("%s (%s)%s: %s"):format(self.kind == "mail" and "mail" or "HTTP client", self.code,
    self.url and " " .. self.url or "", self.message)
end

function Fault.__crossing(self)
  return "fasterlua.http.fault", self.code, self.message, self.url, self.kind,
    self.response_status
end

---@param code string
---@param message string
---@param url? string
---@param kind? string
---@param response_status? integer
---@return fasterlua.HttpClientError
function fault.new(code, message, url, kind, response_status)
  return setmetatable({ kind = kind or "http_client", code = code, message = message, url = url,
    status = statuses[code], response_status = response_status }, Fault)
end

fault.from_crossing = fault.new

--- Whether an error value is one of these.
---@param err any
---@return boolean
function fault.is(err)
  return getmetatable(err) == Fault
end

return fault
