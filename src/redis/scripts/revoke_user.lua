-- KEYS: mark. ARGV: TTL in seconds, slack in microseconds.
-- It always changes and never goes backwards, unless it lay in the future.
local standing = micros(text(KEYS[1], 128))
local at = now
if standing and standing <= now + tonumber(ARGV[2]) then at = math.max(now, standing + 1) end
redis.call('SET', KEYS[1], stamp(at), 'EX', ARGV[1])
return 1
