-- KEYS: session, its new name, index. ARGV as in update.lua. Not on a Cluster.
if not is_at(KEYS[1], ARGV[4]) or redis.call('EXISTS', KEYS[2]) == 1 then return 0 end
save(KEYS[2], ARGV[3], KEYS[3])
redis.call('DEL', KEYS[1])
if KEYS[3] then redis.call('ZREM', KEYS[3], string.sub(KEYS[1], -64)) end
return 1
