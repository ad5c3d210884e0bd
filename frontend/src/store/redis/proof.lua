-- The proof that a catalog is whole: the number of documents, and the sum of their hashes modulo 2^48. Numbers
-- of Lua are doubles, which hold that sum exactly. The hashes are those of `store/proof.rs` in core.
local function hash(key, document)
  local sum = redis.sha1hex(key .. '\0' .. document)
  return tonumber(string.sub(sum, 1, 6), 16) * 16777216 + tonumber(string.sub(sum, 7, 12), 16)
end

local function modulo(digest)
  return digest % 281474976710656
end

-- The number of documents: the second key of each script is their hash.
local function documents()
  return redis.call('HLEN', KEYS[2])
end

-- A number in decimal digits: Lua would write large doubles with an exponent.
local function whole(number)
  return string.format('%.0f', number)
end

