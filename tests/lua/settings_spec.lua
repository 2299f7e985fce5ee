local settings = require "fasterlua.settings"

local function write(text)
  local path = os.tmpname()
  local file = assert(io.open(path, "w"))
  file:write(text)
  file:close()
  finally(function() os.remove(path) end)
  return path
end

local function merge(input)
  return settings.merge {
    home = ".",
    environment = input.environment or {},
    flags = input.flags or {},
    files = input.files,
    conf = input.conf,
  }
end

local function flag(name, value)
  return { flag = "--" .. name, name = name, value = value }
end

local function set(name, value)
  return merge({ flags = { flag(name, value) } }).values[name]
end

local function message_of(fn, ...)
  local is_done, problem = pcall(fn, ...)
  assert.is_false(is_done)
  return type(problem) == "table" and problem.message or problem
end

describe("conf/default.lua", function()
  it("names every setting, each with a comment and in a group", function()
    local defaults, named = settings.read_file("conf/default.lua"), {}
    for _, entry in ipairs(settings.describe(".")) do
      named[#named + 1] = entry.name
      assert.is_not_nil(defaults[entry.name], entry.name)
      assert.is_true(#entry.comment > 5 and #entry.group > 3, entry.name)
    end
    table.sort(named)
    assert.same(settings.names(), named)
  end)

  it("holds the limits that are promised", function()
    local values = merge({}).values
    assert.equal(8192, values.request_line)
    assert.equal(16384, values.header_block)
    assert.equal(1048576, values.max_body)
    assert.equal(10, values.head_timeout)
    assert.equal(60, values.keep_alive)
    assert.equal(0.05, values.slow_handler)
    assert.equal(256 * 1024 * 1024, values.lua_memory)
  end)
end)

describe("settings are taken from", function()
  it("the defaults when nothing else names them", function()
    local merged = merge {}
    assert.equal(8000, merged.values.port)
    assert.equal("default", merged.sources.port)
  end)

  it("the conf file of the environment, then the project's", function()
    local merged = merge {
      conf = write "return { drain = 3 }",
      flags = { flag("environment", "test") },
    }
    assert.equal(0, merged.values.port)
    assert.equal("default of test", merged.sources.port)
    assert.equal(3, merged.values.drain)
    assert.equal("test", merged.values.environment)
  end)

  it("the environment before the conf file, a flag before both", function()
    local conf = write "return { port = 1, backlog = 1, workers = 1 }"
    local merged = merge {
      conf = conf,
      environment = { FASTERLUA_PORT = "2", FASTERLUA_BACKLOG = "2" },
      flags = { flag("port", "3") },
    }
    assert.equal(3, merged.values.port)
    assert.equal("--port", merged.sources.port)
    assert.equal(2, merged.values.backlog)
    assert.equal("FASTERLUA_BACKLOG", merged.sources.backlog)
    assert.equal(1, merged.values.workers)
    assert.equal(conf, merged.sources.workers)
  end)

  it("the last of two flags", function()
    local merged = merge { flags = { flag("port", "1"), flag("port", "2") } }
    assert.equal(2, merged.values.port)
  end)

  it("WEB_CONCURRENCY for workers, which FASTERLUA_WORKERS overrules", function()
    assert.equal(3, merge({ environment = { WEB_CONCURRENCY = "3" } }).values.workers)
    local both = { WEB_CONCURRENCY = "3", FASTERLUA_WORKERS = "2" }
    assert.equal(2, merge({ environment = both }).values.workers)
    assert.equal(1, merge({ environment = { WEB_CONCURRENCY = "" } }).values.workers)
  end)

  it("no variable without our prefix", function()
    assert.equal(8000, merge({ environment = { PORT = "9000" } }).values.port)
  end)

  it("an environment file, which is named as the source", function()
    local merged = merge {
      environment = { FASTERLUA_PORT = "9000" },
      files = { FASTERLUA_PORT = ".env" },
    }
    assert.equal("FASTERLUA_PORT in .env", merged.sources.port)
  end)
end)

describe("a value may be", function()
  it("a size with a unit", function()
    assert.equal(65536, set("max_body", "64KB"))
    assert.equal(65536, set("max_body", "64 kib"))
    assert.equal(1572864, set("max_body", "1.5MB"))
    assert.equal(2 * 1024 ^ 3, set("max_body", "2GB"))
    assert.equal(100, set("max_body", "100B"))
    assert.equal(100, set("max_body", "100"))
    assert.equal(100, set("max_body", 100))
  end)

  it("a time with a unit", function()
    assert.equal(10, set("keep_alive", 10))
    assert.equal(10, set("keep_alive", "10"))
    assert.equal(10, set("keep_alive", "10s"))
    assert.equal(0.5, set("keep_alive", "500ms"))
    assert.equal(1.5, set("keep_alive", "1.5s"))
    assert.equal(120, set("keep_alive", "2m"))
    assert.equal(3600, set("keep_alive", "1h"))
  end)

  it("on or off", function()
    for _, value in ipairs { true, "on", "true", "yes", "1", "ON" } do
      assert.is_true(set("access_log", value))
    end
    for _, value in ipairs { false, "off", "false", "no", "0" } do
      assert.is_false(set("access_log", value))
    end
  end)

  it("written as it was read", function()
    assert.equal('"1MB"', settings.format("max_body", 1048576))
    assert.equal("500", settings.format("body_rate", 500))
    assert.equal("0", settings.format("handler_timeout", 0))
    assert.equal('"100ms"', settings.format("queue_delay", 0.1))
    assert.equal('"50ms"', settings.format("slow_handler", 0.05))
    assert.equal('"1500ms"', settings.format("drain", 1.5))
    assert.equal('{ ["/a"] = "b" }', settings.format("mounts", { ["/a"] = "b" }))
  end)
end)

describe("a value is refused", function()
  local wrong = {
    { "port", "70000" }, { "port", "-1" }, { "port", "80.5" }, { "port", "0x50" }, { "port", "" },
    { "port", "1e3" }, { "port", true }, { "workers", 0 }, { "max_body", "1XB" },
    { "max_body", "-1" }, { "max_body", "0.5B" }, { "max_body", 0 / 0 }, { "max_body", 1 / 0 },
    { "keep_alive", "soon" }, { "keep_alive", "10 years" }, { "keep_alive", {} },
    { "write_stall", 0 }, { "access_log", "maybe" }, { "access_log", 1 }, { "log_level", "loud" },
    { "root_path", "api" }, { "root_path", "/api/" }, { "admin", "9000" }, { "admin", "::1:99999" },
    { "host", "" }, { "host", "a\nb" }, { "host", 5 }, { "forwarded_allow_ips", "somewhere" },
    { "forwarded_allow_ips", "10.0.0.0/129" }, { "mounts", "shop" }, { "mounts", { "shop" } },
    { "mounts", { shop = "shop" } }, { "uds", ("x"):rep(108) }, { "json_depth", 97 },
  }
  for _, case in ipairs(wrong) do
    it(("when %s is %s"):format(case[1], tostring(case[2]):sub(1, 20):gsub("\n", "\\n")), function()
      local problem = message_of(set, case[1], case[2])
      assert.truthy(problem:find("--" .. case[1] .. ": ", 1, true), problem)
      assert.truthy(problem:find("is not valid: expected ", 1, true), problem)
    end)
  end

  it("naming a conf file and the setting", function()
    local conf = write 'return { keep_alive = "soon" }'
    assert.equal(conf .. ': keep_alive: "soon" is not valid: expected a time in seconds, or as in '
      .. '"500ms" or "10s", from 0 to "1d"', message_of(merge, { conf = conf }))
  end)

  it("naming the variable", function()
    local problem = message_of(merge, { environment = { FASTERLUA_PORT = "tcp://10.0.0.1:80" } })
    assert.equal('environment: FASTERLUA_PORT: "tcp://10.0.0.1:80" is not valid: expected an '
      .. "integer from 0 to 65535", problem)
  end)

  it("when uds and fd are both set", function()
    local flags = { flag("uds", "/tmp/socket"), flag("fd", "3") }
    assert.truthy(message_of(merge, { flags = flags }):find("uds and fd are both set", 1, true))
  end)
end)

describe("an unknown setting is refused with a suggestion", function()
  it("in a conf file", function()
    local conf = write "return { prot = 80 }"
    assert.equal(conf .. ': unknown setting "prot": did you mean "port"?',
      message_of(merge, { conf = conf }))
  end)

  it("in the environment", function()
    assert.equal("environment: unknown variable FASTERLUA_PROT: did you mean \"FASTERLUA_PORT\"?",
      message_of(merge, { environment = { FASTERLUA_PROT = "80" } }))
  end)

  it("in a flag", function()
    assert.equal('--prot: unknown setting "prot": did you mean "port"?',
      message_of(merge, { flags = { flag("prot", "80") } }))
  end)

  it("and without one when nothing is near", function()
    local conf = write "return { [1] = 80 }"
    assert.equal(conf .. ": unknown setting 1", message_of(merge, { conf = conf }))
  end)
end)

describe("a conf file", function()
  it("sees no globals", function()
    local conf = write "return { port = os.getenv('PORT') }"
    local problem = message_of(merge, { conf = conf })
    assert.truthy(problem:find(conf .. ":1:", 1, true), problem)
    assert.truthy(problem:find("a conf file sees no globals", 1, true), problem)
  end)

  it("is never bytecode", function()
    local conf = write(string.dump(function() return {} end))
    assert.truthy(message_of(merge, { conf = conf }):find("attempt to load chunk", 1, true))
  end)

  it("must exist when it was asked for", function()
    local problem = message_of(merge, { conf = "/nowhere/conf.lua" })
    assert.truthy(problem:find("/nowhere/conf.lua", 1, true))
  end)

  it("returns a table", function()
    local conf = write "return 5"
    assert.equal(conf .. ": expected a table to be returned, got number",
      message_of(merge, { conf = conf }))
  end)

  it("cannot select itself", function()
    local conf = write 'return { environment = "test" }'
    assert.truthy(message_of(merge, { conf = conf }):find("FASTERLUA_ENVIRONMENT sets it", 1, true))
  end)
end)
