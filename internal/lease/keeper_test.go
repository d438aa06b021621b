package lease

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// memStore is a Store in memory that can be away.
type memStore struct {
	mu     sync.Mutex
	leases map[string]Lease
	away   bool
	calls  int
}

func newMemStore() *memStore { return &memStore{leases: map[string]Lease{}} }

func (s *memStore) Acquire(_ context.Context, name, holder string, now time.Time, ttl time.Duration) (Lease, bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls++
	if s.away {
		return Lease{}, false, errors.New("the database is away")
	}
	l := s.leases[name]
	if l.Holder != holder && l.Holder != "" && l.ExpiresAt.After(now) {
		return l, false, nil
	}
	if l.Holder != holder {
		l.Token++
	}
	l.Name, l.Holder, l.ExpiresAt = name, holder, now.Add(ttl)
	s.leases[name] = l
	return l, true, nil
}

func (s *memStore) Release(_ context.Context, name, holder string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if l := s.leases[name]; l.Holder == holder {
		l.Holder, l.ExpiresAt = "", time.Time{}
		s.leases[name] = l
	}
	return nil
}

func (s *memStore) Leases(context.Context, string, time.Time) ([]Lease, error) { return nil, nil }

func (s *memStore) setAway(away bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.away = away
}

func (s *memStore) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.calls
}

func take(t *testing.T, s Store, holder string) *Keeper {
	t.Helper()
	k, l, err := Take(t.Context(), KeeperOptions{Store: s, Name: "x", Holder: holder})
	if err != nil || k == nil {
		t.Fatalf("the lease was not taken: %+v, error %v", l, err)
	}
	return k
}

func isLost(k *Keeper) bool {
	select {
	case <-k.Lost():
		return true
	default:
		return false
	}
}

func TestAKeeperProlongsItsLeaseForAsLongAsItRuns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newMemStore()
		k := take(t, s, "a")
		time.Sleep(5 * time.Minute)
		if !k.Held() || isLost(k) {
			t.Error("the lease was lost")
		}
		if n := s.count(); n < 70 || n > 110 {
			t.Errorf("it was prolonged %d times in 5 minutes, want about 90", n)
		}
		if other, l, err := Take(t.Context(), KeeperOptions{Store: s, Name: "x", Holder: "b"}); other != nil || l.Holder != "a" || err != nil {
			t.Errorf("another took it: %+v, error %v", l, err)
		}
		k.Close()
		k.Close()
		b := take(t, s, "b")
		if b.Token() != k.Token()+1 || k.Held() {
			t.Errorf("tokens %d and %d, the first held: %v", k.Token(), b.Token(), k.Held())
		}
		b.Close()
	})
}

func TestALeaseThatCannotBeProlongedIsLostWhenItsTimeIsOverAndNotBefore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newMemStore()
		k := take(t, s, "a")
		defer k.Close()
		began := time.Now()
		s.setAway(true)
		<-k.Lost()
		if passed := time.Since(began); passed != 10*time.Second || k.Held() {
			t.Errorf("lost after %v, still held: %v", passed, k.Held())
		}
	})
}

func TestAStoreThatIsAwayForAMomentCostsNoLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newMemStore()
		k := take(t, s, "a")
		defer k.Close()
		for range 5 {
			s.setAway(true)
			time.Sleep(4 * time.Second)
			s.setAway(false)
			time.Sleep(8 * time.Second)
		}
		if !k.Held() || isLost(k) {
			t.Error("the lease was lost")
		}
	})
}

func TestAKeeperThatWasPausedKnowsFromItsOwnClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, start := newMemStore(), time.Now()
		var mu sync.Mutex
		jump := time.Duration(0)
		now := func() time.Time {
			mu.Lock()
			defer mu.Unlock()
			return time.Now().Add(jump)
		}
		k, _, err := Take(t.Context(), KeeperOptions{Store: s, Name: "x", Holder: "a", Now: now})
		if err != nil {
			t.Fatal(err)
		}
		defer k.Close()
		mu.Lock()
		jump = 30 * time.Second
		mu.Unlock()
		if k.Held() {
			t.Error("held after a pause of three times its life")
		}
		if other, held, err := s.Acquire(t.Context(), "x", "b", start.Add(30*time.Second), 10*time.Second); !held || err != nil {
			t.Fatalf("%+v, error %v", other, err)
		}
		<-k.Lost()
		// It must not take back what it lost without saying so.
		if l := s.leases["x"]; l.Holder != "b" {
			t.Errorf("the lease is %s's", l.Holder)
		}
	})
}

func TestAKeeperDoesNotReleaseWhatAnotherHasTaken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newMemStore()
		k := take(t, s, "a")
		s.mu.Lock()
		s.leases["x"] = Lease{Name: "x", Holder: "b", Token: 7, ExpiresAt: time.Now().Add(time.Hour)}
		s.mu.Unlock()
		<-k.Lost()
		k.Close()
		if l := s.leases["x"]; l.Holder != "b" || l.Token != 7 {
			t.Errorf("after Close: %+v", l)
		}
	})
}

func TestKeeperOptionsThatMakeNoSenseAreRefused(t *testing.T) {
	for name, o := range map[string]KeeperOptions{
		"no store":              {Name: "x", Holder: "a"},
		"no name":               {Store: newMemStore(), Holder: "a"},
		"no holder":             {Store: newMemStore(), Name: "x"},
		"negative life":         {Store: newMemStore(), Name: "x", Holder: "a", TTL: -1},
		"calls beyond the life": {Store: newMemStore(), Name: "x", Holder: "a", TTL: time.Second, CallTimeout: time.Second},
	} {
		if k, _, err := Take(t.Context(), o); err == nil {
			k.Close()
			t.Errorf("%s: taken", name)
		}
	}
}
