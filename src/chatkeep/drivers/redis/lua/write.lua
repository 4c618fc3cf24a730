-- ARGV: 2 member  3 mark  4 since  5 revision  6 at  7 recent  8 owner  9 due  10 claim  11 until  12 born  13 head  14 body
--       15 drop  16 '=' and the revision to be replaced, or '' to create  17 numbers of the entries that lose their bodies
--       18.. id, entry
-- Answers the new head, or {"done" | "duplicate" | "conflict", row, entries, numbers of known ids}, or {"erased", mark}.
local found, refusal = look()
if refusal then return refusal end
local creates = ARGV[16] == ''
local numbers = {}
if found then
  if found[1] == ARGV[5] then return {'done', whole(found)} end
  numbers = known(18)
  local verdict = next(numbers) and 'duplicate'
    or (creates or '=' .. found[1] ~= ARGV[16] or found[2] ~= ARGV[12]) and 'conflict'
  if verdict then
    local head = tonumber(found[3])
    return {verdict, whole(found), between(head, tonumber(ARGV[4]) + 1, head, 200), flat(numbers)}
  end
else
  local erased = redis.call('ZSCORE', KEYS[5], ARGV[3])
  if not creates or (erased and tonumber(erased) >= tonumber(ARGV[6])) then return {'erased', erased} end
end

local row = {ARGV[5], ARGV[12], found and found[3] or ARGV[13], ARGV[6], ARGV[7], ARGV[8], ARGV[9], ARGV[10], ARGV[11]}
local head = put(found, row, ARGV[14], ARGV[2], 18, numbers)

-- Retention: entries numbered up to *drop* go, and their ids are free again.
local gone = math.min(tonumber(ARGV[15]), head) - (head - redis.call('LLEN', KEYS[3]))
for low = 0, gone - 1, 500 do
  local ids = {}
  for _, entry in ipairs(redis.call('LRANGE', KEYS[3], low, math.min(low + 499, gone - 1))) do
    local size, start = string.match(entry, '^(%d+):%d+:()')
    if size and size ~= '0' then ids[#ids + 1] = string.sub(entry, start, start + size - 1) end
  end
  if #ids > 0 then redis.call('HDEL', KEYS[4], unpack(ids)) end
end
if gone > 0 then redis.call('LTRIM', KEYS[3], gone, -1) end

local first = ARGV[17] ~= '' and head - redis.call('LLEN', KEYS[3]) + 1
for number in string.gmatch(ARGV[17], '%S+') do
  local place = tonumber(number) - first
  local entry = place >= 0 and redis.call('LINDEX', KEYS[3], place)
  local id, role, start = string.match(entry or '', '^(%d+):(%d+):()')
  if id then redis.call('LSET', KEYS[3], place, string.sub(entry, 1, start + tonumber(id) + tonumber(role) - 1)) end
end
return head
