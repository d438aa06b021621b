package load

import (
	"fmt"
	"io"
	"sync"
	"time"

	hdr "github.com/HdrHistogram/hdrhistogram-go"
)

// orderTally collects what the connections report. It is safe for concurrent use.
type orderTally struct {
	mu       sync.Mutex
	counts   OrderCounts
	answers  answerLog
	accept   *hdr.Histogram
	interval *hdr.Histogram // of answers since the last progress line
	soldOut  *hdr.Histogram
	refusal  *hdr.Histogram
	paid     *hdr.Histogram // from the answer to seen as paid
	bytes    int64
	last     time.Time // of the last answer
	broken   []string  // promises that were seen broken

	printed   OrderCounts
	printedAt time.Time
}

func newOrderTally(started time.Time) *orderTally {
	return &orderTally{
		answers: newAnswerLog(), accept: newHistogram(), interval: newHistogram(), soldOut: newHistogram(),
		refusal: newHistogram(), paid: newHistogram(), last: started, printedAt: started,
	}
}

// orderResult is the end of one order's way to the server.
type orderResult struct {
	outcome  orderOutcome
	receipt  receipt
	replayed bool
	// doubtful says that an attempt before the last may have been placed.
	doubtful bool
	latency  time.Duration
	attempts int
}

func (t *orderTally) sent(bytes int, late bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.counts.Sent++
	t.bytes += int64(bytes)
	if late {
		t.counts.Late++
	}
}

// answered notes one answer or failed attempt. Sold-out answers are many and
// alike: one example is enough.
func (t *orderTally) answered(a answer, err error, o orderOutcome) {
	t.mu.Lock()
	defer t.mu.Unlock()
	quiet := o == orderPlaced || o == orderOutOfStock && t.answers.statuses[a.status] > 0
	t.answers.note(a, err, quiet)
}

// done notes the end of an order.
func (t *orderTally) done(x orderResult, now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.last = now
	c := &t.counts
	c.Retries += int64(x.attempts - 1)
	us := micros(x.latency)
	// The values are within the range, so recording cannot fail.
	switch x.outcome {
	case orderPlaced:
		c.Placed++
		if x.replayed && x.attempts > 1 {
			c.Replayed++
		}
		_ = t.accept.RecordValue(us)
		_ = t.interval.RecordValue(us)
	case orderOutOfStock:
		c.OutOfStock++
		_ = t.soldOut.RecordValue(us)
		_ = t.interval.RecordValue(us)
	case orderInvalid:
		c.Invalid++
	case orderRefused:
		c.Refused++
		_ = t.refusal.RecordValue(us)
	case orderFailed:
		c.Failed++
	case orderUnknown:
		c.Unknown++
	case orderUnreached:
		c.Unreached++
	}
}

func micros(d time.Duration) int64 { return min(max(d.Microseconds(), 1), histogramMaxMicros) }

// update changes the counts.
func (t *orderTally) update(change func(*OrderCounts)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	change(&t.counts)
}

func (t *orderTally) paidAfter(d time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	_ = t.paid.RecordValue(micros(d)) // within the range
}

// promiseBroken notes what must not be.
func (t *orderTally) promiseBroken(format string, args ...any) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.counts.Broken++
	if len(t.broken) < maxExamples {
		t.broken = append(t.broken, fmt.Sprintf(format, args...))
	}
}

// progress prints one line about the time since the last one.
func (t *orderTally) progress(w io.Writer, started, now time.Time) {
	t.mu.Lock()
	c, p := t.counts, t.printed
	secs := now.Sub(t.printedAt).Seconds()
	l := latencyOf(t.interval)
	t.printed, t.printedAt = c, now
	t.interval.Reset()
	t.mu.Unlock()
	if secs <= 0 {
		return
	}
	per := func(n int64) string { return group(int64(float64(n)/secs + 0.5)) }
	fmt.Fprintf(w, "%4.0fs  sent %s/s  placed %s/s  out of stock %s/s  refused %s  errors %s  late %s  p50 %s  p99 %s  max %s\n",
		now.Sub(started).Seconds(), per(c.Sent-p.Sent), per(c.Placed-p.Placed), per(c.OutOfStock-p.OutOfStock), group(c.Refused-p.Refused),
		group(c.errors()-p.errors()), group(c.Late-p.Late), ms(l.P50Ms), ms(l.P99Ms), ms(l.MaxMs))
}

// report fills in what was counted.
func (t *orderTally) report(r *OrdersReport) {
	t.mu.Lock()
	defer t.mu.Unlock()
	r.Orders = t.counts
	r.Seconds = t.last.Sub(r.Started).Seconds()
	if r.Seconds > 0 {
		r.PlacedPerSecond = float64(t.counts.Placed) / r.Seconds
		r.OutOfStockPerSecond = float64(t.counts.OutOfStock) / r.Seconds
	}
	if t.counts.Sent > 0 {
		r.BytesPerOrder = float64(t.bytes) / float64(t.counts.Sent)
		r.CPUMicrosPerOrder = r.CPUSeconds * 1e6 / float64(t.counts.Sent)
	}
	r.Accept, r.OutOfStock, r.Refusal, r.Paid = latencyOf(t.accept), latencyOf(t.soldOut), latencyOf(t.refusal), latencyOf(t.paid)
	r.Statuses, r.Examples = t.answers.report()
	r.Broken = t.broken
}
