-- KEYS: record, tombstone, and the user's mark if Rust knows its name. ARGV: prefix of marks, maximum
-- length of a record, the name of the mark if Rust knows it better than the text of the record, else
-- '', prefix of the bans of the Python service's users, or ''; then, if the validation of a token
-- without a record is to be reserved: rejection, reservation, node, how long the reservation lasts in
-- milliseconds; the run ID.
local record = text(KEYS[1], tonumber(ARGV[2]))
local user, mark = ARGV[3], nil
if KEYS[3] then
  mark = text(KEYS[3], 128)
else
  user = record and string.match(record, '^sealed1:%x+:(%x+):')
    or (record and string.match(record, '"user_id"%s*:%s*"([^"\\]*)"'))
    or false
  mark = user and redis.pcall('GET', ARGV[1] .. user)
  -- Some servers let a script read only the keys that it declares. Without a name in the reply, Rust
  -- parses the record and reads again with the key of the mark.
  if type(mark) == 'table' and not string.find(mark.err or '', 'WRONGTYPE', 1, true) then
    user, mark = false, false
  end
  mark = limited(mark, 128)
end
-- The Python service knows no bans, so its records are checked here. A server that permits only
-- declared keys returns an error; then Rust reads the key.
local banned = false
if ARGV[4] ~= '' and record and user and not string.find(record, '"session_cache"', 1, true) then
  local ban = redis.pcall('GET', ARGV[4] .. user)
  if type(ban) ~= 'table' then banned = ban and 1 or 0 end
end
local tomb = text(KEYS[2], 128)
local rejection, reservation = false, false
if ARGV[8] and not record and not (tomb and refuses(tomb)) then
  rejection, reservation = reserve(tomb, ARGV[5], ARGV[6], ARGV[7], ARGV[8])
end
return {record, tomb, user, mark, stamp(now), banned, rejection, reservation}
