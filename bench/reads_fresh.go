package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"sync"
	"time"
)

const (
	freshWrites = 400
	freshRate   = 20 // writes a second
	// freshPoll is the pause between two looks at one instance.
	freshPoll = 2 * time.Millisecond
	// freshBound ends the wait for one write.
	freshBound = 20 * time.Second
	lostWrites = 20
)

// readsFresh measures how soon a write is visible on every instance.
func readsFresh(ctx context.Context, b *bench, r *result) (err error) {
	s, err := b.backing(ctx, r, 1)
	if err != nil {
		return err
	}
	defer ended(&err, s.stop, ctx)
	f, err := b.fleet(ctx, r, s, 3, readyForAll)
	if err != nil {
		return err
	}
	defer ended(&err, f.stop, ctx)
	if err := b.importFile(ctx, r, f.members[0], "products", productsFile, readProducts); err != nil {
		return err
	}
	client := &http.Client{Timeout: freshBound, Transport: &http.Transport{MaxIdleConnsPerHost: 256}}
	defer client.CloseIdleConnections()
	// The import is on its way to all of them, and the first requests open connections.
	if _, err := f.prices(ctx, client, freshRate, freshRate); err != nil {
		return err
	}
	before, err := f.metrics(ctx)
	if err != nil {
		return err
	}
	n := freshWrites
	if b.quick {
		n = 3 * freshRate
	}
	x, err := f.prices(ctx, client, n, freshRate)
	if err != nil {
		return err
	}
	r.atMost(fmt.Sprintf("PUT sent to visible on all three, p99 of %d", n), quantile(x.fromSend, 0.99), "ms", 250)
	r.add("PUT sent to visible on all three, p50", quantile(x.fromSend, 0.5), "ms")
	r.add("PUT sent to visible on all three, max", quantile(x.fromSend, 1), "ms")
	r.add("PUT sent to its answer, p50", quantile(x.answer, 0.5), "ms")
	r.add("PUT sent to its answer, p99", quantile(x.answer, 0.99), "ms")
	r.add("its answer to visible on all three, p99", quantile(x.fromAnswer, 0.99), "ms")
	if err := f.noteLag(ctx, r, before); err != nil {
		return err
	}
	r.note("The writes go to the three instances in turn; each instance is looked at every %s until it shows the version, the one that wrote too.", freshPoll)

	if err := s.nats.Kill(); err != nil {
		return err
	}
	n = lostWrites
	if b.quick {
		n = 3
	}
	lost, err := f.prices(ctx, client, n, 5)
	if err != nil {
		return errors.Join(err, s.nats.Restart(ctx))
	}
	r.atMost(fmt.Sprintf("NATS killed: PUT sent to visible on all three, max of %d", n), quantile(lost.fromSend, 1), "ms", 4000)
	r.add("NATS killed: PUT sent to visible on all three, p50", quantile(lost.fromSend, 0.5), "ms")
	return s.nats.Restart(ctx)
}

// noteLag notes the lag as the instances themselves measured it.
func (f *fleet) noteLag(ctx context.Context, r *result, before readings) error {
	after, err := f.metrics(ctx)
	if err != nil {
		return err
	}
	for i := range after {
		h := after[i].Histogram("millrace_index_lag_seconds", "index=catalog").Minus(before[i].Histogram("millrace_index_lag_seconds", "index=catalog"))
		if h.Count() == 0 {
			return fmt.Errorf("instance %d has observed no lag", i+1)
		}
		r.add(fmt.Sprintf("instance %d, its own metric: write to visible there, p99", i+1), h.Quantile(0.99)*1000, "ms")
	}
	return nil
}

// freshness is how long writes took, each in milliseconds.
type freshness struct {
	answer     []float64 // from sending the PUT to its answer
	fromSend   []float64 // to its being visible on the slowest instance
	fromAnswer []float64
}

// prices changes so many prices at a rate, on each instance in turn, and waits for
// each until all instances show it.
func (f *fleet) prices(ctx context.Context, client *http.Client, n, rate int) (x freshness, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var mu sync.Mutex
	var writes sync.WaitGroup
	tick := time.NewTicker(time.Second / time.Duration(rate))
	defer tick.Stop()
	for i := range n {
		if ctx.Err() != nil {
			break
		}
		writes.Go(func() {
			answered, all, err := f.price(ctx, client, i)
			if err != nil {
				cancel(err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			x.answer = append(x.answer, milliseconds(answered))
			x.fromSend = append(x.fromSend, milliseconds(all))
			x.fromAnswer = append(x.fromAnswer, milliseconds(max(all-answered, 0)))
		})
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
	writes.Wait()
	return x, context.Cause(ctx)
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// price changes one price and returns how long its answer took, and how long it was
// until all instances showed it.
func (f *fleet) price(ctx context.Context, client *http.Client, i int) (answered, all time.Duration, err error) {
	ctx, cancel := context.WithTimeout(ctx, freshBound)
	defer cancel()
	sku := productSKU(i % readProducts)
	var line struct {
		Names map[string]string `json:"names"`
		Price struct {
			Amount   int64  `json:"amount"`
			Currency string `json:"currency"`
		} `json:"price"`
	}
	line.Names = map[string]string{"en": "Bench"}
	line.Price.Amount, line.Price.Currency = time.Now().UnixMicro()%1_000_000_000+1, "EUR"
	body, err := json.Marshal(line)
	if err != nil {
		return 0, 0, err
	}
	began := time.Now()
	version, err := putProduct(ctx, client, f.members[i%len(f.members)], sku, body)
	if err != nil {
		return 0, 0, err
	}
	answered = time.Since(began)
	seen := make([]time.Duration, len(f.members))
	errs := make([]error, len(f.members))
	var looks sync.WaitGroup
	for m, t := range f.members {
		looks.Go(func() {
			errs[m] = shows(ctx, client, t, sku, version)
			seen[m] = time.Since(began)
		})
	}
	looks.Wait()
	return answered, slices.Max(seen), errors.Join(errs...)
}

// putProduct puts a product and returns its version.
func putProduct(ctx context.Context, client *http.Client, t *target, sku string, body []byte) (int64, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPut, t.url+"/products/"+sku, bytes.NewReader(body))
	if err != nil {
		return 0, err
	}
	req.Header.Set("Authorization", "Bearer "+t.token)
	req.Header.Set("Content-Type", "application/json")
	resp, err := client.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, err
	}
	var p struct {
		Version int64 `json:"version"`
	}
	if resp.StatusCode/100 != 2 || json.Unmarshal(text, &p) != nil || p.Version == 0 {
		return 0, fmt.Errorf("PUT /products/%s: %d %.200s", sku, resp.StatusCode, text)
	}
	return p.Version, nil
}

// shows waits until an instance shows a version of a product, or a later one.
func shows(ctx context.Context, client *http.Client, t *target, sku string, version int64) error {
	tick := time.NewTicker(freshPoll)
	defer tick.Stop()
	for {
		var p struct {
			Version int64 `json:"version"`
		}
		if err := getJSON(ctx, client, t, "/products/"+sku, &p); err != nil {
			return err
		}
		if p.Version >= version {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("%s shows version %d of %s and not %d: %w", t.url, p.Version, sku, version, context.Cause(ctx))
		}
	}
}

// quantile returns what a share of the values does not exceed.
func quantile(v []float64, q float64) float64 {
	if len(v) == 0 {
		return 0
	}
	v = slices.Sorted(slices.Values(v))
	return v[min(int(q*float64(len(v))), len(v)-1)]
}
