-- The server's time, in milliseconds since the Unix epoch. Frontends' clocks may differ, so they are not used.
local function now()
  local time = redis.call('TIME')
  return tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
end

