-- KEYS: session. ARGV[3]: delete it only if it is this owner's, '' for any.
-- Returns nothing if there is no such record, else whether it was alive, and its owner.
if redis.call('EXISTS', KEYS[1]) == 0 then return nil end
local owner, was_live = owner_of(KEYS[1]), is_live(KEYS[1])
if ARGV[3] ~= '' and ARGV[3] ~= owner then return nil end
redis.call('DEL', KEYS[1])
return {was_live and 1 or 0, owner}
