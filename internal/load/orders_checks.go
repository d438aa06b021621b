package load

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"
)

// heldOrder is an order of the server in memory.
type heldOrder struct {
	id                        string
	status                    string
	version                   int64
	total, captured, refunded int64
	priced                    int64 // the sum of its lines
	currency                  string
	lines                     []orderLine // SKUs are indexes into orderSet.skus, each once
	parked, mixed             bool        // mixed: of several currencies
	shippedAt                 time.Time   // zero: not shipped
	back                      restock
	placedAt                  time.Time
	listed                    int // times
	acked                     bool
}

// restock says whether what was shipped was put back on the shelf.
type restock uint8

const (
	notBack restock = iota
	isBack
	maybeBack // an earlier refund may have done it, which the order does not show
)

// hold keeps what the checks need of an order.
func (v *auditor) hold(s *storedOrder) heldOrder {
	o := heldOrder{id: s.ID, status: s.Status, version: s.Version, total: s.Total.Amount, captured: s.Captured.Amount, refunded: s.Refunded.Amount,
		currency: s.Total.Currency, parked: s.ParkedAt != nil, placedAt: s.PlacedAt, listed: 1}
	for _, item := range s.Items {
		o.lines = append(o.lines, orderLine{v.set.sku(item.SKU), item.Quantity})
		o.priced += item.Quantity * item.UnitPrice.Amount
		o.mixed = o.mixed || item.UnitPrice.Currency != o.currency
	}
	for _, m := range []storedMoney{s.Captured, s.Refunded} {
		o.mixed = o.mixed || m.Amount != 0 && m.Currency != o.currency
	}
	o.lines = mergeLines(o.lines)
	if s.Shipment != nil {
		if o.shippedAt = s.Shipment.ShippedAt; o.shippedAt.IsZero() {
			o.shippedAt = s.PlacedAt
		}
	}
	switch {
	case o.shippedAt.IsZero():
	case s.Restocked, s.Refund != nil && s.Refund.Restock && s.Status != "refunding":
		o.back = isBack
	case s.Refund != nil && s.Refund.Number > 1:
		o.back = maybeBack
	}
	return o
}

func (o *heldOrder) shipped() bool { return !o.shippedAt.IsZero() }

// reserves says whether an order holds stock that is still on the shelf.
func (o *heldOrder) reserves() bool {
	return !o.shipped() && (working(o.status) || o.status == "fulfilling")
}

// compareAcked checks that what was acknowledged is there, as it was acknowledged.
func (v *auditor) compareAcked() {
	for i := range v.set.orders {
		a := &v.set.orders[i]
		at, found := v.byID[a.id.String()]
		if !found {
			v.fault(FaultMissing, "order %s (key %s) was acknowledged and is not there", a.id, a.key)
			continue
		}
		v.report.Found++
		o := &v.orders[at]
		o.acked = true
		if !slices.Equal(o.lines, a.lines) {
			v.fault(FaultChanged, "order %s was acknowledged with %s; it has %s", a.id, describeLines(a.lines, v.set.skus), describeLines(o.lines, v.set.skus))
		}
		if o.total != a.total {
			v.fault(FaultChanged, "order %s was acknowledged with a total of %d; it is %d", a.id, a.total, o.total)
		}
		if a.cancelled && (o.shipped() || !slices.Contains([]string{"cancelling", "cancelled", "expired", "refunding", "refunded"}, o.status)) {
			v.fault(FaultCancel, "the cancellation of order %s was acknowledged; it is %s", a.id, o.status)
		}
	}
	v.findStrangers()
}

// findStrangers looks for orders of the runs' products and time that no file has.
// Each must be one of unknown outcome.
func (v *auditor) findStrangers() {
	if len(v.o.AckedFiles) == 0 {
		return
	}
	open := map[string]int{}
	for _, d := range v.set.doubtful {
		open[describeLines(d.lines, v.set.skus)]++
	}
	for i := range v.orders {
		o := &v.orders[i]
		if o.acked || len(o.lines) == 0 {
			continue
		}
		lines := describeLines(o.lines, v.set.skus)
		if open[lines] > 0 {
			open[lines]--
			v.report.DoubtfulFound++
			continue
		}
		// A run that was cut off may not have noted its last orders.
		if v.o.Shared || v.set.ended.IsZero() || o.placedAt.Before(v.set.started) || o.placedAt.After(v.set.ended) {
			continue
		}
		if slices.ContainsFunc(o.lines, func(l orderLine) bool { return !v.set.skus[l.sku].ours }) {
			continue // of products that are not the runs' own
		}
		v.fault(FaultStranger, "order %s (%s) was placed during the run, and no acknowledgement or unknown outcome stands for it; if other clients ordered at the same time, say so with --exclusive=false", o.id, lines)
	}
}

// shelf is what the orders make of a SKU's stock.
type shelf struct {
	reserved          int64
	gone, perhapsGone int64 // shipped and not back; shipped and perhaps back
}

// compareStock checks each product's stock against the orders, and against what
// was put in.
func (v *auditor) compareStock() {
	shelves := make([]shelf, len(v.set.skus))
	for i := range v.orders {
		o := &v.orders[i]
		for _, l := range o.lines {
			s, seed := &shelves[l.sku], &v.set.skus[l.sku]
			if o.reserves() {
				s.reserved += l.quantity
			}
			if !o.shipped() || o.shippedAt.Before(seed.since) {
				continue
			}
			switch o.back {
			case notBack:
				s.gone += l.quantity
			case maybeBack:
				s.perhapsGone += l.quantity
			}
		}
	}
	for i, s := range shelves {
		v.compareShelf(&v.set.skus[i], s)
	}
	for sku, l := range v.levels {
		if _, known := v.set.bySKU[sku]; !known {
			v.compareShelf(&skuSeed{sku: l.SKU}, shelf{})
		}
	}
	if v.report.Moving > 0 && v.o.Settle >= 0 {
		v.fault(FaultUnsettled, "the stock of %d products changed while it was read, %d times over; nobody else may order or change stock meanwhile, or say --settle -1s", v.report.Moving, snapshotTries)
	}
}

func (v *auditor) compareShelf(seed *skuSeed, s shelf) {
	l, found := v.levels[seed.sku]
	if v.moving[seed.sku] {
		v.report.Moving++
		return
	}
	if !found {
		if seed.seeded || s.reserved > 0 {
			v.fault(FaultStock, "%s: no stock is kept for it, but %d units were put in and orders hold %d", seed.sku, seed.put, s.reserved)
		}
		return
	}
	v.report.SKUs++
	if l.Reserved < 0 || l.OnHand < l.Reserved || l.Available != l.OnHand-l.Reserved {
		v.fault(FaultStock, "%s: %d on hand, %d reserved, %d available: oversold, or a sum that is wrong", seed.sku, l.OnHand, l.Reserved, l.Available)
	}
	if l.Reserved != s.reserved {
		v.fault(FaultStock, "%s: %d are reserved, but the orders that hold stock are of %d", seed.sku, l.Reserved, s.reserved)
	}
	if !seed.seeded {
		return
	}
	v.report.Conserved++
	in, out := seed.before+seed.put, l.OnHand+s.gone
	if in < out || in > out+s.perhapsGone {
		v.fault(FaultStock, "%s: %d units were put in (and %d before), but %d are on hand and %d were shipped: %+d", seed.sku, seed.put, seed.before, l.OnHand, s.gone, out-in)
	}
}

// checkOrder checks that the parts of an order fit each other.
func (v *auditor) checkOrder(o *heldOrder) {
	v.report.Orders++
	v.report.Statuses[o.status]++
	if o.parked {
		v.report.Parked++
	}
	if o.listed > 1 {
		v.fault(FaultState, "order %s is listed %d times", o.id, o.listed)
	}
	if why := impossible(o); why != "" {
		v.fault(FaultState, "order %s (%s, version %d, total %d, captured %d, refunded %d): %s", o.id, o.status, o.version, o.total, o.captured, o.refunded, why)
	}
	if o.mixed || o.total != o.priced || o.total <= 0 || o.refunded < 0 || o.captured < o.refunded || o.total < o.captured {
		v.fault(FaultMoney, "order %s: total %d %s, the lines sum up to %d, captured %d, refunded %d", o.id, o.total, o.currency, o.priced, o.captured, o.refunded)
	}
	if v.o.Settle >= 0 && working(o.status) && !o.parked {
		v.fault(FaultUnsettled, "order %s is still %s after %s; are the server's workers running?", o.id, o.status, v.o.Settle)
	}
}

// impossible says what in an order contradicts its status, "" if nothing does.
func impossible(o *heldOrder) string {
	unpaid := when(o.captured != o.total, "its total was not captured")
	captured := when(o.captured != 0, "money was captured")
	allBack := when(o.refunded >= o.captured && o.captured > 0, "all of its money went back")
	shipped := when(o.shipped(), "it was shipped")
	switch o.status {
	case "placed", "charging", "payment_failed":
		return cmp.Or(captured, shipped)
	case "cancelling":
		return cmp.Or(allBack, shipped)
	case "cancelled", "expired":
		return cmp.Or(when(o.captured != o.refunded, "money was captured that did not go back"), shipped)
	case "paid", "fulfilling":
		return cmp.Or(unpaid, when(o.refunded != 0, "money went back"), shipped)
	case "shipped", "completed":
		return cmp.Or(unpaid, allBack, when(!o.shipped(), "it has no shipment"))
	case "refunding":
		return cmp.Or(unpaid, allBack)
	case "refunded":
		return cmp.Or(unpaid, when(o.refunded != o.captured, "not all of its money went back"))
	}
	return "there is no such status"
}

// when returns a text if a condition holds.
func when(holds bool, text string) string {
	if holds {
		return text
	}
	return ""
}

// compareCharges checks the orders' money against the ledger of the provider.
func (v *auditor) compareCharges() {
	if !v.report.Ledger {
		return
	}
	for id, charges := range v.charges {
		if _, found := v.byID[id]; !found {
			v.fault(FaultCharge, "the ledger has a charge (%s, %s of %d) for order %s, which is not there", charges[0].Key, charges[0].State, charges[0].Amount.Amount, id)
		}
	}
	for i := range v.orders {
		o := &v.orders[i]
		if why := faultOfCharges(o, v.charges[o.id]); why != "" {
			v.fault(FaultCharge, "order %s (%s, captured %d, refunded %d): %s", o.id, o.status, o.captured, o.refunded, why)
		}
	}
}

// faultOfCharges says how the ledger's entries of an order contradict it, "" if
// they do not. While an order is being worked on the ledger may be ahead of it.
func faultOfCharges(o *heldOrder, charges []storedCharge) string {
	var captures int
	var captured, refunded int64
	for _, c := range charges {
		if c.State != "captured" {
			continue
		}
		captures++
		captured += c.Amount.Amount
		refunded += c.Refunded.Amount
		if want := (storedMoney{o.total, o.currency}); c.Amount != want {
			return fmt.Sprintf("%d %s were captured of a total of %d %s", c.Amount.Amount, c.Amount.Currency, o.total, o.currency)
		}
	}
	switch {
	case captures > 1:
		return fmt.Sprintf("the ledger has %d captures", captures)
	case captures == 0 && o.captured > 0:
		return "the ledger has no capture"
	case refunded > captured:
		return fmt.Sprintf("the ledger has refunds of %d of %d captured", refunded, captured)
	case working(o.status):
		if refunded < o.refunded {
			return fmt.Sprintf("the ledger has refunds of %d", refunded)
		}
		return ""
	case o.captured == 0 && captured > refunded:
		return fmt.Sprintf("the ledger has a capture of %d, of which %d went back", captured, refunded)
	case o.captured > 0 && refunded != o.refunded:
		return fmt.Sprintf("the ledger has refunds of %d", refunded)
	}
	return ""
}

// sampleHistories is how many histories are checked unless all are.
const sampleHistories = 200

func (v *auditor) checkHistories(ctx context.Context) error {
	every := 1
	if !v.o.History {
		every = max(1, len(v.orders)/sampleHistories)
	}
	n := (len(v.orders) + every - 1) / every
	v.report.Histories = n
	return parallel(ctx, v.o.Concurrency, n, func(ctx context.Context, i int) error {
		o := &v.orders[i*every]
		history, found, err := v.reader.history(ctx, o.id)
		switch {
		case err != nil:
			return err
		case !found:
			v.fault(FaultHistory, "order %s: GET /orders/%s/history does not find it", o.id, o.id)
		default:
			if why := faultOfHistory(o, history); why != "" {
				v.fault(FaultHistory, "order %s: %s", o.id, why)
			}
		}
		return nil
	})
}

// replay sends acknowledged orders again with their keys.
func (v *auditor) replay(ctx context.Context) error {
	n := min(v.o.Replay, len(v.set.orders))
	if n == 0 {
		return nil
	}
	d, err := newDialer(v.base, v.o.TLS, min(v.o.Timeout, 5*time.Second))
	if err != nil {
		return err
	}
	c := newConn(d)
	defer c.close()
	head := "POST " + v.base.JoinPath("orders").RequestURI() + " HTTP/1.1\r\n" + headers(v.base, v.o.Token) + "Content-Type: application/json\r\nIdempotency-Key: "
	skus := make([]string, len(v.set.skus))
	for i, s := range v.set.skus {
		skus[i] = s.sku
	}
	every := len(v.set.orders) / n
	for i := range n {
		a := &v.set.orders[i*every]
		body := appendOrderBody(nil, a.lines, skus, v.set.tokens[a.token])
		said, err := c.roundTrip(ctx, appendOrderRequest(nil, head, a.key, body), v.o.Timeout)
		if err != nil {
			return fmt.Errorf("sending order %s again: %w", a.id, err)
		}
		v.report.Replays++
		r, err := parseReceipt(said.body)
		switch {
		case said.status == 401 || said.status == 403:
			return fmt.Errorf("sending order %s again: %s", a.id, explain(said))
		case said.status/100 != 2 || err != nil:
			v.fault(FaultKey, "key %s was acknowledged with order %s; sent again it was answered %s", a.key, a.id, explain(said))
		case !said.replayed && r.id != a.id && i == 0:
			return fmt.Errorf("key %s was acknowledged with order %s; sent again it placed order %s. If the token is of another buyer than the run's, use the run's", a.key, a.id, r.id)
		case r != (receipt{a.id, a.total}):
			v.fault(FaultKey, "key %s was acknowledged with order %s of %d; sent again it was answered with order %s of %d", a.key, a.id, a.total, r.id, r.total)
		}
	}
	return nil
}
