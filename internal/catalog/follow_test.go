package catalog

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"millrace/internal/follow"
)

func (s *shop) Versions(context.Context) (map[string]int64, string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.versions), "", nil
}

func (s *shop) Load(_ context.Context, each func([]Product) error) error {
	var failed error
	err := s.feed(7)(func(p []Product) {
		if err := each(p); err != nil {
			failed = err
		}
	})
	if err == nil {
		err = failed
	}
	return err
}

func (s *shop) Changes(_ context.Context, tenantID string, after int64, _ int) ([]Product, bool, error) {
	return s.changes(tenantID, after), false, nil
}

type ether struct {
	mu   sync.Mutex
	hs   []func([]byte)
	n    int
	lose int
}

func (e *ether) Send(_ context.Context, data []byte) error {
	e.mu.Lock()
	e.n++
	lost := e.lose > 0 && e.n%e.lose == 0
	hs := append([]func([]byte){}, e.hs...)
	e.mu.Unlock()
	if lost {
		return nil
	}
	for _, h := range hs {
		h(data)
	}
	return nil
}

func (e *ether) Listen(_ context.Context, h func([]byte)) (func(), error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.hs = append(e.hs, h)
	return func() {}, nil
}

// TestInstancesThatWriteAtOnceEndEqual has three instances change products while a
// third of what they tell each other is lost, and then puts an older database in the
// place of theirs.
func TestInstancesThatWriteAtOnceEndEqual(t *testing.T) {
	seed := rand.Uint64N(1000)
	t.Logf("seed %d", seed)
	synctest.Test(t, func(t *testing.T) {
		store := newShop()
		some(t, store)
		net := &ether{lose: 3}
		var all []products
		ctx, stop := context.WithCancel(t.Context())
		var running sync.WaitGroup
		defer running.Wait()
		defer stop()
		for n := range 3 {
			x := NewIndex(showProduct)
			f, err := follow.New(follow.Options[Product]{Name: "catalog", Source: store, Peers: net, Instance: fmt.Sprint(n), Load: x.Load, Apply: x.Apply,
				Change: func(p *Product) int64 { return p.Change }, At: func(p *Product) time.Time { return p.UpdatedAt }})
			if err != nil {
				t.Fatal(err)
			}
			s, err := New(Options{Store: store, Index: x, Render: showProduct, Ready: f.Ready, Wrote: f.Wrote})
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, products{s, t, x})
			running.Go(func() {
				if err := f.Run(ctx); err != nil {
					t.Error(err)
				}
			})
		}
		synctest.Wait()
		equal := func() {
			t.Helper()
			fresh := newProducts(t, store, true)
			for _, q := range []Query{{Inactive: true}, {}, {Category: "shirts", Inactive: true}, {Category: "shirts"}} {
				q.TenantID, q.Limit = "demo", 10_000
				for n, s := range all {
					if diff := cmp.Diff(pagesOf(t, fresh, q), pagesOf(t, s, q)); diff != "" {
						t.Errorf("%+v: instance %d (-database +instance):\n%s", q, n, diff)
					}
				}
			}
		}
		equal()
		var w sync.WaitGroup
		for n, s := range all {
			w.Go(func() { writeAnything(t, s, uint64(n)+seed) })
		}
		w.Wait()
		time.Sleep(2300 * time.Millisecond)
		synctest.Wait()
		equal()
		// The database is restored from a backup.
		backup := newShop()
		some(t, backup)
		store.mu.Lock()
		store.products, store.versions = backup.products, backup.versions
		store.mu.Unlock()
		time.Sleep(2300 * time.Millisecond)
		synctest.Wait()
		equal()
	})
}
