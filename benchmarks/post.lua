-- Posts messages to N conversations in turn (1 unless told), by a service key that CHATKEEP_KEY has, rate limits off:
--   wrk -t1 -c16 -d10s --latency -s benchmarks/post.lua http://127.0.0.1:8765 -- N

local conversations, count = 1, 0

function init(args)
  conversations = tonumber(args[1]) or 1
  wrk.headers["authorization"] = "Bearer " .. assert(os.getenv("CHATKEEP_KEY"), "CHATKEEP_KEY has no service key")
  wrk.headers["content-type"] = "application/json"
end

function request()
  count = count + 1
  local path = "/v1/conversations/wrk-" .. count % conversations .. "/messages"
  return wrk.format("POST", path, nil, '{"content": "this is message ' .. count .. '"}')
end
