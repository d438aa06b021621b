package nats_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"millrace/internal/event"
	"millrace/internal/event/scan"
	"millrace/internal/store/sqlite"
	"millrace/internal/stream"
)

// fleet is a store, and instances that accept into a stream and sink it.
type fleet struct {
	t  testing.TB
	db *sqlite.DB
}

func newFleet(t testing.TB) *fleet {
	t.Helper()
	db, err := sqlite.Open(t.Context(), sqlite.Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	return &fleet{t, db}
}

// sinker runs an assigner with sinks until stop is called.
func (f *fleet) sinker(b stream.Broker, instance string) (a *stream.Assigner, stop func()) {
	f.t.Helper()
	metrics := event.NewSinkMetrics(nil)
	a, err := stream.NewAssigner(stream.AssignerOptions{
		Broker: b, Leases: f.db.Leases(), Instance: instance, LeaseTTL: 3 * time.Second, TrimEvery: 100 * time.Millisecond,
		NewSink: func(p *stream.Partition) (stream.Sink, error) {
			return event.NewSink(event.SinkOptions{Log: p, Advice: p.Advice(), Store: f.db.Events(), DeadLetters: f.db.DeadLetters(), Metrics: metrics.Shared()})
		},
	})
	if err != nil {
		f.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- a.Run(ctx) }()
	var once sync.Once
	stop = func() {
		once.Do(func() {
			cancel()
			if err := <-ended; err != nil {
				f.t.Error(err)
			}
		})
	}
	f.t.Cleanup(stop)
	return a, stop
}

// ingester accepts into the stream.
func (f *fleet) ingester(b stream.Broker) *event.Ingester {
	f.t.Helper()
	p, err := stream.NewPublisher(stream.PublisherOptions{Broker: b, MaxRecordBytes: 512 << 10, AckTimeout: 20 * time.Second})
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		_ = p.Close(ctx)
	})
	in, err := event.NewIngester(event.IngesterOptions{Log: p, Ack: event.AckStream, StreamAckTimeout: 20 * time.Second, Limits: scan.Limits{MaxEvents: 1000}})
	if err != nil {
		f.t.Fatal(err)
	}
	return in
}

// stored returns how often each event is there.
func (f *fleet) stored(tenant string) map[string]int {
	f.t.Helper()
	got := map[string]int{}
	cursor := ""
	for {
		page, err := f.db.Events().Events(f.t.Context(), event.Query{TenantID: tenant, Limit: 5000, Cursor: cursor})
		if err != nil {
			f.t.Fatal(err)
		}
		for i := range page.Events {
			got[page.Events[i].ID]++
		}
		if page.Next == "" {
			return got
		}
		cursor = page.Next
	}
}

// wait waits until every one of these is stored, and then that each is there once.
func (f *fleet) wait(a *stream.Assigner, acked map[string]bool, unknown map[string]bool) {
	f.t.Helper()
	deadline := time.After(40 * time.Second)
	for {
		changed := a.Changed()
		got := f.stored("demo")
		missing := 0
		for id := range acked {
			if got[id] == 0 {
				missing++
			}
		}
		for id, n := range got {
			if n != 1 || !acked[id] && !unknown[id] {
				f.t.Fatalf("%s is stored %d times, acknowledged: %v", id, n, acked[id])
			}
		}
		if missing == 0 {
			return
		}
		select {
		case <-changed:
		case <-time.After(time.Second):
		case <-deadline:
			f.t.Fatalf("%d of %d acknowledged events are not stored: %v", missing, len(acked), a.Probe())
		}
	}
}

// load sends events until stop is closed, and says what was acknowledged and what
// was answered as unknown.
type load struct {
	mu             sync.Mutex
	acked, unknown map[string]bool
	refused        int
	count          atomic.Int64
	group          sync.WaitGroup
	stop           chan struct{}
}

func startLoad(t testing.TB, in *event.Ingester, writers int) *load {
	l := &load{acked: map[string]bool{}, unknown: map[string]bool{}, stop: make(chan struct{})}
	for w := range writers {
		l.group.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-l.stop:
					return
				default:
				}
				id := fmt.Sprintf("%d-%d", w, i)
				body := fmt.Appendf(nil, `{"events":[{"id":%q,"type":"t","payload":1}]}`, id)
				_, err := in.Ingest(context.Background(), event.Submission{TenantID: "demo", Body: body})
				var not *event.Unavailable
				l.mu.Lock()
				switch {
				case err == nil:
					l.acked[id] = true
					l.count.Add(1)
				case errors.As(err, &not) && not.Unknown:
					l.unknown[id] = true
				case errors.As(err, &not):
					l.refused++
				default:
					t.Error(err)
				}
				l.mu.Unlock()
			}
		})
	}
	return l
}

// more waits until so many more were acknowledged.
func (l *load) more(t testing.TB, n int64) {
	t.Helper()
	want := l.count.Load() + n
	tick, giveUp := time.NewTicker(5*time.Millisecond), time.After(40*time.Second)
	defer tick.Stop()
	for l.count.Load() < want {
		select {
		case <-tick.C:
		case <-giveUp:
			t.Fatalf("%d more were to be acknowledged, %d are missing", n, want-l.count.Load())
		}
	}
}

func (l *load) end() {
	close(l.stop)
	l.group.Wait()
}

func TestALeaderKilledUnderLoadLosesAndDoublesNothing(t *testing.T) {
	c := startCluster(t, 3, 1<<20)
	o := c.options(t)
	o.Stream, o.Partitions = "KILL", 3
	b := c.open(t, o)
	f := newFleet(t)
	a, _ := f.sinker(b, "one")
	l := startLoad(t, f.ingester(b), 16)
	l.more(t, 200)
	js := c.jetStream(t)
	victim := c.leader(t, js, "KILL-1")
	victim.kill(t)
	l.more(t, 500) // through the others, and after the election
	victim.start(t)
	l.more(t, 500)
	l.end()
	t.Logf("%d acknowledged, %d unknown, %d refused", len(l.acked), len(l.unknown), l.refused)
	f.wait(a, l.acked, l.unknown)
	if err := a.Probe(); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}

func TestAClusterThatIsPausedIsWaitedOutAndNothingIsLostOrDoubled(t *testing.T) {
	c := startCluster(t, 3, 1<<20)
	o := c.options(t)
	o.Stream, o.Partitions, o.AttemptTimeout = "PAUSE", 2, 500*time.Millisecond
	b := c.open(t, o)
	f := newFleet(t)
	a, _ := f.sinker(b, "one")
	l := startLoad(t, f.ingester(b), 8)
	l.more(t, 100)
	for _, n := range c.nodes {
		n.signal(t, syscall.SIGSTOP)
	}
	pause := time.NewTimer(2 * time.Second) // several tries
	<-pause.C
	for _, n := range c.nodes {
		n.signal(t, syscall.SIGCONT)
	}
	l.more(t, 200)
	l.end()
	t.Logf("%d acknowledged, %d unknown, %d refused", len(l.acked), len(l.unknown), l.refused)
	f.wait(a, l.acked, l.unknown)
}

// TestTwoOwnersOfOnePartitionStoreEverythingOnce lets leases of two stores give the
// same partition to two sinks of one database, as a paused owner that goes on has it.
func TestTwoOwnersOfOnePartitionStoreEverythingOnce(t *testing.T) {
	c := startCluster(t, 1, 1<<20)
	o := c.options(t)
	o.Stream, o.Partitions = "TWO", 1
	b := c.open(t, o)
	f := newFleet(t)
	a, _ := f.sinker(b, "one")
	rival := newFleet(t)
	strangers := &fleet{t, f.db}
	other, err := stream.NewAssigner(stream.AssignerOptions{
		Broker: b, Leases: rival.db.Leases(), Instance: "two", TrimEvery: 100 * time.Millisecond, TrimAfter: 100 * time.Millisecond,
		NewSink: func(p *stream.Partition) (stream.Sink, error) {
			return event.NewSink(event.SinkOptions{Log: p, Advice: p.Advice(), Store: strangers.db.Events(), DeadLetters: strangers.db.DeadLetters()})
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- other.Run(ctx) }()
	defer func() { cancel(); <-ended }()
	l := startLoad(t, f.ingester(b), 8)
	l.more(t, 2000)
	l.end()
	f.wait(a, l.acked, l.unknown)
	if len(a.Owned()) != 1 || len(other.Owned()) != 1 {
		t.Errorf("the test is about two owners, there are %v and %v: %v, %v", a.Owned(), other.Owned(), a.Probe(), other.Probe())
	}
}

func TestAnOwnerThatDiesIsReplacedAndNothingIsLostOrDoubled(t *testing.T) {
	c := startCluster(t, 1, 1<<20)
	o := c.options(t)
	o.Stream, o.Partitions = "DIES", 4
	b := c.open(t, o)
	f := newFleet(t)
	// The one that dies has a connection of its own; with it closed and its leases
	// left to end, it is as good as dead.
	dying := c.open(t, o)
	_, stopDying := f.sinker(dying, "dies")
	a, _ := f.sinker(b, "lives")
	l := startLoad(t, f.ingester(b), 8)
	l.more(t, 300)
	_ = dying.Close()
	l.more(t, 300)
	l.end()
	f.wait(a, l.acked, l.unknown)
	stopDying()
}
