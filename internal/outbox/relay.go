package outbox

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"runtime/debug"
	"sync"
	"time"
)

// Bounds of a relay that are nobody's choice.
const (
	callWithin     = 30 * time.Second // one call of Deliver, Condemn or the store
	goodbyeWithin  = 5 * time.Second  // removing what was handed over when Run ends
	depthEvery     = 5 * time.Second  // the gauges are read
	maxHeld        = 10_000           // rows that cannot be handed over and stay where they are
	removeBatches  = 8                // that many batches handed over are removed at once
	maxBatch       = 10_000
	tracebackBytes = 4096
)

// RowError says that one row can never be handed over. Of the others of its batch
// any may have been.
type RowError struct {
	// Seq is the row's; 0 if it is not known which.
	Seq    int64
	Reason string
}

func (e *RowError) Error() string {
	return fmt.Sprintf("row %d cannot be handed over: %s", e.Seq, e.Reason)
}

// RelayOptions are what a Relay is made of. Lane, Store and Deliver are required.
type RelayOptions struct {
	Lane  Lane
	Store Store
	// Deliver hands rows over; nil means that all of them have arrived durably. It
	// must take a row that it had before. A *RowError sets that row aside; after
	// any other error all are handed over again.
	Deliver func(ctx context.Context, rows []Row) error
	// Condemn keeps a row that can never be handed over for people to look at; then
	// it is removed. If nil, such a row stays in the outbox, is told of in the log
	// and left out until the next start.
	Condemn func(ctx context.Context, row Row, reason string) error
	// Batch is the most rows handed over at once; 256 if zero.
	Batch int
	// Poll is how often rows are looked for that nobody signalled; 500 ms if zero.
	Poll time.Duration
	// RemoveEvery is how long rows that were handed over may stay in the outbox: what
	// is removed together costs one transaction. Rows still there after a crash
	// are handed over again. 100 ms if zero.
	RemoveEvery time.Duration
	// MinInterval is the pause after rows were handed over before more are looked
	// for, so that what costs the same for one row as for many is paid less often.
	// It is part of the lag. A full batch is followed by the next at once. None if
	// zero.
	MinInterval time.Duration
	// MinBackoff and MaxBackoff bound the delay after a failure; 100 ms and 10 s if
	// zero.
	MinBackoff, MaxBackoff time.Duration

	Logger  *slog.Logger // discard if nil
	Metrics *Metrics     // unregistered if nil
}

func (o RelayOptions) withDefaults() (RelayOptions, error) {
	var faults []error
	fault := func(wrong bool, format string, args ...any) {
		if wrong {
			faults = append(faults, fmt.Errorf(format, args...))
		}
	}
	fault(o.Lane == "", "Lane is required")
	fault(o.Store == nil, "Store is required")
	fault(o.Deliver == nil, "Deliver is required")
	fault(o.Batch < 0 || o.Batch > maxBatch, "Batch is %d, it must be 1 to %d", o.Batch, maxBatch)
	fault(o.Poll < 0 || o.RemoveEvery < 0 || o.MinInterval < 0 || o.MinBackoff < 0 || o.MaxBackoff < 0, "no time may be negative")
	if o.Batch == 0 {
		o.Batch = 256
	}
	for _, d := range []struct {
		of        *time.Duration
		byDefault time.Duration
	}{{&o.Poll, 500 * time.Millisecond}, {&o.RemoveEvery, 100 * time.Millisecond}, {&o.MinBackoff, 100 * time.Millisecond}, {&o.MaxBackoff, 10 * time.Second}} {
		if *d.of == 0 {
			*d.of = d.byDefault
		}
	}
	fault(o.MaxBackoff < o.MinBackoff, "MaxBackoff %v is less than MinBackoff %v", o.MaxBackoff, o.MinBackoff)
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Metrics == nil {
		o.Metrics = NewMetrics(nil)
	}
	if len(faults) > 0 {
		return o, fmt.Errorf("the options of the outbox relay are wrong: %w", errors.Join(faults...))
	}
	return o, nil
}

// Relay brings the rows of one lane to where they are to be told.
//
// Pattern: one goroutine reads the oldest rows, hands them over, and goes on with
// those behind them; every RemoveEvery, or when there are many, it removes what
// was handed over and begins at the oldest row again. So a row that a transaction
// which began earlier commits later is found too.
//
// Lifecycle: Run works until its context ends, and then removes what was handed
// over. It may be run again, but not twice at a time.
type Relay struct {
	options RelayOptions
	metrics laneMetrics
	log     *slog.Logger

	// Run's own.
	after     int64              // sequence of the last row read since the last removal
	delivered []int64            // handed over and not removed
	since     time.Time          // when the first of them was handed over
	held      map[int64]struct{} // rows that cannot be handed over and stay
	failures  int                // in a row
	downSince time.Time
}

// NewRelay makes a Relay.
func NewRelay(o RelayOptions) (*Relay, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	return &Relay{options: o, metrics: o.Metrics.of(o.Lane), log: o.Logger.With("lane", string(o.Lane)), held: map[int64]struct{}{}}, nil
}

// Run hands rows over until ctx ends, and returns nil then. Nothing else ends it:
// a store or a receiver that fails is asked again, less and less often.
func (r *Relay) Run(ctx context.Context) error {
	var watching sync.WaitGroup
	watching.Go(func() { r.watch(ctx) })
	defer watching.Wait()
	r.after = 0
	for ctx.Err() == nil {
		more, err := r.step(ctx)
		switch {
		case ctx.Err() != nil:
		case err != nil:
			r.failed(err)
			r.wait(ctx, r.backoff(), nil)
		case !more:
			r.recovered()
			if r.options.MinInterval > 0 {
				r.wait(ctx, r.options.MinInterval, nil)
			}
			r.wait(ctx, r.nextLook(), r.options.Store.Written(r.options.Lane))
		default:
			r.recovered()
		}
	}
	bye, cancel := context.WithTimeout(context.WithoutCancel(ctx), goodbyeWithin)
	defer cancel()
	if err := r.remove(bye); err != nil {
		r.log.Warn("rows that were handed over could not be removed; they are handed over again at the next start", "rows", len(r.delivered), "error", err)
	}
	r.delivered = nil
	return nil
}

// step hands over at most one batch and says whether there may be more.
func (r *Relay) step(ctx context.Context) (more bool, err error) {
	if r.removalDue() {
		if err := r.remove(ctx); err != nil {
			return false, err
		}
	}
	rows, err := r.pending(ctx)
	if err != nil {
		return false, fmt.Errorf("read the outbox: %w", err)
	}
	if len(rows) == 0 {
		return false, nil
	}
	last := rows[len(rows)-1].Seq
	full := len(rows) == r.options.Batch
	if err := r.handOver(ctx, r.deliverable(rows)); err != nil {
		return false, err
	}
	r.after = last
	return full, nil
}

func (r *Relay) pending(ctx context.Context) ([]Row, error) {
	ctx, cancel := context.WithTimeout(ctx, callWithin)
	defer cancel()
	return r.options.Store.Pending(ctx, r.options.Lane, r.after, r.options.Batch)
}

// deliverable leaves out the rows that are held.
func (r *Relay) deliverable(rows []Row) []Row {
	if len(r.held) == 0 {
		return rows
	}
	out := rows[:0]
	for _, row := range rows {
		if _, held := r.held[row.Seq]; !held {
			out = append(out, row)
		}
	}
	return out
}

// handOver delivers rows, and sets aside those that cannot be.
func (r *Relay) handOver(ctx context.Context, rows []Row) error {
	for len(rows) > 0 {
		err := r.deliver(ctx, rows)
		if err == nil {
			r.done(rows)
			return nil
		}
		var bad *RowError
		if !errors.As(err, &bad) {
			return fmt.Errorf("hand over %d rows: %w", len(rows), err)
		}
		i := indexOf(rows, bad.Seq)
		if len(rows) == 1 {
			i = 0
		}
		if i < 0 {
			return r.oneByOne(ctx, rows)
		}
		if err := r.setAside(ctx, rows[i], bad.Reason); err != nil {
			return err
		}
		rest := make([]Row, 0, len(rows)-1)
		rows = append(append(rest, rows[:i]...), rows[i+1:]...)
	}
	return nil
}

// oneByOne finds the row that cannot be handed over.
func (r *Relay) oneByOne(ctx context.Context, rows []Row) error {
	for i := range rows {
		if err := r.handOver(ctx, rows[i:i+1:i+1]); err != nil {
			return err
		}
		r.after = rows[i].Seq // so that a failure further on does not begin here again
	}
	return nil
}

func indexOf(rows []Row, seq int64) int {
	for i := range rows {
		if rows[i].Seq == seq {
			return i
		}
	}
	return -1
}

func (r *Relay) deliver(ctx context.Context, rows []Row) (err error) {
	ctx, cancel := context.WithTimeout(ctx, callWithin)
	defer cancel()
	defer func() {
		if v := recover(); v != nil {
			stack := debug.Stack()
			err = fmt.Errorf("the receiver panicked: %v\n%s", v, stack[:min(len(stack), tracebackBytes)])
		}
	}()
	return r.options.Deliver(ctx, rows)
}

func (r *Relay) done(rows []Row) {
	now := time.Now()
	if len(r.delivered) == 0 {
		r.since = now
	}
	for i := range rows {
		r.delivered = append(r.delivered, rows[i].Seq)
		r.metrics.lagSeconds.Observe(max(now.Sub(rows[i].At), 0).Seconds())
	}
	r.metrics.handed.Add(float64(len(rows)))
}

// setAside has a row condemned and removed with the next ones, or held.
func (r *Relay) setAside(ctx context.Context, row Row, reason string) error {
	if r.options.Condemn == nil {
		if len(r.held) >= maxHeld {
			return fmt.Errorf("%d rows cannot be handed over and are held already; look at what writes them: row %d: %s", len(r.held), row.Seq, reason)
		}
		r.held[row.Seq] = struct{}{}
		r.metrics.condemned.Inc()
		r.log.Error("a row of the outbox can never be handed over; it stays there and is left out until the next start",
			"seq", row.Seq, "tenant", row.TenantID, "subject", row.Subject, "id", row.ID, "reason", reason)
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, callWithin)
	defer cancel()
	if err := r.options.Condemn(ctx, row, reason); err != nil {
		return fmt.Errorf("set aside row %d, which can never be handed over (%s): %w", row.Seq, reason, err)
	}
	if len(r.delivered) == 0 {
		r.since = time.Now()
	}
	r.delivered = append(r.delivered, row.Seq)
	r.metrics.condemned.Inc()
	r.log.Error("a row of the outbox can never be handed over; it was set aside",
		"seq", row.Seq, "tenant", row.TenantID, "subject", row.Subject, "id", row.ID, "reason", reason)
	return nil
}

func (r *Relay) removalDue() bool {
	return len(r.delivered) >= removeBatches*r.options.Batch ||
		len(r.delivered) > 0 && time.Since(r.since) >= r.options.RemoveEvery
}

// remove removes what was handed over; then reading begins at the oldest row.
func (r *Relay) remove(ctx context.Context) error {
	if len(r.delivered) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, callWithin)
	defer cancel()
	if err := r.options.Store.Remove(ctx, r.options.Lane, r.delivered); err != nil {
		return fmt.Errorf("remove %d rows that were handed over: %w", len(r.delivered), err)
	}
	r.delivered, r.after = r.delivered[:0], 0
	return nil
}

// nextLook is when to look again if nobody signals.
func (r *Relay) nextLook() time.Duration {
	if len(r.delivered) == 0 {
		r.after = 0 // everything read is held: the next look is from the beginning
		return r.options.Poll
	}
	return min(max(r.options.RemoveEvery-time.Since(r.since), 0), r.options.Poll)
}

// wait waits for a time, a signal or the end.
func (r *Relay) wait(ctx context.Context, d time.Duration, signal <-chan struct{}) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-signal:
	case <-ctx.Done():
	}
}

// failed notes a failure; the first of an outage is logged.
func (r *Relay) failed(err error) {
	r.metrics.failures.Inc()
	r.failures++
	if r.failures == 1 {
		r.downSince = time.Now()
		r.log.Warn("the outbox is held up; trying on", "error", err)
	} else {
		r.log.Debug("the outbox is still held up", "attempt", r.failures, "error", err)
	}
}

func (r *Relay) recovered() {
	if r.failures > 0 {
		r.log.Info("the outbox moves again", "after", time.Since(r.downSince).Round(time.Millisecond), "attempts", r.failures+1)
		r.failures = 0
	}
}

// backoff is the delay after the failure just noted: it doubles, and up to a half
// is taken off at random.
func (r *Relay) backoff() time.Duration {
	d := r.options.MaxBackoff
	if shift := r.failures - 1; shift < 20 && r.options.MinBackoff<<shift < d {
		d = r.options.MinBackoff << shift
	}
	return d - time.Duration(rand.Int64N(int64(d)/2+1))
}

// watch keeps the gauges.
func (r *Relay) watch(ctx context.Context) {
	ticker := time.NewTicker(depthEvery)
	defer ticker.Stop()
	for {
		r.readDepth(ctx)
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
	}
}

func (r *Relay) readDepth(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, callWithin)
	defer cancel()
	rows, oldest, err := r.options.Store.Depth(ctx, r.options.Lane)
	if err != nil {
		if ctx.Err() == nil {
			r.log.Debug("the depth of the outbox cannot be read", "error", err)
		}
		return
	}
	r.metrics.rows.Set(float64(rows))
	if oldest.IsZero() {
		r.metrics.oldest.Set(0)
	} else {
		r.metrics.oldest.Set(max(time.Since(oldest), 0).Seconds())
	}
}
