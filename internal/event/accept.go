package event

import (
	"context"
	"errors"
	"slices"
	"time"
	"unsafe"

	"github.com/google/uuid"

	"millrace/internal/event/dedupe"
	"millrace/internal/event/scan"
)

// submission is the working memory of one submission, reused between them. Its
// indexes count events in the order of the body.
type submission struct {
	scanner  *scan.Scanner
	tenantID string
	batchID  batchID
	format   scan.Format
	events   []scan.Event
	hooked   [1]scan.Event // the event of a webhook
	// mustSync asks for the log even where the ack mode would not wait for it.
	mustSync bool
	// given holds the text of the ids the server gave, and isGiven says to which
	// events: such an id is new for certain. Both are empty if it gave none.
	given   []byte
	isGiven []bool
	valid   []int // events that were not rejected
	hashes  []Hash
	found   []dedupe.Found
	claimed []int // the event of each claimed hash
	fresh   []freshEvent
	waiting []waiter
	dead    []deadEntry
	record  []byte
}

// freshEvent is an event that goes into the next record.
type freshEvent struct {
	event int
	hash  Hash
}

// waiter is an event that another submission has claimed and not yet settled.
type waiter struct {
	event int
	claim *dedupe.Claim
}

func (s *submission) reset() {
	// Nothing here may keep a body, or a claim, alive.
	s.scanner.Reset()
	clear(s.found[:cap(s.found)])
	clear(s.waiting[:cap(s.waiting)])
	clear(s.dead[:cap(s.dead)])
	*s = submission{
		scanner: s.scanner, given: s.given[:0], isGiven: s.isGiven[:0], valid: s.valid[:0], hashes: s.hashes[:0],
		found: s.found[:0], claimed: s.claimed[:0], fresh: s.fresh[:0], waiting: s.waiting[:0],
		dead: s.dead[:0], record: s.record[:0],
	}
}

// accept brings the scanned events of a submission into the log.
//
// Each round claims the ids of the events that are still open, appends the ones
// that are new as one record, settles the claim, and only then waits for the
// ones that other submissions have claimed. Where such a claim failed, its
// events are open again for the next round.
func (in *Ingester) accept(ctx context.Context, s *submission) (Receipt, error) {
	receipt := Receipt{BatchID: uuid.UUID(s.batchID).String()}
	s.sort(&receipt)
	receipt.Accepted = len(s.valid)
	kept := false
	var upTo uint64 // one past the last record the receipt speaks of
	for open := s.valid; len(open) > 0 || len(s.dead) > 0; {
		claim := in.claim(s, open, &receipt)
		writes := s.writes()
		pos, refusal := in.appendClaimed(ctx, s, claim, kept)
		if refusal != nil {
			return Receipt{}, refusal
		}
		kept = kept || writes
		upTo = max(upTo, pos)
		var err error
		if open, err = in.await(ctx, s, &receipt); err != nil {
			return Receipt{}, err
		}
	}
	if in.o.Ack == AckStore {
		if receipt.Duplicates > 0 {
			upTo = in.o.Log.Next() // the originals are somewhere below
		}
		if err := in.awaitStore(ctx, upTo); err != nil {
			return Receipt{}, err
		}
	}
	s.fillIDs(&receipt)
	in.o.Metrics.accepted.Add(float64(receipt.Accepted - receipt.Duplicates))
	in.o.Metrics.duplicates.Add(float64(receipt.Duplicates))
	in.o.Metrics.rejected.Add(float64(len(receipt.Rejected)))
	return receipt, nil
}

// appendClaimed writes the fresh events and the dead entries as one record,
// settles the claim with the outcome, and returns the sequence after the record.
// Without any it settles and does nothing. Others wait for the claim, so it is
// settled in a panic too.
func (in *Ingester) appendClaimed(ctx context.Context, s *submission, claim *dedupe.Claim, kept bool) (next uint64, refusal *Unavailable) {
	var outcome error = &Unavailable{Reason: "outcome-unknown", Unknown: true, RetryAfter: time.Second,
		Detail: "the server failed while it was writing these events; it is safe to repeat them with the same ids"}
	later := false
	defer func() {
		if !later {
			claim.Settle(outcome)
		}
	}()
	if !s.writes() {
		outcome = nil
		return 0, nil
	}
	s.encode()
	s.dead = s.dead[:0]
	var err error
	switch {
	case in.o.Ack == AckStream:
		err, later = in.appendPatient(ctx, s.record, claim), true
	case in.o.Ack == AckMemory && !s.mustSync:
		err = in.o.Log.AppendAsync(s.record, func(err error) { claim.Settle(err) })
		later = err == nil
	default:
		var pos Position
		pos, err = in.o.Log.Append(s.record)
		next = pos.Seq + 1
	}
	if err != nil {
		refusal = in.partial(in.refuse(err), kept)
		outcome = refusal
		return 0, refusal
	}
	outcome = nil
	return next, nil
}

// appendPatient writes a record to a log on other machines. While nobody knows
// whether that has it, the claim stays open: who repeats the events meanwhile
// waits for the same outcome, and makes no second copy.
func (in *Ingester) appendPatient(ctx context.Context, record []byte, claim *dedupe.Claim) error {
	ctx, cancel := context.WithTimeout(ctx, in.o.StreamAckTimeout)
	defer cancel()
	return in.patient.AppendWithin(ctx, record, func(err error) { claim.Settle(err) })
}

// writes says whether there is something to write in this round.
func (s *submission) writes() bool { return len(s.fresh) > 0 || len(s.dead) > 0 }

const reasonForeignTenant = `"tenantId" names another tenant than the credential: leave it out, or use a credential of that tenant`

// refusal says why an event that is well formed may not come from this caller,
// empty if it may.
func (s *submission) refusal(e *scan.Event) string {
	switch {
	case len(e.TenantID) > 0 && string(e.TenantID) != s.tenantID:
		return reasonForeignTenant
	case isReserved(e.Source):
		return reasonReservedSource
	}
	return ""
}

// sort parts the valid events from the rejected ones and gives ids where there
// are none.
func (s *submission) sort(receipt *Receipt) {
	for i := range s.events {
		e := &s.events[i]
		if e.Reason == "" {
			e.Reason = s.refusal(e)
		}
		if e.Reason == "" {
			s.valid = append(s.valid, i)
			continue
		}
		receipt.Rejected = append(receipt.Rejected, Rejection{Index: i, ID: string(e.ID), Reason: e.Reason})
		s.dead = append(s.dead, deadEntry{kind: deadEvent, format: s.format, reason: e.Reason,
			id: e.ID, typ: e.Type, source: e.Source, payload: e.Raw})
	}
	// Room first: the ids are slices of it.
	const textBytes = 36
	missing := 0
	for _, i := range s.valid {
		if len(s.events[i].ID) == 0 {
			missing++
		}
	}
	if missing == 0 {
		return
	}
	s.isGiven = append(s.isGiven, make([]bool, len(s.events))...)
	if cap(s.given) < missing*textBytes {
		s.given = make([]byte, 0, missing*textBytes)
	}
	for _, i := range s.valid {
		if e := &s.events[i]; len(e.ID) == 0 {
			text, _ := newUUID().MarshalText()
			at := len(s.given)
			s.given = append(s.given, text...)
			e.ID = s.given[at:len(s.given):len(s.given)]
			s.isGiven[i] = true
		}
	}
}

// claim claims the ids of the open events and sorts them into fresh and waiting.
// Without a window every event is fresh and the claim is nil.
func (in *Ingester) claim(s *submission, open []int, receipt *Receipt) *dedupe.Claim {
	s.hashes, s.claimed = s.hashes[:0], s.claimed[:0]
	s.fresh, s.waiting = s.fresh[:0], s.waiting[:0]
	for _, i := range open {
		e := &s.events[i]
		h := HashOf(s.tenantID, aliasString(e.Source), aliasString(e.ID))
		if in.o.Window == nil || len(s.isGiven) > 0 && s.isGiven[i] {
			s.fresh = append(s.fresh, freshEvent{i, h})
			continue
		}
		s.hashes = append(s.hashes, h)
		s.claimed = append(s.claimed, i)
	}
	if cap(s.found) < len(s.hashes) {
		s.found = make([]dedupe.Found, len(s.hashes))
	}
	s.found = s.found[:len(s.hashes)]
	if in.o.Window == nil {
		return nil
	}
	claim := in.o.Window.Claim(s.hashes, s.found, in.o.Now())
	for k, f := range s.found {
		switch {
		case !f.Duplicate:
			s.fresh = append(s.fresh, freshEvent{s.claimed[k], s.hashes[k]})
		case f.Pending != nil:
			s.waiting = append(s.waiting, waiter{s.claimed[k], f.Pending})
		default:
			receipt.Duplicates++
		}
	}
	if len(s.isGiven) > 0 {
		// Keep the order of the batch also where only some events had an id.
		slices.SortFunc(s.fresh, func(a, b freshEvent) int { return a.event - b.event })
	}
	return claim
}

func (s *submission) encode() {
	s.record = appendRecordHeader(s.record[:0], s.batchID, s.tenantID, len(s.fresh), len(s.dead))
	for _, f := range s.fresh {
		s.record = appendRecordEvent(s.record, f.hash, &s.events[f.event])
	}
	for i := range s.dead {
		s.record = appendRecordDead(s.record, &s.dead[i])
	}
}

// await waits for the events other submissions have claimed and returns the
// ones that are open again because that failed.
func (in *Ingester) await(ctx context.Context, s *submission, receipt *Receipt) (open []int, err error) {
	if in.o.Ack == AckStream && len(s.waiting) > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, in.o.StreamAckTimeout)
		defer cancel()
	}
	for _, w := range s.waiting {
		outcome, ctxErr := w.claim.Wait(ctx)
		if ctxErr != nil {
			return nil, &Unavailable{Reason: "outcome-unknown", Unknown: true, RetryAfter: time.Second, Err: ctxErr,
				Detail: "the same events are being written by another request that has not ended; repeat them with the same ids"}
		}
		var refusal *Unavailable
		switch {
		case outcome == nil:
			receipt.Duplicates++
		case errors.As(outcome, &refusal) && refusal.Unknown:
			return nil, refusal
		case errors.Is(outcome, ErrLogUnknown):
			return nil, in.refuse(outcome)
		default:
			open = append(open, w.event)
		}
	}
	return open, nil
}

// partial marks a refusal that comes after an earlier round kept some events.
func (in *Ingester) partial(u *Unavailable, kept bool) *Unavailable {
	if kept && !u.Unknown {
		u.Unknown = true
		u.Detail = "some of these events were kept and some were not (" + u.Detail + "); it is safe to repeat them with the same ids"
	}
	return u
}

func (in *Ingester) awaitStore(ctx context.Context, upTo uint64) error {
	ctx, cancel := context.WithTimeout(ctx, in.o.StoreAckTimeout)
	defer cancel()
	if err := in.o.Commits.WaitCommitted(ctx, upTo); err != nil {
		in.o.Metrics.refused("store-timeout")
		return &Unavailable{Reason: "store-timeout", Unknown: true, RetryAfter: 5 * time.Second, Err: err,
			Detail: "the events are safe in the log but the database has not confirmed them in time; it is safe to repeat them with the same ids"}
	}
	return nil
}

// fillIDs lists the ids of the accepted events if the server gave any of them.
func (s *submission) fillIDs(receipt *Receipt) {
	if len(s.isGiven) == 0 {
		return
	}
	receipt.IDs = make([]string, len(s.valid))
	for k, i := range s.valid {
		receipt.IDs[k] = string(s.events[i].ID)
	}
}

// aliasString is b as a string that must not outlive it.
func aliasString(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }
