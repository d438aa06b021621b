package limit

import (
	"fmt"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
)

// Bytes bounds how many bytes are in flight at once, so that memory stays within
// its bound however many requests arrive. It is safe for concurrent use.
type Bytes struct {
	limit   int64
	used    atomic.Int64
	refused prometheus.Counter
}

// NewBytes returns a bound of limit bytes, more than zero. Name tells it apart
// in metrics; m may be nil.
func NewBytes(name string, limit int64, m *Metrics) (*Bytes, error) {
	if limit <= 0 {
		return nil, fmt.Errorf("limit: %d bytes in flight lets nothing through; give a number above zero", limit)
	}
	if m == nil {
		m = NewMetrics(nil)
	}
	b := &Bytes{limit: limit}
	b.refused = m.forGauge(name, "bytes", limit, b.used.Load)
	return b, nil
}

// TryAcquire takes n bytes if they are free and says whether it did. What was
// taken must be released. More than the limit is never free. It panics if n is
// negative.
func (b *Bytes) TryAcquire(n int64) bool {
	if n < 0 {
		panic(fmt.Sprintf("limit: acquire %d bytes", n))
	}
	for {
		used := b.used.Load()
		if n > b.limit-used {
			b.refused.Inc()
			return false
		}
		if b.used.CompareAndSwap(used, used+n) {
			return true
		}
	}
}

// Release gives n bytes back. It panics if more is given back than was taken:
// the bound would no longer hold.
func (b *Bytes) Release(n int64) {
	if left := b.used.Add(-n); n < 0 || left < 0 {
		panic(fmt.Sprintf("limit: released %d bytes, which leaves %d in flight", n, left))
	}
}

// InFlight returns the bytes taken now.
func (b *Bytes) InFlight() int64 { return b.used.Load() }

// Limit returns the bound.
func (b *Bytes) Limit() int64 { return b.limit }
