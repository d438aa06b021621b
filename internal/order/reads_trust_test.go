package order_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"millrace/internal/cache"
	"millrace/internal/order"
)

// planted is what instances share, and somebody has put one value under every key.
type planted struct {
	data    string
	version int64
}

func (planted) Check(context.Context, string) (int64, error) { return 1, nil }

func (p planted) Read(context.Context, string, string, cache.Want) (cache.Record, error) {
	return cache.Record{Found: true, Data: []byte(p.data), Version: p.version, Left: 3 * time.Second, Keep: time.Minute, Seq: 1}, nil
}

func (planted) Store(context.Context, string, string, string, cache.Record) (bool, error) {
	return false, nil
}

func (planted) Release(context.Context, string, string, string) error { return nil }

func (planted) Tell(context.Context, string, []cache.News) (int64, error) { return 1, nil }

func (planted) Distrust(context.Context, string) error { return nil }

const (
	othersO1 = `{"TenantID":"other","ID":"o1","CustomerID":"ann","Status":"completed","Version":99}`
	annsO9   = `{"TenantID":"demo","ID":"o9","CustomerID":"ann","Status":"completed","Version":99}`
	bobsO1   = `{"TenantID":"demo","ID":"o1","CustomerID":"bob","Status":"completed","Version":99}`
)

func TestAnOrderOfAnotherTenantIsShownToNobodyWhateverItLiesUnder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, done := newShop(t, &metered{memory: newMemory(annsOrder())}, order.ReadsOptions{Remote: planted{"\x01" + othersO1, 99}})
		defer done()
		synctest.Wait() // it is known that Redis is there
		for name, v := range map[string]order.Viewer{"the merchant": merchant, "ann": ann} {
			if view, err := s.Cached(t.Context(), v, "o1"); !errors.Is(err, order.ErrNotFound) && view.Order.TenantID != "demo" {
				t.Errorf("%s of demo sees an order of tenant %q, %v", name, view.Order.TenantID, err)
			}
		}
	})
}

func TestWhatCannotBeThatOrderIsReadFromTheStoreInstead(t *testing.T) {
	for name, data := range map[string]string{
		"nothing":            "\x01null",
		"an order of nobody": "\x01{}",
		"of another tenant":  "\x01" + othersO1,
		"another order":      "\x01" + annsO9,
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				store := &metered{memory: newMemory(annsOrder())}
				s, done := newShop(t, store, order.ReadsOptions{Remote: planted{data, 99}})
				defer done()
				synctest.Wait() // it is known that Redis is there
				for range 3 {
					view, err := s.Cached(t.Context(), ann, "o1")
					if o := view.Order; err != nil || o.TenantID != "demo" || o.ID != "o1" || o.Version != 1 {
						t.Errorf("order %q of %q, version %d, %v; want o1 of demo, version 1", o.ID, o.TenantID, o.Version, err)
					}
				}
				store.away.Store(true)
				time.Sleep(time.Minute)
				if view, err := s.Cached(t.Context(), ann, "o1"); err == nil && (view.Order.TenantID != "demo" || view.Order.ID != "o1") {
					t.Errorf("while the database is away: order %q of %q", view.Order.ID, view.Order.TenantID)
				}
			})
		})
	}
}

func TestAPageOfSomebodyElsesOrdersIsReadFromTheStoreInstead(t *testing.T) {
	for name, data := range map[string]string{
		"nothing":                   "\x01null",
		"an order of nobody":        "\x01" + `{"Orders":[{}]}`,
		"of another tenant":         "\x01" + `{"Orders":[` + othersO1 + `]}`,
		"of another customer":       "\x01" + `{"Orders":[` + bobsO1 + `]}`,
		"one of another customer's": "\x01" + `{"Orders":[` + annsO9 + `,` + bobsO1 + `]}`,
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				store := &metered{memory: newMemory(annsOrder())}
				s, done := newShop(t, store, order.ReadsOptions{Remote: planted{data, 0}})
				defer done()
				synctest.Wait() // it is known that Redis is there
				for range 3 {
					view, err := s.CachedList(t.Context(), ann, order.Query{Limit: 10})
					if err != nil || len(view.Page.Orders) != 1 || view.Page.Orders[0].ID != "o1" || view.Page.Orders[0].CustomerID != "ann" {
						t.Errorf("%+v, %v; want ann's o1", view.Page.Orders, err)
					}
				}
			})
		})
	}
}
