-- KEYS: session, index. ARGV[3]: the record, ARGV[4]: the version to replace.
if not is_at(KEYS[1], ARGV[4]) then return 0 end
save(KEYS[1], ARGV[3], KEYS[2])
return 1
