//go:build unix

package nats_test

import (
	"context"
	"crypto/tls"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	natsgo "github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"millrace/internal/bus"
	"millrace/internal/bus/nats"
)

func openFor(t *testing.T, o nats.Options) *nats.Bus {
	b := open(t, o)
	t.Cleanup(func() { _ = b.Close() })
	return b
}

// TestPublishingEndsWithTheConnection stops the broker in the middle of it: the
// answers do not come, and the loss of the connection tells long before the
// context ends.
func TestPublishingEndsWithTheConnection(t *testing.T) {
	e := newExternal(t)
	b := openFor(t, nats.Options{URL: e.url})
	if err := b.Publish(t.Context(), []bus.Message{{Subject: "orders.placed"}}); err != nil {
		t.Fatal(err)
	}
	if err := e.process.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	under, progress := make(chan error, 1), make(chan struct{}, 1)
	go func() {
		for { // the broker may do a little more before it stops
			if err := b.Publish(ctx, []bus.Message{{Subject: "orders.placed"}}); err != nil {
				under <- err
				return
			}
			select {
			case progress <- struct{}{}:
			default:
			}
		}
	}()
	for stopped := false; !stopped; {
		select {
		case err := <-under:
			t.Fatalf("Publish failed while the broker did not answer: %v", err)
		case <-progress:
		case <-time.After(200 * time.Millisecond):
			stopped = true
		}
	}
	e.Stop(t)
	begun := time.Now()
	if err := <-under; !errors.Is(err, bus.ErrUnavailable) {
		t.Errorf("got %v, want ErrUnavailable", err)
	}
	if passed := time.Since(begun); passed > 8*time.Second {
		t.Errorf("Publish returned %v after the connection was lost", passed)
	}
}

func TestBroadcastsBeyondTheBoundAreDroppedAndCounted(t *testing.T) {
	e := newEmbedded(t)
	reg := prometheus.NewPedanticRegistry()
	b := openFor(t, nats.Options{Server: e, Metrics: nats.NewMetrics(reg)})
	proceed, last := make(chan struct{}), make(chan struct{})
	sub, err := b.Listen(t.Context(), "a", func(bus.Message) { <-proceed })
	if err != nil {
		t.Fatal(err)
	}
	// What the second hears was sent after everything for the first.
	if _, err := b.Listen(t.Context(), "last", func(bus.Message) { close(last) }); err != nil {
		t.Fatal(err)
	}
	for range 3000 {
		if err := b.Broadcast(t.Context(), bus.Message{Subject: "a"}); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.Broadcast(t.Context(), bus.Message{Subject: "last"}); err != nil {
		t.Fatal(err)
	}
	<-last
	// The client has a goroutine for each listener: the first one's may be behind.
	again, giveUp := time.NewTicker(5*time.Millisecond), time.After(20*time.Second)
	defer again.Stop()
	for dropped(t, reg) < 3000-1024-1 {
		select {
		case <-again.C:
			continue
		case <-giveUp:
		}
		break
	}
	if n := dropped(t, reg); n != 3000-1024-1 && n != 3000-1024 {
		t.Errorf("%v broadcasts were counted as dropped, want all but 1,024 and perhaps the one being handled", n)
	}
	close(proceed)
	if err := sub.Close(t.Context()); err != nil {
		t.Errorf("Close: %v", err)
	}
}

func dropped(t *testing.T, reg *prometheus.Registry) float64 {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == "millrace_bus_broadcasts_dropped_total" {
			return f.GetMetric()[0].GetCounter().GetValue()
		}
	}
	t.Fatal("the metric is not there")
	return 0
}

func TestMetricsCountMessagesAndDeadLetters(t *testing.T) {
	e := newEmbedded(t)
	reg := prometheus.NewPedanticRegistry()
	b := openFor(t, nats.Options{Server: e, Metrics: nats.NewMetrics(reg)})
	buried := make(chan struct{})
	sub, err := b.Subscribe(t.Context(), bus.Group{Name: "workers", Subjects: []string{"orders.>"}, Concurrency: 1, AckWait: time.Minute, MaxAttempts: 2,
		Backoff:    func(int) time.Duration { return 0 },
		DeadLetter: func(context.Context, *bus.Delivery, error) error { close(buried); return nil },
	}, func(context.Context, *bus.Delivery) error { return errors.New("broken") })
	if err != nil {
		t.Fatal(err)
	}
	same := bus.Message{Subject: "orders.placed", ID: "same"}
	if err := b.Publish(t.Context(), []bus.Message{same, same}); err != nil {
		t.Fatal(err)
	}
	<-buried
	if err := sub.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		"millrace_bus_connected":                  "1",
		"millrace_bus_published_total":            "2",
		"millrace_bus_published_duplicates_total": "1",
		`millrace_bus_delivered_total`:            "2",
		`millrace_bus_redelivered_total`:          "1",
		`millrace_bus_dead_lettered_total`:        "1",
	}
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		text := ""
		for _, m := range f.GetMetric() {
			switch {
			case m.GetCounter() != nil:
				text += format(m.GetCounter().GetValue())
			case m.GetGauge() != nil:
				text += format(m.GetGauge().GetValue())
			}
		}
		if w, ok := want[f.GetName()]; ok && text != w {
			t.Errorf("%s is %s, want %s", f.GetName(), text, w)
		}
		delete(want, f.GetName())
	}
	if len(want) > 0 {
		t.Errorf("metrics that are not there: %v", want)
	}
	if problems, err := testutil.GatherAndLint(reg); err != nil || len(problems) > 0 {
		t.Errorf("the metrics' names and help: %v, %v", problems, err)
	}
}

func format(v float64) string { return strconv.FormatFloat(v, 'g', -1, 64) }

func TestCredentialsAreAskedForAndNeverTold(t *testing.T) {
	s, err := nats.StartServer(nats.ServerOptions{StoreDir: t.TempDir(), Listen: "127.0.0.1:0", User: "shop", Password: "right-one"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	good := openFor(t, nats.Options{URL: s.URL(), User: "shop", Password: "right-one"})
	if err := good.Ping(t.Context()); err != nil {
		t.Errorf("Ping with the right password: %v", err)
	}
	bad := openFor(t, nats.Options{URL: s.URL(), User: "shop", Password: "wrong-one"})
	giveUp := time.Now().Add(20 * time.Second) // the client is between two tries now and then
	for {
		if err = bad.Ping(t.Context()); errors.Is(err, natsgo.ErrAuthorization) || time.Now().After(giveUp) {
			break
		}
	}
	if !errors.Is(err, bus.ErrUnavailable) || !errors.Is(err, natsgo.ErrAuthorization) {
		t.Errorf("Ping with a wrong password: got %v, want ErrUnavailable because of authorization", err)
	}
	if strings.Contains(err.Error(), "wrong-one") {
		t.Errorf("the error tells the password: %v", err)
	}
}

func TestAChangedBoundIsBroughtToTheStream(t *testing.T) {
	e := newEmbedded(t)
	publish := func(maxBytes int64) {
		b := openFor(t, nats.Options{Server: e, MaxBytes: maxBytes})
		if _, err := b.Subscribe(t.Context(), bus.Group{Name: "workers", Subjects: []string{"orders.>"}, Concurrency: 1, AckWait: time.Minute, MaxAttempts: 2,
			DeadLetter: func(context.Context, *bus.Delivery, error) error { return nil },
		}, func(context.Context, *bus.Delivery) error { return nil }); err != nil {
			t.Fatal(err)
		}
	}
	publish(4 << 20)
	publish(8 << 20)
	nc, err := natsgo.Connect("", natsgo.InProcessServer(e))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	stream, err := js.Stream(t.Context(), "millrace")
	if err != nil {
		t.Fatal(err)
	}
	if got := stream.CachedInfo().Config.MaxBytes; got != 8<<20 {
		t.Errorf("the stream's bound is %d, want %d", got, 8<<20)
	}
}

// TestAFullStreamTakesFurtherMessages has a group that nobody works for.
func TestAFullStreamTakesFurtherMessages(t *testing.T) {
	e := newEmbedded(t)
	b := openFor(t, nats.Options{Server: e, MaxBytes: 1 << 20})
	g := bus.Group{Name: "workers", Subjects: []string{"orders.>"}, Concurrency: 1, AckWait: time.Minute, MaxAttempts: 2,
		DeadLetter: func(context.Context, *bus.Delivery, error) error { return nil }}
	arrived := make(chan string, 1000)
	handler := func(_ context.Context, d *bus.Delivery) error { arrived <- d.ID; return nil }
	sub, err := b.Subscribe(t.Context(), g, handler)
	if err != nil {
		t.Fatal(err)
	}
	if err := sub.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	for range 40 {
		if err := b.Publish(t.Context(), []bus.Message{{Subject: "orders.placed", ID: "", Data: make([]byte, 100<<10)}}); err != nil {
			t.Fatalf("Publish into a full stream: %v", err)
		}
	}
	if err := b.Publish(t.Context(), []bus.Message{{Subject: "orders.placed", ID: "last"}}); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Subscribe(t.Context(), g, handler); err != nil {
		t.Fatal(err)
	}
	for n := 1; ; n++ {
		if id := <-arrived; id == "last" {
			if n > 12 {
				t.Errorf("%d messages of 100 KiB came from a stream of 1 MiB", n)
			}
			return
		}
	}
}

func TestWrongOptionsAreRefusedWithWhatIsWrong(t *testing.T) {
	for says, o := range map[string]nats.Options{
		"either the URL":        {},
		"nats://host:port":      {URL: "http://localhost"},
		"one kind":              {URL: "nats://localhost", Token: "t", User: "u"},
		"not for one in this":   {Server: new(nats.Server), TLS: &tls.Config{MinVersion: tls.VersionTLS13}},
		"a monitoring URL":      {URL: "nats://localhost", MonitorURLs: []string{"localhost:8222"}},
		"cannot be read":        {URL: "nats://localhost", CredentialsFile: "/nowhere"},
		"stream name":           {URL: "nats://localhost", Stream: "a.b"},
		"dotted words":          {URL: "nats://localhost", Subjects: []string{">"}},
		"Replicas":              {URL: "nats://localhost", Replicas: 6},
		"MaxBytes":              {URL: "nats://localhost", MaxBytes: 1},
		"MaxAge is":             {URL: "nats://localhost", MaxAge: 1},
		"Duplicates":            {URL: "nats://localhost", MaxAge: time.Second, Duplicates: time.Minute},
		"MaxAckPending":         {URL: "nats://localhost", MaxAckPending: -1},
		"MaxPublishing":         {URL: "nats://localhost", MaxPublishing: -1},
		"ReconnectWait is nega": {URL: "nats://localhost", ReconnectWait: -1},
	} {
		b, err := nats.New(o)
		if err == nil {
			_ = b.Close()
		}
		if err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("the error does not say %q: %v", says, err)
		}
	}
}

func TestAServerThatCannotStartSaysWhy(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for says, o := range map[string]nats.ServerOptions{
		"needs a StoreDir":  {},
		"cannot be created": {StoreDir: filepath.Join(file, "below")},
		"must be host:port": {StoreDir: t.TempDir(), Listen: "localhost"},
		"not be negative":   {StoreDir: t.TempDir(), MaxStoreBytes: -1},
	} {
		s, err := nats.StartServer(o)
		if err == nil {
			s.Close()
		}
		if err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("the error does not say %q: %v", says, err)
		}
	}
}
