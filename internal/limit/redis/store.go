package redis

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"strconv"
	"time"

	"github.com/redis/rueidis"

	"millrace/internal/limit"
)

const (
	// shards is how many hash tags there are: enough to spread over a cluster's nodes,
	// few enough that a batch needs few calls.
	shards = 64
	// maxKeysPerCall bounds how long one call keeps the server from others: about
	// 0.3 ms.
	maxKeysPerCall = 64
)

var _ limit.Store = (*Redis)(nil)

// call is one call of a script.
type call struct {
	script  *script
	window  bool // of windows, and not of buckets
	keys    []string
	args    []string
	entries []int // their places in the exchange
}

// Exchange is limit.Store's.
func (r *Redis) Exchange(ctx context.Context, instance string, entries []limit.Entry) error {
	c, err := r.connect(ctx)
	if err != nil {
		return err
	}
	calls := r.calls(instance, entries)
	results := r.run(ctx, c, calls)
	var first error
	for i := range calls {
		if err := read(results[i], &calls[i], entries); err != nil && first == nil {
			first = err
		}
	}
	return r.explain(first)
}

// calls groups entries by script and hash tag.
func (r *Redis) calls(instance string, entries []limit.Entry) []call {
	type group struct {
		shard  uint32
		window bool
	}
	open := make(map[group]int, shards)
	calls := make([]call, 0, shards)
	for i := range entries {
		e := &entries[i]
		e.Done = false
		key, shard := r.key(e)
		g := group{shard, e.Window > 0}
		at, ok := open[g]
		if !ok || len(calls[at].keys) == maxKeysPerCall {
			at = len(calls)
			open[g] = at
			s := &r.lua.buckets
			if g.window {
				s = &r.lua.windows
			}
			calls = append(calls, call{script: s, window: g.window, args: []string{instance}})
		}
		cl := &calls[at]
		cl.keys, cl.entries = append(cl.keys, key), append(cl.entries, i)
		if g.window {
			cl.args = append(cl.args, number(e.Total), number(e.From), number(e.Late), number(e.Window.Microseconds()))
		} else {
			cl.args = append(cl.args, number(e.Total), number(e.From), number(int64(e.Elapsed)))
		}
	}
	return calls
}

// key names an entry, and says to which hash tag it belongs.
func (r *Redis) key(e *limit.Entry) (key string, shard uint32) {
	h := fnv.New32a()
	_, _ = h.Write([]byte(e.Limit))
	_, _ = h.Write([]byte{0})
	_, _ = h.Write([]byte(e.Key))
	shard = h.Sum32() % shards
	// The kind and the window's length are in it, so that a change of configuration
	// begins anew instead of reading something else.
	kind := "b"
	if e.Window > 0 {
		kind = "w" + number(e.Window.Milliseconds())
	}
	return r.o.Prefix + ":limit:{" + strconv.Itoa(int(shard)) + "}:" + kind + ":" + e.Limit + ":" + e.Key, shard
}

func number(n int64) string { return strconv.FormatInt(n, 10) }

// run runs all calls in one pipeline, and those once more whose script the server
// does not know.
func (r *Redis) run(ctx context.Context, c rueidis.Client, calls []call) []rueidis.RedisResult {
	commands := make(rueidis.Commands, len(calls))
	for i := range calls {
		commands[i] = c.B().Evalsha().Sha1(calls[i].script.sha).Numkeys(int64(len(calls[i].keys))).Key(calls[i].keys...).Arg(calls[i].args...).Build()
	}
	results := c.DoMulti(ctx, commands...)
	var again rueidis.Commands
	var places []int
	for i := range results {
		if e, ok := rueidis.IsRedisErr(results[i].Error()); ok && e.IsNoScript() {
			again = append(again, c.B().Eval().Script(calls[i].script.text).Numkeys(int64(len(calls[i].keys))).Key(calls[i].keys...).Arg(calls[i].args...).Build())
			places = append(places, i)
		}
	}
	if len(again) > 0 {
		for i, result := range c.DoMulti(ctx, again...) {
			results[places[i]] = result
		}
	}
	return results
}

// read reads the answer to a call into its entries.
func read(result rueidis.RedisResult, cl *call, entries []limit.Entry) error {
	numbers, err := result.AsIntSlice()
	if err != nil {
		return err
	}
	each := 1
	if cl.window {
		each = 3
	}
	if len(numbers) != each*len(cl.keys) {
		return fmt.Errorf("the script answered with %d numbers for %d keys; is something else answering in Redis's place?", len(numbers), len(cl.keys))
	}
	for i, place := range cl.entries {
		if each == 1 {
			entries[place].Used = time.Duration(numbers[i])
		} else {
			fillWindow(&entries[place], numbers[3*i:])
		}
		entries[place].Done = true
	}
	return nil
}

func fillWindow(e *limit.Entry, numbers []int64) {
	e.Current, e.Previous, e.Position = numbers[0], numbers[1], time.Duration(numbers[2])*time.Microsecond
}

// Take is limit.Store's. It does not connect: who waits for a decision does not wait
// for that.
func (r *Redis) Take(ctx context.Context, e *limit.Entry) error {
	c, err := r.connected()
	if err != nil {
		return err
	}
	if c == nil {
		return errNotConnected
	}
	key, _ := r.key(e)
	cl := call{script: &r.lua.takeBucket, keys: []string{key}, args: []string{number(e.Cost), number(e.Bound)}}
	if e.Window > 0 {
		cl.script, cl.args = &r.lua.takeWindow, append(cl.args, number(e.Window.Microseconds()))
	}
	numbers, err := r.run(ctx, c, []call{cl})[0].AsIntSlice()
	switch {
	case err != nil:
		return r.explain(err)
	case e.Window > 0 && len(numbers) == 4:
		fillWindow(e, numbers[1:])
	case e.Window == 0 && len(numbers) == 2:
		e.Used = time.Duration(numbers[1])
	default:
		return r.explain(errors.New("the script's answer is not its own; is something else answering in Redis's place?"))
	}
	e.Allowed, e.Done = numbers[0] == 1, true
	return nil
}

func (r *Redis) instances() string { return r.o.Prefix + ":limit:instances" }

// Beat is limit.Store's.
func (r *Redis) Beat(ctx context.Context, instance string, ttl time.Duration) (int, error) {
	c, err := r.connect(ctx)
	if err != nil {
		return 0, err
	}
	cl := call{script: &r.lua.beat, keys: []string{r.instances()}, args: []string{instance, number(ttl.Milliseconds())}}
	n, err := r.run(ctx, c, []call{cl})[0].AsInt64()
	return int(n), r.explain(err)
}

// Leave is limit.Store's.
func (r *Redis) Leave(ctx context.Context, instance string) error {
	c, err := r.connected()
	if c == nil || err != nil {
		return err
	}
	return r.explain(c.Do(ctx, c.B().Zrem().Key(r.instances()).Member(instance).Build()).Error())
}
