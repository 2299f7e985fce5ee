-- The routes of apps/bench for lua-nginx-module; nginx.conf calls them.
-- luacheck: globals ngx
local cjson = require "cjson"

local M = {}

local function answer(body)
  ngx.header["Content-Length"] = #body
  ngx.print(body)
end

function M.plaintext()
  answer("Hello, World!")
end

function M.json()
  answer(cjson.encode({ message = "Hello, World!" }))
end

function M.user()
  answer("user " .. ngx.var[1])
end

function M.echo()
  ngx.req.read_body()
  answer(cjson.encode(cjson.decode(ngx.req.get_body_data())))
end

return M
