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
