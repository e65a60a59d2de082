-- KEYS: tombstone, and the records unless they may be on another server of a cluster. ARGV:
-- verdict, nonce, TTL in seconds. `lift` is `forget`, but also ends an earlier `refuse`.
local verdict, ttl = ARGV[1], tonumber(ARGV[3])
if verdict == 'lift' then
  verdict = 'forget'
else
  local standing = text(KEYS[1], 128)
  if standing and refuses(standing) then verdict = 'refuse' end
  ttl = math.max(ttl, redis.call('TTL', KEYS[1]))
end
redis.call('SET', KEYS[1], stamp(now) .. ':' .. verdict .. ':' .. ARGV[2], 'EX', ttl)
for n = 2, #KEYS do redis.call('DEL', KEYS[n]) end
return 1
