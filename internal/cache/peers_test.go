package cache_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"millrace/internal/cache"
)

// hub connects instances: what one sends all hear at once, unless it is down.
type hub struct {
	mu       sync.Mutex
	down     bool // sending and listening fail
	lost     bool // what is sent is lost
	next     int
	handlers map[int]func([]byte)
	messages int
}

func (h *hub) set(down, lost bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.down, h.lost = down, lost
}

func (h *hub) Send(_ context.Context, data []byte) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.down {
		return errors.New("the bus is away")
	}
	h.messages++
	if !h.lost {
		for _, handle := range h.handlers {
			handle(data)
		}
	}
	return nil
}

func (h *hub) Listen(_ context.Context, handle func([]byte)) (func(), error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.down {
		return nil, errors.New("the bus is away")
	}
	if h.handlers == nil {
		h.handlers = make(map[int]func([]byte))
	}
	id := h.next
	h.next++
	h.handlers[id] = handle
	return func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		delete(h.handlers, id)
	}, nil
}

// instances opens caches that tell each other.
func instances(t testing.TB, h *hub, n int, change func(i int, o *cache.Options[string])) []*cache.Cache[string] {
	var all []*cache.Cache[string]
	for i := range n {
		all = append(all, open(t, func(o *cache.Options[string]) {
			o.Peers, o.Instance = h, fmt.Sprint("instance-", i)
			if change != nil {
				change(i, o)
			}
		}))
	}
	return all
}

func TestTheOtherInstancesDropWhatWasChanged(t *testing.T) {
	ctx := context.Background()
	for _, c := range []struct {
		name  string
		write func(*cache.Cache[string])
		gone  bool
	}{
		{"invalidated", func(c *cache.Cache[string]) { c.Invalidate(ctx, cache.Change{Key: "k"}) }, true},
		{"invalidated by something newer", func(c *cache.Cache[string]) { c.Invalidate(ctx, cache.Change{Key: "k", Version: 4}) }, true},
		{"invalidated by what is there", func(c *cache.Cache[string]) { c.Invalidate(ctx, cache.Change{Key: "k", Version: 3}) }, false},
		{"put", func(c *cache.Cache[string]) { c.Put(ctx, "k", cache.Loaded[string]{Value: "new"}) }, true},
		{"put with a newer version", func(c *cache.Cache[string]) { c.Put(ctx, "k", cache.Loaded[string]{Value: "new", Version: 4}) }, true},
		{"by its tag", func(c *cache.Cache[string]) { c.InvalidateTags(ctx, "t") }, true},
		{"another key", func(c *cache.Cache[string]) { c.Invalidate(ctx, cache.Change{Key: "other"}) }, false},
		{"another tag", func(c *cache.Cache[string]) { c.InvalidateTags(ctx, "other") }, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				all := instances(t, &hub{}, 3, nil)
				synctest.Wait()
				for _, ca := range all[1:] {
					want(t, ca, "k", versioned("old", 3, "t"), "old", "load")
				}
				c.write(all[0])
				pass(10 * time.Millisecond)
				for _, ca := range all[1:] {
					if c.gone {
						want(t, ca, "k", versioned("new", 4), "new", "load")
					} else {
						want(t, ca, "k", unwanted(t), "old", "ram")
					}
				}
			})
		})
	}
}

func TestALoadOfAnotherInstanceThatBeganBeforeTheBroadcastIsNotKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		all := instances(t, &hub{}, 2, nil)
		synctest.Wait()
		h := hold(value("old"))
		go func() { _, _ = all[1].Get(t.Context(), "k", h.load) }()
		<-h.began
		all[0].Invalidate(t.Context(), cache.Change{Key: "k"})
		pass(10 * time.Millisecond)
		want(t, all[1], "k", value("new"), "new", "load")
		close(h.release)
		synctest.Wait()
		want(t, all[1], "k", unwanted(t), "new", "ram")
	})
}

func TestManyChangesTravelInFewMessagesAndWaitWhileTheBusIsAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, reg := &hub{}, prometheus.NewRegistry()
		all := instances(t, h, 2, func(i int, o *cache.Options[string]) {
			if i == 0 {
				o.Metrics = cache.NewMetrics(reg)
			}
		})
		synctest.Wait()
		h.set(true, false)
		const n = 2500
		for i := range n {
			key := fmt.Sprint(i)
			want(t, all[1], key, value("old"), "old", "load")
			all[0].Invalidate(t.Context(), cache.Change{Key: key})
		}
		pass(time.Second)
		if waiting := metric(t, reg, "millrace_cache_unsent", "to", "peers"); waiting != n {
			t.Errorf("%g changes wait", waiting)
		}
		want(t, all[1], "7", unwanted(t), "old", "ram")
		h.set(false, false)
		pass(3 * time.Second)
		for i := range n {
			want(t, all[1], fmt.Sprint(i), value("new"), "new", "load")
		}
		if h.messages > 4 {
			t.Errorf("%d changes took %d messages", n, h.messages)
		}
	})
}

func TestWhenTooManyChangesWaitTheOthersAreToldThatEverythingHasChanged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, reg := &hub{}, prometheus.NewRegistry()
		var told [][]string
		all := instances(t, h, 2, func(i int, o *cache.Options[string]) {
			if i == 0 {
				o.Metrics = cache.NewMetrics(reg)
			} else {
				o.OnInvalidate = func(keys []string) { told = append(told, slices.Clone(keys)) }
			}
		})
		synctest.Wait()
		want(t, all[1], "0", value("old"), "old", "load")
		want(t, all[1], "unchanged", value("old"), "old", "load")
		h.set(true, false)
		const n = 50_001
		for i := range n {
			all[0].Invalidate(t.Context(), cache.Change{Key: fmt.Sprint(i)})
		}
		h.set(false, false)
		pass(5 * time.Second)
		want(t, all[1], "0", value("new"), "new", "load")
		want(t, all[1], "unchanged", value("new"), "new", "load")
		if dropped := metric(t, reg, "millrace_cache_broadcasts_total", "result", "dropped"); dropped == 0 {
			t.Error("it was not counted that changes were dropped")
		}
		if !slices.ContainsFunc(told, func(keys []string) bool { return keys == nil }) {
			t.Error("the owner was not told that everything has changed")
		}
	})
}

func TestALostBroadcastHealsAfterTTL(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &hub{}
		all := instances(t, h, 2, nil)
		synctest.Wait()
		want(t, all[1], "k", value("old"), "old", "load")
		h.set(false, true)
		all[0].Invalidate(t.Context(), cache.Change{Key: "k"})
		pass(10*time.Second - 1)
		want(t, all[1], "k", unwanted(t), "old", "ram")
		pass(1)
		want(t, all[1], "k", value("new"), "new", "load")
	})
}

func TestTheOwnersOfOtherInstancesAreToldWhatWasInvalidated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var told [][]string
		all := instances(t, &hub{}, 2, func(i int, o *cache.Options[string]) {
			if i == 1 {
				o.OnInvalidate = func(keys []string) { told = append(told, slices.Clone(keys)) }
			}
		})
		synctest.Wait()
		all[0].Invalidate(t.Context(), cache.Change{Key: "a"})
		pass(10 * time.Millisecond)
		all[0].Put(t.Context(), "b", cache.Loaded[string]{Value: "v"})
		pass(10 * time.Millisecond)
		all[0].InvalidateTags(t.Context(), "t")
		pass(10 * time.Millisecond)
		if diff := cmp.Diff([][]string{{"a"}, {"b"}, nil}, told); diff != "" {
			t.Error(diff)
		}
	})
}

func TestABusThatIsAwayAtFirstIsListenedToLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &hub{}
		h.set(true, false)
		all := instances(t, h, 2, nil)
		pass(time.Second)
		h.set(false, false)
		pass(3 * time.Second)
		want(t, all[1], "k", value("old"), "old", "load")
		all[0].Invalidate(t.Context(), cache.Change{Key: "k"})
		pass(10 * time.Millisecond)
		want(t, all[1], "k", value("new"), "new", "load")
	})
}

// pass lets time pass in a bubble, and everything happen that happens by then.
func pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}
