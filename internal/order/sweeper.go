package order

import (
	"context"
	"time"

	"golang.org/x/sync/errgroup"
)

// sweep looks for orders that are due and works on them here, without the bus:
// what the bus lost, delayed or never got goes on all the same.
func (c *Crew) sweep(ctx context.Context) error {
	tick := time.NewTicker(c.o.Sweep)
	defer tick.Stop()
	clock := wallClock{now: c.o.Now, mono: time.Now}
	c.pullForward(ctx) // the clock may have been set back while nothing ran
	for chores := 0; ; chores++ {
		if clock.jumpedBack() {
			c.o.Logger.Warn("the clock was set back; orders that wait for a time far ahead are looked at now")
			c.pullForward(ctx)
		}
		c.sweepDue(ctx)
		if chores%15 == 0 {
			c.chores(ctx)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// maxSweeps bounds the batches of one sweep, so that what else the sweeper does
// gets its turn.
const maxSweeps = 40

// sweepDue works on what is due, until nothing is or enough was done for now.
func (c *Crew) sweepDue(ctx context.Context) {
	for n := 0; n < maxSweeps && ctx.Err() == nil; n++ {
		now := c.o.Now()
		due, err := c.o.Store.Due(ctx, now, now.Add(c.o.SweepLease), c.o.SweepLimit)
		if err != nil {
			if ctx.Err() == nil {
				c.o.Logger.Error("the sweeper cannot ask for orders that are due; it tries again", "error", err)
			}
			return
		}
		c.o.Metrics.swept.Add(float64(len(due)))
		var group errgroup.Group
		group.SetLimit(max(c.o.Payments, 1))
		for _, o := range c.o.Worker.putOff(ctx, due) {
			group.Go(func() error {
				c.workOne(ctx, o)
				return nil
			})
		}
		_ = group.Wait() // workOne tells
		if len(due) < c.o.SweepLimit {
			return
		}
	}
}

func (c *Crew) workOne(ctx context.Context, o Order) {
	ctx, cancel := context.WithTimeout(ctx, c.o.HandlerTimeout)
	defer cancel()
	defer func() {
		if v := recover(); v != nil {
			c.o.Logger.Error("working on an order panicked; it is tried again", "tenant", o.TenantID, "order", o.ID, "status", o.Status, "panic", v)
			_ = c.o.Worker.failed(ctx, &o, "a defect in the program: see its log", false)
		}
	}()
	if err := c.o.Worker.Work(ctx, o); err != nil && ctx.Err() == nil {
		c.o.Logger.Error("an order that was due could not be worked on; it is tried again", "tenant", o.TenantID, "order", o.ID, "status", o.Status, "error", err)
	}
}

// furthest is further ahead than any order of a working status ever waits.
const furthest = 2*backoffMost + time.Minute

func (c *Crew) pullForward(ctx context.Context) {
	now := c.o.Now()
	n, err := c.o.Store.PullForward(ctx, now, now.Add(furthest))
	if err != nil && ctx.Err() == nil {
		c.o.Logger.Error("orders that wait for a time far ahead could not be looked for", "error", err)
	}
	if n > 0 {
		c.o.Logger.Warn("orders waited for a time that only a clock set wrong explains; they go on now", "orders", n)
	}
}

// dropLimit bounds the keys removed in one transaction.
const dropLimit = 1000

// chores removes old keys and counts what is unfinished.
func (c *Crew) chores(ctx context.Context) {
	for ctx.Err() == nil {
		n, err := c.o.Store.DropKeys(ctx, c.o.Expiry().Add(-c.o.KeyTTL), dropLimit)
		if err != nil && ctx.Err() == nil {
			c.o.Logger.Error("old idempotency keys could not be removed; they are ignored all the same", "error", err)
		}
		if err != nil || n < dropLimit {
			break
		}
	}
	counts, err := c.o.Store.CountByStatus(ctx)
	if err != nil {
		return // the store's own troubles are told elsewhere
	}
	for _, s := range Statuses() {
		if !s.Terminal() {
			c.o.Metrics.unfinished.WithLabelValues(string(s)).Set(float64(counts[s]))
		}
	}
}

// wallClock notices that the clock was set back, by comparing it with one that
// cannot be.
type wallClock struct {
	now, mono          func() time.Time
	lastWall, lastMono time.Time
}

// tolerance is how far the clock may be moved before it counts as set back.
const tolerance = 5 * time.Second

func (c *wallClock) jumpedBack() bool {
	wall, mono := c.now().Round(0), c.mono()
	back := !c.lastWall.IsZero() && wall.Sub(c.lastWall) < mono.Sub(c.lastMono)-tolerance
	c.lastWall, c.lastMono = wall, mono
	return back
}
