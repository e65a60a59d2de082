-- KEYS: mark. ARGV: TTL in seconds, slack in microseconds.
-- The mark always changes and never goes backwards, unless it was in the future by more than the
-- slack.
local standing = micros(text(KEYS[1], 128))
local at = now
if standing and standing <= now + tonumber(ARGV[2]) then at = math.max(now, standing + 1) end
redis.call('SET', KEYS[1], stamp(at), 'EX', ARGV[1])
return 1
