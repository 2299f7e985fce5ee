-- What a server has answered.
--
--     local response = await(fl.http.get "https://example.org/")
--     response.status, response.headers["content-type"], response.body

local driver = require "fasterlua.http.driver"
local fault = require "fasterlua.http.fault"
local future = require "fasterlua.future"
local json = require "fasterlua.json"

local await, from_op = future.await, future.from_op
local rawget, rawset, setmetatable = rawget, rawset, setmetatable

local response = {}

---@class fasterlua.HttpTimings seconds since the start; 0: there was no such step
---@field resolve number
---@field connect number
---@field tls number
---@field first_byte number
---@field total number

---@class fasterlua.HttpResponse
---@field status integer
---@field headers table<string, string> by any case; several of a name joined by ", "
---@field body string|nil nil when it is streamed
---@field url string the final one
---@field version "1.0"|"1.1"|"2"|"3"
---@field timings fasterlua.HttpTimings
local Response = { __name = "fasterlua.http_response" }
local methods = {}
Response.__index = methods

-- Slots beside the public fields.
local FIELDS, EXCHANGE = {}, {} -- the header's fields in order; what a streamed body comes from

local Headers = {}

function Headers.__index(self, name)
  return type(name) == "string" and rawget(self, name:lower()) or nil
end

local function add_field(fields, line)
  local name, value = line:match "^([^:%s]+):[ \t]*(.-)[ \t]*$"
  if name then
    fields[#fields + 1] = { name:lower(), value }
  elseif #fields > 0 and line:find "^[ \t]" then -- a folded line (RFC 9112 section 5.2)
    local last = fields[#fields]
    last[2] = last[2] .. " " .. line:match "^%s*(.-)%s*$"
  end
end

--- The fields of a head, in order: { name in lower case, value }.
---@param lines string
---@return table[]
function response.parse_fields(lines)
  local fields = {}
  for line in lines:gmatch "([^\n]*)\n" do
    add_field(fields, (line:gsub("\r$", "")))
  end
  return fields
end

local function join_fields(fields)
  local headers = {}
  for _, field in ipairs(fields) do
    local name, value = field[1], field[2]
    headers[name] = headers[name] and headers[name] .. ", " .. value or value
  end
  return setmetatable(headers, Headers)
end

---@class fasterlua.HttpExchange
---@field transfer userdata
---@field url string
---@field pump fasterlua.Future|false sends the request's body
---@field max_body integer

--- The response of an exchange whose head has come.
---@param exchange fasterlua.HttpExchange
---@return fasterlua.HttpResponse
function response.new(exchange)
  local core = driver.load()
  local status, lines = core.head(exchange.transfer)
  local fields = response.parse_fields(lines)
  local version, timings = core.about(exchange.transfer)
  return setmetatable({ status = status, headers = join_fields(fields), url = exchange.url,
    version = version, timings = timings, [FIELDS] = fields }, Response)
end

--- Its body is there as a whole.
---@param self fasterlua.HttpResponse
---@param body string
function response.set_body(self, body)
  self.body = body
end

--- Its body is read from an exchange.
---@param self fasterlua.HttpResponse
---@param exchange fasterlua.HttpExchange
function response.set_stream(self, exchange)
  rawset(self, EXCHANGE, exchange)
end

--- Ends an exchange, whatever it has come to.
---@param exchange fasterlua.HttpExchange
function response.close(exchange)
  if exchange.pump then
    exchange.pump:cancel()
  end
  driver.load().close(exchange.transfer)
end

--- All values of one header, in order.
---@param name string
---@return string[]
function methods:header_values(name)
  local values = {}
  for _, field in ipairs(rawget(self, FIELDS)) do
    if field[1] == name:lower() then
      values[#values + 1] = field[2]
    end
  end
  return values
end

local function wait(exchange, what)
  local op = driver.load().wait(exchange.transfer, what)
  if op then
    await(from_op(op))
  end
end

-- Whoever stops waiting does not come back for more.
local function wait_for_body(exchange)
  local ok, err = pcall(wait, exchange, "body")
  if not ok then
    response.close(exchange)
    error(err, 0)
  end
end

-- The next piece; nil at the end.
local function next_piece(exchange)
  local core = driver.load()
  while true do
    local has_ended, code, message = core.ended(exchange.transfer)
    local piece = core.take(exchange.transfer)
    if piece ~= "" then
      return piece
    elseif code then
      response.close(exchange)
      error(fault.new(code, message, exchange.url), 0)
    elseif has_ended then
      return nil
    end
    wait_for_body(exchange)
  end
end

--- Iterates over a streamed body as it comes; the server is held back meanwhile.
---@return fun(): string|nil
function methods:chunks()
  local exchange = rawget(self, EXCHANGE)
  if not exchange then
    error('response:chunks(): the request must say `stream = true`', 2)
  end
  return next_piece, exchange
end

local function collect(exchange)
  local pieces, size = {}, 0
  for piece in next_piece, exchange do
    size = size + #piece
    if size > exchange.max_body then
      response.close(exchange)
      error(fault.new("too_large", ("the answer's body is larger than %d bytes"):format(
        exchange.max_body), exchange.url), 0)
    end
    pieces[#pieces + 1] = piece
  end
  return table.concat(pieces)
end

--- The whole body; of a streamed one at most `max_body` bytes, or an error.
---@return string
function methods:text()
  local exchange = rawget(self, EXCHANGE)
  if not self.body and exchange then
    self.body = collect(exchange)
  end
  return self.body
end

--- The body, decoded as JSON. Raises an error of code "protocol" when it is not.
---@return any
function methods:json()
  local ok, value = pcall(json.decode, self:text())
  if not ok then
    error(fault.new("protocol", "the answer is not JSON: " .. tostring(value), self.url), 0)
  end
  return value
end

--- Raises an error of code "status" when the status is 400 or above; else returns the response.
---@return fasterlua.HttpResponse
function methods:raise_for_status()
  if self.status >= 400 then
    error(fault.new("status", ("the answer's status is %d"):format(self.status), self.url, nil,
      self.status), 0)
  end
  return self
end

--- Ends a streamed response early. Harmless otherwise.
function methods:close()
  local exchange = rawget(self, EXCHANGE)
  if exchange then
    response.close(exchange)
  end
end

function Response.__tostring(self)
  return ("fasterlua.http_response (%d %s)"):format(self.status, self.url)
end

return response
