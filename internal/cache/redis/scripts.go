package redis

import (
	"context"
	"crypto/sha1"
	"encoding/hex"

	"github.com/redis/rueidis"
)

// script is a Lua script and the hash by which the server knows it.
type script struct{ text, sha string }

func newScript(text string) script {
	sum := sha1.Sum([]byte(text))
	return script{text: text, sha: hex.EncodeToString(sum[:])}
}

// scripts are all that is run. An entry's fields are
//
//	d  the value            x  fresh until, ms        t  loaded at, ms
//	n  its version          s  its counter of tags    g  its tags       f  "n" if negative
//	m  the version below which nothing is taken
//	i  the counter below which no put is taken
//	l  the lease's token    u  the lease is until, ms
//
// Versions are 19 digits, compared as text, since Lua's numbers end at 2^53. Counters
// are numbers: microseconds since 1970 and a few.
type scripts struct{ read, store, release, put, invalidate, tag, check, raise script }

func newScripts() scripts {
	return scripts{
		read:       newScript(millisecondsLua + readLua),
		store:      newScript(millisecondsLua + writeLua + storeLua),
		release:    newScript(releaseLua),
		put:        newScript(millisecondsLua + writeLua + dropLua + putLua),
		invalidate: newScript("local key = KEYS[1]\n" + dropLua + invalidateLua),
		tag:        newScript(tagLua),
		check:      newScript(counterLua + checkLua),
		raise:      newScript(counterLua + raiseLua),
	}
}

const millisecondsLua = `
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local function whole(n) return string.format('%.0f', n) end
local key = KEYS[1]
`

// readLua: ARGV are the counter below which the entry is not believed, how long it is
// to be fresh still, the token and the lease's length. The answer is whether there is
// an entry, whether the lease was given, and the entry. What is from the future was
// written before the server's clock was set back: it is over its time, as a lease is
// that is longer than any.
const readLua = `
local h = redis.call('HMGET', key, 'd', 'x', 't', 'n', 's', 'g', 'f', 'l', 'u')
local found = h[5] and tonumber(h[5]) >= tonumber(ARGV[1])
if h[5] and not found then redis.call('HDEL', key, 'd', 'x', 't', 'n', 's', 'g', 'f') end
local left = found and h[2] - now or 0
if found and h[3] - now > 1000 then left = math.min(left, 0) end
local leased = 0
if not found or left < tonumber(ARGV[2]) then
  if not h[8] or h[8] == ARGV[3] or tonumber(h[9]) <= now or h[9] - now > tonumber(ARGV[4]) then
    redis.call('HSET', key, 'l', ARGV[3], 'u', whole(now + ARGV[4]))
    if redis.call('PTTL', key) < tonumber(ARGV[4]) then redis.call('PEXPIRE', key, ARGV[4]) end
    leased = 1
  end
end
if not found then return {0, leased} end
return {1, leased, h[1], h[4], h[6], h[7], whole(left), whole(now - h[3]), h[5]}
`

// writeLua: ARGV are the value, version, counter, tags, how long it is fresh and there,
// and "n" if it is negative.
const writeLua = `
local none = string.rep('0', 19)
local function write(floors)
  redis.call('HSET', key, 'd', ARGV[1], 'n', ARGV[2], 's', ARGV[3], 'g', ARGV[4],
    'x', whole(now + ARGV[5]), 't', whole(now), 'f', ARGV[7])
  if ARGV[2] ~= none then redis.call('HSET', key, 'm', ARGV[2]) end
  local keep = tonumber(ARGV[6])
  if floors then keep = math.max(keep, redis.call('PTTL', key)) end
  redis.call('PEXPIRE', key, whole(keep))
  return 1
end
`

// storeLua: ARGV[8] is the token.
const storeLua = `
local h = redis.call('HMGET', key, 'l', 'u', 'm', 'i')
if h[1] ~= ARGV[8] then return 0 end
redis.call('HDEL', key, 'l', 'u')
if tonumber(h[2]) <= now or ARGV[2] ~= none and h[3] and ARGV[2] < h[3] then return 0 end
return write(h[3] or h[4])
`

const releaseLua = `
if redis.call('HGET', KEYS[1], 'l') ~= ARGV[1] then return 0 end
redis.call('HDEL', KEYS[1], 'l', 'u')
return 1
`

// dropLua ends the lease, removes what is older than v, and has that remembered.
const dropLua = `
local function drop(v, remembered)
  local h = redis.call('HMGET', key, 's', 'n', 'm')
  redis.call('HDEL', key, 'l', 'u')
  if not (h[1] and v ~= string.rep('0', 19) and h[2] >= v) then
    redis.call('HDEL', key, 'd', 'x', 't', 'n', 's', 'g', 'f')
    h[1] = false
  end
  if v == string.rep('0', 19) then
    redis.call('HSET', key, 'i', ARGV[3])
  elseif not h[3] or h[3] < v then
    redis.call('HSET', key, 'm', v)
  end
  local keep = tonumber(remembered)
  if not h[1] or redis.call('PTTL', key) < keep then redis.call('PEXPIRE', key, keep) end
end
`

// putLua: ARGV[8] is until when it may be done, and ARGV[9] for how long the change is
// remembered. What it may not store is an invalidation still. It ends the lease in any
// case: what is being loaded may be older. If it is late, the answer is minus the time.
const putLua = `
local h = redis.call('HMGET', key, 'm', 'i')
redis.call('HDEL', key, 'l', 'u')
if h[1] and ARGV[2] < h[1] then return 0 end
local late = now > tonumber(ARGV[8])
if late or h[2] and tonumber(ARGV[3]) < tonumber(h[2]) then
  drop(ARGV[2], ARGV[9])
  return late and -now or 0
end
return write(h[1] or h[2])
`

// invalidateLua: ARGV are the version, for how long it is remembered, the counter,
// and "1" to forget all versions first.
const invalidateLua = `
if ARGV[4] == '1' then redis.call('DEL', key) end
drop(ARGV[1], ARGV[2])
return 1
`

// tagLua: ARGV are the counter and for how long it is remembered.
const tagLua = `
local v = redis.call('GET', KEYS[1])
if v and tonumber(v) > tonumber(ARGV[1]) then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
`

// counterLua: a counter that was lost goes on above all it ever was, by the clock.
const counterLua = `
local t = redis.call('TIME')
local key = KEYS[1]
local function raise(s)
  return string.format('%.0f', math.max((tonumber(s) or 0) + 1, t[1] * 1000000 + t[2]))
end
`

// checkLua: ARGV are the servers. If they are not those of before, the epoch is
// raised. The answer is the counter, the epoch, whether it was raised because of the
// servers, and the time in milliseconds.
const checkLua = `
local h = redis.call('HMGET', key, 's', 'a', 'r')
local now = string.format('%.0f', t[1] * 1000 + math.floor(t[2] / 1000))
if h[1] and h[2] and h[3] == ARGV[1] then return {h[1], h[2], 0, now} end
local s = raise(h[1])
redis.call('HSET', key, 's', s, 'a', s, 'r', ARGV[1])
return {s, s, h[3] and h[3] ~= ARGV[1] and 1 or 0, now}
`

// raiseLua: ARGV says whether the epoch is raised too. The answer is the counter.
const raiseLua = `
local s = raise(redis.call('HGET', key, 's'))
redis.call('HSET', key, 's', s)
if ARGV[1] == '1' then redis.call('HSET', key, 'a', s) end
return s
`

// call is one call of a script on one key.
type call struct {
	script *script
	key    string
	args   []string
}

// run runs calls after commands in one pipeline, and those calls once more whose
// script the server does not know. Neither their order nor that all of them run is
// certain.
func run(ctx context.Context, c rueidis.Client, first rueidis.Commands, calls ...call) []rueidis.RedisResult {
	commands := first
	for _, cl := range calls {
		commands = append(commands, c.B().Evalsha().Sha1(cl.script.sha).Numkeys(1).Key(cl.key).Arg(cl.args...).Build())
	}
	results := c.DoMulti(ctx, commands...)
	var again rueidis.Commands
	var places []int
	for i := range calls {
		at := i + len(first)
		if e, ok := rueidis.IsRedisErr(results[at].Error()); ok && e.IsNoScript() {
			again = append(again, c.B().Eval().Script(calls[i].script.text).Numkeys(1).Key(calls[i].key).Arg(calls[i].args...).Build())
			places = append(places, at)
		}
	}
	if len(again) > 0 {
		for i, result := range c.DoMulti(ctx, again...) {
			results[places[i]] = result
		}
	}
	return results
}
