-- KEYS: the probe. Fails as every write does.
redis.call('SET', KEYS[1], stamp(now), 'PX', 1000)
return 1
