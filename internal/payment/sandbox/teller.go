package sandbox

import (
	"errors"
	"fmt"
	"strconv"
	"time"

	"millrace/internal/coalesce"
	"millrace/internal/payment"
)

// question is one operation on the book, and answer what came of it.
type question struct {
	kind   kind
	charge payment.Request
	refund payment.RefundRequest

	// Of askList:
	tenant string
	from   int    // by a file
	cursor string // by a shared ledger
	limit  int
	page   []ChargeID // the charges to list, and the cursor after them, once that is known
	next   string
}

type kind int

const (
	askCharge kind = iota
	askLookup
	askVoid
	askRefund
	askList
)

type answer struct {
	charge payment.Charge
	// first says that this call began the charge, due when it captures if later.
	first bool
	due   time.Time

	refund payment.Refund
	list   []Charge
	next   string
}

// teller decides by the book. Everything, reading too, goes through it batch by
// batch: so nobody reads what is not durable yet, and every decision sees all
// decisions before it. It is called by the coalescer's goroutine alone.
type teller struct {
	book     *book
	record   func(record) error // keeps what was applied to the book
	now      func() time.Time
	slow     time.Duration
	late     time.Duration
	failures map[entryKey]int // of calls with TokenFlaky, by this process
}

// alone answers questions by a file that is its own: the book has all charges.
type alone struct {
	*teller
	ledger *fileLedger
	lines  []byte // of the running batch
	broken error  // the ledger cannot be trusted any more
}

func newAlone(t *teller, path string) (*alone, error) {
	a := &alone{teller: t}
	t.book, t.record = newBook(), a.add
	var err error
	a.ledger, err = openFile(path, t.book.apply)
	return a, err
}

type call = coalesce.Call[question, answer]

func (t *alone) serve(calls []*call) {
	defer func() {
		if v := recover(); v != nil { // the book may hold what the ledger does not
			t.broken = fmt.Errorf("a defect: %v", v)
			panic(v)
		}
	}()
	t.lines = t.lines[:0]
	now := t.now()
	for _, c := range calls {
		if t.broken != nil {
			break
		}
		c.Out, c.Err = t.decide(c.In, now)
	}
	if t.broken == nil && len(t.lines) > 0 {
		if err := t.ledger.append(t.lines); err != nil {
			t.broken = err
		}
	}
	if t.broken != nil {
		for _, c := range calls {
			c.Out, c.Err = answer{}, fmt.Errorf("the sandbox cannot write its ledger and takes nothing until it is opened again: %w", t.broken)
		}
	}
}

// write applies a record and keeps it.
func (t *teller) write(r record) error {
	if err := t.book.apply(r); err != nil {
		return fmt.Errorf("the sandbox's book: %w", err)
	}
	return t.record(r)
}

// add puts a record, which was applied already, into the running batch.
func (t *alone) add(r record) error {
	lines, err := encodeLine(t.lines, r)
	if err != nil {
		t.broken = err
		return err
	}
	t.lines = lines
	return nil
}

func (t *teller) decide(q question, now time.Time) (answer, error) {
	switch q.kind {
	case askList:
		return t.list(q, now)
	case askRefund:
		return t.refund(q.refund, now)
	}
	e := t.book.find(q.charge.TenantID, q.charge.Key)
	if err := t.settle(e, now); err != nil {
		return answer{}, err
	}
	switch q.kind {
	case askCharge:
		return t.charge(e, q.charge, now)
	case askVoid:
		return t.void(e, q.charge, now)
	default:
		return answer{charge: e.charge()}, nil
	}
}

// settle captures a pending charge whose time has come. Nothing else needs to
// watch the clock: whoever asks comes by here first.
func (t *teller) settle(e *entry, now time.Time) error {
	if e == nil || e.state != payment.StatePending || now.UnixNano() < e.due {
		return nil
	}
	return t.write(record{Op: opCapture, At: e.due, TenantID: e.tenant, Key: e.key})
}

func (t *teller) charge(e *entry, r payment.Request, now time.Time) (answer, error) {
	if e != nil {
		if err := e.differs(r); err != nil {
			return answer{}, err
		}
		a := answer{charge: e.charge()}
		if e.state == payment.StatePending {
			a.due = time.Unix(0, e.due)
		}
		return a, nil
	}
	b, known := behaviourOf(r.Token)
	switch {
	case !known:
		return answer{}, &payment.RejectedError{Code: "invalid_token", Detail: "the sandbox knows no such payment token; tok_ok captures"}
	case !b.records:
		return answer{charge: payment.Charge{State: payment.StateNone}, first: true}, nil
	case !t.passes(r, b.failures):
		return answer{}, errors.New("sandbox: the connection was reset, as tok_flaky asks for")
	}
	rec := t.book.first(opCapture, r, now)
	var due time.Time
	switch {
	case b.declined != "":
		rec.Op, rec.Reason = opDecline, b.declined
	case b.delayed == slowDelay:
		due = now.Add(t.slow)
	case b.delayed == lateDelay:
		due = now.Add(t.late)
	}
	if !due.IsZero() {
		rec.Op, rec.Due = opAccept, due.UnixNano()
	}
	if err := t.write(rec); err != nil {
		return answer{}, err
	}
	return answer{charge: t.book.find(r.TenantID, r.Key).charge(), first: true, due: due}, nil
}

// maxFailures bounds the charges whose failed calls are counted. Beyond it the
// counts are forgotten, so that some charges fail more often.
const maxFailures = 10_000

// passes counts the calls of a charge that fails a few times.
func (t *teller) passes(r payment.Request, failures int) bool {
	if failures == 0 {
		return true
	}
	k := entryKey{r.TenantID, r.Key}
	if t.failures[k] >= failures {
		delete(t.failures, k)
		return true
	}
	if len(t.failures) >= maxFailures {
		clear(t.failures)
	}
	t.failures[k]++
	return false
}

func (t *teller) void(e *entry, r payment.Request, now time.Time) (answer, error) {
	var rec record
	switch {
	case e == nil:
		rec = t.book.first(opVoid, r, now)
	case e.state == payment.StatePending:
		rec = record{Op: opVoid, At: now.UnixNano(), TenantID: r.TenantID, Key: r.Key}
	default:
		return answer{charge: e.charge()}, nil
	}
	if err := t.write(rec); err != nil {
		return answer{}, err
	}
	return answer{charge: t.book.find(r.TenantID, r.Key).charge()}, nil
}

func (t *teller) refund(r payment.RefundRequest, now time.Time) (answer, error) {
	e := t.book.find(r.TenantID, r.ChargeKey)
	if err := t.settle(e, now); err != nil {
		return answer{}, err
	}
	if e == nil || e.state != payment.StateCaptured {
		return answer{}, &payment.RejectedError{Code: "charge_not_captured", Detail: "there is nothing to refund: the charge is " + string(e.charge().State)}
	}
	for _, done := range e.refunds {
		if done.Key != r.Key {
			continue
		}
		if done.Amount != r.Amount || e.currency != r.Currency {
			return answer{}, &payment.RejectedError{Code: "idempotency_mismatch", Detail: "the key was used for a refund of another amount or currency"}
		}
		return answer{refund: payment.Refund{Ref: done.Ref, Amount: done.Amount}}, nil
	}
	switch {
	case e.token == TokenRefundFails:
		return answer{}, &payment.RejectedError{Code: "refund_failed", Detail: "charges with tok_refund_fails cannot be refunded"}
	case e.currency != r.Currency:
		return answer{}, &payment.RejectedError{Code: "currency_mismatch", Detail: fmt.Sprintf("the charge is in %s, the refund in %s", e.currency, r.Currency)}
	case r.Amount > e.amount-e.refunded:
		return answer{}, &payment.RejectedError{Code: "amount_too_large", Detail: fmt.Sprintf("%d was asked for, %d of %d is left", r.Amount, e.amount-e.refunded, e.amount)}
	}
	ref := t.book.ref("re_", r.TenantID, r.Key, t.book.refunds+1)
	if err := t.write(record{Op: opRefund, At: now.UnixNano(), TenantID: r.TenantID, Key: r.ChargeKey, Amount: r.Amount, Ref: ref, RefundKey: r.Key}); err != nil {
		return answer{}, err
	}
	return answer{refund: payment.Refund{Ref: ref, Amount: r.Amount}}, nil
}

// maxScan bounds the charges that one page looks at.
const maxScan = 10_000

func (t *teller) list(q question, now time.Time) (answer, error) {
	if t.book.named {
		return t.listPage(q, now)
	}
	var a answer
	i, end := q.from, min(len(t.book.inOrder), q.from+maxScan)
	for ; i < end && len(a.list) < q.limit; i++ {
		e := t.book.inOrder[i]
		if q.tenant != "" && e.tenant != q.tenant {
			continue
		}
		if err := t.settle(e, now); err != nil {
			return answer{}, err
		}
		a.list = append(a.list, e.listed())
	}
	if i < len(t.book.inOrder) {
		a.next = strconv.Itoa(i)
	}
	return a, nil
}

// listPage lists the charges that a shared ledger has on a page.
func (t *teller) listPage(q question, now time.Time) (answer, error) {
	a := answer{next: q.next}
	for _, id := range q.page {
		e := t.book.find(id.TenantID, id.Key)
		if err := t.settle(e, now); err != nil {
			return answer{}, err
		}
		if e != nil {
			a.list = append(a.list, e.listed())
		}
	}
	return a, nil
}
