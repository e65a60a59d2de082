-- KEYS: record, tombstone. ARGV: prefix of marks, maximum length of a record, the name of the
-- user's mark if Rust knows it better than the text of the record, else ''.
local record = text(KEYS[1], tonumber(ARGV[2]))
local user = ARGV[3] ~= '' and ARGV[3]
  or (record and string.match(record, '^sealed1:%x+:(%x+):'))
  or (record and string.match(record, '"user_id"%s*:%s*"([^"\\]*)"'))
  or false
local mark = user and text(ARGV[1] .. user, 128)
return {record, text(KEYS[2], 128), user, mark, stamp(now)}
