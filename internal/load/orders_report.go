package load

import (
	"fmt"
	"io"
	"text/tabwriter"
	"time"
)

// OrderCounts are numbers of orders, each counted once however often it was sent.
// Sent is the sum of Placed, OutOfStock, Invalid, Refused, Failed, Unknown and
// Unreached.
type OrderCounts struct {
	Sent int64 `json:"sent"`
	// Placed were answered 202; Replayed of them by an earlier attempt whose answer
	// was lost.
	Placed   int64 `json:"placed"`
	Replayed int64 `json:"replayed"`
	// OutOfStock were answered 409, Invalid 422: not placed.
	OutOfStock int64 `json:"outOfStock"`
	Invalid    int64 `json:"invalid"`
	// Refused were answered 429 or 503: not placed.
	Refused int64 `json:"refused"`
	// Failed were answered with another error: not placed.
	Failed int64 `json:"failed"`
	// Unknown may or may not be placed: no answer until the end.
	Unknown int64 `json:"unknown"`
	// Unreached were never sent, since no connection could be made.
	Unreached int64 `json:"unreached"`
	// Missed were due but had not been sent when the run ended.
	Missed int64 `json:"missed"`
	// Late orders left more than a millisecond after their intended time.
	Late int64 `json:"late"`
	// Retries are requests sent again.
	Retries int64 `json:"retries"`

	// Duplicates are orders that were sent twice on purpose; DuplicatesAgreed of them
	// were answered twice with the same order.
	Duplicates       int64 `json:"duplicates"`
	DuplicatesAgreed int64 `json:"duplicatesAgreed"`
	// Cancelled orders were cancelled right away, CancelsRefused were too late (409),
	// CancelsFailed got no answer that says what became of them.
	Cancelled      int64 `json:"cancelled"`
	CancelsRefused int64 `json:"cancelsRefused"`
	CancelsFailed  int64 `json:"cancelsFailed"`
	// Broken counts answers that break a promise, such as two orders for one key.
	Broken int64 `json:"broken"`
}

// errors counts the orders that ended in an error.
func (c OrderCounts) errors() int64 { return c.Invalid + c.Failed + c.Unknown + c.Unreached }

// OrdersReport is the result of a run of Orders.
type OrdersReport struct {
	URL string `json:"url"`
	// Mode is OpenLoop (latency from the intended send time) or ClosedLoop.
	Mode string `json:"mode"`
	// Rate is the offered number of orders a second, 0 in a closed loop.
	Rate        int       `json:"rate"`
	SKUs        int       `json:"skus"`
	Zipf        float64   `json:"zipf"`
	Lines       string    `json:"lines"`
	Connections int       `json:"connections"`
	Started     time.Time `json:"started"`
	// SeedSeconds is how long it took to put in products and stock before.
	SeedSeconds float64 `json:"seedSeconds"`
	// Seconds from the first intended send to the last answer.
	Seconds float64 `json:"seconds"`
	// Interrupted runs ended before their time.
	Interrupted bool `json:"interrupted,omitempty"`

	Orders              OrderCounts `json:"orders"`
	PlacedPerSecond     float64     `json:"placedPerSecond"`
	OutOfStockPerSecond float64     `json:"outOfStockPerSecond"`
	BytesPerOrder       float64     `json:"bytesPerOrder"`
	// Accept is the latency of placed orders, OutOfStock and Refusal that of others.
	Accept     Latency `json:"accept"`
	OutOfStock Latency `json:"outOfStock"`
	Refusal    Latency `json:"refusal"`

	// Paid is, for those orders that were watched, the time from the answer until
	// they were seen paid or settled otherwise.
	Paid Latency `json:"paid"`
	// Drained says that in the end no order waited for its payment any more,
	// DrainSeconds after the last answer.
	Drained      bool    `json:"drained,omitempty"`
	DrainSeconds float64 `json:"drainSeconds,omitempty"`
	// PaidPerSecond is the placed orders by the time from the start until then.
	PaidPerSecond float64 `json:"paidPerSecond,omitempty"`

	// Statuses counts answers to orders by status, retried ones included.
	Statuses map[string]int64 `json:"statuses"`
	// CPUSeconds is this process's CPU time over the run, CPUMicrosPerOrder by order.
	CPUSeconds        float64 `json:"generatorCpuSeconds"`
	CPUMicrosPerOrder float64 `json:"generatorCpuMicrosPerOrder"`
	// Examples holds one text for each kind of error that occurred, Broken what was
	// seen of broken promises.
	Examples []string `json:"examples,omitempty"`
	Broken   []string `json:"brokenPromises,omitempty"`
}

// write prints the final table.
func (r OrdersReport) write(w io.Writer) {
	offered := "as fast as the server answers"
	if r.Rate > 0 {
		offered = group(int64(r.Rate)) + " orders/s"
	}
	fmt.Fprintf(w, "\n%s, %s, %s products (zipf %g), %s lines (%.0f bytes an order), %d connections, %.1f s\n",
		r.Mode, offered, group(int64(r.SKUs)), r.Zipf, r.Lines, r.BytesPerOrder, r.Connections, r.Seconds)
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
	c := r.Orders
	row("sent", c.Sent, "%s of them late", group(c.Late))
	row("placed", c.Placed, "%s orders/s, %s of them told by a retry", group(int64(r.PlacedPerSecond)), group(c.Replayed))
	row("out of stock", c.OutOfStock, "409, %s a second", group(int64(r.OutOfStockPerSecond)))
	row("refused", c.Refused, "429 or 503: not placed")
	row("errors", c.errors(), "%s invalid, %s failed, %s unknown, %s unreached", group(c.Invalid), group(c.Failed), group(c.Unknown), group(c.Unreached))
	optional("missed", c.Missed, "due, but not sent when the time was over")
	optional("retries", c.Retries, "requests sent again")
	optional("duplicates", c.Duplicates, "sent twice on purpose, %s answered twice with one order", group(c.DuplicatesAgreed))
	optional("cancelled", c.Cancelled+c.CancelsRefused+c.CancelsFailed, "%s cancelled, %s too late, %s failed", group(c.Cancelled), group(c.CancelsRefused), group(c.CancelsFailed))
	optional("broken", c.Broken, "promises that were seen broken")
	_ = tw.Flush()
	from := "intended send time"
	if r.Mode == ClosedLoop {
		from = "actual send time"
	}
	fmt.Fprintf(w, "  latency from the %s: %s\n", from, r.Accept)
	if r.OutOfStock.Count > 0 {
		fmt.Fprintf(w, "  of out of stock: %s\n", r.OutOfStock)
	}
	if r.Refusal.Count > 0 {
		fmt.Fprintf(w, "  of refusals: %s\n", r.Refusal)
	}
	if r.Paid.Count > 0 {
		fmt.Fprintf(w, "  from placed to paid, of %s watched: %s\n", group(r.Paid.Count), r.Paid)
	}
	switch {
	case r.Drained:
		fmt.Fprintf(w, "  none waited for its payment %.1f s after the last answer: %s orders/s from placed to paid\n", r.DrainSeconds, group(int64(r.PaidPerSecond)))
	case r.DrainSeconds > 0:
		fmt.Fprintf(w, "  orders still wait for their payment %.1f s after the last answer\n", r.DrainSeconds)
	}
	fmt.Fprintf(w, "  answers: %s\n", statusLine(r.Statuses))
	fmt.Fprintf(w, "  the generator used %.2f µs of CPU an order, %.2f cores\n", r.CPUMicrosPerOrder, r.CPUSeconds/max(r.Seconds, 1e-9))
	for _, x := range r.Examples {
		fmt.Fprintf(w, "  for example: %s\n", x)
	}
	for _, x := range r.Broken {
		fmt.Fprintf(w, "  BROKEN: %s\n", x)
	}
}
