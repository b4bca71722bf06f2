-- wrk script: posts the file `-- BODY` repeatedly, and prints the result as one line of JSON.

wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"

function init(arguments)
  local file = assert(io.open(arguments[1], "rb"))
  wrk.body = file:read("*a")
  file:close()
end

function done(summary, latency)
  local errors = summary.errors
  io.write(string.format(
    'LOAD {"requests":%d,"bytes":%d,"p50_us":%d,"p99_us":%d,"refused":%d,"failed":%d}\n',
    summary.requests, summary.bytes, latency:percentile(50), latency:percentile(99),
    errors.status, errors.connect + errors.read + errors.write + errors.timeout))
end
