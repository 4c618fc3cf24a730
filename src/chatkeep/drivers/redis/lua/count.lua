-- KEYS: 1 a counter, "HITS ENDS".  ARGV: 1 window  2 at  3 cost  4 milliseconds to keep it.  Answers hits, ends.
local window, at, cost = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local hits, ends = string.match(redis.call('GET', KEYS[1]) or '', '^(%d+) (%S+)$')
hits, ends = tonumber(hits), tonumber(ends)
if not ends or ends <= at then hits, ends = 0, at + window end
ends = math.min(ends, at + window)
hits = hits + cost
local told = string.format('%.17g', ends)
redis.call('SET', KEYS[1], string.format('%d ', hits) .. told, 'PX', ARGV[4])
return {hits, told}
