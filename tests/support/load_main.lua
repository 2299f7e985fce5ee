-- The process of load.lua: clients that ask again and again, and write down what came of it.

local process = require "support.process"
local socket = require "socket"

local port, count, pause, path, results, stop = unpack(arg)
count, pause = tonumber(count), tonumber(pause)

local PATIENCE = 20 -- seconds, after which an answer is given up
local now = process.now
local slots, readers, owners, number = {}, {}, {}, 0
local file = assert(io.open(results, "w"))

local function note(slot, status, retry_after, is_right)
  file:write(("%.6f %.6f %d %s %s\n"):format(slot.sent, now(), status, retry_after or "-",
    tostring(is_right)))
  slot.is_asking, slot.due, slot.buffer = false, now() + pause, ""
end

local function hang_up(slot)
  if slot.socket then
    slot.socket:close()
    slot.socket = nil
  end
end

local function ask(slot)
  slot.sent = now()
  if not slot.socket then
    slot.socket = socket.tcp()
    slot.socket:settimeout(PATIENCE)
    if not slot.socket:connect("127.0.0.1", port) then
      hang_up(slot)
      return note(slot, -3)
    end
    slot.socket:setoption("tcp-nodelay", true)
    slot.socket:settimeout(0)
  end
  number = number + 1
  slot.number, slot.is_asking = number, true
  slot.socket:send(("GET %s HTTP/1.1\r\nHost: a\r\n\r\n"):format((path:gsub("%%d", number))))
end

-- A complete answer: its head, its body.
local function answer(buffer)
  local head, at = buffer:match("^(.-\r\n\r\n)()")
  local size = head and tonumber(head:lower():match("\r\ncontent%-length: (%d+)"))
  if size and #buffer >= at + size - 1 then
    return head, buffer:sub(at, at + size - 1)
  end
end

local function look(slot, reason)
  local head, body = answer(slot.buffer)
  if head then
    local status = tonumber(head:match("^HTTP/1.1 (%d+)"))
    note(slot, status, head:lower():match("\r\nretry%-after: (%S+)"),
      not path:find("%%d") or body == tostring(slot.number))
    if head:lower():find("\r\nconnection: close", 1, true) then
      hang_up(slot)
    end
  elseif reason then
    if slot.is_asking then
      note(slot, -1)
    end
    hang_up(slot)
  elseif slot.is_asking and now() - slot.sent > PATIENCE then
    note(slot, -2)
    hang_up(slot)
  end
end

local function read(slot)
  local bytes, reason, part = slot.socket:receive(65536)
  slot.buffer = slot.buffer .. (bytes or part)
  look(slot, reason ~= "timeout" and reason)
end

local function turn()
  readers, owners = {}, {}
  for _, slot in ipairs(slots) do
    if not slot.is_asking and slot.due <= now() then
      ask(slot)
    end
    if slot.socket then
      readers[#readers + 1] = slot.socket
      owners[slot.socket] = slot
    end
  end
  for _, ready in ipairs((socket.select(readers, nil, 0.002))) do
    read(owners[ready])
  end
  for _, slot in ipairs(slots) do
    look(slot)
  end
end

for index = 1, count do
  slots[index] = { due = now() + pause * index / count, buffer = "" }
end

local function is_asking()
  for _, slot in ipairs(slots) do
    if slot.is_asking then
      return true
    end
  end
end

local function is_to_stop()
  local found = io.open(stop)
  return found and found:close()
end

local next_look, stopping = 0, false
repeat
  turn()
  if not stopping and now() > next_look then
    next_look = now() + 0.02
    stopping = is_to_stop()
    pause = stopping and math.huge or pause
    for _, slot in ipairs(stopping and slots or {}) do
      slot.due = math.huge
    end
  end
until stopping and not is_asking()
file:close()
