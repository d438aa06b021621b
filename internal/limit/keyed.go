package limit

import (
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"github.com/puzpuzpuz/xsync/v4"
)

// minSweepInterval keeps a flood of new keys from making every call a sweep.
const minSweepInterval = int64(time.Second)

// defaultMaxKeys bounds the keys that a limit tells apart unless it is told.
const defaultMaxKeys = 100_000

// keyed is one entry for each key, bounded in number.
type keyed[E any] struct {
	max       int64
	entries   *xsync.Map[string, *E]
	count     atomic.Int64 // keys in entries
	nextSweep atomic.Int64
}

func (k *keyed[E]) init(most int) {
	k.max, k.entries = int64(most), xsync.NewMap[string, *E]()
}

// full says whether there is no room for another key.
func (k *keyed[E]) full() bool { return k.count.Load() >= k.max }

// add returns the key's entry, which is born if it is not there, or nil if there is
// no room and it is not forced. Entries that evict agrees to make room.
func (k *keyed[E]) add(key string, now int64, forced bool, born func(key string) *E, evict func(*E) bool) *E {
	if k.full() {
		k.sweep(now, evict)
	}
	if k.count.Add(1) > k.max && !forced {
		k.count.Add(-1)
		return nil
	}
	key = strings.Clone(key)
	e, loaded := k.entries.LoadOrStore(key, born(key))
	if loaded {
		k.count.Add(-1)
	}
	return e
}

// sweep removes the entries that evict agrees to: those that say nothing that a new
// one would not.
func (k *keyed[E]) sweep(now int64, evict func(*E) bool) {
	next := k.nextSweep.Load()
	if now < next || !k.nextSweep.CompareAndSwap(next, now+minSweepInterval) {
		return
	}
	removed := k.entries.DeleteMatching(func(_ string, e *E) (remove, stop bool) { return evict(e), false })
	k.count.Add(-int64(removed))
}

// checkNamed checks what Rates and Windows have in common.
func checkNamed(name string, maxKeys int, shared *Syncer, exact bool) (faults []error) {
	if maxKeys < 0 {
		faults = append(faults, fmt.Errorf("limit: %d keys at most makes no sense; give a number above zero", maxKeys))
	}
	if strings.ContainsFunc(name, func(r rune) bool {
		return !(r == '-' || r == '_' || r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z')
	}) {
		faults = append(faults, fmt.Errorf("limit: the name %q goes into a header; use letters, digits, '-' and '_'", name))
	}
	if exact && shared == nil {
		faults = append(faults, fmt.Errorf("limit: %q is to count exactly across instances, which needs what they share; configure Redis, or leave exact out", name))
	}
	return faults
}
