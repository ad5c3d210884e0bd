-- Ends the doubt about a store that lost something, all or nothing, if its generation still is the one that
-- was seen: its content is replaced by a frontend's snapshot, or stays. Either way it is whole from then on,
-- and begins another life, which says which ones it replaces, so that every frontend that holds one of those
-- follows it.
--
-- KEYS: the hashes of the generation, of the applications, of the models, of the settings and of the newest
--       generation held back, and the wish to restore it.
-- ARGV: incarnation and number that were seen, the new incarnation and number, the incarnations that it
--       replaces, schema, channel, 'restore' or 'accept', then for each document to restore: 2 (application),
--       3 (model) or 4 (settings), the name, the document ('' for none).
-- Returns what happened, as commit.lua does.

local generation, held_back, wish = KEYS[1], KEYS[5], KEYS[6]
local schema, channel, how = ARGV[6], ARGV[7], ARGV[8]
local first_document = 9

for i = 1, 5 do
  local kind = redis.call('TYPE', KEYS[i]).ok
  if kind ~= 'hash' and kind ~= 'none' then
    return { 'unreadable', 'key ' .. KEYS[i] .. ' is a ' .. kind .. ', not a hash' }
  end
end

local stored = redis.call('HMGET', generation, 'incarnation', 'number', 'schema')
local incarnation, number = stored[1] or '', tonumber(stored[2] or '0') or 0
if (stored[3] or schema) ~= schema then
  return { 'schema', stored[3] }
end
if incarnation ~= ARGV[1] or number ~= tonumber(ARGV[2]) then
  return { 'conflict', incarnation, whole(number) }
end

-- The rehearsal, as in commit.lua.
redis.call('HSET', generation, 'schema', schema)
redis.call('HDEL', KEYS[2], '')
redis.call('DEL', wish)

if how == 'restore' then
  redis.call('DEL', KEYS[2], KEYS[3], KEYS[4])
  for i = first_document, #ARGV, 3 do
    if ARGV[i + 2] ~= '' then
      redis.call('HSET', KEYS[tonumber(ARGV[i])], ARGV[i + 1], ARGV[i + 2])
    end
  end
end

local digest = 0
for kind = 2, 4 do
  local all = redis.call('HGETALL', KEYS[kind])
  for i = 1, #all, 2 do
    digest = modulo(digest + hash(kind, all[i], all[i + 1]))
  end
end
redis.call('HSET', generation, 'incarnation', ARGV[3], 'number', ARGV[4], 'replaces', ARGV[5],
  'count', whole(documents()), 'digest', whole(digest))
redis.call('DEL', held_back)
redis.pcall('PUBLISH', channel, ARGV[3] .. ' ' .. ARGV[4])
return { 'committed', ARGV[3], ARGV[4] }
