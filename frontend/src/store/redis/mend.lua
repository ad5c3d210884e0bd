-- Removes the mark that a generation is broken: the missing documents are there again.
--
-- KEYS: the hash of the newest generation held back.
-- ARGV: the incarnation and number that are whole, the channel.

if redis.call('HGET', KEYS[1], 'broken') ~= ARGV[1] .. ' ' .. ARGV[2] then
  return 0
end
redis.call('HDEL', KEYS[1], 'broken')
redis.pcall('PUBLISH', ARGV[3], 'mended')
return 1
