package redis

import (
	"crypto/sha1"
	"encoding/hex"
)

// script is a Lua script and the hash by which the server knows it.
type script struct{ text, sha string }

func newScript(text string) script {
	sum := sha1.Sum([]byte(text))
	return script{text: text, sha: hex.EncodeToString(sum[:])}
}

// scripts are all that the store runs. In all of them the server's clock is read
// first: now is microseconds since 1970.
//
// Numbers in Lua are doubles: whole below 2^53, which is 104 days in the nanoseconds
// of a bucket's flow, and far more than any count. Where a total grows beyond, it is
// off by nanoseconds. They are written with %.0f, since tostring would round.
type scripts struct{ buckets, windows, takeBucket, takeWindow, beat script }

func newScripts() scripts {
	return scripts{
		buckets:    newScript(clockLua + heardLua + bucketLua + bucketsLua),
		windows:    newScript(clockLua + heardLua + windowLua + windowsLua),
		takeBucket: newScript(clockLua + bucketLua + takeBucketLua),
		takeWindow: newScript(clockLua + windowLua + takeWindowLua),
		beat:       newScript(beatLua),
	}
}

const clockLua = `
local t = redis.call('TIME')
local now = t[1] * 1000000 + t[2]
local function whole(n) return string.format('%.0f', n) end
`

// heardLua: what is new of an instance's total. A key that has heard many instances
// has heard many restarts, and forgets all of them; they say where they stand.
const heardLua = `
local function spent(total, from, last)
  return math.max(total - math.max(from, tonumber(last) or 0), 0)
end
local function forget(key, last)
  if not last and redis.call('HLEN', key) > 130 then redis.call('DEL', key) end
end
`

// bucketLua: used is how much of a bucket is used, in nanoseconds of its flow, at the
// time at. A clock that goes back lets nothing flow until it is there again.
const bucketLua = `
local function used(u, at, elapsed)
  u = (tonumber(u) or 0) - math.max(now - (tonumber(at) or 0), 0) * 1000
  return math.max(u, -elapsed)
end
local function keep(key, u)
  redis.call('PEXPIRE', key, whole(math.max(u, 0) / 1000000 + 60000))
end
`

// bucketsLua: KEYS are buckets, ARGV the instance and then for each of them total,
// from and elapsed. The answer is what is used of each.
const bucketsLua = `
local out = {}
for i, key in ipairs(KEYS) do
  local a = i * 3 - 1
  local h = redis.call('HMGET', key, 'u', 'at', ARGV[1])
  local total = tonumber(ARGV[a])
  local new = spent(total, tonumber(ARGV[a+1]), h[3])
  local u = used(h[1], h[2], tonumber(ARGV[a+2]))
  if new > 0 then
    u = u + new
    forget(key, h[3])
    redis.call('HSET', key, 'u', whole(u), 'at', whole(now), ARGV[1], whole(total))
    keep(key, u)
  end
  out[i] = whole(u)
end
return out
`

// takeBucketLua: KEYS is a bucket, ARGV cost and bound. The answer is whether it was
// taken, and what is used.
const takeBucketLua = `
local h = redis.call('HMGET', KEYS[1], 'u', 'at')
local u = used(h[1], h[2], 0)
local cost = tonumber(ARGV[1])
if u + cost > tonumber(ARGV[2]) then return {0, whole(u)} end
u = math.max(u + cost, 0)
redis.call('HSET', KEYS[1], 'u', whole(u), 'at', whole(now))
keep(KEYS[1], u)
return {1, whole(u)}
`

// windowLua: the counts of the window that now is in, and of the one before. A clock
// that goes back stays in the window that it was in.
const windowLua = `
local function counts(w, c, p, length)
  local index = math.floor(now / length)
  w, c, p = tonumber(w), tonumber(c) or 0, tonumber(p) or 0
  if not w or w < index - 1 then return index, 0, 0 end
  if w == index - 1 then return index, 0, c end
  return w, c, p
end
local function keep(key, length)
  redis.call('PEXPIRE', key, whole(length / 500 + 60000))
end
local function position(w, length) return math.max(now - w * length, 0) end
`

// windowsLua: KEYS are windows, ARGV the instance and then for each of them total,
// from, how much of it is late, and the length in microseconds. The answer is three
// numbers for each: the two counts, and how far now is into the current window.
const windowsLua = `
local out = {}
for i, key in ipairs(KEYS) do
  local a = i * 4 - 2
  local length = tonumber(ARGV[a+3])
  local h = redis.call('HMGET', key, 'w', 'c', 'p', ARGV[1])
  local total = tonumber(ARGV[a])
  local new = spent(total, tonumber(ARGV[a+1]), h[4])
  local w, c, p = counts(h[1], h[2], h[3], length)
  if new > 0 then
    local late = math.min(new, tonumber(ARGV[a+2]))
    c, p = c + new - late, p + late
    forget(key, h[4])
    redis.call('HSET', key, 'w', whole(w), 'c', whole(c), 'p', whole(p), ARGV[1], whole(total))
    keep(key, length)
  end
  out[i*3-2], out[i*3-1], out[i*3] = whole(c), whole(p), whole(position(w, length))
end
return out
`

// takeWindowLua: KEYS is a window, ARGV cost, bound and length. The answer is whether
// it was taken, and as above.
const takeWindowLua = `
local length = tonumber(ARGV[3])
local h = redis.call('HMGET', KEYS[1], 'w', 'c', 'p')
local w, c, p = counts(h[1], h[2], h[3], length)
local pos = position(w, length)
local taken = 0
if c + p * math.max(length - pos, 0) / length < tonumber(ARGV[2]) then
  taken = 1
  c = math.max(c + tonumber(ARGV[1]), 0)
  redis.call('HSET', KEYS[1], 'w', whole(w), 'c', whole(c), 'p', whole(p))
  keep(KEYS[1], length)
end
return {taken, whole(c), whole(p), whole(pos)}
`

// beatLua: KEYS is the set of instances, ARGV the instance and for how many
// milliseconds it is believed. The answer is how many are alive.
const beatLua = `
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
redis.call('ZADD', KEYS[1], string.format('%.0f', now + ARGV[2]), ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', '(' .. string.format('%.0f', now))
redis.call('PEXPIRE', KEYS[1], ARGV[2] * 6)
return redis.call('ZCARD', KEYS[1])
`
