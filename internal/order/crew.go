package order

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"millrace/internal/bus"
)

// CrewOptions say how many work at once. Bus, Worker, Store and DeadLetter are
// required.
type CrewOptions struct {
	Bus    bus.Bus
	Worker *Worker
	Store  Store
	// DeadLetter keeps a message that can never be processed.
	DeadLetter func(ctx context.Context, d *bus.Delivery, reason error) error
	// Payments, Fulfilment and Notices are how many orders are worked on at once for
	// each; 128, 64 and 16. They are separate, so that a slow payment provider holds
	// up no shipment.
	Payments, Fulfilment, Notices int
	// HandlerTimeout bounds the work on one message; 60 s.
	HandlerTimeout time.Duration
	// Sweep is how often the sweeper looks for what is due, 1 s; SweepLimit how many
	// orders it takes at a time, 256; SweepLease how long nobody else takes them, 1 min.
	Sweep      time.Duration
	SweepLimit int
	SweepLease time.Duration
	// KeyTTL is how long idempotency keys are kept; 24 h.
	KeyTTL time.Duration
	Now    func() time.Time
	// Expiry is the clock by which keys expire; Now if nil.
	Expiry  func() time.Time
	Logger  *slog.Logger
	Metrics *Metrics
}

// Crew runs the workers on what the bus brings, and the sweeper on what it does
// not. One crew runs in each instance that works.
type Crew struct{ o CrewOptions }

// NewCrew returns a Crew; Run starts it.
func NewCrew(o CrewOptions) (*Crew, error) {
	if o.Bus == nil || o.Worker == nil || o.Store == nil || o.DeadLetter == nil {
		return nil, errors.New("order: CrewOptions need Bus, Worker, Store and DeadLetter")
	}
	setDefault(&o.Payments, 128)
	setDefault(&o.Fulfilment, 64)
	setDefault(&o.Notices, 16)
	setDefault(&o.HandlerTimeout, time.Minute)
	setDefault(&o.Sweep, time.Second)
	setDefault(&o.SweepLimit, 256)
	setDefault(&o.SweepLease, time.Minute)
	setDefault(&o.KeyTTL, 24*time.Hour)
	fillCommon(&o.Now, &o.Logger, &o.Metrics)
	if o.Expiry == nil {
		o.Expiry = o.Now
	}
	return &Crew{o: o}, nil
}

// stopTimeout bounds how long handlers may take to end.
const stopTimeout = 10 * time.Second

// Run works until ctx ends. A bus that cannot be reached is tried again; the
// sweeper works meanwhile.
func (c *Crew) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	for _, g := range c.groups() {
		group.Go(func() error { return c.join(ctx, g.group, g.handle) })
	}
	group.Go(func() error { return c.sweep(ctx) })
	return group.Wait()
}

type membership struct {
	group  bus.Group
	handle bus.Handler
}

func (c *Crew) groups() []membership {
	make := func(name string, concurrency int, work func(ctx context.Context, subject string, t Told) error, subjects ...string) membership {
		return membership{
			bus.Group{Name: name, Subjects: subjects, Concurrency: concurrency, AckWait: c.o.HandlerTimeout, MaxAttempts: 20, DeadLetter: c.o.DeadLetter},
			func(ctx context.Context, d *bus.Delivery) error { return c.handle(ctx, d, work) },
		}
	}
	return []membership{
		make("payments", c.o.Payments, c.pay, "orders.placed", "orders.charging", "orders.cancelling", "orders.refunding"),
		make("fulfilment", c.o.Fulfilment, c.work, "orders.paid"),
		make("notices", c.o.Notices, c.tell, "orders.placed", "orders.shipped", "orders.completed", "orders.payment_failed", "orders.cancelled",
			"orders.expired", "orders.refunded"),
	}
}

func (c *Crew) handle(ctx context.Context, d *bus.Delivery, work func(context.Context, string, Told) error) error {
	var t Told
	if err := json.Unmarshal(d.Data, &t); err != nil || t.TenantID == "" || t.OrderID == "" {
		return fmt.Errorf("%w: its data name no order", bus.ErrPoison)
	}
	return work(ctx, d.Subject, t)
}

func (c *Crew) pay(ctx context.Context, subject string, t Told) error {
	if subject == subjectPrefix+string(Placed) {
		return c.o.Worker.Begin(ctx, Ref{t.TenantID, t.OrderID})
	}
	return c.work(ctx, subject, t)
}

// work looks at the order and goes on with it, unless it has moved on: then
// another message, or the sweeper, speaks of it.
func (c *Crew) work(ctx context.Context, _ string, t Told) error {
	o, err := c.o.Store.Order(ctx, t.TenantID, t.OrderID)
	if errors.Is(err, ErrNotFound) {
		return nil // a message that outlived its database
	}
	if err != nil {
		return err
	}
	if o.Version != t.Version {
		return nil
	}
	return c.o.Worker.next(ctx, o)
}

func (c *Crew) tell(ctx context.Context, subject string, t Told) error {
	return c.o.Worker.Tell(ctx, Status(strings.TrimPrefix(subject, subjectPrefix)), t)
}

// join subscribes, and keeps trying while the bus is away.
func (c *Crew) join(ctx context.Context, g bus.Group, h bus.Handler) error {
	for told := false; ; told = true {
		sub, err := c.o.Bus.Subscribe(ctx, g, h)
		if err == nil {
			<-ctx.Done()
			stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
			defer cancel()
			if err := sub.Close(stop); err != nil {
				c.o.Logger.Warn("work under way was cut short; the sweeper goes on with it", "group", g.Name, "error", err)
			}
			return nil
		}
		if ctx.Err() != nil {
			return nil
		}
		if !told {
			c.o.Logger.Error("a group of workers cannot join the message broker; the sweeper does its work meanwhile", "group", g.Name, "error", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(2 * time.Second):
		}
	}
}
