package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"millrace/internal/load"
)

// readScenarios lists what is measured of reads.
func readScenarios() []scenario {
	return []scenario{
		{"reads", "reads-product", "GET /products/{sku} of 1,000 products with a token and metrics: as fast as the server answers for 5 s, in turns with a bare net/http handler that writes the same bytes; then 10,000 a second for 20 s (open loop)", readsProduct},
		{"reads", "reads-place", "GET /places/{id} of 5,000 places, in the same ways", readsPlace},
		{"reads", "reads-write", "GET /products/{sku} as fast as the server answers for 5 s, alone and while one import changes 1,000 products a second", readsWrite},
		{"reads", "reads-start", "Start to ready with all places, embedded and on PostgreSQL, and what a record takes in memory", readsStart},
		{"reads", "reads-fresh", "Three instances on PostgreSQL and NATS: from a PUT of a price to its being read from all of them, 20 a second; then with NATS killed", readsFresh},
	}
}

const (
	readConnections = "64"
	readProducts    = 1000
	readPlaces      = 5000
)

// reading is what one scenario asks for.
type reading struct {
	path  string
	fill  func(ctx context.Context, b *bench, r *result, t *target) error
	extra [][]string // further ways to ask, for information
}

func readsProduct(ctx context.Context, b *bench, r *result) error {
	return b.againstBare(ctx, r, reading{path: "/products/{sku}",
		fill: func(ctx context.Context, b *bench, r *result, t *target) error {
			return b.importFile(ctx, r, t, "products", productsFile, readProducts)
		},
		extra: [][]string{{"--conditional", "1"}, {"--encoding", "gzip"}}})
}

func readsPlace(ctx context.Context, b *bench, r *result) error {
	return b.againstBare(ctx, r, reading{path: "/places/{id}",
		fill: func(ctx context.Context, b *bench, r *result, t *target) error {
			return b.importFile(ctx, r, t, "places", writePlaces, readPlaces)
		},
		extra: [][]string{{"--conditional", "1"}, {"--language", "de-AT, fr;q=0.5"}}})
}

// importFile writes a file of so many things and imports it.
func (b *bench) importFile(ctx context.Context, r *result, t *target, what string, write func(path string, n int) error, n int) error {
	path := filepath.Join(b.dir, what+".ndjson")
	if err := write(path, n); err != nil {
		return err
	}
	defer os.Remove(path)
	return b.importThings(ctx, r, t, what, path)
}

// importThings imports a file into a target's running server.
func (b *bench) importThings(ctx context.Context, r *result, t *target, what, path string) error {
	r.command("bin/millrace", []string{"import", what, filepath.Base(path), "--data", "DIR"})
	return b.command(ctx, t, "import", what, path, "--data", t.dir)
}

// read runs `millrace load reads` against a target and returns its report.
func (b *bench) read(ctx context.Context, r *result, t *target, args ...string) (load.ReadsReport, error) {
	var report load.ReadsReport
	return report, b.load(ctx, r, t, "reads", &report, args)
}

func notRead(x load.ReadsReport) float64 {
	c := x.Reads
	return float64(c.Refused + c.Failed + c.Unanswered + c.Unreached + c.Missed + c.Stale)
}

// readRun is one closed loop against one server.
type readRun struct {
	perSecond float64
	cpuMicros float64 // of the server, by request
	report    load.ReadsReport
}

// readMax reads as fast as a target answers.
func (b *bench) readMax(ctx context.Context, r *result, t *target, path string, more ...string) (x readRun, err error) {
	// Each server warms up alone, so that what is counted is only its own.
	args := append([]string{"--path", path, "--rate", "max", "--connections", readConnections}, more...)
	if _, err := b.read(ctx, r, t, append(args, "--duration", "1s")...); err != nil {
		return x, err
	}
	before, err := cpuOf(t.pid)
	if err != nil {
		return x, err
	}
	if x.report, err = b.read(ctx, r, t, append(args, "--duration", b.seconds(5).String())...); err != nil {
		return x, err
	}
	after, err := cpuOf(t.pid)
	if err != nil {
		return x, err
	}
	x.perSecond = x.report.PerSecond
	x.cpuMicros = (after - before).Seconds() * 1e6 / float64(max(x.report.Reads.Sent, 1))
	if n := notRead(x.report); n > 0 {
		r.note("**%s of %s requests were not answered as they should be: %v %q**", number(n), number(float64(x.report.Reads.Sent)), x.report.Statuses, x.report.Examples)
	}
	return x, nil
}

// cpuOf is the CPU time that a process has used so far.
func cpuOf(pid int) (time.Duration, error) {
	all, err := processes()
	if err != nil {
		return 0, err
	}
	return treeCPU(all, []int{pid}), nil
}

// againstBare measures the server in turns with a handler that does nothing else
// than to write the same bytes, and then at a fixed rate.
func (b *bench) againstBare(ctx context.Context, r *result, x reading) (err error) {
	ours, err := b.serve(ctx, r)
	if err != nil {
		return err
	}
	defer ended(&err, ours.stop, ctx)
	if err := x.fill(ctx, b, r, ours); err != nil {
		return err
	}
	bare, err := b.bareCopy(ctx, r, ours, x.path)
	if err != nil {
		return fmt.Errorf("the bare handler: %w", err)
	}
	defer ended(&err, bare.stop, ctx)
	keys := []string{"--keys-file", filepath.Join(b.dir, "keys")}
	defer os.Remove(keys[1])

	if err := b.inTurns(ctx, r, ours, bare, x.path, keys); err != nil {
		return err
	}
	for _, more := range x.extra {
		run, err := b.readMax(ctx, r, ours, x.path, append(more, keys...)...)
		if err != nil {
			return err
		}
		r.add(fmt.Sprintf("as fast as it answers, %s %s", more[0], more[1]), run.perSecond, "requests/s")
	}
	for _, which := range []struct {
		name string
		t    *target
	}{{"", ours}, {"bare: ", bare}} {
		report, err := b.read(ctx, r, which.t, append([]string{"--path", x.path, "--rate", "10000", "--connections", readConnections,
			"--warm-up", "2s", "--duration", b.seconds(20).String()}, keys...)...)
		if err != nil {
			return err
		}
		if which.t == ours {
			r.atMost("10,000/s: p99 from the intended time", report.Latency.P99Ms, "ms", 4)
			r.atMost("10,000/s: p90", report.Latency.P90Ms, "ms", 1)
			r.atMost("10,000/s: refused, failed, missed or stale", notRead(report), "requests", 0)
		} else {
			r.add("bare: 10,000/s: p99", report.Latency.P99Ms, "ms")
			r.add("bare: 10,000/s: p90", report.Latency.P90Ms, "ms")
		}
		r.add(which.name+"10,000/s: p50", report.Latency.P50Ms, "ms")
		r.add(which.name+"10,000/s: p99.9", report.Latency.P999Ms, "ms")
	}
	return nil
}

// inTurns measures both as fast as they answer, one after the other and again.
func (b *bench) inTurns(ctx context.Context, r *result, ours, bare *target, path string, keys []string) error {
	const turns = 5
	var ourRate, bareRate, ourCPU, bareCPU, ratios []float64
	n := turns
	if b.quick {
		n = 1
	}
	var last load.ReadsReport
	for range n {
		o, err := b.readMax(ctx, r, ours, path, keys...)
		if err != nil {
			return err
		}
		p, err := b.readMax(ctx, r, bare, path, keys...)
		if err != nil {
			return err
		}
		ourRate, bareRate = append(ourRate, o.perSecond), append(bareRate, p.perSecond)
		ourCPU, bareCPU = append(ourCPU, o.cpuMicros), append(bareCPU, p.cpuMicros)
		ratios = append(ratios, o.perSecond/p.perSecond)
		last = o.report
	}
	r.add(fmt.Sprintf("as fast as it answers, median of %d", n), median(ourRate), "requests/s")
	r.add("bare net/http, same bytes", median(bareRate), "requests/s")
	r.atLeast("ours ÷ bare", median(ourRate)/median(bareRate), "×", 0.7)
	r.add("server CPU a request", median(ourCPU), "µs")
	r.add("bare: server CPU a request", median(bareCPU), "µs")
	r.add("generator CPU a request", last.CPUMicrosPerRead, "µs")
	r.add("body", float64(last.BodyBytes)/float64(max(last.Reads.Served, 1)), "bytes")
	r.note("Ours ÷ bare in each turn: %.2f. The generator takes its part of both rates, so the CPU time a request says more about the servers.", ratios)
	return nil
}

// baselineAnswers is the variable that names the file of answers for the bare
// handler.
const baselineAnswers = "MILLRACE_BENCH_ANSWERS"

// bareAnswer is one answer that the bare handler gives.
type bareAnswer struct {
	Path   string
	Header []bareHeader
	Body   []byte
}

type bareHeader struct {
	Name   string
	Values []string
}

// bareAnswers is the baseline for reads: a net/http handler that looks the path up
// in a Go map and writes header and body as they are. It knows no credential and
// counts nothing.
type bareAnswers map[string]*bareAnswer

func newBareAnswers(file string) (bareAnswers, error) {
	var all []*bareAnswer
	if err := readJSON(file, &all); err != nil {
		return nil, err
	}
	b := bareAnswers{"/readyz/events": {}}
	for _, a := range all {
		b[a.Path] = a
	}
	return b, nil
}

func (b bareAnswers) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a := b[r.URL.Path]
	if a == nil {
		http.NotFound(w, r)
		return
	}
	h := w.Header()
	for i := range a.Header {
		h[a.Header[i].Name] = a.Header[i].Values
	}
	_, _ = w.Write(a.Body)
}

// bareCopy asks the server for all that will be read, writes the keys to a file for
// the generator, and starts a bare handler that gives the same answers.
func (b *bench) bareCopy(ctx context.Context, r *result, ours *target, path string) (*target, error) {
	file, err := os.Create(filepath.Join(b.dir, "keys"))
	if err != nil {
		return nil, err
	}
	var all []bareAnswer
	for _, key := range keysOf(path) {
		fmt.Fprintln(file, key)
		a, err := answerOf(ctx, ours, expand(path, key))
		if err != nil {
			return nil, errors.Join(err, file.Close())
		}
		all = append(all, a)
	}
	if err := file.Close(); err != nil {
		return nil, err
	}
	text, err := json.Marshal(all)
	if err != nil {
		return nil, err
	}
	answers := filepath.Join(b.dir, "answers.json")
	if err := os.WriteFile(answers, text, 0o600); err != nil {
		return nil, err
	}
	defer os.Remove(answers)
	return b.baseline(ctx, r, baselineBare, baselineAnswers+"="+answers)
}

// answerOf reads one document.
func answerOf(ctx context.Context, t *target, path string) (a bareAnswer, err error) {
	resp, err := get(ctx, http.DefaultClient, t, path)
	if err != nil {
		return a, err
	}
	defer resp.Body.Close()
	a.Path = path
	if a.Body, err = io.ReadAll(resp.Body); err != nil {
		return a, err
	}
	if resp.StatusCode != http.StatusOK {
		return a, fmt.Errorf("GET %s: %d %.200s", path, resp.StatusCode, a.Body)
	}
	for name, values := range resp.Header {
		if name != "Date" { // net/http writes it
			a.Header = append(a.Header, bareHeader{name, values})
		}
	}
	if resp.Header.Get("Content-Length") == "" {
		a.Header = append(a.Header, bareHeader{"Content-Length", []string{strconv.Itoa(len(a.Body))}})
	}
	return a, nil
}

// get asks a target for something with its token.
func get(ctx context.Context, client *http.Client, t *target, path string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, t.url+path, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Authorization", "Bearer "+t.token)
	req.Header.Set("Accept-Encoding", "identity")
	return client.Do(req)
}
