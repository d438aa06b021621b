package load

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/url"
	"slices"
	"strings"
	"sync"
	"text/tabwriter"
	"time"
)

// VerifyOrdersOptions says what to check. URL is required.
type VerifyOrdersOptions struct {
	// URL is the server's base URL; Token needs the scopes orders:admin and
	// stock:write (to read), for Replay also orders:write as the buyer.
	URL   string
	Token string
	// AckedFiles are what runs of Orders wrote; without any the server is only
	// checked against itself.
	AckedFiles []string
	// Settle bounds how long to wait until no order is being worked on; default 60 s,
	// negative means not at all.
	Settle time.Duration
	// History checks the history of every order, not only of a sample.
	History bool
	// Replay sends so many of the acknowledged orders again, with their keys: each
	// must be answered with the same order. The token must be the buyer's.
	Replay int
	// Shared says that others ordered during the run: orders that are not in the
	// files are then no fault.
	Shared bool
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

// Kinds of faults.
const (
	FaultMissing   = "missing"   // an acknowledged order that is not there
	FaultChanged   = "changed"   // an order with other lines or another total than acknowledged
	FaultKey       = "key"       // a key with two orders, or an order with two keys
	FaultStranger  = "stranger"  // an order that nobody placed
	FaultCancel    = "cancel"    // an order that goes on although its cancellation was acknowledged
	FaultState     = "state"     // an order in a state that must not be
	FaultMoney     = "money"     // amounts that do not fit each other
	FaultCharge    = "charge"    // the payment provider's ledger says something else
	FaultStock     = "stock"     // stock that is not what the orders make of it
	FaultHistory   = "history"   // a history that is no way of an order's life
	FaultUnsettled = "unsettled" // still being worked on when the wait was over
)

// VerifyOrdersReport is what VerifyOrders found.
type VerifyOrdersReport struct {
	// Acked and Doubtful are orders of the files: placed, and of unknown outcome.
	Acked    int `json:"acked"`
	Doubtful int `json:"doubtful"`
	// Found of the acked are there, DoubtfulFound of the doubtful.
	Found         int `json:"found"`
	DoubtfulFound int `json:"doubtfulFound"`
	// Orders are all of the server's, whosever, and Statuses how many have which
	// status. Parked of them wait for an operator.
	Orders   int            `json:"orders"`
	Statuses map[string]int `json:"statuses"`
	Parked   int            `json:"parked"`
	// SKUs is the number of products whose stock was compared with the orders;
	// Conserved of them also with what was put in.
	SKUs      int `json:"skus"`
	Conserved int `json:"conserved"`
	// Moving products changed while they were read, again and again, and were not
	// compared. That is a fault unless the run was told not to wait.
	Moving int `json:"moving"`
	// Ledger says that the payment sandbox's ledger was there to compare with,
	// Charges how many entries it has.
	Ledger  bool `json:"ledger"`
	Charges int  `json:"charges"`
	// Histories were checked, Replays sent again.
	Histories int `json:"histories"`
	Replays   int `json:"replays"`

	// Faults counts what is wrong by kind.
	Faults map[string]int `json:"faults"`
	// SettleSeconds is how long it took until nothing was being worked on.
	SettleSeconds float64 `json:"settleSeconds"`
	Seconds       float64 `json:"seconds"`
	// Examples has the first faults in words.
	Examples []string `json:"examples,omitempty"`
}

// err sums up the faults; nil if there are none.
func (r VerifyOrdersReport) err() error {
	if len(r.Faults) == 0 {
		return nil
	}
	var parts []string
	for _, kind := range slices.Sorted(maps.Keys(r.Faults)) {
		parts = append(parts, fmt.Sprintf("%d %s", r.Faults[kind], kind))
	}
	return fmt.Errorf("%w: %s", ErrBroken, strings.Join(parts, ", "))
}

func (r VerifyOrdersReport) write(w io.Writer, fault error) {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	row := func(name string, n int, format string, args ...any) {
		fmt.Fprintf(tw, "  %s\t%s\t%s\n", name, group(int64(n)), fmt.Sprintf(format, args...))
	}
	row("acked", r.Acked, "%s found, and %s of %s of unknown outcome", group(int64(r.Found)), group(int64(r.DoubtfulFound)), group(int64(r.Doubtful)))
	var statuses []string
	for _, s := range slices.Sorted(maps.Keys(r.Statuses)) {
		statuses = append(statuses, fmt.Sprintf("%s %s", group(int64(r.Statuses[s])), s))
	}
	row("orders", r.Orders, "%s", strings.Join(statuses, ", "))
	if r.Parked > 0 {
		row("parked", r.Parked, "given up by the server until they are redriven")
	}
	row("products", r.SKUs, "%s of them compared with what was put in", group(int64(r.Conserved)))
	if r.Moving > 0 {
		row("moving", r.Moving, "products whose stock changed while it was read; not compared")
	}
	if r.Ledger {
		row("charges", r.Charges, "in the payment sandbox's ledger")
	} else {
		fmt.Fprintf(tw, "  charges\t-\tthe server shows no ledger (another payment provider?): not compared\n")
	}
	row("histories", r.Histories, "checked")
	if r.Replays > 0 {
		row("replays", r.Replays, "sent again with their keys")
	}
	for _, kind := range slices.Sorted(maps.Keys(r.Faults)) {
		row("WRONG", r.Faults[kind], "%s", kind)
	}
	_ = tw.Flush()
	for _, x := range r.Examples {
		fmt.Fprintf(w, "  %s\n", x)
	}
	if fault == nil {
		fmt.Fprintf(w, "  every acknowledged order is there once, stock and money add up (%.1f s)\n", r.Seconds)
	}
}

func (o *VerifyOrdersOptions) setDefaults() {
	orElse(&o.Settle, time.Minute)
	orElse(&o.Concurrency, 4)
	orElse(&o.Timeout, 30*time.Second)
	if o.Out == nil {
		o.Out = io.Discard
	}
}

func (o *VerifyOrdersOptions) validate() error {
	var errs []error
	check := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	check(o.Concurrency >= 1 && o.Concurrency <= 1000, "concurrency %d: must be 1 to 1000", o.Concurrency)
	check(o.Timeout > 0, "timeout %s: must be positive", o.Timeout)
	check(o.Replay >= 0, "replay %d: must not be negative", o.Replay)
	check(o.Replay == 0 || len(o.AckedFiles) > 0, "replay %d: give the acked file with the orders to send again", o.Replay)
	check(!strings.ContainsAny(o.Token, "\r\n"), "token: must be one line")
	return errors.Join(errs...)
}

// VerifyOrders compares what runs of Orders were told with what the server has,
// and the server's orders, stock and payments with each other. It waits until no
// order is being worked on, since only then all of it must agree. Faults are an
// error that wraps ErrBroken; the report says more.
func VerifyOrders(ctx context.Context, o VerifyOrdersOptions) (VerifyOrdersReport, error) {
	o.setDefaults()
	if err := o.validate(); err != nil {
		return VerifyOrdersReport{}, err
	}
	base, err := baseURL(o.URL)
	if err != nil {
		return VerifyOrdersReport{}, err
	}
	set, err := readOrderAcked(o.AckedFiles)
	if err != nil {
		return VerifyOrdersReport{}, err
	}
	v := &auditor{o: o, base: base, set: set, reader: newOrderReader(base, o.Token, o.Timeout, o.Concurrency, o.TLS)}
	defer v.reader.close()
	v.report = VerifyOrdersReport{Acked: len(set.orders), Doubtful: len(set.doubtful), Faults: map[string]int{}, Statuses: map[string]int{}}
	began := time.Now()
	if err := v.run(ctx); err != nil {
		return v.report, err
	}
	v.report.Seconds = time.Since(began).Seconds()
	fault := v.report.err()
	v.report.write(o.Out, fault)
	if o.JSONFile != "" {
		fault = errors.Join(fault, writeJSON(o.JSONFile, v.report))
	}
	return v.report, fault
}

// auditor is one run of VerifyOrders.
type auditor struct {
	o      VerifyOrdersOptions
	base   *url.URL
	reader orderReader
	set    *orderSet

	mu     sync.Mutex // guards report while requests run beside each other
	report VerifyOrdersReport

	orders []heldOrder
	levels map[string]storedLevel
	moving map[string]bool // SKUs that changed while they were read
	byID   map[string]int32
	// charges are the ledger's entries by order.
	charges map[string][]storedCharge
}

// fault notes what is wrong.
func (v *auditor) fault(kind, format string, args ...any) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.report.Faults[kind]++
	if len(v.report.Examples) < maxExamples {
		v.report.Examples = append(v.report.Examples, kind+": "+fmt.Sprintf(format, args...))
	}
}

func (v *auditor) run(ctx context.Context) error {
	if err := v.settle(ctx); err != nil {
		return err
	}
	if err := v.snapshot(ctx); err != nil {
		return err
	}
	for _, clash := range v.set.clashes {
		v.fault(FaultKey, "%s", clash)
	}
	v.compareAcked()
	v.compareStock()
	for i := range v.orders {
		v.checkOrder(&v.orders[i])
	}
	v.compareCharges()
	if err := v.checkHistories(ctx); err != nil {
		return err
	}
	return v.replay(ctx)
}

// settle waits until no order is being worked on.
func (v *auditor) settle(ctx context.Context) error {
	if v.o.Settle < 0 {
		return nil
	}
	began := time.Now()
	for {
		busy, err := v.reader.anyOf(ctx, workingStatuses[:]...)
		if err != nil {
			return err
		}
		v.report.SettleSeconds = time.Since(began).Seconds()
		if !busy {
			return nil
		}
		if time.Since(began) > v.o.Settle {
			return nil // what is still under way shows in the orders
		}
		if !wait(ctx, 100*time.Millisecond) {
			return context.Cause(ctx)
		}
	}
}

// snapshotTries bounds how often stock and orders are read until they stand still.
const snapshotTries = 5

// snapshot reads stock and orders so that they belong together: a product whose
// version was the same before and after its orders were read has not changed
// meanwhile. Others are read again.
func (v *auditor) snapshot(ctx context.Context) error {
	for try := 1; ; try++ {
		before, err := v.readLevels(ctx)
		if err != nil {
			return err
		}
		if err := v.readOrders(ctx); err != nil {
			return err
		}
		if err := v.readCharges(ctx); err != nil {
			return err
		}
		if v.levels, err = v.readLevels(ctx); err != nil {
			return err
		}
		v.moving = map[string]bool{}
		for sku, l := range v.levels {
			if before[sku].Version != l.Version {
				v.moving[sku] = true
			}
		}
		if len(v.moving) == 0 || v.o.Settle < 0 || try == snapshotTries {
			return nil
		}
		if !wait(ctx, time.Second) {
			return context.Cause(ctx)
		}
	}
}

func (v *auditor) readLevels(ctx context.Context) (map[string]storedLevel, error) {
	levels := map[string]storedLevel{}
	err := v.reader.levels(ctx, func(page []storedLevel) {
		for _, l := range page {
			levels[l.SKU] = l
		}
	})
	return levels, err
}

func (v *auditor) readOrders(ctx context.Context) error {
	v.orders, v.byID = nil, map[string]int32{}
	_, err := v.reader.orders(ctx, "", func(page []storedOrder) bool {
		for i := range page {
			if at, twice := v.byID[page[i].ID]; twice {
				v.orders[at].listed++
				continue
			}
			v.byID[page[i].ID] = int32(len(v.orders))
			v.orders = append(v.orders, v.hold(&page[i]))
		}
		return true
	})
	return err
}

func (v *auditor) readCharges(ctx context.Context) (err error) {
	v.charges, v.report.Charges = map[string][]storedCharge{}, 0
	v.report.Ledger, err = v.reader.charges(ctx, func(page []storedCharge) {
		v.report.Charges += len(page)
		for _, c := range page {
			v.charges[c.OrderID] = append(v.charges[c.OrderID], c)
		}
	})
	return err
}
