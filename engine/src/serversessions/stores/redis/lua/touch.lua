-- KEYS: session, index. ARGV[3]: the expiry, packed; ARGV[4]: the owner, '' for none.
-- Returns the owner, with nothing changed, if it is another.
if not is_live(KEYS[1]) then return 0 end
local owner = owner_of(KEYS[1])
if owner ~= ARGV[4] then return owner end
redis.call('SETRANGE', KEYS[1], 12, ARGV[3])
redis.call('PEXPIRE', KEYS[1], ARGV[2])
if KEYS[2] and life > 0 then mark(KEYS[2], KEYS[1]) end
return 1
