package app

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

const (
	// retainEvery is how often what is too old is looked for.
	retainEvery = 10 * time.Minute
	// countEvery is how often the dead letters are counted for the metrics.
	countEvery = 15 * time.Second
	// dropLetters bounds one transaction that removes dead letters.
	dropLetters = 1000
)

// retain removes events and dead letters that are older than configured, and
// keeps the number of dead letters in a metric.
func (c *core) retain(ctx context.Context) {
	letters := promauto.With(c.registry).NewGaugeVec(prometheus.GaugeOpts{Name: "millrace_dead_letters",
		Help: "Dead letters kept now, by kind."}, []string{"kind"})
	count, drop := time.NewTicker(countEvery), time.NewTicker(retainEvery)
	defer count.Stop()
	defer drop.Stop()
	if !c.clockIsDoubtful(ctx) {
		c.dropOld(ctx)
	}
	for {
		c.countLetters(ctx, letters)
		select {
		case <-ctx.Done():
			return
		case <-drop.C:
			c.dropOld(ctx)
		case <-count.C:
		}
	}
}

// clockIsDoubtful says whether at the start the clock is days ahead of everything
// that is stored: it may not have been set yet. Then the first removal waits for
// the next round.
func (c *core) clockIsDoubtful(ctx context.Context) bool {
	last, err := c.db.Events().LastReceived(ctx)
	return err != nil || !last.IsZero() && c.clock.Now().Sub(last) > 48*time.Hour
}

func (c *core) countLetters(ctx context.Context, gauge *prometheus.GaugeVec) {
	counts, err := c.db.DeadLetters().Count(ctx)
	if err != nil {
		if ctx.Err() == nil {
			c.logger.Warn("dead letters could not be counted", "error", err)
		}
		return
	}
	gauge.Reset()
	for kind, n := range counts {
		gauge.WithLabelValues(string(kind)).Set(float64(n))
	}
}

func (c *core) dropOld(ctx context.Context) {
	// Dropping a day waits for who reads it.
	ctx, cancel := context.WithTimeout(ctx, retainEvery/2)
	defer cancel()
	today := c.clock.Now().UTC().Truncate(24 * time.Hour)
	if days := c.cfg.Events.RetentionDays; days > 0 {
		dropped, err := c.db.Events().DropBefore(ctx, today.AddDate(0, 0, -days))
		for _, day := range dropped {
			c.logger.Info("events dropped: their retention has ended", "day", day.Format(time.DateOnly), "retentionDays", days)
		}
		if err != nil && ctx.Err() == nil {
			c.logger.Warn("old events could not be dropped; it is tried again", "error", err, "retryIn", retainEvery)
		}
	}
	if days := c.cfg.DeadLetters.RetentionDays; days > 0 {
		c.dropOldLetters(ctx, today.AddDate(0, 0, -days))
	}
}

func (c *core) dropOldLetters(ctx context.Context, before time.Time) {
	for total := 0; ; {
		n, err := c.db.DeadLetters().DropBefore(ctx, before, dropLetters)
		total += n
		if err != nil && ctx.Err() == nil {
			c.logger.Warn("old dead letters could not be dropped; it is tried again", "error", err, "retryIn", retainEvery)
		}
		if err != nil || n < dropLetters {
			if total > 0 {
				c.logger.Info("dead letters dropped: their retention has ended", "letters", total, "before", before.Format(time.DateOnly))
			}
			return
		}
	}
}
