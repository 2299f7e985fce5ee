-- Runs inside wrk: sends one fixed request, or a batch of them, and prints the result as one JSON
-- line. wrk gets, after the URL: METHOD, DEPTH of the pipeline, BODY.
--
--     wrk -t2 -c64 -d3s -s wrk.lua http://127.0.0.1:8000/plaintext -- GET 16

-- luacheck: globals wrk init done
local result = [[{"requests":%d,"seconds":%.6f,"p50":%.6f,"p99":%.6f,"failed":%d}]]

-- Replacing wrk.format instead of defining `request` keeps the request static: wrk formats it once
-- and calls no Lua per request, so the client takes little of the CPU it shares with the server.
function init(args)
  local depth = tonumber(args[2]) or 1
  wrk.method = args[1] or "GET"
  if args[3] then
    wrk.body = args[3]
    wrk.headers["Content-Type"] = "application/json"
  end
  local batch = wrk.format():rep(depth)
  wrk.format = function() return batch end
end

function done(summary, latency)
  local errors = summary.errors
  local failed = errors.connect + errors.read + errors.write + errors.status + errors.timeout
  print(result:format(summary.requests, summary.duration / 1e6, latency:percentile(50) / 1e6,
    latency:percentile(99) / 1e6, failed))
end
