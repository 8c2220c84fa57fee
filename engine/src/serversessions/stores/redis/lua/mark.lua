-- KEYS: index. ARGV[3]: the session's key.
if life > 0 then mark(KEYS[1], ARGV[3]) end
