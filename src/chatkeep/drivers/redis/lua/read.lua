-- ARGV: 2 tail.  Answers the row and its last entries.
local found, refusal = look()
if not found then return refusal or false end
local head = tonumber(found[3])
return {whole(found), between(head, head - tonumber(ARGV[2]) + 1, head, head)}
