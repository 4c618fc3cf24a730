-- ARGV: 2 member  3 mark  4 tail  5 revision  6 at  7 recent  8 owner  9 due  10 claim  11 until  12.. id, entry
-- Answers {row, tail, numbers of known ids}, or {"erased", row, mark}.
local found, refusal = look()
if refusal then return refusal end
local erased = redis.call('ZSCORE', KEYS[5], ARGV[3])
if erased and tonumber(ARGV[6]) <= tonumber(erased) then return {'erased', whole(found), erased} end

local numbers, new = known(12), false
for n = 12, #ARGV, 2 do new = new or not numbers[ARGV[n]] end
local head = found and tonumber(found[3]) or 0
if not found or (new and found[1] ~= ARGV[5]) then
  local row = {ARGV[5], ARGV[5], '0', ARGV[6], ARGV[7], ARGV[8], ARGV[9], ARGV[10], ARGV[11]}
  if found then
    row[2], row[3], row[6] = found[2], found[3], found[6] or ''
    if found[7] and (row[7] == '' or tonumber(found[7]) < tonumber(row[7])) then row[7] = found[7] end
    if found[8] then row[8], row[9] = found[8], found[9] or '' end
  end
  head = put(found, row, nil, ARGV[2], 12, numbers)
  found = row
end
return {whole(found), between(head, head - tonumber(ARGV[4]) + 1, head, head), flat(numbers)}
