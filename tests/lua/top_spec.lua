local top = require "fasterlua.top"

local function histogram(name, labels, counts)
  local lines = {}
  for index, bound in ipairs { "0.001", "0.01", "0.1", "+Inf" } do
    lines[index] = ('%s_bucket{%s,le="%s"} %d'):format(name, labels, bound, counts[index])
  end
  lines[#lines + 1] = ("%s_sum{%s} 1.5"):format(name, labels)
  lines[#lines + 1] = ("%s_count{%s} %d"):format(name, labels, counts[4])
  return table.concat(lines, "\n") .. "\n"
end

local duration = "fasterlua_request_duration_seconds"
local items = 'app="shop",method="GET",route="/items/{id}"'
local odd = 'app="shop",method="GET",route="/\\"a\\\\,b}\\n"'

local function reading(requests, counts, start)
  return top.parse("# HELP x y\n# TYPE x counter\n"
    .. ('fasterlua_thread_requests_total{thread="0"} %d\n'):format(requests)
    .. 'fasterlua_thread_requests_total{thread="1"} 5\n'
    .. 'fasterlua_connections{thread="0"} 7\nfasterlua_connections{thread="1"} 1\n'
    .. 'fasterlua_thread_requests_in_flight{thread="0"} 3\n'
    .. 'fasterlua_loop_lag_seconds{thread="0"} 0.25\n'
    .. 'fasterlua_lua_memory_bytes{thread="0"} 1048576\n'
    .. histogram(duration, items, counts) .. histogram(duration, odd, { 0, 0, 0, 1 })
    .. ('fasterlua_requests_total{%s,status="200"} %d\n'):format(items, counts[4])
    .. ('fasterlua_requests_total{%s,status="500"} %d\n'):format(items, counts[1])
    .. ('process_start_time_seconds %d\n'):format(start or 100)
    .. 'fasterlua_build_info{version="1.2.3"} 1\n'
    .. 'fasterlua_pool_threads{app="",pool="cpu"} 2\n'
    .. 'fasterlua_pool_threads{app="shop",pool="two"} 4\n'
    .. 'fasterlua_pool_busy{app="shop",pool="two"} 3\n'
    .. 'fasterlua_pool_queued{app="shop",pool="two"} 9\n'
    .. ('fasterlua_pool_jobs_total{app="shop",pool="two",outcome="completed"} %d\n')
      :format(requests)
    .. 'fasterlua_pool_jobs_total{app="shop",pool="two",outcome="refused"} 1000000\n'
    .. histogram("fasterlua_pool_run_seconds", 'app="shop",pool="two"', counts))
end

local before = reading(100, { 0, 10, 10, 10 })
local after = reading(300, { 0, 10, 110, 210 })
local view = top.compare(before, after, 2)

describe("top", function()
  it("takes rates from differences and gauges as they are", function()
    assert.equal(100, view.process.requests)
    assert.equal("1.2.3", view.process.version)
    assert.is_false(view.process.is_new)
    assert.same({ name = "0", requests = 100, connections = 7, in_flight = 3, lag = 0.25,
      heap = 1048576 }, view.loops[1])
    assert.equal(0, view.loops[2].requests)
  end)

  it("knows the routes, with the times of what came meanwhile", function()
    local route = view.routes[1]
    assert.equal("shop  GET /items/{id}", route.name)
    assert.equal(100, route.requests)
    assert.equal(0, route.errors)
    assert.near(0.1, route.times.p50, 1e-9) -- 100 of 200 lie up to there, and none below 10 ms
    assert.equal(0.1, route.times.p99) -- beyond the last bound it is that bound
    assert.same({}, view.routes[2].times)
  end)

  it("reads labels with any text, and shows nothing that a terminal obeys", function()
    assert.equal('shop  GET /"a\\,b}?', view.routes[2].name)
    local metrics = top.parse('fasterlua_build_info{version="\27[2J"} 1\n')
    assert.equal("?[2J", metrics.families.fasterlua_build_info[1].labels.version)
  end)

  it("knows the pools", function()
    assert.equal("cpu", view.pools[1].name)
    local pool = view.pools[2]
    assert.equal("shop/two", pool.name)
    assert.same({ 4, 3, 9, 100 }, { pool.threads, pool.busy, pool.queued, pool.jobs })
    assert.near(0.1, pool.run.p50, 1e-9)
    assert.is_nil(pool.wait.p50)
  end)

  it("counts from zero after the process was replaced", function()
    local new = top.compare(after, reading(50, { 0, 0, 20, 20 }, 200), 1)
    assert.is_true(new.process.is_new)
    assert.equal(55, new.process.requests)
    assert.equal(20, new.routes[1].requests)
    new = top.compare(reading(1, { 0, 0, 1, 1 }), reading(50, { 0, 0, 20, 20 }, 200), 1)
    assert.equal(20, new.routes[1].requests)
  end)

  it("counts errors", function()
    local broken = top.compare(before, reading(300, { 8, 10, 110, 210 }), 2)
    assert.equal(4, broken.routes[1].errors)
    assert.equal(4, broken.process.errors)
  end)

  it("interpolates percentiles", function()
    local buckets = { { bound = 1, count = 50 }, { bound = 2, count = 100 },
      { bound = math.huge, count = 100 } }
    assert.equal(1, top.percentile(buckets, 0.5))
    assert.equal(1.5, top.percentile(buckets, 0.75))
    assert.equal(0.5, top.percentile(buckets, 0.25))
    assert.is_nil(top.percentile({}, 0.5))
    assert.is_nil(top.percentile({ { bound = math.huge, count = 0 } }, 0.5))
  end)

  it("fills a screen exactly, whatever its size", function()
    for _, size in ipairs { { 80, 24 }, { 120, 50 }, { 40, 10 }, { 20, 5 }, { 300, 100 } } do
      local lines = top.render(view, { columns = size[1], rows = size[2] })
      assert.equal(size[2], #lines, size[2] .. " rows")
      for _, line in ipairs(lines) do
        assert.is_true(#line <= size[1], ("%d columns: %s"):format(size[1], line))
      end
    end
  end)

  it("says when there is more than the screen holds", function()
    local many = top.compare(before, after, 2)
    for index = 1, 100 do
      many.routes[index] = { name = "GET /" .. index, total = 1, requests = index, errors = 0,
        times = { p99 = 1 / index } }
    end
    local text = table.concat(top.render(many, { columns = 100, rows = 30 }), "\n")
    assert.matches("%.%.%. and %d+ more", text)
    assert.matches("GET /100 ", text)
    assert.is_nil(text:find("GET /1 ", 1, true))
    text = table.concat(top.render(many, { columns = 100, rows = 30, sort = "p" }), "\n")
    assert.matches("GET /1 ", text)
    assert.is_nil(text:find("GET /100 ", 1, true))
  end)

  it("paints only when it is told to", function()
    local plain = table.concat(top.render(view, { columns = 100, rows = 24 }))
    assert.is_nil(plain:find("\27", 1, true))
    local painted = table.concat(top.render(view, { columns = 100, rows = 24, has_colours = true }))
    assert.truthy(painted:find("\27[31m   250 ms", 1, true))
  end)

  it("cuts names between letters", function()
    view.routes[1].name = ("\195\169"):rep(100)
    local text = table.concat(top.render(view, { columns = 80 }), "\n")
    assert.matches("\n" .. ("\195\169"):rep(31) .. "~ ", text)
  end)
end)
