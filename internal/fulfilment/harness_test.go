package fulfilment_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"millrace/internal/audit"
	"millrace/internal/deadletter"
	"millrace/internal/fulfilment"
	"millrace/internal/store/sqlite"
)

// patience bounds every wait of these tests.
const patience = 20 * time.Second

var (
	ann   = audit.Actor{Subject: "ann", Method: "jwt"}
	start = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
)

// clock is a clock that tests move.
type clock struct{ ns atomic.Int64 }

func newClock(at time.Time) *clock {
	c := &clock{}
	c.ns.Store(at.UnixNano())
	return c
}

func (c *clock) Now() time.Time          { return time.Unix(0, c.ns.Load()).UTC() }
func (c *clock) Advance(d time.Duration) { c.ns.Add(int64(d)) }

// watched is a store that tells what was settled, and fails when it is told to.
type watched struct {
	fulfilment.Store
	settled  chan fulfilment.Settlement
	failing  atomic.Pointer[error] // of Settle
	failed   chan struct{}         // has room for one: Settle failed
	enqueues atomic.Int32
}

func (w *watched) Settle(ctx context.Context, list []fulfilment.Settlement) error {
	if err := w.failing.Load(); err != nil {
		select {
		case w.failed <- struct{}{}:
		default:
		}
		return *err
	}
	if err := w.Store.Settle(ctx, list); err != nil {
		return err
	}
	for _, s := range list {
		w.settled <- s
	}
	return nil
}

func (w *watched) Enqueue(ctx context.Context, list []fulfilment.Delivery) error {
	w.enqueues.Add(1)
	return w.Store.Enqueue(ctx, list)
}

// world is a Service on a store of its own.
type world struct {
	*fulfilment.Service
	store   *watched
	letters *deadletter.Service
	clock   *clock
	options fulfilment.Options
}

// newWorld starts a Service that may call this machine. change may be nil.
func newWorld(t testing.TB, change func(*fulfilment.Options)) *world {
	t.Helper()
	db, err := sqlite.Open(t.Context(), sqlite.Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	w := &world{clock: newClock(start), store: &watched{Store: db.Webhooks(), settled: make(chan fulfilment.Settlement, 10_000), failed: make(chan struct{}, 1)}}
	w.options = fulfilment.Options{Store: w.store, Now: w.clock.Now, Rand: func() float64 { return 0.5 }, Version: "1.2.3",
		Policy: fulfilment.Policy{AllowPlain: true, AllowPrivate: true, Poll: 5 * time.Millisecond}}
	if change != nil {
		change(&w.options)
	}
	if w.Service, err = fulfilment.New(w.options); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.Close)
	w.letters = deadletter.NewService(db.DeadLetters(), w.Service, w.clock.Now, slog.New(slog.DiscardHandler))
	return w
}

// run runs a dispatcher until stop is called or the test ends.
func (w *world) run(t testing.TB) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	d := fulfilment.NewDispatcher(w.Service)
	go func() { done <- d.Run(ctx) }()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := wait(t, done, "the dispatcher to end"); err != nil {
			t.Errorf("Run: %v", err)
		}
	}
	t.Cleanup(stop)
	return stop
}

// put puts an endpoint and returns its signing secret.
func (w *world) put(t testing.TB, id, url string, events ...string) string {
	t.Helper()
	r, err := w.PutEndpoint(t.Context(), "demo", id, fulfilment.EndpointRequest{URL: url, Events: events}, 0, ann)
	if err != nil {
		t.Fatalf("PutEndpoint: %v", err)
	}
	return r.NewSecret
}

// notice returns the n-th notice that an order is paid.
func (w *world) notice(n int) fulfilment.Notice {
	order := uuid.MustParse("019ab0c0-0000-7000-8000-000000000000")
	order[14], order[15] = byte(n>>8), byte(n)
	return fulfilment.Notice{TenantID: "demo", ID: fmt.Sprintf("%s-paid", order), EventType: fulfilment.EventOrderPaid, OrderID: order.String(),
		At: w.clock.Now(), Data: json.RawMessage(fmt.Sprintf(`{"orderId":"%s","total":%d}`, order, n)),
		Trace: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}
}

func (w *world) notify(t *testing.T, n, wantDeliveries int) {
	t.Helper()
	if got, err := w.Notify(t.Context(), w.notice(n)); err != nil || got != wantDeliveries {
		t.Fatalf("Notify: %d deliveries, error %v; want %d", got, err, wantDeliveries)
	}
}

// delivery returns the only delivery there is.
func (w *world) delivery(t *testing.T) fulfilment.Delivery {
	t.Helper()
	list, _, err := w.Deliveries(t.Context(), "demo", "", 10, "")
	if err != nil || len(list) != 1 {
		t.Fatalf("deliveries %+v, error %v; want one", list, err)
	}
	return list[0]
}

// onlyLetter returns the only dead letter there is.
func (w *world) onlyLetter(t *testing.T) deadletter.Letter {
	t.Helper()
	list, _, err := w.letters.List(t.Context(), deadletter.Filter{TenantID: "demo"}, 10, "")
	if err != nil || len(list) != 1 {
		t.Fatalf("dead letters %+v, error %v; want one", list, err)
	}
	return list[0]
}

// wait gets what a channel brings, within bounds.
func wait[T any](t testing.TB, c <-chan T, what string) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(patience):
		t.Fatalf("waited %v for %s", patience, what)
		panic("unreachable")
	}
}

// received is a webhook as it came in.
type received struct {
	header http.Header
	body   []byte
}

// receiver is a merchant's server: it tells what it gets and answers as it is told.
type receiver struct {
	*httptest.Server
	got chan received
}

func newReceiver(t *testing.T, answer http.HandlerFunc) *receiver {
	r := &receiver{got: make(chan received, 10_000)}
	r.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		body, err := io.ReadAll(req.Body)
		if err != nil {
			t.Error(err)
		}
		r.got <- received{req.Header.Clone(), body}
		answer(w, req)
	}))
	t.Cleanup(r.Close)
	return r
}

func answering(status int) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) }
}
