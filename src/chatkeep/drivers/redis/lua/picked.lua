-- ARGV: 2 limit  3.. ids.  Answers number, entry, number, entry ... in the order of the log.
local found, refusal = look()
if not found then return refusal or {} end
local ids = {}
for n = 3, #ARGV do ids[#ids + 1] = ARGV[n] end
if #ids == 0 then return {} end
local numbers = {}
for _, number in ipairs(redis.call('HMGET', KEYS[4], unpack(ids))) do
  if number then numbers[#numbers + 1] = tonumber(number) end
end
table.sort(numbers)
local picked, first = {}, tonumber(found[3]) - redis.call('LLEN', KEYS[3]) + 1
for n, number in ipairs(numbers) do
  -- An id that was asked for twice is one entry.
  if number ~= numbers[n - 1] and number >= first and #picked < 2 * tonumber(ARGV[2]) then
    picked[#picked + 1] = number
    picked[#picked + 1] = redis.call('LINDEX', KEYS[3], number - first)
  end
end
return picked
