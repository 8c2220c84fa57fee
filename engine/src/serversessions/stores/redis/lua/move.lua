-- KEYS: session, its new name, index. ARGV as in update.lua, and ARGV[5]: the record to leave in its
-- place, '' for none; ARGV[6]: how long that lives, in milliseconds. Not on a Cluster.
if not is_at(KEYS[1], ARGV[4]) or redis.call('EXISTS', KEYS[2]) == 1 then return 0 end
save(KEYS[2], ARGV[3], KEYS[3])
if ARGV[5] ~= '' and tonumber(ARGV[6]) > 0 then
  redis.call('SET', KEYS[1], ARGV[5], 'PX', ARGV[6])
else
  redis.call('DEL', KEYS[1])
end
if KEYS[3] then redis.call('ZREM', KEYS[3], string.sub(KEYS[1], -64)) end
return 1
