-- KEYS: 1 meta.  ARGV: 1 the epoch that was seen ('' for none)  2 a new one  3 format  4 buckets.
-- Of several who open an empty store, one makes its epoch; all are told which.
if (redis.call('HGET', KEYS[1], 'epoch') or '') == ARGV[1] then
  redis.call('HSET', KEYS[1], 'epoch', ARGV[2], 'format', ARGV[3], 'buckets', ARGV[4])
end
return redis.call('HMGET', KEYS[1], 'epoch', 'format', 'buckets', 'copied')
