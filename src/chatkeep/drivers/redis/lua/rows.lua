-- KEYS: the epochs of some buckets, then rows of theirs.  ARGV: 1 epoch  2 how many epochs  3 '' for whole rows, or the one
-- field that is asked for.
-- Answers each row, or nothing for one that is gone or damaged: what it is then, READ tells.
local epochs, fields, rows = tonumber(ARGV[2]), {}, {}
for n = 1, epochs do
  if redis.call('GET', KEYS[n]) ~= ARGV[1] then return redis.error_reply('REPLACED epoch') end
end
for n, name in ipairs(FIELDS) do fields[n] = name end
fields[#fields + 1] = 'body'
if ARGV[3] ~= '' then
  for n = epochs + 1, #KEYS do
    local found = redis.pcall('HGET', KEYS[n], ARGV[3])
    rows[#rows + 1] = type(found) == 'string' and found or false
  end
  return rows
end
for n = epochs + 1, #KEYS do
  local found = redis.pcall('HMGET', KEYS[n], unpack(fields))
  rows[#rows + 1] = not found.err and found[1] and found[2] and tonumber(found[3]) and found or false
end
return rows
