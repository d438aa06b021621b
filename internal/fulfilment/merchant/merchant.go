// Package merchant is the merchant of the demo: a small shop that ships what is
// paid for, so that an order can be watched to its end on one machine.
//
// Pattern: webhooks come in over HTTP and are checked as any receiver should: the
// signature with the library of Standard Webhooks, then the id, since a webhook
// can come twice. What is to be done waits in a bounded queue, in order of time;
// a few workers call the public API back, as any merchant would. The queue is lost
// with the process, so at the start the API is asked for what is under way.
//
// Concurrency: everything exported is safe for concurrent use.
//
// Lifecycle: New listens, Run serves and works until its context ends. A Merchant
// that is never run is closed with Close.
package merchant

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
)

// Options are what a Merchant is made of. API, Token and Secret are required.
type Options struct {
	// API returns the base URL of the public API, such as "http://127.0.0.1:8080". It
	// is asked from Run on only, so that a merchant can listen before the API does.
	API func() string
	// Token returns a bearer token for it with the scope orders:admin.
	Token func(ctx context.Context) (string, error)
	// Secret is the signing secret of the merchant's webhook endpoint.
	Secret string
	// ShipAfter is the time from the webhook to the shipment and DeliverAfter from
	// there to the delivery; 2 s each if zero, none if negative.
	ShipAfter, DeliverAfter time.Duration
	// MaxOrders bounds the orders that are waited for; 10,000 if zero. Beyond it
	// webhooks are answered 503 and come again.
	MaxOrders int
	// Workers bounds the calls of the API at once; 8 if zero.
	Workers int
	// Client calls the API; one with a timeout of 10 s if nil.
	Client *http.Client
	// Logger is for what happens outside of an answer. Nil discards.
	Logger *slog.Logger
}

// Bounds that nobody needs to choose.
const (
	maxBodyBytes = 1 << 20
	maxSeen      = 50_000
	callTimeout  = 10 * time.Second
	stopTimeout  = 3 * time.Second
	fullRetry    = "5" // seconds
)

func (o Options) withDefaults() (Options, error) {
	if o.API == nil || o.Token == nil || o.Secret == "" {
		return o, errors.New("merchant: API, Token and Secret are required")
	}
	for _, d := range []*time.Duration{&o.ShipAfter, &o.DeliverAfter} {
		*d = max(cmp.Or(*d, 2*time.Second), 0)
	}
	o.MaxOrders, o.Workers = cmp.Or(o.MaxOrders, 10_000), cmp.Or(o.Workers, 8)
	if o.MaxOrders < 1 || o.Workers < 1 {
		return o, errors.New("merchant: MaxOrders and Workers must be at least 1")
	}
	if o.Client == nil {
		o.Client = &http.Client{Timeout: callTimeout, Transport: &http.Transport{MaxIdleConnsPerHost: o.Workers, IdleConnTimeout: 30 * time.Second}}
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return o, nil
}

// Merchant is the demo's merchant. It is an http.Handler that takes webhooks.
type Merchant struct {
	o        Options
	webhook  *standardwebhooks.Webhook
	listener net.Listener
	parcels  *parcels

	mu        sync.Mutex // guards what follows
	seen      *recent    // webhooks
	cancelled *recent    // orders
}

// New returns a Merchant that listens on a port of this machine alone.
func New(o Options) (*Merchant, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	webhook, err := standardwebhooks.NewWebhook(o.Secret)
	if err != nil {
		return nil, errors.New("merchant: Secret is not \"whsec_\" and base64") // the error itself could show a piece of it
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("the demo merchant cannot listen: %w", err)
	}
	return &Merchant{o: o, webhook: webhook, listener: listener, parcels: newParcels(o.MaxOrders), seen: newRecent(maxSeen), cancelled: newRecent(maxSeen)}, nil
}

// URL is where webhooks are to be sent.
func (m *Merchant) URL() string { return "http://" + m.Addr() + "/webhooks" }

// Addr is the "host:port" it listens on.
func (m *Merchant) Addr() string { return m.listener.Addr().String() }

// Close stops listening. Run does it by itself.
func (m *Merchant) Close() error { return m.listener.Close() }

// Run serves and works until ctx ends. It may be called once. The error is one of
// serving.
func (m *Merchant) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	server := &http.Server{Handler: m, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: callTimeout, WriteTimeout: callTimeout,
		IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10, ErrorLog: slog.NewLogLogger(m.o.Logger.Handler(), slog.LevelDebug)}
	var tasks sync.WaitGroup
	defer tasks.Wait()
	tasks.Go(func() {
		<-ctx.Done()
		stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
		defer cancel()
		if server.Shutdown(stop) != nil {
			server.Close()
		}
	})
	ready := make(chan *parcel)
	tasks.Go(func() { m.parcels.hand(ctx, ready) })
	for range m.o.Workers {
		tasks.Go(func() { m.work(ctx, ready) })
	}
	tasks.Go(func() { m.catchUp(ctx) })
	err := server.Serve(m.listener)
	cancel()
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return fmt.Errorf("the demo merchant cannot serve: %w", err)
}

// webhookBody is what matters of a webhook's body.
type webhookBody struct {
	Type string `json:"type"`
	Data struct {
		OrderID string `json:"orderId"`
	} `json:"data"`
}

// ServeHTTP takes one webhook: 204 when it was taken, 401 when it is not signed as
// it must be, 400 when it cannot be read, 503 when there is no room.
func (m *Merchant) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodPost || r.URL.Path != "/webhooks" {
		http.Error(w, "POST /webhooks takes webhooks, there is nothing else", http.StatusNotFound)
		return
	}
	payload, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBodyBytes))
	if err != nil {
		http.Error(w, "the body cannot be read", http.StatusBadRequest)
		return
	}
	if err := m.webhook.Verify(payload, r.Header); err != nil {
		http.Error(w, err.Error(), http.StatusUnauthorized)
		return
	}
	var b webhookBody
	if err := json.Unmarshal(payload, &b); err != nil {
		http.Error(w, "the body is not JSON", http.StatusBadRequest)
		return
	}
	if !m.take(r.Header.Get(standardwebhooks.HeaderWebhookID), &b) {
		w.Header().Set("Retry-After", fullRetry)
		http.Error(w, "too many orders wait here", http.StatusServiceUnavailable)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

// take acts on a webhook once. It reports false when there is no room: then the
// webhook is to come again.
func (m *Merchant) take(id string, b *webhookBody) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.seen.has(id) {
		return true
	}
	if b.Data.OrderID != "" {
		switch b.Type {
		case "order.paid":
			if m.cancelled.has(b.Data.OrderID) {
				break // webhooks may come in another order than things happened
			}
			if !m.parcels.add(b.Data.OrderID, toShip, time.Now().Add(m.o.ShipAfter)) {
				return false
			}
		case "order.cancelled":
			m.parcels.drop(b.Data.OrderID)
			if !m.cancelled.has(b.Data.OrderID) {
				m.cancelled.add(b.Data.OrderID)
			}
		}
	}
	m.seen.add(id)
	return true
}

// recent remembers the last ids it was given.
type recent struct {
	ids  map[string]struct{}
	ring []string
	next int
}

func newRecent(size int) *recent {
	return &recent{ids: make(map[string]struct{}), ring: make([]string, size)}
}

func (r *recent) has(id string) bool {
	_, ok := r.ids[id]
	return ok
}

// add remembers an id that is not there and forgets the oldest if there are too
// many.
func (r *recent) add(id string) {
	delete(r.ids, r.ring[r.next])
	r.ids[id] = struct{}{}
	r.ring[r.next] = id
	r.next = (r.next + 1) % len(r.ring)
}
