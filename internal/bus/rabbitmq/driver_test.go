package rabbitmq_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"millrace/internal/bus"
	"millrace/internal/bus/rabbitmq"
	"millrace/internal/servers"
	"millrace/internal/servers/servertest"
)

// metric returns the value of a counter or gauge, by its name and labels' values.
func metric(t testing.TB, reg *prometheus.Registry, name string, labels ...string) float64 {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.GetMetric() {
			var values []string
			for _, l := range m.GetLabel() {
				values = append(values, l.GetValue())
			}
			if cmp.Equal(values, labels) {
				return m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	return 0
}

func TestMetricsCountMessagesAndDeadLetters(t *testing.T) {
	reg := prometheus.NewPedanticRegistry()
	o := newPlace(shared.RabbitMQ(t)).options()
	o.Metrics = rabbitmq.NewMetrics(reg)
	b := openFor(t, o)
	g, buried := workers(), make(chan struct{})
	g.MaxAttempts = 2
	g.DeadLetter = func(context.Context, *bus.Delivery, error) error { close(buried); return nil }
	s := subscribe(t, b, g, func(context.Context, *bus.Delivery) error { return errors.New("broken") })
	if err := b.Publish(within(t), []bus.Message{{Subject: "orders.placed", ID: "1"}}); err != nil {
		t.Fatal(err)
	}
	<-buried
	if err := s.Close(within(t)); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]float64{"millrace_bus_connected": 1, "millrace_bus_published_total": 1, "millrace_bus_blocked": 0} {
		if got := metric(t, reg, name); got != want {
			t.Errorf("%s is %v, want %v", name, got, want)
		}
	}
	for name, want := range map[string]float64{"millrace_bus_delivered_total": 2, "millrace_bus_redelivered_total": 1, "millrace_bus_dead_lettered_total": 1} {
		if got := metric(t, reg, name, "workers"); got != want {
			t.Errorf("%s is %v, want %v", name, got, want)
		}
	}
	if problems, err := testutil.GatherAndLint(reg); err != nil || len(problems) > 0 {
		t.Errorf("the metrics' names and help: %v, %v", problems, err)
	}
}

// TestWhatAFullQueueDropsIsCounted has a group that nobody works for.
func TestWhatAFullQueueDropsIsCounted(t *testing.T) {
	reg := prometheus.NewPedanticRegistry()
	o := newPlace(shared.RabbitMQ(t)).options()
	o.MaxBytes, o.Metrics = 1<<20, rabbitmq.NewMetrics(reg)
	b := openFor(t, o)
	first, err := b.Subscribe(within(t), workers(), newTally().handle)
	if err != nil {
		t.Fatal(err)
	}
	if err := first.Close(within(t)); err != nil {
		t.Fatal(err)
	}
	for i := range 40 {
		if err := b.Publish(within(t), []bus.Message{{Subject: "orders.placed", ID: fmt.Sprint(i), Data: make([]byte, 100<<10)}}); err != nil {
			t.Fatalf("Publish into a full queue: %v", err)
		}
	}
	if err := b.Publish(within(t), []bus.Message{{Subject: "orders.placed", ID: "last"}}); err != nil {
		t.Fatal(err)
	}
	dropped := func() float64 { return metric(t, reg, "millrace_bus_dropped_total", "workers", "maxlen") }
	until(t, "28 dropped messages counted", func() bool { return dropped() >= 28 })
	got := newTally()
	subscribe(t, b, workers(), got.handle)
	got.has(t, []string{"last"})
	if got.lacks([]string{"0", "1", "2"}) != 3 {
		t.Error("the oldest messages were kept")
	}
}

// TestAnEarlierVersionsBindingIsNotHandled has a queue that is bound to more than
// the group takes.
func TestAnEarlierVersionsBindingIsNotHandled(t *testing.T) {
	reg := prometheus.NewPedanticRegistry()
	o := newPlace(shared.RabbitMQ(t)).options()
	o.Metrics = rabbitmq.NewMetrics(reg)
	b := openFor(t, o)
	before, err := b.Subscribe(within(t), workers("orders.>"), newTally().handle)
	if err != nil {
		t.Fatal(err)
	}
	if err := before.Close(within(t)); err != nil {
		t.Fatal(err)
	}
	got := newTally()
	subscribe(t, b, workers("orders.paid"), got.handle)
	if err := b.Publish(within(t), []bus.Message{{Subject: "orders.placed", ID: "not wanted"}, {Subject: "orders.paid", ID: "wanted"}}); err != nil {
		t.Fatal(err)
	}
	got.has(t, []string{"wanted"})
	until(t, "the refused message counted", func() bool {
		return metric(t, reg, "millrace_bus_dropped_total", "workers", "rejected") == 1
	})
	if got.lacks([]string{"not wanted"}) == 0 {
		t.Error("the handler got a message of a subject it does not take")
	}
}

// TestADelayedMessageSurvivesItsProcess closes the bus that put it off.
func TestADelayedMessageSurvivesItsProcess(t *testing.T) {
	p := newPlace(shared.RabbitMQ(t))
	first := open(t, p.options())
	failed := make(chan struct{})
	s, err := first.Subscribe(within(t), workers(), func(context.Context, *bus.Delivery) error {
		defer close(failed)
		return &bus.RetryError{After: time.Second, Cause: errors.New("not yet")}
	})
	if err != nil {
		t.Fatal(err)
	}
	sent := bus.Message{Subject: "orders.placed.by.hand", ID: "1", Data: []byte("d"), Headers: map[string]string{"CC": "orders.x", "tenant": "demo"}}
	if err := first.Publish(within(t), []bus.Message{sent}); err != nil {
		t.Fatal(err)
	}
	<-failed
	at := time.Now()
	if err := errors.Join(s.Close(within(t)), first.Close()); err != nil {
		t.Fatal(err)
	}
	arrived := make(chan bus.Delivery, 8)
	subscribe(t, openFor(t, p.options()), workers(), func(_ context.Context, d *bus.Delivery) error {
		arrived <- *d
		return nil
	})
	select {
	case d := <-arrived:
		if diff := cmp.Diff(bus.Delivery{Message: sent, Attempt: 2}, d); diff != "" {
			t.Errorf("the second attempt differs (-want +got):\n%s", diff)
		}
		if passed := time.Since(at); passed < 900*time.Millisecond {
			t.Errorf("it came after %v, want 1 s", passed)
		}
	case <-time.After(patience):
		t.Fatal("the message did not come again")
	}
}

// TestAMessageThatCannotBePutOffIsKept has delays for which the broker has no room
// left: what it does not take waits here, and is given back in the end.
func TestAMessageThatCannotBePutOffIsKept(t *testing.T) {
	p := newPlace(shared.RabbitMQ(t))
	o := p.options()
	o.MaxBytes = 1 << 20
	b := openFor(t, o)
	const n = 20
	tried := make(chan struct{}, 10*n)
	g := workers()
	g.Concurrency = n
	s := subscribe(t, b, g, func(context.Context, *bus.Delivery) error {
		tried <- struct{}{}
		return &bus.RetryError{After: time.Hour, Cause: errors.New("not yet")}
	})
	for i := range n {
		if err := b.Publish(within(t), []bus.Message{{Subject: "orders.placed", ID: fmt.Sprint(i), Data: make([]byte, 100<<10)}}); err != nil {
			t.Fatal(err)
		}
	}
	for range n {
		<-tried
	}
	if err := s.Close(within(t)); err != nil {
		t.Fatal(err)
	}
	ch := p.dial(t)
	later, err := ch.QueueDeclarePassive(p.prefix+".group.workers.delay-4096000ms", true, false, false, false, nil)
	if err != nil {
		t.Fatal(err)
	}
	if kept := depth(t, p, ch); kept == 0 || later.Messages == 0 || kept+later.Messages != n {
		t.Errorf("%d messages are put off and %d kept, want %d in all", later.Messages, kept, n)
	}
}

// TestAProcessWhoseHandlersAllHangTakesNoPart has one that does, until they end.
func TestAProcessWhoseHandlersAllHangTakesNoPart(t *testing.T) {
	p := newPlace(shared.RabbitMQ(t))
	hung, hang := make(chan struct{}, 100), make(chan struct{})
	var once atomic.Bool
	end := func() {
		if once.CompareAndSwap(false, true) {
			close(hang)
		}
	}
	g := workers()
	g.Concurrency, g.AckWait = 2, 100*time.Millisecond
	mine := newTally()
	subscribe(t, openFor(t, p.options()), g, func(ctx context.Context, d *bus.Delivery) error {
		hung <- struct{}{}
		<-hang
		return mine.handle(ctx, d)
	})
	t.Cleanup(end)
	publisher := openFor(t, p.options())
	ids := []string{"a", "b", "c", "d", "e", "f"}
	for _, id := range ids {
		if err := publisher.Publish(within(t), []bus.Message{{Subject: "orders.placed", ID: id}}); err != nil {
			t.Fatal(err)
		}
	}
	<-hung
	<-hung
	ch := p.dial(t)
	until(t, "everything back in the queue, and nobody consuming", func() bool {
		q, err := ch.QueueDeclarePassive(p.prefix+".group.workers", true, false, false, false, nil)
		if err != nil {
			t.Fatal(err)
		}
		return q.Messages == len(ids) && q.Consumers == 0
	})
	other := newTally()
	s := subscribe(t, publisher, g, other.handle)
	other.has(t, ids)
	if err := s.Close(within(t)); err != nil {
		t.Fatal(err)
	}
	end()
	if err := publisher.Publish(within(t), []bus.Message{{Subject: "orders.placed", ID: "after"}}); err != nil {
		t.Fatal(err)
	}
	mine.has(t, []string{"after"})
}

// TestAStuckGroupHoldsFewMessages counts what the broker has sent to it.
func TestAStuckGroupHoldsFewMessages(t *testing.T) {
	p := newPlace(shared.RabbitMQ(t))
	b := openFor(t, p.options())
	stuck, proceed := make(chan struct{}, 1000), make(chan struct{})
	g := workers()
	g.Concurrency = 3
	subscribe(t, b, g, func(context.Context, *bus.Delivery) error {
		stuck <- struct{}{}
		<-proceed
		return nil
	})
	t.Cleanup(func() { close(proceed) })
	if err := b.Publish(within(t), large(40)); err != nil {
		t.Fatal(err)
	}
	for range g.Concurrency {
		<-stuck
	}
	ch := p.dial(t)
	until(t, "the rest in the queue", func() bool { return depth(t, p, ch) == 40-2*g.Concurrency })
}

func TestAQueueWithOtherSettingsIsUsedAsItIs(t *testing.T) {
	p := newPlace(shared.RabbitMQ(t))
	var warned atomic.Int64
	for _, size := range []int64{4 << 20, 8 << 20} {
		o, got := p.options(), newTally()
		o.MaxBytes = size
		o.Logger = slog.New(slog.NewTextHandler(writer(func(line []byte) {
			if strings.Contains(string(line), "has other settings") {
				warned.Add(1)
			}
		}), nil))
		b := open(t, o)
		s, err := b.Subscribe(within(t), workers(), got.handle)
		if err != nil {
			t.Fatal(err)
		}
		id := fmt.Sprint(size)
		if err := b.Publish(within(t), []bus.Message{{Subject: "orders.placed", ID: id}}); err != nil {
			t.Fatal(err)
		}
		got.has(t, []string{id})
		if err := errors.Join(s.Close(within(t)), b.Close()); err != nil {
			t.Fatal(err)
		}
	}
	if warned.Load() != 1 {
		t.Errorf("%d warnings that the queue has other settings, want 1", warned.Load())
	}
}

type writer func([]byte)

func (w writer) Write(p []byte) (int, error) { w(p); return len(p), nil }

func TestCredentialsAreAskedForAndNeverTold(t *testing.T) {
	o := newPlace(shared.RabbitMQ(t)).options()
	var logged strings.Builder
	o.Password, o.Logger = "wrong-one", slog.New(slog.NewTextHandler(&logged, nil))
	b := open(t, o)
	err := b.Ping(within(t))
	if !errors.Is(err, bus.ErrUnavailable) || !strings.Contains(err.Error(), "username or password") {
		t.Errorf("Ping with a wrong password: got %v, want ErrUnavailable because of it", err)
	}
	if f := b.Examine(within(t)); !errors.Is(f.Unreachable, bus.ErrUnavailable) {
		t.Errorf("Examine with a wrong password: got %v, want ErrUnavailable", f.Unreachable)
	}
	if closing := b.Close(); closing != nil {
		t.Error(closing)
	}
	if text := logged.String() + err.Error(); strings.Contains(text, "wrong-one") {
		t.Errorf("the password is told: %s", text)
	}
}

func TestTLSWithTheBrokersCertificate(t *testing.T) {
	server := servertest.RabbitMQ(t, servers.RabbitMQOptions{Options: servers.Options{TLS: servertest.Certificate(t, "millrace")}})
	config, err := server.TLSConfig()
	if err != nil {
		t.Fatal(err)
	}
	o := newPlace(server).options()
	o.URLs, o.TLS = []string{"amqps://" + server.Addr()}, config
	b, got := openFor(t, o), newTally()
	subscribe(t, b, workers(), got.handle)
	if err := b.Publish(within(t), []bus.Message{{Subject: "orders.placed", ID: "1"}}); err != nil {
		t.Fatal(err)
	}
	got.has(t, []string{"1"})
	if f := b.Examine(within(t)); !f.TLS {
		t.Error("Examine does not see TLS")
	}
	o.TLS = &tls.Config{MinVersion: tls.VersionTLS12} // the system's authorities
	if err := openFor(t, o).Ping(within(t)); !errors.Is(err, bus.ErrUnavailable) || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("Ping of a broker with an unknown certificate: got %v, want ErrUnavailable because of it", err)
	}
}

func TestExamineTellsHowTheBrokerIsSetUp(t *testing.T) {
	management := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if user, password, _ := r.BasicAuth(); r.URL.Path != "/api/nodes" || user == "" || password == "" {
			http.Error(w, "no", http.StatusUnauthorized)
			return
		}
		_, _ = w.Write([]byte(`[{"name":"rabbit@a","running":true,"mem_alarm":false,"disk_free_alarm":true,"disk_free":5,"disk_free_limit":9,"partitions":[]},{"name":"rabbit@b","running":false}]`))
	}))
	t.Cleanup(management.Close)
	p := newPlace(shared.RabbitMQ(t))
	o := p.options()
	o.ManagementURLs = []string{"http://127.0.0.1:1", management.URL}
	f := openFor(t, o).Examine(within(t))
	if err := errors.Join(f.Unreachable, f.Permissions, f.Quorum, f.Management); err != nil {
		t.Errorf("a sound broker: %v", err)
	}
	if f.Product != "RabbitMQ" || f.Version == "" || f.Broker != p.server.Addr() || f.VHost != "/" || f.Heartbeat != 8*time.Second || f.Confirmed <= 0 || f.Blocked != "" || f.TLS {
		t.Errorf("facts: %+v", f)
	}
	want := []rabbitmq.Node{{Name: "rabbit@a", Running: true, DiskAlarm: true, DiskFree: 5, DiskFreeLimit: 9, Partitions: []string{}}, {Name: "rabbit@b"}}
	if diff := cmp.Diff(want, f.Nodes); diff != "" {
		t.Errorf("nodes differ (-want +got):\n%s", diff)
	}
	o.ManagementURLs = nil
	if f := openFor(t, o).Examine(within(t)); f.Management == nil || f.Nodes != nil {
		t.Errorf("without a management URL: nodes %v, %v", f.Nodes, f.Management)
	}
}

// TestNothingRunsAfterClose looks for goroutines of the driver and its client.
func TestNothingRunsAfterClose(t *testing.T) {
	p := newPlace(shared.RabbitMQ(t))
	b := open(t, p.options())
	s, err := b.Subscribe(within(t), workers(), newTally().handle)
	if err != nil {
		t.Fatal(err)
	}
	l, err := b.Listen(within(t), "a", func(bus.Message) {})
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Publish(within(t), []bus.Message{{Subject: "orders.placed"}}); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(s.Close(within(t)), l.Close(within(t)), b.Close()); err != nil {
		t.Fatal(err)
	}
	until(t, "the end of every goroutine", func() bool {
		stacks := make([]byte, 1<<20)
		stacks = stacks[:runtime.Stack(stacks, true)]
		return !strings.Contains(string(stacks), "bus/rabbitmq.(") && !strings.Contains(string(stacks), "amqp091")
	})
}

func TestAHeaderNameTooLongForTheProtocolIsRefused(t *testing.T) {
	b := openFor(t, newPlace(shared.RabbitMQ(t)).options())
	err := b.Publish(within(t), []bus.Message{{Subject: "orders.placed"}, {Subject: "orders.placed", Headers: map[string]string{strings.Repeat("a", 256): "b"}}})
	var invalid *bus.InvalidError
	if !errors.As(err, &invalid) || invalid.Index != 1 {
		t.Errorf("got %v, want an InvalidError for index 1", err)
	}
}

func TestWrongOptionsAreRefusedWithWhatIsWrong(t *testing.T) {
	good := func() rabbitmq.Options {
		return rabbitmq.Options{URLs: []string{"amqp://localhost"}, Username: "u", Password: "p"}
	}
	for says, change := range map[string]func(*rabbitmq.Options){
		"URLs is empty":            func(o *rabbitmq.Options) { o.URLs = nil },
		"URL 1 must be amqp://":    func(o *rabbitmq.Options) { o.URLs = []string{"http://localhost"} },
		"have options of their ow": func(o *rabbitmq.Options) { o.URLs = []string{"amqp://localhost", "amqp://user:hidden@localhost"} },
		"URL 1 must":               func(o *rabbitmq.Options) { o.URLs = []string{"amqp://localhost/vhost"} },
		"management URL 1":         func(o *rabbitmq.Options) { o.ManagementURLs = []string{"amqp://localhost"} },
		"needs a user name":        func(o *rabbitmq.Options) { o.Username = "" },
		"client certificate":       func(o *rabbitmq.Options) { o.Username, o.Password = "", "" },
		"the prefix":               func(o *rabbitmq.Options) { o.Prefix = "a.b" },
		"dotted words":             func(o *rabbitmq.Options) { o.Subjects = []string{">"} },
		"QueueReplicas":            func(o *rabbitmq.Options) { o.QueueReplicas = 2 },
		"MaxBytes":                 func(o *rabbitmq.Options) { o.MaxBytes = 1 },
		"MaxAge is":                func(o *rabbitmq.Options) { o.MaxAge = 1 },
		"MaxMessageBytes":          func(o *rabbitmq.Options) { o.MaxMessageBytes = 1 },
		"Publishers":               func(o *rabbitmq.Options) { o.Publishers = -1 },
		"Heartbeat":                func(o *rabbitmq.Options) { o.Heartbeat = time.Second },
		"ReconnectWait is nega":    func(o *rabbitmq.Options) { o.ReconnectWait = -1 },
	} {
		o := good()
		change(&o)
		b, err := rabbitmq.New(o)
		if err == nil {
			_ = b.Close()
		}
		if err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("the error does not say %q: %v", says, err)
		}
		if err != nil && strings.Contains(err.Error(), "hidden") {
			t.Errorf("the error tells a password: %v", err)
		}
	}
}

// TestAnExchangeThatWasDeletedIsDeclaredAgain deletes those of messages and
// broadcasts while everything runs.
func TestAnExchangeThatWasDeletedIsDeclaredAgain(t *testing.T) {
	p := newPlace(shared.RabbitMQ(t))
	b, got := openFor(t, p.options()), newTally()
	subscribe(t, b, workers(), got.handle)
	if err := b.Publish(within(t), []bus.Message{{Subject: "orders.placed", ID: "before"}}); err != nil {
		t.Fatal(err)
	}
	if err := b.Broadcast(within(t), bus.Message{Subject: "a"}); err != nil {
		t.Fatal(err)
	}
	ch := p.dial(t)
	for _, name := range []string{".messages", ".broadcast"} {
		if err := ch.ExchangeDelete(p.prefix+name, false, false); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.Publish(within(t), []bus.Message{{Subject: "orders.placed", ID: "after"}}); err != nil {
		t.Errorf("Publish: %v", err)
	}
	got.has(t, []string{"before", "after"})
	heard := make(chan struct{}, 64)
	l, err := b.Listen(within(t), "a", func(bus.Message) { heard <- struct{}{} })
	if err != nil {
		t.Fatal(err)
	}
	until(t, "a broadcast", func() bool {
		if err := b.Broadcast(within(t), bus.Message{Subject: "a"}); err != nil {
			t.Fatal(err)
		}
		select {
		case <-heard:
			return true
		default:
			return false
		}
	})
	if err := l.Close(within(t)); err != nil {
		t.Error(err)
	}
}
