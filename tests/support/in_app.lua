-- in_app: what the apps of specs need to look at themselves; a module beside theirs.
--
--     support.start { app = in_app.files(app) }
--
-- and in the app `local testing = require "testing"`, which has
--
--     testing.now()                 seconds that have passed since whenever
--     testing.problem_of(fn, ...)   what it raises, as a table; nil when it raises nothing

local M = {}

M.source = [[
local ffi = require "ffi"
ffi.cdef "typedef struct { long s, ns; } fl_test_time; int clock_gettime(int, fl_test_time *);"
local time = ffi.new "fl_test_time"
local M = {}

function M.now()
  ffi.C.clock_gettime(1, time)
  return tonumber(time.s) + tonumber(time.ns) / 1e9
end

function M.problem_of(fn, ...)
  local ok, err = pcall(fn, ...)
  if ok then return nil end
  if type(err) ~= "table" then return { message = tostring(err) } end
  local copy = { text = tostring(err) }
  for key, value in pairs(err) do copy[key] = value end
  return copy
end

return M
]]

---@param app string the text of app.lua
---@param folder string? of the app: "main/"
---@param files table<string, string>? to which they are added
---@return table<string, string> files
function M.files(app, folder, files)
  files, folder = files or {}, folder or ""
  files[folder .. "app.lua"], files[folder .. "testing.lua"] = app, M.source
  return files
end

return M
