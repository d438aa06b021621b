package load

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"sync"
	"sync/atomic"
	"text/tabwriter"
	"time"
)

// VerifyOptions says what to check. URL and AckedFiles are required.
type VerifyOptions struct {
	// URL is the server's base URL; Token needs the scope events:read.
	URL   string
	Token string
	// AckedFiles are what runs of Events wrote.
	AckedFiles []string
	// Each asks for every id one by one as well, not only for a sample.
	Each bool
	// Shared says that other clients sent events during the run: events that are
	// not in the file are then no fault, and the statistics may count more.
	Shared bool
	// Wait bounds how long to wait until the events are queryable; default 30 s,
	// negative means not at all.
	Wait time.Duration
	// Concurrency is the number of requests at a time; default 4.
	Concurrency int
	// Timeout bounds one request; default 30 s.
	Timeout time.Duration
	// JSONFile, if set, gets the report.
	JSONFile string
	// Out gets the result; nil means nobody.
	Out io.Writer
	// TLS is used for an https URL; nil means the system's defaults.
	TLS *tls.Config
}

// VerifyReport is what VerifyEvents found. All numbers are events unless said
// otherwise.
type VerifyReport struct {
	Acked  int `json:"acked"`
	Unsure int `json:"unsure"` // sent with unknown outcome

	// Found are the acked events that the walk came by, UnsureFound the others.
	Found       int `json:"found"`
	UnsureFound int `json:"unsureFound"`
	// Walked is every event the walk came by, whosever.
	Walked int `json:"walked"`

	// Missing were acked and are not stored.
	Missing int `json:"missing"`
	// Unlisted are there when asked for by id, but the walk did not come by them.
	Unlisted int `json:"unlisted"`
	// Doubled are stored more than once.
	Doubled int `json:"doubled"`
	// Changed differ from what was sent: payload, type, source or timestamp.
	Changed int `json:"changed"`
	// Rewritten payloads say the same in other bytes (white space, escapes). This
	// is no fault.
	Rewritten int `json:"rewritten"`
	// Strangers are events received during the run that nobody sent; not counted
	// as a fault when the server is shared.
	Strangers int `json:"strangers"`
	// Asked were asked for by id; Unanswered of them were not found so.
	Asked      int `json:"asked"`
	Unanswered int `json:"unanswered"`
	// StatsChecked is the number of types whose statistics were compared with the
	// rows, StatsWrong of them do not add up.
	StatsChecked int `json:"statsChecked"`
	StatsWrong   int `json:"statsWrong"`

	From    time.Time `json:"from"`
	To      time.Time `json:"to"`
	Seconds float64   `json:"seconds"`
	// Examples has the first few faults in words.
	Examples []string `json:"examples,omitempty"`
}

// ErrBroken marks a verification that found faults.
var ErrBroken = errors.New("the server did not keep what it acknowledged")

// err sums up the faults; nil if there are none.
func (r VerifyReport) err(shared bool) error {
	strangers := r.Strangers
	if shared {
		strangers = 0
	}
	if r.Missing+r.Unlisted+r.Doubled+r.Changed+r.Unanswered+r.StatsWrong+strangers == 0 {
		return nil
	}
	return fmt.Errorf("%w: %d missing, %d doubled, %d changed, %d not listed, %d not found by id, %d not sent by anyone, %d types with wrong statistics",
		ErrBroken, r.Missing, r.Doubled, r.Changed, r.Unlisted, r.Unanswered, strangers, r.StatsWrong)
}

func (r VerifyReport) write(w io.Writer, fault error) {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	row := func(name string, n int, note string) { fmt.Fprintf(tw, "  %s\t%s\t%s\n", name, group(int64(n)), note) }
	row("acked", r.Acked, fmt.Sprintf("and %s of unknown outcome", group(int64(r.Unsure))))
	row("found", r.Found, fmt.Sprintf("and %s of unknown outcome, of %s walked", group(int64(r.UnsureFound)), group(int64(r.Walked))))
	row("missing", r.Missing, "")
	row("doubled", r.Doubled, "")
	row("changed", r.Changed, fmt.Sprintf("%s say the same in other bytes", group(int64(r.Rewritten))))
	row("strangers", r.Strangers, "received during the run, not in the file")
	row("asked by id", r.Asked, fmt.Sprintf("%s not found", group(int64(r.Unanswered))))
	row("types counted", r.StatsChecked, fmt.Sprintf("%s do not add up", group(int64(r.StatsWrong))))
	_ = tw.Flush()
	for _, x := range r.Examples {
		fmt.Fprintf(w, "  %s\n", x)
	}
	if fault == nil {
		fmt.Fprintf(w, "  every acknowledged event is there once and unchanged (%.1f s)\n", r.Seconds)
	}
}

func (o *VerifyOptions) setDefaults() {
	if o.Wait == 0 {
		o.Wait = 30 * time.Second
	}
	if o.Concurrency == 0 {
		o.Concurrency = 4
	}
	if o.Timeout == 0 {
		o.Timeout = 30 * time.Second
	}
	if o.Out == nil {
		o.Out = io.Discard
	}
}

func (o *VerifyOptions) validate() error {
	var errs []error
	if len(o.AckedFiles) == 0 {
		errs = append(errs, errors.New("acked: give the file that load events --acked wrote"))
	}
	if o.Concurrency < 1 || o.Concurrency > 1000 {
		errs = append(errs, fmt.Errorf("concurrency %d: must be 1 to 1000", o.Concurrency))
	}
	if o.Timeout < 0 {
		errs = append(errs, fmt.Errorf("timeout %s: must be positive", o.Timeout))
	}
	return errors.Join(errs...)
}

// VerifyEvents compares what runs of Events were told was accepted with what the
// server has. It waits until the events are queryable, walks all events received
// around the time of the runs, checks each against the acked files, asks for a
// sample (or each) by id, and compares the statistics of that time with the rows.
// Faults are an error that wraps ErrBroken; the report says more.
func VerifyEvents(ctx context.Context, o VerifyOptions) (VerifyReport, error) {
	o.setDefaults()
	if err := o.validate(); err != nil {
		return VerifyReport{}, err
	}
	base, err := eventsURL(o.URL)
	if err != nil {
		return VerifyReport{}, err
	}
	set, err := readAcked(o.AckedFiles)
	if err != nil {
		return VerifyReport{}, err
	}
	v := newVerifier(o, base, set)
	defer v.reader.close()
	began := time.Now()
	if err := v.run(ctx); err != nil {
		return v.report, err
	}
	v.report.Seconds = time.Since(began).Seconds()
	fault := v.report.err(o.Shared)
	v.report.write(o.Out, fault)
	if o.JSONFile != "" {
		fault = errors.Join(fault, writeJSON(o.JSONFile, v.report))
	}
	return v.report, fault
}

// Bounds of what a verification asks by id and reports in words.
const (
	sampleIDs   = 200
	maxExamples = 20
	// clockSlack is how far the clocks of client and server may be apart.
	clockSlack = time.Minute
)

// verifier is one run of VerifyEvents.
type verifier struct {
	o        VerifyOptions
	reader   *reader
	set      *ackedSet
	from, to time.Time // what is walked, aligned to step
	step     time.Duration

	mu     sync.Mutex // guards what follows, and set.events
	report VerifyReport
	rows   map[string]*typeCount // walked, by type
}

type typeCount struct{ count, bytes int64 }

func newVerifier(o VerifyOptions, base *url.URL, set *ackedSet) *verifier {
	v := &verifier{o: o, set: set, rows: map[string]*typeCount{}, reader: newReader(o, base)}
	v.report.Acked, v.report.Unsure = set.acked, set.unsure
	end := set.ended
	if end.IsZero() {
		end = time.Now()
	}
	from, to := set.started.Add(-clockSlack), end.Add(clockSlack)
	// The statistics have at most some hundreds of points.
	v.step = time.Minute
	for to.Sub(from) > 500*v.step {
		v.step *= 2
	}
	width := int64(v.step / time.Second)
	v.from = time.Unix(from.Unix()/width*width, 0).UTC()
	v.to = time.Unix((to.Unix()+width)/width*width, 0).UTC()
	v.report.From, v.report.To = v.from, v.to
	return v
}

func (v *verifier) run(ctx context.Context) error {
	if err := v.waitUntilQueryable(ctx); err != nil {
		return err
	}
	if err := v.walk(ctx); err != nil {
		return err
	}
	missing := v.countWalked()
	if err := v.askAbout(ctx, missing); err != nil {
		return err
	}
	if err := v.ask(ctx); err != nil {
		return err
	}
	return v.compareStats(ctx)
}

// waitUntilQueryable waits until the statistics count as many events as were
// accepted and the last accepted ones are found by id, or the time is over: what
// is missing then shows in the walk.
func (v *verifier) waitUntilQueryable(ctx context.Context) error {
	for end := time.Now().Add(v.o.Wait); ; {
		series, err := v.reader.stats(ctx, v.from, v.to, v.step)
		if err != nil {
			return err
		}
		total := int64(0)
		for _, c := range series {
			total += c.count
		}
		there := total >= int64(v.set.acked)
		for _, id := range v.set.last {
			if !there {
				break
			}
			_, there, err = v.reader.event(ctx, id)
			if err != nil {
				return err
			}
		}
		if there || time.Now().After(end) {
			return nil
		}
		if !wait(ctx, 100*time.Millisecond) {
			return context.Cause(ctx)
		}
	}
}

// walk pages through the events of the time, cut into ranges that are walked
// beside each other. There are more ranges than walkers since the events of a
// short run fall into few of them.
func (v *verifier) walk(ctx context.Context) error {
	n := 8 * v.o.Concurrency
	width := v.to.Sub(v.from)
	cut := func(i int) time.Time { return v.from.Add(width / time.Duration(n) * time.Duration(i)) }
	return parallel(ctx, v.o.Concurrency, n, func(ctx context.Context, i int) error {
		to := cut(i + 1)
		if i == n-1 {
			to = v.to
		}
		return v.reader.walk(ctx, cut(i), to, v.check)
	})
}

// countWalked sums up the walk and returns the acked events it did not come by.
func (v *verifier) countWalked() (missing []idBytes) {
	for id, i := range v.set.index {
		e := v.set.events[i]
		switch {
		case e.seen == 0 && !e.unsure:
			missing = append(missing, id)
		case e.seen > 0 && e.unsure:
			v.report.UnsureFound++
		case e.seen > 0:
			v.report.Found++
		}
		if e.seen > 1 {
			v.report.Doubled++
			v.example("%s is stored %d times", id, e.seen)
		}
	}
	return missing
}

// askAbout tells apart, among events that the walk did not come by, those that
// are missing and those that are there when asked for by id.
func (v *verifier) askAbout(ctx context.Context, ids []idBytes) error {
	const most = 1000
	if len(ids) > most {
		v.report.Missing += len(ids) - most
		ids = ids[:most]
	}
	return parallel(ctx, v.o.Concurrency, len(ids), func(ctx context.Context, i int) error {
		_, found, err := v.reader.event(ctx, ids[i])
		if err != nil {
			return err
		}
		v.mu.Lock()
		defer v.mu.Unlock()
		if found {
			v.report.Unlisted++
			v.example("%s is there by id, but GET /events from %s to %s did not list it", ids[i], v.from.Format(time.RFC3339), v.to.Format(time.RFC3339))
		} else {
			v.report.Missing++
			v.example("%s was acknowledged and is missing", ids[i])
		}
		return nil
	})
}

// ask asks for a sample of the acked events, or for each, by id. What the walk
// did not come by has been asked about.
func (v *verifier) ask(ctx context.Context) error {
	every := 1
	if !v.o.Each {
		every = max(1, len(v.set.events)/sampleIDs)
	}
	var ids []idBytes
	n := 0
	for id, i := range v.set.index {
		if v.set.events[i].seen == 0 {
			continue
		}
		if n%every == 0 {
			ids = append(ids, id)
		}
		n++
	}
	v.report.Asked = len(ids)
	return parallel(ctx, v.o.Concurrency, len(ids), func(ctx context.Context, i int) error {
		e, found, err := v.reader.event(ctx, ids[i])
		if err != nil {
			return err
		}
		v.mu.Lock()
		defer v.mu.Unlock()
		if !found {
			v.report.Unanswered++
			v.example("%s is listed, but GET /events/%s does not find it", ids[i], ids[i])
			return nil
		}
		if why, _ := v.difference(ids[i], v.set.events[v.set.index[ids[i]]], e); why != "" {
			v.report.Changed++
			v.example("%s asked for by id: %s", ids[i], why)
		}
		return nil
	})
}

// compareStats compares the statistics with the rows that the walk came by.
func (v *verifier) compareStats(ctx context.Context) error {
	stats, err := v.reader.stats(ctx, v.from, v.to, v.step)
	if err != nil {
		return err
	}
	for typ := range v.rows {
		if stats[typ] == nil {
			stats[typ] = &typeCount{}
		}
	}
	for typ, s := range stats {
		v.report.StatsChecked++
		r := v.rows[typ]
		if r == nil {
			r = &typeCount{}
		}
		if *s == *r || v.o.Shared && s.count >= r.count {
			continue
		}
		v.report.StatsWrong++
		v.example("type %s: the statistics count %d events and %d bytes of payload, the rows are %d and %d", typ, s.count, s.bytes, r.count, r.bytes)
	}
	return nil
}

// example keeps the first few faults in words. The caller holds mu or is alone.
func (v *verifier) example(format string, args ...any) {
	if len(v.report.Examples) < maxExamples {
		v.report.Examples = append(v.report.Examples, fmt.Sprintf(format, args...))
	}
}

// parallel calls do for 0 to n-1, at most limit at a time, and returns the first
// error, which also ends the others.
func parallel(parent context.Context, limit, n int, do func(context.Context, int) error) error {
	ctx, cancel := context.WithCancelCause(parent)
	defer cancel(nil)
	var next atomic.Int64
	var workers sync.WaitGroup
	for range min(limit, n) {
		workers.Go(func() {
			for ctx.Err() == nil {
				i := int(next.Add(1) - 1)
				if i >= n {
					return
				}
				if err := do(ctx, i); err != nil {
					cancel(err)
					return
				}
			}
		})
	}
	workers.Wait()
	return context.Cause(ctx)
}

// newReader makes the verifier's HTTP client.
func newReader(o VerifyOptions, base *url.URL) *reader {
	return &reader{base: base, token: o.Token, timeout: o.Timeout, client: newClient(o.Concurrency, o.TLS)}
}

func newClient(concurrency int, conf *tls.Config) *http.Client {
	return &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: concurrency, TLSClientConfig: conf, Proxy: http.ProxyFromEnvironment}}
}
