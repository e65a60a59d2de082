-- KEYS: record, tombstone, mark. ARGV: tombstone seen ('' for none), mark seen ('' for none,
-- '?' when it was not read), fence, longest age and slack in microseconds, TTL in seconds, the
-- record up to its mark, and the run of this server.
local tomb, mark = text(KEYS[2], 128), text(KEYS[3], 128)
if tomb and refuses(tomb) then return {'refused'} end
if tomb and not micros(string.match(tomb, '^([^:]*):')) then return {'unreadable'} end
if mark and not micros(mark) then return {'unreadable'} end

local fence, slack = tonumber(ARGV[3]), tonumber(ARGV[5])
local same
if ARGV[2] == '?' then
  same = not mark or micros(mark) + slack < fence
else
  same = (mark or '') == ARGV[2]
end
if not same or (tomb or '') ~= ARGV[1] then return {'moved', tomb, mark, stamp(now)} end

if now - fence > tonumber(ARGV[4]) then return {'late'} end
local standing = text(KEYS[1], 65536)
if standing then
  local written = micros(string.match(standing, '"fence"%s*:%s*"([^"]*)"'))
    or micros(string.match(standing, '"cached_at"%s*:%s*([%d.]+)'))
  if written and written > fence then return {'kept'} end
end
local seen = mark and '"' .. mark .. '"' or 'null'
redis.call('SET', KEYS[1], ARGV[7] .. seen .. ',"run":"' .. ARGV[8] .. '"}', 'EX', ARGV[6])
return {'stored'}
