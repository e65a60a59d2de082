-- For a token whose record cannot be used, or is on a cluster, where the lookup is no script.
-- KEYS: record, tombstone. ARGV: the very record that the lookup found ('' for none), rejection,
-- reservation, node, how long the reservation lasts in milliseconds.
-- If another record is stored by now, the validation that it came from was that of another node. A
-- value that is no record came from none.
local record = text(KEYS[1], 65536) or ''
if record ~= '?' and record ~= ARGV[1] then return {false, 'other'} end
return {reserve(text(KEYS[2], 128), ARGV[2], ARGV[3], ARGV[4], ARGV[5])}
