package storetest

import (
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"millrace/internal/lease"
)

// Leases runs the conformance suite of lease.Store. The factory gives a fresh
// store and registers its own clean-up.
func Leases(t *testing.T, fresh func(t testing.TB) lease.Store) {
	for _, c := range []struct {
		name string
		test func(*testing.T, leases)
	}{
		{"who comes first has it until it ends", leaseFirst},
		{"the holder prolongs its own and keeps the token", leaseProlong},
		{"an expired lease goes to the next, with another token", leaseExpired},
		{"a lease given back can be taken at once, with another token", leaseRelease},
		{"nobody gives back what another has", leaseForeign},
		{"leases are listed by prefix, in order, without the expired and the given back", leaseList},
		{"of many who come at once one has it", leaseRace},
		{"arguments that make no sense are refused", leaseArguments},
	} {
		t.Run(c.name, func(t *testing.T) { c.test(t, leases{t, fresh(t)}) })
	}
}

// leases is a store and shorter ways to call it.
type leases struct {
	t testing.TB
	lease.Store
}

const leaseLife = 10 * time.Second

// acquire asks for a lease at so many seconds past noon and checks the answer.
func (s leases) acquire(name, holder string, second int, want lease.Lease, wantHeld bool) {
	s.t.Helper()
	got, held, err := s.Acquire(testContext(s.t), name, holder, monday.Add(time.Duration(second)*time.Second), leaseLife)
	if err != nil {
		s.t.Fatalf("Acquire(%s, %s) at %d s: %v", name, holder, second, err)
	}
	want.Name = name
	if diff := cmp.Diff(want, got); diff != "" || held != wantHeld {
		s.t.Errorf("Acquire(%s, %s) at %d s: held %v, want %v; differs (-want +got):\n%s", name, holder, second, held, wantHeld, diff)
	}
}

func until(second int) time.Time { return monday.Add(time.Duration(second) * time.Second).UTC() }

func (s leases) release(name, holder string) {
	s.t.Helper()
	if err := s.Release(testContext(s.t), name, holder); err != nil {
		s.t.Fatalf("Release(%s, %s): %v", name, holder, err)
	}
}

func leaseFirst(_ *testing.T, s leases) {
	first := lease.Lease{Holder: "a", Token: 1, ExpiresAt: until(10)}
	s.acquire("x", "a", 0, first, true)
	s.acquire("x", "b", 0, first, false)
	s.acquire("x", "b", 9, first, false)
	s.acquire("y", "b", 9, lease.Lease{Holder: "b", Token: 1, ExpiresAt: until(19)}, true)
}

func leaseProlong(_ *testing.T, s leases) {
	s.acquire("x", "a", 0, lease.Lease{Holder: "a", Token: 1, ExpiresAt: until(10)}, true)
	s.acquire("x", "a", 5, lease.Lease{Holder: "a", Token: 1, ExpiresAt: until(15)}, true)
	s.acquire("x", "b", 14, lease.Lease{Holder: "a", Token: 1, ExpiresAt: until(15)}, false)
	// Expired, and nobody came.
	s.acquire("x", "a", 60, lease.Lease{Holder: "a", Token: 1, ExpiresAt: until(70)}, true)
}

func leaseExpired(_ *testing.T, s leases) {
	s.acquire("x", "a", 0, lease.Lease{Holder: "a", Token: 1, ExpiresAt: until(10)}, true)
	s.acquire("x", "b", 10, lease.Lease{Holder: "b", Token: 2, ExpiresAt: until(20)}, true)
	s.acquire("x", "a", 11, lease.Lease{Holder: "b", Token: 2, ExpiresAt: until(20)}, false)
	s.acquire("x", "a", 20, lease.Lease{Holder: "a", Token: 3, ExpiresAt: until(30)}, true)
}

func leaseRelease(_ *testing.T, s leases) {
	s.acquire("x", "a", 0, lease.Lease{Holder: "a", Token: 1, ExpiresAt: until(10)}, true)
	s.release("x", "a")
	s.acquire("x", "b", 1, lease.Lease{Holder: "b", Token: 2, ExpiresAt: until(11)}, true)
	s.release("x", "b")
	s.acquire("x", "b", 2, lease.Lease{Holder: "b", Token: 3, ExpiresAt: until(12)}, true)
}

func leaseForeign(_ *testing.T, s leases) {
	s.acquire("x", "a", 0, lease.Lease{Holder: "a", Token: 1, ExpiresAt: until(10)}, true)
	s.release("x", "b")
	s.release("none", "b")
	s.acquire("x", "b", 1, lease.Lease{Holder: "a", Token: 1, ExpiresAt: until(10)}, false)
}

func leaseList(t *testing.T, s leases) {
	for _, name := range []string{"sink/b", "sink/a", "sink/%", "sinks", "sink/gone", "ß/1", "sink/old"} {
		second := 0
		if name == "sink/old" {
			second = -10
		}
		s.acquire(name, "h", second, lease.Lease{Holder: "h", Token: 1, ExpiresAt: until(second + 10)}, true)
	}
	s.release("sink/gone", "h")
	for prefix, want := range map[string][]string{
		"sink/":  {"sink/%", "sink/a", "sink/b"},
		"sink/%": {"sink/%"},
		"ß/":     {"ß/1"},
		"":       {"sink/%", "sink/a", "sink/b", "sinks", "ß/1"},
		"t":      nil,
	} {
		list, err := s.Leases(testContext(t), prefix, monday)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, l := range list {
			got = append(got, l.Name)
			if l.Holder != "h" || l.Token != 1 || !l.ExpiresAt.Equal(until(10)) {
				t.Errorf("%+v", l)
			}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("prefix %q (-want +got):\n%s", prefix, diff)
		}
	}
}

func leaseRace(t *testing.T, s leases) {
	for round := range 5 {
		now := monday.Add(time.Duration(round) * leaseLife)
		var winners atomic.Int32
		var group sync.WaitGroup
		for i := range 8 {
			group.Go(func() {
				_, held, err := s.Acquire(testContext(t), "x", string(rune('a'+i))+string(rune('0'+round)), now, leaseLife)
				if err != nil {
					t.Error(err)
				}
				if held {
					winners.Add(1)
				}
			})
		}
		group.Wait()
		if n := winners.Load(); n != 1 {
			t.Errorf("round %d: %d have the lease", round, n)
		}
	}
}

func leaseArguments(t *testing.T, s leases) {
	for _, c := range []struct {
		name, holder string
		life         time.Duration
	}{{"", "a", leaseLife}, {"x", "", leaseLife}, {"x", "a", 0}, {string(make([]byte, 300)), "a", leaseLife}} {
		if _, held, err := s.Acquire(testContext(t), c.name, c.holder, monday, c.life); err == nil || held {
			t.Errorf("%.10q, %q, %v: held %v, error %v", c.name, c.holder, c.life, held, err)
		}
	}
}
