-- What the scripts of the verbs begin with. KEYS: 1 epoch  2 row  3 log  4 ids  5 erased  6 due  7 key  8 owner  9 recent,
-- as far as the verb needs them. ARGV[1]: the epoch the driver was opened with.
-- A script has no rollback: everything that could fail is looked at before the first write.

local FIELDS = {'revision', 'born', 'head', 'at', 'recent', 'owner', 'due', 'claim', 'until'}

-- The row without its body, or nothing; and the refusal of the act, if it must be refused.
local function look()
  if redis.call('GET', KEYS[1]) ~= ARGV[1] then return nil, redis.error_reply('REPLACED epoch') end
  local found = redis.call('HMGET', KEYS[2], unpack(FIELDS))
  if found[1] and found[2] and tonumber(found[3]) then return found end
  if redis.call('EXISTS', KEYS[2]) == 1 then return nil, redis.error_reply('CORRUPT row') end
  if redis.call('EXISTS', KEYS[3]) == 1 then return nil, redis.error_reply('CORRUPT row') end
  return nil, nil
end

local function whole(found)
  if not found then return false end
  found[#FIELDS + 1] = redis.call('HGET', KEYS[2], 'body')
  return found
end

-- The first *limit* entries numbered low to high, behind the number of the first.
local function between(head, low, high, limit)
  local first = head - redis.call('LLEN', KEYS[3]) + 1
  low = math.max(low, first)
  high = math.min(high, head, low + limit - 1)
  if low > high then return {0, {}} end
  return {low, redis.call('LRANGE', KEYS[3], low - first, high - first)}
end

-- The numbers of the ids that are in the log; from *start* on, ARGV holds an id and an entry in turn.
local function known(start)
  local ids, numbers = {}, {}
  for n = start, #ARGV, 2 do
    if ARGV[n] ~= '' then ids[#ids + 1] = ARGV[n] end
  end
  if #ids > 0 then
    local found = redis.call('HMGET', KEYS[4], unpack(ids))
    for n, id in ipairs(ids) do
      if found[n] then numbers[id] = found[n] end
    end
  end
  return numbers
end

-- A table of Lua as an array; a reply must not be a table with names (one named "err" would be an error).
local function flat(numbers)
  local pairs_of = {}
  for id, number in pairs(numbers) do
    pairs_of[#pairs_of + 1] = id
    pairs_of[#pairs_of + 1] = number
  end
  return pairs_of
end

local function wake(due, till)
  if not due or due == '' then return false end
  if till and till ~= '' and tonumber(till) > tonumber(due) then return till end
  return due
end

-- Puts the row (its fields in the order of FIELDS, '' for none) and what is not *known* of the entries from *start* on.
local function put(found, row, body, member, start, numbers)
  local head, entries, ids = tonumber(row[3]), {}, {}
  for n = start, #ARGV, 2 do
    if not numbers[ARGV[n]] then
      head = head + 1
      entries[#entries + 1] = ARGV[n + 1]
      if ARGV[n] ~= '' then
        ids[#ids + 1] = ARGV[n]
        ids[#ids + 1] = string.format('%.0f', head)
      end
    end
  end
  row[3] = string.format('%.0f', head)

  -- On the common turn neither wake, owner nor recent has changed, and no index is touched.
  local places = {}
  local was, is = found and wake(found[7], found[9]) or false, wake(row[7], row[9])
  if was ~= is then places[#places + 1] = is and {'ZADD', KEYS[6], is, member} or {'ZREM', KEYS[6], member} end
  if not found then places[#places + 1] = {'ZADD', KEYS[7], 0, member} end
  local owner = found and found[6] or ''
  if owner ~= row[6] then
    if owner ~= '' then places[#places + 1] = {'ZREM', KEYS[8], owner .. '\0' .. member} end
    if row[6] ~= '' then places[#places + 1] = {'ZADD', KEYS[8], 0, row[6] .. '\0' .. member} end
  end
  if not found or found[5] ~= row[5] then places[#places + 1] = {'ZADD', KEYS[9], row[5], member} end

  local set, unset = {}, {}
  for n, name in ipairs(FIELDS) do
    if (found and found[n] or '') ~= row[n] then
      if row[n] == '' then
        unset[#unset + 1] = name
      else
        set[#set + 1] = name
        set[#set + 1] = row[n]
      end
    end
  end
  if body then
    set[#set + 1] = 'body'
    set[#set + 1] = body
  end

  redis.call('LLEN', KEYS[3])
  redis.call('HLEN', KEYS[4])
  for _, place in ipairs(places) do redis.call('ZCARD', place[2]) end
  -- From here on nothing is refused; a full server refuses the first of these, which is always one that needs memory.
  redis.call('HSET', KEYS[2], unpack(set))
  if #unset > 0 then redis.call('HDEL', KEYS[2], unpack(unset)) end
  if #entries > 0 then redis.call('RPUSH', KEYS[3], unpack(entries)) end
  if #ids > 0 then redis.call('HSET', KEYS[4], unpack(ids)) end
  for _, place in ipairs(places) do redis.call(unpack(place)) end
  return head
end
