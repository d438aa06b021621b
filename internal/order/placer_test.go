package order_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"testing"

	"millrace/internal/order"
)

func request() order.Request {
	return order.Request{TenantID: "demo", CustomerID: "ann", Key: "k1", Items: []order.Item{{SKU: "a", Quantity: 1}}, PaymentToken: "tok_ok"}
}

func newPlacer(t *testing.T, store order.Store, change func(*order.PlacerOptions)) *order.Placer {
	t.Helper()
	o := order.PlacerOptions{Store: store, Policy: policy, MinInterval: -1}
	if change != nil {
		change(&o)
	}
	p, err := order.NewPlacer(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p
}

func TestARequestThatMakesNoSenseIsRefusedByItsField(t *testing.T) {
	p := newPlacer(t, newMemory(), nil)
	long := strings.Repeat("x", 2000)
	for _, c := range []struct {
		name, field string
		change      func(*order.Request)
	}{
		{"no items", "items", func(r *order.Request) { r.Items = nil }},
		{"too many lines", "items", func(r *order.Request) { r.Items = make([]order.Item, 101) }},
		{"quantity zero", "items[0].quantity", func(r *order.Request) { r.Items[0].Quantity = 0 }},
		{"a negative quantity", "items[0].quantity", func(r *order.Request) { r.Items[0].Quantity = -1 }},
		{"a huge quantity", "items[0].quantity", func(r *order.Request) { r.Items[0].Quantity = 1_000_000_001 }},
		{"two lines that are huge together", "items", func(r *order.Request) {
			r.Items = []order.Item{{SKU: "a", Quantity: 600_000_000}, {SKU: "a", Quantity: 600_000_000}}
		}},
		{"an empty SKU", "items[0].sku", func(r *order.Request) { r.Items[0].SKU = "" }},
		{"a SKU with a slash", "items[0].sku", func(r *order.Request) { r.Items[0].SKU = "a/b" }},
		{"a SKU of dots", "items[0].sku", func(r *order.Request) { r.Items[0].SKU = ".." }},
		{"a SKU with NUL", "items[0].sku", func(r *order.Request) { r.Items[0].SKU = "a\x00" }},
		{"no payment token", "paymentToken", func(r *order.Request) { r.PaymentToken = "" }},
		{"a card number with spaces", "paymentToken", func(r *order.Request) { r.PaymentToken = "4242 4242 4242 4242" }},
		{"NUL in the note", "note", func(r *order.Request) { r.Note = "a\x00b" }},
		{"a bell in the note", "note", func(r *order.Request) { r.Note = "ring\a" }},
		{"a delete in the note", "note", func(r *order.Request) { r.Note = "\x7f" }},
		{"an escape in the street", "shippingAddress.line1", func(r *order.Request) { r.Address = &order.Address{Line1: "\x1b[2J"} }},
		{"a note that is not UTF-8", "note", func(r *order.Request) { r.Note = "\xff" }},
		{"a long note", "note", func(r *order.Request) { r.Note = long }},
		{"a mail address without a host", "customer.email", func(r *order.Request) { r.Email = "ann@" }},
		{"a mail address with a line break", "customer.email", func(r *order.Request) { r.Email = "ann@b.de\r\nBcc: x@y.z" }},
		{"a phone number of letters", "customer.phone", func(r *order.Request) { r.Phone = "call me" }},
		{"a country that is none", "shippingAddress.country", func(r *order.Request) { r.Address = &order.Address{Country: "Germany"} }},
		{"NUL in the city", "shippingAddress.city", func(r *order.Request) { r.Address = &order.Address{City: "\x00"} }},
		{"no key", "Idempotency-Key", func(r *order.Request) { r.Key = "" }},
		{"a key with a line break", "Idempotency-Key", func(r *order.Request) { r.Key = "a\nb" }},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := request()
			c.change(&r)
			_, err := p.Place(t.Context(), r)
			var invalid *order.InvalidError
			if !errors.As(err, &invalid) || invalid.Field != c.field || invalid.Detail == "" {
				t.Errorf("error %v; want one about %s", err, c.field)
			}
		})
	}
}

func TestTheSameSKUOnTwoLinesIsOneDemand(t *testing.T) {
	store := newMemory()
	store.stock["a"], store.stock["b"] = order.StockChange{OnHand: 5}, order.StockChange{OnHand: 5}
	p := newPlacer(t, store, nil)
	r := request()
	r.Items = []order.Item{{SKU: "b", Quantity: 1}, {SKU: "a", Quantity: 2}, {SKU: "b", Quantity: 3}}
	receipt, err := p.Place(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(receipt.Order.Lines); got != "[{a 2 500} {b 4 500}]" {
		t.Errorf("lines %s", got)
	}
	r.Items = []order.Item{{SKU: "a", Quantity: 2}, {SKU: "a", Quantity: 2}}
	var refused *order.RefusedError
	if _, err := p.Place(t.Context(), r); !errors.As(err, &refused) || refused.Items[0].Requested != 4 || refused.Items[0].Available != 3 {
		t.Errorf("two lines of two with three left: %v", err)
	}
}

// fingerprints records what reaches the store.
type fingerprints struct {
	*memory
	seen map[[32]byte]string
}

func (f *fingerprints) Place(ctx context.Context, placements []*order.Placement, p order.Policy) error {
	for _, pl := range placements {
		f.seen[pl.Fingerprint] = pl.Key
	}
	return f.memory.Place(ctx, placements, p)
}

func TestAFingerprintIsOfWhatIsAskedForAndNotOfHowItIsWritten(t *testing.T) {
	store := &fingerprints{newMemory(), map[[32]byte]string{}}
	p := newPlacer(t, store, nil)
	place := func(change func(*order.Request)) int {
		r := request()
		r.Items = []order.Item{{SKU: "a", Quantity: 1}, {SKU: "b", Quantity: 2}}
		change(&r)
		_, _ = p.Place(t.Context(), r) // nothing is in stock; the fingerprint is what counts
		return len(store.seen)
	}
	if n := place(func(*order.Request) {}); n != 1 {
		t.Fatalf("%d fingerprints", n)
	}
	for name, same := range map[string]func(*order.Request){
		"other order of lines": func(r *order.Request) { r.Items[0], r.Items[1] = r.Items[1], r.Items[0] },
		"a line split in two": func(r *order.Request) {
			r.Items = append([]order.Item{{SKU: "b", Quantity: 1}, {SKU: "b", Quantity: 1}}, r.Items[0])
		},
		"another key and trace": func(r *order.Request) { r.Key, r.Trace = "k2", "t" },
	} {
		if n := place(same); n != 1 {
			t.Errorf("%s: another fingerprint", name)
		}
	}
	want := 1
	for name, other := range map[string]func(*order.Request){
		"another quantity": func(r *order.Request) { r.Items[0].Quantity = 2 },
		"another SKU":      func(r *order.Request) { r.Items[0].SKU = "c" },
		"another token":    func(r *order.Request) { r.PaymentToken = "tok_declined" },
		"a note":           func(r *order.Request) { r.Note = "x" },
		"an e-mail":        func(r *order.Request) { r.Email = "x@y.z" },
		"a phone":          func(r *order.Request) { r.Phone = "12345" },
		"a street":         func(r *order.Request) { r.Address = &order.Address{Line1: "x"} },
		"a city":           func(r *order.Request) { r.Address = &order.Address{City: "x"} },
	} {
		want++
		if n := place(other); n != want {
			t.Errorf("%s: the same fingerprint", name)
		}
	}
}

// gated is a store whose Place waits.
type gated struct {
	*memory
	began, proceed chan struct{}
	err            error
}

func (g *gated) Place(ctx context.Context, placements []*order.Placement, p order.Policy) error {
	g.began <- struct{}{}
	<-g.proceed
	if g.err != nil {
		return g.err
	}
	return g.memory.Place(ctx, placements, p)
}

func TestACallerWhoLeavesHarmsNoOther(t *testing.T) {
	store := &gated{newMemory(), make(chan struct{}), make(chan struct{}), nil}
	store.stock["a"] = order.StockChange{OnHand: 5}
	p := newPlacer(t, store, nil)
	ctx, cancel := context.WithCancel(t.Context())
	errs := make(chan error, 2)
	place := func(ctx context.Context) {
		_, err := p.Place(ctx, request())
		errs <- err
	}
	go place(ctx)
	<-store.began
	go place(t.Context())
	cancel()
	var u *order.Unavailable
	if err := <-errs; !errors.As(err, &u) || !u.Unknown {
		t.Errorf("who left during the write is told: %v", err)
	}
	store.proceed <- struct{}{}
	<-store.began
	store.proceed <- struct{}{}
	if err := <-errs; err != nil {
		t.Errorf("the other: %v", err)
	}
	if n := len(store.orders); n != 2 {
		t.Errorf("%d orders; the write of the one who left goes on too", n)
	}
}

func TestFailuresOfTheStoreAreToldApart(t *testing.T) {
	for _, c := range []struct {
		err     error
		reason  string
		unknown bool
	}{
		{errors.New("disk I/O error"), "store-unavailable", false},
		{fmt.Errorf("commit: %w", order.ErrUnknownOutcome), "outcome-unknown", true},
	} {
		store := &gated{newMemory(), make(chan struct{}, 1), make(chan struct{}, 1), c.err}
		store.proceed <- struct{}{}
		_, err := newPlacer(t, store, nil).Place(t.Context(), request())
		var u *order.Unavailable
		if !errors.As(err, &u) || u.Reason != c.reason || u.Unknown != c.unknown || u.RetryAfter <= 0 {
			t.Errorf("%v: told %v", c.err, err)
		}
	}
}

func TestAFullQueueRefusesAtOnce(t *testing.T) {
	store := &gated{newMemory(), make(chan struct{}), make(chan struct{}), nil}
	store.stock["a"] = order.StockChange{OnHand: 9}
	p := newPlacer(t, store, func(o *order.PlacerOptions) { o.MaxBatch, o.MaxQueued = 1, 2 })
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			if _, err := p.Place(t.Context(), request()); err != nil {
				t.Error(err)
			}
		})
	}
	<-store.began
	for p.Admit() == nil { // until the second is queued too
		runtime.Gosched()
	}
	var u *order.Unavailable
	if _, err := p.Place(t.Context(), request()); !errors.As(err, &u) || u.Reason != "overloaded" || u.Unknown {
		t.Errorf("a third: %v", err)
	}
	store.proceed <- struct{}{}
	<-store.began
	store.proceed <- struct{}{}
	wg.Wait()
}
