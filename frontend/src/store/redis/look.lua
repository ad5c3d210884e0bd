-- Reads all that a look compares, in one instant. It writes nothing.
--
-- KEYS: the hashes of the generation, of the documents and of the newest generation held back, the request to restore
--       that generation, the hash of announcements, and the sorted set of the times when they expire.
-- Returns the generation, the number of documents, the generation held back, the milliseconds until the request
-- expires (negative: there is no request), and the announcements that have not expired.

return {
  redis.call('HMGET', KEYS[1], 'incarnation', 'number', 'schema', 'replaces', 'count', 'digest'),
  documents(),
  redis.call('HMGET', KEYS[3], 'incarnation', 'number', 'broken'),
  redis.call('PTTL', KEYS[4]),
  live(KEYS[5], KEYS[6]),
}
