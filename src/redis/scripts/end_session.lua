-- KEYS: ended session, users of the session. ARGV: TTL in seconds.
-- A fill either joined before, and then its mark is returned, or finds the session ended.
local ttl = math.max(tonumber(ARGV[1]), redis.call('TTL', KEYS[1]))
redis.call('SET', KEYS[1], stamp(now), 'EX', ttl)
return redis.call('HKEYS', KEYS[2])
