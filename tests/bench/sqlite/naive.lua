-- Small write transactions one after another: what fl.db's group commit is measured against.
--
--     luajit tests/bench/sqlite/naive.lua FILE SECONDS full|normal     prints one line of JSON
--
-- With `full` each waits until the disk has it.
local here = arg[0]:match("^(.*)/") or "."
package.path = ("%s/?.lua;%s/../?.lua;%s/../../?.lua;"):format(here, here, here) .. package.path

local inline = require "inline"
local process = require "support.process"

local path, seconds, synchronous = arg[1], tonumber(arg[2]), arg[3]
local WORLD_SIZE = 10000

local world = inline.open(path)
inline.execute(world, "pragma synchronous = " .. synchronous)
local began, writes = process.now(), 0
repeat
  inline.write(world, math.random(WORLD_SIZE), math.random(WORLD_SIZE))
  writes = writes + 1
until process.now() - began >= seconds
print(('{"rate":%.1f}'):format(writes / (process.now() - began)))
inline.close(world)
