local http = require "support.http"
local support = require "support"
local socket = require "socket"

-- A connection to a peer that the test plays itself.
local function connected_pair()
  local listener = assert(socket.bind("127.0.0.1", 0))
  local _, port = listener:getsockname()
  local client = support.connect { host = "127.0.0.1", port = tonumber(port) }
  local peer = listener:accept()
  listener:close()
  return client, peer
end

local function response_of(bytes, method)
  local client, peer = connected_pair()
  peer:send(bytes)
  peer:close()
  local ok, response, reason = pcall(client.response, client, { method = method, timeout = 1 })
  client:close()
  if ok then
    return response, reason
  end
  return nil, "malformed"
end

describe("a test's connection", function()
  it("tells a reset from an orderly close", function()
    local client, peer = connected_pair()
    peer:close()
    assert.same({ true, "closed" }, { client:closed(1) })
    client, peer = connected_pair()
    peer:setoption("linger", { on = true, timeout = 0 })
    peer:close()
    assert.same({ true, "reset" }, { client:closed(1) })
  end)

  it("is not closed while the peer says something or nothing", function()
    local client, peer = connected_pair()
    assert.same({ false, "timeout" }, { client:closed(0.02) })
    peer:send("more")
    assert.same({ false, 'unexpected bytes: "more"' }, { client:closed(1) })
    client:close()
  end)

  it("receives by count, by pattern and what comes", function()
    local client, peer = connected_pair()
    peer:send("onetwo;three")
    assert.equal("one", client:receive(3, 1))
    assert.equal("two;", client:receive(";", 1))
    assert.equal("three", client:receive(nil, 1))
    assert.same({ nil, "timeout", "" }, { client:receive(1, 0.02) })
    client:close()
  end)

  it("resets", function()
    local client, peer = connected_pair()
    client:reset()
    local _, reason = peer:receive(1)
    assert.equal("closed", reason)
  end)
end)

describe("a test's reader of responses", function()
  it("reads a body by length, by chunks and to the close", function()
    assert.equal("ab", response_of("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nab").body)
    local chunked = response_of("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
      .. "2\r\nab\r\n1\r\nc\r\n0\r\nX: y\r\n\r\n")
    assert.equal("abc", chunked.body)
    assert.same({ "ab", "c" }, chunked.chunks)
    assert.same({ x = "y" }, chunked.trailers)
    assert.equal("rest", response_of("HTTP/1.1 200 OK\r\n\r\nrest").body)
  end)

  it("expects no body where there can be none", function()
    assert.equal("", response_of("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n", "HEAD").body)
    assert.equal("", response_of("HTTP/1.1 204 No Content\r\n\r\n").body)
  end)

  it("refuses what is not HTTP", function()
    for _, bytes in ipairs {
      "HTTP/1.1 200 OK\nContent-Length: 0\r\n\r\n",
      "HTTP/1.1 OK\r\n\r\n",
      "HTTP/1.1 200 OK\r\nA : b\r\n\r\n",
      "HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n",
      "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\na",
      "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
      "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nabc\r\n0\r\n\r\n",
    } do
      assert.same({ bytes, nil, "malformed" }, { bytes, response_of(bytes) })
    end
  end)

  it("says when a body is cut short", function()
    local response, reason = response_of("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nab")
    assert.is_nil(response)
    assert.equal("closed", reason)
  end)
end)

describe("a test's request", function()
  it("gets the fields it lacks", function()
    assert.equal("GET / HTTP/1.1\r\nHost: a:1\r\n\r\n", http.format_request({}, "a:1"))
    assert.equal("POST /x HTTP/1.1\r\nhost: b\r\nContent-Length: 2\r\n\r\nhi",
      http.format_request { method = "POST", path = "/x", headers = { host = "b" }, body = "hi" })
  end)

  it("is chunked on demand", function()
    assert.equal("PUT / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
      .. "2\r\nab\r\n1\r\nc\r\n0\r\nX: y\r\n\r\n", http.format_request { method = "PUT",
      chunked = true, body = { "ab", "c" }, trailers = { X = "y" } })
  end)
end)

describe("a test's process", function()
  local process = support.process

  it("is started, signalled and waited for", function()
    local pid = process.spawn { argv = { "sleep", "10" } }
    assert.is_nil(process.wait(pid, 0.02))
    assert.is_true(process.signal(pid, "TERM"))
    assert.same({ pid = pid, signal = 15 }, process.wait(pid, 2))
    assert.is_false(process.signal(pid, 0))
  end)

  it("has an environment, a folder and an output", function()
    local dir = process.temporary_directory()
    local pid = process.spawn { argv = { "sh", "-c", "echo $WORD; pwd; exit 3" },
      directory = dir, output = dir .. "/output", env = { WORD = "word" } }
    assert.same({ pid = pid, code = 3 }, process.wait(pid, 2))
    assert.equal("word\n" .. dir .. "\n", process.read(dir .. "/output"))
    process.remove_directory(dir)
  end)

  it("has children, memory, CPU time and descriptors", function()
    local pid = process.own_pid()
    local child = process.spawn { argv = { "sleep", "10" } }
    assert.same({ child }, process.children(pid))
    process.signal(child, "KILL")
    process.wait(child, 2)
    assert.same({}, process.children(pid))
    assert.is_true(process.rss(pid) > 1000000)
    assert.is_number(select(2, process.cpu(pid)))
    assert.is_true(select(2, process.descriptors(pid)) >= 3)
  end)
end)

describe("waiting for something to come true", function()
  it("tries again until then", function()
    local tries = 0
    assert.equal("yes", support.eventually(function()
      tries = tries + 1
      return tries == 3 and "yes"
    end, 1))
  end)

  it("raises the last reason when the time is over", function()
    assert.has_error(function()
      support.eventually(function()
        error("not yet", 0)
      end, 0.01)
    end, "not yet")
  end)
end)
