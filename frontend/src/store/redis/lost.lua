-- Whether the store lost something of a generation that a frontend holds; none holds one if it is false.
-- A generation that a person gave up for the stored one, or had restored in it, is not lost.
local function lost(held, incarnation, number, replaces)
  local held_incarnation, held_number = held[1], tonumber(held[2] or '0') or 0
  if not held_incarnation then
    return false
  end
  if held_incarnation == incarnation then
    return number < held_number
  end
  return not string.find(' ' .. (replaces or '') .. ' ', ' ' .. held_incarnation .. ' ', 1, true)
end

