-- Modelled in tests/model/src/redis.rs.
-- KEYS: record, tombstone, and unless they may be on other servers of a cluster: mark, ban, and for a
-- session with an ID ended session and users of the session. On a cluster they were read before, and
-- every reader that serves the record compares the mark again.
-- ARGV: tombstone seen ('' for none), mark seen ('' for none, '?' if it was not read), fence,
-- maximum age and slack in microseconds, TTL in milliseconds, the record, the run ID of the server
-- at the lookup, whether the record is complete ('' for one that still lacks mark and run), the
-- very record to replace ('' to replace any that is not newer, or none), the name of the mark, TTL of
-- that name in seconds, the version of records; if nodes share validations: node, rejection,
-- reservation; the run ID of this server.

-- What denies the session is told whatever else prevents storing it: a fill that is merely not stored
-- may be served.
local tomb = text(KEYS[2], 128)
if tomb and refuses(tomb) then return {'revoked'} end
if KEYS[4] and redis.call('GET', KEYS[4]) then return {'banned'} end
local obstacle = KEYS[5] and join(KEYS[5], KEYS[6], ARGV[11], tonumber(ARGV[12]))
if obstacle == 'ended' then return {'ended'} end

-- Another server may have lost what was revoked since the lookup.
local run = ARGV[#ARGV]
if run ~= ARGV[8] then return {'other_run'} end

local mark
if KEYS[3] then mark = text(KEYS[3], 128) else mark = ARGV[2] ~= '' and ARGV[2] end
local fence, slack = tonumber(ARGV[3]), tonumber(ARGV[5])
local same
if ARGV[2] == '?' then
  same = not mark or (micros(mark) or now) + slack < fence
else
  same = (mark or '') == ARGV[2]
end
if not same or (tomb or '') ~= ARGV[1] then return {'conflict', tomb, mark, stamp(now)} end

-- An earlier rejection is outdated even if the session is not stored. It is deleted after the record
-- is written, because a server without memory rejects a script's first write only.
local node = ARGV[16] and ARGV[14]
local last = node and text(ARGV[15], 512)
local later = rejected(last)
if later and later > fence then return {'newer'} end
local function accepted(outcome)
  if last then redis.pcall('DEL', ARGV[15]) end
  return {outcome}
end

if tomb and not micros(string.match(tomb, '^([^:]*):')) then return accepted('unreadable') end
if mark and not micros(mark) then return accepted('unreadable') end
if now - fence > tonumber(ARGV[4]) then return accepted('late') end
if obstacle then return accepted(obstacle) end
local standing = text(KEYS[1], 65536)
if standing then
  local written = micros(string.match(standing, '^sealed1:%x+:%x+:([%d.]+):'))
    or micros(string.match(standing, '"fence"%s*:%s*"([^"]*)"'))
    or micros(string.match(standing, '"cached_at"%s*:%s*([%d.]+)'))
  if written and written > fence then return accepted('newer') end
  -- A node with a later version of this crate can use it, and during a deployment both are there.
  local version = string.match(standing, '"session_cache"%s*:%s*{%s*"version"%s*:%s*(%d+)')
  local seal = string.match(standing, '^sealed(%d+):')
  if tonumber(version or 0) > tonumber(ARGV[13]) or tonumber(seal or 0) > 1 then
    return accepted('newer')
  end
end
-- If that record has gone, the Python service may have logged the user out, which leaves no other
-- trace.
if ARGV[10] ~= '' and standing ~= ARGV[10] then return accepted('other_record') end
local record = ARGV[7]
if ARGV[9] == '' then
  record = record .. (mark and '"' .. mark .. '"' or 'null') .. ',"run":"' .. run .. '"}}'
end
redis.call('SET', KEYS[1], record, 'PX', ARGV[6])
if node then release(ARGV[16], node) end
return accepted('stored')
