package load

import (
	"fmt"
	"io"
	"text/tabwriter"
	"time"
)

// ReadCounts are numbers of requests. Sent is the sum of Served, NotModified,
// Refused, Failed, Unanswered and Unreached.
type ReadCounts struct {
	Sent int64 `json:"sent"`
	// Served were answered 200, NotModified 304.
	Served      int64 `json:"served"`
	NotModified int64 `json:"notModified"`
	// Refused were answered 429 or 503, Failed with another status.
	Refused int64 `json:"refused"`
	Failed  int64 `json:"failed"`
	// Unanswered got no answer, Unreached no connection.
	Unanswered int64 `json:"unanswered"`
	Unreached  int64 `json:"unreached"`
	// Missed were due but had not been sent when the run ended.
	Missed int64 `json:"missed"`
	// Late requests left more than a millisecond after their intended time.
	Late int64 `json:"late"`
	// Conditional requests asked about an ETag.
	Conditional int64 `json:"conditional"`
	// Stale answers said in Cache-Status that they may be out of date.
	Stale int64 `json:"stale"`
	// Broken counts answers that break a promise: of something else than was asked
	// for, without a strong ETag, with one that stands for other bytes too.
	Broken int64 `json:"broken"`
}

// answered counts the requests that gave the reader what was asked for.
func (c ReadCounts) answered() int64 { return c.Served + c.NotModified }

// errors counts the requests that ended in an error.
func (c ReadCounts) errors() int64 { return c.Failed + c.Unanswered + c.Unreached }

func (c *ReadCounts) add(o ReadCounts) {
	c.Sent += o.Sent
	c.Served += o.Served
	c.NotModified += o.NotModified
	c.Refused += o.Refused
	c.Failed += o.Failed
	c.Unanswered += o.Unanswered
	c.Unreached += o.Unreached
	c.Missed += o.Missed
	c.Late += o.Late
	c.Conditional += o.Conditional
	c.Stale += o.Stale
	c.Broken += o.Broken
}

// ReadsReport is the result of a run of Reads.
type ReadsReport struct {
	URL   string   `json:"url"`
	Paths []string `json:"paths"`
	// Targets is the number of addresses that were asked for.
	Targets int `json:"targets"`
	// Mode is OpenLoop (latency from the intended send time) or ClosedLoop.
	Mode string `json:"mode"`
	// Rate is the offered number of requests a second, 0 in a closed loop.
	Rate        int       `json:"rate"`
	Connections int       `json:"connections"`
	Conditional float64   `json:"conditional"`
	Languages   []string  `json:"languages,omitempty"`
	Encoding    string    `json:"encoding,omitempty"`
	Started     time.Time `json:"started"`
	// Seconds from the first intended send to the last answer.
	Seconds float64 `json:"seconds"`
	// Interrupted runs ended before their time.
	Interrupted bool `json:"interrupted,omitempty"`

	Reads ReadCounts `json:"reads"`
	// PerSecond is the number of answers 200 and 304 a second.
	PerSecond float64 `json:"perSecond"`
	// NotModifiedShare is the share of 304 among them.
	NotModifiedShare float64 `json:"notModifiedShare"`
	// BodyBytes is the sum of the bodies as they were sent.
	BodyBytes int64 `json:"bodyBytes"`
	// Latency is that of answers 200 and 304.
	Latency Latency `json:"latency"`
	// Statuses counts answers by status.
	Statuses map[string]int64 `json:"statuses"`
	// CPUSeconds is this process's CPU time over the run, CPUMicrosPerRead by request.
	CPUSeconds       float64 `json:"generatorCpuSeconds"`
	CPUMicrosPerRead float64 `json:"generatorCpuMicrosPerRead"`
	// Examples holds one text for each kind of error that occurred, Broken what was
	// seen of broken promises.
	Examples []string `json:"examples,omitempty"`
	Broken   []string `json:"brokenPromises,omitempty"`
}

// write prints the final table.
func (r ReadsReport) write(w io.Writer) {
	offered := "as fast as the server answers"
	if r.Rate > 0 {
		offered = group(int64(r.Rate)) + " requests/s"
	}
	fmt.Fprintf(w, "\n%s, %s, %s addresses, %d connections, %.1f s\n", r.Mode, offered, group(int64(r.Targets)), r.Connections, r.Seconds)
	if r.Interrupted {
		fmt.Fprintln(w, "the run was ended before its time")
	}
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	row := func(name string, n int64, format string, args ...any) {
		fmt.Fprintf(tw, "  %s\t%s\t%s\n", name, group(n), fmt.Sprintf(format, args...))
	}
	optional := func(name string, n int64, format string, args ...any) {
		if n > 0 {
			row(name, n, format, args...)
		}
	}
	c := r.Reads
	row("sent", c.Sent, "%s of them late, %s with If-None-Match", group(c.Late), group(c.Conditional))
	row("answered", c.answered(), "%s/s, %.0f %% of them 304", group(int64(r.PerSecond)), 100*r.NotModifiedShare)
	row("body bytes", r.BodyBytes, "%.0f a second", float64(r.BodyBytes)/max(r.Seconds, 1e-9))
	optional("stale", c.Stale, "marked as such by Cache-Status")
	row("refused", c.Refused, "429 or 503")
	row("errors", c.errors(), "%s failed, %s without an answer, %s unreached", group(c.Failed), group(c.Unanswered), group(c.Unreached))
	optional("missed", c.Missed, "due, but not sent when the time was over")
	optional("broken", c.Broken, "promises that were seen broken")
	_ = tw.Flush()
	from := "intended send time"
	if r.Mode == ClosedLoop {
		from = "actual send time"
	}
	fmt.Fprintf(w, "  latency from the %s: %s\n", from, r.Latency)
	fmt.Fprintf(w, "  answers: %s\n", statusLine(r.Statuses))
	fmt.Fprintf(w, "  the generator used %.2f µs of CPU a request, %.2f cores\n", r.CPUMicrosPerRead, r.CPUSeconds/max(r.Seconds, 1e-9))
	for _, x := range r.Examples {
		fmt.Fprintf(w, "  for example: %s\n", x)
	}
	for _, x := range r.Broken {
		fmt.Fprintf(w, "  BROKEN: %s\n", x)
	}
}
