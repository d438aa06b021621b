package postgres

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"millrace/internal/payment"
	"millrace/internal/payment/paymenttest"
	"millrace/internal/payment/sandbox"
)

func openSandbox(t testing.TB, db *DB) *sandbox.Sandbox {
	t.Helper()
	s, err := sandbox.Open(sandbox.Options{Ledger: db.SandboxLedger()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// recorded returns the amounts of a charge's records of one kind.
func recorded(t testing.TB, db *DB, op, key string) (amounts []int64) {
	t.Helper()
	lines, err := db.SandboxLedger().Load(t.Context(), []sandbox.ChargeID{{TenantID: "demo", Key: key}})
	if err != nil {
		t.Fatal(err)
	}
	for i, l := range lines {
		var r struct {
			Op     string
			Amount int64
		}
		if err := json.Unmarshal(l.Record, &r); err != nil {
			t.Fatal(err)
		}
		if l.N != int64(i+1) {
			t.Errorf("record %d of %s has the number %d", i+1, key, l.N)
		}
		if r.Op == op {
			amounts = append(amounts, r.Amount)
		}
	}
	return amounts
}

func TestTheSandboxConformsOnTheSharedLedger(t *testing.T) {
	paymenttest.Run(t, func(t testing.TB) paymenttest.Subject {
		db := openTest(t)
		return paymenttest.Subject{
			Provider: openSandbox(t, db),
			OK:       sandbox.TokenOK, Declined: sandbox.TokenDeclined, DeclineReason: "card_declined",
			TimeoutCaptured: sandbox.TokenTimeoutCaptured, Timeout: sandbox.TokenTimeout,
			Captures: func(key string) int { return len(recorded(t, db, "capture", key)) },
			Refunded: func(key string) (sum int64) {
				for _, amount := range recorded(t, db, "refund", key) {
					sum += amount
				}
				return sum
			},
		}
	})
}

func charge(key string) payment.Request {
	return payment.Request{TenantID: "demo", OrderID: "order-" + key, Key: key, Token: sandbox.TokenOK, Amount: 999, Currency: "EUR"}
}

func TestTwoInstancesAskedForTheSameChargesCaptureEachOnce(t *testing.T) {
	const charges, callers = 60, 10
	dsn := freshDatabase(t)
	var dbs []*DB
	var banks []*sandbox.Sandbox
	for i := range 2 {
		dbs = append(dbs, openAt(t, Options{DSN: dsn, Instance: fmt.Sprint("shop-", i)}))
		banks = append(banks, openSandbox(t, dbs[i]))
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var mu sync.Mutex
	refs := map[string]string{} // by key
	var wg sync.WaitGroup
	for caller := range callers {
		wg.Go(func() {
			for i := range charges {
				// Half of them go through from the other end, and every third is voided by
				// somebody: then it is captured or voided, and not both.
				k := i
				if caller%2 == 1 {
					k = charges - 1 - i
				}
				key := fmt.Sprint("k", k)
				c, err := payment.Charge{}, error(nil)
				for try := 0; try == 0 || errors.Is(err, payment.ErrUnavailable) && try < 100; try++ {
					if caller < 2 && k%3 == 0 {
						c, err = banks[caller%2].Void(ctx, charge(key))
					} else {
						c, err = banks[caller%2].Charge(ctx, charge(key))
					}
				}
				if err != nil {
					t.Errorf("%s: %v", key, err)
					return
				}
				mu.Lock()
				said := fmt.Sprint(c.State, " ", c.Ref)
				if refs[key] != "" && refs[key] != said {
					t.Errorf("%s is %s for one and %s for another", key, refs[key], said)
				}
				refs[key] = said
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	for k := range charges {
		key := fmt.Sprint("k", k)
		if n, m := len(recorded(t, dbs[0], "capture", key)), len(recorded(t, dbs[0], "void", key)); n+m != 1 {
			t.Errorf("%s was captured %d times and voided %d times", key, n, m)
		}
	}
	// Refunds of one charge by both never exceed it.
	c := charge("refunded")
	if _, err := banks[0].Charge(ctx, c); err != nil {
		t.Fatal(err)
	}
	for i := range 20 {
		wg.Go(func() {
			_, err := banks[i%2].Refund(ctx, payment.RefundRequest{TenantID: "demo", OrderID: c.OrderID, ChargeKey: c.Key, Key: fmt.Sprint("r", i), Amount: 100, Currency: "EUR"})
			var rejected *payment.RejectedError
			if err != nil && !errors.As(err, &rejected) && !errors.Is(err, payment.ErrUnavailable) {
				t.Errorf("a refund: %v", err)
			}
		})
	}
	wg.Wait()
	if n := len(recorded(t, dbs[1], "refund", c.Key)); n > 9 || n == 0 {
		t.Errorf("%d refunds of 100 were made of a charge of 999", n)
	}
}

func TestTheLedgerListsChargesInTheOrderInWhichTheyBegan(t *testing.T) {
	db := openTest(t)
	l := db.SandboxLedger()
	var want []sandbox.ChargeID
	for i := range 25 {
		id := sandbox.ChargeID{TenantID: []string{"demo", "other"}[i%2], Key: fmt.Sprintf("k\x00%02d", 24-i)}
		at := time.Unix(0, int64(1_000+i/3)) // some at the same time
		err := l.Append(t.Context(), []sandbox.Line{{ChargeID: id, N: 2, At: at.Add(1), Record: []byte(`{}`)}, {ChargeID: id, N: 1, At: at, Record: []byte(`{}`)}})
		if err != nil {
			t.Fatal(err)
		}
		if id.TenantID == "demo" {
			want = append(want, id)
		}
	}
	var got []sandbox.ChargeID
	cursor := ""
	for pages := 0; pages == 0 || cursor != ""; pages++ {
		page, next, err := l.Page(t.Context(), "demo", cursor, 4)
		if err != nil || pages > 10 {
			t.Fatal(err, pages)
		}
		got, cursor = append(got, page...), next
	}
	byTime := map[sandbox.ChargeID]int{}
	for i, id := range want {
		byTime[id] = i
	}
	if len(got) != len(want) {
		t.Fatalf("%d charges, want %d", len(got), len(want))
	}
	for i, id := range got {
		if at, there := byTime[id]; !there || at-i > 2 || i-at > 2 {
			t.Errorf("charge %d is %v", i, id)
		}
	}
	for _, cursor := range []string{"x", "!", "YWJj", "MQ"} {
		if _, _, err := l.Page(t.Context(), "", cursor, 4); !errors.Is(err, sandbox.ErrBadCursor) {
			t.Errorf("cursor %q: %v", cursor, err)
		}
	}
	lines, err := l.Load(t.Context(), []sandbox.ChargeID{want[0], {TenantID: "none", Key: "none"}})
	if err != nil || len(lines) != 2 {
		t.Fatalf("the records of one: %v, %v", lines, err)
	}
	if diff := cmp.Diff([]int64{1, 2}, []int64{lines[0].N, lines[1].N}); diff != "" {
		t.Error(diff)
	}
	conflict := []sandbox.Line{{ChargeID: sandbox.ChargeID{TenantID: "demo", Key: "new"}, N: 1, Record: []byte(`{}`)}, {ChargeID: want[0], N: 2, Record: []byte(`{}`)}}
	if err := l.Append(t.Context(), conflict); !errors.Is(err, sandbox.ErrConflict) {
		t.Errorf("a number that is taken: %v, want ErrConflict", err)
	}
	if lines, err := l.Load(t.Context(), []sandbox.ChargeID{conflict[0].ChargeID}); err != nil || len(lines) != 0 {
		t.Errorf("after the conflict: %v, %v", lines, err)
	}
}
