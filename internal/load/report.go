package load

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	hdr "github.com/HdrHistogram/hdrhistogram-go"
)

// Counts are numbers of events, but for the last three.
type Counts struct {
	// Sent counts each event once, however often it was sent again.
	Sent int64 `json:"sent"`
	// Acked were accepted, duplicates included.
	Acked int64 `json:"acked"`
	// Duplicates of the accepted were there already, which a retry may cause.
	Duplicates int64 `json:"duplicates"`
	// Rejected events were refused one by one within an accepted batch.
	Rejected int64 `json:"rejected"`
	// Refused events were in batches answered 429 or 503: not stored.
	Refused int64 `json:"refused"`
	// Failed events were in batches answered with another error: not stored.
	Failed int64 `json:"failed"`
	// Unknown events may or may not be stored: no answer, or one that says so.
	Unknown int64 `json:"unknown"`
	// Unreached events were never sent, since no connection could be made.
	Unreached int64 `json:"unreached"`
	// Missed events were due but had not been sent when the run ended.
	Missed int64 `json:"missed"`
	// Late batches left more than a millisecond after their intended time.
	Late int64 `json:"lateBatches"`
	// Batches were sent, each counted once; Retries were sent again.
	Batches int64 `json:"batches"`
	Retries int64 `json:"retries"`
}

func (c Counts) minus(o Counts) Counts {
	return Counts{
		Sent: c.Sent - o.Sent, Acked: c.Acked - o.Acked, Duplicates: c.Duplicates - o.Duplicates,
		Rejected: c.Rejected - o.Rejected, Refused: c.Refused - o.Refused, Failed: c.Failed - o.Failed,
		Unknown: c.Unknown - o.Unknown, Unreached: c.Unreached - o.Unreached, Missed: c.Missed - o.Missed,
		Late: c.Late - o.Late, Batches: c.Batches - o.Batches, Retries: c.Retries - o.Retries,
	}
}

// errors counts the events whose batches ended in an error.
func (c Counts) errors() int64 { return c.Failed + c.Unknown + c.Unreached }

// Latency sums up a histogram, in milliseconds.
type Latency struct {
	Count  int64   `json:"count"`
	MeanMs float64 `json:"meanMs"`
	P50Ms  float64 `json:"p50Ms"`
	P90Ms  float64 `json:"p90Ms"`
	P99Ms  float64 `json:"p99Ms"`
	P999Ms float64 `json:"p999Ms"`
	MaxMs  float64 `json:"maxMs"`
}

func latencyOf(h *hdr.Histogram) Latency {
	if h.TotalCount() == 0 {
		return Latency{}
	}
	ms := func(us int64) float64 { return float64(us) / 1000 }
	return Latency{
		Count: h.TotalCount(), MeanMs: h.Mean() / 1000,
		P50Ms: ms(h.ValueAtQuantile(50)), P90Ms: ms(h.ValueAtQuantile(90)), P99Ms: ms(h.ValueAtQuantile(99)),
		P999Ms: ms(h.ValueAtQuantile(99.9)), MaxMs: ms(h.Max()),
	}
}

// Modes of a run.
const (
	OpenLoop   = "open loop"
	ClosedLoop = "closed loop"
)

// Report is the result of a run of Events.
type Report struct {
	URL string `json:"url"`
	// Mode is OpenLoop (latency from the intended send time) or ClosedLoop
	// (latency from the actual send time; a stall of the server hides itself).
	Mode string `json:"mode"`
	// Rate is the offered number of events a second, 0 in a closed loop.
	Rate        int       `json:"rate"`
	Batch       int       `json:"batch"`
	Connections int       `json:"connections"`
	Started     time.Time `json:"started"`
	// Seconds from the first intended send to the last answer.
	Seconds float64 `json:"seconds"`
	// Interrupted runs ended before their time.
	Interrupted bool `json:"interrupted,omitempty"`

	Events         Counts  `json:"events"`
	AckedPerSecond float64 `json:"ackedPerSecond"`
	// BytesPerEvent is the mean size of an event in a body.
	BytesPerEvent float64 `json:"bytesPerEvent"`
	// Accept is the latency of accepted batches, Refusal that of refused ones.
	Accept  Latency `json:"accept"`
	Refusal Latency `json:"refusal"`
	// Statuses counts answers by status, retried ones included.
	Statuses map[string]int64 `json:"statuses"`
	// CPUMicrosPerEvent is this process's CPU time by events sent.
	CPUMicrosPerEvent float64 `json:"generatorCpuMicrosPerEvent"`
	// CPUSeconds is this process's CPU time over the run.
	CPUSeconds float64 `json:"generatorCpuSeconds"`
	// Examples holds one text for each kind of error that occurred.
	Examples []string `json:"examples,omitempty"`
}

// write prints the final table.
func (r Report) write(w io.Writer) {
	offered := "as fast as the server answers"
	if r.Rate > 0 {
		offered = group(int64(r.Rate)) + " events/s"
	}
	fmt.Fprintf(w, "\n%s, %s, batches of %d (%.0f bytes an event), %d connections, %.1f s\n",
		r.Mode, offered, r.Batch, r.BytesPerEvent, r.Connections, r.Seconds)
	if r.Interrupted {
		fmt.Fprintln(w, "the run was ended before its time")
	}
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	row := func(name string, n int64, note string) {
		fmt.Fprintf(tw, "  %s\t%s\t%s\n", name, group(n), note)
	}
	e := r.Events
	row("sent", e.Sent, fmt.Sprintf("%s batches, %s of them late", group(e.Batches), group(e.Late)))
	row("acked", e.Acked, fmt.Sprintf("%s events/s", group(int64(r.AckedPerSecond))))
	optional := func(name string, n int64, note string) {
		if n > 0 {
			row(name, n, note)
		}
	}
	optional("duplicates", e.Duplicates, "acked, and there already")
	optional("rejected", e.Rejected, "one by one, now dead letters")
	row("refused", e.Refused, "429 or 503: not stored")
	row("errors", e.errors(), fmt.Sprintf("%s failed, %s unknown, %s unreached", group(e.Failed), group(e.Unknown), group(e.Unreached)))
	optional("missed", e.Missed, "due, but not sent when the time was over")
	optional("retries", e.Retries, "batches sent again")
	_ = tw.Flush()
	from := "intended send time"
	if r.Mode == ClosedLoop {
		from = "actual send time"
	}
	fmt.Fprintf(w, "  latency from the %s: %s\n", from, r.Accept)
	if r.Refusal.Count > 0 {
		fmt.Fprintf(w, "  of refusals: %s\n", r.Refusal)
	}
	fmt.Fprintf(w, "  answers: %s\n", statusLine(r.Statuses))
	fmt.Fprintf(w, "  the generator used %.2f µs of CPU an event, %.2f cores\n", r.CPUMicrosPerEvent, r.CPUSeconds/max(r.Seconds, 1e-9))
	for _, x := range r.Examples {
		fmt.Fprintf(w, "  for example: %s\n", x)
	}
}

// String gives the percentiles in one line.
func (l Latency) String() string {
	return fmt.Sprintf("p50 %s  p90 %s  p99 %s  p99.9 %s  max %s", ms(l.P50Ms), ms(l.P90Ms), ms(l.P99Ms), ms(l.P999Ms), ms(l.MaxMs))
}

func ms(v float64) string {
	switch {
	case v < 10:
		return fmt.Sprintf("%.2f ms", v)
	case v < 1000:
		return fmt.Sprintf("%.0f ms", v)
	default:
		return fmt.Sprintf("%.2f s", v/1000)
	}
}

func statusLine(statuses map[string]int64) string {
	if len(statuses) == 0 {
		return "none"
	}
	var parts []string
	for _, s := range slices.Sorted(maps.Keys(statuses)) {
		parts = append(parts, fmt.Sprintf("%s × %s", s, group(statuses[s])))
	}
	return strings.Join(parts, ", ")
}

// group writes a number with separators between the thousands.
func group(n int64) string {
	s := fmt.Sprint(n)
	for i := len(s) - 3; i > 0 && s[i-1] != '-'; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// writeJSON writes a report to a file.
func writeJSON(path string, report any) error {
	text, err := json.MarshalIndent(report, "", "  ")
	if err != nil {
		return fmt.Errorf("report: %w", err)
	}
	if err := os.WriteFile(path, append(text, '\n'), 0o644); err != nil {
		return fmt.Errorf("report: %w", err)
	}
	return nil
}
