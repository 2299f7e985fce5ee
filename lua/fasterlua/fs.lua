-- Files, without holding up the loop: every call returns a future.
--
--     local text = await(fl.fs.read("data/motd.txt"))
--
-- Relative paths begin at the app's folder. Errors are tables with `kind = "fs"`, `code`
-- ("ENOENT"), `path` and `message`.

local core = require "fasterlua.core.fs"
local future = require "fasterlua.future"
local suggest = require "fasterlua.suggest"
local task = require "fasterlua.task"
local units = require "fasterlua.units"

local await, from_op = future.await, future.from_op

local fs = {}

local function check_path(name, path)
  if type(path) ~= "string" or path == "" or path:find("\0", 1, true) then
    error(("fs.%s: a path expected, got %s"):format(name, tostring(path)), 3)
  end
end

-- A number of bytes, from a number or a size as text.
local function read_size(name, size, least)
  local bytes = units.bytes(size)
  if not bytes or bytes < least or bytes > 2 ^ 53 or bytes % 1 ~= 0 then
    error(('fs.%s: size must be a number of bytes from %d, or a size as "64KB", got %s'):format(
      name, least, tostring(size)), 3)
  end
  return bytes
end

local READ_OPTIONS = { "offset", "size" }
local WRITE_OPTIONS = { "append", "mode" }

--- The bytes of a file, or of a part of it.
---@param path string
---@param options? { offset?: integer, size?: integer|string } offset in bytes from 0
---@return fasterlua.Future # string
function fs.read(path, options)
  check_path("read", path)
  options = options == nil and {} or options
  suggest.check_options("fs.read", options, READ_OPTIONS, 2)
  local size = options.size ~= nil and read_size("read", options.size, 0) or nil
  return from_op(core.read(path, { offset = options.offset, size = size }))
end

--- Writes a file, replacing what it held.
---@param path string
---@param data string
---@param options? { append?: boolean, mode?: integer } mode of a new file, default 420 (rw-r--r--)
---@return fasterlua.Future
function fs.write(path, data, options)
  check_path("write", path)
  suggest.check_options("fs.write", options == nil and {} or options, WRITE_OPTIONS, 2)
  if type(data) ~= "string" then
    error(("fs.write: a string expected, got %s"):format(type(data)), 2)
  end
  return from_op(core.write(path, data, options))
end

--- Writes behind the end of a file, which is made when there is none.
---@param path string
---@param data string
---@return fasterlua.Future
function fs.append(path, data)
  return fs.write(path, data, { append = true })
end

---@class fasterlua.Stat
---@field type "file"|"directory"|"link"|"other"
---@field size integer bytes
---@field mode integer permission bits
---@field modified number Unix time of the last change

--- What is known about a file.
---@param path string
---@return fasterlua.Future # fasterlua.Stat
function fs.stat(path)
  check_path("stat", path)
  return from_op(core.stat(path))
end

local function is_there(path)
  local ok, err = pcall(await, from_op(core.stat(path)))
  if ok then
    return true
  elseif type(err) == "table" and (err.code == "ENOENT" or err.code == "ENOTDIR") then
    return false
  end
  error(err, 0)
end

--- Whether there is a file or folder of that name.
---@param path string
---@return fasterlua.Future # boolean
function fs.exists(path)
  check_path("exists", path)
  return task.spawn(is_there, path)
end

--- The names in a folder, sorted.
---@param path string
---@return fasterlua.Future # string[]
function fs.list(path)
  check_path("list", path)
  return from_op(core.list(path))
end

--- Makes a folder, whose parent must be there.
---@param path string
---@return fasterlua.Future
function fs.mkdir(path)
  check_path("mkdir", path)
  return from_op(core.mkdir(path))
end

--- Removes a file or an empty folder.
---@param path string
---@return fasterlua.Future
function fs.remove(path)
  check_path("remove", path)
  return from_op(core.remove(path))
end

--- Renames a file or folder; replaces a file of the new name.
---@param from string
---@param to string
---@return fasterlua.Future
function fs.rename(from, to)
  check_path("rename", from)
  check_path("rename", to)
  return from_op(core.rename(from, to))
end

--- Iterates over a file in pieces, awaiting each: `for chunk in fs.chunks(path) do`.
---@param path string
---@param size? integer|string bytes of a piece, default 64 KB
---@return fun(): string|nil
function fs.chunks(path, size)
  check_path("chunks", path)
  local options = { offset = 0, size = size == nil and 65536 or read_size("chunks", size, 1) }
  return function()
    local chunk = await(from_op(core.read(path, options)))
    options.offset = options.offset + #chunk
    return chunk ~= "" and chunk or nil
  end
end

return fs
