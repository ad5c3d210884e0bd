-- Announces a frontend or withdraws it, and removes expired announcements.
--
-- KEYS: the hash of announcements, and the sorted set of the times when they expire.
-- ARGV: the frontend's id, its document ('' withdraws it), its time to live in milliseconds, the channel.
-- Returns the announcements that have not expired.

local frontends, expiries = KEYS[1], KEYS[2]
local id, document, ttl, channel = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4]
local time = now()

local before = redis.call('HGET', frontends, id) or ''
if document == '' then
  redis.call('HDEL', frontends, id)
  redis.call('ZREM', expiries, id)
else
  redis.call('HSET', frontends, id, document)
  redis.call('ZADD', expiries, string.format('%.0f', time + ttl), id)
end
local expired = redis.call('ZRANGEBYSCORE', expiries, '-inf', string.format('%.0f', time))
for _, gone in ipairs(expired) do
  redis.call('HDEL', frontends, gone)
  redis.call('ZREM', expiries, gone)
end

-- The message only wakes the other frontends; they also look by themselves.
if before ~= document or #expired > 0 then
  redis.pcall('PUBLISH', channel, 'frontends')
end
return live(frontends, expiries)
