-- SQLite: what every database promises, and what is its own.

local busted = require "busted"
local db_contract = require "support.db_contract"
local process = require "support.process"
local support = require "support"

local describe, it, assert = busted.describe, busted.it, require "luassert"

local function sleep(ms)
  return ("select fasterlua_sleep(%d) as slept"):format(ms)
end

local function contract(title, url, changes, define)
  local description = { url = url, id = "integer primary key", sleep = sleep, json = "json",
    bytes = "blob", bool = "boolean", double = "real", returning = true, last_id = true,
    unique = "SQLITE_CONSTRAINT_UNIQUE" }
  for name, value in pairs(changes or {}) do
    description[name] = value
  end
  db_contract(title, description, define)
end

local file = "sqlite:test.db?functions=sleep&readers=4"

contract("SQLite", function()
  return file
end)
