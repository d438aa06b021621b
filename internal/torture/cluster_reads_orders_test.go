package torture

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
)

// orderWatch looks at orders on every instance again and again, and notes when one
// goes back in time.
type orderWatch struct {
	s *shelf

	mu     sync.Mutex
	orders []string
	seen   map[string]int64 // highest version, by instance and order
	looks  int
	wrong  []error
}

// watchOrders looks until ctx ends. wait returns when it has stopped.
func (s *shelf) watchOrders(ctx context.Context) (w *orderWatch, wait func()) {
	w = &orderWatch{s: s, seen: map[string]int64{}}
	var all sync.WaitGroup
	for _, i := range s.c.instances {
		all.Go(func() { w.watch(ctx, i) })
	}
	return w, all.Wait
}

func (w *orderWatch) watch(ctx context.Context, i *instance) {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for n := 0; ; n++ {
		w.mu.Lock()
		orders := w.orders
		w.mu.Unlock()
		if len(orders) > 0 {
			id := orders[n%len(orders)]
			for _, path := range []string{"/orders/" + id, "/orders/" + id + "/status"} {
				w.look(ctx, i, id, path)
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// look reads an order once. Only this instance's goroutine looks at it there.
func (w *orderWatch) look(ctx context.Context, i *instance, id, path string) {
	v, err := w.s.see(ctx, i, path)
	if ctx.Err() != nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.looks++
	key := i.name + " " + id
	switch {
	case len(w.wrong) > 20:
	case err != nil:
		w.wrong = append(w.wrong, err)
	case v.Version < w.seen[key]:
		w.wrong = append(w.wrong, fmt.Errorf("%s went back: GET %s shows version %d (%s) after version %d", i.name, path, v.Version, v.Status, w.seen[key]))
	default:
		w.seen[key] = v.Version
	}
}

// add has an order looked at from now on.
func (w *orderWatch) add(id string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.orders = append(w.orders[:len(w.orders):len(w.orders)], id)
}

// order places one and waits until every instance shows it as being fulfilled.
func (w *orderWatch) order(ctx context.Context, t *testing.T, on *instance) string {
	t.Helper()
	id, r := w.s.c.probes.place(ctx, on.server.URL)
	if id == "" {
		t.Fatalf("%s: no order is placed: %s", on.name, r)
	}
	// Who was answered can read it at once, where it was placed.
	if _, err := w.s.see(ctx, on, "/orders/"+id); err != nil {
		t.Fatal(err)
	}
	w.settled(ctx, t, id, w.s.c.instances...)
	w.add(id)
	return id
}

// settled waits until instances show an order as being fulfilled.
func (w *orderWatch) settled(ctx context.Context, t *testing.T, id string, on ...*instance) {
	t.Helper()
	for _, i := range on {
		w.s.c.eventually(ctx, t, 20*time.Second, i.name+" shows the order as being fulfilled", func(ctx context.Context) error {
			v, err := w.s.see(ctx, i, "/orders/"+id)
			if err == nil && v.Status != "fulfilling" {
				err = fmt.Errorf("it is %s", v.Status)
			}
			return err
		})
	}
}

// cutOffRedis cuts one instance off from Redis, which holds an order as it was, and has
// the order shipped there. Another instance, which still has Redis and never read the
// order, must not take it from there, nor must one when all have Redis again.
func (w *orderWatch) cutOffRedis(ctx context.Context, t *testing.T, writer, other *instance) {
	t.Helper()
	c := w.s.c
	id, r := c.probes.place(ctx, writer.server.URL)
	if id == "" {
		t.Fatalf("%s: no order is placed: %s", writer.name, r)
	}
	w.settled(ctx, t, id, writer) // which puts it into Redis
	told := func() float64 {
		v, err := other.metric(ctx, "millrace_cache_invalidations_total", "cache=orders", "source=peer")
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	before := told()
	writer.redis.Partition()
	if r := c.probes.ask(ctx, http.MethodPost, writer.server.URL+"/orders/"+id+"/shipments", uuid.NewString(), shipment); r.status/100 != 2 {
		t.Fatalf("%s: ship: %s", writer.name, r)
	}
	c.eventually(ctx, t, tellBound, other.name+" was told of the shipment", func(context.Context) error {
		if told() == before {
			return errors.New("no invalidation of a peer")
		}
		return nil
	})
	shipped := func(i *instance, when string) {
		t.Helper()
		if v, err := w.s.see(ctx, i, "/orders/"+id); err != nil || v.Status != "shipped" {
			t.Fatalf("%s: %s shows an order as %s that was shipped while %s was cut off from Redis: %v", when, i.name, v.Status, writer.name, err)
		}
	}
	shipped(other, "during the fault")
	w.add(id)
	if err := writer.redis.Pass(); err != nil {
		t.Fatal(err)
	}
	w.remoteAway(ctx, t, 0)
	for _, i := range c.instances {
		shipped(i, "after the fault")
	}
}

// remoteAway waits until every instance knows that Redis is away, or, for 0, that it is
// not.
func (w *orderWatch) remoteAway(ctx context.Context, t *testing.T, want float64) {
	t.Helper()
	w.s.c.eachMetric(ctx, t, 20*time.Second, fmt.Sprintf("Redis is away: %v", want), func(v float64) bool { return v == want }, "millrace_cache_remote_away", "cache=orders")
}

// step takes an order a step further on one instance, which must show it at once,
// and waits until the others do.
func (w *orderWatch) step(ctx context.Context, t *testing.T, on *instance, id, what, body, status string, within time.Duration) {
	t.Helper()
	c := w.s.c
	r := c.probes.ask(ctx, http.MethodPost, on.server.URL+"/orders/"+id+"/"+what, uuid.NewString(), body)
	if r.status/100 != 2 {
		t.Fatalf("%s: POST /orders/%s/%s: %s", on.name, id, what, r)
	}
	if v, err := w.s.see(ctx, on, "/orders/"+id); err != nil || v.Status != status {
		t.Fatalf("%s does not show what it has just done: %s instead of %s, %v", on.name, v.Status, status, err)
	}
	began := time.Now()
	for _, i := range c.instances {
		c.eventually(ctx, t, within, fmt.Sprintf("%s shows the order as %s", i.name, status), func(ctx context.Context) error {
			v, err := w.s.see(ctx, i, "/orders/"+id)
			if err == nil && v.Status != status {
				err = fmt.Errorf("it is %s", v.Status)
			}
			return err
		})
	}
	t.Logf("all show an order as %s after %.2f s", status, time.Since(began).Seconds())
}

const (
	shipment = `{"carrier":"Torture","trackingNumber":"1"}`
	// cacheBound is how soon an order is right on an instance that was told nothing.
	cacheBound = 4 * time.Second
)

// readOrdersWithoutRedis expects that whatever becomes of Redis, orders are shown,
// never go back in time on one instance, and that what changed while Redis could not
// be told is not served from it afterwards.
func readOrdersWithoutRedis(ctx context.Context, t *testing.T, s *shelf) {
	c := s.c
	watching, stop := context.WithCancel(ctx)
	w, wait := s.watchOrders(watching)
	defer wait()
	defer stop()
	first, second, third := c.instances[0], c.instances[1], c.instances[2]

	flushed := w.order(ctx, t, first)
	if err := c.redis.Flush(ctx); err != nil {
		t.Fatal(err)
	}
	w.step(ctx, t, second, flushed, "shipments", shipment, "shipped", tellBound)

	// Redis keeps what it was told before it fell silent, and wakes up with it.
	silent, gone := w.order(ctx, t, second), w.order(ctx, t, third)
	if err := c.redis.Pause(); err != nil {
		t.Fatal(err)
	}
	w.step(ctx, t, third, silent, "shipments", shipment, "shipped", cacheBound)
	w.step(ctx, t, first, flushed, "deliveries", `{}`, "completed", cacheBound)
	if err := c.redis.Resume(); err != nil {
		t.Fatal(err)
	}
	w.remoteAway(ctx, t, 0)
	w.step(ctx, t, second, silent, "deliveries", `{}`, "completed", tellBound)
	w.cutOffRedis(ctx, t, first, third)

	if err := c.redis.Kill(); err != nil {
		t.Fatal(err)
	}
	w.remoteAway(ctx, t, 1)
	w.step(ctx, t, first, gone, "shipments", shipment, "shipped", cacheBound)
	w.order(ctx, t, second)
	if err := c.redis.Restart(ctx); err != nil {
		t.Fatal(err)
	}
	w.remoteAway(ctx, t, 0)
	w.step(ctx, t, third, gone, "deliveries", `{}`, "completed", tellBound)

	stop()
	wait()
	if err := errors.Join(w.wrong...); err != nil {
		t.Error(err)
	}
	if w.looks < 500 {
		t.Errorf("orders were looked at %d times only", w.looks)
	}
	// Without this, none of it would be about Redis.
	shared := 0.0
	for _, i := range c.instances {
		if v, err := i.metric(ctx, "millrace_cache_requests_total", "cache=orders", "result=remote"); err == nil {
			shared += v
		}
	}
	if shared == 0 {
		t.Error("no instance has read an order from Redis")
	}
	t.Logf("%d orders were looked at %d times", len(w.orders), w.looks)
}

// readWithoutPostgres expects that what was read goes on being answered while the
// database is away, says that it may be out of date, and is right again afterwards.
func readWithoutPostgres(ctx context.Context, t *testing.T, s *shelf) {
	const sku = "torture-away"
	c := s.c
	version, err := s.put(ctx, c.instances[0], sku, 100)
	if err != nil {
		t.Fatal(err)
	}
	s.visible(ctx, t, tellBound, "before the fault", sku, version)
	// An order that has changed since it was read cannot be shown without a database;
	// this one rests.
	w := &orderWatch{s: s}
	id := w.order(ctx, t, c.instances[0])
	paths := []string{"/products/" + sku, s.place, "/orders/" + id}
	// each reads all of it on all instances; stale says what the answers must say.
	each := func(ctx context.Context, stale bool) error {
		for _, i := range c.instances {
			for _, path := range paths {
				v, err := s.see(ctx, i, path)
				if err == nil && v.stale != stale {
					err = fmt.Errorf("%s: GET %s says of being out of date: %v", i.name, path, v.stale)
				}
				if err != nil {
					return err
				}
			}
		}
		return nil
	}
	c.eventually(ctx, t, 20*time.Second, "all is fresh", func(ctx context.Context) error { return each(ctx, false) })

	if err := c.postgres.Kill(); err != nil {
		t.Fatal(err)
	}
	down := time.Now()
	c.eventually(ctx, t, staleBound, "all answers say that they may be out of date", func(ctx context.Context) error {
		for _, i := range c.instances {
			for _, path := range paths {
				if _, err := s.see(ctx, i, path); err != nil {
					t.Fatalf("%.1f s after PostgreSQL was killed: %v", time.Since(down).Seconds(), err)
				}
			}
		}
		return each(ctx, true)
	})
	for _, index := range []string{"catalog", "places"} {
		c.eachMetric(ctx, t, staleBound, "the index of "+index+" is known to be out of date", func(v float64) bool { return v > 0 }, "millrace_index_stale_seconds", "index="+index)
	}
	c.eachMetric(ctx, t, time.Second, "stale orders are counted", func(v float64) bool { return v > 0 }, "millrace_cache_requests_total", "cache=orders", "result=stale")
	if _, err := s.put(ctx, c.instances[0], sku, 200); err == nil {
		t.Error("a product was put without a database")
	}

	if err := c.postgres.Restart(ctx); err != nil {
		t.Fatal(err)
	}
	c.eventually(ctx, t, 30*time.Second, "all is fresh again", func(ctx context.Context) error { return each(ctx, false) })
	if version, err = s.put(ctx, c.instances[1], sku, 300); err != nil {
		t.Fatal(err)
	}
	s.visible(ctx, t, healBound, "after the fault", sku, version)
}
