-- Put before every other script. The time is the server's own: a record is alive as long as the
-- server keeps it. A record's fields stand where store.py says, counted from 0.
-- ARGV[1]: milliseconds by which a test's clock is ahead, 0 otherwise. ARGV[2]: how long the record
-- is to live, in milliseconds.
local ahead, life = tonumber(ARGV[1]), tonumber(ARGV[2])
local HOUR = 3600000

local function is_live(session)
  return redis.call('PTTL', session) > ahead and redis.call('GETRANGE', session, 0, 3) == 'SES1'
end

local function is_at(session, version)
  return is_live(session) and redis.call('GETRANGE', session, 4, 11) == version
end

local function owner_of(session)
  local length = redis.call('GETRANGE', session, 36, 37)
  if #length < 2 or length == '\255\255' then return '' end
  return redis.call('GETRANGE', session, 38, 37 + struct.unpack('>I2', length))
end

-- Note a session in its owner's index, for an hour longer than it lives: another node, or the
-- server after a failover, may have another clock.
local function mark(index, session)
  local time = redis.call('TIME')
  local now = time[1] * 1000 + math.floor(time[2] / 1000)
  redis.call('ZADD', index, now + life + HOUR, string.sub(session, -64))
  redis.call('ZREMRANGEBYSCORE', index, '-inf', now)
  redis.call('PEXPIREAT', index, redis.call('ZRANGE', index, -1, -1, 'WITHSCORES')[2])
end

-- The SET comes first: by a script's first write a full server decides whether to refuse it.
local function save(session, record, index)
  if life <= 0 then
    redis.call('DEL', session)
    return
  end
  redis.call('SET', session, record, 'PX', ARGV[2])
  if index then mark(index, session) end
end
