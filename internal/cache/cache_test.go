package cache_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"millrace/internal/cache"
)

// open makes a cache of texts that is closed at the end of the test.
func open(t testing.TB, change func(*cache.Options[string])) *cache.Cache[string] {
	t.Helper()
	o := cache.Options[string]{
		Name: "texts", TTL: 10 * time.Second, Jitter: -1, EagerAt: -1, StaleFor: time.Minute,
		Weigh: func(_ string, v string) int { return len(v) },
	}
	if change != nil {
		change(&o)
	}
	c, err := cache.New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

type load = func(context.Context) (cache.Loaded[string], error)

// value is a load that brings a value.
func value(v string) load {
	return func(context.Context) (cache.Loaded[string], error) { return cache.Loaded[string]{Value: v}, nil }
}

func versioned(v string, version int64, tags ...string) load {
	return func(context.Context) (cache.Loaded[string], error) {
		return cache.Loaded[string]{Value: v, Version: version, Tags: tags}, nil
	}
}

func failing(err error) load {
	return func(context.Context) (cache.Loaded[string], error) { return cache.Loaded[string]{}, err }
}

// held is a load that waits until it is released.
type held struct {
	began, release chan struct{}
	bring          load
}

func hold(bring load) *held {
	return &held{make(chan struct{}), make(chan struct{}), bring}
}

func (h *held) load(ctx context.Context) (cache.Loaded[string], error) {
	close(h.began)
	select {
	case <-h.release:
		return h.bring(ctx)
	case <-ctx.Done():
		return cache.Loaded[string]{}, ctx.Err()
	}
}

// unwanted is a load that must not happen.
func unwanted(t testing.TB) load {
	return func(context.Context) (cache.Loaded[string], error) {
		t.Error("it was loaded")
		return cache.Loaded[string]{}, errors.New("unwanted")
	}
}

func want(t testing.TB, c *cache.Cache[string], key string, l load, value, level string) cache.Entry[string] {
	t.Helper()
	e, err := c.Get(t.Context(), key, l)
	if err != nil {
		t.Fatalf("%s: %v", key, err)
	}
	if e.Value != value || e.Level != level {
		t.Fatalf("%s: got %q from %s, want %q from %s", key, e.Value, e.Level, value, level)
	}
	return e
}

var errAway = errors.New("the database is away")

func TestAThousandConcurrentMissesLoadOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := open(t, nil)
		h := hold(value("v"))
		var loads atomic.Int64
		var wg sync.WaitGroup
		for range 1000 {
			wg.Go(func() {
				e, err := c.Get(t.Context(), "k", func(ctx context.Context) (cache.Loaded[string], error) {
					loads.Add(1)
					return h.load(ctx)
				})
				if err != nil || e.Value != "v" {
					t.Errorf("got %q, %v", e.Value, err)
				}
			})
		}
		synctest.Wait()
		close(h.release)
		wg.Wait()
		if n := loads.Load(); n != 1 {
			t.Errorf("%d loads", n)
		}
	})
}

func TestACallerWhoseTimeIsOverLeavesAndTheLoadGoesOnForTheOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := open(t, nil)
		h := hold(value("v"))
		ctx, cancel := context.WithCancel(t.Context())
		first := make(chan error)
		go func() {
			_, err := c.Get(ctx, "k", h.load)
			first <- err
		}()
		<-h.began
		second := make(chan string)
		go func() {
			e, _ := c.Get(t.Context(), "k", unwanted(t))
			second <- e.Value
		}()
		synctest.Wait()
		cancel()
		if err := <-first; !errors.Is(err, context.Canceled) {
			t.Errorf("the first got %v", err)
		}
		close(h.release)
		if v := <-second; v != "v" {
			t.Errorf("the second got %q", v)
		}
	})
}

func TestALoadEndsWithTheLastWhoWaitsUnlessThereIsAStaleValueToRefresh(t *testing.T) {
	for _, stale := range []bool{false, true} {
		t.Run(fmt.Sprint("stale ", stale), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := open(t, func(o *cache.Options[string]) { o.SoftTimeout = -1 })
				if stale {
					want(t, c, "k", value("old"), "old", "load")
					time.Sleep(11 * time.Second)
				}
				h := hold(value("new"))
				ended := make(chan error, 1)
				ctx, cancel := context.WithCancel(t.Context())
				var wg sync.WaitGroup
				for range 3 {
					wg.Go(func() {
						_, err := c.Get(ctx, "k", func(ctx context.Context) (cache.Loaded[string], error) {
							v, err := h.load(ctx)
							ended <- err
							return v, err
						})
						if !errors.Is(err, context.Canceled) {
							t.Errorf("got %v", err)
						}
					})
				}
				synctest.Wait()
				cancel()
				wg.Wait()
				synctest.Wait()
				if stale {
					close(h.release)
					synctest.Wait()
					want(t, c, "k", unwanted(t), "new", "ram")
					return
				}
				select {
				case err := <-ended:
					if !errors.Is(err, context.Canceled) {
						t.Errorf("the load ended with %v", err)
					}
				default:
					t.Error("it loads for nobody")
					close(h.release)
				}
				want(t, c, "k", value("next"), "next", "load")
			})
		})
	}
}

func TestALoadThatPanicsGivesEveryWaiterAnErrorAndTheNextOneLoads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := open(t, nil)
		h := hold(func(context.Context) (cache.Loaded[string], error) { panic("oh no") })
		var wg sync.WaitGroup
		for i := range 10 {
			wg.Go(func() {
				l := h.load
				if i > 0 {
					<-h.began
					l = unwanted(t)
				}
				if _, err := c.Get(t.Context(), "k", l); err == nil || !strings.Contains(err.Error(), "the load panicked: oh no") {
					t.Errorf("got %v", err)
				}
			})
		}
		synctest.Wait()
		close(h.release)
		wg.Wait()
		want(t, c, "k", value("v"), "v", "load")
	})
}

func TestALoadThatEndsItsGoroutineGivesItsWaitersAnErrorAndTheNextOneLoads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := open(t, nil)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		_, err := c.Get(ctx, "k", func(context.Context) (cache.Loaded[string], error) {
			runtime.Goexit()
			return cache.Loaded[string]{}, nil
		})
		if err == nil || !strings.Contains(err.Error(), "the load ended its goroutine") {
			t.Errorf("got %v", err)
		}
		want(t, c, "k", value("v"), "v", "load")
	})
}

func TestALoadThatHangsEndsAtTheHardTimeoutEvenIfItDoesNotHeedItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := open(t, func(o *cache.Options[string]) { o.HardTimeout = 3 * time.Second })
		for _, heeds := range []bool{true, false} {
			release := make(chan struct{})
			began := time.Now()
			_, err := c.Get(t.Context(), "k", func(ctx context.Context) (cache.Loaded[string], error) {
				if heeds {
					<-ctx.Done()
					return cache.Loaded[string]{}, ctx.Err()
				}
				<-release
				return cache.Loaded[string]{Value: "late"}, nil
			})
			if err == nil || !strings.Contains(err.Error(), "it has not ended within 3s") {
				t.Errorf("heeding %t: got %v", heeds, err)
			}
			if !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("heeding %t: %v is no DeadlineExceeded", heeds, err)
			}
			if took := time.Since(began); took != 3*time.Second {
				t.Errorf("heeding %t: it took %s", heeds, took)
			}
			close(release)
			synctest.Wait()
			want(t, c, fmt.Sprint("k", heeds), value("v"), "v", "load")
		}
		want(t, c, "k", value("v"), "v", "load") // what came late is not kept
	})
}

func TestAStaleValueIsServedAtTheSoftTimeoutAndTheLoadsResultIsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := open(t, func(o *cache.Options[string]) { o.SoftTimeout = 100 * time.Millisecond })
		want(t, c, "k", value("old"), "old", "load")
		time.Sleep(11 * time.Second)
		h, began := hold(value("new")), time.Now()
		e := want(t, c, "k", h.load, "old", "ram")
		if took := time.Since(began); took != 100*time.Millisecond || !e.Stale || e.Age != 11*time.Second+took {
			t.Errorf("after %s: %+v", took, e)
		}
		close(h.release)
		synctest.Wait()
		if e := want(t, c, "k", unwanted(t), "new", "ram"); e.Stale {
			t.Errorf("what was loaded is stale: %+v", e)
		}
	})
}

func TestWhenLoadsFailAStaleValueIsServedForAWhileAndNotTriedEachTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := open(t, func(o *cache.Options[string]) { o.StaleFor, o.RetryAfter = time.Minute, time.Second })
		want(t, c, "k", value("v"), "v", "load")
		time.Sleep(10 * time.Second)
		loads := 0
		fail := func(context.Context) (cache.Loaded[string], error) {
			loads++
			return cache.Loaded[string]{}, errAway
		}
		for range 3 {
			for range 100 {
				if e := want(t, c, "k", fail, "v", "ram"); !e.Stale {
					t.Fatalf("not marked as stale: %+v", e)
				}
			}
			time.Sleep(time.Second)
		}
		if loads != 3 {
			t.Errorf("%d loads in 3 s, want one a second", loads)
		}
		time.Sleep(56 * time.Second)
		want(t, c, "k", fail, "v", "ram")
		time.Sleep(time.Second)
		if _, err := c.Get(t.Context(), "k", fail); !errors.Is(err, errAway) {
			t.Errorf("after StaleFor: got %v", err)
		}
		want(t, c, "k", value("new"), "new", "load")
	})
}

func TestThatThereIsNothingIsKeptForAWhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := open(t, func(o *cache.Options[string]) { o.NegativeTTL = 2 * time.Second })
		loads := 0
		none := func(context.Context) (cache.Loaded[string], error) {
			loads++
			return cache.Loaded[string]{}, fmt.Errorf("order k: %w", cache.ErrNotFound)
		}
		began := time.Now()
		const asked = 1_000_000
		for i := range asked {
			if _, err := c.Get(t.Context(), "k", none); !errors.Is(err, cache.ErrNotFound) {
				t.Fatal(err)
			}
			if i%(asked/10) == asked/10-1 {
				time.Sleep(time.Second)
			}
		}
		if most := int(time.Since(began)/(2*time.Second)) + 1; loads > most {
			t.Errorf("%d loads in %s, want %d at the most", loads, time.Since(began), most)
		}
		// Over its time it is not served instead of an error.
		time.Sleep(2 * time.Second)
		if _, err := c.Get(t.Context(), "k", failing(errAway)); !errors.Is(err, errAway) {
			t.Errorf("got %v", err)
		}
	})
}

func TestWhatIsKeptStaysWithinTheBoundWhetherItIsThereOrNot(t *testing.T) {
	for _, c := range []struct {
		name string
		load load
		each float64 // bytes of one at the least
	}{
		{"values", value(strings.Repeat("x", 1000)), 1256},
		{"unknown ids", failing(cache.ErrNotFound), 256},
		{"values with tags", versioned("v", 0, "tag-one", "tag-two"), 256 + 2*450},
	} {
		t.Run(c.name, func(t *testing.T) {
			reg := prometheus.NewRegistry()
			const bound, n = 50_000, 2_000
			ca := open(t, func(o *cache.Options[string]) { o.MaxBytes, o.Metrics = bound, cache.NewMetrics(reg) })
			for i := range n {
				_, _ = ca.Get(t.Context(), fmt.Sprint("key-", i), c.load)
			}
			eventually(t, "the bytes are within the bound", func() bool { return metric(t, reg, "millrace_cache_bytes") <= bound })
			var entries, evicted float64
			// What was written last is weighed and removed in the background.
			eventually(t, "all but what fits was evicted", func() bool {
				entries, evicted = metric(t, reg, "millrace_cache_entries"), metric(t, reg, "millrace_cache_evictions_total")
				return entries+evicted == n && entries <= bound/c.each
			})
		})
	}
}

func TestShortlyBeforeItsTimeIsOverOneHitHasAValueLoadedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := open(t, func(o *cache.Options[string]) { o.EagerAt, o.RetryAfter = 0.8, time.Second })
		want(t, c, "k", value("old"), "old", "load")
		time.Sleep(8*time.Second - 1)
		want(t, c, "k", unwanted(t), "old", "ram")
		synctest.Wait()
		time.Sleep(time.Nanosecond)
		h, first := hold(failing(errAway)), true
		for range 10 {
			l := unwanted(t)
			if first {
				first, l = false, h.load
			}
			want(t, c, "k", l, "old", "ram")
		}
		close(h.release)
		synctest.Wait()
		want(t, c, "k", unwanted(t), "old", "ram") // it failed a moment ago
		time.Sleep(time.Second)
		want(t, c, "k", value("new"), "old", "ram")
		synctest.Wait()
		want(t, c, "k", unwanted(t), "new", "ram")
	})
}

func TestTheEndsOfValuesThatWereLoadedTogetherAreSpread(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := open(t, func(o *cache.Options[string]) { o.Jitter = 0.2 })
		const n = 1000
		for i := range n {
			want(t, c, fmt.Sprint(i), value("v"), "v", "load")
		}
		loadedAt := func(d time.Duration) (loads int) {
			time.Sleep(d)
			for i := range n {
				_, _ = c.Get(t.Context(), fmt.Sprint(i), func(context.Context) (cache.Loaded[string], error) {
					loads++
					return cache.Loaded[string]{Value: "v"}, nil
				})
			}
			return loads
		}
		if early := loadedAt(8 * time.Second); early != 0 {
			t.Errorf("%d are over before 80 %% of TTL", early)
		}
		if half := loadedAt(time.Second); half < n/3 || half > 2*n/3 {
			t.Errorf("%d of %d are over at 90 %% of TTL", half, n)
		}
	})
}

func TestAnOlderLoadNeverOverwritesANewerWrite(t *testing.T) {
	ctx := context.Background()
	for _, c := range []struct {
		name   string
		write  func(*cache.Cache[string])
		before cache.Loaded[string] // what is there before, if it has a value
		after  load                 // what a Get after it loads, nil: nothing
		want   string
	}{
		{"a put while it is loaded", func(c *cache.Cache[string]) { c.Put(ctx, "k", cache.Loaded[string]{Value: "new"}) }, cache.Loaded[string]{}, nil, "new"},
		{"a put with a version", func(c *cache.Cache[string]) { c.Put(ctx, "k", cache.Loaded[string]{Value: "new", Version: 2}) }, cache.Loaded[string]{}, nil, "new"},
		{"an invalidation", func(c *cache.Cache[string]) { c.Invalidate(ctx, cache.Change{Key: "k"}) }, cache.Loaded[string]{}, value("new"), "new"},
		{"an invalidation with a version", func(c *cache.Cache[string]) { c.Invalidate(ctx, cache.Change{Key: "k", Version: 2}) }, cache.Loaded[string]{}, versioned("new", 2), "new"},
		{"an invalidation of its tag", func(c *cache.Cache[string]) { c.InvalidateTags(ctx, "t") }, cache.Loaded[string]{}, value("new"), "new"},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ca := open(t, nil)
				h := hold(versioned("old", 1, "t"))
				early, late := make(chan string), make(chan string)
				go func() {
					e, _ := ca.Get(t.Context(), "k", h.load)
					early <- e.Value
				}()
				<-h.began
				c.write(ca)
				after := c.after
				if after == nil {
					after = unwanted(t)
				}
				// Begun after the write, while the older load is under way.
				go func() {
					e, _ := ca.Get(t.Context(), "k", after)
					late <- e.Value
				}()
				synctest.Wait()
				close(h.release)
				if v := <-late; v != c.want {
					t.Errorf("a Get that began after the write got %q", v)
				}
				if v := <-early; v != "old" && v != "new" {
					t.Errorf("a Get that began before got %q", v)
				}
				synctest.Wait()
				want(t, ca, "k", unwanted(t), c.want, "ram")
			})
		})
	}
}

func TestVersionsDecideWhichOfTwoIsNewer(t *testing.T) {
	ctx := context.Background()
	put := func(v string, version int64) func(*cache.Cache[string]) {
		return func(c *cache.Cache[string]) { c.Put(ctx, "k", cache.Loaded[string]{Value: v, Version: version}) }
	}
	invalidate := func(version int64) func(*cache.Cache[string]) {
		return func(c *cache.Cache[string]) { c.Invalidate(ctx, cache.Change{Key: "k", Version: version}) }
	}
	for _, c := range []struct {
		name  string
		steps []func(*cache.Cache[string])
		want  string // empty: nothing is there
	}{
		{"a newer put replaces", []func(*cache.Cache[string]){put("1", 1), put("2", 2)}, "2"},
		{"an older put does not", []func(*cache.Cache[string]){put("2", 2), put("1", 1)}, "2"},
		{"a put of the same version replaces", []func(*cache.Cache[string]){put("2", 2), put("again", 2)}, "again"},
		{"a put without a version replaces", []func(*cache.Cache[string]){put("2", 2), put("x", 0)}, "x"},
		{"an invalidation of what is there already keeps it", []func(*cache.Cache[string]){put("2", 2), invalidate(2)}, "2"},
		{"an invalidation by something newer removes it", []func(*cache.Cache[string]){put("2", 2), invalidate(3)}, ""},
		{"an invalidation without a version removes anything", []func(*cache.Cache[string]){put("2", 2), invalidate(0)}, ""},
		{"a put that comes later than a newer invalidation is refused", []func(*cache.Cache[string]){invalidate(3), put("2", 2)}, ""},
		{"the put that was announced is taken", []func(*cache.Cache[string]){invalidate(3), put("3", 3)}, "3"},
		{"a put without a version is taken after any", []func(*cache.Cache[string]){invalidate(3), put("x", 0)}, "x"},
		{"a record that is made again with a higher version is taken", []func(*cache.Cache[string]){put("2", 2), invalidate(3), put("4", 4)}, "4"},
	} {
		t.Run(c.name, func(t *testing.T) {
			ca := open(t, nil)
			for _, step := range c.steps {
				step(ca)
			}
			if c.want == "" {
				want(t, ca, "k", versioned("loaded", 9), "loaded", "load")
			} else {
				want(t, ca, "k", unwanted(t), c.want, "ram")
			}
		})
	}
}

func TestAnAnnouncedVersionIsForgottenAfterAWhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := open(t, func(o *cache.Options[string]) { o.HardTimeout = time.Second })
		c.Invalidate(t.Context(), cache.Change{Key: "k", Version: 7})
		time.Sleep(6 * time.Second)
		want(t, c, "k", versioned("made again from the beginning", 1), "made again from the beginning", "load")
	})
}

func TestAPutReplacesThatThereWasNothing(t *testing.T) {
	c := open(t, nil)
	if _, err := c.Get(t.Context(), "k", failing(cache.ErrNotFound)); !errors.Is(err, cache.ErrNotFound) {
		t.Fatal(err)
	}
	c.Put(t.Context(), "k", cache.Loaded[string]{Value: "placed", Version: 1})
	want(t, c, "k", unwanted(t), "placed", "ram")
}

func TestALoadThatLagsBehindWhatWasAnnouncedIsRepeatedAndThenFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := open(t, nil)
		c.Invalidate(t.Context(), cache.Change{Key: "k", Version: 5})
		version := int64(3)
		lagging := func(context.Context) (cache.Loaded[string], error) {
			version++
			return cache.Loaded[string]{Value: fmt.Sprint(version), Version: version}, nil
		}
		want(t, c, "k", lagging, "5", "load")
		c.Invalidate(t.Context(), cache.Change{Key: "k", Version: 9})
		falling := func(context.Context) (cache.Loaded[string], error) {
			version--
			return cache.Loaded[string]{Value: "x", Version: version + 3}, nil
		}
		if _, err := c.Get(t.Context(), "k", falling); !errors.Is(err, cache.ErrOutdated) || !strings.Contains(err.Error(), "does it read from a replica that lags?") {
			t.Errorf("got %v", err)
		}
	})
}

func TestTagsInvalidateAllThatHaveThemAndNothingElse(t *testing.T) {
	c := open(t, nil)
	want(t, c, "a", versioned("1", 1, "x"), "1", "load")
	want(t, c, "b", versioned("1", 1, "x", "y"), "1", "load")
	want(t, c, "c", versioned("1", 1, "y"), "1", "load")
	want(t, c, "d", versioned("1", 1), "1", "load")
	want(t, c, "e", versioned("1", 1, "x"), "1", "load")
	c.Put(t.Context(), "e", cache.Loaded[string]{Value: "2", Version: 2, Tags: []string{"z"}})
	c.InvalidateTags(t.Context(), "x", "of nothing")
	want(t, c, "a", value("2"), "2", "load")
	want(t, c, "b", value("2"), "2", "load")
	want(t, c, "c", unwanted(t), "1", "ram")
	want(t, c, "d", unwanted(t), "1", "ram")
	want(t, c, "e", unwanted(t), "2", "ram") // it no longer has the tag
}

func TestTheOwnerIsToldWhatWasInvalidated(t *testing.T) {
	var told [][]string
	c := open(t, func(o *cache.Options[string]) {
		o.OnInvalidate = func(keys []string) { told = append(told, slices.Clone(keys)) }
	})
	c.Invalidate(t.Context(), cache.Change{Key: "a"}, cache.Change{Key: "b", Version: 2})
	c.InvalidateTags(t.Context(), "t")
	c.Invalidate(t.Context())
	if diff := cmp.Diff([][]string{{"a", "b"}, nil}, told); diff != "" {
		t.Error(diff)
	}
}

func TestRequestsAndLoadsAreCountedByTheirResult(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reg := prometheus.NewRegistry()
		c := open(t, func(o *cache.Options[string]) { o.Metrics, o.RetryAfter = cache.NewMetrics(reg), -1 })
		get := func(key string, l load) { _, _ = c.Get(t.Context(), key, l) }
		get("k", value("v"))
		get("k", value("v"))
		get("none", failing(cache.ErrNotFound))
		get("none", failing(cache.ErrNotFound))
		get("fails", failing(errAway))
		get("panics", func(context.Context) (cache.Loaded[string], error) { panic("oh no") })
		get("hangs", func(ctx context.Context) (cache.Loaded[string], error) {
			<-ctx.Done()
			return cache.Loaded[string]{}, ctx.Err()
		})
		time.Sleep(10 * time.Second)
		get("k", failing(errAway))
		c.Invalidate(t.Context(), cache.Change{Key: "k"}, cache.Change{Key: "x"})
		wantText := `
# HELP millrace_cache_invalidations_total Keys and tags that were invalidated, by this instance (own) or another (peer).
# TYPE millrace_cache_invalidations_total counter
millrace_cache_invalidations_total{cache="texts",source="own"} 2
millrace_cache_invalidations_total{cache="texts",source="peer"} 0
# HELP millrace_cache_loads_total Loads, by how they ended: ok, not_found, outdated, timeout, abandoned (nobody waited any more), panic or error.
# TYPE millrace_cache_loads_total counter
millrace_cache_loads_total{cache="texts",result="error"} 2
millrace_cache_loads_total{cache="texts",result="not_found"} 1
millrace_cache_loads_total{cache="texts",result="ok"} 1
millrace_cache_loads_total{cache="texts",result="panic"} 1
millrace_cache_loads_total{cache="texts",result="timeout"} 1
# HELP millrace_cache_requests_total Reads, by what answered them: ram, remote, load, stale (over its time, because the load failed or is slow), negative (it is known that there is nothing) or error.
# TYPE millrace_cache_requests_total counter
millrace_cache_requests_total{cache="texts",result="error"} 3
millrace_cache_requests_total{cache="texts",result="load"} 2
millrace_cache_requests_total{cache="texts",result="negative"} 1
millrace_cache_requests_total{cache="texts",result="ram"} 1
millrace_cache_requests_total{cache="texts",result="remote"} 0
millrace_cache_requests_total{cache="texts",result="stale"} 1
`
		if err := testutil.GatherAndCompare(reg, strings.NewReader(wantText), "millrace_cache_invalidations_total", "millrace_cache_loads_total", "millrace_cache_requests_total"); err != nil {
			t.Error(err)
		}
	})
}

func TestOptionsThatCannotBeAreExplained(t *testing.T) {
	weigh := func(string, string) int { return 1 }
	for _, c := range []struct {
		name string
		o    cache.Options[string]
		want string
	}{
		{"no name", cache.Options[string]{Weigh: weigh}, "the name \"\" is not possible"},
		{"a name with a colon", cache.Options[string]{Name: "a:b", Weigh: weigh}, "the name \"a:b\" is not possible"},
		{"no weigher", cache.Options[string]{Name: "a"}, "Weigh is missing"},
		{"a negative TTL", cache.Options[string]{Name: "a", Weigh: weigh, TTL: -1}, "TTL of -1ns is not possible"},
		{"a bound below zero", cache.Options[string]{Name: "a", Weigh: weigh, MaxBytes: -1}, "MaxBytes of -1 is not possible"},
		{"jitter of all", cache.Options[string]{Name: "a", Weigh: weigh, Jitter: 1}, "Jitter of 1 is not possible"},
		{"eager at the end", cache.Options[string]{Name: "a", Weigh: weigh, EagerAt: 1}, "EagerAt of 1 is not possible"},
		{"a remote without a codec", cache.Options[string]{Name: "a", Weigh: weigh, Remote: struct{ cache.Remote }{}}, "Encode and Decode are needed"},
		{"peers without an instance", cache.Options[string]{Name: "a", Weigh: weigh, Peers: &hub{}}, "Instance is needed with Peers"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if _, err := cache.New(c.o); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
	reg := prometheus.NewRegistry()
	m := cache.NewMetrics(reg)
	first := open(t, func(o *cache.Options[string]) { o.Metrics = m })
	if _, err := cache.New(cache.Options[string]{Name: "texts", Weigh: weigh, Metrics: m}); err == nil || !strings.Contains(err.Error(), "is there another cache of that name?") {
		t.Errorf("a second one of the same name: %v", err)
	}
	first.Close()
	open(t, func(o *cache.Options[string]) { o.Metrics = m })
}

func TestAClosedCacheSaysSo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := open(t, nil)
		h := hold(value("v"))
		got := make(chan error)
		go func() {
			_, err := c.Get(t.Context(), "k", h.load)
			got <- err
		}()
		<-h.began
		c.Close()
		if err := <-got; err == nil || !strings.Contains(err.Error(), "the cache is being closed") {
			t.Errorf("who waited got %v", err)
		}
		if _, err := c.Get(t.Context(), "k", value("v")); !errors.Is(err, cache.ErrClosed) {
			t.Errorf("got %v", err)
		}
		c.Put(t.Context(), "k", cache.Loaded[string]{Value: "v"})
		c.Invalidate(t.Context(), cache.Change{Key: "k"})
		c.Close()
	})
}

// eventually waits until something is so.
func eventually(t testing.TB, what string, so func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(20 * time.Second); !so(); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatalf("it does not come about that %s", what)
		}
	}
}

// metric reads the sum of a metric over its labels, those given apart.
func metric(t testing.TB, reg *prometheus.Registry, name string, labels ...string) (sum float64) {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.GetMetric() {
			matches := 0
			for _, l := range m.GetLabel() {
				for i := 0; i < len(labels); i += 2 {
					if l.GetName() == labels[i] && l.GetValue() == labels[i+1] {
						matches++
					}
				}
			}
			if matches == len(labels)/2 {
				sum += m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	return sum
}
