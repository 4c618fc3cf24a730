-- ARGV: 2 after  3 before  4 limit  5 "back" for the last ones below *before*.
local found, refusal = look()
if not found then return refusal or {0, {}} end
local limit, head = tonumber(ARGV[4]), tonumber(found[3])
local low, high = tonumber(ARGV[2]) + 1, math.min(head, tonumber(ARGV[3]) - 1)
if ARGV[5] == 'back' then low = math.max(low, high - limit + 1) end
return between(head, low, high, limit)
