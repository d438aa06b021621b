package load

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestAnOpenLoopOfOrdersOffersItsRateAndEverythingAddsUp(t *testing.T) {
	f := newFakeShop(t)
	dir := t.TempDir()
	var out bytes.Buffer
	r, err := Orders(t.Context(), OrdersOptions{
		URL: f.URL, Rate: 1000, Count: 1200, Connections: 8, SKUs: 20, Zipf: 1, Lines: Span{1, 3}, Quantity: Span{1, 2}, Stock: 10_000,
		AckedFile: filepath.Join(dir, "acked"), JSONFile: filepath.Join(dir, "report.json"), Out: &out,
	})
	if err != nil {
		t.Fatal(err)
	}
	want := OrderCounts{Sent: 1200, Placed: 1200, Late: r.Orders.Late}
	if d := cmp.Diff(want, r.Orders); d != "" {
		t.Errorf("counts (-want +got):\n%s", d)
	}
	if r.Mode != OpenLoop || r.Statuses["202"] != 1200 || r.Accept.Count != 1200 || r.Accept.P50Ms <= 0 || r.Seconds < 1.19 {
		t.Errorf("report is %+v", r)
	}
	if len(f.orders) != 1200 || len(f.stock) != 20 || f.stock["load-sku-00001"].OnHand != 10_000 {
		t.Errorf("the shop has %d orders and %d products", len(f.orders), len(f.stock))
	}
	for _, want := range []string{"putting in 20 products", "s  sent ", "open loop, 1,000 orders/s", "1,200", "intended send time: p50", "202 × 1,200"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in the output:\n%s", want, &out)
		}
	}
	var back OrdersReport
	text, err := os.ReadFile(filepath.Join(dir, "report.json"))
	if err != nil || json.Unmarshal(text, &back) != nil {
		t.Fatalf("the report file: %v\n%s", err, text)
	}
	if d := cmp.Diff(r, back); d != "" {
		t.Errorf("the report file differs (-returned +file):\n%s", d)
	}
}

func TestTheSameSeedMakesTheSameOrdersWithOtherKeys(t *testing.T) {
	bodies := func(seed uint64) (keys, orders []string) {
		f := newFakeShop(t)
		o := OrdersOptions{URL: f.URL, Count: 50, Connections: 1, SKUs: 10, Zipf: 0.8, Lines: Span{1, 4}, Quantity: Span{1, 9}, Seed: seed,
			Tokens: []Weighted{{"tok_ok", 3}, {"tok_declined", 1}}}
		if _, err := Orders(t.Context(), o); err != nil {
			t.Fatal(err)
		}
		for _, b := range f.bodies {
			key, body, _ := strings.Cut(b, " ")
			keys, orders = append(keys, key), append(orders, body)
		}
		return keys, orders
	}
	keys, orders := bodies(7)
	keysAgain, ordersAgain := bodies(7)
	_, others := bodies(8)
	if d := cmp.Diff(orders, ordersAgain); d != "" {
		t.Errorf("the same seed (-first +second):\n%s", d)
	}
	if cmp.Equal(orders, others) {
		t.Error("another seed made the same orders")
	}
	seen := map[string]bool{}
	for _, k := range append(keys, keysAgain...) {
		if seen[k] {
			t.Errorf("key %s was used twice", k)
		}
		seen[k] = true
	}
}

func TestPopularityTokensAndSpansAreDrawnAsAsked(t *testing.T) {
	base, err := baseURL("http://shop")
	if err != nil {
		t.Fatal(err)
	}
	o := OrdersOptions{URL: "http://shop", Count: 1, SKUs: 1000, Zipf: 1, Lines: Span{2, 3}, Quantity: Span{5, 7},
		Tokens: []Weighted{{"a", 9}, {"b", 1}}, Duplicate: 0.5, Cancel: 0.25}
	o.setDefaults()
	d := newOrderPlan(base, o).drawer()
	const n = 20_000
	var first, lines, b, twins, beside, cancels int
	for k := range n {
		x := d.draw(k, time.Unix(0, 0))
		lines += len(x.lines)
		for _, l := range x.lines {
			if l.quantity < 5 || l.quantity > 7 || len(x.lines) < 2 || len(x.lines) > 3 {
				t.Fatalf("order %d is %+v", k, x)
			}
			if l.sku == 0 {
				first++
			}
		}
		count := func(c *int, holds bool) {
			if holds {
				*c++
			}
		}
		count(&b, x.token == 1)
		count(&twins, x.twice != once)
		count(&beside, x.twice == atOnce)
		count(&cancels, x.cancel)
	}
	near := func(what string, got, of int, want float64) {
		t.Helper()
		if share := float64(got) / float64(of); share < want*0.9 || share > want*1.1 {
			t.Errorf("%s: %.4f, want about %.4f", what, share, want)
		}
	}
	near("the first of 1,000 products with zipf 1", first, lines, 1/7.485) // 1 + 1/2 + … + 1/1000
	near("the second token", b, n, 0.1)
	near("sent twice", twins, n, 0.5)
	near("of these at once", beside, twins, 0.5)
	near("cancelled", cancels, n, 0.25)
	o.Zipf = 0
	d = newOrderPlan(base, o).drawer()
	first = 0
	for k := range n {
		for _, l := range d.draw(k, time.Unix(0, 0)).lines {
			if l.sku < 100 {
				first++
			}
		}
	}
	near("the first tenth of the products without zipf", first, lines, 0.1)
}

func TestEveryOutcomeOfAnOrderIsCountedOnceAndWithItsOwnLatency(t *testing.T) {
	f := newFakeShop(t)
	f.before = func(post int, w http.ResponseWriter, _ *http.Request, _ []byte) bool {
		switch post {
		case 1:
			answerProblem(w, 409, "out-of-stock")
		case 2:
			answerProblem(w, 409, "something-else")
		case 3:
			answerProblem(w, 422, "unknown-sku")
		case 4:
			answerProblem(w, 429, "rate-limited")
		case 5:
			w.Header().Set("Retry-After", "1")
			answerProblem(w, 503, "overloaded")
		case 6:
			answerProblem(w, 400, "malformed-body")
		}
		return post <= 6
	}
	r, err := Orders(t.Context(), OrdersOptions{URL: f.URL, Count: 10, Connections: 1, SKUs: 1})
	if err != nil {
		t.Fatal(err)
	}
	want := OrderCounts{Sent: 10, Placed: 4, OutOfStock: 1, Invalid: 1, Refused: 2, Failed: 2}
	if d := cmp.Diff(want, r.Orders); d != "" {
		t.Errorf("counts (-want +got):\n%s", d)
	}
	if r.Accept.Count != 4 || r.OutOfStock.Count != 1 || r.Refusal.Count != 2 {
		t.Errorf("latencies: %d accepted, %d out of stock, %d refused", r.Accept.Count, r.OutOfStock.Count, r.Refusal.Count)
	}
	if len(r.Examples) != 6 {
		t.Errorf("examples: %q", r.Examples)
	}
}

func TestAnOrderWithoutAnAnswerIsSentAgainWithItsKeyUntilItIsAnswered(t *testing.T) {
	f := newFakeShop(t)
	f.before = func(post int, w http.ResponseWriter, r *http.Request, _ []byte) bool {
		switch post {
		case 1: // placed, and the answer is lost
			f.mu.Lock()
			defer f.mu.Unlock()
			o := &fakeOrder{token: "tok_ok"}
			o.ID = idMaker{}.at(time.Now(), 0).String()
			o.Total = storedMoney{seedMinPrice, "EUR"}
			o.step("placed", "placed")
			f.orders = append(f.orders, o)
			f.keys[r.Header.Get("Idempotency-Key")] = o
			panic(http.ErrAbortHandler)
		case 2:
			answerProblem(w, 503, "outcome-unknown")
		case 3: // refused for now, but the first may be there
			answerProblem(w, 503, "overloaded")
		case 4:
			answerProblem(w, 500, "internal")
		}
		return post <= 4
	}
	r, err := Orders(t.Context(), OrdersOptions{URL: f.URL, Count: 1, Connections: 1, SKUs: 1})
	if err != nil {
		t.Fatal(err)
	}
	want := OrderCounts{Sent: 1, Placed: 1, Replayed: 1, Retries: 4}
	if d := cmp.Diff(want, r.Orders); d != "" {
		t.Errorf("counts (-want +got):\n%s", d)
	}
	for i, b := range f.bodies {
		if b != f.bodies[0] {
			t.Errorf("attempt %d was %s, the first %s", i+1, b, f.bodies[0])
		}
	}
	if len(f.orders) != 1 {
		t.Errorf("the shop has %d orders", len(f.orders))
	}
}

func TestADoubtfulOrderThatIsRefusedInTheEndStaysDoubtfulInTheFile(t *testing.T) {
	f := newFakeShop(t)
	path := filepath.Join(t.TempDir(), "acked")
	f.before = func(post int, w http.ResponseWriter, _ *http.Request, _ []byte) bool {
		switch post {
		case 1:
			answerProblem(w, 500, "internal")
		case 2:
			answerProblem(w, 409, "out-of-stock")
		case 3:
			answerProblem(w, 500, "internal")
		default:
			answerProblem(w, 503, "overloaded")
		}
		return true
	}
	r, err := Orders(t.Context(), OrdersOptions{URL: f.URL, Count: 2, Connections: 1, SKUs: 1, RetryFor: 200 * time.Millisecond, AckedFile: path})
	if err != nil {
		t.Fatal(err)
	}
	want := OrderCounts{Sent: 2, OutOfStock: 1, Unknown: 1, Retries: r.Orders.Retries}
	if d := cmp.Diff(want, r.Orders); d != "" {
		t.Errorf("counts (-want +got):\n%s", d)
	}
	set, err := readOrderAcked([]string{path})
	if err != nil {
		t.Fatal(err)
	}
	if len(set.orders) != 0 || len(set.doubtful) != 2 {
		t.Errorf("the file has %d placed and %d doubtful orders", len(set.orders), len(set.doubtful))
	}
}

func TestDuplicatesMustGetTheSameOrder(t *testing.T) {
	f := newFakeShop(t)
	o := OrdersOptions{URL: f.URL, Count: 40, Connections: 2, SKUs: 3, Duplicate: 1}
	r, err := Orders(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	want := OrderCounts{Sent: 40, Placed: 40, Replayed: r.Orders.Replayed, Duplicates: 40, DuplicatesAgreed: 40}
	if d := cmp.Diff(want, r.Orders); d != "" {
		t.Errorf("counts (-want +got):\n%s", d)
	}
	if f.posts != 80 || len(f.orders) != 40 {
		t.Errorf("%d requests made %d orders", f.posts, len(f.orders))
	}
	f.forget = true
	o.AckedFile = filepath.Join(t.TempDir(), "acked")
	r, err = Orders(t.Context(), o)
	if !errors.Is(err, ErrBroken) || r.Orders.Broken != 40 || len(r.Broken) != maxExamples {
		t.Errorf("a shop that forgets its keys: %v, %+v", err, r.Orders)
	}
	set, err := readOrderAcked([]string{o.AckedFile})
	if err != nil || len(set.clashes) != 40 {
		t.Errorf("the file has %d clashes, %v", len(set.clashes), err)
	}
}

func TestCancellationsAreAskedForAndNoted(t *testing.T) {
	f := newFakeShop(t)
	path := filepath.Join(t.TempDir(), "acked")
	r, err := Orders(t.Context(), OrdersOptions{URL: f.URL, Count: 20, Connections: 1, SKUs: 1, Cancel: 1, AckedFile: path})
	if err != nil {
		t.Fatal(err)
	}
	want := OrderCounts{Sent: 20, Placed: 20, Cancelled: 20}
	if d := cmp.Diff(want, r.Orders); d != "" {
		t.Errorf("counts (-want +got):\n%s", d)
	}
	set, err := readOrderAcked([]string{path})
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range set.orders {
		if !o.cancelled {
			t.Errorf("order %s is not noted as cancelled", o.id)
		}
	}
}

func TestWatchingReportsWhenOrdersWerePaid(t *testing.T) {
	f := newFakeShop(t)
	r, err := Orders(t.Context(), OrdersOptions{URL: f.URL, Count: 30, Connections: 2, SKUs: 2, Watch: true})
	if err != nil {
		t.Fatal(err)
	}
	if r.Paid.Count < 1 || !r.Drained || r.PaidPerSecond <= 0 {
		t.Errorf("report is %+v", r)
	}
	f.paused = true
	r, err = Orders(t.Context(), OrdersOptions{URL: f.URL, Count: 3, Connections: 1, SKUs: 2, Watch: true, WatchFor: 200 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	if r.Paid.Count != 0 || r.Drained || r.DrainSeconds < 0.2 {
		t.Errorf("nobody paid: %+v", r)
	}
}

func TestSeedingIsTriedAgainAndAddsToWhatIsThere(t *testing.T) {
	f := newFakeShop(t)
	f.stock["load-sku-00001"] = &storedLevel{SKU: "load-sku-00001", OnHand: 5, Available: 5, Version: 1}
	path := filepath.Join(t.TempDir(), "acked")
	if _, err := Orders(t.Context(), OrdersOptions{URL: f.URL, Count: 1, SKUs: 2, Stock: 10, AckedFile: path}); err != nil {
		t.Fatal(err)
	}
	set, err := readOrderAcked([]string{path})
	if err != nil {
		t.Fatal(err)
	}
	if s := set.skus[set.sku("load-sku-00001")]; !s.seeded || s.before != 5 || s.put != 10 || f.stock[s.sku].OnHand != 15 {
		t.Errorf("the file has %+v", s)
	}
	// A second run without seeding leaves the stock alone.
	if _, err := Orders(t.Context(), OrdersOptions{URL: f.URL, Count: 1, SKUs: 2, NoSeed: true}); err != nil {
		t.Fatal(err)
	}
	if n := f.stock["load-sku-00002"].OnHand; n != 10 {
		t.Errorf("%d on hand", n)
	}
}

func TestAShopThatTurnsEveryOrderAwayEndsTheRun(t *testing.T) {
	f := newFakeShop(t)
	f.before = func(_ int, w http.ResponseWriter, _ *http.Request, _ []byte) bool {
		answerProblem(w, 403, "scope-missing")
		return true
	}
	r, err := Orders(t.Context(), OrdersOptions{URL: f.URL, Rate: 100, Duration: time.Minute, Connections: 2, SKUs: 1})
	if !errors.Is(err, ErrTurnedAway) || !strings.Contains(err.Error(), "because of scope-missing") || !r.Interrupted {
		t.Errorf("error %v, report %+v", err, r)
	}
	f.Close()
	if _, err := Orders(t.Context(), OrdersOptions{URL: f.URL, Count: 1, SKUs: 1, RetryFor: 100 * time.Millisecond}); err == nil || !strings.Contains(err.Error(), "putting in products") {
		t.Errorf("a shop that is away: %v", err)
	}
}

func TestCancellingEndsARunOfOrdersSoonWithItsReport(t *testing.T) {
	f := newFakeShop(t)
	release := make(chan struct{})
	defer close(release)
	ctx, cancel := context.WithCancel(t.Context())
	var once sync.Once
	f.before = func(post int, _ http.ResponseWriter, _ *http.Request, _ []byte) bool {
		if post >= 3 {
			once.Do(cancel)
			<-release // never answered while the run lasts
		}
		return false
	}
	began := time.Now()
	r, err := Orders(ctx, OrdersOptions{URL: f.URL, Duration: time.Minute, Connections: 1, SKUs: 1})
	if !errors.Is(err, context.Canceled) || !r.Interrupted || time.Since(began) > 10*time.Second {
		t.Errorf("error %v after %s, report %+v", err, time.Since(began), r)
	}
	if r.Orders.Placed != 2 || r.Orders.Unknown != 1 {
		t.Errorf("counts are %+v", r.Orders)
	}
}

func TestOrderOptionsThatMakeNoSenseAreRefusedAllAtOnce(t *testing.T) {
	_, err := Orders(t.Context(), OrdersOptions{URL: "http://x", Rate: -1, SKUs: -5, SKUPrefix: "a/b", Zipf: -1, Lines: Span{3, 2}, Quantity: Span{0, 5},
		Stock: -1, Duplicate: 2, Cancel: -1, Tokens: []Weighted{{"a b", 1}}, Token: "a\nb", Connections: -1})
	for _, want := range []string{"rate -1", "SKUs -5", `SKU prefix "a/b"`, "zipf -1", "lines 3-2", "quantity 0-5", "stock -1", "duplicate 2", "cancel -1",
		`payment token "a b"`, "token: must be one line", "connections -1", "duration: give"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("no %q in %v", want, err)
		}
	}
	for text, want := range map[string]Span{"3": {3, 3}, "1-5": {1, 5}} {
		if s, err := ParseSpan(text); err != nil || s != want || s.String() != text {
			t.Errorf("ParseSpan(%q) = %v, %v", text, s, err)
		}
	}
	for _, text := range []string{"", "0", "5-1", "a", "1-", "-1"} {
		if s, err := ParseSpan(text); err == nil {
			t.Errorf("ParseSpan(%q) = %v", text, s)
		}
	}
	mix, err := ParseMix("tok_ok=9, tok_declined")
	if d := cmp.Diff([]Weighted{{"tok_ok", 9}, {"tok_declined", 1}}, mix); err != nil || d != "" || FormatMix(mix) != "tok_ok=9,tok_declined=1" {
		t.Errorf("ParseMix: %v %v %q", mix, err, FormatMix(mix))
	}
	for _, text := range []string{"", "a=0", "a=x", "a,,b"} {
		if m, err := ParseMix(text); err == nil {
			t.Errorf("ParseMix(%q) = %v", text, m)
		}
	}
}
