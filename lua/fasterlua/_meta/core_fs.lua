---@meta fasterlua.core.fs
-- luacheck: ignore 212 241
-- Provided by C: file operations. Each begins at once and returns its operation (see core.task).
-- Relative paths begin at the app's folder. Errors are tables: kind = "fs", code = "ENOENT", path
-- and message.

---@class fasterlua.core.fs
local fs = {}

--- Takes the bytes, fewer at the end of the file.
---@param path string
---@param options? { offset?: integer, size?: integer }
---@return userdata op
function fs.read(path, options) end

---@param path string
---@param data string
---@param options? { append?: boolean, mode?: integer }
---@return userdata op
function fs.write(path, data, options) end

--- Takes a table { type, size, mode, modified }.
---@param path string
---@return userdata op
function fs.stat(path) end

--- Takes a sorted list of names.
---@param path string
---@return userdata op
function fs.list(path) end

---@param path string
---@return userdata op
function fs.mkdir(path) end

---@param path string
---@return userdata op
function fs.remove(path) end

---@param from string
---@param to string
---@return userdata op
function fs.rename(from, to) end

return fs
