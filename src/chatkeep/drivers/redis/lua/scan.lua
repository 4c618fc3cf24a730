-- KEYS: the epochs of some buckets, then as many indexes.  ARGV: 1 epoch  2 limit  3 "names", then 4 min  5 max: members in
-- their own order; or "scores", then 4 until  5 score  6 member to go on behind ('' for neither)  7 what members must begin
-- with: member, score, member, score ... by both.  Answers a page for each bucket, with *limit* members at most.
local buckets = #KEYS / 2
for n = 1, buckets do
  if redis.call('GET', KEYS[n]) ~= ARGV[1] then return redis.error_reply('REPLACED epoch') end
end
local limit = tonumber(ARGV[2])

-- Byte by byte: what Lua calls less depends on the server's locale, a sorted set's order does not.
local function less(a, b)
  for n = 1, math.min(#a, #b) do
    local x, y = string.byte(a, n), string.byte(b, n)
    if x ~= y then return x < y end
  end
  return #a < #b
end

local function page_of(index)
  if ARGV[3] == 'names' then return redis.call('ZRANGEBYLEX', index, ARGV[4], ARGV[5], 'LIMIT', 0, limit) end
  local place, stop = 0, redis.call('ZCOUNT', index, '-inf', ARGV[4])
  if ARGV[6] ~= '' then
    -- Where to go on, found by halves: many members may share a score, and the one shown last may be gone.
    local score, high = tonumber(ARGV[5]), stop
    while place < high do
      local middle = math.floor((place + high) / 2)
      local at = redis.call('ZRANGE', index, middle, middle, 'WITHSCORES')
      local found = tonumber(at[2])
      if found > score or (found == score and less(ARGV[6], at[1])) then high = middle else place = middle + 1 end
    end
  end
  local page, size = {}, #ARGV[7]
  local step = size > 0 and math.max(limit, 100) or limit
  while place < stop and #page < 2 * limit do
    local some = redis.call('ZRANGE', index, place, math.min(place + step, stop) - 1, 'WITHSCORES')
    for n = 1, #some, 2 do
      if string.sub(some[n], 1, size) == ARGV[7] and #page < 2 * limit then
        page[#page + 1] = some[n]
        page[#page + 1] = some[n + 1]
      end
    end
    place = place + step
  end
  return page
end

local pages = {}
for n = 1, buckets do pages[n] = page_of(KEYS[buckets + n]) end
return pages
