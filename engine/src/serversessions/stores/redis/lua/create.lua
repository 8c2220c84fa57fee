-- KEYS: session, index of its owner, if it is to be marked there. ARGV[3]: the record.
if redis.call('EXISTS', KEYS[1]) == 1 then return 0 end
save(KEYS[1], ARGV[3], KEYS[2])
return 1
