-- For a record that is on another server of a cluster, or too long to be stored. fill.lua does the
-- same itself.
-- KEYS: ended session, users of the session. ARGV: the name of the user's mark, TTL in seconds.
return join(KEYS[1], KEYS[2], ARGV[1], tonumber(ARGV[2])) or 'joined'
