package cache_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"millrace/internal/cache"
)

// level is a second level that answers as a test says.
type level struct {
	mu     sync.Mutex
	answer cache.Record
	err    error // of Tell
	told   []cache.News
	reads  int
}

func (l *level) set(r cache.Record) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.answer = r
}

func (l *level) Check(context.Context, string) (int64, error) { return 1, nil }

func (l *level) Read(context.Context, string, string, cache.Want) (cache.Record, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.reads++
	return l.answer, nil
}

func (l *level) Store(context.Context, string, string, string, cache.Record) (bool, error) {
	return true, nil
}

func (l *level) Release(context.Context, string, string, string) error { return nil }

func (l *level) Tell(_ context.Context, _ string, news []cache.News) (int64, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err == nil {
		l.told = append(l.told, news...)
	}
	return 2, l.err
}

func (l *level) Distrust(context.Context, string) error { return nil }

// over opens a cache over a second level that is in use.
func over(t testing.TB, l *level, change func(*cache.Options[string])) *cache.Cache[string] {
	t.Helper()
	c := open(t, func(o *cache.Options[string]) {
		o.Remote = l
		o.Encode = func(v string) ([]byte, error) { return []byte(v), nil }
		o.Decode = func(b []byte) (string, error) { return string(b), nil }
		if change != nil {
			change(o)
		}
	})
	synctest.Wait()
	return c
}

// A revoked key is such a value: what the database cannot say, the second level knows.
func TestWhatIsOverItsTimeInTheSecondLevelButNewerThanWhatIsInRAMIsServedInItsPlace(t *testing.T) {
	record := func(v string, version int64, left time.Duration) cache.Record {
		return cache.Record{Found: true, Leased: true, Data: []byte(v), Version: version, Age: time.Second, Left: left}
	}
	for _, c := range []struct {
		name   string
		answer cache.Record
		want   string // empty: the load's error
	}{
		{"newer", record("revoked", 2, -time.Second), "revoked"},
		{"newer, and another instance has the lease", func() cache.Record { r := record("revoked", 2, -time.Second); r.Leased = false; return r }(), "revoked"},
		{"the same", record("other", 1, -time.Second), "live"},
		{"older", record("older", 0, -time.Second), "live"},
		{"newer, and too old to be served at all", record("revoked", 2, -time.Hour), ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := &level{answer: cache.Record{Leased: true}}
				ca := over(t, l, nil)
				want(t, ca, "k", versioned("live", 1), "live", "load")
				l.set(c.answer)
				time.Sleep(11 * time.Second)
				e, err := ca.Get(t.Context(), "k", failing(errAway))
				if c.want == "" {
					if !errors.Is(err, errAway) {
						t.Errorf("got %+v, %v", e, err)
					}
					return
				}
				if err != nil || e.Value != c.want || !e.Stale {
					t.Errorf("got %+v, %v; want %q", e, err, c.want)
				}
			})
		})
	}
}

func TestAValueOfTheSecondLevelThatCannotBeUsedIsLoadedInstead(t *testing.T) {
	type box struct{ text string }
	for _, c := range []struct{ name, data string }{{"nil", "nil"}, {"its decoding panics", "panic"}, {"its weighing panics", "heavy"}} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				reg := prometheus.NewRegistry()
				ca, err := cache.New(cache.Options[*box]{
					Name:    "boxes",
					Metrics: cache.NewMetrics(reg),
					Remote:  &level{answer: cache.Record{Found: true, Data: []byte(c.data), Left: time.Second}},
					Weigh: func(_ string, b *box) int {
						if b != nil && b.text == "heavy" {
							panic("too heavy")
						}
						return 1
					},
					Encode: func(b *box) ([]byte, error) { return []byte(b.text), nil },
					Decode: func(b []byte) (*box, error) {
						switch string(b) {
						case "nil":
							return nil, nil
						case "panic":
							panic("oh no")
						}
						return &box{string(b)}, nil
					},
				})
				if err != nil {
					t.Fatal(err)
				}
				defer ca.Close()
				synctest.Wait()
				e, err := ca.Get(t.Context(), "k", func(context.Context) (cache.Loaded[*box], error) {
					return cache.Loaded[*box]{Value: &box{"loaded"}}, nil
				})
				if err != nil || e.Value.text != "loaded" || e.Level != "load" {
					t.Errorf("got %+v, %v", e, err)
				}
				if n := metric(t, reg, "millrace_cache_remote_errors_total", "op", "decode"); n != 1 {
					t.Errorf("%g were counted", n)
				}
			})
		})
	}
}

func TestAValueWhoseWeightOrBytesCannotBeSaidCostsAnErrorAndNotTheProcess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &level{answer: cache.Record{Leased: true}}
		ca := over(t, l, func(o *cache.Options[string]) {
			o.Weigh = func(_, v string) int {
				if v == "heavy" {
					panic("too heavy")
				}
				return 1
			}
			o.Encode = func(v string) ([]byte, error) {
				if v == "secret" {
					panic("oh no")
				}
				return []byte(v), nil
			}
		})
		if _, err := ca.Get(t.Context(), "k", value("heavy")); err == nil || !strings.Contains(err.Error(), "Weigh panicked: too heavy") {
			t.Errorf("got %v", err)
		}
		want(t, ca, "k", value("light"), "light", "load")
		want(t, ca, "unencoded", value("secret"), "secret", "load")
		ca.Put(t.Context(), "k", cache.Loaded[string]{Value: "heavy", Version: 3}) // no better than an invalidation
		want(t, ca, "k", versioned("light", 3), "light", "load")
		ca.Put(t.Context(), "put", cache.Loaded[string]{Value: "secret", Version: 4})
		synctest.Wait()
		want(t, ca, "put", unwanted(t), "secret", "ram")
	})
}

func TestWhoFindsThatAnotherInstanceLoadsWaitsForItAWhileAndThenLoadsWithinTheSameTime(t *testing.T) {
	for _, c := range []struct {
		name             string
		soft, hard, wait time.Duration
		want             time.Duration
	}{
		{"by default", 0, 0, 0, 250 * time.Millisecond},
		{"not less than the soft timeout", time.Second, 0, 0, time.Second},
		{"half the time of a load at the most", 0, 300 * time.Millisecond, 0, 150 * time.Millisecond},
		{"as set", 0, 0, 2 * time.Second, 2 * time.Second},
		{"not at all", 0, 0, -1, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ca := over(t, &level{}, func(o *cache.Options[string]) { // it says that another has the lease
					o.SoftTimeout, o.HardTimeout, o.LeaseWait = c.soft, c.hard, c.wait
				})
				began, hard := time.Now(), c.hard
				if hard == 0 {
					hard = cache.DefaultHardTimeout
				}
				want(t, ca, "k", value("v"), "v", "load")
				if took := time.Since(began); took > c.want || took < c.want-50*time.Millisecond {
					t.Errorf("it loaded after %s, want up to %s", took, c.want)
				}
				began = time.Now()
				_, err := ca.Get(t.Context(), "hangs", func(ctx context.Context) (cache.Loaded[string], error) {
					<-ctx.Done()
					return cache.Loaded[string]{}, ctx.Err()
				})
				if took := time.Since(began); err == nil || took != hard {
					t.Errorf("a load that hangs ended after %s with %v, want %s", took, err, hard)
				}
			})
		})
	}
}

func TestWhatTheSecondLevelSaysIsFreshForLongIsFreshForTTL(t *testing.T) {
	for _, c := range []struct {
		name   string
		answer cache.Record
		fresh  time.Duration
	}{
		{"a value", cache.Record{Found: true, Data: []byte("old"), Left: time.Hour}, 10 * time.Second},
		{"that there is nothing", cache.Record{Found: true, Negative: true, Left: time.Hour}, 2 * time.Second},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := &level{answer: c.answer}
				ca := over(t, l, func(o *cache.Options[string]) { o.NegativeTTL = 2 * time.Second })
				_, _ = ca.Get(t.Context(), "k", unwanted(t))
				l.set(cache.Record{Leased: true})
				time.Sleep(c.fresh - 1)
				_, _ = ca.Get(t.Context(), "k", unwanted(t))
				time.Sleep(time.Nanosecond)
				want(t, ca, "k", value("new"), "new", "load")
			})
		})
	}
}

func TestWhatAnInstanceWithoutASecondLevelChangesIsNotReadFromThere(t *testing.T) {
	ctx := context.Background()
	for name, change := range map[string]func(c *cache.Cache[string]){
		"invalidated": func(c *cache.Cache[string]) { c.Invalidate(ctx, cache.Change{Key: "k"}) },
		"by its tag":  func(c *cache.Cache[string]) { c.InvalidateTags(ctx, "t") },
		"put":         func(c *cache.Cache[string]) { c.Put(ctx, "k", cache.Loaded[string]{Value: "new", Version: 2}) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h, l := &hub{}, &level{answer: cache.Record{Found: true, Data: []byte("old"), Version: 1, Tags: []string{"t"}, Left: time.Second}}
				with := over(t, l, func(o *cache.Options[string]) { o.Peers, o.Instance = h, "with" })
				without := open(t, func(o *cache.Options[string]) { o.Peers, o.Instance = h, "without" })
				synctest.Wait()
				want(t, with, "k", unwanted(t), "old", "remote")
				change(without)
				pass(10 * time.Millisecond)
				l.mu.Lock()
				defer l.mu.Unlock()
				if len(l.told) != 1 || l.told[0].Key+l.told[0].Tag == "" {
					t.Errorf("the second level was told %+v", l.told)
				}
			})
		})
	}
}

func TestAnInstanceThatEndsTellsItsLastChanges(t *testing.T) {
	ctx := context.Background()
	for _, c := range []struct {
		name string
		l    *level // nil: it has no second level
		told int
	}{
		{"to the others", nil, 0},
		{"to the second level", &level{}, 3},
		{"to the others, though the second level does not answer", &level{err: errAway}, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := &hub{}
				all := instances(t, h, 2, func(i int, o *cache.Options[string]) {
					if i == 0 && c.l != nil {
						o.Remote = c.l
						o.Encode = func(v string) ([]byte, error) { return []byte(v), nil }
						o.Decode = func(b []byte) (string, error) { return string(b), nil }
					}
				})
				synctest.Wait()
				for _, key := range []string{"k", "tagged", "put"} {
					want(t, all[1], key, versioned("old", 1, key), "old", "load")
				}
				all[0].Invalidate(ctx, cache.Change{Key: "k", Version: 2})
				all[0].InvalidateTags(ctx, "tagged")
				all[0].Put(ctx, "put", cache.Loaded[string]{Value: "new", Version: 2})
				began := time.Now()
				all[0].Close()
				if took := time.Since(began); took > time.Second {
					t.Errorf("it took %s", took)
				}
				synctest.Wait()
				for _, key := range []string{"k", "tagged", "put"} {
					want(t, all[1], key, versioned("new", 2), "new", "load")
				}
				if c.l != nil && len(c.l.told) != c.told {
					t.Errorf("the second level was told %+v", c.l.told)
				}
			})
		})
	}
}

func TestADatabaseThatHasLostItsLastCommitsIsBelievedOnceItSaysSoEachTime(t *testing.T) {
	ctx := context.Background()
	for name, known := range map[string]func(c *cache.Cache[string]){
		"told of": func(c *cache.Cache[string]) { c.Invalidate(ctx, cache.Change{Key: "k", Version: 7}) },
		"in RAM": func(c *cache.Cache[string]) {
			c.Put(ctx, "k", cache.Loaded[string]{Value: "v7", Version: 7})
			time.Sleep(20 * time.Second)
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := &level{answer: cache.Record{Leased: true}}
				ca := over(t, l, func(o *cache.Options[string]) { o.SoftTimeout = -1 })
				known(ca)
				synctest.Wait()
				l.told = nil
				want(t, ca, "k", versioned("v5", 5), "v5", "load")
				want(t, ca, "k", unwanted(t), "v5", "ram")
				synctest.Wait()
				if len(l.told) != 1 || !l.told[0].Forget || l.told[0].Key != "k" {
					t.Errorf("the second level was told %+v", l.told)
				}
				ca.Put(ctx, "k", cache.Loaded[string]{Value: "v6", Version: 6})
				want(t, ca, "k", unwanted(t), "v6", "ram")
			})
		})
	}
}
