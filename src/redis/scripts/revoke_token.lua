-- KEYS: tombstone, and the records unless they may be on another server of a cluster. ARGV:
-- verdict, nonce, TTL in seconds.
local verdict, ttl = ARGV[1], tonumber(ARGV[3])
local standing = text(KEYS[1], 128)
if standing and refuses(standing) then verdict = 'refuse' end
local left = redis.call('TTL', KEYS[1])
if left > ttl then ttl = left end
redis.call('SET', KEYS[1], stamp(now) .. ':' .. verdict .. ':' .. ARGV[2], 'EX', ttl)
for n = 2, #KEYS do redis.call('DEL', KEYS[n]) end
return 1
