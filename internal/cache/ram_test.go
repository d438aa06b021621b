package cache

import (
	"context"
	"testing"
	"time"
)

// A tag's invalidation that finds nothing in the index returns while another one is
// still removing the entry.
func TestAnEntryThatIsBeingRemovedIsNotServedOnceTheIndexHasForgottenIt(t *testing.T) {
	c, err := New(Options[string]{Name: "texts", Weigh: func(_, v string) int { return len(v) }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	ctx := context.Background()
	load := func(v string) func(context.Context) (Loaded[string], error) {
		return func(context.Context) (Loaded[string], error) {
			return Loaded[string]{Value: v, Tags: []string{"t"}}, nil
		}
	}
	if _, err := c.Get(ctx, "k", load("old")); err != nil {
		t.Fatal(err)
	}
	it := c.peek("k")
	c.tags.mu.Lock() // the removal cannot go on beyond the index
	removed, got := make(chan struct{}), make(chan string, 1)
	go func() {
		c.drop(Change{Key: "k"})
		close(removed)
	}()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(5 * time.Second); !it.gone.Load() && time.Now().Before(deadline); {
		<-tick.C
	}
	if _, there := c.ram.GetIfPresent("k"); !there {
		t.Error("it was removed before the index had forgotten it: the test looks at nothing")
	}
	go func() {
		e, _ := c.Get(ctx, "k", load("new"))
		got <- e.Value
	}()
	select {
	case v := <-got:
		t.Errorf("it was served meanwhile: %q", v)
	case <-time.After(50 * time.Millisecond): // it waits for the removal
	}
	c.tags.mu.Unlock()
	<-removed
	if v := <-got; v != "new" {
		t.Errorf("got %q", v)
	}
}
