-- connection: a client's socket under full control of the test: any bytes out, every byte in, and
-- the difference between an orderly close and a reset.
--
--     local c = connection.open { host = "127.0.0.1", port = 8000 }
--     c:send("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
--     local response = c:response()

local ffi = require "ffi"
local http = require "support.http"
local process = require "support.process"
local socket = require "socket"

ffi.cdef [[
typedef struct { int fd; short events; short revents; } fl_test_pollfd;
int poll(fl_test_pollfd *fds, unsigned long count, int timeout);
long recv(int fd, void *buffer, size_t size, int flags);
long send(int fd, const void *buffer, size_t size, int flags);
]]

local C = ffi.C
local POLLIN, POLLOUT, MSG_NOSIGNAL = 1, 4, 0x4000
local EINTR, EAGAIN, EPIPE, ECONNRESET = 4, 11, 32, 104
local READ_SIZE = 65536
local read_buffer = ffi.new("char[?]", READ_SIZE)
local DEFAULT_TIMEOUT = 5

---@class support.connection
---@field buffer string received and not yet taken
---@field ended string? "closed" or "reset"
local connection = {}
connection.__index = connection

local M = { slowdown = 1 } -- by which patience is multiplied

---@class support.address
---@field host string?
---@field port integer?
---@field uds string? path of a Unix socket, instead of host and port
---@field receive_buffer integer? bytes the kernel keeps for us, for a slow reader

---@param address support.address
---@return support.connection
function M.open(address)
  -- A socket of no family yet takes no options: one for IPv4 where some are set.
  local new_tcp = address.receive_buffer and socket.tcp4 or socket.tcp
  local sock = address.uds and require("socket.unix").stream() or new_tcp()
  sock:settimeout(DEFAULT_TIMEOUT * M.slowdown)
  if address.receive_buffer then
    assert(sock:setoption("recv-buffer-size", address.receive_buffer))
  end
  local connected, reason
  if address.uds then
    connected, reason = sock:connect(address.uds)
  else
    connected, reason = sock:connect(address.host, address.port)
  end
  if not connected then
    sock:close()
    error("cannot connect: " .. tostring(reason), 2)
  end
  if not address.uds then
    sock:setoption("tcp-nodelay", true)
  end
  sock:settimeout(0)
  return setmetatable({ socket = sock, fd = sock:getfd(), buffer = "" }, connection)
end

local function wait_for(fd, events, deadline)
  local entry = ffi.new("fl_test_pollfd[1]")
  while true do
    entry[0].fd, entry[0].events = fd, events
    local left = math.max(0, math.ceil((deadline - process.now()) * 1000))
    local ready = C.poll(entry, 1, left)
    if ready > 0 then
      return true
    elseif ready == 0 then
      return false
    end
  end
end

local function deadline_in(timeout)
  return process.now() + (timeout or DEFAULT_TIMEOUT * M.slowdown)
end

---Sends all bytes.
---@param bytes string
---@param timeout number? seconds, 5 by default
---@return true? # nil when not all went out
---@return string? reason "timeout", "closed", "reset"
---@return integer? sent
function connection:send(bytes, timeout)
  local deadline, sent = deadline_in(timeout), 0
  local data = ffi.cast("const char *", bytes)
  while sent < #bytes do
    local size = tonumber(C.send(self.fd, data + sent, #bytes - sent, MSG_NOSIGNAL))
    local code = ffi.errno()
    if size >= 0 then
      sent = sent + size
    elseif code == EPIPE or code == ECONNRESET then
      return nil, code == EPIPE and "closed" or "reset", sent
    elseif code ~= EINTR and not wait_for(self.fd, POLLOUT, deadline) then
      return nil, "timeout", sent
    end
  end
  return true
end

-- What has arrived; waits for something until the deadline.
local function read_some(self, deadline)
  if self.ended then
    return nil, self.ended
  end
  while true do
    local size = tonumber(C.recv(self.fd, read_buffer, READ_SIZE, 0))
    local code = ffi.errno()
    if size > 0 then
      return ffi.string(read_buffer, size)
    elseif size == 0 then
      self.ended = "closed"
      return nil, "closed"
    elseif code == EAGAIN then
      if not wait_for(self.fd, POLLIN, deadline) then
        return nil, "timeout"
      end
    elseif code ~= EINTR then
      self.ended = "reset"
      return nil, "reset"
    end
  end
end

-- Adds to the buffer until it holds `size` bytes: at once, as each addition copies all.
local function fill(self, size, deadline)
  local parts, count = { self.buffer }, #self.buffer
  local bytes, reason
  while count < size do
    bytes, reason = read_some(self, deadline)
    if not bytes then
      break
    end
    parts[#parts + 1], count = bytes, count + #bytes
  end
  self.buffer = table.concat(parts)
  return count >= size, reason
end

local function take(self, size)
  local bytes = self.buffer:sub(1, size)
  self.buffer = self.buffer:sub(size + 1)
  return bytes
end

---Takes received bytes: exactly `what` of them, or all up to the end of the first match of a Lua
---pattern, or (nil) whatever comes next.
---@param what integer|string|nil
---@param timeout number? seconds, 5 by default
---@return string?
---@return string? reason "timeout", "closed", "reset"
---@return string? partial what has arrived; it stays for the next call
function connection:receive(what, timeout)
  local deadline = deadline_in(timeout)
  while true do
    local last
    if type(what) == "number" then
      last = #self.buffer >= what and what
    elseif what then
      last = select(2, self.buffer:find(what))
    else
      last = #self.buffer > 0 and #self.buffer
    end
    if last then
      return take(self, last)
    end
    local ok, reason = fill(self, type(what) == "number" and what or #self.buffer + 1, deadline)
    if not ok then
      return nil, reason, self.buffer
    end
  end
end

---Receives one response, a 1xx one too. An answer that is not HTTP is an error.
---@param options { method: string?, timeout: number? }? method: of the request it answers
---@return support.response?
---@return string? reason "timeout", "closed", "reset"
---@return string? partial
function connection:response(options)
  options = options or {}
  local deadline = deadline_in(options.timeout)
  return http.read_response(options.method, function(what)
    return self:receive(what, math.max(0, deadline - process.now()))
  end)
end

---Receives `count` responses.
---@param count integer
---@param options { methods: string[]?, timeout: number? }?
---@return support.response[]? # nil when fewer came
---@return string? reason
---@return support.response[]? those that came
function connection:responses(count, options)
  options = options or {}
  local list = {}
  for index = 1, count do
    local method = options.methods and options.methods[index]
    local response, reason = self:response { method = method, timeout = options.timeout }
    if not response then
      return nil, reason, list
    end
    list[index] = response
  end
  return list
end

---Sends a request and receives its answer; interim answers are in `response.interim`.
---@param request support.request
---@return support.response?
---@return string? reason
function connection:request(request)
  local sent, reason = self:send(http.format_request(request, self.authority), request.timeout)
  local interim = {}
  while true do
    local response, why = self:response { method = request.method, timeout = request.timeout }
    if not response then
      return nil, sent and why or reason
    end
    if response.status >= 200 or response.status == 101 then
      response.interim = interim
      return response
    end
    interim[#interim + 1] = response
  end
end

---Whether the peer closes within `timeout` and sends nothing before.
---@param timeout number? seconds, 5 by default
---@return boolean
---@return string how "closed" in order, "reset"; or why not: "timeout", "unexpected bytes: …"
function connection:closed(timeout)
  local bytes, reason = self:receive(nil, timeout)
  if bytes then
    return false, ("unexpected bytes: %q"):format(bytes:sub(1, 200))
  end
  return reason ~= "timeout", reason
end

---Says that nothing more will be sent; the peer may still answer.
function connection:half_close()
  self.socket:shutdown("send")
end

---Leaves with a TCP reset instead of an orderly close.
function connection:reset()
  self.socket:setoption("linger", { on = true, timeout = 0 })
  self:close()
end

function connection:close()
  if self.socket then
    self.socket:close()
    self.socket = nil
    self.ended = self.ended or "closed"
  end
end

return M
