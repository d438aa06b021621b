package torture

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"millrace/internal/load"
)

// eventually asks until what is asked for is so.
func (c *cluster) eventually(ctx context.Context, t *testing.T, within time.Duration, what string, ask func(context.Context) error) {
	t.Helper()
	began := time.Now()
	err := c.await(ctx, within, ask)
	if err != nil {
		t.Fatalf("not within %s: %s: %v", within, what, err)
	}
	if took := time.Since(began); took > within/2 {
		t.Logf("only after %.1f s of %s: %s", took.Seconds(), within, what)
	}
}

// await asks until there is no error any more, and returns the last one.
func (c *cluster) await(ctx context.Context, within time.Duration, ask func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	var last error
	for {
		err := ask(ctx)
		if err == nil {
			return nil
		}
		if ctx.Err() == nil || last == nil {
			last = err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return last
		}
	}
}

// metric is the sum of an instance's samples.
func (i *instance) metric(ctx context.Context, name string, labels ...string) (float64, error) {
	m, err := i.server.Metrics(ctx)
	if err != nil {
		return 0, err
	}
	v, ok := m.Sum(name, labels...)
	if !ok {
		return 0, fmt.Errorf("%s has no metric %s %v", i.name, name, labels)
	}
	return v, nil
}

// eachMetric waits until a metric is as wanted on every instance.
func (c *cluster) eachMetric(ctx context.Context, t *testing.T, within time.Duration, what string, is func(float64) bool, name string, labels ...string) {
	t.Helper()
	for _, i := range c.instances {
		c.eventually(ctx, t, within, i.name+": "+what, func(ctx context.Context) error {
			v, err := i.metric(ctx, name, labels...)
			if err == nil && !is(v) {
				err = fmt.Errorf("%s is %v", name, v)
			}
			return err
		})
	}
}

// prober looks whether the service works, as a client of its own that keeps out of
// the way of those whose orders are counted.
type prober struct {
	c     *cluster
	token string
	// client takes a new connection for each request, so that none waits in one that
	// leads to a process that is gone.
	client *http.Client
}

const probeTenant, probeSKU = "probe", "probe-00001"

func newProber(ctx context.Context, t *testing.T, c *cluster) *prober {
	t.Helper()
	p := &prober{c: c, token: c.token(ctx, t, probeTenant, "prober", "admin"),
		client: &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 15 * time.Second}}
	o := load.OrdersOptions{URL: c.nginx.URL(), Token: p.token, Count: 1, SKUs: 1, SKUPrefix: "probe-", AckedFile: filepath.Join(t.TempDir(), "probe")}
	if _, err := load.Orders(ctx, o); err != nil {
		t.Fatal(err)
	}
	return p
}

func (p *prober) ask(ctx context.Context, method, url, key, body string) reply {
	return ask(ctx, p.client, method, url, p.token, key, body)
}

// place places one order that is paid at once.
func (p *prober) place(ctx context.Context, url string) (id string, r reply) {
	r = p.ask(ctx, http.MethodPost, url+"/orders", uuid.NewString(), `{"items":[{"sku":"`+probeSKU+`","quantity":1}],"paymentToken":"tok_ok"}`)
	var placed struct{ ID string }
	if r.status == http.StatusAccepted {
		r.err = json.Unmarshal(r.body, &placed)
	}
	return placed.ID, r
}

// send sends one event.
func (p *prober) send(ctx context.Context, url string) (id string, r reply) {
	id = uuid.NewString()
	return id, p.ask(ctx, http.MethodPost, url+"/events", "", `[{"id":"`+id+`","type":"probe","payload":{}}]`)
}

// statusOf is an order's status.
func (p *prober) statusOf(ctx context.Context, url, id string) (string, error) {
	r := p.ask(ctx, http.MethodGet, url+"/orders/"+id+"/status", "", "")
	var o struct{ Status string }
	if r.status != http.StatusOK {
		return "", errors.New(r.String())
	}
	return o.Status, json.Unmarshal(r.body, &o)
}

// paid places an order and waits until it is paid. One that has expired meanwhile
// does not count: payments may have been away for longer than it waits.
func (p *prober) paid(ctx context.Context, within time.Duration, url string) error {
	var id string
	return p.c.await(ctx, within, func(ctx context.Context) error {
		if id == "" {
			var r reply
			if id, r = p.place(ctx, url); id == "" {
				return fmt.Errorf("no order is placed: %s", r)
			}
		}
		status, err := p.statusOf(ctx, url, id)
		if err != nil || slices.Contains([]string{"paid", "fulfilling", "shipped", "completed"}, status) {
			return err
		}
		err = fmt.Errorf("order %s is %s", id, status)
		if status == "expired" {
			id = ""
		}
		return err
	})
}

// queryable sends an event to one instance and waits until another one shows it.
func (p *prober) queryable(ctx context.Context, within time.Duration, to, from string) error {
	began := time.Now()
	var id string
	err := p.c.await(ctx, within, func(ctx context.Context) error {
		var r reply
		if id, r = p.send(ctx, to); r.status != http.StatusAccepted {
			return fmt.Errorf("no event is accepted: %s", r)
		}
		return nil
	})
	if err != nil {
		return err
	}
	return p.c.await(ctx, within-time.Since(began), func(ctx context.Context) error {
		if r := p.ask(ctx, http.MethodGet, from+"/events/"+id, "", ""); r.status != http.StatusOK {
			return fmt.Errorf("event %s: %s", id, r)
		}
		return nil
	})
}

// each does something for every instance at the same time and says what failed.
func (c *cluster) each(do func(n int, i *instance) error) error {
	errs := make([]error, len(c.instances))
	var wg sync.WaitGroup
	for n, i := range c.instances {
		wg.Go(func() {
			if err := do(n, i); err != nil {
				errs[n] = fmt.Errorf("%s: %w", i.name, err)
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// recovered expects that within a time every instance is ready and works, without
// anybody's help.
func (c *cluster) recovered(ctx context.Context, t *testing.T, within time.Duration) {
	t.Helper()
	began := time.Now()
	left := func() time.Duration { return within - time.Since(began) }
	err := c.each(func(n int, i *instance) error {
		next := c.instances[(n+1)%len(c.instances)]
		err := c.await(ctx, left(), func(ctx context.Context) error {
			if r := c.probes.ask(ctx, http.MethodGet, i.server.URL+"/readyz", "", ""); r.status != http.StatusOK {
				return fmt.Errorf("it is not ready: %s", r)
			}
			return nil
		})
		if err != nil {
			return err
		}
		if err := c.probes.queryable(ctx, left(), i.server.URL, next.server.URL); err != nil {
			return fmt.Errorf("it takes no events that %s shows: %w", next.name, err)
		}
		return c.probes.paid(ctx, left(), i.server.URL)
	})
	if err != nil {
		t.Fatalf("not recovered within %s: %v", within, err)
	}
	t.Logf("recovered %.1f s after the fault, of %s", time.Since(began).Seconds(), within)
}

// paidOn expects that every instance, or those of a list, gets an order paid.
func (c *cluster) paidOn(ctx context.Context, t *testing.T, when string, within time.Duration, only ...*instance) {
	t.Helper()
	began := time.Now()
	err := c.each(func(_ int, i *instance) error {
		if len(only) > 0 && !slices.Contains(only, i) {
			return nil
		}
		return c.probes.paid(ctx, within, i.server.URL)
	})
	if err != nil {
		t.Fatalf("%s orders do not get paid within %s: %v", when, within, err)
	}
	t.Logf("%s an order of each was paid within %.1f s", when, time.Since(began).Seconds())
}

const (
	// maxLogLines bounds what one instance may say during one stage.
	maxLogLines = 1500
	// maxNewLog bounds what is read of it.
	maxNewLog = 16 << 20
)

// away are the words in which an error says that a service is not there. Only
// while that is the fault may an instance log errors.
var away = []string{"not available", "store-unavailable", "failed to connect", "connection failed", "conn closed", "unexpected EOF", "connection reset", "broken pipe",
	"connection refused", "starting up", "shutting down", "terminating connection", "timeout", "deadline exceeded", "waited too long"}

// neverLogged must not be in an instance's log, whatever the fault.
var neverLogged = []string{"deadlock", "violates", "panic", "fatal error", "DATA RACE", "SQLSTATE 23", "SQLSTATE 42", "syntax error", "too many clients"}

// checkLogs looks through what was logged since the last look for what must not be
// there.
func (c *cluster) checkLogs(t *testing.T, errorsExpected bool) {
	t.Helper()
	for _, i := range c.instances {
		said := map[string]int{}
		example := map[string]string{}
		lines := 0
		for line := range strings.Lines(string(c.news(t, i.o.Output))) {
			lines++
			if n := slices.IndexFunc(neverLogged, func(s string) bool { return strings.Contains(line, s) }); n >= 0 {
				t.Errorf("%s logged %q", i.name, line)
			}
			var r struct {
				Level, Msg, Error, Method, Route, Problem string
				Status                                    int
			}
			if json.Unmarshal([]byte(line), &r) != nil {
				continue // what it prints at the start is for people
			}
			key := r.Level + " " + r.Msg
			if r.Route != "" {
				key = fmt.Sprintf("%s %s %s: %d %s", key, r.Method, r.Route, r.Status, r.Problem)
			}
			said[key]++
			if example[key] == "" {
				example[key] = r.Error
			}
			gone := slices.ContainsFunc(away, func(s string) bool { return strings.Contains(r.Error, s) })
			if r.Level == "ERROR" && !(errorsExpected && gone) {
				t.Errorf("%s logged an error that this fault does not explain: %s", i.name, line)
			}
		}
		for _, key := range slices.Sorted(maps.Keys(said)) {
			t.Logf("%s said %d times: %s: %.200s", i.name, said[key], key, example[key])
		}
		if lines > maxLogLines {
			t.Errorf("%s logged %d lines in one stage", i.name, lines)
		}
	}
	c.checkPostgresLog(t)
}

// checkPostgresLog does so with the database's log. Instances that place the same
// order at once, charge the same card or sell the last unit let the database decide
// who was first: two keys may be found taken, and the stock gone.
func (c *cluster) checkPostgresLog(t *testing.T) {
	t.Helper()
	raced := 0
	for line := range strings.Lines(string(c.news(t, c.in("postgres", "postgres.log")))) {
		if strings.Contains(line, `"idempotency_keys_pkey"`) || strings.Contains(line, `"sandbox_ledger_pkey"`) || strings.Contains(line, `"stock_check"`) {
			raced++
			continue
		}
		for _, bad := range []string{"deadlock", "violates", "PANIC", "syntax error", "does not exist", "out of shared memory", "too many clients", "remaining connection slots", "could not serialize"} {
			if strings.Contains(line, bad) && !strings.Contains(line, `"schema_compat" does not exist`) {
				t.Errorf("PostgreSQL logged %q", line)
			}
		}
	}
	t.Logf("instances came to a key at the same time %d times", raced)
}

// news is what a file got since it was read last.
func (c *cluster) news(t *testing.T, path string) []byte {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.NewSectionReader(f, c.watched[path], maxNewLog))
	if err != nil {
		t.Fatal(err)
	}
	c.watched[path] += int64(len(text))
	return text
}
