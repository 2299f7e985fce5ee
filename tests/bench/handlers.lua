-- What the prototype of floor.c calls: the routes of apps/bench without a framework.
local cjson = require "cjson"

local M = {}

function M.plaintext()
  return "Hello, World!"
end

function M.json()
  return cjson.encode({ message = "Hello, World!" })
end

function M.user(req)
  return "user " .. req.id
end

function M.echo(req)
  return cjson.encode(cjson.decode(req.body))
end

return M
