-- KEYS: 1 a name that nothing uses.  Answers what the user may not do: on a string, each command is refused anyway, and how
-- tells whether it was allowed. Nothing is left behind.
local forbidden = {}
local function try(...)
  local said = redis.pcall(...)
  local words = type(said) == 'table' and said.err or ''
  if string.find(words, "can't run") or string.find(words, "can't access") or string.find(words, 'NOPERM')
    or string.find(words, 'no permissions') or string.find(words, 'No permissions') then
    forbidden[#forbidden + 1] = string.lower((...))
    return false
  end
  return true
end
if try('DEL', KEYS[1]) then
  try('SET', KEYS[1], '')
  for _, command in ipairs({
    {'HSET', KEYS[1], 'a', 'b'}, {'HDEL', KEYS[1], 'a'}, {'HMGET', KEYS[1], 'a'}, {'HGET', KEYS[1], 'a'}, {'HLEN', KEYS[1]},
    {'RPUSH', KEYS[1], 'a'}, {'LTRIM', KEYS[1], 0, -1}, {'LRANGE', KEYS[1], 0, 0}, {'LLEN', KEYS[1]},
    {'ZADD', KEYS[1], 0, 'a'}, {'ZREM', KEYS[1], 'a'}, {'ZSCORE', KEYS[1], 'a'}, {'ZCARD', KEYS[1]},
    {'ZCOUNT', KEYS[1], '-inf', '+inf'}, {'ZRANGE', KEYS[1], 0, 0}, {'ZRANGEBYSCORE', KEYS[1], '-inf', '+inf'},
    {'ZRANGEBYLEX', KEYS[1], '-', '+'}, {'GET', KEYS[1]}, {'EXISTS', KEYS[1]},
  }) do try(unpack(command)) end
  redis.call('DEL', KEYS[1])
end
return forbidden
