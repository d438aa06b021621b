package load

import (
	"fmt"
	"io"
	"runtime"
	"sync"
	"time"

	hdr "github.com/HdrHistogram/hdrhistogram-go"
)

// readTally collects what the connections report, in shards: a hundred thousand
// reads a second would contend for one mutex. It is safe for concurrent use, its
// progress for one goroutine.
type readTally struct {
	shards []*readShard

	printed   ReadCounts // at the last progress line
	printedAt time.Time
}

// readShard is what some of the connections reported.
type readShard struct {
	mu       sync.Mutex
	counts   ReadCounts
	answers  answerLog
	latency  *hdr.Histogram
	interval *hdr.Histogram // since the last progress line
	bytes    int64          // of bodies
	last     time.Time      // of the last answer
	broken   []string       // promises that were seen broken
}

func newReadTally(started time.Time) *readTally {
	t := &readTally{printedAt: started}
	for range 2 * runtime.GOMAXPROCS(0) {
		t.shards = append(t.shards, &readShard{answers: newAnswerLog(), latency: newHistogram(), interval: newHistogram(), last: started})
	}
	return t
}

// shard returns the one that connection number i reports to.
func (t *readTally) shard(i int) *readShard { return t.shards[i%len(t.shards)] }

// readResult is the end of one read.
type readResult struct {
	outcome           readOutcome
	late, conditional bool
	latency           time.Duration
	broken            error
}

// done notes the end of a read.
func (s *readShard) done(a answer, err error, x readResult, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.last = now
	s.answers.note(a, err, x.outcome.good())
	c := &s.counts
	c.Sent++
	if x.late {
		c.Late++
	}
	if x.conditional {
		c.Conditional++
	}
	if a.stale {
		c.Stale++
	}
	if x.broken != nil {
		c.Broken++
		if len(s.broken) < maxExamples {
			s.broken = append(s.broken, x.broken.Error())
		}
	}
	switch x.outcome {
	case readServed:
		c.Served++
	case readNotModified:
		c.NotModified++
	case readRefused:
		c.Refused++
	case readFailed:
		c.Failed++
	case readUnanswered:
		c.Unanswered++
	case readUnreached:
		c.Unreached++
	}
	if x.outcome.good() {
		s.bytes += int64(len(a.body))
		us := micros(x.latency)
		// The values are within the range, so recording cannot fail.
		_ = s.latency.RecordValue(us)
		_ = s.interval.RecordValue(us)
	}
}

func (t *readTally) missed() {
	s := t.shards[0]
	s.mu.Lock()
	defer s.mu.Unlock()
	s.counts.Missed++
}

// progress prints one line about the time since the last one.
func (t *readTally) progress(w io.Writer, started, now time.Time) {
	var c ReadCounts
	interval := newHistogram()
	for _, s := range t.shards {
		s.mu.Lock()
		c.add(s.counts)
		interval.Merge(s.interval)
		s.interval.Reset()
		s.mu.Unlock()
	}
	p, secs := t.printed, now.Sub(t.printedAt).Seconds()
	t.printed, t.printedAt = c, now
	if secs <= 0 {
		return
	}
	per := func(n int64) string { return group(int64(float64(n)/secs + 0.5)) }
	l := latencyOf(interval)
	fmt.Fprintf(w, "%4.0fs  sent %s/s  answered %s/s  stale %s  refused %s  errors %s  late %s  p50 %s  p99 %s  max %s\n",
		now.Sub(started).Seconds(), per(c.Sent-p.Sent), per(c.answered()-p.answered()), group(c.Stale-p.Stale), group(c.Refused-p.Refused),
		group(c.errors()-p.errors()), group(c.Late-p.Late), ms(l.P50Ms), ms(l.P99Ms), ms(l.MaxMs))
}

// report fills in what was counted.
func (t *readTally) report(r *ReadsReport) {
	latency, answers, last := newHistogram(), newAnswerLog(), r.Started
	for _, s := range t.shards {
		s.mu.Lock()
		r.Reads.add(s.counts)
		r.BodyBytes += s.bytes
		latency.Merge(s.latency)
		answers.add(s.answers)
		r.Broken = append(r.Broken, s.broken...)
		if s.last.After(last) {
			last = s.last
		}
		s.mu.Unlock()
	}
	r.Broken = r.Broken[:min(len(r.Broken), maxExamples)]
	r.Seconds = last.Sub(r.Started).Seconds()
	if r.Seconds > 0 {
		r.PerSecond = float64(r.Reads.answered()) / r.Seconds
	}
	if n := r.Reads.answered(); n > 0 {
		r.NotModifiedShare = float64(r.Reads.NotModified) / float64(n)
	}
	if r.Reads.Sent > 0 {
		r.CPUMicrosPerRead = r.CPUSeconds * 1e6 / float64(r.Reads.Sent)
	}
	r.Latency = latencyOf(latency)
	r.Statuses, r.Examples = answers.report()
}
