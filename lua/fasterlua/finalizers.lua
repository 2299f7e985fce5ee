-- Keeps errors of finalizers away from whoever happened to make the collector run: often C, outside
-- of any protected call, where an error would end the process. They are logged instead.
--
--     require("fasterlua.finalizers").install()
--
-- Finalizers come from `newproxy`, `ffi.gc` and `ffi.metatype`. Those in C need no protection.

local core_log = require "fasterlua.core.log"

local raw_newproxy = newproxy
local debug_getmetatable, traceback = debug.getmetatable, debug.traceback
local pcall, rawset, setmetatable, type, xpcall = pcall, rawset, setmetatable, type, xpcall

local finalizers = {}

local last_traceback

local function on_failure(err)
  last_traceback = traceback("", 2):sub(2)
  return err
end

local function run(finalizer, object)
  last_traceback = ""
  local ok, err = xpcall(finalizer, on_failure, object)
  if not ok then
    core_log.unhandled(err, last_traceback)
  end
end

local wrappers = setmetatable({}, { __mode = "kv" }) -- by what they protect

local function protect(finalizer)
  if type(finalizer) ~= "function" then
    return finalizer
  end
  local wrapper = wrappers[finalizer]
  if not wrapper then
    wrapper = function(object)
      pcall(run, finalizer, object)
    end
    wrappers[finalizer], wrappers[wrapper] = wrapper, wrapper
  end
  return wrapper
end

local watch_gc = {
  __newindex = function(metatable, key, value)
    rawset(metatable, key, key == "__gc" and protect(value) or value)
  end,
}

local function newproxy_guarded(...)
  local proxy = raw_newproxy(...)
  if (...) == true then
    setmetatable(debug_getmetatable(proxy), watch_gc)
  end
  return proxy
end

local function guard_ffi(ffi)
  local raw_gc, raw_metatype = ffi.gc, ffi.metatype
  function ffi.gc(object, finalizer)
    return raw_gc(object, protect(finalizer))
  end
  function ffi.metatype(ctype, metatable)
    if type(metatable) == "table" and metatable.__gc then
      metatable.__gc = protect(metatable.__gc)
    end
    return raw_metatype(ctype, metatable)
  end
  return ffi
end

-- The ffi library is opened by the first `require "ffi"`.
local function guard_when_loaded(open)
  package.preload.ffi = function(...)
    return guard_ffi(open(...))
  end
end

--- Replaces the functions, once per Lua state.
function finalizers.install()
  rawset(_G, "newproxy", newproxy_guarded)
  if package.loaded.ffi then
    guard_ffi(package.loaded.ffi)
  elseif package.preload.ffi then
    guard_when_loaded(package.preload.ffi)
  end
end

return finalizers
