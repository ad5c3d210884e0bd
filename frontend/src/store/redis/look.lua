-- Reads, in one instant, all that a look compares. It writes nothing.
--
-- KEYS: the hashes of the generation and of the newest generation held back, the wish to restore it, the
--       hash of announcements, and the sorted set of the times when they expire.
-- Returns the generation, the one held back, how many milliseconds the wish still holds (negative: there
-- is none), and the announcements that have not expired.

return {
  redis.call('HMGET', KEYS[1], 'incarnation', 'number', 'schema', 'replaces'),
  redis.call('HMGET', KEYS[2], 'incarnation', 'number'),
  redis.call('PTTL', KEYS[3]),
  live(KEYS[4], KEYS[5]),
}
