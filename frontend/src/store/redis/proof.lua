-- What proves that a catalog is whole: how many documents there are, and the sum of their hashes modulo 2^48
-- (numbers of Lua are doubles, which hold it exactly). The hashes are those of `store/proof.rs` in core.
local function hash(key, document)
  local sum = redis.sha1hex(key .. '\0' .. document)
  return tonumber(string.sub(sum, 1, 6), 16) * 16777216 + tonumber(string.sub(sum, 7, 12), 16)
end

local function modulo(digest)
  return digest % 281474976710656
end

-- How many documents there are: the second key of each script is their hash.
local function documents()
  return redis.call('HLEN', KEYS[2])
end

-- A number as it is written: doubles would be written in powers of ten.
local function whole(number)
  return string.format('%.0f', number)
end

