-- Modelled in tests/model/src/redis.rs.
-- KEYS: record, tombstone, and the mark unless it is on another server of a cluster. In that case
-- it was compared before, and every reader that serves the record compares it again.
-- ARGV: tombstone seen ('' for none), mark seen ('' for none, '?' if it was not read), fence,
-- maximum age and slack in microseconds, TTL in milliseconds, the record, the run ID of the server
-- at the lookup, whether the record is complete ('' for one that still lacks mark and run), the
-- very record to replace ('' to replace any that is not newer, or none), the run ID of this server.

-- Another server may have lost what was revoked since the lookup.
local run = ARGV[11]
if run ~= ARGV[8] then return {'other_run'} end

local tomb = text(KEYS[2], 128)
local mark
if KEYS[3] then mark = text(KEYS[3], 128) else mark = ARGV[2] ~= '' and ARGV[2] end
if tomb and refuses(tomb) then return {'revoked'} end

local fence, slack = tonumber(ARGV[3]), tonumber(ARGV[5])
local same
if ARGV[2] == '?' then
  same = not mark or (micros(mark) or now) + slack < fence
else
  same = (mark or '') == ARGV[2]
end
if not same or (tomb or '') ~= ARGV[1] then return {'conflict', tomb, mark, stamp(now)} end

if tomb and not micros(string.match(tomb, '^([^:]*):')) then return {'unreadable'} end
if mark and not micros(mark) then return {'unreadable'} end
if now - fence > tonumber(ARGV[4]) then return {'late'} end
local standing = text(KEYS[1], 65536)
if standing then
  local written = micros(string.match(standing, '^sealed1:%x+:%x+:([%d.]+):'))
    or micros(string.match(standing, '"fence"%s*:%s*"([^"]*)"'))
    or micros(string.match(standing, '"cached_at"%s*:%s*([%d.]+)'))
  if written and written > fence then return {'newer'} end
end
-- If that record has gone, the Python service may have logged the user out, which leaves no other
-- trace.
if ARGV[10] ~= '' and standing ~= ARGV[10] then return {'other_record'} end
local record = ARGV[7]
if ARGV[9] == '' then
  record = record .. (mark and '"' .. mark .. '"' or 'null') .. ',"run":"' .. run .. '"}}'
end
redis.call('SET', KEYS[1], record, 'PX', ARGV[6])
return {'stored'}
