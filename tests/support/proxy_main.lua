-- proxy_main: passes bytes between clients and one server, with faults on command. It is started by
-- support.databases.proxy, which says what each command does.
--
--     luajit tests/support/proxy_main.lua TARGET CONTROL LISTEN
--
-- TARGET and LISTEN are paths of Unix sockets or HOST:PORT; CONTROL is a path. A command is a line,
-- "cut_after 100"; its answer "ok" or "ok VALUE", once it is carried out.

local socket = require "socket"
local unix = require "socket.unix"

local PIECE, MOST_QUEUED = 65536, 1024 * 1024
local CONNECT_SECONDS = 5

local target, control_path, listen_at = arg[1], arg[2], arg[3]

local CANCEL = "\0\0\0\16\4\210\22\46" -- what a request of PostgreSQL's to cancel begins with

-- cut_after, corrupt: bytes of answers left; delay: seconds; lose_cancels: how many, and whether
-- they hang; stalled
local faults = {}
local links = {} -- each a client and the server, joined
local listener

local function split_address(address)
  local host, port = address:match("^([^/]*):(%d+)$")
  return host, tonumber(port)
end

local function listen(address)
  local host, port = split_address(address)
  if host then
    local bound = assert(socket.bind(host, port))
    local _, actual = bound:getsockname()
    return bound, host .. ":" .. actual
  end
  os.remove(address)
  local bound = assert(unix.stream())
  assert(bound:bind(address))
  assert(bound:listen(128))
  return bound, address
end

local function connect(address)
  local host, port = split_address(address)
  local peer = host and socket.tcp() or unix.stream()
  peer:settimeout(CONNECT_SECONDS)
  local ok, reason = peer:connect(host or address, port)
  if not ok then
    peer:close()
    return nil, reason
  end
  return peer
end

-- One direction: what has been read and not yet written, oldest first.
local function new_pipe(source, sink, is_answer)
  return { source = source, sink = sink, is_answer = is_answer, first = 1, last = 0, queued = 0 }
end

local function open_link(client)
  local server = connect(target)
  if not server then
    client:close()
    return
  end
  for _, peer in ipairs { client, server } do
    peer:settimeout(0)
    pcall(peer.setoption, peer, "tcp-nodelay", true)
  end
  links[#links + 1] = { client = client, server = server,
    new_pipe(client, server, false), new_pipe(server, client, true) }
end

local function close_link(link, reset)
  if reset then
    pcall(link.client.setoption, link.client, "linger", { on = true, timeout = 0 })
  end
  link.client:close()
  link.server:close()
  link.closed = true
end

local function forget_closed()
  for index = #links, 1, -1 do
    if links[index].closed then
      table.remove(links, index)
    end
  end
end

local function invert_byte(bytes)
  local at = faults.corrupt
  faults.corrupt = at >= #bytes and at - #bytes or nil
  if at >= #bytes then
    return bytes
  end
  return bytes:sub(1, at) .. string.char(255 - bytes:byte(at + 1)) .. bytes:sub(at + 2)
end

-- Returns what of a piece of an answer is passed, and whether the connection is cut after it.
local function limit(bytes)
  local left = faults.cut_after
  faults.cut_after = left > #bytes and left - #bytes or nil
  return bytes:sub(1, left), left <= #bytes
end

local function push(pipe, bytes)
  local cut = false
  if pipe.is_answer and faults.corrupt then
    bytes = invert_byte(bytes)
  end
  if pipe.is_answer and faults.cut_after then
    bytes, cut = limit(bytes)
  end
  pipe.last = pipe.last + 1
  pipe.queued = pipe.queued + #bytes
  local delay = pipe.is_answer and faults.delay or 0
  pipe[pipe.last] = { bytes = bytes, due = socket.gettime() + delay, cut = cut }
end

local function push_end(pipe)
  pipe.is_read = true
  push(pipe, "")
  pipe[pipe.last].is_end = true
end

-- The rest of a request that hangs is never read.
local function lose(link, pipe)
  local left, hang = faults.lose_cancels.left - 1, faults.lose_cancels.hang
  faults.lose_cancels = left > 0 and { left = left, hang = hang } or nil
  if hang then
    pipe.is_read = true
  else
    close_link(link)
  end
end

local function is_cancel(pipe, bytes)
  return not pipe.is_answer and pipe.last == 0 and bytes:sub(1, #CANCEL) == CANCEL
end

local function read(link, pipe)
  local bytes, reason, part = pipe.source:receive(PIECE)
  bytes = bytes or part
  if faults.lose_cancels and is_cancel(pipe, bytes) then
    lose(link, pipe)
    return
  end
  if #bytes > 0 then
    push(pipe, bytes)
  end
  if reason and reason ~= "timeout" then
    push_end(pipe)
  end
end

local function head(pipe)
  return pipe[pipe.first]
end

local function pop(pipe)
  pipe[pipe.first] = nil
  pipe.first = pipe.first + 1
end

-- Writes the oldest piece as far as it goes. True: there may be more to write.
local function write_piece(link, pipe)
  local piece = head(pipe)
  local sent, reason, part = #piece.bytes
  if sent > 0 then
    sent, reason, part = pipe.sink:send(piece.bytes)
    sent = sent or part
  end
  pipe.queued = pipe.queued - sent
  piece.bytes = piece.bytes:sub(sent + 1)
  if reason and reason ~= "timeout" then
    close_link(link)
  elseif #piece.bytes == 0 then
    pop(pipe)
    if piece.cut then
      close_link(link)
    elseif piece.is_end then
      pipe.sink:shutdown("send")
      pipe.is_ended = true
    end
  end
  return not link.closed and #piece.bytes == 0
end

local function is_due(pipe, now)
  local piece = head(pipe)
  return piece and (piece.due <= now or not faults.delay)
end

local function write_due(link, now)
  for _, pipe in ipairs(link) do
    repeat until link.closed or not is_due(pipe, now) or not write_piece(link, pipe)
  end
  if not link.closed and link[1].is_ended and link[2].is_ended then
    close_link(link)
  end
end

local function start_listening()
  local address
  listener, address = listen(listen_at)
  listener:settimeout(0)
  listen_at = address -- the same port again
  return address
end

local function count_argument(text)
  local count = tonumber(text)
  return assert(count and count >= 0 and count, "not a number: " .. tostring(text))
end

local commands = {}

function commands.cut_after(bytes)
  faults.cut_after = count_argument(bytes)
end

function commands.corrupt(offset)
  faults.corrupt = count_argument(offset)
end

function commands.delay(seconds)
  faults.delay = count_argument(seconds)
end

function commands.lose_cancels(argument)
  local count, how = argument:match("^(%d+) ?(%a*)$")
  faults.lose_cancels = { left = count_argument(count), hang = how == "hang" }
end

function commands.stall()
  faults.stalled = true
end

function commands.cut(how)
  for _, link in ipairs(links) do
    close_link(link, how == "reset")
  end
end

-- The file of a Unix socket stays: connecting to it is refused.
function commands.refuse()
  if listener then
    listener:close()
    listener = nil
  end
end

function commands.resume()
  faults = {}
  if not listener then
    start_listening()
  end
end

function commands.connections()
  return #links
end

local function obey(client)
  client:settimeout(CONNECT_SECONDS)
  local line = client:receive("*l")
  local name, argument = (line or ""):match("^(%S+) ?(.*)$")
  if commands[name] then
    local ok, value = pcall(commands[name], argument)
    client:send((ok and "ok " or "error ") .. tostring(value or "") .. "\n")
  else
    client:send("error: no such command\n")
  end
  client:close()
end

-- What to wait for, and for how long.
local function interests(control, now)
  local readers, writers, owners, wait = { control, listener }, {}, {}, nil
  for _, link in ipairs(faults.stalled and {} or links) do
    for _, pipe in ipairs(link) do
      local piece = head(pipe)
      if not pipe.is_read and pipe.queued < MOST_QUEUED then
        readers[#readers + 1] = pipe.source
        owners[pipe.source] = { link, pipe }
      end
      if is_due(pipe, now) then
        writers[#writers + 1] = pipe.sink
      elseif piece then
        wait = math.min(wait or math.huge, math.max(0, piece.due - now))
      end
    end
  end
  return readers, writers, owners, wait
end

local function turn(control)
  local readers, writers, owners, wait = interests(control, socket.gettime())
  local readable = socket.select(readers, writers, wait)
  for _, ready in ipairs(readable) do
    if ready == control then
      obey(control:accept())
    elseif ready == listener then
      local client = listener:accept()
      if client then
        open_link(client)
      end
    elseif owners[ready] and not faults.stalled then
      read(unpack(owners[ready]))
    end
  end
  for _, link in ipairs(faults.stalled and {} or links) do
    if not link.closed then
      write_due(link, socket.gettime())
    end
  end
  forget_closed()
end

local control = listen(control_path)
print("listening on " .. start_listening())
io.stdout:flush()
while true do
  turn(control)
end
