-- ARGV: 2 member  3 mark  4 at  5 the time before which marks may be forgotten
--       6 '=' and the only revision that may be erased, or '' for any.  Answers 1, or the row of another revision.
-- A damaged row is erased like any other, unless by its revision.
if ARGV[6] ~= '' then
  local there, refusal = look()
  if refusal then return refusal end
  if there and '=' .. there[1] ~= ARGV[6] then return whole(there) end
end
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return redis.error_reply('REPLACED epoch') end
local found = redis.pcall('HMGET', KEYS[2], 'at', 'owner')
if found.err then found = {} end -- what is there is no row, which is damage too
local at = ARGV[4]
for _, other in ipairs({found[1] or at, redis.call('ZSCORE', KEYS[5], ARGV[3]) or at}) do
  if (tonumber(other) or 0) > tonumber(at) then at = other end
end
for n = 5, 9 do redis.call('ZCARD', KEYS[n]) end

-- What frees memory comes first: so an erasure is done by a full server too, if there is anything to erase.
redis.call('DEL', KEYS[2], KEYS[3], KEYS[4])
redis.call('ZREM', KEYS[6], ARGV[2])
redis.call('ZREM', KEYS[7], ARGV[2])
if found[2] then redis.call('ZREM', KEYS[8], found[2] .. '\0' .. ARGV[2]) end
redis.call('ZREM', KEYS[9], ARGV[2])
if ARGV[6] == '' or not found[1] or (tonumber(found[1]) or 0) >= tonumber(ARGV[5]) then redis.call('ZADD', KEYS[5], at, ARGV[3]) end
local old = redis.call('ZRANGEBYSCORE', KEYS[5], '-inf', '(' .. ARGV[5], 'LIMIT', 0, 100)
if #old > 0 then redis.call('ZREM', KEYS[5], unpack(old)) end
return 1
