package dedupe

import (
	"context"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"testing"
	"time"
)

func hashOf(n uint64) Hash {
	var h Hash
	// A strong mix, as SHA-256 would give.
	r := rand.NewPCG(n, 1)
	binary.LittleEndian.PutUint64(h[:8], r.Uint64())
	binary.LittleEndian.PutUint64(h[8:], r.Uint64())
	return h
}

func newWindow(t testing.TB, span time.Duration, memory int64) *Window {
	t.Helper()
	w, err := New(Options{Window: span, MemoryBytes: memory})
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func claim(w *Window, now time.Time, ns ...uint64) (*Claim, []Found) {
	hashes := make([]Hash, len(ns))
	for i, n := range ns {
		hashes[i] = hashOf(n)
	}
	found := make([]Found, len(ns))
	return w.Claim(hashes, found, now), found
}

var start = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

func TestTheSameHashIsADuplicateOnceItsClaimIsSettled(t *testing.T) {
	w := newWindow(t, time.Minute, 1<<20)
	c, found := claim(w, start, 1, 2)
	if found[0].Duplicate || found[1].Duplicate {
		t.Fatal("new hashes were taken for duplicates")
	}
	c.Settle(nil)
	_, found = claim(w, start.Add(time.Second), 2, 3)
	if !found[0].Duplicate || found[0].Pending != nil {
		t.Errorf("a settled hash: %+v, want a duplicate that nothing waits for", found[0])
	}
	if found[1].Duplicate {
		t.Error("a new hash was taken for a duplicate")
	}
}

func TestAHashTwiceInOneBatchWaitsForNothing(t *testing.T) {
	w := newWindow(t, time.Minute, 1<<20)
	_, found := claim(w, start, 7, 7)
	if found[0].Duplicate || !found[1].Duplicate || found[1].Pending != nil {
		t.Errorf("found %+v, want new, then a duplicate without a claim to wait for", found)
	}
}

func TestADuplicateWaitsForTheOriginalAndSharesItsOutcome(t *testing.T) {
	fails := errors.New("disk full")
	for name, outcome := range map[string]error{"kept": nil, "failed": fails} {
		t.Run(name, func(t *testing.T) {
			w := newWindow(t, time.Minute, 1<<20)
			before, _ := claim(w, start, 100) // another pending claim, below
			original, _ := claim(w, start, 1, 2, 3)
			_, found := claim(w, start, 2)
			if found[0].Pending != original {
				t.Fatalf("the duplicate waits for %p, want the original %p", found[0].Pending, original)
			}
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			if _, err := found[0].Pending.Wait(ctx); err == nil {
				t.Error("waiting outlived its context")
			}
			original.Settle(outcome)
			got, err := found[0].Pending.Wait(t.Context())
			if err != nil || !errors.Is(got, outcome) {
				t.Errorf("outcome %v, %v, want %v", got, err, outcome)
			}
			_, found = claim(w, start, 2)
			if found[0].Duplicate != (outcome == nil) {
				t.Errorf("after the original ended with %v the hash is a duplicate: %v", outcome, found[0].Duplicate)
			}
			before.Settle(nil)
			if _, found = claim(w, start, 100); !found[0].Duplicate {
				t.Error("a failed claim freed a hash that was not its own")
			}
		})
	}
}

func TestAHashIsForgottenAfterTheWindowAndNotBefore(t *testing.T) {
	w := newWindow(t, time.Minute, 1<<20)
	c, _ := claim(w, start, 1)
	c.Settle(nil)
	// More hashes than one call drops lie between.
	for i := range uint64(5 * dropsPerCall) {
		c, _ := claim(w, start.Add(time.Millisecond), 1000+i)
		c.Settle(nil)
	}
	if _, found := claim(w, start.Add(time.Minute), 1); !found[0].Duplicate {
		t.Error("a hash was forgotten within the window")
	}
	after := start.Add(time.Minute + 2*markEvery)
	last := uint64(1000 + 5*dropsPerCall - 1)
	if _, found := claim(w, after, 1, last); found[0].Duplicate || found[1].Duplicate {
		t.Errorf("hashes were remembered beyond the window: %+v", found)
	}
	if _, found := claim(w, after, last); !found[0].Duplicate {
		t.Error("a hash that came again after the window was not remembered")
	}
}

func TestAForgottenHashMayComeAgain(t *testing.T) {
	w := newWindow(t, time.Minute, 1<<20)
	pending, _ := claim(w, start, 1, 2)
	settled, _ := claim(w, start, 3)
	settled.Settle(nil)
	for _, n := range []uint64{1, 3, 4} {
		w.Forget(hashOf(n))
	}
	pending.Settle(nil)
	if _, found := claim(w, start, 1, 2, 3); found[0].Duplicate || !found[1].Duplicate || found[2].Duplicate {
		t.Errorf("found %+v, want only the second remembered", found)
	}
}

func TestAClockThatGoesBackForgetsNothing(t *testing.T) {
	w := newWindow(t, time.Minute, 1<<20)
	c, _ := claim(w, start, 1)
	c.Settle(nil)
	c, _ = claim(w, start.Add(-time.Hour), 2)
	c.Settle(nil)
	if _, found := claim(w, start.Add(30*time.Second), 1, 2); !found[0].Duplicate || !found[1].Duplicate {
		t.Errorf("found %+v, want both remembered", found)
	}
}

func TestFullMemoryDropsTheOldestFirst(t *testing.T) {
	w := newWindow(t, time.Hour, 1) // the smallest table there is
	for n := range uint64(minHashes + 10) {
		c, _ := claim(w, start, n)
		c.Settle(nil)
	}
	if s := w.Stats(); s.Hashes != minHashes || s.Capacity != minHashes {
		t.Errorf("stats %+v, want %d hashes", s, minHashes)
	}
	for n := uint64(10); n < minHashes+10; n++ {
		if _, found := claim(w, start, n); !found[0].Duplicate {
			t.Fatalf("hash %d of the newest %d was lost", n, minHashes)
		}
	}
	if _, found := claim(w, start, 9); found[0].Duplicate {
		t.Error("the oldest hash was still there")
	}
}

// The table must agree with a map whatever is added, removed and dropped.
func TestTheTableAgreesWithAMap(t *testing.T) {
	tab := newTable(200_000)
	r := rand.New(rand.NewPCG(1, 2))
	model := map[Hash]uint64{}
	for range 400_000 {
		h := hashOf(r.Uint64N(30_000))
		n, ok := tab.find(&h)
		want, wantOK := model[h]
		if ok != wantOK || n != want {
			t.Fatalf("find says %d, %v, the map %d, %v", n, ok, want, wantOK)
		}
		switch {
		case ok && r.IntN(4) == 0:
			tab.remove(n)
			delete(model, h)
		case !ok:
			if tab.full() {
				oldest := tab.ring[tab.head%uint64(len(tab.ring))]
				if model[oldest] == tab.head {
					delete(model, oldest)
				}
			}
			model[h] = tab.add(&h)
		}
	}
	if tab.overflowed != 0 {
		t.Errorf("%d hashes found no room in the index", tab.overflowed)
	}
}

func TestTwoMinutesAtFiftyThousandASecondFitTheDefaultBudget(t *testing.T) {
	const budget = 128 << 20
	tab := newTable(budget)
	if got := tab.bytes(); got > budget || len(tab.ring) < 120*50_000 {
		t.Errorf("%d hashes in %d bytes, want %d in %d", len(tab.ring), got, 120*50_000, budget)
	}
}

func TestAFullTableFindsEveryHash(t *testing.T) {
	tab := newTable(8 << 20)
	n := uint64(len(tab.ring))
	for i := range 3 * n {
		h := hashOf(i)
		tab.add(&h)
	}
	if tab.head != 2*n || tab.overflowed != 0 {
		t.Fatalf("%d dropped, %d overflowed of %d", tab.head, tab.overflowed, 3*n)
	}
	t.Logf("%d of %d hashes are outside of their buckets", len(tab.spill), n)
	for i := range 3 * n {
		h := hashOf(i)
		if got, ok := tab.find(&h); ok != (i >= 2*n) || ok && got != i {
			t.Fatalf("find(%d) = %d, %v", i, got, ok)
		}
	}
}

func TestIdsCraftedForOneBucketTakeNoMoreThanTheirBound(t *testing.T) {
	tab := newTable(1 << 20)
	h := hashOf(1)
	for i := range uint64(3 * maxSpill) {
		// The top bits choose the buckets.
		binary.LittleEndian.PutUint32(h[:4], uint32(i))
		tab.add(&h)
	}
	if len(tab.spill) != maxSpill || tab.overflowed == 0 {
		t.Errorf("%d spilled, %d overflowed", len(tab.spill), tab.overflowed)
	}
	for range 3 * maxSpill {
		tab.dropOldest()
	}
	if len(tab.spill) != 0 || tab.len() != 0 {
		t.Errorf("%d spilled and %d left after all were dropped", len(tab.spill), tab.len())
	}
}

func BenchmarkClaim100(b *testing.B) {
	w := newWindow(b, 2*time.Minute, 128<<20)
	hashes, found := make([]Hash, 100), make([]Found, 100)
	r := rand.New(rand.NewPCG(1, 2))
	fill := func() {
		for i := range hashes {
			binary.LittleEndian.PutUint64(hashes[i][:8], r.Uint64())
			binary.LittleEndian.PutUint64(hashes[i][8:], r.Uint64())
		}
	}
	now := start
	for w.Stats().Hashes < w.Stats().Capacity {
		fill()
		w.Claim(hashes, found, now).Settle(nil)
	}
	b.ReportAllocs()
	for b.Loop() {
		fill()
		w.Claim(hashes, found, now).Settle(nil)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/100, "ns/event")
}
