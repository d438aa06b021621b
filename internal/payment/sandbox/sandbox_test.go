package sandbox_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"millrace/internal/payment"
	"millrace/internal/payment/paymenttest"
	"millrace/internal/payment/sandbox"
)

func open(t testing.TB, o sandbox.Options) *sandbox.Sandbox {
	t.Helper()
	s, err := sandbox.Open(o)
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

func path(t testing.TB) string { return filepath.Join(t.TempDir(), "sandbox.ledger") }

func TestConformance(t *testing.T) {
	paymenttest.Run(t, func(t testing.TB) paymenttest.Subject {
		p := path(t)
		return paymenttest.Subject{
			Provider: open(t, sandbox.Options{Path: p}),
			OK:       sandbox.TokenOK, Declined: sandbox.TokenDeclined, DeclineReason: "card_declined",
			TimeoutCaptured: sandbox.TokenTimeoutCaptured, Timeout: sandbox.TokenTimeout,
			Captures: func(key string) int { return len(recorded(t, p, "capture", key)) },
			Refunded: func(key string) (sum int64) {
				for _, amount := range recorded(t, p, "refund", key) {
					sum += amount
				}
				return sum
			},
		}
	})
}

// recorded returns the amounts of the records of one kind for a charge, read from
// the file itself.
func recorded(t testing.TB, path, op, key string) (amounts []int64) {
	t.Helper()
	file, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(file)) {
		var r struct {
			Op, Key string
			Amount  int64
		}
		if err := json.Unmarshal([]byte(line[9:]), &r); err != nil {
			t.Fatal(err)
		}
		if r.Op == op && r.Key == key {
			amounts = append(amounts, r.Amount)
		}
	}
	return amounts
}

func request(key, token string) payment.Request {
	return payment.Request{TenantID: "demo", OrderID: "order-" + key, Key: key, Token: token, Amount: 999, Currency: "EUR"}
}

func timeout(t testing.TB, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}

func wantState(t testing.TB, s *sandbox.Sandbox, key, token string, want payment.State) {
	t.Helper()
	c, err := s.Lookup(timeout(t, time.Minute), request(key, token))
	if err != nil || c.State != want {
		t.Errorf("%s is %q, %v, want %q", key, c.State, err, want)
	}
}

func TestEveryTokenDoesWhatItsDocumentationSays(t *testing.T) {
	for _, c := range []struct {
		token  string
		want   payment.Charge
		errHas string
		took   time.Duration
		then   payment.State // by Lookup
	}{
		{sandbox.TokenOK, payment.Charge{State: payment.StateCaptured, Ref: "ch_1", Captured: 999}, "", 0, payment.StateCaptured},
		{sandbox.TokenDeclined, payment.Charge{State: payment.StateDeclined, Ref: "ch_1", Reason: "card_declined"}, "", 0, payment.StateDeclined},
		{sandbox.TokenInsufficientFunds, payment.Charge{State: payment.StateDeclined, Ref: "ch_1", Reason: "insufficient_funds"}, "", 0, payment.StateDeclined},
		{sandbox.TokenSlow, payment.Charge{State: payment.StateCaptured, Ref: "ch_1", Captured: 999}, "", 2 * time.Second, payment.StateCaptured},
		{sandbox.TokenTimeoutCaptured, payment.Charge{}, "deadline exceeded", time.Second * 10, payment.StateCaptured},
		{sandbox.TokenTimeout, payment.Charge{}, "deadline exceeded", time.Second * 10, payment.StateNone},
		{sandbox.TokenLate, payment.Charge{}, "deadline exceeded", time.Second * 10, payment.StateCaptured},
		{sandbox.TokenFlaky, payment.Charge{}, "connection was reset", 0, payment.StateNone},
		{sandbox.TokenDown, payment.Charge{}, "503", 0, ""},
		{sandbox.TokenWebhookFirst, payment.Charge{State: payment.StateCaptured, Ref: "ch_1", Captured: 999}, "", 0, payment.StateCaptured},
		{sandbox.TokenRefundFails, payment.Charge{State: payment.StateCaptured, Ref: "ch_1", Captured: 999}, "", 0, payment.StateCaptured},
		{"tok_unheard_of", payment.Charge{}, "invalid_token", 0, payment.StateNone},
	} {
		t.Run(c.token, func(t *testing.T) {
			p := path(t)
			synctest.Test(t, func(t *testing.T) {
				s := open(t, sandbox.Options{Path: p})
				started := time.Now()
				got, err := s.Charge(timeout(t, 10*time.Second), request("k1", c.token))
				if diff := cmp.Diff(c.want, got); diff != "" {
					t.Error(diff)
				}
				if (err == nil) != (c.errHas == "") || err != nil && !strings.Contains(err.Error(), c.errHas) {
					t.Errorf("error %v, want %q", err, c.errHas)
				}
				if took := time.Since(started); took != c.took {
					t.Errorf("it took %v, want %v", took, c.took)
				}
				if c.then != "" {
					wantState(t, s, "k1", c.token, c.then)
				}
			})
		})
	}
}

func TestAFlakyChargeSucceedsAtTheThirdCall(t *testing.T) {
	s := open(t, sandbox.Options{Path: path(t)})
	for call := 1; call <= 4; call++ {
		c, err := s.Charge(timeout(t, time.Minute), request("k1", sandbox.TokenFlaky))
		if ok := err == nil && c.State == payment.StateCaptured; ok != (call >= 3) {
			t.Errorf("call %d: %+v, %v", call, c, err)
		}
	}
}

func TestALateChargeCapturesUnlessItIsVoidedBefore(t *testing.T) {
	p := path(t)
	synctest.Test(t, func(t *testing.T) {
		s := open(t, sandbox.Options{Path: p})
		for _, key := range []string{"captured", "voided"} {
			if _, err := s.Charge(timeout(t, time.Second), request(key, sandbox.TokenLate)); !errors.Is(err, context.DeadlineExceeded) {
				t.Fatal(err)
			}
			wantState(t, s, key, sandbox.TokenLate, payment.StatePending)
		}
		time.Sleep(999 * time.Millisecond) // 2.999 s and 1.999 s after the calls
		wantState(t, s, "captured", sandbox.TokenLate, payment.StatePending)
		c, err := s.Void(timeout(t, time.Second), request("voided", sandbox.TokenLate))
		if err != nil || c.State != payment.StateVoided {
			t.Errorf("void before the capture: %+v, %v", c, err)
		}
		time.Sleep(time.Millisecond)
		wantState(t, s, "captured", sandbox.TokenLate, payment.StateCaptured)
		time.Sleep(time.Hour)
		wantState(t, s, "voided", sandbox.TokenLate, payment.StateVoided)
		c, err = s.Void(timeout(t, time.Second), request("captured", sandbox.TokenLate))
		if err != nil || c.State != payment.StateCaptured {
			t.Errorf("void after the capture: %+v, %v", c, err)
		}
	})
}

func TestASlowChargeGoesOnWhenItsCallerHasLeft(t *testing.T) {
	p := path(t)
	synctest.Test(t, func(t *testing.T) {
		s := open(t, sandbox.Options{Path: p})
		if _, err := s.Charge(timeout(t, time.Second), request("k1", sandbox.TokenSlow)); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatal(err)
		}
		started := time.Now()
		c, err := s.Charge(timeout(t, 10*time.Second), request("k1", sandbox.TokenSlow))
		if err != nil || c.State != payment.StateCaptured || time.Since(started) != time.Second {
			t.Errorf("the second call: %+v, %v after %v, want captured after the second that is left", c, err, time.Since(started))
		}
	})
}

func TestTheWebhookComesBeforeTheAnswerAndTheChargeIsDurableThen(t *testing.T) {
	p := path(t)
	var got []payment.Notice
	var onDisk int
	s := open(t, sandbox.Options{Path: p, Notify: func(n payment.Notice) {
		got = append(got, n)
		onDisk = len(recorded(t, p, "capture", "k1"))
	}})
	for range 2 {
		c, err := s.Charge(timeout(t, time.Minute), request("k1", sandbox.TokenWebhookFirst))
		if err != nil || c.State != payment.StateCaptured {
			t.Fatal(c, err)
		}
		want := []payment.Notice{{TenantID: "demo", OrderID: "order-k1", Key: "k1", Charge: c}}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
	}
	if onDisk != 1 {
		t.Errorf("the ledger had %d captures when the notice came", onDisk)
	}
}

func TestRefundsThatTheTokenOrTheCurrencyForbidAreRefused(t *testing.T) {
	s := open(t, sandbox.Options{Path: path(t)})
	for _, c := range []struct{ token, currency, code string }{
		{sandbox.TokenRefundFails, "EUR", "refund_failed"},
		{sandbox.TokenOK, "USD", "currency_mismatch"},
	} {
		if _, err := s.Charge(timeout(t, time.Minute), request(c.token, c.token)); err != nil {
			t.Fatal(err)
		}
		_, err := s.Refund(timeout(t, time.Minute), payment.RefundRequest{TenantID: "demo", OrderID: "o", ChargeKey: c.token, Key: "r", Amount: 1, Currency: c.currency})
		var rejected *payment.RejectedError
		if !errors.As(err, &rejected) || rejected.Code != c.code {
			t.Errorf("%s in %s: %v, want %s", c.token, c.currency, err, c.code)
		}
	}
}

func TestTheSwitchTakesEverythingDownAndUpAgain(t *testing.T) {
	s := open(t, sandbox.Options{Path: path(t)})
	s.SetDown(true)
	r := request("k1", sandbox.TokenOK)
	_, chargeErr := s.Charge(timeout(t, time.Minute), r)
	_, lookupErr := s.Lookup(timeout(t, time.Minute), r)
	_, voidErr := s.Void(timeout(t, time.Minute), r)
	_, refundErr := s.Refund(timeout(t, time.Minute), payment.RefundRequest{TenantID: "demo", OrderID: "o", ChargeKey: "k1", Key: "r", Amount: 1, Currency: "EUR"})
	for _, err := range []error{chargeErr, lookupErr, voidErr, refundErr} {
		if err == nil || !strings.Contains(err.Error(), "503") || errors.Is(err, payment.ErrUnavailable) {
			t.Errorf("got %v, want a 503", err)
		}
	}
	s.SetDown(false)
	if c, err := s.Charge(timeout(t, time.Minute), r); err != nil || c.State != payment.StateCaptured {
		t.Error(c, err)
	}
}

func TestAKeyBelongsToOneRequest(t *testing.T) {
	s := open(t, sandbox.Options{Path: path(t)})
	if _, err := s.Charge(timeout(t, time.Minute), request("k1", sandbox.TokenOK)); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*payment.Request){
		"order":    func(r *payment.Request) { r.OrderID = "another" },
		"token":    func(r *payment.Request) { r.Token = sandbox.TokenSlow },
		"amount":   func(r *payment.Request) { r.Amount = 1 },
		"currency": func(r *payment.Request) { r.Currency = "USD" },
	} {
		r := request("k1", sandbox.TokenOK)
		change(&r)
		_, err := s.Charge(timeout(t, time.Minute), r)
		var rejected *payment.RejectedError
		if err == nil || errors.As(err, &rejected) || !strings.Contains(err.Error(), "idempotency_mismatch") {
			t.Errorf("another %s: %v, want a mismatch that does not read as a decline", name, err)
		}
	}
}

func TestTheSameKeyOfTwoTenantsIsTwoCharges(t *testing.T) {
	s := open(t, sandbox.Options{Path: path(t)})
	a, b := request("k1", sandbox.TokenOK), request("k1", sandbox.TokenOK)
	b.TenantID, b.Amount = "other", 5
	for _, r := range []payment.Request{a, b} {
		if c, err := s.Charge(timeout(t, time.Minute), r); err != nil || c.Captured != r.Amount {
			t.Error(c, err)
		}
	}
	page, _, err := s.Charges(timeout(t, time.Minute), "other", "", 10)
	if err != nil || len(page) != 1 || page[0].TenantID != "other" {
		t.Error(page, err)
	}
}

func TestTheListGivesEveryChargeOnceByPage(t *testing.T) {
	s := open(t, sandbox.Options{Path: path(t), Now: func() time.Time { return time.Unix(1000, 0) }})
	for i := range 7 {
		r := request(fmt.Sprint("k", i), sandbox.TokenOK)
		if i%3 == 2 {
			r.TenantID = "other"
		}
		if _, err := s.Charge(timeout(t, time.Minute), r); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.Refund(timeout(t, time.Minute), payment.RefundRequest{TenantID: "demo", OrderID: "o", ChargeKey: "k0", Key: "r0", Amount: 9, Currency: "EUR"}); err != nil {
		t.Fatal(err)
	}
	var got []sandbox.Charge
	cursor, pages := "", 0
	for {
		page, next, err := s.Charges(timeout(t, time.Minute), "demo", cursor, 2)
		if err != nil {
			t.Fatal(err)
		}
		got, cursor, pages = append(got, page...), next, pages+1
		if next == "" || pages > 10 {
			break
		}
	}
	charge := func(i int) sandbox.Charge {
		return sandbox.Charge{TenantID: "demo", OrderID: fmt.Sprint("order-k", i), Key: fmt.Sprint("k", i), Ref: fmt.Sprint("ch_", i+1),
			State: payment.StateCaptured, Amount: 999, Currency: "EUR", At: time.Unix(1000, 0).UTC()}
	}
	refunded := charge(0)
	refunded.Refunded, refunded.Refunds = 9, []sandbox.Refund{{Key: "r0", Ref: "re_1", Amount: 9}}
	if diff := cmp.Diff([]sandbox.Charge{refunded, charge(1), charge(3), charge(4), charge(6)}, got); diff != "" {
		t.Error(diff)
	}
	for _, bad := range []struct {
		cursor string
		limit  int
	}{{"x", 1}, {"-1", 1}, {"", 0}, {"", sandbox.MaxPage + 1}} {
		_, _, err := s.Charges(timeout(t, time.Minute), "", bad.cursor, bad.limit)
		if err == nil || errors.Is(err, sandbox.ErrBadCursor) != (bad.cursor != "") {
			t.Errorf("the cursor %q with limit %d: error %v", bad.cursor, bad.limit, err)
		}
	}
}

func TestNothingIsForgottenOverARestart(t *testing.T) {
	p := path(t)
	now := time.Unix(1000, 0)
	o := sandbox.Options{Path: p, Now: func() time.Time { return now }}
	s := open(t, o)
	for _, token := range []string{sandbox.TokenOK, sandbox.TokenDeclined, sandbox.TokenWebhookFirst} {
		if _, err := s.Charge(timeout(t, time.Minute), request(token, token)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.Void(timeout(t, time.Minute), request("voided", sandbox.TokenOK)); err != nil {
		t.Fatal(err)
	}
	_, _ = s.Charge(timeout(t, 200*time.Millisecond), request("late", sandbox.TokenLate))
	refund := payment.RefundRequest{TenantID: "demo", OrderID: "o", ChargeKey: sandbox.TokenOK, Key: "r", Amount: 9, Currency: "EUR"}
	first, err := s.Refund(timeout(t, time.Minute), refund)
	if err != nil {
		t.Fatal(err)
	}
	before, _, err := s.Charges(timeout(t, time.Minute), "", "", 100)
	if err != nil || len(before) != 5 {
		t.Fatal(before, err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}

	s = open(t, o)
	after, _, err := s.Charges(timeout(t, time.Minute), "", "", 100)
	if diff := cmp.Diff(before, after, cmpopts.EquateEmpty()); err != nil || diff != "" {
		t.Error(err, diff)
	}
	if again, err := s.Refund(timeout(t, time.Minute), refund); err != nil || again != first {
		t.Errorf("the refund again: %+v, %v, want %+v", again, err, first)
	}
	wantState(t, s, "late", sandbox.TokenLate, payment.StatePending)
	now = now.Add(3 * time.Second) // it captures although nobody ran in between
	wantState(t, s, "late", sandbox.TokenLate, payment.StateCaptured)
}

func TestAnUnfinishedEndIsCutOffAndADamagedMiddleIsNot(t *testing.T) {
	made := path(t)
	s := open(t, sandbox.Options{Path: made})
	for i := range 5 {
		if _, err := s.Charge(timeout(t, time.Minute), request(fmt.Sprint("k", i), sandbox.TokenOK)); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	good, err := os.ReadFile(made)
	if err != nil {
		t.Fatal(err)
	}
	lastLine := strings.LastIndex(strings.TrimSuffix(string(good), "\n"), "\n") + 1
	flipped := func(at int) string { return string(good[:at]) + string(good[at]^1) + string(good[at+1:]) }
	for _, c := range []struct {
		name, content string
		charges       int // -1: refused
	}{
		{"whole", string(good), 5},
		{"empty", "", 0},
		{"the last line without its end", string(good[:len(good)-1]), 4},
		{"the last line half there", string(good[:lastLine+20]), 4},
		{"a line begun", string(good) + "0", 5},
		{"zeros at the end", string(good) + strings.Repeat("\x00", 100_000), 5},
		{"a bit of the last line flipped", flipped(lastLine + 30), 4},
		{"a bit of the first line flipped", flipped(30), -1},
		{"a line twice", string(good) + string(good[lastLine:]), -1},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := path(t)
			if err := os.WriteFile(p, []byte(c.content), 0o600); err != nil {
				t.Fatal(err)
			}
			s, err := sandbox.Open(sandbox.Options{Path: p})
			if c.charges < 0 {
				if err == nil || !strings.Contains(err.Error(), "put a good copy") {
					t.Errorf("got %v, want an error that says what to do", err)
				}
				if now, _ := os.ReadFile(p); string(now) != c.content {
					t.Error("the damaged file was changed")
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			if _, err := s.Charge(timeout(t, time.Minute), request("after", sandbox.TokenOK)); err != nil {
				t.Fatal(err)
			}
			page, _, err := s.Charges(timeout(t, time.Minute), "", "", 100)
			if err != nil || len(page) != c.charges+1 {
				t.Errorf("%d charges, %v, want %d", len(page), err, c.charges+1)
			}
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			if n := len(recorded(t, p, "capture", "after")); n != 1 { // it reads every line to the end of the file
				t.Errorf("the file has %d captures after the cut", n)
			}
			again := open(t, sandbox.Options{Path: p})
			if page, _, err := again.Charges(timeout(t, time.Minute), "", "", 100); err != nil || len(page) != c.charges+1 {
				t.Errorf("after one more: %d charges, %v", len(page), err)
			}
		})
	}
}

func TestAClosedSandboxSaysThatNothingWasSent(t *testing.T) {
	s := open(t, sandbox.Options{Path: path(t)})
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Charge(timeout(t, time.Minute), request("k1", sandbox.TokenOK)); !errors.Is(err, payment.ErrUnavailable) {
		t.Error(err)
	}
}

func TestOptionsThatMakeNoSenseAreRefused(t *testing.T) {
	for name, o := range map[string]sandbox.Options{
		"no path":          {},
		"a negative delay": {Path: path(t), SlowDelay: -1},
		"two ledgers":      {Path: path(t), Ledger: newMemory()},
		"no directory":     {Path: filepath.Join(t.TempDir(), "not", "there")},
	} {
		if s, err := sandbox.Open(o); err == nil {
			t.Errorf("%s was accepted", name)
			_ = s.Close()
		}
	}
}

// BenchmarkCharge measures durable captures with as many callers as the Guard
// lets through.
func BenchmarkCharge(b *testing.B) {
	for _, callers := range []int{1, 16, 64} {
		b.Run(fmt.Sprint("callers=", callers), func(b *testing.B) {
			s := open(b, sandbox.Options{Path: path(b)})
			ctx := timeout(b, time.Minute)
			keys := make(chan string, callers)
			var wg sync.WaitGroup
			for range callers {
				wg.Go(func() {
					for key := range keys {
						if c, err := s.Charge(ctx, request(key, sandbox.TokenOK)); err != nil || c.State != payment.StateCaptured {
							b.Error(c, err)
						}
					}
				})
			}
			b.ResetTimer()
			for i := range b.N {
				keys <- fmt.Sprint("k", i)
			}
			close(keys)
			wg.Wait()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "captures/s")
		})
	}
}
