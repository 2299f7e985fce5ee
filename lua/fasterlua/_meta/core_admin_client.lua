---@meta fasterlua.core.admin_client
-- luacheck: ignore 212 241
-- Provided by C to commands alone: a client of the admin listener, which waits without a loop.

---@class fasterlua.core.admin_client
local admin_client = {}

---@param address string HOST:PORT, or the path of a socket, which has a slash
---@param method string
---@param path string with its query
---@param seconds number for all of it
---@return integer? status
---@return string body or what went wrong
function admin_client.request(address, method, path, seconds) end

return admin_client
