package sandbox_test

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"millrace/internal/payment"
	"millrace/internal/payment/paymenttest"
	"millrace/internal/payment/sandbox"
)

// memory is a sandbox.Ledger that several Sandboxes of one test share.
type memory struct {
	mu    sync.Mutex
	lines map[sandbox.ChargeID][]sandbox.Line
	began []sandbox.ChargeID
	// before is called before every Append, without the lock; nil for nothing.
	before func([]sandbox.Line) error
	// after fails an Append that took place; nil for nothing.
	after func() error
}

func newMemory() *memory { return &memory{lines: map[sandbox.ChargeID][]sandbox.Line{}} }

func (m *memory) Load(_ context.Context, charges []sandbox.ChargeID) (found []sandbox.Line, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, id := range charges {
		found = append(found, m.lines[id]...)
	}
	return found, nil
}

func (m *memory) Append(_ context.Context, lines []sandbox.Line) error {
	if m.before != nil {
		if err := m.before(lines); err != nil {
			return err
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	next := map[sandbox.ChargeID]int64{}
	for _, l := range lines {
		if next[l.ChargeID] == 0 {
			next[l.ChargeID] = int64(len(m.lines[l.ChargeID]))
		}
		if next[l.ChargeID]++; l.N < next[l.ChargeID] {
			return sandbox.ErrConflict
		} else if l.N > next[l.ChargeID] {
			return fmt.Errorf("record %d of charge %s leaves a gap", l.N, l.Key)
		}
	}
	for _, l := range lines {
		if l.N == 1 {
			m.began = append(m.began, l.ChargeID)
		}
		m.lines[l.ChargeID] = append(m.lines[l.ChargeID], l)
	}
	if m.after != nil {
		return m.after()
	}
	return nil
}

func (m *memory) Page(_ context.Context, tenantID, cursor string, limit int) (page []sandbox.ChargeID, next string, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	from := 0
	if cursor != "" {
		if from, err = strconv.Atoi(cursor); err != nil {
			return nil, "", sandbox.ErrBadCursor
		}
	}
	for ; from < len(m.began) && len(page) < limit; from++ {
		if id := m.began[from]; tenantID == "" || id.TenantID == tenantID {
			page = append(page, id)
		}
	}
	if from < len(m.began) {
		next = strconv.Itoa(from)
	}
	return page, next, nil
}

// amounts returns those of the records of one kind of a charge.
func (m *memory) amounts(op, key string) (amounts []int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, l := range m.lines[sandbox.ChargeID{TenantID: "demo", Key: key}] {
		var r struct {
			Op     string
			Amount int64
		}
		if err := json.Unmarshal(l.Record, &r); err != nil {
			panic(err)
		}
		if r.Op == op {
			amounts = append(amounts, r.Amount)
		}
	}
	return amounts
}

func TestConformanceWithASharedLedger(t *testing.T) {
	paymenttest.Run(t, func(t testing.TB) paymenttest.Subject {
		m := newMemory()
		return paymenttest.Subject{
			Provider: open(t, sandbox.Options{Ledger: m}),
			OK:       sandbox.TokenOK, Declined: sandbox.TokenDeclined, DeclineReason: "card_declined",
			TimeoutCaptured: sandbox.TokenTimeoutCaptured, Timeout: sandbox.TokenTimeout,
			Captures: func(key string) int { return len(m.amounts("capture", key)) },
			Refunded: func(key string) (sum int64) {
				for _, amount := range m.amounts("refund", key) {
					sum += amount
				}
				return sum
			},
		}
	})
}

func TestOfTwoProcessesThatDecideAtOnceTheSecondDecidesAgain(t *testing.T) {
	for _, c := range []struct {
		name string
		// other is what the second process is asked for between the deciding of the first
		// and its writing.
		other func(ctx context.Context, s *sandbox.Sandbox) error
		want  payment.State
	}{
		{"the same charge", func(ctx context.Context, s *sandbox.Sandbox) error {
			_, err := s.Charge(ctx, request("k1", sandbox.TokenOK))
			return err
		}, payment.StateCaptured},
		{"its void", func(ctx context.Context, s *sandbox.Sandbox) error {
			_, err := s.Void(ctx, request("k1", sandbox.TokenOK))
			return err
		}, payment.StateVoided},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := newMemory()
			first, second := open(t, sandbox.Options{Ledger: m}), open(t, sandbox.Options{Ledger: m})
			ctx := timeout(t, time.Minute)
			m.before = func([]sandbox.Line) error {
				m.before = nil
				return c.other(ctx, second)
			}
			got, err := first.Charge(ctx, request("k1", sandbox.TokenOK))
			if err != nil || got.State != c.want {
				t.Errorf("the first: %+v, %v; want %s", got, err, c.want)
			}
			if n := len(m.lines[sandbox.ChargeID{TenantID: "demo", Key: "k1"}]); n != 1 {
				t.Errorf("the charge has %d records, want one", n)
			}
			again, err := second.Lookup(ctx, request("k1", sandbox.TokenOK))
			if err != nil || again != got {
				t.Errorf("the second sees %+v, %v; the first %+v", again, err, got)
			}
		})
	}
}

func TestWhoIsNeverFirstIsToldThatNothingWasDone(t *testing.T) {
	m := newMemory()
	s := open(t, sandbox.Options{Ledger: m})
	m.before = func([]sandbox.Line) error { return sandbox.ErrConflict }
	if _, err := s.Charge(timeout(t, time.Minute), request("k1", sandbox.TokenOK)); !errors.Is(err, payment.ErrUnavailable) {
		t.Errorf("got %v, want ErrUnavailable", err)
	}
	m.before = nil
	wantState(t, s, "k1", sandbox.TokenOK, payment.StateNone)
}

func TestAnAppendWithoutAnAnswerMayHaveCaptured(t *testing.T) {
	m := newMemory()
	s := open(t, sandbox.Options{Ledger: m})
	m.after = func() error {
		m.after = nil
		return errors.New("the connection is gone")
	}
	var rejected *payment.RejectedError
	_, err := s.Charge(timeout(t, time.Minute), request("k1", sandbox.TokenOK))
	if err == nil || errors.Is(err, payment.ErrUnavailable) || errors.As(err, &rejected) {
		t.Errorf("got %v, want an error that leaves it open", err)
	}
	wantState(t, s, "k1", sandbox.TokenOK, payment.StateCaptured)
}

func TestAFlakyChargeCountsItsCallsOnceWhateverOthersWrite(t *testing.T) {
	m := newMemory()
	s := open(t, sandbox.Options{Ledger: m})
	ctx := timeout(t, time.Minute)
	conflicts := 0
	m.before = func([]sandbox.Line) error {
		if conflicts++; conflicts%2 == 1 {
			return sandbox.ErrConflict
		}
		return nil
	}
	for call := 1; call <= 3; call++ {
		// Something else in the same batch writes, and so makes it decide twice.
		var wg sync.WaitGroup
		wg.Go(func() {
			if _, err := s.Charge(ctx, request(fmt.Sprint("other", call), sandbox.TokenOK)); err != nil {
				t.Error(err)
			}
		})
		_, err := s.Charge(ctx, request("k1", sandbox.TokenFlaky))
		wg.Wait()
		if (err == nil) != (call == 3) {
			t.Errorf("call %d: %v", call, err)
		}
	}
}

func TestTheListOfASharedLedgerHasWhatAllProcessesDid(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory()
		shops := []*sandbox.Sandbox{open(t, sandbox.Options{Ledger: m}), open(t, sandbox.Options{Ledger: m})}
		ctx := timeout(t, time.Minute)
		for i := range 7 {
			if _, err := shops[i%2].Charge(ctx, request(fmt.Sprint("k", i), sandbox.TokenOK)); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Millisecond)
		}
		late, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		if _, err := shops[0].Charge(late, request("late", sandbox.TokenLate)); err == nil {
			t.Fatal("a late charge was answered")
		}
		time.Sleep(time.Minute / 2) // it is captured now, which nobody has written down
		var all []sandbox.Charge
		cursor := ""
		for pages := 0; pages == 0 || cursor != ""; pages++ {
			page, next, err := shops[1].Charges(ctx, "demo", cursor, 3)
			if err != nil || pages > 10 {
				t.Fatal(err, pages)
			}
			all, cursor = append(all, page...), next
		}
		if len(all) != 8 || !slices.IsSortedFunc(all, func(a, b sandbox.Charge) int { return cmp.Or(a.At.Compare(b.At), strings.Compare(a.Key, b.Key)) }) {
			t.Errorf("the list: %+v", all)
		}
		refs := map[string]bool{}
		for _, c := range all {
			refs[c.Ref] = true
			if c.State != payment.StateCaptured {
				t.Errorf("%s is %s", c.Key, c.State)
			}
		}
		if len(refs) != len(all) {
			t.Errorf("%d charges have %d references", len(all), len(refs))
		}
		if _, _, err := shops[1].Charges(ctx, "", "no cursor", 3); !errors.Is(err, sandbox.ErrBadCursor) {
			t.Errorf("a cursor it never gave: %v", err)
		}
	})
}
