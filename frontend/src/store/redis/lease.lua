-- Takes the control role's lease, renews it, or gives it back.
--
-- KEYS: the lease's hash: holder ('' if it was given back), number, until.
-- ARGV: 'take', the asker, the duration in milliseconds, the highest number that the asker knows, and the number and
--       end of another's lease that the asker saw last ('' if it saw none, or has waited until that lease ran out);
--       or 'release', the holder, the lease's number.
-- Returns 'taken' and the number; 'held' and the other's id, number and end; 'lost'; or 'released'.

local lease = redis.call('HMGET', KEYS[1], 'holder', 'number', 'until')
local holder, number, expiry = lease[1] or '', tonumber(lease[2] or '0') or 0, tonumber(lease[3] or '0') or 0
local asker = ARGV[2]

if ARGV[1] == 'release' then
  if holder == asker and lease[2] == ARGV[3] then
    redis.call('HSET', KEYS[1], 'holder', '', 'until', '0')
  end
  return { 'released' }
end

local function whole(figure)
  return string.format('%.0f', figure)
end

local time = now()
if holder ~= asker and holder ~= '' and expiry > time then
  return { 'held', holder, whole(number), whole(expiry) }
end
-- The lease that the asker saw is gone, or an older one is here: Redis lost it, and its holder may not know
-- yet. A lease that was given back, or ran out, would have left its number here.
local seen_number, seen_expiry = tonumber(ARGV[5]), tonumber(ARGV[6])
if seen_number and (number < seen_number
    or (number == seen_number and holder ~= '' and expiry < seen_expiry)) then
  return { 'lost' }
end
-- A Redis that lost its data must not give a number a second time.
number = math.max(number, tonumber(ARGV[4]))
if holder ~= asker then
  number = number + 1
end
redis.call('HSET', KEYS[1], 'holder', asker, 'number', whole(number), 'until', whole(time + tonumber(ARGV[3])))
return { 'taken', whole(number) }
