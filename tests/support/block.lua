-- block: a describe block with one server for its tests.

local busted = require "busted"

---@class support.block.server
---@field stop fun(self: support.block.server)

---@param title string
---@param start fun(): support.block.server called before the first test
---@param define fun(get_server: fun(): support.block.server) the tests
---@param after_each fun(server: support.block.server)?
return function(title, start, define, after_each)
  local server
  busted.describe(title, function()
    busted.strict_setup(function()
      server = start()
    end)
    if after_each then
      busted.after_each(function()
        after_each(server)
      end)
    end
    busted.strict_teardown(function()
      if server then
        server:stop()
      end
    end)
    define(function()
      return server
    end)
  end)
end
