package redis_test

import (
	"context"
	"crypto/tls"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"millrace/internal/cache"
	"millrace/internal/cache/redis"
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

func connectTo(t testing.TB, s *servers.Redis, change func(*redis.Options)) *redis.Redis {
	t.Helper()
	// The directory is the test's own, in each of its runs another.
	o := redis.Options{Addresses: []string{s.Addr()}, Password: s.Password(), Prefix: filepath.Dir(t.TempDir()) + ":", DialTimeout: 5 * time.Second}
	if change != nil {
		change(&o)
	}
	r, err := redis.New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	return r
}

// remote is a Redis with the cache that a test is about.
type remote struct {
	t testing.TB
	r *redis.Redis
}

const name = "texts"

func checked(t testing.TB, r *redis.Redis) remote {
	t.Helper()
	if _, err := r.Check(testContext(t), name); err != nil {
		t.Fatal(err)
	}
	return remote{t, r}
}

func (r remote) read(key, token string) cache.Record {
	r.t.Helper()
	rec, err := r.r.Read(testContext(r.t), name, key, cache.Want{Left: time.Second, Token: token, Lease: time.Minute})
	if err != nil {
		r.t.Fatal(err)
	}
	return rec
}

// record is one that is fresh for a minute.
func record(v string, version, seq int64, tags ...string) cache.Record {
	return cache.Record{Data: []byte(v), Version: version, Tags: tags, Left: time.Minute, Keep: 2 * time.Minute, Seq: seq}
}

func (r remote) store(key, token string, rec cache.Record, want bool) {
	r.t.Helper()
	stored, err := r.r.Store(testContext(r.t), name, key, token, rec)
	if err != nil || stored != want {
		r.t.Fatalf("store of %s: %t, %v; want %t", key, stored, err, want)
	}
}

// load reads, stores what it "loaded", and must get a lease for it.
func (r remote) load(key, v string, version int64, tags ...string) {
	r.t.Helper()
	rec := r.read(key, "load")
	if !rec.Leased {
		r.t.Fatalf("no lease of %s: %+v", key, rec)
	}
	r.store(key, "load", record(v, version, rec.Seq, tags...), true)
}

func (r remote) tell(news ...cache.News) {
	r.t.Helper()
	for i := range news {
		news[i].Keep = time.Minute
	}
	if _, err := r.r.Tell(testContext(r.t), name, news); err != nil {
		r.t.Fatal(err)
	}
}

// want reads a key: empty is that there is nothing.
func (r remote) want(key, v string) {
	r.t.Helper()
	if rec := r.read(key, "look"); string(rec.Data) != v || rec.Found != (v != "") {
		r.t.Errorf("%s: got %+v, want %q", key, rec, v)
	} else if rec.Leased {
		if err := r.r.Release(testContext(r.t), name, key, "look"); err != nil {
			r.t.Error(err)
		}
	}
}

// onBoth runs a test with a server of its own and with a cluster.
func onBoth(t *testing.T, test func(t *testing.T, r remote)) {
	t.Run("alone", func(t *testing.T) { test(t, checked(t, connectTo(t, shared.Redis(t), nil))) })
	t.Run("cluster", func(t *testing.T) {
		s := servertest.Redis(t, servers.RedisOptions{Cluster: true})
		test(t, checked(t, connectTo(t, s, nil)))
	})
}

func TestALoadStoresOnlyWhileItsLeaseStands(t *testing.T) {
	onBoth(t, func(t *testing.T, r remote) {
		first := r.read("k", "first")
		if first.Found || !first.Leased {
			t.Fatalf("of nothing: %+v", first)
		}
		if rec := r.read("k", "second"); rec.Found || rec.Leased {
			t.Errorf("while another has the lease: %+v", rec)
		}
		if rec := r.read("k", "first"); !rec.Leased {
			t.Errorf("its owner lost it: %+v", rec)
		}
		r.store("k", "second", record("second's", 0, first.Seq), false)
		r.store("k", "first", record("first's", 0, first.Seq, "a tag", "\xff"), true)
		got, want := r.read("k", "second"), record("first's", 0, 0, "a tag", "\xff")
		want.Found, want.Keep = true, 0
		if diff := cmp.Diff(want, got, cmpopts.IgnoreFields(cache.Record{}, "Left", "Age", "Seq")); diff != "" {
			t.Error(diff)
		}
		if got.Left <= 50*time.Second || got.Left > time.Minute || got.Age < 0 || got.Age > 10*time.Second {
			t.Errorf("left %s, age %s", got.Left, got.Age)
		}
		r.store("k", "first", record("again", 0, first.Seq), false)

		for what, n := range map[string]cache.News{
			"invalidated": {Key: "k"}, "invalidated by a version": {Key: "k", Version: 5},
			"put": {Key: "k", Version: 6, Put: new(record("put", 6, first.Seq))},
		} {
			r.tell(cache.News{Key: "k"})
			if rec := r.read("k", "late"); !rec.Leased {
				t.Fatalf("%s: %+v", what, rec)
			}
			r.tell(n)
			r.store("k", "late", record("late", 9, first.Seq), false)
			if rec := r.read("k", "look"); string(rec.Data) == "late" {
				t.Errorf("%s: what was loaded before is there", what)
			}
		}
		if rec := r.read("released", "a"); !rec.Leased {
			t.Fatal(rec)
		}
		if err := r.r.Release(testContext(t), name, "released", "a"); err != nil {
			t.Fatal(err)
		}
		if rec := r.read("released", "b"); !rec.Leased {
			t.Errorf("a released lease stands: %+v", rec)
		}
	})
}

func TestWhatIsOverItsTimeIsFoundAndLeased(t *testing.T) {
	r := checked(t, connectTo(t, shared.Redis(t), nil))
	rec := r.read("k", "a")
	old := record("old", 0, rec.Seq)
	old.Left = time.Millisecond
	r.store("k", "a", old, true)
	deadline := time.Now().Add(10 * time.Second)
	for {
		rec = r.read("k", "b")
		if rec.Leased && rec.Found && string(rec.Data) == "old" && rec.Left <= 0 {
			break
		}
		if time.Now().After(deadline) || rec.Left > 0 && rec.Leased != (rec.Left < time.Second) {
			t.Fatalf("got %+v", rec)
		}
	}
	if rec := r.read("k", "c"); rec.Leased || !rec.Found {
		t.Errorf("while another has the lease: %+v", rec)
	}
	negative := cache.Record{Negative: true, Left: time.Minute, Keep: time.Minute, Seq: rec.Seq}
	r.store("k", "b", negative, true)
	if rec := r.read("k", "c"); !rec.Found || !rec.Negative || rec.Leased {
		t.Errorf("got %+v", rec)
	}
}

func TestVersionsDecideWhatIsKept(t *testing.T) {
	const huge = 1<<62 + 1 // beyond Lua's numbers
	onBoth(t, func(t *testing.T, r remote) {
		seq := r.read("any", "x").Seq
		put := func(v string, version int64) cache.News {
			return cache.News{Key: "k", Version: version, Put: new(record(v, version, seq))}
		}
		invalidate := func(version int64) cache.News { return cache.News{Key: "k", Version: version} }
		for _, c := range []struct {
			name string
			news []cache.News
			want string
		}{
			{"a newer put replaces", []cache.News{put("1", 1), put("2", 2)}, "2"},
			{"an older put does not", []cache.News{put("2", 2), put("1", 1)}, "2"},
			{"digits are compared as numbers", []cache.News{put("9", 9), put("10", 10)}, "10"},
			{"large numbers are told apart", []cache.News{put("more", huge), put("less", huge-1)}, "more"},
			{"an invalidation of what is there keeps it", []cache.News{put("2", 2), invalidate(2)}, "2"},
			{"an invalidation by something newer removes it", []cache.News{put("2", 2), invalidate(3)}, ""},
			{"an invalidation without a version removes anything", []cache.News{put("2", 2), invalidate(0)}, ""},
			{"a put that comes later than a newer invalidation is refused", []cache.News{invalidate(3), put("2", 2)}, ""},
			{"the put that was announced is taken", []cache.News{invalidate(3), put("3", 3)}, "3"},
		} {
			t.Run(c.name, func(t *testing.T) {
				r := r
				r.t = t
				for i, n := range c.news {
					n.Key = t.Name()
					c.news[i] = n
					r.tell(n)
				}
				r.want(t.Name(), c.want)
				r.tell(c.news...) // told again, in any order, it comes to the same in the end
			})
		}
		r.tell(cache.News{Key: "lag", Version: 7})
		if rec := r.read("lag", "a"); !rec.Leased {
			t.Fatal(rec)
		}
		r.store("lag", "a", record("6", 6, seq), false) // loaded after, from a replica that lags
		r.want("lag", "")
	})
}

func TestTagsAndDistrustDisbelieveWhatWasLoadedBefore(t *testing.T) {
	onBoth(t, func(t *testing.T, r remote) {
		r.load("a", "a", 0, "x")
		r.load("b", "b", 0, "x", "y")
		r.load("c", "c", 0)
		slow := r.read("slow", "slow")
		r.tell(cache.News{Tag: "x"})
		r.store("slow", "slow", record("slow", 0, slow.Seq, "x"), true) // its load began before
		for key, v := range map[string]string{"a": "", "b": "", "c": "c", "slow": ""} {
			r.want(key, v)
		}
		r.load("a", "a2", 0, "x")
		r.want("a", "a2")
		r.tell(cache.News{Tag: "y"})
		r.want("a", "a2")
		if err := r.r.Distrust(testContext(t), name); err != nil {
			t.Fatal(err)
		}
		r.want("a", "")
		r.want("c", "")
		r.load("c", "c2", 0)
		r.want("c", "c2")
	})
}

func TestAServerThatWasRestartedIsNotBelievedInWhatItHasFromBefore(t *testing.T) {
	ctx := testContext(t)
	s := servertest.Redis(t, servers.RedisOptions{Durable: true})
	one, two := checked(t, connectTo(t, s, nil)), checked(t, connectTo(t, s, nil))
	one.load("k", "old", 0)
	two.want("k", "old")
	if err := s.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := s.Restart(ctx); err != nil {
		t.Fatal(err)
	}
	// The first finds that the connection is gone, the others read nothing over a new
	// one before it was checked.
	for range 5 {
		if rec, err := one.r.Read(ctx, name, "k", cache.Want{Token: "t", Lease: time.Minute}); err == nil {
			t.Errorf("read without a check: %+v", rec)
		}
	}
	recheck(t, one.r) // the first call may find that the connection is gone
	one.want("k", "")
	one.load("k", "new", 0)
	// The other one finds that somebody has checked: what is new is believed.
	recheck(t, two.r)
	two.want("k", "new")
}

// recheck checks until it succeeds.
func recheck(t *testing.T, r *redis.Redis) {
	t.Helper()
	eventually(t, "Redis is checked", func() bool {
		_, err := r.Check(testContext(t), name)
		return err == nil
	})
}

func TestAPutThatIsOlderThanAnInvalidationWithoutAVersionIsRefused(t *testing.T) {
	r := checked(t, connectTo(t, shared.Redis(t), nil))
	before := r.read("any", "x").Seq
	r.tell(cache.News{Key: "k"})
	r.tell(cache.News{Key: "k", Version: 1, Put: new(record("before", 1, before))})
	r.want("k", "")
	r.tell(cache.News{Key: "k", Version: 1, Put: new(record("after", 1, r.read("any", "y").Seq))})
	r.want("k", "after")
}

func TestAPutFromBeforeAFlushIsNotBelieved(t *testing.T) {
	s := servertest.Redis(t, servers.RedisOptions{})
	r := checked(t, connectTo(t, s, nil))
	before := r.read("any", "x").Seq
	if err := s.Flush(testContext(t)); err != nil {
		t.Fatal(err)
	}
	r.want("any", "")
	// The flush may have taken the word of something newer with it.
	r.tell(cache.News{Key: "k", Version: 1, Put: new(record("before", 1, before))})
	r.want("k", "")
}

func TestAServerThatWasFlushedIsEmptyAndLeasesAreGone(t *testing.T) {
	ctx := testContext(t)
	s := servertest.Redis(t, servers.RedisOptions{})
	r := checked(t, connectTo(t, s, nil))
	r.load("k", "v", 0, "t")
	rec := r.read("slow", "slow")
	if err := s.Flush(ctx); err != nil {
		t.Fatal(err)
	}
	r.store("slow", "slow", record("slow", 0, rec.Seq), false)
	r.want("k", "")
	r.load("k", "v2", 0, "t")
	r.want("k", "v2")
	r.tell(cache.News{Tag: "t"})
	r.want("k", "")
}

func TestWhoIsNotLetInIsToldWhatToDo(t *testing.T) {
	certificate := servertest.Certificate(t, "redis")
	trusting, err := certificate.ClientConfig()
	if err != nil {
		t.Fatal(err)
	}
	plain := shared.Redis(t)
	secure := servertest.Redis(t, servers.RedisOptions{Options: servers.Options{TLS: certificate}})
	if _, err := plain.Do(testContext(t), "ACL", "SETUSER", "reader", "on", ">letmein-77", "~*", "+@read", "+info"); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name   string
		server *servers.Redis
		change func(*redis.Options)
		want   string // empty if it is let in
	}{
		{"the right password", plain, nil, ""},
		{"TLS", secure, func(o *redis.Options) { o.TLS = trusting }, ""},
		{"another password", plain, func(o *redis.Options) { o.Password = "hunter2" }, "it refuses the user or the password"},
		{"no password", plain, func(o *redis.Options) { o.Password = "" }, "it wants a password"},
		{"a user who may only read", plain, func(o *redis.Options) { o.Username, o.Password = "reader", "letmein-77" }, "the user may not do that; allow it"},
		{"another database", plain, func(o *redis.Options) { o.DB = 9 }, "it has no database 9"},
		{"no TLS where there is", secure, nil, "switch TLS on"},
		{"a certificate of a stranger", secure, func(o *redis.Options) { o.TLS = &tls.Config{ServerName: "localhost"} }, "its certificate is not trusted"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := connectTo(t, c.server, c.change).Check(testContext(t), name)
			switch {
			case c.want == "" && err != nil:
				t.Error(err)
			case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
				t.Errorf("got %v, want %q", err, c.want)
			case err != nil && (strings.Contains(err.Error(), "hunter2") || strings.Contains(err.Error(), "letmein-77")):
				t.Errorf("the password is in the error: %v", err)
			}
		})
	}
}

func TestOptionsThatCannotBeAreExplained(t *testing.T) {
	for _, c := range []struct {
		name, want string
		o          redis.Options
	}{
		{"no address", "no address", redis.Options{}},
		{"an address without a port", "is not host:port", redis.Options{Addresses: []string{"redis"}}},
		{"a database of a cluster", "database 3 is not possible", redis.Options{Addresses: []string{"a:1", "b:1"}, DB: 3}},
		{"a brace in the prefix", "holds a brace", redis.Options{Addresses: []string{"a:1"}, Prefix: "{x}"}},
		{"a negative timeout", "a dial timeout of -1s is not possible", redis.Options{Addresses: []string{"a:1"}, DialTimeout: -time.Second}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if _, err := redis.New(c.o); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

// do makes a call of Redis as somebody else would.
func (r remote) do(s *servers.Redis, args ...string) {
	r.t.Helper()
	if _, err := s.Do(testContext(r.t), args...); err != nil {
		r.t.Fatal(err)
	}
}

func TestAfterTheServersClockWentBackEntriesAreOverTheirTimeAndLeasesHaveEnded(t *testing.T) {
	s := shared.Redis(t)
	o := redis.Options{Prefix: filepath.Dir(t.TempDir()) + ":"}
	r := checked(t, connectTo(t, s, func(own *redis.Options) { own.Prefix = o.Prefix }))
	const hour = "3600000"
	r.load("k", "v", 1)
	key := o.Prefix + name + ":e:k"
	r.do(s, "HINCRBY", key, "x", hour)
	r.do(s, "HINCRBY", key, "t", hour)
	rec := r.read("k", "a")
	if !rec.Found || !rec.Leased || rec.Left > 0 || rec.Age != 0 {
		t.Errorf("an entry from the future: %+v", rec)
	}
	r.do(s, "HINCRBY", key, "u", hour)
	if rec := r.read("k", "b"); !rec.Leased {
		t.Errorf("a lease without end: %+v", rec)
	}
}

func TestAKeyThatHoldsSomethingElseIsDeletedAndCostsNothingElse(t *testing.T) {
	s := shared.Redis(t)
	for _, c := range []struct {
		name string
		key  string // after the cache's name
		set  func(key string) []string
	}{
		{"an entry that is a text", ":e:bad", func(k string) []string { return []string{"SET", k, "x"} }},
		{"an entry without its times", ":e:bad", func(k string) []string { return []string{"HSET", k, "s", "9999999999999999", "n", "x", "d", "v"} }},
		{"an entry whose counter is none", ":e:bad", func(k string) []string { return []string{"HSET", k, "s", "much"} }},
		{"an entry whose version is none", ":e:bad", func(k string) []string {
			return []string{"HSET", k, "s", "9999999999999999", "n", "x", "d", "v", "x", "9999999999999", "t", "1", "g", "", "f", ""}
		}},
		{"a tag that is a list", ":t:bad", func(k string) []string { return []string{"RPUSH", k, "x"} }},
		{"the counter is a list", ":m", func(k string) []string { return []string{"RPUSH", k, "x"} }},
	} {
		for _, first := range []string{"read", "told", "checked"} {
			t.Run(c.name+", "+first, func(t *testing.T) {
				prefix := filepath.Dir(t.TempDir()) + ":"
				r := checked(t, connectTo(t, s, func(o *redis.Options) { o.Prefix = prefix }))
				r.load("bad", "old", 1, "bad")
				r.do(s, "DEL", prefix+name+c.key)
				r.do(s, c.set(prefix+name+c.key)...)
				switch first {
				case "read":
					if rec := r.read("bad", "a"); rec.Found || !rec.Leased {
						t.Errorf("got %+v", rec)
					}
				case "told":
					r.tell(cache.News{Key: "bad", Version: 2}, cache.News{Tag: "bad"}, cache.News{Key: "good", Version: 2})
				case "checked":
					if _, err := r.r.Check(testContext(t), name); err != nil {
						t.Fatal(err)
					}
				}
				r.tell(cache.News{Key: "bad"}, cache.News{Tag: "bad"})
				r.load("good", "good", 3)
				r.load("bad", "new", 3, "bad")
				r.want("bad", "new")
				r.want("good", "good")
				// What is told of an entry may overwrite it before it is looked at.
				if n := r.r.Unreadable(name); n > 1 || n == 0 && first == "read" {
					t.Errorf("%d were counted", n)
				}
			})
		}
	}
}

func TestVersionsThatTheDatabaseHasLostAreForgotten(t *testing.T) {
	r := checked(t, connectTo(t, shared.Redis(t), nil))
	r.load("k", "v7", 7)
	r.tell(cache.News{Key: "k", Version: 8})
	r.tell(cache.News{Key: "k", Forget: true})
	r.want("k", "")
	r.load("k", "v5", 5)
	r.want("k", "v5")
}
