package redis

import (
	"context"
	"testing"
	"time"

	"millrace/internal/cache"
	"millrace/internal/servers"
	"millrace/internal/servers/servertest"
)

// A connection that hangs may bring a Put when what it must not overwrite is forgotten.
func TestAPutThatArrivesLongAfterItWasToldIsNotStored(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	s := servertest.Redis(t, servers.RedisOptions{})
	r, err := New(Options{Addresses: []string{s.Addr()}, Password: s.Password()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	var seq int64
	for seq == 0 && ctx.Err() == nil {
		if seq, err = r.Check(ctx, "texts"); err != nil {
			t.Fatal(err)
		}
	}
	read := func(key string) cache.Record {
		rec, err := r.Read(ctx, "texts", key, cache.Want{Left: time.Second, Token: "t", Lease: time.Minute})
		if err != nil {
			t.Fatal(err)
		}
		return rec
	}
	for _, c := range []struct {
		name  string
		after time.Duration
		there string // before
		want  bool
	}{
		{"at once", 0, "", true},
		{"later than it may", late + time.Second, "", false},
		{"later than it may, over what is older", late + time.Second, "older", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			// As if it had been told so long ago.
			r.space("texts").ahead.Add(-c.after.Milliseconds())
			if c.there != "" {
				older := cache.Record{Data: []byte(c.there), Seq: seq, Left: time.Minute, Keep: time.Minute}
				read(c.name) // leases it
				if stored, err := r.Store(ctx, "texts", c.name, "t", older); !stored || err != nil {
					t.Fatal("what is older was not stored", err)
				}
			}
			put := cache.Record{Data: []byte("v"), Version: 1, Seq: seq, Left: time.Minute, Keep: time.Minute}
			if _, err := r.Tell(ctx, "texts", []cache.News{{Key: c.name, Version: 1, Put: &put, Keep: time.Minute}}); err != nil {
				t.Fatal(err)
			}
			if rec := read(c.name); rec.Found != c.want {
				t.Errorf("got %+v", rec)
			}
			// The clocks are compared again, so the next one is taken.
			put.Version = 2
			if _, err := r.Tell(ctx, "texts", []cache.News{{Key: c.name, Version: 2, Put: &put, Keep: time.Minute}}); err != nil {
				t.Fatal(err)
			}
			if rec := read(c.name); rec.Version != 2 {
				t.Errorf("the next one: got %+v", rec)
			}
		})
	}
}
