package load

import (
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// sold returns a shop in which a run has ended, and its file: 300 orders of 7
// products, of which one in four was declined, some were shipped and some
// cancelled, and two are of unknown outcome, one of them placed.
func sold(t *testing.T) (*fakeShop, string) {
	t.Helper()
	f := newFakeShop(t)
	f.before = func(post int, w http.ResponseWriter, _ *http.Request, _ []byte) bool {
		switch {
		case post == 10: // not placed, but that is not known
			answerProblem(w, 500, "internal")
		case post == 11:
			answerProblem(w, 409, "out-of-stock")
		case post > 12 && post%10 == 0:
			f.mu.Lock()
			f.work()
			f.mu.Unlock()
			return false
		default:
			return false
		}
		return true
	}
	path := filepath.Join(t.TempDir(), "acked")
	_, err := Orders(t.Context(), OrdersOptions{
		URL: f.URL, Count: 301, Connections: 1, SKUs: 7, Zipf: 1, Lines: Span{1, 3}, Quantity: Span{1, 3}, Stock: 1000, Cancel: 0.1,
		Tokens: []Weighted{{"tok_ok", 2}, {"tok_declined", 1}, {"tok_shipped", 1}}, AckedFile: path,
	})
	if err != nil {
		t.Fatal(err)
	}
	f.mu.Lock()
	f.work()
	f.mu.Unlock()
	return f, path
}

// with returns the first order of a status.
func (f *fakeShop) with(status string) *fakeOrder {
	i := slices.IndexFunc(f.orders, func(o *fakeOrder) bool { return o.Status == status })
	return f.orders[i]
}

func (f *fakeShop) chargeOf(o *fakeOrder) *storedCharge {
	i := slices.IndexFunc(f.charges, func(c storedCharge) bool { return c.OrderID == o.ID })
	return &f.charges[i]
}

// drop removes an order with everything that belongs to it.
func (f *fakeShop) drop(o *fakeOrder) {
	f.orders = slices.DeleteFunc(f.orders, func(x *fakeOrder) bool { return x == o })
	f.charges = slices.DeleteFunc(f.charges, func(c storedCharge) bool { return c.OrderID == o.ID })
}

func TestVerifyingOrdersFindsEveryKindOfFault(t *testing.T) {
	for name, c := range map[string]struct {
		broken func(f *fakeShop)
		faults map[string]int
		says   string
	}{
		"nothing": {func(*fakeShop) {}, map[string]int{}, ""},
		"an order that is lost with its reservation": {
			func(f *fakeShop) { o := f.with("fulfilling"); f.drop(o); f.release(o) },
			map[string]int{FaultMissing: 1}, "was acknowledged and is not there",
		},
		"an order that is lost and its reservation not": {
			func(f *fakeShop) {
				o := f.with("fulfilling")
				o.Items = o.Items[:1]
				f.drop(o)
			},
			map[string]int{FaultMissing: 1, FaultStock: -1}, "are reserved, but the orders that hold stock are of",
		},
		"an order that is lost and charged": {
			func(f *fakeShop) {
				o := f.with("fulfilling")
				f.orders = slices.DeleteFunc(f.orders, func(x *fakeOrder) bool { return x == o })
				f.release(o)
			},
			map[string]int{FaultMissing: 1, FaultCharge: 1}, "which is not there",
		},
		"another quantity": {
			func(f *fakeShop) {
				o := f.with("payment_failed")
				o.Items[0].Quantity++
				o.Total.Amount += o.Items[0].UnitPrice.Amount
			},
			map[string]int{FaultChanged: 2}, "was acknowledged with",
		},
		"another total": {
			func(f *fakeShop) { f.with("payment_failed").Total.Amount++ },
			map[string]int{FaultChanged: 1, FaultMoney: 1}, "the lines sum up to",
		},
		"a line in another currency": {
			func(f *fakeShop) { f.with("payment_failed").Items[0].UnitPrice.Currency = "USD" },
			map[string]int{FaultMoney: 1}, "money: order",
		},
		"an order nobody placed": {
			func(f *fakeShop) {
				o := *f.with("payment_failed")
				o.ID = "019aa0a1-b2c3-7000-8000-0000000000aa"
				f.orders = append(f.orders, &o)
			},
			map[string]int{FaultStranger: 1}, "--exclusive=false",
		},
		"an order that is listed twice": {
			func(f *fakeShop) { f.orders = append(f.orders, f.with("payment_failed")) },
			map[string]int{FaultState: 1}, "is listed 2 times",
		},
		"a cancelled order that goes on": {
			func(f *fakeShop) {
				o := f.with("cancelled")
				o.step("redone", "payment_failed")
			},
			map[string]int{FaultCancel: 1, FaultHistory: 1}, "cancellation of order",
		},
		"a reservation too many": {
			func(f *fakeShop) { f.change("load-sku-00001", 0, 1) },
			map[string]int{FaultStock: 1}, "load-sku-00001: ",
		},
		"a unit that vanished": {
			func(f *fakeShop) { f.change("load-sku-00002", -1, 0) },
			map[string]int{FaultStock: 1}, ": -1",
		},
		"a unit that came from nowhere": {
			func(f *fakeShop) { f.change("load-sku-00002", 1, 0) },
			map[string]int{FaultStock: 1}, ": +1",
		},
		"an available that is no difference": {
			func(f *fakeShop) { f.stock["load-sku-00003"].Available++ },
			map[string]int{FaultStock: 1}, "or a sum that is wrong",
		},
		"stock that is gone": {
			func(f *fakeShop) { delete(f.stock, "load-sku-00003") },
			map[string]int{FaultStock: 1}, "no stock is kept for it",
		},
		"stock of another product that is reserved by nobody": {
			func(f *fakeShop) { f.stock["other"] = &storedLevel{SKU: "other", OnHand: 1, Reserved: 1, Version: 1} },
			map[string]int{FaultStock: 1}, "other: 1 are reserved",
		},
		"oversold": {
			func(f *fakeShop) {
				l := f.stock["load-sku-00001"]
				f.change(l.SKU, -l.OnHand, 0)
			},
			map[string]int{FaultStock: 2}, "oversold",
		},
		"a second capture": {
			func(f *fakeShop) { f.charges = append(f.charges, *f.chargeOf(f.with("fulfilling"))) },
			map[string]int{FaultCharge: 1}, "the ledger has 2 captures",
		},
		"a capture of another amount": {
			func(f *fakeShop) { f.chargeOf(f.with("fulfilling")).Amount.Amount-- },
			map[string]int{FaultCharge: 1}, "were captured of a total of",
		},
		"a capture in another currency": {
			func(f *fakeShop) { f.chargeOf(f.with("fulfilling")).Amount.Currency = "USD" },
			map[string]int{FaultCharge: 1}, "USD were captured",
		},
		"a paid order without a capture": {
			func(f *fakeShop) { f.chargeOf(f.with("fulfilling")).State = "declined" },
			map[string]int{FaultCharge: 1}, "the ledger has no capture",
		},
		"a declined order with a capture": {
			func(f *fakeShop) {
				c := f.chargeOf(f.with("payment_failed"))
				c.State = "captured"
			},
			map[string]int{FaultCharge: 1}, "of which 0 went back",
		},
		"a declined order whose capture went back": {
			func(f *fakeShop) {
				c := f.chargeOf(f.with("payment_failed"))
				c.State, c.Refunded = "captured", c.Amount
			},
			map[string]int{}, "",
		},
		"a refund that the order does not know of": {
			func(f *fakeShop) { f.chargeOf(f.with("shipped")).Refunded.Amount = 1 },
			map[string]int{FaultCharge: 1}, "the ledger has refunds of 1",
		},
		"paid without captured": {
			func(f *fakeShop) { f.with("fulfilling").Captured.Amount = 0 },
			map[string]int{FaultState: 1, FaultCharge: 1, FaultHistory: 1}, "its total was not captured",
		},
		"shipped without a shipment": {
			func(f *fakeShop) { f.with("shipped").Shipment = nil },
			map[string]int{FaultState: 1, FaultStock: -1}, "it has no shipment",
		},
		"refunded without a refund": {
			func(f *fakeShop) { f.with("shipped").Status = "refunded" },
			map[string]int{FaultState: 1, FaultHistory: 1}, "not all of its money went back",
		},
		"a status that there is not": {
			func(f *fakeShop) { f.with("payment_failed").Status = "lost" },
			map[string]int{FaultState: 1, FaultHistory: 1}, "there is no such status",
		},
		"a history that jumps": {
			func(f *fakeShop) {
				o := f.with("payment_failed")
				o.history[1].To, o.history[2].From = "paid", "paid"
			},
			map[string]int{FaultHistory: 1}, "which must not be",
		},
		"a history with a hole": {
			func(f *fakeShop) { o := f.with("payment_failed"); o.history = slices.Delete(o.history, 1, 2) },
			map[string]int{FaultHistory: 1}, "entry 2 of its history has version 3",
		},
		"a history that ends early": {
			func(f *fakeShop) { o := f.with("payment_failed"); o.history = o.history[:2] },
			map[string]int{FaultHistory: 1}, "its version is 3, its history ends with 2",
		},
		"a history that goes back in time": {
			func(f *fakeShop) { f.with("payment_failed").history[0].At = time.Now().Add(time.Hour) },
			map[string]int{FaultHistory: 1}, "is older than the one before",
		},
		"no history": {
			func(f *fakeShop) { f.with("payment_failed").history = nil },
			map[string]int{FaultHistory: 1}, "it has no history",
		},
	} {
		t.Run(name, func(t *testing.T) {
			f, path := sold(t)
			c.broken(f)
			var out strings.Builder
			r, err := VerifyOrders(t.Context(), VerifyOrdersOptions{URL: f.URL, AckedFiles: []string{path}, History: true, Out: &out})
			for kind, n := range c.faults {
				if n < 0 && r.Faults[kind] > 0 { // some: it depends on the order's lines
					c.faults[kind] = r.Faults[kind]
				}
			}
			if d := cmp.Diff(c.faults, r.Faults); d != "" {
				t.Errorf("faults (-want +got):\n%s%q", d, r.Examples)
			}
			if (len(c.faults) > 0) != errors.Is(err, ErrBroken) || err != nil && !errors.Is(err, ErrBroken) {
				t.Errorf("error is %v", err)
			}
			if !strings.Contains(out.String(), c.says) || strings.Contains(out.String(), "every acknowledged order") != (err == nil) {
				t.Errorf("no %q in:\n%s", c.says, &out)
			}
		})
	}
}

func TestAVerificationSaysWhatItLookedAt(t *testing.T) {
	f, path := sold(t)
	file := filepath.Join(t.TempDir(), "report.json")
	r, err := VerifyOrders(t.Context(), VerifyOrdersOptions{URL: f.URL, AckedFiles: []string{path}, Replay: 20, JSONFile: file})
	if err != nil {
		t.Fatal(err)
	}
	want := VerifyOrdersReport{Acked: 300, Doubtful: 1, Found: 300, Orders: 300, SKUs: 7, Conserved: 7, Ledger: true, Charges: len(f.charges),
		Histories: 300, Replays: 20, Faults: map[string]int{}}
	if d := cmp.Diff(want, r, cmpopts.IgnoreFields(VerifyOrdersReport{}, "Statuses", "SettleSeconds", "Seconds")); d != "" {
		t.Errorf("report (-want +got):\n%s", d)
	}
	for _, status := range []string{"fulfilling", "payment_failed", "shipped", "cancelled"} {
		if r.Statuses[status] == 0 {
			t.Errorf("no order is %s: %v", status, r.Statuses)
		}
	}
	var back VerifyOrdersReport
	text, err := os.ReadFile(file)
	if err != nil || json.Unmarshal(text, &back) != nil || !cmp.Equal(r, back) {
		t.Errorf("the report file: %v\n%s", err, text)
	}
	// Without the file the shop is still checked against itself.
	f.noLedger = true
	f.change("load-sku-00001", 0, 1)
	r, err = VerifyOrders(t.Context(), VerifyOrdersOptions{URL: f.URL})
	if !errors.Is(err, ErrBroken) || r.Faults[FaultStock] != 1 || r.Ledger || r.Conserved != 0 {
		t.Errorf("without a file: %v, %+v", err, r)
	}
}

func TestOfAnUnknownOutcomeOneOrderMayBeThereAndNotTwo(t *testing.T) {
	f, path := sold(t)
	place := func() {
		set, err := readOrderAcked([]string{path})
		if err != nil {
			t.Fatal(err)
		}
		// An order with the lines of the doubtful one, as if its first attempt had
		// been placed after all.
		body := appendOrderBody(nil, set.doubtful[0].lines, []string{"load-sku-00001", "load-sku-00002", "load-sku-00003", "load-sku-00004", "load-sku-00005", "load-sku-00006", "load-sku-00007"}, "tok_ok")
		req, err := http.NewRequest("POST", f.URL+"/orders", strings.NewReader(string(body)))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Idempotency-Key", newIDMaker().at(time.Now(), 0).String())
		resp, err := http.DefaultClient.Do(req)
		if err != nil || resp.StatusCode != 202 {
			t.Fatal(resp, err)
		}
		_ = resp.Body.Close()
		f.orders[len(f.orders)-1].PlacedAt = f.orders[5].PlacedAt
	}
	place()
	r, err := VerifyOrders(t.Context(), VerifyOrdersOptions{URL: f.URL, AckedFiles: []string{path}})
	if err != nil || r.DoubtfulFound != 1 {
		t.Errorf("one: %v, %d found", err, r.DoubtfulFound)
	}
	place()
	r, err = VerifyOrders(t.Context(), VerifyOrdersOptions{URL: f.URL, AckedFiles: []string{path}})
	if !errors.Is(err, ErrBroken) || r.Faults[FaultStranger] != 1 {
		t.Errorf("two: %v, %v", err, r.Faults)
	}
	r, err = VerifyOrders(t.Context(), VerifyOrdersOptions{URL: f.URL, AckedFiles: []string{path}, Shared: true})
	if err != nil || r.Faults[FaultStranger] != 0 {
		t.Errorf("two, and others order too: %v, %v", err, r.Faults)
	}
}

func TestWhatIsStillUnderWayIsAFaultUnlessToldNotToWait(t *testing.T) {
	f := newFakeShop(t)
	f.paused = true
	path := filepath.Join(t.TempDir(), "acked")
	if _, err := Orders(t.Context(), OrdersOptions{URL: f.URL, Count: 10, Connections: 1, SKUs: 2, AckedFile: path}); err != nil {
		t.Fatal(err)
	}
	o := VerifyOrdersOptions{URL: f.URL, AckedFiles: []string{path}, Settle: 50 * time.Millisecond}
	r, err := VerifyOrders(t.Context(), o)
	if !errors.Is(err, ErrBroken) || r.Faults[FaultUnsettled] != 10 || len(r.Faults) != 1 {
		t.Errorf("placed and never paid: %v, %v", err, r.Faults)
	}
	o.Settle = -1
	if r, err = VerifyOrders(t.Context(), o); err != nil || r.Conserved != 2 {
		t.Errorf("told not to wait: %v, %+v", err, r)
	}
	// Parked orders wait for an operator, not for this.
	now := time.Now()
	for _, x := range f.orders {
		x.ParkedAt = &now
	}
	o.Settle = time.Minute
	if r, err = VerifyOrders(t.Context(), o); err != nil || r.Parked != 10 {
		t.Errorf("parked: %v, %+v", err, r)
	}
}

func TestGoodsThatCameBackCountAsOnHand(t *testing.T) {
	f, path := sold(t)
	o := f.with("shipped")
	refund := func(number int, restock bool) {
		o.Refund = &struct {
			Number  int  `json:"number"`
			Restock bool `json:"restock"`
		}{number, restock}
	}
	back := func(by int64) {
		for _, i := range o.Items {
			f.change(i.SKU, by*i.Quantity, 0)
		}
	}
	part := o.Total.Amount / 2
	o.Refunded.Amount, f.chargeOf(o).Refunded.Amount = part, part
	o.step("refund_asked", "refunding")
	o.step("refunded", "shipped")
	verify := func(want int) {
		t.Helper()
		r, err := VerifyOrders(t.Context(), VerifyOrdersOptions{URL: f.URL, AckedFiles: []string{path}})
		if r.Faults[FaultStock] != want || len(r.Faults) > 1 || (err == nil) != (want == 0) {
			t.Errorf("%v, %v", err, r.Faults)
		}
	}
	refund(1, true)
	verify(len(o.Items))
	back(1)
	verify(0)
	refund(1, false)
	verify(len(o.Items))
	refund(2, false) // whether the first brought them back the order does not show
	verify(0)
	back(-1)
	verify(0)
	o.Restocked = true
	verify(len(o.Items))
}

func TestSendingAgainFindsAKeyThatWasForgotten(t *testing.T) {
	f, path := sold(t)
	f.keys = map[string]*fakeOrder{}
	_, err := VerifyOrders(t.Context(), VerifyOrdersOptions{URL: f.URL, AckedFiles: []string{path}, Replay: 3})
	if err == nil || !strings.Contains(err.Error(), "it placed order") {
		t.Errorf("error is %v", err)
	}
	if _, err := VerifyOrders(t.Context(), VerifyOrdersOptions{URL: f.URL, Replay: 3}); err == nil || !strings.Contains(err.Error(), "give the acked file") {
		t.Errorf("without a file: %v", err)
	}
}

func TestAnAckedFileOfOrdersThatIsDamagedIsRefusedWithItsLine(t *testing.T) {
	const head = ackedOrdersMagic + "\n#run {\"started\":\"2026-11-22T05:00:00Z\"}\n#token 0 \"tok_ok\"\n#sku 0 {\"sku\":\"a\"}\n"
	const id, key = "019aa0a1-b2c3-7000-8000-0000000000aa", "019aa0a1-b2c3-7000-8000-0000000000bb"
	for name, c := range map[string]struct{ text, want string }{
		"a file of events":  {ackedMagic + "\n", "does not begin with"},
		"empty":             {"", `no "#run" line`},
		"bad run":           {ackedOrdersMagic + "\n#run {}\n", "line 2: bad #run"},
		"token in wrong":    {head + "#token 2 \"x\"\n", "line 5: bad #token"},
		"sku in wrong":      {head + "#sku 0 {\"sku\":\"b\"}\n", "line 5: bad #sku"},
		"bad id":            {head + "nope\t" + key + "\t1\t0\t0*1\n", `line 5: "nope" is not a UUID`},
		"bad key":           {head + id + "\tnope\t1\t0\t0*1\n", `line 5: "nope" is not a UUID`},
		"too few":           {head + id + "\t" + key + "\t1\t0\n", "line 5"},
		"token not there":   {head + id + "\t" + key + "\t1\t1\t0*1\n", "the file has no token 1"},
		"product not there": {head + id + "\t" + key + "\t1\t0\t1*1\n", `"1*1" is not the number`},
		"no units":          {head + id + "\t" + key + "\t1\t0\t0*0\n", `"0*0" is not the number`},
		"cancelled nothing": {head + "x\t" + id + "\n", "no line says that it was placed"},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "acked")
			if err := os.WriteFile(path, []byte(c.text), 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := readOrderAcked([]string{path}); err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), path) {
				t.Errorf("error is %v, want %q in it", err, c.want)
			}
		})
	}
	// What was cut off in the middle of a line is not an error.
	path := filepath.Join(t.TempDir(), "acked")
	if err := os.WriteFile(path, []byte(head+id+"\t"+key+"\t7\t0\t0*1,0*2\n"+id[:9]), 0o600); err != nil {
		t.Fatal(err)
	}
	set, err := readOrderAcked([]string{path, path})
	if err != nil || len(set.orders) != 1 || set.orders[0].total != 7 || !set.ended.IsZero() || len(set.clashes) != 0 {
		t.Errorf("%+v, %v", set, err)
	}
	if d := cmp.Diff([]orderLine{{0, 3}}, set.orders[0].lines, cmp.AllowUnexported(orderLine{})); d != "" {
		t.Errorf("lines (-want +got):\n%s", d)
	}
}
