local databases = require "support.databases"
local ffi = require "ffi"
local lfs = require "lfs"
local postgres = require "support.databases.postgres"
local service = require "support.databases.service"
local socket = require "socket"
local support = require "support"
local template = require "support.databases.template"
local unix = require "socket.unix"

ffi.cdef "int setenv(const char *name, const char *value, int overwrite);"

local process, tree, account = support.process, databases.tree, databases.account

-- What the three have in common, in each one's words.
local KINDS = {
  postgres = {
    scheme = "^postgres:///test%?host=/", user = "postgres",
    save = { "create table notes (text text); insert into notes values ('kept')" },
    load = { "select text from notes" },
    mistake = { "select nothing" }, complaint = 'column "nothing" does not exist',
    hello = "\0\0\0\33\0\3\0\0user\0test\0database\0test\0\0",
  },
  mariadb = {
    scheme = "^mysql://test:test@localhost/test%?socket=/", user = "mysql",
    save = { "create table notes (text text); insert into notes values ('kept')" },
    load = { "select text from notes" },
    mistake = { "select nothing" }, complaint = "Unknown column 'nothing'",
    hello = "", -- the server speaks first
  },
  redis = {
    scheme = "^redis%+unix:///", user = "redis",
    save = { "set", "note", "kept" }, load = { "get", "note" },
    mistake = { "nothing" }, complaint = "unknown command", hello = "PING\r\n",
  },
}

local function connect(path)
  local client = assert(unix.stream())
  client:settimeout(5 * support.slowdown)
  assert(client:connect(path))
  return client
end

local function exists(path)
  return lfs.symlinkattributes(path) ~= nil
end

for name, kind in pairs(KINDS) do
  databases.describe("a test's " .. name, name, nil, function(get_server)
    local server

    strict_setup(function()
      server = get_server()
      server:query(unpack(kind.save))
    end)

    local function query(words)
      return server:query(unpack(words))
    end

    it("has a URL, a socket and a log", function()
      assert.is_truthy(server.url:find(kind.scheme))
      assert.equal("socket", lfs.attributes(server.socket, "mode"))
      assert.is_truthy(server:log():find("[Rr]eady"))
      assert.is_nil(server.tcp_url)
    end)

    it("answers queries and complains of mistakes", function()
      assert.same({ { "kept" } }, query(kind.load))
      assert.error_matches(function()
        query(kind.mistake)
      end, kind.complaint, 1, true)
    end)

    it("keeps its data and its socket when it is restarted", function()
      local pid, path = server.pid, server.socket
      for _, options in ipairs { { immediate = false }, { immediate = true } } do
        server:restart(options)
        assert.not_equal(pid, server.pid)
        assert.is_false(tree.is_running(pid))
        assert.equal(path, server.socket)
        assert.same({ { "kept" } }, query(kind.load))
        pid = server.pid
      end
    end)

    it("keeps them when it is killed and started", function()
      local pids = server:processes()
      server:kill()
      for _, pid in ipairs(pids) do
        assert.is_false(tree.is_running(pid))
      end
      assert.has_error(function()
        query(kind.load)
      end)
      server:start()
      assert.same({ { "kept" } }, query(kind.load))
    end)

    it("counts its clients", function()
      assert.equal(0, server:connections())
      local clients = {}
      for index = 1, 2 do
        clients[index] = connect(server.socket)
        clients[index]:send(kind.hello)
      end
      support.eventually(function()
        return server:connections() == 2
      end)
      clients[1]:close()
      support.eventually(function()
        return server:connections() == 1
      end)
      clients[2]:close()
      support.eventually(function()
        return server:connections() == 0
      end)
    end)

    it("answers nothing while it is paused", function()
      server:pause()
      for _, pid in ipairs(server:processes()) do
        assert.is_true(tree.is_stopped(pid))
      end
      local client = connect(server.socket)
      client:send(kind.hello)
      client:settimeout(0.1)
      assert.equal("timeout", select(2, client:receive(1)))
      server:resume()
      client:settimeout(5 * support.slowdown)
      assert.is_truthy(client:receive(1))
      client:close()
    end)

    it("runs as a user without rights", function()
      local uid = account.own_uid()
      local expected = uid == 0 and account.find({ kind.user }).uid or uid
      assert.not_equal(0, expected)
      for _, pid in ipairs(server:processes()) do
        local user = tree.user(pid)
        if user or pid == server.pid then -- one of its own may have ended meanwhile
          assert.equal(expected, user)
        end
      end
    end)

    it("leaves no process, file or segment when it has been stopped, whatever befell it", function()
      for _, befall in ipairs { "kill", "pause" } do
        local other = databases[name]()
        local pids, dir = other:processes(), other.dir
        local segment = (process.read(dir .. "/data/postmaster.pid") or ""):match(" (%d+) *\nready")
        pids[#pids + 1] = other.janitor
        other[befall](other)
        other:stop()
        for _, pid in ipairs(pids) do
          assert.is_false(tree.is_running(pid))
        end
        assert.is_false(exists(dir))
        assert.is_nil(process.read("/proc/sysvipc/shm"):find(" " .. (segment or "none") .. " "))
        assert.equal(name == "postgres", segment ~= nil)
      end
    end)

    it("does not outlive a test that dies", function()
      local dir = process.temporary_directory()
      local test = process.spawn { output = dir .. "/output", argv = { "luajit", "-e", ([[
        package.path = "tests/?.lua;tests/?/init.lua;" .. package.path
        local server = require("support.databases").%s()
        print(server.dir, server.janitor, unpack(server:processes()))
        print("ready")
        io.stdout:flush()
        require("support.process").sleep(60)
      ]]):format(name) } }
      local output = support.eventually(function()
        return process.read(dir .. "/output"):match("^(.*)\nready\n")
      end, 20)
      process.signal(test, "KILL")
      process.wait(test, 5)
      local pids = {}
      for pid in output:gmatch("\t(%d+)") do
        pids[#pids + 1] = tonumber(pid)
      end
      assert.is_true(#pids >= 2)
      assert.is_true(tree.wait_ended(pids, 5 * support.slowdown))
      assert.is_false(exists(output:match("^[^\t]+")))
      process.remove_directory(dir)
    end)

    it("takes another port when somebody else takes its own", function()
      local taken = assert(socket.bind("127.0.0.1", 0))
      local _, port = taken:getsockname()
      local free_port, tries = service.free_port, 0
      service.free_port = function(...)
        tries = tries + 1
        return tries == 1 and tonumber(port) or free_port(...)
      end
      finally(function()
        service.free_port = free_port
        taken:close()
      end)
      local other = databases[name] { tcp = true }
      assert.equal(2, tries)
      assert.is_truthy(other.tcp_url:find("127.0.0.1:" .. other.port, 1, true))
      assert.not_equal(tonumber(port), other.port)
      other:stop()
    end)

    it("says why it does not start, and leaves nothing then", function()
      local count = #databases.running()
      assert.error_matches(function()
        databases[name] { settings = { no_such_setting = "1" } }
      end, "does not start.*no.such.setting")
      assert.equal(count, #databases.running())
    end)

    it("is not stopped in silence when it has failed", function()
      local other = databases[name]()
      assert.equal(other, support.running()[#support.running()])
      process.signal(other.pid, "KILL")
      assert.error_matches(function()
        other:stop()
      end, "ended with signal 9")
      assert.is_false(exists(other.dir))
    end)
  end)
end

-- One with options, for a test.
local function with(name, options, use)
  local is_available, reason = databases.available(name)
  if not is_available then
    pending(reason)
    return
  end
  local server = databases[name](options)
  local ok, problem = pcall(use, server)
  if not ok then
    server:discard()
    error(problem, 0)
  end
  server:stop()
end

describe("a test's PostgreSQL", function()
  local function psql(url, sql)
    return (service.run { postgres.programs() .. "psql", "-XAtq", url, "-c", sql }:gsub("\n$", ""))
  end

  it("reads rows with any text in them", function()
    with("postgres", nil, function(server)
      assert.same({ { "a\nb", "", "NULL" }, { "|\t", "1", "t" } },
        server:query("values (E'a\nb', '', null), (E'|\t', '1', true)"))
      assert.same({}, server:query("select 1 where false"))
    end)
  end)

  it("has databases, settings and a password", function()
    with("postgres", { databases = { "a shop", "b" }, password = "p's w", auth = "md5",
      settings = { max_connections = 7 } }, function(server)
      assert.same({ { "7" } }, server:query("show max_connections"))
      assert.same({ { "b" } }, server:query("select current_database()", { database = "b" }))
      assert.equal("a shop", psql(server.url, "select current_database()"))
      assert.equal("test", psql(server.tcp_url, "create table t (); select current_user"))
      assert.same({ { "test" } }, server:query(
        "select tableowner from pg_tables where tablename = 't'"))
      assert.same({ { "md5" } }, server:query("select left(rolpassword, 3) from pg_authid "
        .. "where rolname = 'test'", { admin = true }))
      assert.error_matches(function()
        psql(server.tcp_url:gsub(":p.-@", ":wrong@"), "select 1")
      end, "password authentication failed")
    end)
  end)

  it("takes TLS alone on TCP, with a certificate to be checked", function()
    with("postgres", { tls = true }, function(server)
      assert.equal("t", psql(server.tcp_url,
        "select ssl from pg_stat_ssl where pid = pg_backend_pid()"))
      assert.same({ { "scram-sha-256" } }, server:query("show password_encryption"))
      assert.error_matches(function()
        psql(server.tcp_url:gsub("%?.*", "?sslmode=disable"), "select 1")
      end, "no encryption")
    end)
  end)

  it("forgoes safety for speed unless asked", function()
    with("postgres", nil, function(server)
      assert.same({ { "off" } }, server:query("show fsync"))
    end)
    with("postgres", { durable = true }, function(server)
      assert.same({ { "on", "on" } }, server:query(
        "select current_setting('fsync'), current_setting('synchronous_commit')"))
    end)
  end)

  it("has a connection to spare for the test itself", function()
    with("postgres", { settings = { max_connections = 5, superuser_reserved_connections = 2 } },
      function(server)
        local clients = {}
        for index = 1, 4 do
          clients[index] = connect(server.socket)
          clients[index]:send(KINDS.postgres.hello)
          support.eventually(function()
            return server:connections() == math.min(index, 3)
          end, 5)
        end
        assert.is_truthy(clients[4]:receive("*a"):find("are reserved", 1, true))
        assert.equal(3, server:connections())
        for _, client in ipairs(clients) do
          client:close()
        end
      end)
  end)
end)

describe("a test's MariaDB", function()
  local function client(server, ...)
    return (service.run { "mariadb", "--no-defaults", "--user=test", "--host=127.0.0.1",
      "--port=" .. server.port, "-NB", ... }:gsub("\n$", ""))
  end

  it("reads rows with any text in them", function()
    with("mariadb", nil, function(server)
      assert.same({ { "a\nb", "", "NULL" }, { "|\t\\n", "1", "2" } },
        server:query("select 'a\\nb', '', null union all select '|\\t\\\\n', '1', 2"))
      assert.same({}, server:query("select 1 where false"))
    end)
  end)

  it("has databases, settings and a password", function()
    with("mariadb", { databases = { "shop" }, password = "p's \\w", tcp = true,
      settings = { max_connections = 17 } }, function(server)
      assert.same({ { "17", "shop" } }, server:query("select @@max_connections, database()"))
      assert.equal("test@%", client(server, "--password=p's \\w", "-e", "select current_user()",
        "shop"))
      assert.is_truthy(server.url:find(":p%27s%20%5Cw@localhost/shop?", 1, true))
      assert.error_matches(function()
        client(server, "--password=test", "-e", "select 1")
      end, "Access denied")
    end)
  end)

  it("gives root's rights to nobody on TCP", function()
    with("mariadb", { tcp = true }, function(server)
      assert.error_matches(function()
        client(server, "--user=root", "-e", "select 1")
      end, "Access denied")
    end)
  end)

  it("takes TLS alone on TCP, with a certificate to be checked, and other authentication",
    function()
      with("mariadb", { tls = true, auth = "ed25519" }, function(server)
        local function ask(tls)
          return client(server, "--password=test", "--ssl-ca=" .. server.ca, tls,
            "--host=localhost", "--protocol=tcp", "-e", "show status like 'Ssl_cipher'")
        end
        assert.is_truthy(ask("--ssl-verify-server-cert"):find("Ssl_cipher\t%u"))
        assert.has_error(function()
          ask("--skip-ssl")
        end)
        assert.same({ { "ed25519" } }, server:query(
          "select plugin from mysql.user where user = 'test'"))
      end)
    end)

  it("forgoes safety for speed unless asked", function()
    local ask = "select @@innodb_flush_log_at_trx_commit, @@innodb_flush_method = 'nosync'"
    with("mariadb", nil, function(server)
      assert.same({ { "0", "1" } }, server:query(ask))
    end)
    with("mariadb", { durable = true }, function(server)
      assert.same({ { "1", "0" } }, server:query(ask))
    end)
  end)
end)

describe("a test's Redis", function()
  it("has a password, settings and safety on demand", function()
    with("redis", { password = 'p" w', settings = { maxmemory = "3mb" }, durable = true },
      function(server)
        assert.same({ { "maxmemory" }, { "3145728" } }, server:query("config", "get", "maxmemory"))
        assert.same({ { "appendfsync" }, { "always" } }, server:query("config", "get",
          "appendfsync"))
        assert.is_truthy(server.url:find("redis+unix://:p%22%20w@/", 1, true))
        local client = connect(server.socket)
        client:send("PING\r\n")
        assert.is_truthy(client:receive("*l"):find("^%-NOAUTH"))
        client:close()
      end)
  end)

  it("takes TLS alone on TCP, with a certificate to be checked", function()
    with("redis", { tls = true }, function(server)
      assert.equal("rediss://127.0.0.1:" .. server.port, server.tcp_url)
      assert.equal("PONG\n", service.run { "redis-cli", "-h", "127.0.0.1", "-p", server.port .. "",
        "--tls", "--cacert", server.ca, "ping" })
      assert.has_error(function()
        service.run { "redis-cli", "-e", "-h", "127.0.0.1", "-p", server.port .. "", "ping" }
      end)
    end)
  end)

  it("makes a cluster of three masters that share the slots", function()
    with("redis", { cluster = true, password = "secret" }, function(cluster)
      assert.equal(3, #cluster.nodes)
      for _, key in ipairs { "a", "b", "c", "d" } do
        assert.same({ { "OK" } }, cluster:query("set", key, key))
        assert.same({ { key } }, cluster:query("get", key))
      end
      for index, node in ipairs(cluster.nodes) do
        assert.not_same({ { "0" } }, node:query("dbsize"))
        assert.equal("redis://:secret@127.0.0.1:" .. node.port, cluster.urls[index])
      end
      local client = connect(cluster.nodes[2].socket)
      support.eventually(function()
        return cluster:connections() == 1
      end)
      client:close()
      cluster.nodes[3]:kill()
      assert.has_error(function()
        cluster.nodes[3]:query("ping")
      end)
      cluster.nodes[3]:start()
      cluster:wait_ready()
      assert.is_true(cluster:is_ready())
      assert.same({ { "c" } }, cluster:query("get", "c"))
    end)
  end)
end)

describe("a test's server", function()
  it("is not available when its program is not installed", function()
    local path = os.getenv("PATH")
    finally(function()
      ffi.C.setenv("PATH", path, 1)
    end)
    ffi.C.setenv("PATH", "/nonexistent", 1)
    assert.same({ false, "redis-server is not installed" }, { databases.available("redis") })
    assert.error_matches(function()
      databases.available("oracle")
    end, "no such server: oracle")
  end)

  it("comes from a template that is made once", function()
    local made, dir = 0, process.temporary_directory()
    local owner, key = account.own(), "spec-" .. process.own_pid() .. " " .. process.now()
    local function make(path)
      made = made + 1
      assert(lfs.mkdir(path))
      service.write_file(path .. "/file", "text")
    end
    local path = template.copy(key, owner, make, dir .. "/a")
    assert.equal(path, template.copy(key, owner, make, dir .. "/b"))
    assert.equal(1, made)
    assert.equal("text", process.read(dir .. "/b/file"))
    assert.not_equal(path, template.copy(key .. "!", owner, function(other)
      make(other)
      -- Somebody else is faster.
      template.copy(key .. "!", owner, make, dir .. "/c")
    end, dir .. "/d"))
    assert.equal(3, made)
    assert.equal("text", process.read(dir .. "/d/file"))
    assert.error_matches(function()
      template.copy(key .. "?", owner, function()
        error("cannot", 0)
      end, dir .. "/e")
    end, "^cannot$")
    os.execute(("rm -rf '%s' '%s'-*"):format(path, path:match("^(.*)%-")))
    process.remove_directory(dir)
  end)
end)

describe("a test's server left running", function()
  it("is ended by the clean-up at the end, whatever the kind", function()
    local target = assert(socket.bind("127.0.0.1", 0))
    local _, port = target:getsockname()
    -- In a test of its own, as this one's would end too.
    local dir = process.temporary_directory()
    local test = process.spawn { output = dir .. "/output", argv = { "luajit", "-e", ([[
      package.path = "tests/?.lua;tests/?/init.lua;" .. package.path
      local databases = require "support.databases"
      local proxy = databases.proxy { target = "127.0.0.1:%d" }
      print(databases.clean_up(), #databases.running(), proxy.dir)
    ]]):format(port) } }
    assert.same({ pid = test, code = 0 }, process.wait(test, 10 * support.slowdown))
    local count, left, folder = process.read(dir .. "/output"):match("^(%d+)\t(%d+)\t([^\n]+)\n$")
    assert.same({ "1", "0", false }, { count, left, exists(folder or dir) })
    target:close()
    process.remove_directory(dir)
  end)
end)

for _, is_tcp in ipairs { false, true } do
  describe("a test's proxy on " .. (is_tcp and "TCP" or "a Unix socket"), function()
    local target, proxy, dir, links

    local function open_target()
      if is_tcp then
        local listener = assert(socket.bind("127.0.0.1", 0))
        return listener, "127.0.0.1:" .. select(2, listener:getsockname())
      end
      local listener = unix.stream()
      assert(listener:bind(dir .. "/target.sock"))
      assert(listener:listen(8))
      return listener, dir .. "/target.sock"
    end

    before_each(function()
      local address
      dir, links = process.temporary_directory(), {}
      target, address = open_target()
      target:settimeout(5 * support.slowdown)
      proxy = databases.proxy { target = address, tcp = is_tcp }
    end)

    after_each(function()
      for _, link in ipairs(links) do
        link:close()
      end
      target:close()
      proxy:stop()
      process.remove_directory(dir)
    end)

    local function try_connect()
      local client = is_tcp and socket.tcp() or unix.stream()
      links[#links + 1] = client
      client:settimeout(5 * support.slowdown)
      if is_tcp then
        return client, client:connect("127.0.0.1", proxy.port)
      end
      return client, client:connect(proxy.socket)
    end

    -- A client, and the end of the server that it is joined to.
    local function link()
      local client = try_connect()
      local peer = assert(target:accept())
      links[#links + 1] = peer
      peer:settimeout(5 * support.slowdown)
      return client, peer
    end

    local function pass(from, to, bytes)
      assert(from:send(bytes))
      assert.equal(bytes, to:receive(#bytes))
    end

    local function comes_nothing(client)
      client:settimeout(0.1)
      assert.same({ nil, "timeout", "" }, { client:receive(1) })
      client:settimeout(5 * support.slowdown)
    end

    local function is_closed(client)
      assert.equal("closed", select(2, client:receive(1)))
    end

    it("passes bytes both ways, and each one's end", function()
      local client, peer = link()
      pass(client, peer, "question\0\n")
      pass(peer, client, "answer")
      assert.equal(1, proxy:connections())
      client:shutdown("send")
      is_closed(peer)
      pass(peer, client, "a last word")
      peer:close()
      is_closed(client)
      support.eventually(function()
        return proxy:connections() == 0
      end)
    end)

    it("passes more than it keeps, unchanged", function()
      local client, peer = link()
      local text = ("0123456789abcdef"):rep(300000)
      local sent, parts, count = 0, {}, 0
      peer:settimeout(0)
      client:settimeout(0.01)
      support.eventually(function()
        local all, _, part = peer:send(text, sent + 1)
        sent = all or part or sent
        local piece, _, rest = client:receive(1000000)
        parts[#parts + 1] = piece or rest
        count = count + #parts[#parts]
        return count == #text
      end, 20)
      assert.is_true(text == table.concat(parts))
    end)

    it("cuts one connection after so many bytes of answers", function()
      local client, peer = link()
      proxy:cut_after(5)
      pass(client, peer, "0123456789")
      pass(peer, client, "012")
      peer:send("3456789")
      assert.equal("34", client:receive(2))
      is_closed(client)
      is_closed(peer)
      client, peer = link()
      pass(peer, client, "0123456789")
    end)

    it("delays answers", function()
      local client, peer = link()
      proxy:delay(0.3)
      local started = process.now()
      pass(client, peer, "at once")
      pass(peer, client, "later")
      assert.is_true(process.now() - started >= 0.29)
      proxy:delay(60)
      peer:send("much later")
      comes_nothing(client)
      proxy:resume()
      assert.equal("much later", client:receive(10))
    end)

    it("stalls, and passes the rest when it goes on", function()
      local client, peer = link()
      proxy:stall()
      local other = link()
      client:send("question")
      peer:send("answer")
      comes_nothing(client)
      comes_nothing(peer)
      comes_nothing(other)
      proxy:resume()
      assert.equal("question", peer:receive(8))
      assert.equal("answer", client:receive(6))
    end)

    it("cuts all connections at once", function()
      local client, peer = link()
      local other, other_peer = link()
      proxy:cut()
      for _, one in ipairs { client, peer, other, other_peer } do
        is_closed(one)
      end
      assert.equal(0, proxy:connections())
      pass(select(2, link()), links[#links - 1], "as before")
    end)

    it("refuses new connections and keeps the others", function()
      local client, peer = link()
      proxy:refuse()
      local _, ok, reason = try_connect()
      assert.same({ nil, "connection refused" }, { ok, reason })
      pass(peer, client, "still there")
      proxy:resume()
      client, peer = link()
      pass(peer, client, "there again")
    end)

    it("loses requests to cancel, closed or left hanging, and nothing else", function()
      local request = "\0\0\0\16\4\210\22\46\0\0\0\1\0\0\0\2"
      proxy:lose_cancels(1)
      pass(select(1, link()), links[2], "\0\0\0\16 something else")
      local client, peer = link()
      assert(client:send(request))
      is_closed(client)
      is_closed(peer)
      pass(select(1, link()), links[#links], request)
      proxy:lose_cancels(1, { hang = true })
      client, peer = link()
      assert(client:send(request))
      comes_nothing(peer)
      comes_nothing(client)
      pass(select(1, link()), links[#links], request)
    end)

    it("corrupts one byte of the answers", function()
      local client, peer = link()
      pass(peer, client, "before")
      proxy:corrupt(5)
      pass(client, peer, "0123456789")
      pass(peer, client, "012")
      peer:send("3456789")
      assert.equal("34" .. string.char(255 - ("5"):byte()) .. "6789", client:receive(7))
      pass(peer, client, "0123456789")
    end)

    it("closes a client's connection when the server is not there", function()
      target:close()
      os.remove(dir .. "/target.sock")
      local client = try_connect()
      is_closed(client)
    end)

    it("complains of what it does not understand", function()
      assert.error_matches(function()
        proxy:cut_after("many")
      end, "not a number: many")
    end)

    if is_tcp then
      it("resets", function()
        local client = support.connect { host = "127.0.0.1", port = proxy.port }
        links[1] = assert(target:accept())
        proxy:cut { reset = true }
        assert.same({ true, "reset" }, { client:closed(5) })
        client:close()
      end)
    end
  end)
end

describe("a test's proxy of a server", function()
  it("has a URL like the server's", function()
    with("postgres", { tls = true }, function(server)
      for _, is_tcp in ipairs { false, true } do
        local proxy = databases.proxy { target = server, tcp = is_tcp }
        local ok, output = pcall(service.run, { postgres.programs() .. "psql", "-XAtq", proxy.url,
          "-c", "select 'through'" })
        proxy:delay(0) -- it is the proxy
        assert.not_equal(is_tcp and server.tcp_url or server.url, proxy.url)
        proxy:stop()
        assert.same({ true, "through\n" }, { ok, output })
      end
    end)
  end)

  it("stands before MariaDB and Redis too", function()
    for _, name in ipairs { "mariadb", "redis" } do
      with(name, { tcp = true }, function(server)
        for _, is_tcp in ipairs { false, true } do
          local proxy = databases.proxy { target = server, tcp = is_tcp }
          local url = is_tcp and server.tcp_url:gsub(":" .. server.port, ":" .. proxy.port)
            or server:url_at(proxy.socket)
          local client = is_tcp and assert(socket.connect("127.0.0.1", proxy.port))
            or connect(proxy.socket)
          client:send(KINDS[name].hello)
          local byte = client:receive(1)
          client:close()
          proxy:stop()
          assert.same({ url, true }, { proxy.url, byte ~= nil })
        end
      end)
    end
  end)
end)
