package redis

import (
	"context"
	"fmt"
	"math"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"millrace/internal/limit"
	"millrace/internal/servers"
	"millrace/internal/servers/servertest"
)

// shared is the server of the tests that do it no harm. Each has its own prefix.
var shared servertest.Shared

// testContext ends soon enough to say where a test hangs.
func testContext(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func connectTo(t testing.TB, s *servers.Redis, change func(*Options)) *Redis {
	t.Helper()
	o := Options{Addresses: []string{s.Addr()}, Password: s.Password(), Prefix: "test-" + t.Name()}
	if change != nil {
		change(&o)
	}
	r, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	return r
}

func exchange(t testing.TB, r *Redis, instance string, entries ...limit.Entry) []limit.Entry {
	t.Helper()
	if err := r.Exchange(testContext(t), instance, entries); err != nil {
		t.Fatal(err)
	}
	for i := range entries {
		if !entries[i].Done {
			t.Fatalf("entry %d has no answer", i)
		}
	}
	return entries
}

// used says how much of a bucket is used, which must have been want a moment ago.
func wantUsed(t testing.TB, what string, e *limit.Entry, want time.Duration) {
	t.Helper()
	if e.Used > want || e.Used < want-10*time.Second {
		t.Errorf("%s: %s are used, want %s or a moment less", what, e.Used, want)
	}
}

func TestWhatInstancesSpendOfABucketAddsUp(t *testing.T) {
	r := connectTo(t, shared.Redis(t), nil)
	const hour = time.Hour
	steps := []struct {
		name     string
		instance string
		entry    limit.Entry
		want     time.Duration
	}{
		{"nothing is used of a new bucket", "a", limit.Entry{}, 0},
		{"what one spends is used", "a", limit.Entry{Total: int64(hour)}, hour},
		{"a repetition counts once", "a", limit.Entry{Total: int64(hour)}, hour},
		{"of a larger total only what is new counts", "a", limit.Entry{Total: int64(3 * hour)}, 3 * hour},
		{"an older one that comes late does not count", "a", limit.Entry{Total: int64(2 * hour)}, 3 * hour},
		{"what another spends comes on top", "b", limit.Entry{Total: int64(hour)}, 4 * hour},
		{"one whose total was known elsewhere counts from there", "c", limit.Entry{Total: int64(9 * hour), From: int64(8 * hour)}, 5 * hour},
		{"what is forgotten does not count", "a", limit.Entry{Total: int64(9 * hour), From: int64(9 * hour)}, 5 * hour},
		{"and is forgotten for good", "a", limit.Entry{Total: int64(10 * hour), From: int64(9 * hour)}, 6 * hour},
		{"asking takes nothing", "d", limit.Entry{}, 6 * hour},
	}
	for _, s := range steps {
		s.entry.Limit, s.entry.Key = "events", "demo"
		got := exchange(t, r, s.instance, s.entry)
		wantUsed(t, s.name, &got[0], s.want)
	}
}

func TestABucketFlowsBackByTheServersClockAndForWhatWasSpentEarlier(t *testing.T) {
	server := shared.Redis(t)
	r := connectTo(t, server, nil)
	// An hour that was spent within the last hour has flowed back.
	got := exchange(t, r, "a", limit.Entry{Limit: "events", Key: "demo", Total: int64(time.Hour), Elapsed: time.Hour})
	if got[0].Used != 0 {
		t.Errorf("%s are used, want nothing", got[0].Used)
	}
	// But only once: another's hour in the same time comes on top.
	got = exchange(t, r, "b", limit.Entry{Limit: "events", Key: "demo", Total: int64(time.Hour), Elapsed: time.Hour})
	wantUsed(t, "another's hour", &got[0], time.Hour)
	// And a bucket is never fuller than full.
	exchange(t, r, "a", limit.Entry{Limit: "events", Key: "full", Total: int64(time.Second), Elapsed: time.Hour})
	got = exchange(t, r, "a", limit.Entry{Limit: "events", Key: "full", Total: int64(time.Second)})
	if got[0].Used != 0 {
		t.Errorf("%s are used of a full bucket, want nothing", got[0].Used)
	}
	before := exchange(t, r, "a", limit.Entry{Limit: "events", Key: "flow", Total: int64(time.Hour)})[0].Used
	for deadline := time.Now().Add(10 * time.Second); ; {
		after := exchange(t, r, "a", limit.Entry{Limit: "events", Key: "flow", Total: int64(time.Hour)})[0].Used
		if flowed := before - after; flowed > 20*time.Millisecond {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("nothing flows back")
		}
	}
}

func TestWhatInstancesSpendOfAWindowAddsUp(t *testing.T) {
	r := connectTo(t, shared.Redis(t), nil)
	entry := func(total, from, late int64) limit.Entry {
		return limit.Entry{Limit: "quota", Key: "demo", Window: 31 * 24 * time.Hour, Total: total, From: from, Late: late}
	}
	steps := []struct {
		name              string
		instance          string
		entry             limit.Entry
		current, previous int64
	}{
		{"a new window is empty", "a", entry(0, 0, 0), 0, 0},
		{"what one spends counts", "a", entry(100, 0, 0), 100, 0},
		{"a repetition counts once", "a", entry(100, 0, 0), 100, 0},
		{"what was spent in the window before counts there", "a", entry(150, 100, 30), 120, 30},
		{"a repetition of it too counts once", "a", entry(150, 100, 30), 120, 30},
		{"what another spends comes on top", "b", entry(7, 0, 0), 127, 30},
		{"a late one without anything new says nothing", "b", entry(7, 0, 7), 127, 30},
	}
	for _, s := range steps {
		got := exchange(t, r, s.instance, s.entry)[0]
		if got.Current != s.current || got.Previous != s.previous {
			t.Errorf("%s: got %d and %d before, want %d and %d", s.name, got.Current, got.Previous, s.current, s.previous)
		}
		if got.Position < 0 || got.Position >= s.entry.Window {
			t.Errorf("%s: position %s is not in a window of %s", s.name, got.Position, s.entry.Window)
		}
	}
}

func TestWindowsMoveOn(t *testing.T) {
	r := connectTo(t, shared.Redis(t), nil)
	const window = time.Second
	total := int64(0)
	spend := func(n int64) limit.Entry {
		total += n
		return exchange(t, r, "a", limit.Entry{Limit: "quota", Key: "demo", Window: window, Total: total, From: total - n})[0]
	}
	// until asks until the window has moved on.
	until := func(moved func(limit.Entry) bool) limit.Entry {
		for deadline := time.Now().Add(10 * time.Second); ; {
			if e := spend(0); moved(e) {
				return e
			}
			if time.Now().After(deadline) {
				t.Fatal("the window does not move on")
			}
		}
	}
	// From a window's beginning, so that there is time for two steps.
	position := spend(0).Position
	until(func(e limit.Entry) bool { moved := e.Position < position; position = e.Position; return moved })
	if e := spend(5); e.Current != 5 || e.Previous != 0 {
		t.Fatalf("got %d and %d, want 5 and none", e.Current, e.Previous)
	}
	if e := until(func(e limit.Entry) bool { return e.Current == 0 }); e.Previous != 5 {
		t.Errorf("the window before has %d, want 5", e.Previous)
	}
	if e := spend(2); e.Current != 2 || e.Previous != 5 {
		t.Errorf("got %d and %d, want 2 and 5", e.Current, e.Previous)
	}
	if e := until(func(e limit.Entry) bool { return e.Current == 0 }); e.Previous != 2 {
		t.Errorf("the window before has %d, want 2", e.Previous)
	}
	if e := until(func(e limit.Entry) bool { return e.Previous == 0 }); e.Current != 0 {
		t.Errorf("the window has %d, want none", e.Current)
	}
}

func TestTakingDecidesForAll(t *testing.T) {
	r := connectTo(t, shared.Redis(t), nil)
	take := func(e limit.Entry) limit.Entry {
		t.Helper()
		if err := r.Take(testContext(t), &e); err != nil {
			t.Fatal(err)
		}
		if !e.Done {
			t.Fatal("no answer")
		}
		return e
	}
	if err := r.Take(testContext(t), &limit.Entry{}); err != errNotConnected {
		t.Fatalf("got %v, want %v", err, errNotConnected)
	}
	if _, err := r.Beat(testContext(t), "a", time.Second); err != nil {
		t.Fatal(err)
	}
	bucket := limit.Entry{Limit: "orders", Key: "demo", Cost: int64(time.Hour), Bound: int64(3 * time.Hour)}
	for i := range 3 {
		got := take(bucket)
		wantUsed(t, fmt.Sprint("bucket ", i), &got, time.Duration(i+1)*time.Hour)
		if !got.Allowed {
			t.Errorf("%d of 3 is refused", i+1)
		}
	}
	// A moment has flowed back, but not an hour.
	if got := take(bucket); got.Allowed || got.Used > 3*time.Hour {
		t.Errorf("more than the bucket holds: %+v", got)
	}
	bucket.Cost, bucket.Bound = -int64(time.Hour), math.MaxInt64
	if got := take(bucket); !got.Allowed || got.Used > 2*time.Hour {
		t.Errorf("what is given back is not there: %+v", got)
	}
	window := limit.Entry{Limit: "quota", Key: "demo", Window: 31 * 24 * time.Hour, Cost: 1, Bound: 2}
	for i, want := range []bool{true, true, false} {
		got := take(window)
		if got.Allowed != want || got.Current != min(int64(i)+1, 2) {
			t.Errorf("unit %d of a window of 2: %+v", i+1, got)
		}
	}
	window.Cost, window.Bound = 10, math.MaxInt64
	if got := take(window); !got.Allowed || got.Current != 12 {
		t.Errorf("what was spent beyond the bound: %+v", got)
	}
	// Both ways to spend go into one count.
	if got := exchange(t, r, "a", limit.Entry{Limit: "quota", Key: "demo", Window: 31 * 24 * time.Hour, Total: 5})[0]; got.Current != 17 {
		t.Errorf("got %d, want 17", got.Current)
	}
}

func TestManyKeysOfAllKindsInOneExchange(t *testing.T) {
	server := shared.Redis(t)
	r := connectTo(t, server, nil)
	var entries []limit.Entry
	for i := range 10_000 {
		e := limit.Entry{Limit: "events", Key: fmt.Sprintf("tenant-%d {with} braces", i), Total: int64(time.Duration(i) * time.Hour)}
		if i%3 == 0 {
			e.Window, e.Total = 31*24*time.Hour, int64(i)
		}
		entries = append(entries, e)
	}
	for round := range 2 {
		for i, e := range exchange(t, r, "a", entries...) {
			if e.Window > 0 && e.Current != int64(i) || e.Window == 0 && (e.Used > time.Duration(i)*time.Hour || e.Used < time.Duration(i)*time.Hour-time.Minute) {
				t.Fatalf("round %d, entry %d: %+v", round, i, e)
			}
		}
	}
}

func TestTheServerMayForgetTheScripts(t *testing.T) {
	r := connectTo(t, servertest.Redis(t, servers.RedisOptions{}), nil)
	if _, err := r.Beat(testContext(t), "a", time.Minute); err != nil {
		t.Fatal(err)
	}
	c, err := r.connected()
	if err != nil {
		t.Fatal(err)
	}
	entry := limit.Entry{Limit: "events", Key: "demo", Total: int64(time.Hour)}
	exchange(t, r, "a", entry)
	if err := c.Do(testContext(t), c.B().ScriptFlush().Build()).Error(); err != nil {
		t.Fatal(err)
	}
	entry.Total = int64(2 * time.Hour)
	wantUsed(t, "after a flush of the scripts", &exchange(t, r, "a", entry)[0], 2*time.Hour)
}

func TestAKeyForgetsInstancesThatAreLongGone(t *testing.T) {
	r := connectTo(t, shared.Redis(t), nil)
	for i := range 400 {
		exchange(t, r, fmt.Sprint("instance-", i), limit.Entry{Limit: "events", Key: "demo", Total: int64(time.Hour)})
	}
	wantUsed(t, "with 400 instances", &exchange(t, r, "x", limit.Entry{Limit: "events", Key: "demo"})[0], 400*time.Hour)
	c, err := r.connected()
	if err != nil {
		t.Fatal(err)
	}
	key, _ := r.key(&limit.Entry{Limit: "events", Key: "demo"})
	n, err := c.Do(testContext(t), c.B().Hlen().Key(key).Build()).AsInt64()
	if err != nil || n > 133 {
		t.Errorf("%d fields, want at most 133: %v", n, err)
	}
}

func TestEveryKeyExpires(t *testing.T) {
	r := connectTo(t, servertest.Redis(t, servers.RedisOptions{}), nil)
	ctx := testContext(t)
	if _, err := r.Beat(ctx, "a", time.Second); err != nil {
		t.Fatal(err)
	}
	exchange(t, r, "a",
		limit.Entry{Limit: "events", Key: "b", Total: int64(time.Hour)},
		limit.Entry{Limit: "events", Key: "w", Window: time.Minute, Total: 1})
	for _, e := range []limit.Entry{{Limit: "orders", Key: "b", Cost: 1, Bound: 5}, {Limit: "orders", Key: "w", Window: time.Minute, Cost: 1, Bound: 5}} {
		if err := r.Take(ctx, &e); err != nil {
			t.Fatal(err)
		}
	}
	c, err := r.connected()
	if err != nil {
		t.Fatal(err)
	}
	keys, err := c.Do(ctx, c.B().Keys().Pattern("*").Build()).AsStrSlice()
	if err != nil || len(keys) != 5 {
		t.Fatalf("%d keys, want 5: %v %v", len(keys), keys, err)
	}
	for _, key := range keys {
		ms, err := c.Do(ctx, c.B().Pttl().Key(key).Build()).AsInt64()
		if err != nil || ms <= 0 || ms > (2*time.Hour).Milliseconds() {
			t.Errorf("%s expires in %d ms: %v", key, ms, err)
		}
	}
}

func TestInstancesAreCountedWhileTheyBeat(t *testing.T) {
	r := connectTo(t, shared.Redis(t), nil)
	ctx := testContext(t)
	beat := func(instance string, ttl time.Duration, want int) {
		t.Helper()
		if n, err := r.Beat(ctx, instance, ttl); err != nil || n != want {
			t.Errorf("%s: %d instances, want %d: %v", instance, n, want, err)
		}
	}
	beat("a", time.Hour, 1)
	beat("b", time.Hour, 2)
	beat("a", time.Hour, 2)
	beat("c", time.Hour, 3)
	if err := r.Leave(ctx, "b"); err != nil {
		t.Fatal(err)
	}
	beat("a", time.Hour, 2)
	// One that stops beating is not there any more after its time.
	beat("c", time.Millisecond, 2)
	for deadline := time.Now().Add(10 * time.Second); ; {
		n, err := r.Beat(ctx, "a", time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		if n == 1 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d instances, want 1", n)
		}
	}
}

func TestACallEndsWithItsContext(t *testing.T) {
	server := servertest.Redis(t, servers.RedisOptions{})
	r := connectTo(t, server, nil)
	if _, err := r.Beat(testContext(t), "a", time.Second); err != nil {
		t.Fatal(err)
	}
	if err := server.Pause(); err != nil {
		t.Fatal(err)
	}
	for name, f := range map[string]func(context.Context) error{
		"Exchange": func(ctx context.Context) error {
			return r.Exchange(ctx, "a", []limit.Entry{{Limit: "events", Key: "demo", Total: 1}})
		},
		"Take": func(ctx context.Context) error {
			return r.Take(ctx, &limit.Entry{Limit: "events", Key: "demo", Cost: 1, Bound: 1})
		},
		"Beat":  func(ctx context.Context) error { _, err := r.Beat(ctx, "a", time.Second); return err },
		"Leave": func(ctx context.Context) error { return r.Leave(ctx, "a") },
	} {
		ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
		began := time.Now()
		if err := f(ctx); err == nil {
			t.Errorf("%s: a server that is paused answers", name)
		}
		cancel()
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("%s took %s, want about 50 ms", name, took)
		}
	}
	if err := server.Resume(); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(20 * time.Second); ; {
		if _, err := r.Beat(testContext(t), "a", time.Second); err == nil {
			break
		} else if time.Now().After(deadline) {
			t.Fatalf("it does not come back: %v", err)
		}
	}
}

func TestOptionsThatMakeNoSenseAreRefusedAllAtOnce(t *testing.T) {
	_, err := New(Options{Addresses: []string{"redis-1"}, DB: -1, Prefix: "a{b", DialTimeout: -1})
	if err == nil {
		t.Fatal("accepted")
	}
	want := `redis: the address "redis-1" is not host:port; write one such as redis-1:6379
redis: database -1 is not possible; a cluster has only 0, a single server 0 and up
redis: the prefix "a{b" holds a brace, which would decide where in a cluster keys are; leave it out
redis: a dial timeout of -1ns is not possible; give one above zero`
	if diff := cmp.Diff(want, err.Error()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if _, err := New(Options{}); err == nil {
		t.Error("no address is accepted")
	}
}
