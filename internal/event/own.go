package event

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"golang.org/x/sync/errgroup"

	"millrace/internal/event/scan"
)

// OwnSourcePrefix begins the source of every event that Millrace itself makes.
// It is reserved: an event from outside whose source begins so is rejected, so
// that what Millrace says of itself cannot be forged or shadowed.
const OwnSourcePrefix = "millrace/"

// SourceOrders is the source of the events of orders.
const SourceOrders = OwnSourcePrefix + "orders"

// Own is an event that Millrace itself makes. However often it is handed over, it
// is stored and counted once: its identity is (TenantID, Source, ID).
type Own struct {
	TenantID string
	// ID is the same whenever this event is told; 1 to 256 bytes.
	ID string
	// Type says what happened, such as "order.placed". Others may use the same
	// types: their events have no currency, and so are no part of the sums.
	Type string
	// Source begins with OwnSourcePrefix.
	Source string
	// Timestamp is when it happened, between the years 1700 and 2200.
	Timestamp time.Time
	// Payload is valid JSON.
	Payload []byte
	// Amount is the money the event is about in minor units of Currency. The
	// statistics add it up by type and currency.
	Amount int64
	// Currency is an ISO 4217 code, empty if the event is not about money; then
	// Amount is 0.
	Currency string
}

// InvalidOwnError says that an event of Millrace's own making cannot be stored,
// now or ever: handing it over again is pointless.
type InvalidOwnError struct {
	Index  int // position in the call, from 0
	ID     string
	Type   string
	Reason string
}

func (e *InvalidOwnError) Error() string {
	return fmt.Sprintf("event %d (id %q, type %q) cannot be stored: %s", e.Index, e.ID, e.Type, e.Reason)
}

const (
	// ownRecordEvents and ownRecordBytes end a record of own events; one event may
	// exceed the bytes.
	ownRecordEvents = 1000
	ownRecordBytes  = 1 << 20
	// maxOwnPayloadBytes leaves room for everything else in the smallest record the
	// log is ever configured to take.
	maxOwnPayloadBytes = 1 << 20
	// ownAppends is how many records of one call are written at once: they share
	// the log's commits.
	ownAppends = 16
)

// IngestOwn brings events of Millrace's own making into the log, whatever the ack
// mode durably so. It answers
//   - nil: all of them are in the log, and will be in the store exactly once,
//     however often they were or will be handed over. The store sees to that
//     within the transaction that inserts them, for as long as Batch says; the
//     dedupe window has no part in it;
//   - an *InvalidOwnError: one of them can never be stored, and none was kept;
//   - an *Unavailable, or the context's error: any of them may have been kept.
//     Hand all of them over again, later.
//
// The events of one tenant keep their order. The context is asked before each
// record; what has been handed to the log is not taken back.
func (in *Ingester) IngestOwn(ctx context.Context, events []Own) error {
	for i := range events {
		if reason := events[i].invalid(); reason != "" {
			return &InvalidOwnError{Index: i, ID: events[i].ID, Type: events[i].Type, Reason: reason}
		}
	}
	in.pending.Add(1)
	defer in.pending.Add(-1)
	tenants, byTenant := partByTenant(events)
	var group errgroup.Group
	group.SetLimit(ownAppends)
	for _, tenant := range tenants {
		group.Go(func() error { return in.appendOwn(ctx, tenant, byTenant[tenant]) })
	}
	return group.Wait()
}

// appendOwn writes the events of one tenant, in order.
func (in *Ingester) appendOwn(ctx context.Context, tenant string, events []*Own) error {
	var record []byte
	for len(events) > 0 {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, bytes := 1, events[0].recordBytes()
		for n < len(events) && n < ownRecordEvents && bytes+events[n].recordBytes() <= ownRecordBytes {
			bytes += events[n].recordBytes()
			n++
		}
		record = appendOwnHeader(record[:0], batchID(newUUID()), tenant, n)
		for _, e := range events[:n] {
			record = appendRecordOwn(record, e)
		}
		if _, err := in.o.Log.Append(record); err != nil {
			return in.refuse(err)
		}
		in.o.Metrics.own.Add(float64(n))
		events = events[n:]
	}
	return nil
}

// recordBytes bounds what the event takes of a record.
func (e *Own) recordBytes() int {
	const numbers = 64
	return len(e.ID) + len(e.Type) + len(e.Source) + len(e.Payload) + len(e.Currency) + numbers
}

// partByTenant groups events, tenants and events in order of appearance.
func partByTenant(events []Own) (tenants []string, byTenant map[string][]*Own) {
	byTenant = map[string][]*Own{}
	for i := range events {
		e := &events[i]
		if _, there := byTenant[e.TenantID]; !there {
			tenants = append(tenants, e.TenantID)
		}
		byTenant[e.TenantID] = append(byTenant[e.TenantID], e)
	}
	return tenants, byTenant
}

// invalid says what is wrong with an event, empty if nothing is.
func (e *Own) invalid() string {
	for _, f := range []struct {
		name, text string
		maxBytes   int
	}{
		{"tenant", e.TenantID, maxTenantBytes}, {"id", e.ID, scan.MaxIDBytes},
		{"type", e.Type, scan.MaxTypeBytes}, {"source", e.Source, scan.MaxSourceBytes},
	} {
		switch {
		case f.text == "":
			return "its " + f.name + " is empty; give one"
		case len(f.text) > f.maxBytes:
			return fmt.Sprintf("its %s has %d bytes; give at most %d", f.name, len(f.text), f.maxBytes)
		case !utf8.ValidString(f.text) || strings.IndexByte(f.text, 0) >= 0:
			return "its " + f.name + " has a NUL or is not UTF-8; leave such bytes out"
		}
	}
	switch {
	case !strings.HasPrefix(e.Source, OwnSourcePrefix):
		return fmt.Sprintf("its source is %q; it must begin with %q", e.Source, OwnSourcePrefix)
	case e.Timestamp.Year() < 1700 || e.Timestamp.Year() > 2200: // Unix nanoseconds hold little more
		return fmt.Sprintf("its time is %s; give when it happened", e.Timestamp.UTC().Format(time.RFC3339))
	case !scan.Valid(e.Payload):
		return "its payload is not valid JSON; give one JSON value in UTF-8"
	case len(e.Payload) > maxOwnPayloadBytes:
		return fmt.Sprintf("its payload has %d bytes; give at most %d", len(e.Payload), maxOwnPayloadBytes)
	case e.Currency == "" && e.Amount != 0:
		return "it has an amount and no currency; give the currency"
	case e.Currency != "" && !isCurrency(e.Currency):
		return fmt.Sprintf("its currency is %q; give three letters A to Z, by ISO 4217", e.Currency)
	}
	return ""
}

// maxTenantBytes is far above what tenants are called.
const maxTenantBytes = 256

func isCurrency(s string) bool {
	return len(s) == 3 && !slices.ContainsFunc([]byte(s), func(c byte) bool { return c < 'A' || c > 'Z' })
}

// isReserved says whether only Millrace itself may name this source.
func isReserved(source []byte) bool {
	return len(source) >= len(OwnSourcePrefix) && string(source[:len(OwnSourcePrefix)]) == OwnSourcePrefix
}

const reasonReservedSource = `"source" begins with "` + OwnSourcePrefix + `", which is reserved for the events that Millrace makes itself: name your own source`
