package order_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"millrace/internal/order"
)

// memory is an order.Store in memory that knows only what workers need. Stock is
// what orders took of it: negative numbers in reserved would be a defect.
type memory struct {
	mu      sync.Mutex
	orders  map[order.Ref]order.Order
	stock   map[string]order.StockChange
	told    []order.Message
	history []order.HistoryEntry
	letters int
	// before and after are asked around every call that changes something; an error
	// of before means that it did not take place.
	before func(call string) error
	after  func(call string)
}

func newMemory(orders ...order.Order) *memory {
	m := &memory{orders: map[order.Ref]order.Order{}, stock: map[string]order.StockChange{}}
	for _, o := range orders {
		m.orders[order.Ref{TenantID: o.TenantID, ID: o.ID}] = o
		for _, l := range o.Lines {
			m.stock[l.SKU] = order.StockChange{OnHand: m.stock[l.SKU].OnHand + 10, Reserved: m.stock[l.SKU].Reserved + l.Quantity}
		}
	}
	return m
}

func (m *memory) guarded(call string, do func()) error {
	if m.before != nil {
		if err := m.before(call); err != nil {
			return err
		}
	}
	m.mu.Lock()
	do()
	m.mu.Unlock()
	if m.after != nil {
		m.after(call)
	}
	return nil
}

func (m *memory) Place(_ context.Context, placements []*order.Placement, p order.Policy) error {
	return m.guarded("place", func() {
		for _, pl := range placements {
			offers := map[order.ShelfKey]*order.Offer{}
			for _, k := range order.Demands([]*order.Placement{pl}) {
				s := m.stock[k.SKU]
				offers[k] = &order.Offer{Known: true, Active: true, UnitPrice: 500, Currency: "EUR", Available: s.OnHand - s.Reserved}
			}
			if order.Allocate(offers, []*order.Placement{pl}); pl.Err != nil {
				continue
			}
			for k, offer := range offers {
				s := m.stock[k.SKU]
				s.Reserved += offer.Taken
				m.stock[k.SKU] = s
			}
			o, change := p.Begin(pl.Order)
			m.put(o, change)
			pl.Placed = o
		}
	})
}

func (m *memory) put(o order.Order, change order.Change) {
	m.orders[order.Ref{TenantID: o.TenantID, ID: o.ID}] = o
	for _, c := range change.Stock {
		s := m.stock[c.SKU]
		m.stock[c.SKU] = order.StockChange{OnHand: s.OnHand + c.OnHand, Reserved: s.Reserved + c.Reserved}
	}
	m.told = append(m.told, change.Messages...)
	m.history = append(m.history, change.History)
	if change.Park {
		m.letters++
	}
}

func (m *memory) Advance(_ context.Context, steps []*order.Step, p order.Policy) ([]order.Outcome, error) {
	outcomes := make([]order.Outcome, len(steps))
	name := "advance"
	if len(steps) == 1 {
		name += " " + string(steps[0].Event)
	}
	return outcomes, m.guarded(name, func() {
		for i, s := range steps {
			o, ok := m.orders[order.Ref{TenantID: s.TenantID, ID: s.OrderID}]
			if !ok {
				outcomes[i].Err = order.ErrNotFound
				continue
			}
			next, change, err := p.Apply(o, s)
			outcomes[i] = order.Outcome{Order: next, Applied: err == nil, Err: err}
			if err == nil {
				m.put(next, change)
			}
		}
	})
}

func (m *memory) Order(_ context.Context, tenantID, id string) (order.Order, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	o, ok := m.orders[order.Ref{TenantID: tenantID, ID: id}]
	if !ok {
		return o, order.ErrNotFound
	}
	return o, nil
}

func (m *memory) History(context.Context, string, string) ([]order.HistoryEntry, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.history), nil
}

func (m *memory) Orders(_ context.Context, q order.Query) (order.Page, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var page order.Page
	for _, o := range m.orders {
		if o.TenantID == q.TenantID && (q.CustomerID == "" || q.CustomerID == o.CustomerID) {
			page.Orders = append(page.Orders, o)
		}
	}
	return page, nil
}

func (m *memory) Due(_ context.Context, now, until time.Time, limit int) ([]order.Order, error) {
	var due []order.Order
	return due, m.guarded("due", func() {
		for r, o := range m.orders {
			if len(due) < limit && !o.NextAttempt.IsZero() && !o.NextAttempt.After(now) && !o.Parked() {
				o.NextAttempt = until
				m.orders[r] = o
				due = append(due, o)
			}
		}
	})
}

func (m *memory) Defer(_ context.Context, deferrals []order.Deferral) error {
	return m.guarded("defer", func() {
		for _, d := range deferrals {
			r := order.Ref{TenantID: d.TenantID, ID: d.OrderID}
			if o := m.orders[r]; o.Version == d.Version && !o.Parked() {
				o.NextAttempt, o.LastError = d.Until, d.Reason
				m.orders[r] = o
			}
		}
	})
}

func (m *memory) PullForward(_ context.Context, now, horizon time.Time) (int, error) {
	n := 0
	return n, m.guarded("pull", func() {
		for r, o := range m.orders {
			if o.Status.Working() && o.NextAttempt.After(horizon) {
				o.NextAttempt = now
				m.orders[r] = o
				n++
			}
		}
	})
}

func (m *memory) DropKeys(context.Context, time.Time, int) (int, error) { return 0, nil }

func (m *memory) CountByStatus(context.Context) (map[order.Status]int64, error) {
	return map[order.Status]int64{}, nil
}

// bank is a payment provider that keeps books and can be told how to behave.
type bank struct {
	mu       sync.Mutex
	charges  map[string]*order.Charge // by key
	captures int
	refunds  map[string]int64 // by key
	down     bool
	// behave is asked for each charge that is not yet decided.
	behave func() (order.ChargeState, error)
	// before and after as in memory.
	before func(call string) error
	after  func(call string)
}

func newBank() *bank {
	return &bank{charges: map[string]*order.Charge{}, refunds: map[string]int64{},
		behave: func() (order.ChargeState, error) { return order.ChargeCaptured, nil }}
}

func (b *bank) call(name string, do func() error) error {
	if b.before != nil {
		if err := b.before(name); err != nil {
			return err
		}
	}
	b.mu.Lock()
	err := do()
	b.mu.Unlock()
	if b.after != nil {
		b.after(name)
	}
	return err
}

func (b *bank) Available() (bool, time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return !b.down, time.Second
}

func (b *bank) Charge(_ context.Context, o *order.Order) (c order.Charge, err error) {
	err = b.call("charge", func() error {
		if b.down {
			return order.ErrPaymentsUnavailable
		}
		if known := b.charges[o.ChargeKey()]; known != nil {
			c = *known
			return nil
		}
		state, err := b.behave()
		if state == "" {
			return err
		}
		c = order.Charge{State: state, Ref: "ch_" + o.ID}
		if state == order.ChargeCaptured {
			c.Captured = o.Total
			b.captures++
		}
		made := c
		b.charges[o.ChargeKey()] = &made
		if err != nil {
			c = order.Charge{}
		}
		return err
	})
	return c, err
}

func (b *bank) Lookup(_ context.Context, o *order.Order) (c order.Charge, err error) {
	err = b.call("lookup", func() error {
		if b.down {
			return order.ErrPaymentsUnavailable
		}
		c = order.Charge{State: order.ChargeNone}
		if known := b.charges[o.ChargeKey()]; known != nil {
			c = *known
		}
		return nil
	})
	return c, err
}

func (b *bank) Void(_ context.Context, o *order.Order) (c order.Charge, err error) {
	err = b.call("void", func() error {
		if b.down {
			return order.ErrPaymentsUnavailable
		}
		known := b.charges[o.ChargeKey()]
		if known == nil {
			known = &order.Charge{State: order.ChargeVoided}
			b.charges[o.ChargeKey()] = known
		}
		c = *known
		return nil
	})
	return c, err
}

func (b *bank) Refund(_ context.Context, o *order.Order, key string, amount int64) error {
	return b.call("refund", func() error {
		if b.down {
			return order.ErrPaymentsUnavailable
		}
		if had, ok := b.refunds[key]; ok && had != amount {
			return &order.PaymentRejectedError{Code: "idempotency_mismatch"}
		}
		b.refunds[key] = amount
		var sum int64
		for _, r := range b.refunds {
			sum += r
		}
		if c := b.charges[o.ChargeKey()]; c == nil || sum > c.Captured {
			return &order.PaymentRejectedError{Code: "more_than_captured"}
		}
		return nil
	})
}

func (b *bank) refunded() (sum int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, r := range b.refunds {
		sum += r
	}
	return sum
}

// postbox is a merchant who keeps what it is told, once each.
type postbox struct {
	mu     sync.Mutex
	told   map[string]string // id to event
	err    error
	before func(call string) error
	after  func(call string)
}

func (p *postbox) Wants(context.Context, string, string) (bool, error) { return true, nil }

func (p *postbox) Notify(_ context.Context, n order.Notice) (int, error) {
	if p.before != nil {
		if err := p.before("notify"); err != nil {
			return 0, err
		}
	}
	p.mu.Lock()
	if p.err == nil {
		p.told[n.ID] = n.Event
	}
	err := p.err
	p.mu.Unlock()
	if p.after != nil {
		p.after("notify")
	}
	return 1, err
}

func (p *postbox) count(event string) (n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, e := range p.told {
		if e == event {
			n++
		}
	}
	return n
}

// world is an order with everything around it, and a clock that only the test
// moves.
type world struct {
	store   *memory
	bank    *bank
	postbox *postbox
	stepper *order.Stepper
	worker  *order.Worker
	now     time.Time
	mu      sync.Mutex
}

func (w *world) clock() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.now
}

func (w *world) pass(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.now = w.now.Add(d)
}

// boot starts the parts that a process holds, as after a restart.
func (w *world) boot() {
	var err error
	if w.stepper, err = order.NewStepper(order.StepperOptions{Store: w.store, Policy: policy, MinInterval: -1}); err != nil {
		panic(err)
	}
	w.worker, err = order.NewWorker(order.WorkerOptions{Store: w.store, Stepper: w.stepper, Payments: w.bank, Merchant: w.postbox, Now: w.clock})
	if err != nil {
		panic(err)
	}
}

func newWorld(o order.Order) *world {
	w := &world{store: newMemory(o), bank: newBank(), postbox: &postbox{told: map[string]string{}}, now: o.PlacedAt.Add(time.Second)}
	w.boot()
	return w
}

// only returns the one order of the world.
func (w *world) only() order.Order {
	w.store.mu.Lock()
	defer w.store.mu.Unlock()
	for _, o := range w.store.orders {
		return o
	}
	panic("there is no order")
}

// sweep works on what is due, as the sweeper does.
func (w *world) sweep(ctx context.Context) error {
	due, err := w.store.Due(ctx, w.clock(), w.clock().Add(time.Minute), 10)
	for _, o := range due {
		err = errors.Join(err, w.worker.Work(ctx, o))
	}
	return err
}

// books says what does not add up.
func (w *world) books() error {
	o := w.only()
	s := w.store.stock["a"]
	reserved, onHand := int64(0), int64(10)
	if o.Status.Reserves() && o.Progress.Shipment == nil {
		reserved = 2
	}
	if o.Progress.Shipment != nil {
		onHand = 8
	}
	switch kept := o.Captured - o.Refunded; {
	case w.bank.captures > 1:
		return fmt.Errorf("the card was charged %d times", w.bank.captures)
	case s.Reserved != reserved || s.OnHand != onHand:
		return fmt.Errorf("it is %s and %d of %d are reserved, want %d of %d", o.Status, s.Reserved, s.OnHand, reserved, onHand)
	case o.Status.Terminal() && kept != int64(w.bank.captures)*o.Total-w.bank.refunded():
		return fmt.Errorf("it is %s, we keep %d, the bank says captured %d and refunded %d", o.Status, kept, int64(w.bank.captures)*o.Total, w.bank.refunded())
	case o.Status.Terminal() && o.Status != order.Completed && kept != 0:
		return fmt.Errorf("it is %s and %d of the buyer's money are still here", o.Status, kept)
	}
	return nil
}
