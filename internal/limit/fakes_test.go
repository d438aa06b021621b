package limit

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"math"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// memory is a Store in memory. It counts as a real one does, by the clock of the
// test.
type memory struct {
	mu      sync.Mutex
	buckets map[string]*memoryBucket
	windows map[string]*memoryWindow
	alive   map[string]time.Time

	// What goes wrong:
	err   error         // each call fails, and nothing happens
	lose  int           // so many of the next calls take effect and fail
	delay time.Duration // each call takes so long, or until its context ends

	batches []int // keys of each exchange
	takes   int
}

type memoryBucket struct {
	used  time.Duration
	at    time.Time
	heard map[string]int64
}

type memoryWindow struct {
	index, current, previous int64
	heard                    map[string]int64
}

func newMemory() *memory {
	return &memory{buckets: map[string]*memoryBucket{}, windows: map[string]*memoryWindow{}, alive: map[string]time.Time{}}
}

var (
	errAway = errors.New("nobody answers")
	errLost = errors.New("the answer is lost")
)

// set changes what goes wrong.
func (m *memory) set(change func(m *memory)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	change(m)
}

// do does what a call does.
func (m *memory) do(ctx context.Context, f func(now time.Time)) error {
	m.mu.Lock()
	delay := m.delay
	m.mu.Unlock()
	if delay > 0 {
		t := time.NewTimer(delay)
		defer t.Stop()
		select {
		case <-t.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.err != nil {
		return m.err
	}
	f(time.Now())
	if m.lose > 0 {
		m.lose--
		return errLost
	}
	return nil
}

func (m *memory) Exchange(ctx context.Context, instance string, entries []Entry) error {
	answers := append([]Entry(nil), entries...)
	err := m.do(ctx, func(now time.Time) {
		m.batches = append(m.batches, len(entries))
		for i := range answers {
			m.exchange(now, instance, &answers[i])
		}
	})
	if err == nil {
		copy(entries, answers)
	}
	return err
}

func (m *memory) exchange(now time.Time, instance string, e *Entry) {
	e.Done = true
	if e.Window > 0 {
		w := m.window(now, e)
		last, ok := w.heard[instance]
		if !ok {
			last = e.From
		}
		spent := max(e.Total-max(last, e.From), 0)
		late := min(spent, e.Late)
		w.previous, w.current, w.heard[instance] = w.previous+late, w.current+spent-late, max(e.Total, last)
		fill(e, w, now)
		return
	}
	b := m.bucket(now, e, e.Elapsed)
	last, ok := b.heard[instance]
	if !ok {
		last = e.From
	}
	b.used += time.Duration(max(e.Total-max(last, e.From), 0))
	b.heard[instance] = max(e.Total, last)
	e.Used = b.used
}

func (m *memory) bucket(now time.Time, e *Entry, elapsed time.Duration) *memoryBucket {
	key := e.Limit + "/" + e.Key
	b := m.buckets[key]
	if b == nil {
		b = &memoryBucket{heard: map[string]int64{}}
		m.buckets[key] = b
	}
	b.used = max(b.used-now.Sub(b.at), -elapsed)
	b.at = now
	return b
}

func (m *memory) window(now time.Time, e *Entry) *memoryWindow {
	key := e.Limit + "/" + e.Key
	w := m.windows[key]
	if w == nil {
		w = &memoryWindow{heard: map[string]int64{}}
		m.windows[key] = w
	}
	switch index := now.UnixNano() / int64(e.Window); {
	case index == w.index+1:
		w.index, w.current, w.previous = index, 0, w.current
	case index > w.index:
		w.index, w.current, w.previous = index, 0, 0
	}
	return w
}

func fill(e *Entry, w *memoryWindow, now time.Time) {
	e.Current, e.Previous = w.current, w.previous
	e.Position = time.Duration(now.UnixNano() - w.index*int64(e.Window))
}

func (m *memory) Take(ctx context.Context, e *Entry) error {
	return m.do(ctx, func(now time.Time) {
		m.takes++
		e.Done = true
		if e.Window > 0 {
			w := m.window(now, e)
			fill(e, w, now)
			p := quotaPlan{windowNs: int64(e.Window)}
			if e.Allowed = p.used(w.current, w.previous, int64(e.Position)) < float64(e.Bound); e.Allowed {
				w.current = max(w.current+e.Cost, 0)
			}
			fill(e, w, now)
			return
		}
		b := m.bucket(now, e, 0)
		if e.Allowed = e.Bound == math.MaxInt64 || int64(b.used)+e.Cost <= e.Bound; e.Allowed {
			b.used = max(b.used+time.Duration(e.Cost), 0)
		}
		e.Used = b.used
	})
}

func (m *memory) Beat(ctx context.Context, instance string, ttl time.Duration) (n int, err error) {
	err = m.do(ctx, func(now time.Time) {
		m.alive[instance] = now.Add(ttl)
		for _, until := range m.alive {
			if until.After(now) {
				n++
			}
		}
	})
	return n, err
}

func (m *memory) Leave(ctx context.Context, instance string) error {
	return m.do(ctx, func(time.Time) { delete(m.alive, instance) })
}

// flush forgets everything.
func (m *memory) flush() {
	m.set(func(m *memory) { clear(m.buckets); clear(m.windows) })
}

// peer is one of several instances in a test.
type peer struct {
	syncer  *Syncer
	metrics *Metrics
	reg     *prometheus.Registry
	log     *bytes.Buffer // read it only when the Syncer cannot write
	end     func()
}

// said counts the lines of the log that hold text.
func (p *peer) said(text string) (n int) {
	for line := range strings.Lines(p.log.String()) {
		if strings.Contains(line, text) {
			n++
		}
	}
	return n
}

// startPeer starts an instance, inside a synctest bubble.
func startPeer(t testing.TB, store Store, change func(*SyncerOptions)) *peer {
	t.Helper()
	p := &peer{reg: prometheus.NewRegistry(), log: &bytes.Buffer{}}
	p.metrics = NewMetrics(p.reg)
	o := SyncerOptions{Store: store, Metrics: p.metrics, Logger: slog.New(slog.NewTextHandler(p.log, nil))}
	if change != nil {
		change(&o)
	}
	var err error
	if p.syncer, err = NewSyncer(o); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { p.syncer.Run(ctx) })
	p.end = sync.OnceFunc(func() {
		cancel()
		running.Wait()
	})
	t.Cleanup(p.end)
	return p
}

func (p *peer) rates(t testing.TB, rate Rate, exact bool) *Rates {
	t.Helper()
	return testRates(t, RatesOptions{Name: "events", Default: rate, Shared: p.syncer, Exact: exact, Metrics: p.metrics})
}

func (p *peer) windows(t testing.TB, q Quota, exact bool) *Windows {
	t.Helper()
	return testWindows(t, WindowsOptions{Name: "quota", Default: q, Shared: p.syncer, Exact: exact, Metrics: p.metrics})
}

func testWindows(t testing.TB, o WindowsOptions) *Windows {
	t.Helper()
	w, err := NewWindows(o)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// limiter is Rates and Windows.
type limiter interface {
	Allow(key string) Decision
	Spend(key string, n int64) Decision
}

// spendUntilRefused spends batches until the limiter refuses, at most most units.
func spendUntilRefused(l limiter, batch, most int64) (spent int64) {
	for spent < most && l.Allow("demo").Allowed {
		l.Spend("demo", batch)
		spent += batch
	}
	return spent
}
