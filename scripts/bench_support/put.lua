-- The load that wrk runs, the same for every service: requests from a file in turn, and the id out of every answer.
--
-- Arguments: FILE of requests, one a line (method, path and body, parted by tabs); STATUS that an answer must have to count;
-- where its id is, "header" or "body"; the header's name, or a Lua pattern whose capture is the id; FOLDER for the ids.
-- Ids go to FOLDER/N.ids by thread, a line each. The last line of output is JSON: latencies and durations in microseconds.

local threads = {}

function setup(thread)
  thread:set("number", #threads + 1)
  table.insert(threads, thread)
end

function init(args)
  requests = {}
  for line in io.lines(args[1]) do
    local method, path, body = line:match("^(%S+)\t(%S+)\t(.*)$")
    table.insert(requests, wrk.format(method, path, nil, body))
  end
  expected, place, name = tonumber(args[2]), args[3], args[4]
  file = assert(io.open(args[5] .. "/" .. number .. ".ids", "w"))
  next_request = (number * 7919) % #requests
  pending, pending_size, strays = {}, 0, 0
end

function request()
  next_request = next_request + 1
  if next_request > #requests then next_request = 1 end
  return requests[next_request]
end

function response(status, headers, body)
  local id
  if status == expected then
    if place == "header" then id = headers[name] else id = body:match(name) end
  end
  if not id then
    strays = strays + 1
    return
  end
  pending_size = pending_size + 1
  pending[pending_size] = id
  if pending_size == 500 then
    file:write(table.concat(pending, "\n", 1, 500), "\n")
    file:flush()
    pending_size = 0
  end
end

function done(summary, latency, requests)
  local strays = 0
  for number, thread in ipairs(threads) do
    strays = strays + thread:get("strays")
    local pending, size = thread:get("pending"), thread:get("pending_size")
    for index = 1, size do io.write("id ", pending[index], "\n") end
  end
  local errors = summary.errors
  io.write(string.format(
    '{"requests": %d, "duration": %d, "strays": %d, "errors": %d, "p50": %d, "p99": %d, "max": %d}\n',
    summary.requests, summary.duration, strays, errors.connect + errors.read + errors.write + errors.status + errors.timeout,
    latency:percentile(50), latency:percentile(99), latency.max))
end
