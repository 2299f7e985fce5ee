-- `fasterlua top`: what a running server does, from its admin listener, in a terminal.
--
--     local top = require "fasterlua.top"
--     local view = top.compare(top.parse(earlier), top.parse(later), 1)
--     print(table.concat(top.render(view, { columns = 100 }), "\n"))

local admin = require "fasterlua.core.admin_client"
local terminal = require "fasterlua.core.terminal"

local top = {}

local PATIENCE = 2 -- seconds for an answer
local BOLD, REVERSE, RED, PLAIN = "\27[1m", "\27[7m", "\27[31m", "\27[0m"

---@class fasterlua.top.Series
---@field key string its name and labels, as they were sent
---@field labels table<string, string>
---@field value number

---@class fasterlua.top.Metrics
---@field families table<string, fasterlua.top.Series[]> by name
---@field values table<string, number> by key
---@field buckets table<string, { bound: number, key: string }[]> of histograms, by key without `le`

---@class fasterlua.top.Times
---@field p50? number seconds
---@field p99? number

---@class fasterlua.top.Loop
---@field name string the number of its thread
---@field requests number per second
---@field connections number
---@field in_flight number
---@field lag number seconds
---@field heap number bytes

---@class fasterlua.top.Pool
---@field name string
---@field threads number
---@field busy number
---@field queued number
---@field retired number
---@field jobs number per second
---@field wait fasterlua.top.Times
---@field run fasterlua.top.Times

---@class fasterlua.top.Route
---@field name string
---@field total number since the process began
---@field requests number per second
---@field errors number 5xx per second
---@field times fasterlua.top.Times

---@class fasterlua.top.View
---@field process table<string, number|string|boolean>
---@field loops fasterlua.top.Loop[]
---@field pools fasterlua.top.Pool[]
---@field routes fasterlua.top.Route[]

-- Metrics

-- What a terminal would obey is none of a label's text.
local function unescape(text)
  local plain = text:gsub("\\(.)", function(letter)
    return letter == "n" and "?" or letter
  end)
  return (plain:gsub("%c", "?"))
end

local function parse_labels(text)
  local labels, at = {}, 1
  while true do
    local name, from = text:match('^,?([%w_]+)="()', at)
    if not name then
      return labels
    end
    local to = from
    while text:sub(to, to) ~= '"' and to <= #text do
      to = to + (text:sub(to, to) == "\\" and 2 or 1)
    end
    labels[name] = unescape(text:sub(from, to - 1))
    at = to + 1
  end
end

local function parse_value(text)
  return text == "+Inf" and math.huge or tonumber(text)
end

local function add_bucket(metrics, key, bound)
  local histogram = key:gsub(',?le="[^"]*"}$', "}")
  metrics.buckets[histogram] = metrics.buckets[histogram] or {}
  table.insert(metrics.buckets[histogram], { bound = parse_value(bound), key = key })
end

local function add_series(metrics, name, text, number)
  local key = name .. "{" .. text .. "}"
  local labels = parse_labels(text)
  metrics.values[key] = number
  if labels.le then
    return add_bucket(metrics, key, labels.le)
  end
  metrics.families[name] = metrics.families[name] or {}
  table.insert(metrics.families[name], { key = key, labels = labels, value = number })
end

--- Reads Prometheus' text format.
---@param text string
---@return fasterlua.top.Metrics
function top.parse(text)
  local metrics = { families = {}, values = {}, buckets = {} }
  for line in text:gmatch("[^\n]+") do
    local name, labels, number = line:match("^([%a_:][%w_:]*){(.*)} (%S+)$")
    if not name then
      name, number = line:match("^([%a_:][%w_:]*) (%S+)$")
    end
    number = name and parse_value(number)
    if number then
      add_series(metrics, name, labels or "", number)
    end
  end
  return metrics
end

local function series_of(metrics, name)
  return metrics.families[name] or {}
end

local function sum(metrics, name)
  local total = 0
  for _, series in ipairs(series_of(metrics, name)) do
    total = total + series.value
  end
  return total
end

-- A counter that went back belongs to a new process.
local function growth(before, after)
  return after >= before and after - before or after
end

local function rate(pair, name)
  return growth(sum(pair.before, name), sum(pair.after, name)) / pair.seconds
end

local function count_of(pair, key)
  return growth(pair.before.values[key] or 0, pair.after.values[key] or 0)
end

-- Histograms

--- By linear interpolation within the bucket; beyond the last bound it is that bound.
---@param buckets { bound: number, count: number }[] cumulated, in order
---@param share number 0.99
---@return number? # nil: nothing was counted
function top.percentile(buckets, share)
  local total = #buckets > 0 and buckets[#buckets].count or 0
  if total == 0 then
    return nil
  end
  local wanted, bound, count = share * total, 0, 0
  for _, bucket in ipairs(buckets) do
    if bucket.count >= wanted then
      if bucket.bound == math.huge or bucket.count == count then
        return bound
      end
      return bound + (bucket.bound - bound) * (wanted - count) / (bucket.count - count)
    end
    bound, count = bucket.bound, bucket.count
  end
  return bound
end

-- `labels`: as they were sent, in braces.
local function times_of(pair, name, labels)
  local buckets = {}
  for index, bucket in ipairs(pair.after.buckets[name .. "_bucket" .. labels] or {}) do
    buckets[index] = { bound = bucket.bound, count = count_of(pair, bucket.key) }
  end
  return { p50 = top.percentile(buckets, 0.5), p99 = top.percentile(buckets, 0.99) }
end

-- The view

local function view_process(pair)
  local after = pair.after
  local started = sum(after, "process_start_time_seconds")
  local build = series_of(after, "fasterlua_build_info")[1]
  return {
    version = build and build.labels.version or "?",
    started = started,
    cpu = rate(pair, "process_cpu_seconds_total"),
    memory = sum(after, "process_resident_memory_bytes"),
    descriptors = sum(after, "process_open_fds"),
    requests = rate(pair, "fasterlua_thread_requests_total"),
    errors = 0,
    in_flight = sum(after, "fasterlua_requests_in_flight"),
    connections = sum(after, "fasterlua_connections"),
    tasks = sum(after, "fasterlua_tasks"),
    received = rate(pair, "fasterlua_bytes_received_total"),
    sent = rate(pair, "fasterlua_bytes_sent_total"),
    shed = rate(pair, "fasterlua_requests_shed_total"),
    heap = sum(after, "fasterlua_lua_memory_bytes"),
    restarts = sum(after, "fasterlua_restarts_total"),
    evacuations = sum(after, "fasterlua_evacuations_total"),
    slow = sum(after, "fasterlua_slow_handlers_total"),
    dropped = sum(after, "fasterlua_log_dropped_total"),
  }
end

local function view_loops(pair)
  local loops = {}
  for _, series in ipairs(series_of(pair.after, "fasterlua_thread_requests_total")) do
    local labels = series.key:match("{.*}$")
    local function value(name)
      return pair.after.values[name .. labels] or 0
    end
    loops[#loops + 1] = {
      name = series.labels.thread,
      requests = count_of(pair, series.key) / pair.seconds,
      connections = value("fasterlua_connections"),
      in_flight = value("fasterlua_thread_requests_in_flight"),
      lag = value("fasterlua_loop_lag_seconds"),
      heap = value("fasterlua_lua_memory_bytes"),
    }
  end
  return loops
end

-- Jobs that have run, whatever came of them.
local function jobs_of(pair, labels)
  local jobs = 0
  for _, outcome in ipairs { "completed", "failed", "timed_out", "cancelled" } do
    jobs = jobs + count_of(pair, ('fasterlua_pool_jobs_total%s,outcome="%s"}')
      :format(labels:sub(1, -2), outcome))
  end
  return jobs / pair.seconds
end

local function view_pools(pair)
  local pools = {}
  for _, series in ipairs(series_of(pair.after, "fasterlua_pool_threads")) do
    local app, labels = series.labels.app or "", series.key:match("{.*}$")
    local function value(name)
      return pair.after.values[name .. labels] or 0
    end
    pools[#pools + 1] = {
      name = (app == "" and "" or app .. "/") .. (series.labels.pool or "?"),
      threads = series.value,
      busy = value("fasterlua_pool_busy"),
      queued = value("fasterlua_pool_queued"),
      retired = value("fasterlua_pool_retired"),
      jobs = jobs_of(pair, labels),
      wait = times_of(pair, "fasterlua_pool_wait_seconds", labels),
      run = times_of(pair, "fasterlua_pool_run_seconds", labels),
    }
  end
  return pools
end

local function route_name(labels)
  local app = labels.app or ""
  local name = ("%s %s"):format(labels.method or "", labels.route or "")
  return (app == "" and "" or app .. "  ") .. (name:find("%S") and name or "(no route)")
end

-- Answers with a status of 500 and more, by the labels of their route.
local function errors_of(pair)
  local errors = {}
  for _, series in ipairs(series_of(pair.after, "fasterlua_requests_total")) do
    if (series.labels.status or ""):sub(1, 1) == "5" then
      local labels = series.key:match("{.*}$"):gsub(',?status="[^"]*"}$', "}")
      errors[labels] = (errors[labels] or 0) + count_of(pair, series.key) / pair.seconds
    end
  end
  return errors
end

local function view_routes(pair)
  local routes, errors = {}, errors_of(pair)
  local name = "fasterlua_request_duration_seconds"
  for _, series in ipairs(series_of(pair.after, name .. "_count")) do
    local labels = series.key:match("{.*}$")
    routes[#routes + 1] = {
      name = route_name(series.labels),
      total = series.value,
      requests = count_of(pair, series.key) / pair.seconds,
      errors = errors[labels] or 0,
      times = times_of(pair, name, labels),
    }
  end
  return routes
end

--- What happened between two readings.
---@param before fasterlua.top.Metrics
---@param after fasterlua.top.Metrics
---@param seconds number between them
---@return fasterlua.top.View
function top.compare(before, after, seconds)
  local start = "process_start_time_seconds"
  local is_new = sum(before, start) ~= sum(after, start)
  local pair = { before = is_new and top.parse("") or before, after = after, seconds = seconds }
  local view = { process = view_process(pair), loops = view_loops(pair),
    pools = view_pools(pair), routes = view_routes(pair) }
  view.process.is_new = is_new
  for _, route in ipairs(view.routes) do
    view.process.errors = view.process.errors + route.errors
  end
  return view
end

-- Text

local function format_bytes(bytes)
  for _, unit in ipairs { { 2 ^ 30, "GB" }, { 2 ^ 20, "MB" }, { 2 ^ 10, "KB" } } do
    if bytes >= unit[1] then
      return ("%.1f %s"):format(bytes / unit[1], unit[2])
    end
  end
  return ("%d B"):format(bytes)
end

local function format_time(seconds)
  if not seconds then
    return "-"
  elseif seconds >= 1 then
    return ("%.2f s"):format(seconds)
  elseif seconds >= 0.01 then
    return ("%.0f ms"):format(seconds * 1e3)
  elseif seconds >= 0.001 then
    return ("%.1f ms"):format(seconds * 1e3)
  end
  return ("%.0f us"):format(seconds * 1e6)
end

local function format_rate(number)
  return number >= 100 and ("%.0f"):format(number) or ("%.1f"):format(number)
end

local function format_duration(seconds)
  local days, hours = math.floor(seconds / 86400), math.floor(seconds / 3600) % 24
  local minutes = math.floor(seconds / 60) % 60
  if days > 0 then
    return ("%dd %dh"):format(days, hours)
  elseif hours > 0 then
    return ("%dh %dm"):format(hours, minutes)
  end
  return ("%dm %ds"):format(minutes, seconds % 60)
end

-- Counts code points: a name in another script is not cut within a letter.
local function clip(text, width)
  local _, length = text:gsub("[^\128-\191]", "")
  if length <= width then
    return text .. (" "):rep(width - length)
  end
  local part, count = {}, 0
  for letter in text:gmatch("[%z\1-\127\194-\244][\128-\191]*") do
    count = count + 1
    if count >= width then
      break
    end
    part[count] = letter
  end
  return table.concat(part) .. (width > 0 and "~" or "")
end

---@class fasterlua.top.Column
---@field title string
---@field width integer
---@field get fun(row: table): string
---@field is_alarming? fun(row: table): boolean

local loop_columns = {
  { "REQ/S", 9, function(loop) return format_rate(loop.requests) end },
  { "CONNECTIONS", 12, function(loop) return loop.connections end },
  { "IN FLIGHT", 10, function(loop) return loop.in_flight end },
  { "LAG", 9, function(loop) return format_time(loop.lag) end,
    function(loop) return loop.lag > 0.1 end },
  { "HEAP", 10, function(loop) return format_bytes(loop.heap) end },
}

local pool_columns = {
  { "THREADS", 8, function(pool) return pool.threads end },
  { "BUSY", 6, function(pool) return pool.busy end },
  { "QUEUED", 7, function(pool) return pool.queued end },
  { "RETIRED", 8, function(pool) return pool.retired end,
    function(pool) return pool.retired > 0 end },
  { "JOBS/S", 8, function(pool) return format_rate(pool.jobs) end },
  { "WAIT p50", 9, function(pool) return format_time(pool.wait.p50) end },
  { "p99", 8, function(pool) return format_time(pool.wait.p99) end },
  { "RUN p50", 8, function(pool) return format_time(pool.run.p50) end },
  { "p99", 8, function(pool) return format_time(pool.run.p99) end },
}

local route_columns = {
  { "REQ/S", 9, function(route) return format_rate(route.requests) end },
  { "p50", 8, function(route) return format_time(route.times.p50) end },
  { "p99", 8, function(route) return format_time(route.times.p99) end },
  { "5xx/S", 7, function(route) return format_rate(route.errors) end,
    function(route) return route.errors > 0 end },
  { "TOTAL", 11, function(route) return ("%d"):format(route.total) end },
}

local function paint(text, style, options)
  return options.has_colours and style .. text .. PLAIN or text
end

-- Columns that find no room are left out, from the right.
local function room_for(columns, name_width, width)
  local count, used = 0, name_width
  for _, column in ipairs(columns) do
    used = used + 1 + column[2]
    if used > width then
      break
    end
    count = count + 1
  end
  return count
end

local function format_row(name, row, columns, count, options)
  local cells = { name }
  for index = 1, count do
    local column = columns[index]
    local text = ("%" .. column[2] .. "s"):format(row and tostring(column[3](row)) or column[1])
    local is_alarming = row and column[4] and column[4](row)
    cells[#cells + 1] = is_alarming and paint(text, RED, options) or text
  end
  return table.concat(cells, " ")
end

-- A heading and at most `limit` rows.
local function add_table(lines, title, rows, columns, limit, options)
  if #rows == 0 or limit < 1 then
    return
  end
  local name_width = options.columns
  for _, column in ipairs(columns) do
    name_width = name_width - 1 - column[2]
  end
  name_width = math.max(math.min(16, options.columns), math.min(44, name_width))
  local count = room_for(columns, name_width, options.columns)
  local heading = format_row(clip(title, name_width), nil, columns, count, options)
  lines[#lines + 1] = ""
  if options.has_colours then
    heading = paint(clip(heading, options.columns), REVERSE, options)
  end
  lines[#lines + 1] = heading
  local shown = #rows > limit and limit - 1 or #rows
  for index = 1, shown do
    local row = rows[index]
    lines[#lines + 1] = format_row(clip(row.name, name_width), row, columns, count, options)
  end
  if shown < #rows then
    lines[#lines + 1] = ("... and %d more"):format(#rows - shown)
  end
end

local orders = {
  r = { title = "requests", get = function(route) return route.requests end },
  p = { title = "p99", get = function(route) return route.times.p99 or -1 end },
  s = { title = "server errors", get = function(route) return route.errors end },
}

local function sort_routes(routes, key)
  local get = orders[key].get
  table.sort(routes, function(a, b)
    local first, second = get(a), get(b)
    if first ~= second then
      return first > second
    elseif a.total ~= b.total then
      return a.total > b.total
    end
    return a.name < b.name
  end)
end

local function add_words(lines, words, options)
  lines[#lines + 1] = clip(table.concat(words, "   "), options.columns):gsub("%s+$", "")
end

local function add_summary(lines, view, options)
  local process = view.process
  local up = process.started > 0 and os.time() - process.started or 0
  lines[#lines + 1] = paint(clip(("fasterlua %s at %s"):format(process.version,
    options.address or "?"), options.columns):gsub("%s+$", ""), BOLD, options)
  add_words(lines, { "up " .. format_duration(math.max(0, up)),
    ("cpu %.0f %%"):format(process.cpu * 100), "memory " .. format_bytes(process.memory),
    "Lua heaps " .. format_bytes(process.heap), ("%d descriptors"):format(process.descriptors),
    ("%d tasks"):format(process.tasks) }, options)
  local errors = ("%s errors/s"):format(format_rate(process.errors))
  add_words(lines, { format_rate(process.requests) .. " requests/s", errors,
    ("%d in flight"):format(process.in_flight), ("%d connections"):format(process.connections),
    "in " .. format_bytes(process.received) .. "/s", "out " .. format_bytes(process.sent) .. "/s" },
    options)
  add_words(lines, { ("%d restarts"):format(process.restarts),
    ("%d evacuations"):format(process.evacuations), ("%d slow handlers"):format(process.slow),
    format_rate(process.shed) .. " shed/s", ("%d log lines dropped"):format(process.dropped) },
    options)
end

---@class fasterlua.top.Options
---@field columns integer
---@field rows? integer nil: as many as there are
---@field has_colours? boolean
---@field sort? "r"|"p"|"s"
---@field address? string
---@field note? string what is the matter

--- The lines of a screen.
---@param view fasterlua.top.View
---@param options fasterlua.top.Options
---@return string[]
function top.render(view, options)
  local lines, rows = {}, options.rows or math.huge
  local key = options.sort or "r"
  sort_routes(view.routes, key)
  add_summary(lines, view, options)
  if options.note then
    lines[#lines + 1] = paint(clip(options.note, options.columns):gsub("%s+$", ""), RED, options)
  end
  local third = math.floor((rows - #lines) / 3)
  add_table(lines, "LOOP", view.loops, loop_columns, third - 2, options)
  add_table(lines, "POOL", view.pools, pool_columns, third - 2, options)
  local title = "ROUTE, by " .. orders[key].title
  add_table(lines, title, view.routes, route_columns, rows - #lines - 3, options)
  if options.rows then
    while #lines < rows - 1 do
      lines[#lines + 1] = ""
    end
    lines[rows] = clip("q quit   sort by: r requests  p p99  s server errors", options.columns)
    lines[rows + 1] = nil
  end
  return lines
end

-- Running

local function fetch(address)
  local status, body = admin.request(address, "GET", "/metrics", PATIENCE)
  if status == 200 then
    return { at = terminal.now(), metrics = top.parse(body) }
  end
  return nil, status and ("status %d: %s"):format(status, body) or body
end

local function unreachable(address, problem)
  return ("no answer at %s: %s\nIs that the address of `fasterlua serve --admin ADDRESS`?")
    :format(address, problem)
end

local function view_of(before, after)
  return top.compare(before.metrics, after.metrics, math.max(after.at - before.at, 0.001))
end

--- One screen as plain text, after one interval.
---@param address string
---@param interval number seconds
---@return string? text
---@return string? message
function top.once(address, interval)
  local before, problem = fetch(address)
  if not before then
    return nil, unreachable(address, problem)
  end
  terminal.sleep(interval)
  local after
  after, problem = fetch(address)
  if not after then
    return nil, unreachable(address, problem)
  end
  local lines = top.render(view_of(before, after), { columns = 120, address = address })
  return table.concat(lines, "\n")
end

local function draw(screen, self)
  local columns, rows = screen:size()
  local lines = top.render(self.view, { columns = columns, rows = rows, sort = self.sort,
    has_colours = self.has_colours, address = self.address, note = self.note })
  for index, line in ipairs(lines) do
    lines[index] = line .. "\27[K"
  end
  screen:write("\27[H" .. table.concat(lines, "\n") .. "\27[J")
end

-- A server that does not answer may come back: what was seen last stays.
local function refresh(self)
  local reading, problem = fetch(self.address)
  if not reading then
    self.lost_at = self.lost_at or terminal.now()
    self.note = ("no answer: %s, for %s"):format(problem,
      format_duration(terminal.now() - self.lost_at))
    return
  end
  self.view = view_of(self.reading, reading)
  self.note = nil
  if self.view.process.is_new or self.lost_at then
    self.restarted_at = os.date("%H:%M:%S")
  end
  if self.restarted_at then
    self.note = "the server was started anew at " .. self.restarted_at
  end
  self.reading, self.lost_at = reading, nil
end

-- Waits out the interval, obeying keys. False: to be left.
local function obey(screen, self)
  local till = terminal.now() + self.interval
  while true do
    local what, key = screen:wait(math.max(0, till - terminal.now()))
    if what == "quit" or key == "q" or key == "Q" then
      return false
    elseif what == "nothing" and terminal.now() >= till then
      return true
    elseif orders[key] then
      self.sort = key
    end
    draw(screen, self)
  end
end

local function watch(screen, self)
  draw(screen, self)
  while obey(screen, self) do
    refresh(self)
    draw(screen, self)
  end
end

--- The screen until it is left.
---@param address string
---@param interval number seconds
---@return boolean? done
---@return string? message
function top.run(address, interval)
  local reading, problem = fetch(address)
  if not reading then
    return nil, unreachable(address, problem)
  end
  local self = { address = address, interval = interval, sort = "r", reading = reading,
    view = top.compare(reading.metrics, reading.metrics, interval),
    has_colours = os.getenv("NO_COLOR") == nil }
  local screen, reason = terminal.open()
  if not screen then
    return nil, reason
  end
  local is_done, failure = xpcall(watch, debug.traceback, screen, self)
  screen:close()
  if not is_done then
    return nil, failure
  end
  return true
end

return top
