-- KEYS: probe. The script fails if the server rejects writes.
redis.call('SET', KEYS[1], stamp(now), 'PX', 1000)
return 1
