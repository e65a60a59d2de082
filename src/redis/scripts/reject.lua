-- KEYS: record, tombstone. ARGV: rejection, reservation, node, tombstone seen ('' for none), fence,
-- the text of the rejection, how long it is kept in milliseconds.
-- A record that is there by now is the result of another validation, which counts. So does a later
-- rejection, and a revocation calls for a later validation.
local seen = (text(KEYS[2], 128) or '') == ARGV[4]
local later = rejected(text(ARGV[1], 512))
if seen and not text(KEYS[1], 65536) and not (later and later > tonumber(ARGV[5])) then
  redis.pcall('SET', ARGV[1], ARGV[6], 'PX', ARGV[7])
end
release(ARGV[2], ARGV[3])
return 1
