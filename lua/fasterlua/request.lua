-- The methods of a request that wait or decode: `req:text()`, `req:json()`, `req:form()`,
-- `req:chunks()`, and `req:set_cookie`. The fields come from C.
--
--     app:post("/echo", function(req) return req:json() end)

local core = require "fasterlua.core.request"
local cookies = require "fasterlua.cookies"
local failure = require "fasterlua.failure"
local future = require "fasterlua.future"
local response = require "fasterlua.response"
local waiting = require "fasterlua.waiting"

local error, rawget, rawset = error, rawget, rawset

local methods = core.methods

local details = {
  [400] = "the body is malformed",
  [408] = "the body came too slowly",
  [413] = "the body is too large",
}

local function refuse(status)
  if status == 499 then
    failure.raise_cancelled("client left")
  end
  error(response.http_error(status, details[status]), 0)
end

-- Slots of a request's table, beside C's handle in the first.
local READER = 2 -- a future: settles when the task that waits for the body goes on
local IS_CONSUMED = 3 -- chunks() has given some of it away

local function end_reading(self)
  local reader = rawget(self, READER)
  rawset(self, READER, nil)
  future.settle(reader)
end

-- C wakes one task of a request: others wait for that one, and look again.
local function wait_for_body(self, is_whole)
  local reader = rawget(self, READER)
  if reader then
    return future.await(reader)
  end
  reader = future.new()
  reader._is_detached = true -- who stops waiting for it does not cancel it for the others
  rawset(self, READER, reader)
  failure.finally(end_reading, self, waiting.suspend, core.want_body, self, is_whole)
end

--- The whole body. Waits until it is there.
---@param self fasterlua.Request
---@return string
function methods.text(self)
  if rawget(self, IS_CONSUMED) then
    error("req:text(): the body has been read by req:chunks()", 2)
  end
  while true do
    local body, status = core.body(self)
    if body then
      return body
    elseif body == false then
      refuse(status)
    end
    wait_for_body(self, true)
  end
end

--- The body, decoded as JSON. Raises 422 in the envelope that FastAPI's clients know when it is
--- not.
---@param self fasterlua.Request
---@return any
function methods.json(self)
  local ok, value = core.decode_json(methods.text(self))
  if ok then
    return value
  end
  local fault = { type = "json_invalid", loc = { "body" }, msg = "JSON decode error: " .. value }
  error(response.http_error(422, { fault }), 0)
end

--- The fields of an urlencoded form: name -> value, the last one of a name. Raises 415 for other
--- types.
---@param self fasterlua.Request
---@return table<string, string>
function methods.form(self)
  local content_type = self:header("content-type") or ""
  if not (content_type:lower() .. ";"):find("^application/x%-www%-form%-urlencoded%s*;") then
    error(response.http_error(415, "an urlencoded form is expected"), 0)
  end
  return core.parse_form(methods.text(self))
end

--- All values of one field of an urlencoded form.
---@param self fasterlua.Request
---@param name string
---@return string[]
function methods.form_values(self, name)
  return core.parse_form(methods.text(self), name)
end

local function next_chunk(self)
  while true do
    local piece, status = core.chunk(self)
    if piece == true then
      return nil
    elseif piece then
      rawset(self, IS_CONSUMED, true)
      return piece
    elseif piece == false then
      refuse(status)
    end
    wait_for_body(self, false)
  end
end

--- Iterates over the body as it arrives; the client is held back while the loop is busy.
---@param self fasterlua.Request
---@return fun(): string|nil
function methods.chunks(self)
  return next_chunk, self
end

--- Sends a cookie with whatever answers this request. Options as in `fl.response`.
---@param self fasterlua.Request
---@param name string
---@param value string
---@param options? fasterlua.CookieOptions
function methods.set_cookie(self, name, value, options)
  core.add_header(self, "Set-Cookie: " .. cookies.serialise(name, value, options) .. "\r\n")
end

return methods
