package load

import (
	"fmt"
	"io"
	"strconv"
	"sync"
	"time"

	hdr "github.com/HdrHistogram/hdrhistogram-go"
)

// Range and precision of the histograms: 1 µs to 10 minutes, three digits.
const (
	histogramMaxMicros = int64(10 * time.Minute / time.Microsecond)
	histogramDigits    = 3
)

func newHistogram() *hdr.Histogram { return hdr.New(1, histogramMaxMicros, histogramDigits) }

// tally collects what the connections report. It is safe for concurrent use: a
// few thousand batches a second do not contend for one mutex.
type tally struct {
	mu       sync.Mutex
	counts   Counts
	answers  answerLog
	accept   *hdr.Histogram
	interval *hdr.Histogram // of accepted batches since the last progress line
	refusal  *hdr.Histogram
	bytes    int64     // of bodies
	last     time.Time // of the last answer

	printed   Counts // at the last progress line
	printedAt time.Time
}

func newTally(started time.Time) *tally {
	return &tally{
		answers: newAnswerLog(), accept: newHistogram(), interval: newHistogram(), refusal: newHistogram(),
		last: started, printedAt: started,
	}
}

// result is the end of one batch.
type result struct {
	outcome  outcome
	verdict  verdict
	latency  time.Duration
	attempts int
}

// sent notes that a batch leaves.
func (t *tally) sent(r *request, late bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.counts.Batches++
	t.counts.Sent += int64(len(r.slots))
	t.bytes += int64(r.body)
	if late {
		t.counts.Late++
	}
}

// answered notes one answer or failed attempt.
func (t *tally) answered(a answer, err error, o outcome) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.answers.note(a, err, o == accepted)
}

// answerLog counts answers by status and keeps an example of each kind of error.
type answerLog struct {
	statuses map[int]int64
	examples map[string]string // by kind of error, the first of each
	order    []string
}

func newAnswerLog() answerLog {
	return answerLog{statuses: map[int]int64{}, examples: map[string]string{}}
}

func (l *answerLog) note(a answer, err error, good bool) {
	if err == nil {
		l.statuses[a.status]++
	}
	if good {
		return
	}
	if err != nil {
		l.example(fmt.Sprintf("%T %d", err, judge(a, err)), err.Error())
		return
	}
	l.example(strconv.Itoa(a.status)+problemType(a.body), explain(a))
}

func (l *answerLog) example(kind, text string) {
	if _, known := l.examples[kind]; !known && len(l.examples) < 10 {
		l.examples[kind] = text
		l.order = append(l.order, kind)
	}
}

// add adds what another one has counted.
func (l *answerLog) add(o answerLog) {
	for s, n := range o.statuses {
		l.statuses[s] += n
	}
	for _, kind := range o.order {
		l.example(kind, o.examples[kind])
	}
}

// report returns what was counted, for a report.
func (l *answerLog) report() (statuses map[string]int64, examples []string) {
	statuses = map[string]int64{}
	for s, n := range l.statuses {
		statuses[strconv.Itoa(s)] = n
	}
	for _, kind := range l.order {
		examples = append(examples, l.examples[kind])
	}
	return statuses, examples
}

// done notes the end of a batch.
func (t *tally) done(r *request, x result, now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.last = now
	t.counts.Retries += int64(x.attempts - 1)
	us := min(max(x.latency.Microseconds(), 1), histogramMaxMicros)
	events := int64(len(r.slots))
	switch x.outcome {
	case accepted:
		t.counts.Acked += int64(x.verdict.accepted)
		t.counts.Duplicates += int64(x.verdict.duplicates)
		t.counts.Rejected += int64(len(x.verdict.rejected))
		// The values are within the range, so recording cannot fail.
		_ = t.accept.RecordValue(us)
		_ = t.interval.RecordValue(us)
	case refused:
		t.counts.Refused += events
		_ = t.refusal.RecordValue(us)
	case failed:
		t.counts.Failed += events
	case unknown:
		t.counts.Unknown += events
	case unreached:
		t.counts.Unreached += events
	}
}

func (t *tally) missed(events int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.counts.Missed += int64(events)
}

// progress prints one line about the time since the last one.
func (t *tally) progress(w io.Writer, started, now time.Time) {
	t.mu.Lock()
	d := t.counts.minus(t.printed)
	secs := now.Sub(t.printedAt).Seconds()
	l := latencyOf(t.interval)
	t.printed, t.printedAt = t.counts, now
	t.interval.Reset()
	t.mu.Unlock()
	if secs <= 0 {
		return
	}
	per := func(n int64) string { return group(int64(float64(n)/secs + 0.5)) }
	fmt.Fprintf(w, "%4.0fs  sent %s/s  acked %s/s  refused %s  errors %s  late %s  p50 %s  p99 %s  max %s\n",
		now.Sub(started).Seconds(), per(d.Sent), per(d.Acked), group(d.Refused), group(d.errors()), group(d.Late), ms(l.P50Ms), ms(l.P99Ms), ms(l.MaxMs))
}

// report fills in what was counted.
func (t *tally) report(r *Report) {
	t.mu.Lock()
	defer t.mu.Unlock()
	r.Events = t.counts
	r.Seconds = t.last.Sub(r.Started).Seconds()
	if r.Seconds > 0 {
		r.AckedPerSecond = float64(t.counts.Acked) / r.Seconds
	}
	if t.counts.Sent > 0 {
		r.BytesPerEvent = float64(t.bytes) / float64(t.counts.Sent)
		r.CPUMicrosPerEvent = r.CPUSeconds * 1e6 / float64(t.counts.Sent)
	}
	r.Accept, r.Refusal = latencyOf(t.accept), latencyOf(t.refusal)
	r.Statuses, r.Examples = t.answers.report()
}
