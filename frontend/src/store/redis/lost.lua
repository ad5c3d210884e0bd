-- Whether the store lost something of the generation `held`; false if no frontend holds one (`held[1]` is
-- false). A generation in `replaces` is not lost: an operator gave it up for the stored one, or restored it
-- there.
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

