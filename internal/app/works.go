package app

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

	"millrace/internal/bus"
	"millrace/internal/config"
	"millrace/internal/event"
	"millrace/internal/fulfilment"
	"millrace/internal/order"
	"millrace/internal/outbox"
)

// webhookLease is the least time that a delivery is left to who has claimed it,
// a third of it.
const webhookLease = 30 * time.Second

func days(n int) time.Duration { return time.Duration(n) * 24 * time.Hour }

// works is what works by itself on a server: the way out of the outbox, the
// workers on orders and the deliverer of webhooks.
//
//	store (outbox) ─▶ relay "bus" ────▶ bus ─▶ order.Crew ─▶ payments, webhooks
//	               └▶ relay "events" ─▶ event.Ingester
//	store (webhook deliveries) ─▶ fulfilment.Dispatcher ─▶ merchants
type works struct {
	core     *core
	payments *payments
	closers  []func() error

	relays     []*outbox.Relay
	crew       *order.Crew // nil if this instance does not work on orders
	dispatcher *fulfilment.Dispatcher
}

// openWorks opens the parts of works; close closes them.
func openWorks(c *core) (_ *works, err error) {
	w := &works{core: c}
	defer func() {
		if err != nil {
			err = errors.Join(err, w.close())
		}
	}()
	if w.payments, err = openPayments(c); err != nil {
		return nil, err
	}
	w.closers = append(w.closers, w.payments.close)
	w.payments.worker, err = order.NewWorker(order.WorkerOptions{Store: c.db.Orders(), Stepper: c.shop.stepper, Payments: w.payments,
		Merchant: merchantPort{c.shop.webhooks}, Logger: c.logger})
	if err != nil {
		return nil, err
	}
	if err := w.openRelays(); err != nil {
		return nil, err
	}
	if !c.cfg.Orders.Workers.Enabled || !c.has(config.RoleWorker) {
		return w, nil
	}
	w.dispatcher = fulfilment.NewDispatcher(c.shop.webhooks)
	w.crew, err = order.NewCrew(order.CrewOptions{
		Bus: c.bus, Worker: w.payments.worker, Store: c.db.Orders(), DeadLetter: c.keepMessage,
		Payments: c.cfg.Orders.Workers.Payments, Fulfilment: c.cfg.Orders.Workers.Fulfilment,
		KeyTTL: c.cfg.Orders.KeyTTL, Expiry: c.clock.Now, Logger: c.logger, Metrics: c.shop.metrics,
	})
	return w, err
}

// close closes what was opened, last first.
func (w *works) close() error {
	var all error
	for i := len(w.closers) - 1; i >= 0; i-- {
		all = errors.Join(all, w.closers[i]())
	}
	w.closers = nil
	return all
}

// Pauses of the relays between batches. What goes to the event log costs a sync
// of the disk each time, and nobody waits for it; what goes to the workers is
// waited for.
const (
	eventsInterval = 100 * time.Millisecond
	busInterval    = 2 * time.Millisecond
)

func (w *works) openRelays() error {
	metrics := outbox.NewMetrics(w.core.registry)
	for _, o := range []outbox.RelayOptions{
		{Lane: outbox.LaneBus, Deliver: outbox.BusDeliver(w.core.bus), MinInterval: busInterval},
		{Lane: outbox.LaneEvents, Deliver: w.core.deliverEvents, MinInterval: eventsInterval, Batch: 1000},
	} {
		o.Store, o.Condemn, o.Logger, o.Metrics = w.core.db.Outbox(), w.core.keepRow, w.core.logger, metrics
		relay, err := outbox.NewRelay(o)
		if err != nil {
			return err
		}
		w.relays = append(w.relays, relay)
	}
	return nil
}

// run works until ctx ends, or a part fails for good.
func (w *works) run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	for _, relay := range w.relays {
		group.Go(func() error { return relay.Run(ctx) })
	}
	if w.crew != nil {
		group.Go(func() error { return w.crew.Run(ctx) })
		group.Go(func() error { return w.dispatcher.Run(ctx) })
	}
	if demo := w.core.demo(); demo != nil {
		group.Go(func() error { return demo.merchant.Run(ctx) })
	}
	if err := group.Wait(); err != nil && ctx.Err() == nil {
		return fmt.Errorf("working on orders stopped: %w", err)
	}
	return nil
}

// deliverEvents brings what happened to orders into the event log.
func (c *core) deliverEvents(ctx context.Context, rows []outbox.Row) error {
	events := make([]event.Own, len(rows))
	for i := range rows {
		r := &rows[i]
		var h order.Happened
		if err := json.Unmarshal(r.Data, &h); err != nil {
			return &outbox.RowError{Seq: r.Seq, Reason: "its data cannot be read: " + err.Error()}
		}
		events[i] = event.Own{TenantID: r.TenantID, ID: r.ID, Type: r.Subject, Source: event.SourceOrders, Timestamp: r.At,
			Payload: h.Payload, Amount: h.Amount, Currency: h.Currency}
	}
	err := c.ingester.IngestOwn(ctx, events)
	var invalid *event.InvalidOwnError
	if errors.As(err, &invalid) {
		return &outbox.RowError{Seq: rows[invalid.Index].Seq, Reason: invalid.Reason}
	}
	return err
}

// merchantPort is fulfilment as orders see it.
type merchantPort struct{ webhooks *fulfilment.Service }

// Wants and Notify implement order.Merchant.
func (m merchantPort) Wants(ctx context.Context, tenantID, event string) (bool, error) {
	return m.webhooks.Wants(ctx, tenantID, event)
}

func (m merchantPort) Notify(ctx context.Context, n order.Notice) (int, error) {
	return m.webhooks.Notify(ctx, fulfilment.Notice{TenantID: n.TenantID, ID: n.ID, EventType: n.Event, OrderID: n.OrderID, At: n.At, Data: n.Data, Trace: n.Trace})
}

// probeBus says whether the broker is there. Without it orders are still taken
// and worked on, only slower, so no job needs it.
func probeBus(b bus.Bus) func(context.Context) error {
	return func(ctx context.Context) error {
		if err := b.Ping(ctx); err != nil {
			return errors.New("the message broker cannot be reached; the sweeper does its work meanwhile")
		}
		return nil
	}
}
