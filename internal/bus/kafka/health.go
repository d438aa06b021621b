package kafka

import (
	"context"
	"errors"
	"net"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"millrace/internal/bus"
)

// Times of the watch over the cluster.
const (
	pingEvery   = 2 * time.Second
	pingWithin  = 2 * time.Second
	checkEvery  = 5                      // pings, between two looks at the topics
	atMostEvery = 100 * time.Millisecond // pings, however often connections end
)

// health is what is known of whether the cluster can be reached: the client makes
// connections as it needs them, so one that ends says little by itself. It is
// safe for concurrent use.
type health struct {
	metrics *Metrics
	looks   chan struct{} // has room for one: "a connection has failed or ended"
	known   chan struct{} // closed when there is a first verdict

	mu          sync.Mutex // guards what follows
	connections int
	up, judged  bool
	closed      bool
	since       time.Time          // of the last change
	cause       error              // why it is down
	live        context.Context    // ends when the cluster is found down
	lose        context.CancelFunc // ends live
}

func newHealth(m *Metrics) *health {
	h := &health{metrics: m, looks: make(chan struct{}, 1), known: make(chan struct{}), since: time.Now()}
	h.live, h.lose = context.WithCancel(context.Background())
	return h
}

// look has the cluster pinged soon.
func (h *health) look() {
	select {
	case h.looks <- struct{}{}:
	default: // it will be
	}
}

// OnBrokerConnect implements kgo.HookBrokerConnect.
func (h *health) OnBrokerConnect(_ kgo.BrokerMetadata, _ time.Duration, _ net.Conn, err error) {
	h.mu.Lock()
	if err == nil {
		h.connections++
	}
	look := err != nil && h.up
	h.mu.Unlock()
	if look {
		h.look()
	}
}

// OnBrokerDisconnect implements kgo.HookBrokerDisconnect.
func (h *health) OnBrokerDisconnect(kgo.BrokerMetadata, net.Conn) {
	h.mu.Lock()
	h.connections--
	look := h.up
	h.mu.Unlock()
	if look {
		h.look()
	}
}

// judge takes a ping's outcome: one failure is a verdict if no connection is left,
// otherwise it takes two. It says whether the verdict has changed.
func (h *health) judge(err error, failures int) (changed bool, after time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed || (err != nil && h.up && h.connections > 0 && failures < 2) {
		return false, 0
	}
	up := err == nil
	h.cause = err
	changed, after = h.up != up || !h.judged, time.Since(h.since)
	if h.up != up {
		h.since = time.Now()
	}
	h.up = up
	switch {
	case up && h.live.Err() != nil:
		h.live, h.lose = context.WithCancel(context.Background())
	case !up:
		h.lose()
	}
	if !h.judged {
		h.judged = true
		close(h.known)
	}
	value := 0.0
	if up {
		value = 1
	}
	h.metrics.connected.Set(value)
	return changed, after
}

// close says that this side has ended.
func (h *health) close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.closed, h.up, h.cause = true, false, errClosed
	h.lose()
	if !h.judged {
		h.judged = true
		close(h.known)
	}
	h.metrics.connected.Set(0)
}

var errClosed = errors.New("this side has closed the connection")

// why returns why the cluster cannot be reached, nil if it can or that is not
// known.
func (h *health) why() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.cause
}

func (h *health) isUp() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.up
}

// reach returns a context that ends with ctx and when the cluster is found down,
// or why it is down now. Before the first verdict it waits for that.
func (h *health) reach(ctx context.Context) (context.Context, context.CancelFunc, error) {
	select {
	case <-h.known:
	case <-ctx.Done():
		return nil, nil, ctx.Err()
	}
	h.mu.Lock()
	up, live, cause := h.up, h.live, h.cause
	h.mu.Unlock()
	if !up {
		return nil, nil, cause
	}
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(live, func() { cancel(errLost) })
	return ctx, func() { stop(); cancel(nil) }, nil
}

// errLost says that the cluster went away in the middle of something.
var errLost = errors.New("the brokers went away")

// watch keeps the verdict until the bus is closed, and has the topics looked at
// whenever brokers may have come back without them.
func (b *Bus) watch(ctx context.Context) {
	defer close(b.watched)
	failures, rounds := 0, 0
	for ctx.Err() == nil {
		ping, cancel := context.WithTimeout(ctx, pingWithin)
		err := b.client.Ping(ping)
		cancel()
		if ctx.Err() != nil {
			return
		}
		if failures++; err == nil {
			failures = 0
		}
		changed, after := b.health.judge(err, failures)
		if changed {
			b.tell(err, after)
		}
		poked := b.rest(ctx, err != nil, failures)
		if rounds++; err == nil && (changed || poked || rounds%checkEvery == 0) {
			b.recheck(ctx)
		}
	}
}

// tell logs a new verdict.
func (b *Bus) tell(err error, after time.Duration) {
	if err == nil {
		b.options.Logger.Info("connected to the message broker", "brokers", b.options.Brokers, "after", after.Round(time.Millisecond))
		return
	}
	b.options.Logger.Warn("the message broker cannot be reached; trying on", "brokers", b.options.Brokers, "error", err)
}

// rest waits until the next ping is due, and says whether a connection has ended
// meanwhile.
func (b *Bus) rest(ctx context.Context, down bool, failures int) bool {
	wait := pingEvery
	var looks <-chan struct{} = b.health.looks
	if down {
		// Pings fail at once, and each pokes: keep to the pace.
		wait, looks = b.options.ReconnectWait+bus.Backoff(1, b.options.ReconnectWait/2+1, b.options.ReconnectWait/2+1), nil
		if b.health.isUp() {
			wait = atMostEvery // not a verdict yet
		}
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return false
	case <-looks:
	}
	pace := time.NewTimer(atMostEvery)
	defer pace.Stop()
	select {
	case <-ctx.Done():
	case <-pace.C:
	}
	return true
}
