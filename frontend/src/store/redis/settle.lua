-- Settles a store that lost something, all or nothing, if its generation still is the one that was seen. A
-- frontend's snapshot replaces the content, or the content stays. Either way the store is whole afterwards and
-- begins another life. `replaces` names the lives that it replaces, so that every frontend that holds one of
-- them follows the new life.
--
-- KEYS: the hashes of the generation, of the documents and of the newest generation held back, and the request to
--       restore that generation.
-- ARGV: incarnation and number that were seen, the new incarnation and number, the incarnations that it
--       replaces, layout, channel, 'restore' or 'accept', then for each document to restore: its key (kind/name) and
--       the document.
-- Returns the outcome, as commit.lua does.

local generation, stored_documents, held_back, wish = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local layout, channel, how = ARGV[6], ARGV[7], ARGV[8]
local first_document = 9

for i = 1, 3 do
  local is = redis.call('TYPE', KEYS[i]).ok
  if is ~= 'hash' and is ~= 'none' then
    return { 'unreadable', 'key ' .. KEYS[i] .. ' is a ' .. is .. ', not a hash' }
  end
end

local stored = redis.call('HMGET', generation, 'incarnation', 'number', 'schema')
local incarnation, number = stored[1] or '', tonumber(stored[2] or '0') or 0
if (stored[3] or layout) ~= layout then
  return { 'layout', stored[3] }
end
if incarnation ~= ARGV[1] or number ~= tonumber(ARGV[2]) then
  return { 'conflict', incarnation, whole(number) }
end

-- The rehearsal, as in commit.lua.
redis.call('HSET', generation, 'schema', layout)
redis.call('HDEL', stored_documents, '')
redis.call('DEL', wish)

if how == 'restore' then
  redis.call('DEL', stored_documents)
  for i = first_document, #ARGV, 2 do
    redis.call('HSET', stored_documents, ARGV[i], ARGV[i + 1])
  end
end

local digest = 0
local all = redis.call('HGETALL', stored_documents)
for i = 1, #all, 2 do
  digest = modulo(digest + hash(all[i], all[i + 1]))
end
redis.call('HSET', generation, 'incarnation', ARGV[3], 'number', ARGV[4], 'replaces', ARGV[5],
  'count', whole(documents()), 'digest', whole(digest))
redis.call('DEL', held_back)
redis.pcall('PUBLISH', channel, ARGV[3] .. ' ' .. ARGV[4])
return { 'committed', ARGV[3], ARGV[4] }
