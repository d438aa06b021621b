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
	for _, c := range []struct {
		name  string
		after time.Duration
		want  bool
	}{{"at once", 0, true}, {"later than it may", late + time.Second, false}} {
		t.Run(c.name, func(t *testing.T) {
			// As if it had been told so long ago.
			r.space("texts").ahead.Add(-c.after.Milliseconds())
			defer r.space("texts").ahead.Add(c.after.Milliseconds())
			put := cache.Record{Data: []byte("v"), Version: 1, Seq: seq, Left: time.Minute, Keep: time.Minute}
			if _, err := r.Tell(ctx, "texts", []cache.News{{Key: c.name, Version: 1, Put: &put, Keep: time.Minute}}); err != nil {
				t.Fatal(err)
			}
			rec, err := r.Read(ctx, "texts", c.name, cache.Want{Left: time.Second, Token: "t", Lease: time.Minute})
			if err != nil || rec.Found != c.want {
				t.Errorf("got %+v, %v", rec, err)
			}
		})
	}
}
