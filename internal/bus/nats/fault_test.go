//go:build unix

package nats_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go/jetstream"

	"millrace/internal/bus"
	"millrace/internal/bus/nats"
	"millrace/internal/servers"
	"millrace/internal/servers/servertest"
)

// load publishes without end, as the relay does: what is not confirmed is sent
// again. What was confirmed must arrive.
type load struct {
	t         *testing.T
	bus       *nats.Bus
	cancel    context.CancelFunc
	done      chan struct{}
	confirmed chan int // batches so far; has room for one, the latest
	failures  chan error

	mu      sync.Mutex // guards what follows
	sent    map[string]bool
	arrived map[string]int
	news    chan struct{} // has room for one
}

const (
	loadBatch    = 10
	loadDeadline = 3 * time.Second
)

func startLoad(t *testing.T, publisher, worker *nats.Bus) *load {
	l := &load{t: t, bus: publisher, done: make(chan struct{}), confirmed: make(chan int, 1), failures: make(chan error, 1),
		sent: map[string]bool{}, arrived: map[string]int{}, news: make(chan struct{}, 1)}
	sub, err := worker.Subscribe(t.Context(), bus.Group{Name: "workers", Subjects: []string{"orders.>"}, Concurrency: 8, AckWait: 5 * time.Second, MaxAttempts: 20,
		DeadLetter: func(_ context.Context, d *bus.Delivery, reason error) error {
			t.Errorf("%s became a dead letter: %v", d.ID, reason)
			return nil
		},
	}, func(_ context.Context, d *bus.Delivery) error {
		l.mu.Lock()
		l.arrived[d.ID]++
		l.mu.Unlock()
		select {
		case l.news <- struct{}{}:
		default:
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		if err := sub.Close(ctx); err != nil {
			t.Error(err)
		}
	})
	var ctx context.Context
	ctx, l.cancel = context.WithCancel(context.Background())
	t.Cleanup(func() { l.cancel(); <-l.done })
	go l.run(ctx)
	return l
}

func (l *load) run(ctx context.Context) {
	defer close(l.done)
	for batch := 0; ctx.Err() == nil; {
		list := make([]bus.Message, loadBatch)
		for i := range list {
			list[i] = bus.Message{Subject: "orders.placed", ID: fmt.Sprintf("%d-%d", batch, i)}
		}
		try, cancel := context.WithTimeout(ctx, loadDeadline)
		begun := time.Now()
		err := l.bus.Publish(try, list)
		passed := time.Since(begun)
		cancel()
		if passed > loadDeadline+time.Second {
			l.t.Errorf("Publish took %v, its context had %v: %v", passed, loadDeadline, err)
		}
		switch {
		case err == nil:
			l.mu.Lock()
			for _, m := range list {
				l.sent[m.ID] = true
			}
			l.mu.Unlock()
			batch++
			select {
			case <-l.confirmed:
			default:
			}
			l.confirmed <- batch
		case ctx.Err() != nil:
		case errors.Is(err, bus.ErrUnavailable):
			select {
			case l.failures <- err:
			default:
			}
			timer := time.NewTimer(20 * time.Millisecond) // as the relay paces itself
			<-timer.C
		default:
			l.t.Errorf("Publish failed with something else than ErrUnavailable: %v", err)
			return
		}
	}
}

// goesOn waits for n more batches.
func (l *load) goesOn(what string, n int) {
	l.t.Helper()
	giveUp := time.NewTimer(45 * time.Second)
	defer giveUp.Stop()
	first := -1
	for {
		select {
		case now := <-l.confirmed:
			if first < 0 {
				first = now
			}
			if now >= first+n {
				return
			}
		case <-l.done:
			l.t.Fatalf("%s: the publisher has ended", what)
		case <-giveUp.C:
			l.t.Fatalf("%s: publishing does not go on", what)
		}
	}
}

// ends stops publishing, and waits until all that was confirmed has arrived.
func (l *load) ends() {
	l.t.Helper()
	l.cancel()
	<-l.done
	giveUp := time.NewTimer(45 * time.Second)
	defer giveUp.Stop()
	for {
		l.mu.Lock()
		missing := 0
		for id := range l.sent {
			if l.arrived[id] == 0 {
				missing++
			}
		}
		total := len(l.sent)
		l.mu.Unlock()
		if missing == 0 {
			l.t.Logf("%d messages were confirmed and have arrived", total)
			return
		}
		select {
		case <-l.news:
		case <-giveUp.C:
			l.t.Fatalf("%d of %d confirmed messages have not arrived", missing, total)
		}
	}
}

func (c *cluster) jetStream(t *testing.T) jetstream.JetStream {
	t.Helper()
	nc, err := c.Connect()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	return js
}

// leader returns the node that leads the stream.
func (c *cluster) leader(t *testing.T) *servers.NATSNode {
	t.Helper()
	stream, err := c.jetStream(t).Stream(t.Context(), "millrace")
	if err != nil {
		t.Fatal(err)
	}
	for _, node := range c.Nodes() {
		if node.Name() == stream.CachedInfo().Cluster.Leader {
			return node
		}
	}
	t.Fatal("the stream has no leader")
	return nil
}

func TestNothingConfirmedIsLostWhenTheLeaderIsKilledUnderLoad(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	l := startLoad(t, openFor(t, c.options()), openFor(t, c.options()))
	l.goesOn("at first", 20)
	node := c.leader(t)
	if err := node.Kill(); err != nil {
		t.Fatal(err)
	}
	l.goesOn("with one of three killed", 20)
	if err := node.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	l.goesOn("with all three again", 20)
	if err := c.leader(t).Kill(); err != nil {
		t.Fatal(err)
	}
	l.goesOn("with another one killed", 20)
	l.ends()
}

// TestAPausedLeaderHoldsUpNobodyForLong pauses it for longer than an election
// takes; the client may be connected to it too.
func TestAPausedLeaderHoldsUpNobodyForLong(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	l := startLoad(t, openFor(t, c.options()), openFor(t, c.options()))
	l.goesOn("at first", 20)
	node := c.leader(t)
	if err := node.Pause(); err != nil {
		t.Fatal(err)
	}
	paused := time.Now()
	for time.Since(paused) < 6*time.Second {
		l.goesOn("with the leader paused", 20)
	}
	if err := node.Resume(); err != nil {
		t.Fatal(err)
	}
	l.goesOn("after the pause", 20)
	l.ends()
}

// TestAPartitionedClientFindsOut has the broker fall silent behind a connection
// that stays open.
func TestAPartitionedClientFindsOut(t *testing.T) {
	t.Parallel()
	e := newExternal(t)
	proxy := servertest.Proxy(t, servers.ProxyOptions{Target: strings.TrimPrefix(e.url, "nats://")})
	b := openFor(t, nats.Options{URL: "nats://" + proxy.Addr()})
	l := startLoad(t, b, b)
	l.goesOn("at first", 20)
	proxy.BlackHole()
	begun := time.Now()
	<-l.failures
	// Failures by deadline become failures at once.
	for {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		asked := time.Now()
		err := b.Publish(ctx, []bus.Message{{Subject: "orders.placed", ID: "probe"}})
		cancel()
		if !errors.Is(err, bus.ErrUnavailable) {
			t.Fatalf("Publish into a black hole: got %v, want ErrUnavailable", err)
		}
		if time.Since(asked) < 100*time.Millisecond {
			break
		}
		if time.Since(begun) > 25*time.Second {
			t.Fatalf("after %v Publish still waits for a broker that is silent", time.Since(begun))
		}
	}
	t.Logf("the partition was found after %v", time.Since(begun).Round(time.Millisecond))
	proxy.Pass()
	l.goesOn("after the partition", 20)
	l.ends()
}

func TestClientCertificates(t *testing.T) {
	t.Parallel()
	certificate := servertest.Certificate(t, "nats")
	c := servertest.NATS(t, servers.NATSOptions{Options: servers.Options{TLS: certificate}, ClientCertificates: true})
	config, err := certificate.ClientConfig()
	if err != nil {
		t.Fatal(err)
	}
	good := openFor(t, nats.Options{URL: c.URL(), User: c.User(), Password: c.Password(), TLS: config})
	if err := good.Publish(t.Context(), []bus.Message{{Subject: "orders.placed"}}); err != nil {
		t.Errorf("Publish with a certificate: %v", err)
	}
	if f := good.Examine(t.Context()); !f.TLS || !f.JetStream {
		t.Errorf("Examine says TLS %v, JetStream %v; want both", f.TLS, f.JetStream)
	}
	without := config.Clone()
	without.Certificates = nil
	bad := openFor(t, nats.Options{URL: c.URL(), User: c.User(), Password: c.Password(), TLS: without})
	giveUp := time.Now().Add(20 * time.Second) // the client is between two tries now and then
	// The server's reason may be overtaken by the end of the connection.
	told := func(err error) bool {
		return strings.Contains(fmt.Sprint(err), "certificate") || strings.Contains(fmt.Sprint(err), "tls error")
	}
	for {
		if err = bad.Ping(t.Context()); told(err) || time.Now().After(giveUp) {
			break
		}
	}
	if !errors.Is(err, bus.ErrUnavailable) || !told(err) {
		t.Errorf("Ping without a certificate: got %v, want ErrUnavailable because of the certificate", err)
	}
}

func TestAStreamGetsTheReplicasItLacksAndExamineTellsOfThem(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	o := c.options()
	group := bus.Group{Name: "workers", Subjects: []string{"orders.>"}, Concurrency: 1, AckWait: time.Minute, MaxAttempts: 2,
		DeadLetter: func(context.Context, *bus.Delivery, error) error { return nil }}
	for _, step := range []struct{ wanted, has int }{{1, 1}, {3, 3}, {1, 3}} {
		o.Replicas = step.wanted
		b := openFor(t, o)
		sub, err := b.Subscribe(t.Context(), group, func(context.Context, *bus.Delivery) error { return nil })
		if err != nil {
			t.Fatal(err)
		}
		if err := sub.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		stream, err := c.jetStream(t).Stream(t.Context(), "millrace")
		if err != nil {
			t.Fatal(err)
		}
		if got := stream.CachedInfo().Config.Replicas; got != step.has {
			t.Errorf("with %d replicas wanted the stream has %d, want %d", step.wanted, got, step.has)
		}
	}
	o.Replicas = 3
	for _, node := range c.Nodes() {
		o.MonitorURLs = append(o.MonitorURLs, node.MonitorURL())
	}
	b := openFor(t, o)
	var f nats.Facts
	for giveUp := time.Now().Add(30 * time.Second); time.Now().Before(giveUp); { // new replicas catch up
		if f = b.Examine(t.Context()); len(f.Problems) == 0 {
			break
		}
	}
	if diff := cmp.Diff([]string(nil), f.Problems); diff != "" {
		t.Errorf("problems of a healthy cluster (-want +got):\n%s", diff)
	}
	if always, known := f.SyncAlways(); !always || !known {
		t.Errorf("SyncAlways: got %v, %v; want true, true", always, known)
	}
	if len(f.Streams) != 1 || f.Streams[0].Replicas != 3 || f.Streams[0].Groups != 1 || f.Monitored[0].ClusterSize != 3 || f.Version == "" {
		t.Errorf("the facts are %+v", f)
	}
	// Not the stream's leader: until there is another one nobody knows of replicas.
	dead := c.Nodes()[slices.IndexFunc(c.Nodes(), func(d *servers.NATSNode) bool { return d.Name() != f.Streams[0].Leader })]
	if err := dead.Kill(); err != nil {
		t.Fatal(err)
	}
	told := false
	for giveUp := time.Now().Add(30 * time.Second); !told && time.Now().Before(giveUp); {
		f = b.Examine(t.Context())
		text := strings.Join(f.Problems, "\n")
		told = strings.Contains(text, "offline or behind: "+dead.Name()) && strings.Contains(text, dead.MonitorURL())
	}
	if !told {
		t.Errorf("Examine does not tell of a dead server: %q", f.Problems)
	}
}

func TestOneServerCannotKeepThreeReplicas(t *testing.T) {
	e := newExternal(t)
	b := openFor(t, nats.Options{URL: e.url, Replicas: 3})
	_, err := b.Subscribe(t.Context(), bus.Group{Name: "workers", Subjects: []string{"orders.>"}, Concurrency: 1, AckWait: time.Minute, MaxAttempts: 2,
		DeadLetter: func(context.Context, *bus.Delivery, error) error { return nil },
	}, func(context.Context, *bus.Delivery) error { return nil })
	if err == nil || errors.Is(err, bus.ErrUnavailable) || !strings.Contains(err.Error(), "set them to 1") {
		t.Errorf("got %v, want an error that says what to do", err)
	}
}
