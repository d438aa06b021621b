package app

import (
	"context"
	"net/netip"
	"time"

	"millrace/internal/audit"
	"millrace/internal/catalog"
	"millrace/internal/config"
	"millrace/internal/deadletter"
	"millrace/internal/event"
	"millrace/internal/fulfilment"
	"millrace/internal/inventory"
	"millrace/internal/order"
)

// shop is what can be asked of the catalogue, the stock and the orders. It stands
// on the store alone, so a command without a server has it too; what works on
// orders by itself is works.
type shop struct {
	catalog  *catalog.Service
	stock    *inventory.Service
	audit    *audit.Log
	orders   *order.Service
	webhooks *fulfilment.Service
	placer   *order.Placer
	stepper  *order.Stepper
	metrics  *order.Metrics
}

func orderPolicy(o *config.Orders) order.Policy {
	return order.Policy{Lease: o.Lease, CompleteAfter: o.CompleteAfter, MaxAttempts: o.MaxAttempts}
}

// openShop opens the shop on the core's store. Closing the core closes it.
func (c *core) openShop(context.Context) (err error) {
	o, store := &c.cfg.Orders, c.db.Orders()
	s := &c.shop
	// An adjustment's key expires by the time it is made at, so that is the cautious one.
	s.stock = inventory.New(c.db.Inventory(), c.clock.Now)
	if err := c.openCatalog(); err != nil {
		return err
	}
	s.audit = audit.NewLog(c.db.Audit(), nil)
	s.metrics = order.NewMetrics(c.registry)
	s.placer, err = order.NewPlacer(order.PlacerOptions{
		Store: store, Policy: orderPolicy(o), PaymentDeadline: o.PaymentDeadline, KeyTTL: o.KeyTTL,
		MaxBatch: o.MaxBatch, MaxQueued: o.QueueMax, Changed: c.changed(), Expiry: c.clock.Now, Logger: c.logger, Metrics: s.metrics,
	})
	if err != nil {
		return err
	}
	c.onClose(func() error { s.placer.Close(); return nil })
	s.stepper, err = order.NewStepper(order.StepperOptions{Store: store, Policy: orderPolicy(o), Changed: c.changed(), Logger: c.logger, Metrics: s.metrics})
	if err != nil {
		return err
	}
	c.onClose(func() error { s.stepper.Close(); return nil })
	s.orders, err = order.NewService(order.ServiceOptions{Store: store, Placer: s.placer, Stepper: s.stepper, Cache: c.reads.orders, KeyTTL: o.KeyTTL, Expiry: c.clock.Now, Metrics: s.metrics})
	if err != nil {
		return err
	}
	return c.openWebhooks()
}

func (c *core) openWebhooks() (err error) {
	w := &c.cfg.Webhooks
	policy := fulfilment.Policy{AllowPlain: w.AllowHTTP, Timeout: w.Timeout, InFlight: w.MaxConcurrent, Lease: 3 * max(w.Timeout, webhookLease),
		KeepSettled: days(w.RetentionDays)}
	for _, n := range w.AllowedNets {
		prefix, err := netip.ParsePrefix(n)
		if err != nil {
			return err
		}
		policy.AllowedNets = append(policy.AllowedNets, prefix)
	}
	policy.AllowedHosts = c.demo().hosts()
	c.shop.webhooks, err = fulfilment.New(fulfilment.Options{Store: c.db.Webhooks(), Policy: policy, Version: Version(),
		Logger: c.logger, Metrics: fulfilment.NewMetrics(c.registry)})
	if err != nil {
		return err
	}
	c.onClose(func() error { c.shop.webhooks.Close(); return nil })
	return nil
}

// openLetters opens what operators do with dead letters of every kind.
func (c *core) openLetters(context.Context) error {
	c.letters = deadletter.NewService(c.db.DeadLetters(), redriver{
		events: event.Redriver{Ingester: c.ingester, Store: c.db.Events(), Commits: c.intake}, core: c,
	}, time.Now, c.logger).WithAudit(c.shop.audit)
	return nil
}
