package sandbox

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"time"

	"millrace/internal/payment"
)

// record is one line of the ledger: something that happened to a charge.
type record struct {
	Op       op     `json:"op"`
	At       int64  `json:"at"` // Unix ns
	TenantID string `json:"tenant"`
	Key      string `json:"key"` // of the charge

	// Of the first record of a charge:
	OrderID  string `json:"order,omitempty"`
	Token    string `json:"token,omitempty"`
	Amount   int64  `json:"amount,omitempty"` // of a refund too
	Currency string `json:"currency,omitempty"`
	Ref      string `json:"ref,omitempty"`    // of a refund too
	Due      int64  `json:"due,omitempty"`    // of opAccept: when it captures, Unix ns
	Reason   string `json:"reason,omitempty"` // of opDecline

	RefundKey string `json:"refundKey,omitempty"`
}

type op string

const (
	opAccept  op = "accept" // captures later
	opCapture op = "capture"
	opDecline op = "decline"
	opVoid    op = "void"
	opRefund  op = "refund"
)

// book is what the ledger says, in memory. It changes by apply alone. One
// goroutine at a time.
type book struct {
	byKey   map[entryKey]*entry
	inOrder []*entry
	pending map[*entry]struct{}
	refunds int
	// named says that references are made of the keys, since nobody here knows how
	// many charges there are.
	named bool
}

type entryKey struct{ tenant, key string }

type entry struct {
	tenant, order, key, token, currency, ref, reason string
	amount, refunded                                 int64
	at, due                                          int64
	state                                            payment.State
	refunds                                          []Refund
	records                                          int64 // that were applied
}

func newBook() *book {
	return &book{byKey: map[entryKey]*entry{}, pending: map[*entry]struct{}{}}
}

func (b *book) find(tenant, key string) *entry { return b.byKey[entryKey{tenant, key}] }

// apply takes a record into the book. An error says that it cannot follow what is
// there.
func (b *book) apply(r record) error {
	e := b.find(r.TenantID, r.Key)
	if r.Op == opRefund {
		if e == nil || e.state != payment.StateCaptured || r.Amount < 1 || r.Amount > e.amount-e.refunded {
			return fmt.Errorf("a refund of %d has no captured charge with that much left", r.Amount)
		}
		e.refunded += r.Amount
		e.refunds = append(e.refunds, Refund{Key: r.RefundKey, Ref: r.Ref, Amount: r.Amount})
		e.records++
		b.refunds++
		return nil
	}
	if e == nil {
		e = &entry{tenant: r.TenantID, order: r.OrderID, key: r.Key, token: r.Token, currency: r.Currency,
			ref: r.Ref, amount: r.Amount, at: r.At}
		b.byKey[entryKey{r.TenantID, r.Key}] = e
		b.inOrder = append(b.inOrder, e)
	} else if e.state != payment.StatePending || r.Op == opAccept {
		return fmt.Errorf("a charge that is %s cannot be followed by %q", e.state, r.Op)
	}
	delete(b.pending, e)
	switch r.Op {
	case opAccept:
		e.state, e.due = payment.StatePending, r.Due
		b.pending[e] = struct{}{}
	case opCapture:
		e.state = payment.StateCaptured
	case opDecline:
		e.state, e.reason = payment.StateDeclined, r.Reason
	case opVoid:
		e.state = payment.StateVoided
	default:
		return fmt.Errorf("the record %q is unknown", r.Op)
	}
	e.records++
	return nil
}

// first returns the record that begins a charge.
func (b *book) first(o op, r payment.Request, now time.Time) record {
	return record{Op: o, At: now.UnixNano(), TenantID: r.TenantID, Key: r.Key, OrderID: r.OrderID, Token: r.Token,
		Amount: r.Amount, Currency: r.Currency, Ref: b.ref("ch_", r.TenantID, r.Key, len(b.inOrder)+1)}
}

// ref returns the sandbox's own id of a charge or refund.
func (b *book) ref(prefix, tenant, key string, number int) string {
	if !b.named {
		return prefix + strconv.Itoa(number)
	}
	sum := sha256.Sum256([]byte(tenant + "\x00" + key))
	return prefix + hex.EncodeToString(sum[:12])
}

func (e *entry) charge() payment.Charge {
	if e == nil {
		return payment.Charge{State: payment.StateNone}
	}
	c := payment.Charge{State: e.state, Ref: e.ref, Refunded: e.refunded, Reason: e.reason}
	if e.state == payment.StateCaptured {
		c.Captured = e.amount
	}
	return c
}

// differs says that the key was used for another request. It is no RejectedError:
// there is a charge with this key, which may be captured.
func (e *entry) differs(r payment.Request) error {
	if e.order == r.OrderID && e.token == r.Token && e.amount == r.Amount && e.currency == r.Currency {
		return nil
	}
	return errors.New("sandbox: idempotency_mismatch: the key was used for a charge with another order, token, amount or currency: look that charge up")
}

// Charge is a charge as the ledger has it, for reconciliation.
type Charge struct {
	TenantID, OrderID string
	// Key is the charge's idempotency key, Ref the sandbox's own id.
	Key, Ref string
	// State is never StateNone.
	State payment.State
	// Amount is what was asked for, in minor units: it moved only if State is
	// StateCaptured. Refunded is the sum of the Refunds.
	Amount, Refunded int64
	Currency         string
	// Reason says why it was declined.
	Reason  string
	Refunds []Refund
	// At is when the sandbox first heard of it.
	At time.Time
}

// Refund is one refund of a Charge.
type Refund struct {
	Key, Ref string
	Amount   int64
}

func (e *entry) listed() Charge {
	return Charge{TenantID: e.tenant, OrderID: e.order, Key: e.key, Ref: e.ref, State: e.state, Amount: e.amount,
		Refunded: e.refunded, Currency: e.currency, Reason: e.reason, Refunds: append([]Refund(nil), e.refunds...),
		At: time.Unix(0, e.at).UTC()}
}
