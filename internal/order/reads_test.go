package order_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"millrace/internal/audit"
	"millrace/internal/cache"
	"millrace/internal/order"
)

// metered is a store that counts its reads, and can be away or slow.
type metered struct {
	*memory
	orders, lists atomic.Int64
	away          atomic.Bool
	// behind, if set, is what a replica knows.
	behind *memory
	// read, if set, runs within a read after the order was read.
	read func()
}

var errAway = errors.New("connection refused")

func (c *metered) Order(ctx context.Context, tenantID, id string) (order.Order, error) {
	c.orders.Add(1)
	if c.away.Load() {
		return order.Order{}, errAway
	}
	o, err := c.memory.Order(ctx, tenantID, id)
	if c.read != nil {
		c.read()
	}
	return o, err
}

func (c *metered) Orders(ctx context.Context, q order.Query) (order.Page, error) {
	c.lists.Add(1)
	if c.away.Load() {
		return order.Page{}, errAway
	}
	from := c.memory
	if c.behind != nil && !q.Fresh {
		from = c.behind
	}
	page, err := from.Orders(ctx, q)
	slices.SortFunc(page.Orders, func(a, b order.Order) int { return b.PlacedAt.Compare(a.PlacedAt) })
	if q.Status != "" {
		page.Orders = slices.DeleteFunc(page.Orders, func(o order.Order) bool { return o.Status != q.Status })
	}
	if len(page.Orders) > q.Limit {
		page.Orders = page.Orders[:q.Limit]
	}
	return page, err
}

func (c *metered) Advance(ctx context.Context, steps []*order.Step, p order.Policy) ([]order.Outcome, error) {
	if c.away.Load() {
		return nil, errAway
	}
	return c.memory.Advance(ctx, steps, p)
}

// shop is one instance: a service whose reads are remembered.
type shop struct {
	*order.Service
	stepper *order.Stepper
}

// newShop opens an instance on a store until the test's end; within a bubble of
// synctest the test closes it itself.
func newShop(t testing.TB, store order.Store, o order.ReadsOptions) (s shop, closeAll func()) {
	t.Helper()
	reads, err := order.NewReads(o)
	if err != nil {
		t.Fatal(err)
	}
	return shopOver(t, store, reads)
}

func shopOver(t testing.TB, store order.Store, reads *order.Reads) (s shop, closeAll func()) {
	t.Helper()
	placer, err := order.NewPlacer(order.PlacerOptions{Store: store, Policy: policy, MinInterval: -1, Changed: reads.Changed})
	if err != nil {
		t.Fatal(err)
	}
	stepper, err := order.NewStepper(order.StepperOptions{Store: store, Policy: policy, MinInterval: -1, Changed: reads.Changed})
	if err != nil {
		t.Fatal(err)
	}
	service, err := order.NewService(order.ServiceOptions{Store: store, Placer: placer, Stepper: stepper, Cache: reads})
	if err != nil {
		t.Fatal(err)
	}
	closeAll = sync.OnceFunc(func() {
		placer.Close()
		stepper.Close()
		reads.Close()
	})
	t.Cleanup(closeAll)
	return shop{service, stepper}, closeAll
}

func annsOrder() order.Order {
	return order.Order{TenantID: "demo", ID: "o1", CustomerID: "ann", Status: order.Placed, Version: 1, Currency: "EUR", Total: 1000,
		Lines: []order.Line{{SKU: "a", Quantity: 2, UnitPrice: 500}}, PlacedAt: time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC),
		Details:  order.Details{PaymentToken: "tok_secret", Trace: "00-trace", Email: "ann@example.com", Address: &order.Address{Name: "Ann", City: "Graz"}},
		Progress: order.Progress{PaymentRef: "ch_secret"}}
}

var (
	merchant = order.Viewer{TenantID: "demo"}
	ann      = order.Viewer{TenantID: "demo", CustomerID: "ann"}
	bob      = order.Viewer{TenantID: "demo", CustomerID: "bob"}
	stranger = order.Viewer{TenantID: "other"}
	twin     = order.Viewer{TenantID: "other", CustomerID: "ann"} // the same subject, of another tenant
)

func cancelOf(v order.Viewer, id string) order.Command {
	return order.Command{Viewer: v, OrderID: id, Actor: audit.Actor{Subject: "ann"}}
}

func TestOneCachedOrderServesItsMerchantAndItsBuyerAndNobodyElse(t *testing.T) {
	store := &metered{memory: newMemory(annsOrder())}
	s, _ := newShop(t, store, order.ReadsOptions{TTL: time.Minute})
	want := annsOrder()
	want.Details.PaymentToken, want.Details.Trace, want.Progress.PaymentRef = "", "", ""
	for range 2 {
		for name, v := range map[string]order.Viewer{"merchant": merchant, "ann": ann} {
			view, err := s.Cached(t.Context(), v, "o1")
			if err != nil {
				t.Fatal(name, err)
			}
			if diff := cmp.Diff(order.View{Order: want, Age: view.Age}, view); diff != "" {
				t.Errorf("%s sees (-want +got):\n%s", name, diff)
			}
		}
		for name, v := range map[string]order.Viewer{"bob": bob, "stranger": stranger, "ann of another tenant": twin} {
			if view, err := s.Cached(t.Context(), v, "o1"); !errors.Is(err, order.ErrNotFound) || view.Order.ID != "" {
				t.Errorf("%s sees %+v, %v", name, view, err)
			}
		}
	}
	if n := store.orders.Load(); n != 2 { // demo's, and that other has none
		t.Errorf("the store was read %d times, want 2", n)
	}
}

func TestACustomersFirstPageIsKeptForThatCustomerOnly(t *testing.T) {
	bobs := annsOrder()
	bobs.ID, bobs.CustomerID = "o2", "bob"
	store := &metered{memory: newMemory(annsOrder(), bobs)}
	s, _ := newShop(t, store, order.ReadsOptions{TTL: time.Minute})
	ids := func(v order.Viewer, q order.Query) string {
		view, err := s.CachedList(t.Context(), v, q)
		text := fmt.Sprint(err)
		for _, o := range view.Page.Orders {
			text += " " + o.ID
			if o.Details.PaymentToken != "" {
				t.Error("a page shows a payment token")
			}
		}
		return text
	}
	for range 2 {
		for _, c := range []struct {
			name string
			v    order.Viewer
			q    order.Query
			want string
		}{
			{"ann", ann, order.Query{Limit: 10}, "<nil> o1"},
			{"ann, who says so", ann, order.Query{Limit: 10, CustomerID: "ann"}, "<nil> o1"},
			{"the merchant, of ann", merchant, order.Query{Limit: 10, CustomerID: "ann"}, "<nil> o1"},
			{"ann by status", ann, order.Query{Limit: 10, Status: order.Paid}, "<nil>"},
			{"bob", bob, order.Query{Limit: 10}, "<nil> o2"},
			{"bob, who asks for ann's", bob, order.Query{Limit: 10, CustomerID: "ann"}, "<nil>"},
			{"bob, who names another tenant", bob, order.Query{Limit: 10, TenantID: "other"}, "<nil> o2"},
			{"ann of another tenant", twin, order.Query{Limit: 10}, "<nil>"},
			{"another merchant, of ann", stranger, order.Query{Limit: 10, CustomerID: "ann"}, "<nil>"},
		} {
			if got := ids(c.v, c.q); got != c.want {
				t.Errorf("%s sees %q, want %q", c.name, got, c.want)
			}
		}
	}
	if n := store.lists.Load(); n != 4 { // ann's, ann's paid ones, bob's, those of the other tenant's ann
		t.Errorf("the store was read %d times, want 4", n)
	}
}

func TestOtherPagesAreReadFromTheStoreEachTime(t *testing.T) {
	for name, q := range map[string]order.Query{
		"all customers":          {Limit: 10},
		"a later page":           {Limit: 10, CustomerID: "ann", Cursor: "x"},
		"more than anybody asks": {Limit: 1000, CustomerID: "ann"},
		"a status that is none":  {Limit: 10, CustomerID: "ann", Status: "a/b"},
		"a customer of a novel":  {Limit: 10, CustomerID: string(make([]byte, 1000))},
	} {
		store := &metered{memory: newMemory(annsOrder())}
		s, _ := newShop(t, store, order.ReadsOptions{TTL: time.Minute})
		for range 3 {
			if _, err := s.CachedList(t.Context(), merchant, q); err != nil {
				t.Error(name, err)
			}
		}
		if n := store.lists.Load(); n != 3 {
			t.Errorf("%s: the store was read %d times, want 3", name, n)
		}
	}
}

func TestAnIDThatCanBeNoOrdersTakesNoMemory(t *testing.T) {
	store := &metered{memory: newMemory(annsOrder())}
	s, _ := newShop(t, store, order.ReadsOptions{TTL: time.Minute, NegativeTTL: time.Minute})
	for range 3 {
		if _, err := s.Cached(t.Context(), ann, strings.Repeat("x", 65)); !errors.Is(err, order.ErrNotFound) {
			t.Error(err)
		}
	}
	if n := store.orders.Load(); n != 3 {
		t.Errorf("the store was read %d times, want 3", n)
	}
}

func TestReadsRefuseOptionsThatMakeNoSense(t *testing.T) {
	for name, o := range map[string]order.ReadsOptions{
		"LoadTimeout": {LoadTimeout: -time.Second},
		"TTL":         {TTL: -time.Second},
		"MaxBytes":    {MaxBytes: -1 << 20},
		"Instance":    {Peers: &town{}},
	} {
		if r, err := order.NewReads(o); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
			if r != nil {
				r.Close()
			}
		}
	}
}

func TestAfterACommandReadersSeeWhatItDid(t *testing.T) {
	store := &metered{memory: newMemory(annsOrder())}
	s, _ := newShop(t, store, order.ReadsOptions{TTL: time.Minute})
	see := func() string {
		view, err := s.Cached(t.Context(), ann, "o1")
		list, err2 := s.CachedList(t.Context(), ann, order.Query{Limit: 10})
		text := fmt.Sprintf("%s %d %v:", view.Order.Status, view.Order.Version, errors.Join(err, err2))
		for _, o := range list.Page.Orders {
			text += fmt.Sprint(" ", o.Status)
		}
		return text
	}
	for range 2 {
		if got := see(); got != "placed 1 <nil>: placed" {
			t.Fatalf("before: %s", got)
		}
	}
	if _, err := s.Cancel(t.Context(), cancelOf(ann, "o1")); err != nil {
		t.Fatal(err)
	}
	if got := see(); got != "cancelled 2 <nil>: cancelled" {
		t.Errorf("after the cancel: %s", got)
	}
	receipt, err := s.Place(t.Context(), request())
	if err != nil {
		t.Fatal(err)
	}
	if got := see(); got != "cancelled 2 <nil>: placed cancelled" {
		t.Errorf("after a placement: %s", got)
	}
	if view, err := s.Cached(t.Context(), ann, receipt.Order.ID); err != nil || view.Order.Status != order.Placed {
		t.Errorf("what was placed is %q, %v", view.Order.Status, err)
	}
}

func TestABuyerFindsAPlacementInTheListWhateverAReplicaKnows(t *testing.T) {
	store := &metered{memory: newMemory(annsOrder()), behind: newMemory(annsOrder())}
	store.stock["a"] = order.StockChange{OnHand: 5}
	s, _ := newShop(t, store, order.ReadsOptions{TTL: time.Minute})
	list := func(v order.Viewer, q order.Query) int {
		t.Helper()
		view, err := s.CachedList(t.Context(), v, q)
		if err != nil {
			t.Fatal(err)
		}
		return len(view.Page.Orders)
	}
	if n := list(ann, order.Query{Limit: 10}); n != 1 {
		t.Fatalf("before: %d orders", n)
	}
	if _, err := s.Place(t.Context(), request()); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if n := list(ann, order.Query{Limit: 10}); n != 2 {
			t.Errorf("ann sees %d orders after her placement, want 2", n)
		}
	}
	if n := list(merchant, order.Query{Limit: 10}); n != 1 {
		t.Errorf("the list of all customers has %d orders: it is not a replica's", n)
	}
}

// foreseen is a store that says which order will be placed.
type foreseen struct {
	*metered
	before func(id string)
}

func (f *foreseen) Place(ctx context.Context, placements []*order.Placement, p order.Policy) error {
	f.before(placements[0].Order.ID)
	return f.metered.Place(ctx, placements, p)
}

func TestAnIDThatWasNotThereIsSeenOnceItIsPlaced(t *testing.T) {
	store := &foreseen{metered: &metered{memory: newMemory()}}
	store.stock["a"] = order.StockChange{OnHand: 5}
	s, _ := newShop(t, store, order.ReadsOptions{TTL: time.Minute, NegativeTTL: time.Minute})
	store.before = func(id string) {
		for range 1000 {
			if _, err := s.Cached(context.Background(), ann, id); !errors.Is(err, order.ErrNotFound) {
				t.Errorf("before it is placed: %v", err)
			}
		}
	}
	receipt, err := s.Place(t.Context(), request())
	if err != nil {
		t.Fatal(err)
	}
	if n := store.orders.Load(); n != 1 {
		t.Errorf("the store was asked %d times for what is not there, want 1", n)
	}
	if _, err := s.Cached(t.Context(), ann, receipt.Order.ID); err != nil {
		t.Errorf("after it was placed: %v", err)
	}
}

func TestAWriteDuringASlowReadIsNotOverwrittenByIt(t *testing.T) {
	store := &metered{memory: newMemory(annsOrder())}
	s, _ := newShop(t, store, order.ReadsOptions{TTL: time.Minute})
	reading, goOn := make(chan struct{}), make(chan struct{})
	var first atomic.Bool
	store.read = func() {
		if first.CompareAndSwap(false, true) {
			close(reading)
			<-goOn
		}
	}
	slow := make(chan error, 1)
	go func() {
		_, err := s.Cached(context.Background(), ann, "o1")
		slow <- err
	}()
	<-reading // the order as it was is on its way
	if _, err := s.Cancel(t.Context(), cancelOf(merchant, "o1")); err != nil {
		t.Fatal(err)
	}
	see := func(when string) {
		if view, err := s.Cached(t.Context(), ann, "o1"); err != nil || view.Order.Status != order.Cancelled {
			t.Errorf("%s: %q, %v", when, view.Order.Status, err)
		}
	}
	see("while the slow read goes on")
	close(goOn)
	if err := <-slow; err != nil {
		t.Errorf("the slow read: %v", err)
	}
	see("after the slow read")
}

func TestWhileTheDatabaseIsAwayReadersSeeWhatWasAndCommandsFail(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &metered{memory: newMemory(annsOrder())}
		s, done := newShop(t, store, order.ReadsOptions{})
		defer done()
		read := func() (order.View, order.ListView, error) {
			view, err := s.Cached(t.Context(), ann, "o1")
			list, err2 := s.CachedList(t.Context(), ann, order.Query{Limit: 10})
			return view, list, errors.Join(err, err2)
		}
		if view, list, err := read(); err != nil || view.Stale || list.Stale {
			t.Fatalf("while all is well: %+v %+v %v", view, list, err)
		}
		store.away.Store(true)
		time.Sleep(time.Minute)
		view, list, err := read()
		if err != nil || !view.Stale || view.Age < time.Minute || view.Order.Status != order.Placed {
			t.Errorf("after a minute: stale %t, age %v, %q, %v", view.Stale, view.Age, view.Order.Status, err)
		}
		if !list.Stale || list.Age < time.Minute || len(list.Page.Orders) != 1 {
			t.Errorf("the page after a minute: stale %t, age %v, %d orders", list.Stale, list.Age, len(list.Page.Orders))
		}
		if _, err := s.Cached(t.Context(), bob, "o1"); !errors.Is(err, order.ErrNotFound) {
			t.Errorf("somebody else gets %v for what is stale", err)
		}
		if _, err := s.Cancel(t.Context(), cancelOf(ann, "o1")); !errors.Is(err, errAway) {
			t.Errorf("a command: %v, want the store's error", err)
		}
		if _, err := s.Order(t.Context(), ann, "o1"); !errors.Is(err, errAway) {
			t.Errorf("the order itself: %v, want the store's error", err)
		}
		if _, err := s.Cached(t.Context(), ann, "o2"); !errors.Is(err, errAway) {
			t.Errorf("an order that nobody has seen: %v, want the store's error", err)
		}
		store.away.Store(false)
		time.Sleep(2 * time.Second) // until it may be asked again
		synctest.Wait()
		if view, list, err := read(); err != nil || view.Stale || list.Stale {
			t.Errorf("after it came back: %t %t %v", view.Stale, list.Stale, err)
		}
		store.away.Store(true)
		time.Sleep(6 * time.Minute)
		if _, _, err := read(); !errors.Is(err, errAway) {
			t.Errorf("after six minutes: %v, want the store's error", err)
		}
	})
}

func TestAReadOfAStoreThatDoesNotAnswerEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, done := newShop(t, deaf{newMemory()}, order.ReadsOptions{})
		defer done()
		began := time.Now()
		if _, err := s.Cached(context.Background(), ann, "o1"); !errors.Is(err, context.DeadlineExceeded) || time.Since(began) != 5*time.Second {
			t.Errorf("after %v: %v, want context.DeadlineExceeded after 5 s", time.Since(began), err)
		}
	})
}

// doubtful is a store that commits and says that it does not know.
type doubtful struct{ *metered }

func (d doubtful) Advance(ctx context.Context, steps []*order.Step, p order.Policy) ([]order.Outcome, error) {
	_, err := d.metered.Advance(ctx, steps, p)
	return nil, errors.Join(err, order.ErrUnknownOutcome)
}

func (d doubtful) Place(ctx context.Context, placements []*order.Placement, p order.Policy) error {
	return errors.Join(d.metered.Place(ctx, placements, p), order.ErrUnknownOutcome)
}

func TestWhatMayHaveChangedIsReadAgain(t *testing.T) {
	store := doubtful{&metered{memory: newMemory(annsOrder())}}
	s, _ := newShop(t, store, order.ReadsOptions{TTL: time.Minute})
	if _, err := s.Cached(t.Context(), ann, "o1"); err != nil {
		t.Fatal(err)
	}
	list := func() int {
		view, err := s.CachedList(t.Context(), ann, order.Query{Limit: 10})
		if err != nil {
			t.Fatal(err)
		}
		return len(view.Page.Orders)
	}
	if n := list(); n != 1 {
		t.Fatalf("%d orders", n)
	}
	var u *order.Unavailable
	if _, err := s.Cancel(t.Context(), cancelOf(ann, "o1")); !errors.As(err, &u) || !u.Unknown {
		t.Fatalf("the cancel: %v", err)
	}
	if view, err := s.Cached(t.Context(), ann, "o1"); err != nil || view.Order.Status != order.Cancelled {
		t.Errorf("after a cancel of which nobody knows: %q, %v", view.Order.Status, err)
	}
	if _, err := s.Place(t.Context(), request()); !errors.As(err, &u) || !u.Unknown {
		t.Fatalf("the placement: %v", err)
	}
	if n := list(); n != 2 {
		t.Errorf("%d orders after a placement of which nobody knows, want 2", n)
	}
}

// crashing is a store that commits and panics.
type crashing struct{ *metered }

func (c crashing) Advance(ctx context.Context, steps []*order.Step, p order.Policy) ([]order.Outcome, error) {
	_, _ = c.metered.Advance(ctx, steps, p)
	panic("after the commit")
}

func (c crashing) Place(ctx context.Context, placements []*order.Placement, p order.Policy) error {
	_ = c.metered.Place(ctx, placements, p)
	panic("after the commit")
}

func TestWhatMayHaveChangedBeforeAPanicIsReadAgain(t *testing.T) {
	store := crashing{&metered{memory: newMemory(annsOrder())}}
	store.stock["a"] = order.StockChange{OnHand: 5}
	s, _ := newShop(t, store, order.ReadsOptions{TTL: time.Minute})
	see := func() string {
		view, err := s.Cached(t.Context(), ann, "o1")
		list, err2 := s.CachedList(t.Context(), ann, order.Query{Limit: 10})
		return fmt.Sprint(view.Order.Status, " of ", len(list.Page.Orders), errors.Join(err, err2))
	}
	if got := see(); got != "placed of 1 <nil>" {
		t.Fatal(got)
	}
	var u *order.Unavailable
	if _, err := s.Cancel(t.Context(), cancelOf(ann, "o1")); !errors.As(err, &u) || !u.Unknown {
		t.Fatalf("the cancel: %v", err)
	}
	if got := see(); got != "cancelled of 1 <nil>" {
		t.Errorf("after a cancel that panicked: %s", got)
	}
	if _, err := s.Place(t.Context(), request()); !errors.As(err, &u) || !u.Unknown {
		t.Fatalf("the placement: %v", err)
	}
	if got := see(); got != "cancelled of 2 <nil>" {
		t.Errorf("after a placement that panicked: %s", got)
	}
}

func TestAnOrderThatTheCacheCannotPlaceInTimeIsReadFromTheStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &metered{memory: newMemory(annsOrder())}
		reads, err := order.NewReads(order.ReadsOptions{})
		if err != nil {
			t.Fatal(err)
		}
		s, done := shopOver(t, store, reads)
		defer done()
		// A failover lost what was committed, and the order moves on while it is read.
		reads.Changed([]order.Order{{TenantID: "demo", ID: "o1", CustomerID: "ann", Version: 70}})
		store.read = func() {
			store.mu.Lock()
			defer store.mu.Unlock()
			r := order.Ref{TenantID: "demo", ID: "o1"}
			o := store.memory.orders[r]
			o.Version++
			store.memory.orders[r] = o
		}
		for range 2 {
			before := store.orders.Load()
			view, err := s.Cached(t.Context(), ann, "o1")
			if last := store.orders.Load(); err != nil || view.Order.Version != last || last == before {
				t.Errorf("version %d, %v; want what the database had when it was last asked, version %d", view.Order.Version, err, last)
			}
			if _, err := s.Cached(t.Context(), bob, "o1"); !errors.Is(err, order.ErrNotFound) {
				t.Errorf("somebody else: %v", err)
			}
		}
	})
}

func TestAFailedTransactionForgetsNothing(t *testing.T) {
	store := &metered{memory: newMemory(annsOrder())}
	s, _ := newShop(t, store, order.ReadsOptions{TTL: time.Minute})
	if _, err := s.Cached(t.Context(), ann, "o1"); err != nil {
		t.Fatal(err)
	}
	store.memory.before = func(string) error { return errAway }
	if _, err := s.Cancel(t.Context(), cancelOf(ann, "o1")); err == nil {
		t.Fatal("cancelled")
	}
	before := store.orders.Load()
	if view, err := s.Cached(t.Context(), ann, "o1"); err != nil || view.Order.Status != order.Placed {
		t.Errorf("%q, %v", view.Order.Status, err)
	}
	if n := store.orders.Load() - before; n != 0 {
		t.Errorf("the store was read %d times, want not at all", n)
	}
}

// town is what the instances of a test shout at each other, each at all others.
type town struct {
	mu   sync.Mutex
	ears map[int]func([]byte)
	next int
	deaf atomic.Bool // what is sent is lost
}

// Send tells all who listen, before it returns.
func (w *town) Send(_ context.Context, data []byte) error {
	if w.deaf.Load() {
		return nil
	}
	w.mu.Lock()
	ears := make([]func([]byte), 0, len(w.ears))
	for _, ear := range w.ears {
		ears = append(ears, ear)
	}
	w.mu.Unlock()
	for _, ear := range ears {
		ear(slices.Clone(data))
	}
	return nil
}

func (w *town) Listen(_ context.Context, h func([]byte)) (stop func(), err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.ears == nil {
		w.ears = map[int]func([]byte){}
	}
	n := w.next
	w.next++
	w.ears[n] = h
	return func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		delete(w.ears, n)
	}, nil
}

func TestAnotherInstanceSeesAChangeWhenItIsToldAndWithinFourSecondsIfItIsNot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, peers := &metered{memory: newMemory(annsOrder())}, &town{}
		here, closeHere := newShop(t, store, order.ReadsOptions{Peers: peers, Instance: "here"})
		defer closeHere()
		there, closeThere := newShop(t, store, order.ReadsOptions{Peers: peers, Instance: "there"})
		defer closeThere()
		synctest.Wait() // both listen
		see := func() string {
			view, err := there.Cached(t.Context(), ann, "o1")
			list, err2 := there.CachedList(t.Context(), ann, order.Query{Limit: 10})
			if err := errors.Join(err, err2); err != nil {
				return err.Error()
			}
			return fmt.Sprint(view.Order.Version, list.Page.Orders[0].Version)
		}
		step := func(e order.Event) {
			out, err := here.stepper.Do(t.Context(), order.Step{TenantID: "demo", OrderID: "o1", Event: e, At: time.Now(), Actor: "ann", Amount: 1000})
			if err != nil || !out.Applied {
				t.Fatal(e, err, out.Err)
			}
		}
		if got := see(); got != "1 1" {
			t.Fatal(got)
		}
		step(order.EventChargeIntended)
		time.Sleep(100 * time.Millisecond)
		if got := see(); got != "2 2" {
			t.Errorf("told: it sees %s", got)
		}
		peers.deaf.Store(true)
		step(order.EventCaptured)
		time.Sleep(4 * time.Second)
		if got := see(); got != "3 3" {
			t.Errorf("four seconds after a change that nobody told of: it sees %s", got)
		}
	})
}

// hanging is what instances share, and answers nobody before they give up.
type hanging struct{}

func hang(ctx context.Context) error {
	<-ctx.Done()
	return ctx.Err()
}

func (hanging) Check(ctx context.Context, _ string) (int64, error) { return 0, hang(ctx) }

func (hanging) Read(ctx context.Context, _, _ string, _ cache.Want) (cache.Record, error) {
	return cache.Record{}, hang(ctx)
}

func (hanging) Store(ctx context.Context, _, _, _ string, _ cache.Record) (bool, error) {
	return false, hang(ctx)
}

func (hanging) Release(ctx context.Context, _, _, _ string) error { return hang(ctx) }

func (hanging) Tell(ctx context.Context, _ string, _ []cache.News) (int64, error) {
	return 0, hang(ctx)
}

func (hanging) Distrust(ctx context.Context, _ string) error { return hang(ctx) }

func (hanging) Send(ctx context.Context, _ []byte) error { return hang(ctx) }

func (hanging) Listen(ctx context.Context, _ func([]byte)) (func(), error) { return nil, hang(ctx) }

func TestACommitWaitsNeitherForRedisNorForPeersAndIsSeenAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &metered{memory: newMemory(annsOrder())}
		s, done := newShop(t, store, order.ReadsOptions{Remote: hanging{}, Peers: hanging{}, Instance: "here"})
		defer done()
		for range 3 {
			if _, err := s.Cached(t.Context(), ann, "o1"); err != nil {
				t.Fatal(err)
			}
			time.Sleep(5 * time.Second)
		}
		began := time.Now() // of the bubble, whose time goes on only while all wait
		for i := range 20 {
			if _, err := s.Place(t.Context(), request()); err != nil && i < 8 {
				t.Fatal(err)
			}
		}
		if _, err := s.Cancel(t.Context(), cancelOf(ann, "o1")); err != nil {
			t.Fatal(err)
		}
		if waited := time.Since(began); waited != 0 {
			t.Errorf("commits waited %v for others", waited)
		}
		if view, err := s.Cached(t.Context(), ann, "o1"); err != nil || view.Order.Status != order.Cancelled {
			t.Errorf("after the cancel: %q, %v", view.Order.Status, err)
		}
	})
}
