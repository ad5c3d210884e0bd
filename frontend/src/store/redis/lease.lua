-- Takes the control role's lease, renews it, or gives it back.
--
-- KEYS: the lease's hash: holder ('' if it was given back), number, until.
-- ARGV: 'take', who asks, for how many milliseconds, the highest number the asker knows of
--       or 'release', who has it, under which number.
-- Returns 'taken' and the number, 'held' and by whom, or 'released'.

local lease = redis.call('HMGET', KEYS[1], 'holder', 'number', 'until')
local holder, number, expiry = lease[1] or '', tonumber(lease[2] or '0') or 0, tonumber(lease[3] or '0') or 0
local asker = ARGV[2]

if ARGV[1] == 'release' then
  if holder == asker and lease[2] == ARGV[3] then
    redis.call('HSET', KEYS[1], 'holder', '', 'until', '0')
  end
  return { 'released' }
end

local time = now()
if holder ~= asker and holder ~= '' and expiry > time then
  return { 'held', holder }
end
-- A Redis that lost its data must not give a number once more.
number = math.max(number, tonumber(ARGV[4]))
if holder ~= asker then
  number = number + 1
end
number = string.format('%.0f', number)
redis.call('HSET', KEYS[1], 'holder', asker, 'number', number,
  'until', string.format('%.0f', time + tonumber(ARGV[3])))
return { 'taken', number }
