-- Writes all changes or none, if the catalog is whole and its generation still is the expected one.
--
-- KEYS: the hashes of the generation, of the documents, of the control role's lease and of the newest generation
--       held back.
-- ARGV: expected incarnation, expected number, incarnation to use if the store has none, layout, channel,
--       holder ('' for none) and number of the lease that the write is made under, the digest that the writer
--       knows ('' if it knows none), then for each change: the document's key (kind/name), the document ('' removes
--       it), and the hash of the document before ('' for none).
-- Returns the outcome, with details that depend on it.
--
-- Redis keeps the writes that a script made before an error. So everything that can fail is tried before
-- anything is written: types, permissions, memory, a read-only replica.

local generation, stored_documents = KEYS[1], KEYS[2]
local expected_incarnation, expected_number = ARGV[1], tonumber(ARGV[2])
local fresh_incarnation, layout, channel = ARGV[3], ARGV[4], ARGV[5]
local known_digest = ARGV[8]
local first_change = 9

if ARGV[6] ~= '' then
  local lease = redis.call('HMGET', KEYS[3], 'holder', 'number', 'until')
  if lease[1] ~= ARGV[6] or lease[2] ~= ARGV[7] then
    return { 'fenced', lease[1] or '' }
  end
  if (tonumber(lease[3] or '0') or 0) <= now() then
    return { 'fenced', '' }
  end
end

for _, key in ipairs(KEYS) do
  local is = redis.call('TYPE', key).ok
  if is ~= 'hash' and is ~= 'none' then
    return { 'unreadable', 'key ' .. key .. ' is a ' .. is .. ', not a hash' }
  end
end

local stored = redis.call('HMGET', generation, 'incarnation', 'number', 'schema', 'replaces', 'count', 'digest')
local incarnation = stored[1] or ''
local number = tonumber(stored[2] or '0')
if not number then
  return { 'unreadable', 'key ' .. generation .. ' holds something else than numbers' }
end
if (stored[3] or layout) ~= layout then
  return { 'layout', stored[3] }
end
local held_back = redis.call('HMGET', KEYS[4], 'incarnation', 'number', 'broken')
if lost(held_back, incarnation, number, stored[4]) or held_back[3] == incarnation .. ' ' .. whole(number) then
  return { 'held-back' }
end
if incarnation ~= expected_incarnation or number ~= expected_number then
  return { 'conflict', incarnation, whole(number) }
end

-- Documents may be gone although the generation is there.
local count, digest = 0, 0
if incarnation ~= '' then
  count, digest = tonumber(stored[5] or ''), tonumber(stored[6] or '')
  if not count or not digest or not stored[3] then
    return { 'broken' }
  end
end
if documents() ~= count or (known_digest ~= '' and known_digest ~= whole(digest)) then
  return { 'broken' }
end
for i = first_change, #ARGV, 3 do
  local key = ARGV[i]
  local before = redis.call('HGET', stored_documents, key)
  if known_digest ~= '' and (before and whole(hash(key, before)) or '') ~= ARGV[i + 2] then
    return { 'broken' }
  end
end

-- The rehearsal: harmless writes that fail where the real ones would. HSET comes first, because Redis refuses a
-- script for lack of memory only at its first write.
redis.call('HSET', generation, 'schema', layout)
redis.call('HDEL', stored_documents, '')

if incarnation == '' then
  incarnation = fresh_incarnation
end
number = whole(number + 1)
for i = first_change, #ARGV, 3 do
  local key, document = ARGV[i], ARGV[i + 1]
  local before = redis.call('HGET', stored_documents, key)
  if before then
    count, digest = count - 1, modulo(digest - hash(key, before))
  end
  if document == '' then
    redis.call('HDEL', stored_documents, key)
  else
    redis.call('HSET', stored_documents, key, document)
    count, digest = count + 1, modulo(digest + hash(key, document))
  end
end
redis.call('HSET', generation, 'incarnation', incarnation, 'number', number,
  'count', whole(count), 'digest', whole(digest))

-- The message only wakes the other frontends; they also look by themselves. So a forbidden PUBLISH is ignored.
redis.pcall('PUBLISH', channel, incarnation .. ' ' .. number)
return { 'committed', incarnation, number }
