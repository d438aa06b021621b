package redis

import (
	"context"
	"strings"

	"github.com/redis/rueidis"
)

// A key that holds something else than what this package writes, because somebody
// else uses it or a program of another version did, must cost that key alone: it is
// deleted, and what was called is called again. Whatever else a server answers is
// about the server, and then it counts as away.

// misused says whether an error is about what a key holds: its type, or a script's
// that met what it does not expect.
func misused(err error) bool {
	e, ok := rueidis.IsRedisErr(err)
	if !ok {
		return false
	}
	text := e.Error()
	return strings.Contains(text, "WRONGTYPE") ||
		strings.Contains(text, "user_script") && (strings.Contains(text, "attempt to ") || strings.Contains(text, "bad argument"))
}

// mend deletes a key. What it knew of versions is lost, as it was before.
func (r *Redis) mend(ctx context.Context, c rueidis.Client, s *space, key string, why error) error {
	s.unreadable.Add(1)
	r.o.Logger.Warn("cache: a key in Redis holds something else than this program writes and is deleted; does another program use the same prefix?", "redis", r.where(), "prefix", r.o.Prefix, "error", why)
	return c.Do(ctx, c.B().Unlink().Key(key).Build()).Error()
}

// runOne makes one call, again if its key was misused.
func (r *Redis) runOne(ctx context.Context, c rueidis.Client, s *space, cl call) rueidis.RedisResult {
	result := run(ctx, c, nil, cl)[0]
	if err := result.Error(); misused(err) && r.mend(ctx, c, s, cl.key, err) == nil {
		result = run(ctx, c, nil, cl)[0]
	}
	return result
}

// Unreadable is how many keys of a cache held something else and were deleted.
func (r *Redis) Unreadable(name string) int64 { return r.space(name).unreadable.Load() }
