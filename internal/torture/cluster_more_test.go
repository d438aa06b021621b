package torture

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"millrace/internal/load"
)

func containsOrder(body []byte, id string) bool { return bytes.Contains(body, []byte(`"id":"`+id+`"`)) }

// loseRedis expects that whatever becomes of Redis, a tenant gets about its limit
// from all instances together, and nobody waits.
func loseRedis(ctx context.Context, t *testing.T, c *cluster, _ *crowd) {
	token := c.token(ctx, t, limitedTenant, "fleet", "events:write events:read")
	shared := func(want float64) {
		t.Helper()
		c.eachMetric(ctx, t, 15*time.Second, fmt.Sprintf("limits are shared: %v", want == 1), func(v float64) bool { return v == want }, "millrace_limit_shared_state")
	}
	keepsLimit := func(when string) {
		t.Helper()
		c.keepsLimit(ctx, t, token, when, 1.5)
	}
	degraded := func() (n float64) {
		for _, i := range c.instances {
			v, err := i.metric(ctx, "millrace_limit_degraded_decisions_total", "limit=events")
			if err != nil {
				t.Fatal(err)
			}
			n += v
		}
		return n
	}
	shared(1)
	keepsLimit("with Redis")
	if err := c.redis.Flush(ctx); err != nil {
		t.Fatal(err)
	}
	keepsLimit("after Redis was flushed")
	before := degraded()
	if err := c.redis.Pause(); err != nil {
		t.Fatal(err)
	}
	// Until it is clear that Redis is away, each lets through its own burst.
	c.keepsLimit(ctx, t, token, "when Redis falls silent", 2.7)
	shared(0)
	keepsLimit("while Redis is silent")
	if now := degraded(); now <= before {
		t.Errorf("no decision counts as degraded while Redis is silent: %v, %v before", now, before)
	}
	if err := c.redis.Resume(); err != nil {
		t.Fatal(err)
	}
	shared(1)
	if err := c.redis.Kill(); err != nil {
		t.Fatal(err)
	}
	shared(0)
	keepsLimit("without Redis")
	if err := c.redis.Restart(ctx); err != nil {
		t.Fatal(err)
	}
	shared(1)
	keepsLimit("with Redis back")
}

const (
	// limitTime is how long a limit is tried out, with three times as much at each
	// instance as all of them may let through.
	limitTime = 2 * time.Second
	// maxLimitedWait bounds the wait for an answer while a limit is tried out. One that
	// asked a silent Redis would wait for good.
	maxLimitedWait = 2 * time.Second
)

// keepsLimit offers too much to all instances at once and expects that at most so
// many times the limit is let through. Each for itself, three of them would let
// through three times as much.
func (c *cluster) keepsLimit(ctx context.Context, t *testing.T, token, when string, most float64) {
	t.Helper()
	reports := make([]load.Report, len(c.instances))
	errs := make([]error, len(c.instances))
	var wg sync.WaitGroup
	for n, i := range c.instances {
		wg.Go(func() {
			reports[n], errs[n] = load.Events(ctx, load.EventsOptions{URL: i.server.URL, Token: token, Rate: 3 * limitedRate, Batch: 10, Connections: 8, Duration: limitTime})
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatalf("%s: %v", when, err)
	}
	total, seconds := int64(0), limitTime.Seconds()
	for n, r := range reports {
		total, seconds = total+r.Events.Acked, max(seconds, r.Seconds)
		if r.Events.Failed+r.Events.Unknown+r.Events.Unreached != 0 || r.Events.Refused == 0 {
			t.Errorf("%s: %s: %+v %q", when, c.instances[n].name, r.Events, r.Examples)
		}
		if wait := max(r.Accept.MaxMs, r.Refusal.MaxMs); wait > float64(maxLimitedWait.Milliseconds()) {
			t.Errorf("%s: %s answered only after %.0f ms", when, c.instances[n].name, wait)
		}
	}
	may := float64(limitedRate) * (seconds + 1) // with the burst
	t.Logf("%s: %d events of a tenant were let through in %.1f s, of %.0f that may be", when, total, seconds, may)
	if float64(total) > most*may || float64(total) < 0.4*float64(limitedRate)*seconds {
		t.Errorf("%s: %d events were let through in %.1f s, more than %.1f times what may be, or too few", when, total, seconds, most)
	}
}

// slowTime is how long some are slow; longer than a webhook waits for its answer.
const slowTime = 11 * time.Second

// maxRSS bounds the memory of an instance, whoever is slow.
const maxRSS = 400 << 20

// beSlow lets a reader of the live tail read nothing, a merchant's endpoint answer
// after 10 s, and payments hang, and expects that nobody else notices.
func beSlow(ctx context.Context, t *testing.T, c *cluster, w *crowd) {
	fleet := c.token(ctx, t, w.tenant+"-fleet", "reader", "events:read")
	for _, i := range c.instances {
		defer deafTail(ctx, t, i, fleet).Close()
	}
	release := make(chan struct{})
	var slowCalls atomic.Int64
	sloth := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		slowCalls.Add(1)
		select {
		case <-time.After(10 * time.Second):
		case <-release:
		case <-r.Context().Done():
		}
	}))
	defer sloth.Close()
	defer close(release)
	heard := make(chan string, 1024)
	quick := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		select {
		case heard <- r.Header.Get("Webhook-Id"):
		default: // more than anybody waits for
		}
	}))
	defer quick.Close()
	c.endpoint(ctx, t, w.admin, "sloth", sloth.URL)
	c.endpoint(ctx, t, w.admin, "quick", quick.URL)
	defer c.disable(t, w.admin, "sloth", sloth.URL)
	defer c.disable(t, w.admin, "quick", quick.URL)
	c.slowPayments(ctx, t)

	for end := time.Now().Add(slowTime); time.Now().Before(end); {
		// The cards of the crowd may open an instance's circuit breaker, for 15 s.
		c.recovered(ctx, t, 30*time.Second)
	}
	if slowCalls.Load() == 0 {
		t.Error("the slow endpoint was not called, so nothing was tested")
	}
	c.eventually(ctx, t, 10*time.Second, "the quick endpoint is told while the other one is slow", func(context.Context) error {
		if len(heard) < 50 {
			return fmt.Errorf("%d calls", len(heard))
		}
		return nil
	})
	for _, i := range c.instances {
		u, err := i.server.Usage()
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%s has %d MiB, at most %d MiB so far", i.name, u.RSSBytes>>20, u.PeakRSSBytes>>20)
		if u.RSSBytes > maxRSS {
			t.Errorf("%s has %d MiB of memory, more than %d", i.name, u.RSSBytes>>20, maxRSS>>20)
		}
	}
	t.Logf("the slow endpoint was called %d times, the quick one at least %d times", slowCalls.Load(), len(heard))
}

// deafTail opens a live tail and never reads more than its header.
func deafTail(ctx context.Context, t *testing.T, i *instance, token string) net.Conn {
	t.Helper()
	conn, err := (&net.Dialer{Timeout: 5 * time.Second}).DialContext(ctx, "tcp", i.o.Listen)
	if err != nil {
		t.Fatal(err)
	}
	if err := conn.(*net.TCPConn).SetReadBuffer(4 << 10); err != nil {
		t.Fatal(err)
	}
	if _, err := fmt.Fprintf(conn, "GET /events/tail HTTP/1.1\r\nHost: %s\r\nAuthorization: Bearer %s\r\n\r\n", i.o.Listen, token); err != nil {
		t.Fatal(err)
	}
	if err := conn.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReaderSize(conn, 16).ReadString('\n')
	if err != nil || !strings.Contains(line, "200") {
		t.Fatalf("the tail of %s: %q, %v", i.name, line, err)
	}
	return conn
}

// endpoint tells Millrace where a merchant wants to be told.
func (c *cluster) endpoint(ctx context.Context, t *testing.T, token, id, url string) {
	t.Helper()
	r := ask(ctx, c.probes.client, http.MethodPut, c.nginx.URL()+"/webhook-endpoints/"+id, token, "", `{"url":"`+url+`","events":["order.paid"],"enabled":true}`)
	if r.status/100 != 2 {
		t.Fatalf("endpoint %s: %s", id, r)
	}
}

// disable ends the telling, so that nothing waits for who is away.
func (c *cluster) disable(t *testing.T, token, id, url string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if r := ask(ctx, c.probes.client, http.MethodDelete, c.nginx.URL()+"/webhook-endpoints/"+id, token, "", ""); r.status/100 != 2 {
		t.Errorf("endpoint %s: %s", id, r)
	}
}

// slowPayments places as many orders whose payment hangs as all instances have
// hands for payments.
func (c *cluster) slowPayments(ctx context.Context, t *testing.T) {
	t.Helper()
	o := load.OrdersOptions{URL: c.nginx.URL(), Token: c.probes.token, Count: 300, Connections: 16, SKUs: 1, SKUPrefix: "probe-", NoSeed: true,
		Tokens: []load.Weighted{{Text: "tok_slow", Weight: 1}}, Retry: true}
	if r, err := load.Orders(ctx, o); err != nil || r.Orders.Placed != 300 {
		t.Fatalf("%v %+v", err, r.Orders)
	}
}

// loseDisk cuts an instance off its database until its log and its outbox hold
// something, kills it, and moves its directory away.
func loseDisk(ctx context.Context, t *testing.T, c *cluster, w *crowd) {
	lost := c.instances[2]
	// A row of its in the outbox that it can no longer hand over. It hands over ten
	// times a second, so that there is one at most moments.
	for try := 1; ; try++ {
		lost.proxy.Partition()
		rows, err := c.count(ctx, `SELECT count(*) FROM outbox WHERE owner = $1`, lost.name)
		if err != nil {
			t.Fatal(err)
		}
		if rows > 0 {
			t.Logf("%s leaves %d rows in the outbox", lost.name, rows)
			break
		}
		if try == 50 {
			t.Fatalf("%s never has a row in the outbox", lost.name)
		}
		if err := lost.proxy.Pass(); err != nil {
			t.Fatal(err)
		}
		pause(ctx, t, 100*time.Millisecond)
	}
	var accepted []string
	for range 20 {
		id, r := c.probes.send(ctx, lost.server.URL)
		if r.status != http.StatusAccepted {
			t.Fatalf("%s does not take events without its database: %s", lost.name, r)
		}
		accepted = append(accepted, id)
	}
	lost.server.Kill()
	away := c.in("taken-away")
	if err := os.Rename(lost.o.Data, away); err != nil {
		t.Fatal(err)
	}
	if err := lost.proxy.Pass(); err != nil {
		t.Fatal(err)
	}
	c.busy(ctx, t, w)
	if n, err := c.count(ctx, `SELECT count(*) FROM events WHERE tenant_id = $1 AND id = ANY ($2)`, probeTenant, accepted); err != nil || n != 0 {
		t.Fatalf("%d of %d events came into the database before the log did: %v", n, len(accepted), err)
	}
	for range 2 { // the second finds nothing to do
		out, err := c.drain(ctx, lost, away)
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("wal drain: %s", out)
	}
	if n, err := c.count(ctx, `SELECT count(*) FROM events WHERE tenant_id = $1 AND id = ANY ($2)`, probeTenant, accepted); err != nil || n != int64(len(accepted)) {
		t.Errorf("%d of %d events of the log are in the database: %v", n, len(accepted), err)
	}
	c.eventually(ctx, t, 2*outboxSilence+10*time.Second, "what "+lost.name+" left in the outbox is taken over", func(ctx context.Context) error {
		return c.outboxOf(ctx, lost.name)
	})
	// Another one takes its place, with a disk of its own.
	next := c.newInstance("millrace-new-" + uuid.NewString()[:8])
	next.o.Listen, next.o.Admin = lost.o.Listen, lost.o.Admin
	c.instances[2] = next
	c.run(t, next)
	c.ready(ctx, t, next)
}

// drain brings a log into the database, with the configuration of an instance.
func (c *cluster) drain(ctx context.Context, i *instance, dir string) (string, error) {
	cmd := exec.CommandContext(ctx, c.binary, "wal", "drain", dir)
	cmd.Env = append(os.Environ(), i.o.Env...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		err = fmt.Errorf("wal drain %s: %w: %s", dir, err, out)
	}
	return string(out), err
}
