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

-- Nodes share validations by two keys, a rejection and a reservation. Scripts do not declare them, and
-- may fail to use them: a server that rejects this stores sessions as before, and each node validates on
-- its own.

-- Returns the time of the lookup before the validation that rejected a token, and until when the
-- rejection is used.
local function rejected(rejection)
  local fence, expires = string.match(rejection or '', '^rejected1:([^:]*):([^:]*):')
  return micros(fence), micros(expires)
end

-- Finds out whether a token without a usable record was rejected since it was revoked last, and if not,
-- reserves its validation for a node unless another node has reserved it. Returns the text of the last
-- rejection, or false, and 'held', 'other', 'denied' if the user lacks a permission, or false if
-- nothing is reserved.
local function reserve(tomb, rejection, reservation, node, millis)
  local last = text(rejection, 512)
  local fence, expires = rejected(last)
  local revoked = tomb and (micros(string.match(tomb, '^([^:]*):')) or now)
  local counts = fence and expires and now < expires and not (revoked and fence <= revoked)
  if counts then return last, false end
  local function failed(reply)
    return string.find(reply.err or '', 'NOPERM', 1, true) and 'denied' or false
  end
  local holder = redis.pcall('GET', reservation)
  if type(holder) == 'table' then return last, failed(holder) end
  if holder == node then return last, 'held' end
  -- No node makes one that lasts for longer than a second.
  local left = holder and redis.pcall('TTL', reservation)
  if left == 0 or left == 1 then return last, 'other' end
  local set = redis.pcall('SET', reservation, node, 'PX', millis)
  if set.err then return last, failed(set) end
  return last, 'held'
end

-- Deletes the reservation of a node, unless another node has it now.
local function release(reservation, node)
  if text(reservation, 64) == node then redis.pcall('DEL', reservation) end
end
