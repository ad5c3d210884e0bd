-- The announcements that have not expired: id, document, id, document …
local function live(frontends, expiries)
  local found = {}
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', expiries, string.format('(%.0f', now()), '+inf')) do
    local document = redis.call('HGET', frontends, id)
    if document then
      found[#found + 1] = id
      found[#found + 1] = document
    end
  end
  return found
end

