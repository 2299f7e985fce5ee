-- Carries a plan out: sends, follows redirects, tries again.
--
--     local response = exchange.run(plan) -- in a task

local driver = require "fasterlua.http.driver"
local fault = require "fasterlua.http.fault"
local future = require "fasterlua.future"
local response = require "fasterlua.http.response"
local core_task = require "fasterlua.core.task"
local failure = require "fasterlua.failure"
local task = require "fasterlua.task"
local text = require "fasterlua.core.text"

local await, from_op = future.await, future.from_op

local exchange = {}

local PIECE = 65536 -- bytes given to C at once
local DROPPED_MOST = 65536 -- bytes of a redirect's body that are read, to keep the connection
local DELAY, DELAY_MOST = 0.1, 5 -- seconds before the first retry, before any
local ASKED_MOST = 300 -- seconds that a server may ask for

local HTTP_1_1, HTTP_2_TLS, HTTP_2_PRIOR = 2, 4, 5 -- CURL_HTTP_VERSION_…

-- URLs

local function parse(address, base)
  local parts, why = driver.load().url(address, base)
  if not parts then
    -- what cannot be parsed may have credentials in it: it is not shown
    error(fault.new("url", ("%s%s: a URL as http://host:8000/path expected"):format(why,
      base and " in a redirect of " .. base or "")), 0)
  elseif parts.scheme ~= "http" and parts.scheme ~= "https" then
    error(fault.new("url", ("a URL of http or https expected, got one of %s"):format(
      parts.scheme), parts.url), 0)
  end
  return parts
end

local function is_same_origin(a, b)
  return a.scheme == b.scheme and a.host:lower() == b.host:lower() and a.port == b.port
end

-- one transfer

---@class fasterlua.HttpHop
---@field plan fasterlua.HttpPlan
---@field method string
---@field parts table of the URL
---@field headers table<string, fasterlua.HttpHeader>
---@field body string|nil
---@field source table|nil
---@field ends_at number|false

local UNSENT = { ["content-type"] = "Content-Type:", expect = "Expect:" }

local function header_lines(hop)
  local lines = {}
  for _, header in pairs(hop.headers) do
    for _, value in ipairs(header.values) do
      lines[#lines + 1] = value == "" and header.name .. ";" or header.name .. ": " .. value
    end
  end
  -- None, instead of libcurl's own; it would wait a second for a "100 Continue" that few send.
  for key, line in pairs(UNSENT) do
    if not hop.headers[key] then
      lines[#lines + 1] = line
    end
  end
  return lines
end

local function http_version(choice)
  return choice == "prior" and HTTP_2_PRIOR or choice and HTTP_2_TLS or HTTP_1_1
end

local function time_left(hop)
  if not hop.ends_at then
    return 0
  end
  local left = hop.ends_at - driver.load().now()
  if left <= 0 then
    error(fault.new("timeout", ("no end after %g s"):format(hop.plan.all.timeout),
      hop.parts.url), 0)
  end
  return left
end

local function order_of(hop)
  local all = hop.plan.all
  return {
    url = hop.parts.url, method = hop.method, is_head = hop.method == "HEAD",
    headers = header_lines(hop), body = hop.body, uploads = hop.source ~= nil,
    body_size = hop.source and hop.plan.body_size or nil,
    timeout = time_left(hop), connect_timeout = all.connect_timeout or 0,
    idle_timeout = all.idle_timeout or 0, max_body = all.max_body, streams = hop.streams,
    version = http_version(all.http2), encodings = not hop.headers["accept-encoding"] and "" or nil,
    insecure = not all.verify, ca = all.ca, cert = all.cert, key = all.key,
    proxy = all.proxy, unix_socket = all.unix_socket, is_public = all.guard == "public",
  }
end

local function wait(transfer, what)
  local op = driver.load().wait(transfer, what)
  if op then
    await(from_op(op))
  end
end

local function send_piece(transfer, piece)
  if type(piece) ~= "string" then
    error(("http: the body's iterator must give strings, got %s"):format(type(piece)), 0)
  end
  for first = 1, #piece, PIECE do
    local part = #piece > PIECE and piece:sub(first, first + PIECE - 1) or piece
    if not driver.load().send(transfer, part) then
      wait(transfer, "room")
    end
  end
  return driver.load().ended(transfer)
end

local function feed(transfer, source)
  for piece in source[1], source[2], source[3] do
    if send_piece(transfer, piece) then
      return
    end
  end
  driver.load().finish(transfer)
end

local function close_after(transfer, ok, ...)
  if not ok then
    driver.load().close(transfer)
    error((...), 0)
  end
end

-- What goes wrong with the iterator ends the transfer, and whoever waits for that finds it here.
local function pump(transfer, source)
  close_after(transfer, pcall(feed, transfer, source))
end

local function release(self)
  if not self.is_kept then
    response.close(self)
  end
end

local function start_pump(self, source)
  self.pump = task.spawn(pump, self.transfer, source)
  self.pump._is_awaited = true
end

local function raise_fault(self)
  local _, code, message, reply = driver.load().ended(self.transfer)
  if not code then
    return
  elseif self.pump and self.pump._state == future.FAILED then
    await(self.pump)
  end
  local of_mail = self.kind == "mail" and reply > 0 and reply or nil
  error(fault.new(code, message, self.url, self.kind, of_mail), 0)
end

local function open(order, url, kind)
  local transfer = driver.load().start(order)
  if not transfer then
    error(fault.new("queue_full", "too many requests wait already", url, kind), 0)
  end
  return { transfer = transfer, url = url, kind = kind, pump = false, is_kept = false,
    max_body = order.max_body }
end

local function converse(self, hop)
  if hop.source then
    start_pump(self, hop.source)
  end
  wait(self.transfer, hop.streams and "head" or "end")
  if not (hop.streams and driver.load().head(self.transfer)) then
    raise_fault(self)
  end
  local answer = response.new(self)
  if hop.streams then
    self.is_kept = true
    response.set_stream(answer, self)
  else
    response.set_body(answer, driver.load().take(self.transfer))
  end
  return answer
end

local function perform(hop)
  local self = open(order_of(hop), hop.parts.url)
  return failure.finally(release, self, converse, self, hop)
end

-- For what is no request: mail.
exchange.open, exchange.release, exchange.wait, exchange.raise_fault =
  open, release, wait, raise_fault

-- redirects

local REDIRECTS = { [301] = true, [302] = true, [303] = true, [307] = true, [308] = true }
local OF_BODY = { "content-type", "content-encoding", "content-language", "content-location" }
local SECRETS = { "authorization", "cookie", "proxy-authorization", "host" }

local function without(headers, keys)
  local rest = {}
  for key, header in pairs(headers) do
    rest[key] = header
  end
  for _, key in ipairs(keys) do
    rest[key] = nil
  end
  return rest
end

-- As browsers do it (Fetch, HTTP-redirect fetch, step 12).
local function becomes_get(status, method)
  return (status == 301 or status == 302) and method == "POST"
    or status == 303 and method ~= "GET" and method ~= "HEAD"
end

local function check_repeatable(hop)
  if hop.source then
    error(fault.new("redirects", "a streamed body cannot be sent again to where it is redirected",
      hop.parts.url), 0)
  end
end

local function next_hop(hop, answer)
  local parts = parse(answer.headers.location, hop.parts.url)
  local is_new = becomes_get(answer.status, hop.method)
  local headers = hop.headers
  if is_new then
    headers = without(headers, OF_BODY)
  else
    check_repeatable(hop)
  end
  if not is_same_origin(parts, hop.parts) then
    headers = without(headers, SECRETS)
  end
  return { plan = hop.plan, method = is_new and "GET" or hop.method, parts = parts,
    headers = headers, body = not is_new and hop.body or nil, ends_at = hop.ends_at,
    streams = hop.streams }
end

local function drop_body(answer)
  local dropped = 0
  for piece in answer:chunks() do
    dropped = dropped + #piece
    if dropped > DROPPED_MOST then
      break
    end
  end
  answer:close()
end

local function is_redirect(answer)
  return REDIRECTS[answer.status] and (answer.headers.location or "") ~= ""
end

local function follow(hop)
  local all = hop.plan.all
  local left = all.redirects
  local answer = perform(hop)
  while left > 0 and is_redirect(answer) do
    left = left - 1
    hop = next_hop(hop, answer)
    if hop.streams then
      drop_body(answer)
    end
    answer = perform(hop)
  end
  if all.redirects > 0 and is_redirect(answer) then
    answer:close()
    error(fault.new("redirects", ("more than %d redirects"):format(all.redirects), hop.parts.url),
      0)
  end
  return answer
end

-- trying again

local RETRIED_STATUS = { [502] = true, [503] = true, [504] = true }
local RETRIED_CODE = { connect = true, resolve = true, closed = true }

-- Seconds that the server asks for: a number, or a date.
local function retry_after(answer)
  local value = answer.headers["retry-after"]
  if not value then
    return nil
  elseif value:find "^%d+$" then
    return tonumber(value)
  end
  local date = text.parse_http_date(value)
  return date and math.max(0, date - os.time())
end

local function delay(attempt, answer)
  local asked = answer and retry_after(answer)
  if asked then
    return asked
  end
  local most = math.min(DELAY * 2 ^ (attempt - 1), DELAY_MOST)
  return most * (0.5 + math.random() / 2)
end

local function has_time(first, seconds)
  local ends_at = first.ends_at or math.huge
  return seconds <= ASKED_MOST and driver.load().now() + seconds < ends_at
end

local function attempt_once(first)
  local ok, answer = pcall(follow, first)
  if ok then
    return RETRIED_STATUS[answer.status] and "status" or "done", answer
  end
  return fault.is(answer) and RETRIED_CODE[answer.code] and "fault" or "error", answer
end

local function retry(first, retries)
  for attempt = 1, retries do
    local outcome, value = attempt_once(first)
    local seconds = outcome == "status" and delay(attempt, value) or delay(attempt)
    local is_over = outcome == "done" or outcome == "error" or not has_time(first, seconds)
    if is_over and (outcome == "done" or outcome == "status") then
      return value
    elseif is_over then
      error(value, 0)
    end
    if outcome == "status" then
      value:close()
    end
    await(future.sleep(seconds))
  end
  return follow(first)
end

-- the whole

local function add_credentials(headers, parts)
  if not parts.user or headers.authorization then
    return headers
  end
  local digest = require "fasterlua.digest"
  local value = "Basic " .. digest.base64(parts.user .. ":" .. (parts.password or ""))
  local all = without(headers, {})
  all.authorization = { key = "authorization", name = "Authorization", values = { value } }
  return all
end

local function close_unless(answer, alone)
  if not alone.is_so then
    answer:close()
  end
end

-- Where there is no request `at_end` starts a task at once, and says so.
local function close_with_request(answer)
  local alone = { is_so = false }
  alone.is_so = core_task.at_end(close_unless, answer, alone) ~= nil
end

--- Carries a plan out, in a task of its own. A streamed response ends with the request whose
--- handler asked for it.
---@param plan fasterlua.HttpPlan
---@return fasterlua.HttpResponse
function exchange.run(plan)
  local core, all = driver.load(), plan.all
  local parts = parse(plan.address)
  local first = { plan = plan, method = plan.method, parts = parts, body = plan.body,
    headers = add_credentials(plan.headers, parts), source = plan.source, streams = all.stream,
    ends_at = all.timeout and core.now() + all.timeout }
  local answer = plan.retries > 0 and retry(first, plan.retries) or follow(first)
  if all.stream then
    close_with_request(answer)
  end
  return answer
end

return exchange
