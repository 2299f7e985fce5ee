local support = require "support"

local process = support.process
local MB = 1024 * 1024

local folder

local function options()
  folder = process.temporary_directory() .. "/files"
  return { dir = "apps/files", env = { FILES_DIR = folder } }
end

support.describe_server("the files app", options, function(get_server)
  local function put(name, body, chunked)
    return assert(get_server():request { method = "PUT", path = "/" .. name, body = body,
      chunked = chunked, timeout = 10 })
  end

  local function delete(name)
    return get_server():request({ method = "DELETE", path = "/" .. name }).status
  end

  local function list()
    return get_server():get("/"):json().files
  end

  local function names_on_disk()
    local pipe = io.popen("ls -A '" .. folder .. "'")
    local text = pipe:read("*a")
    pipe:close()
    return text
  end

  teardown(function()
    process.remove_directory((folder:gsub("/files$", "")))
  end)

  after_each(function()
    for _, file in ipairs(list()) do delete(file.name) end
  end)

  it("lists nothing before the first upload", function()
    assert.equal('{"files":[]}', get_server():get("/").body)
  end)

  it("gives back what was uploaded, byte for byte", function()
    local bytes = {}
    for i = 0, 255 do bytes[#bytes + 1] = string.char(i) end
    local body = table.concat(bytes):rep(4096)
    local answer = put("all-bytes.bin", body)
    assert.equal(201, answer.status)
    assert.same({ name = "all-bytes.bin", size = #body }, answer:json())
    local response = get_server():get("/all-bytes.bin")
    assert.equal("application/octet-stream", response.headers["content-type"])
    assert.equal("attachment", response.headers["content-disposition"])
    assert.equal("chunked", response.headers["transfer-encoding"])
    assert.is_true(response.body == body)
  end)

  it("takes an upload whose length is not known", function()
    assert.equal(201, put("pieces.txt", { "one ", "two ", "three" }, true).status)
    assert.equal("one two three", get_server():get("/pieces.txt").body)
  end)

  it("takes an empty file", function()
    assert.equal(0, put("empty", ""):json().size)
    assert.equal("", get_server():get("/empty").body)
  end)

  it("lists names and sizes", function()
    put("b.txt", "12345")
    put("a.txt", "1")
    assert.same({ { name = "a.txt", size = 1 }, { name = "b.txt", size = 5 } }, list())
  end)

  it("replaces a file of the same name", function()
    put("twice", "a longer first text")
    put("twice", "second")
    assert.equal("second", get_server():get("/twice").body)
  end)

  it("deletes", function()
    put("gone", "x")
    assert.equal(204, delete "gone")
    assert.equal(404, delete "gone")
    assert.equal(404, get_server():get("/gone").status)
  end)

  it("refuses names that could lead elsewhere or hide", function()
    local names = { ".hidden", "..%2Fapp.lua", "a%2Fb", "a%00b", "%2E%2E", ("x"):rep(101) }
    for _, name in ipairs(names) do
      local status = put(name, "x").status
      assert.is_true(status >= 400 and status < 500, name .. ": " .. status)
    end
    assert.equal("", names_on_disk())
  end)

  it("refuses what is too large before any of it is sent", function()
    local client = get_server():connect()
    client:send(("PUT /large HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n"):format(65 * MB)
      .. "Expect: 100-continue\r\n\r\n")
    assert.equal(413, assert(client:responses(1))[1].status)
  end)

  it("leaves nothing behind of an upload that breaks off", function()
    local client = get_server():connect()
    client:send("PUT /half HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n")
    client:send(("x"):rep(70000))
    support.eventually(function() return names_on_disk():find("^%.") end)
    client:close()
    support.eventually(function() return names_on_disk() == "" end)
  end)

  it("reads no further ahead than a slow reader takes", function()
    put("big", ("0123456789abcdef"):rep(2 * MB))
    get_server():get("/big")
    local before = get_server():rss()
    local clients = {}
    for i = 1, 4 do
      clients[i] = get_server():connect { receive_buffer = 4096 }
      clients[i]:send("GET /big HTTP/1.1\r\nHost: a\r\n\r\n")
    end
    process.sleep(0.5)
    local growth = get_server():rss() - before
    assert.is_true(growth < 24 * support.slowdown * MB, ("it grew by %.1f MB"):format(growth / MB))
    assert.equal(200, get_server():get("/").status) -- and nobody else waits for them
  end)
end)
