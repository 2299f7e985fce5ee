-- Drivers: each a shared object beside the program, which a missing library keeps from loading.

local lfs = require "lfs"
local process = require "support.process"

local DRIVERS = {
  postgres = { library = "libpq.so", development = "libpq-dev" },
  sqlite = { library = "libsqlite3.so", development = "libsqlite3-dev" },
  mariadb = { library = "libmariadb.so", development = "libmariadb-dev" },
  redis = { library = "libhiredis.so", development = "libhiredis-dev" },
  http = { library = "libcurl.so", development = "libcurl4-openssl-dev" },
}

local binary = os.getenv("FASTERLUA_BIN") or "build/fasterlua"

local function output_of(command)
  local pipe = assert(io.popen(command))
  local text = pipe:read("*a")
  pipe:close()
  return text
end

describe("a driver", function()
  local folder

  -- What the program, which has no drivers but what is in `folder`, says when it loads one.
  local function load(name)
    local script = assert(io.open(folder .. "/load.lua", "w"))
    script:write(([[
print(select(2, pcall(require("fasterlua.core.driver").load, "%s")))
]]):format(name))
    script:close()
    return output_of(("FASTERLUA_HOME='%s' '%s/fasterlua' run '%s/load.lua' 2>&1"):format(
      lfs.currentdir(), folder, folder))
  end

  before_each(function()
    folder = process.temporary_directory()
    assert.equal(0, os.execute(("cp '%s' '%s/fasterlua'"):format(binary, folder)))
    assert.is_true(lfs.mkdir(folder .. "/drivers"))
  end)

  after_each(function()
    process.remove_directory(folder)
  end)

  for name, driver in pairs(DRIVERS) do
    it(name .. " names the package of its library when it does not load", function()
      assert(io.open(folder .. "/drivers/" .. name .. ".so", "w")):close()
      local said = load(name)
      local package, reason = said:match("the driver " .. name .. " needs the package (%S+): (.*)")
      assert.is_truthy(package, said)
      assert.is_truthy(reason:find("file too short", 1, true), said)
      local files = output_of("dpkg-query -L " .. package)
      assert.is_truthy(files:find("/" .. driver.library .. ".", 1, true), package)
    end)

    it(name .. " names the package that it is built with when it has not been built", function()
      assert.is_truthy(load(name):find("install " .. driver.development .. " and build", 1, true))
    end)
  end

  it("that nobody knows is named", function()
    assert.is_truthy(load("oracle"):find('there is no driver "oracle"', 1, true))
  end)
end)
