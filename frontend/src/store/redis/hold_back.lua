-- Records that a frontend holds a newer generation than the store, that it found the store's own generation
-- broken, or both. Then nobody writes until an operator has settled it, and every frontend knows the newest
-- generation's number.
--
-- KEYS: the hashes of the generation and of the newest generation held back.
-- ARGV: incarnation and number that were seen, incarnation ('' for none) and number that are held, whether
--       what was seen is 'broken' or '' (not), the channel.

local stored = redis.call('HMGET', KEYS[1], 'incarnation', 'number', 'replaces')
local incarnation, number = stored[1] or '', tonumber(stored[2] or '0')
if incarnation ~= ARGV[1] or number ~= tonumber(ARGV[2]) then
  return 0
end
local held = redis.call('HMGET', KEYS[2], 'incarnation', 'number')
-- Of two generations with different incarnations, the first stays.
local newer = held[1] == ARGV[3] and (tonumber(held[2] or '0') or 0) < tonumber(ARGV[4])
if ARGV[3] ~= '' and (newer or not lost(held, incarnation, number, stored[3])) then
  redis.call('HSET', KEYS[2], 'incarnation', ARGV[3], 'number', ARGV[4])
end
if ARGV[5] == 'broken' then
  redis.call('HSET', KEYS[2], 'broken', ARGV[1] .. ' ' .. ARGV[2])
end
redis.pcall('PUBLISH', ARGV[6], 'held-back')
return 1
