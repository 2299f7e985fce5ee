-- http: HTTP/1.1 messages as a client writes and reads them, strictly: what a careful client would
-- call malformed is an error here.
--
--     local bytes = http.format_request { path = "/", headers = { Accept = "*/*" } }

local cjson = require "cjson"

local M = {}

---@class support.request
---@field method string? "GET"
---@field path string? "/"
---@field headers table<string, string|number|string[]>|string[][]? a map, or pairs in order
---@field body string|table|nil with `chunked` a list of chunks; else a table is sent as JSON
---@field chunked boolean?
---@field trailers table<string, string>? after a chunked body
---@field timeout number? seconds

---@class support.response
---@field version string "1.1"
---@field status integer
---@field reason string
---@field headers table<string, string> lower-case name = first value
---@field header_list string[][] { name, value } as they came
---@field body string
---@field chunks string[]? of a chunked body
---@field trailers table<string, string>? lower-case name = value
---@field interim support.response[]? 1xx answers before this one
local response = {}
response.__index = response

---The body, decoded.
---@return any
function response:json()
  return cjson.decode(self.body)
end

---All values of one header field.
---@param name string
---@return string[]
function response:values(name)
  local values = {}
  for _, field in ipairs(self.header_list) do
    if field[1]:lower() == name:lower() then
      values[#values + 1] = field[2]
    end
  end
  return values
end

local function add_field(lines, names, name, value)
  names[name:lower()] = true
  for _, one in ipairs(type(value) == "table" and value or { value }) do
    lines[#lines + 1] = name .. ": " .. tostring(one)
  end
end

local function header_lines(headers)
  local lines, names = {}, {}
  for _, field in ipairs(headers or {}) do
    add_field(lines, names, field[1], field[2])
  end
  for name, value in pairs(headers or {}) do
    if type(name) == "string" then
      add_field(lines, names, name, value)
    end
  end
  return lines, names
end

local function chunked_body(body, trailers)
  local parts = {}
  for _, chunk in ipairs(type(body) == "table" and body or { body }) do
    parts[#parts + 1] = ("%x\r\n%s\r\n"):format(#chunk, chunk)
  end
  parts[#parts + 1] = "0\r\n"
  for _, line in ipairs((header_lines(trailers))) do
    parts[#parts + 1] = line .. "\r\n"
  end
  parts[#parts + 1] = "\r\n"
  return table.concat(parts)
end

---The bytes of a request. Host, Content-Length and the like are added where they are missing.
---@param request support.request
---@param authority string? for Host
---@return string
function M.format_request(request, authority)
  local lines, names = header_lines(request.headers)
  local body = request.body
  local function default(name, value)
    if not names[name:lower()] then
      lines[#lines + 1] = name .. ": " .. value
    end
  end
  default("Host", authority or "localhost")
  if request.chunked then
    default("Transfer-Encoding", "chunked")
    body = chunked_body(body, request.trailers)
  elseif type(body) == "table" then
    default("Content-Type", "application/json")
    body = cjson.encode(body)
  end
  if body and not request.chunked then
    default("Content-Length", #body)
  end
  return ("%s %s HTTP/1.1\r\n%s\r\n\r\n%s"):format(
    request.method or "GET", request.path or "/", table.concat(lines, "\r\n"), body or "")
end

local function parse_fields(block)
  local list, first = {}, {}
  for line in block:gmatch("(.-)\r\n") do
    local name, value = line:match("^([%w!#$%%&'*+.^_`|~-]+):[ \t]*(.-)[ \t]*$")
    if not name or value:find("[%z\r\n]") then
      error(("malformed field in the answer: %q"):format(line), 0)
    end
    list[#list + 1] = { name, value }
    first[name:lower()] = first[name:lower()] or value
  end
  return list, first
end

local function parse_head(head)
  local version, status, reason, block = head:match(
    "^HTTP/(1%.[01]) (%d%d%d) ([^\r\n]*)\r\n(.*)\r\n$")
  if not version then
    error(("malformed head of the answer: %q"):format(head), 0)
  end
  local list, first = parse_fields(block)
  return setmetatable({ version = version, status = tonumber(status), reason = reason,
    header_list = list, headers = first, body = "" }, response)
end

local function read_chunk(receive)
  local line, reason = receive("\r\n")
  if not line then
    return nil, reason
  end
  local size = tonumber(line:match("^(%x+)\r\n$") or error("malformed chunk: " .. line, 0), 16)
  if size == 0 then
    return ""
  end
  local data
  data, reason = receive(size + 2)
  if data and data:sub(-2) ~= "\r\n" then
    error("a chunk does not end where it said", 0)
  end
  return data and data:sub(1, -3), reason
end

local function read_trailers(answer, receive)
  local block = ""
  while true do
    local line, reason = receive("\r\n")
    if not line then
      return nil, reason
    elseif line == "\r\n" then
      local _, trailers = parse_fields(block)
      answer.trailers = trailers
      return answer
    end
    block = block .. line
  end
end

local function read_chunked(answer, receive)
  answer.chunks = {}
  while true do
    local chunk, reason = read_chunk(receive)
    if not chunk then
      return nil, reason, table.concat(answer.chunks)
    elseif chunk == "" then
      answer.body = table.concat(answer.chunks)
      return read_trailers(answer, receive)
    end
    table.insert(answer.chunks, chunk)
  end
end

local function read_until_close(answer, receive)
  local parts = {}
  while true do
    local data, reason = receive(nil)
    if reason == "closed" then
      answer.body = table.concat(parts)
      return answer
    elseif not data then
      return nil, reason, table.concat(parts)
    end
    parts[#parts + 1] = data
  end
end

-- RFC 9112, section 6.3: which bytes are the body.
local function read_body(answer, method, receive)
  local status, headers = answer.status, answer.headers
  if method == "HEAD" or status < 200 or status == 204 or status == 304 then
    return answer
  end
  local lengths = answer:values("content-length")
  if headers["transfer-encoding"] then
    assert(#lengths == 0, "the answer has Transfer-Encoding and Content-Length")
    assert(headers["transfer-encoding"]:lower() == "chunked", "unknown Transfer-Encoding")
    return read_chunked(answer, receive)
  elseif #lengths == 0 then
    return read_until_close(answer, receive)
  end
  assert(#lengths == 1 and lengths[1]:find("^%d+$"), "malformed Content-Length in the answer")
  local body, reason, partial = receive(tonumber(lengths[1]))
  if not body then
    return nil, reason, partial
  end
  answer.body = body
  return answer
end

---Reads one response through `receive`, which takes a count, a Lua pattern or nil (anything).
---@param method string? of the request it answers
---@param receive fun(what: integer|string|nil): string?, string?, string?
---@return support.response?
---@return string? reason
---@return string? partial
function M.read_response(method, receive)
  local head, reason, partial = receive("\r\n\r\n")
  if not head then
    return nil, reason, partial
  end
  return read_body(parse_head(head), method, receive)
end

return M
