-- Times are microseconds as integers in doubles, which are exact up to the year 2255.
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]

local function stamp(micros)
  return string.format('%d.%06d', math.floor(micros / 1000000), micros % 1000000)
end

-- Parses a time like Timestamp::parse. Returns nil for anything that is no time.
local function micros(text)
  if type(text) ~= 'string' or #text > 32 then return nil end
  local seconds, decimals = string.match(text, '^(%d+)%.?(%d*)$')
  if not seconds or #seconds > 12 then return nil end
  local six = string.sub(decimals .. '000000', 1, 6)
  local up = string.find(string.sub(decimals, 7), '[1-9]') and 1 or 0
  return seconds * 1000000 + six + up
end

-- Returns a reply of GET: the string, false if there is none, '?' if it is too long or no string.
local function limited(value, longest)
  if type(value) == 'table' or (value and #value > longest) then return '?' end
  return value
end

local function text(key, longest)
  return limited(redis.pcall('GET', key), longest)
end

local function refuses(tomb)
  return string.match(tomb, '^[^:]*:refuse:') ~= nil
end

-- Adds the name of a user's mark to those of a session. Returns why it must not be stored, if so.
local function join(ended, users, mark, ttl)
  if redis.call('GET', ended) then return 'ended' end
  local names, known = redis.call('HKEYS', users), false
  for _, name in ipairs(names) do known = known or name == mark end
  if not known and #names >= 16 then return 'crowded' end
  if not known then redis.call('HSET', users, mark, '') end
  if redis.call('TTL', users) < ttl then redis.call('EXPIRE', users, ttl) end
end

