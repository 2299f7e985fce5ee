-- The servers that `make bench` compares, and how each is started on a port of its own. A server
-- whose program is not there has `missing`, the sentence that says what to do about it.
local lfs = require "lfs"

local M = {}

---@class bench_place
---@field bench string directory of the benchmarks
---@field root string directory of the repository
---@field build string directory of the built programs
---@field temporary string directory that may be written
---@field threads integer threads or processes of each server

---@class bench_server
---@field name string
---@field title string
---@field missing string?
---@field command fun(port: integer): string[]
---@field environment table<string, string>? added to ours

local function is_file(path)
  return lfs.attributes(path, "mode") == "file"
end

local function find_program(name)
  for directory in (os.getenv("PATH") .. ":/usr/sbin"):gmatch("[^:]+") do
    if is_file(directory .. "/" .. name) then return directory .. "/" .. name end
  end
end

local function fill_template(source, target, values)
  local file = assert(io.open(source))
  local text = file:read("*a"):gsub("{{(%w+)}}", values)
  file:close()
  file = assert(io.open(target, "w"))
  file:write(text)
  file:close()
end

local function built(path)
  if not is_file(path) then return path .. " is not built" end
end

local function append(list, ...)
  for _, value in ipairs { ... } do list[#list + 1] = value end
  return list
end

-- Ours, serving the apps of a directory, with whatever flags are given.
local function product(place, apps, ...)
  local program, flags = place.build .. "/fasterlua", { ... }
  return {
    name = "fasterlua",
    title = "fasterlua serve apps/bench",
    missing = built(program),
    command = function(port)
      return append({ program, "serve", apps, "--host", "127.0.0.1", "--port", tostring(port),
        "--access-log", "off" }, unpack(flags))
    end,
  }
end

local function product_with_threads(place, apps, ...)
  return product(place, apps, "--threads", tostring(place.threads), ...)
end

local function bench_app(place)
  return product_with_threads(place, place.root .. "/apps/bench")
end

local function floor(place, program, title)
  program = place.build .. "/bench/" .. program
  return {
    name = "floor",
    title = "C floor: " .. title,
    missing = built(program),
    command = function(port) return { program, tostring(port), tostring(place.threads) } end,
  }
end

local function prototype(place)
  local program = place.build .. "/bench/prototype"
  return {
    name = "prototype",
    title = "the floor with a reused LuaJIT coroutine per request",
    missing = built(program),
    command = function(port)
      return { program, tostring(port), tostring(place.threads), place.bench .. "/handlers.lua" }
    end,
  }
end

local function nginx(place, template)
  local program = find_program("nginx")
  local has_lua = is_file("/usr/lib/nginx/modules/ngx_http_lua_module.so")
  return {
    name = "nginx",
    title = "nginx + lua-nginx-module, content_by_lua",
    missing = not (program and has_lua) and "needs nginx, libnginx-mod-http-lua, lua-cjson" or nil,
    command = function(port)
      local conf = place.temporary .. "/" .. template
      fill_template(place.bench .. "/peers/" .. template, conf, {
        port = port, threads = place.threads, directory = place.temporary,
        peers = place.bench .. "/peers",
      })
      return { program, "-p", place.temporary, "-c", conf, "-g", "daemon off;" }
    end,
  }
end

-- Debian's own interpreter, because Debian's packages are what is compared.
local function fastapi(place, app, ...)
  local flags = { ... }
  local python = "/usr/bin/python3"
  local probe = python .. " -c 'import fastapi, uvicorn, uvloop, httptools' 2>/dev/null"
  local is_there = is_file(python) and os.execute(probe) == 0
  return {
    name = "fastapi",
    title = "FastAPI + uvicorn (uvloop, httptools)",
    missing = not is_there and "needs python3-fastapi, python3-uvicorn, python3-uvloop, "
      .. "python3-httptools" or nil,
    command = function(port)
      return append({ python, "-B", "-m", "uvicorn", "--app-dir", place.bench .. "/peers",
        app .. ":app", "--host", "127.0.0.1", "--port", tostring(port), "--loop", "uvloop",
        "--http", "httptools", "--no-access-log", "--log-level", "warning" }, unpack(flags))
    end,
  }
end

local function node(place)
  local program = find_program("node")
  return {
    name = "node",
    title = "node's http in a cluster",
    missing = not program and "needs nodejs" or nil,
    command = function(port)
      return { program, place.bench .. "/peers/node.js", tostring(port), tostring(place.threads) }
    end,
  }
end

--- The servers that concurrency.lua compares: one process of each, since FastAPI's threads are
--- counted for a process.
---@param place bench_place
---@return bench_server[]
function M.concurrency(place)
  return { product(place, place.root .. "/apps/concurrency"), fastapi(place, "fastapi_app") }
end

--- What jobs.lua measures: one thread each.
---@param place bench_place
---@return bench_server ours
---@return bench_server nginx
function M.jobs(place)
  return product(place, place.bench .. "/jobs", "--threads", "1"), nginx(place, "nginx_jobs.conf")
end

--- What parallel.lua measures.
---@param place bench_place
---@return bench_server
function M.parallel(place)
  return product_with_threads(place, place.bench .. "/parallel", "--cpu-states", "2", "--set",
    "pool_timeout=0")
end

local function npm_modules(place)
  return place.build .. "/bench/npm/node_modules"
end

local function bun(place)
  local architecture = ({ x64 = "x64", arm64 = "aarch64" })[jit.arch] or jit.arch
  local program = ("%s/@oven/bun-linux-%s/bin/bun"):format(npm_modules(place), architecture)
  return {
    name = "bun",
    title = "Bun's server and SQL driver in processes that share the port",
    missing = not is_file(program) and "needs npm, and `make bench-peers`" or nil,
    command = function(port)
      return { program, place.bench .. "/peers/bun_database.js", tostring(port),
        tostring(place.threads) }
    end,
  }
end

local function node_with_pg(place, name, mode)
  local server, modules = node(place), npm_modules(place)
  server.name, server.title = name, "node's http and pg in a cluster, connections " .. mode
  if not is_file(modules .. "/pg/package.json") then
    server.missing = server.missing or "needs npm, and `make bench-peers`"
  end
  server.environment = { NODE_PATH = modules }
  server.command = function(port)
    return { find_program("node"), place.bench .. "/peers/node_database.js", tostring(port),
      tostring(place.threads), mode }
  end
  return server
end

local function fastapi_with_workers(place, app)
  return fastapi(place, app, "--workers", tostring(place.threads))
end

local function fastapi_with_asyncpg(place)
  local server = fastapi_with_workers(place, "fastapi_database")
  server.title = "FastAPI + uvicorn (uvloop, httptools) + asyncpg"
  if os.execute("/usr/bin/python3 -c 'import asyncpg' 2>/dev/null") ~= 0 then
    server.missing = server.missing or "needs python3-asyncpg"
  end
  return server
end

--- What database.lua compares, the product first.
---@param place bench_place
---@param environment table<string, string> says where the database is
---@return bench_server[]
function M.database(place, environment)
  local list = { bench_app(place),
    floor(place, "floor_db", "epoll, one pipelined connection to the database per thread"),
    bun(place), node_with_pg(place, "node", "pooled"),
    node_with_pg(place, "node-pipe", "pipelined"), fastapi_with_asyncpg(place) }
  for _, server in ipairs(list) do
    server.environment = server.environment or {}
    for name, value in pairs(environment) do server.environment[name] = value end
  end
  return list
end

--- What sqlite.lua measures.
---@param place bench_place
---@param path string of the database
---@return bench_server
function M.sqlite(place, path)
  local ours = product_with_threads(place, place.bench .. "/sqlite")
  ours.environment = { WORLD = path }
  return ours
end

--- All servers, the product first.
---@param place bench_place
---@return bench_server[]
function M.list(place)
  return { bench_app(place), floor(place, "floor", "libuv + llhttp, fixed answers"),
    prototype(place), nginx(place, "nginx.conf"), fastapi_with_workers(place, "fastapi_app"),
    node(place) }
end

return M
