package app

import (
	"fmt"

	"millrace/internal/config"
	"millrace/internal/limit"
	"millrace/internal/limit/redis"
)

// openLimits connects the limits of this instance with those of the others, if
// there is a Redis for it.
func (c *core) openLimits() error {
	if len(c.cfg.Redis.Addresses) == 0 {
		return nil
	}
	o, err := redisOptions(c.cfg)
	if err != nil {
		return err
	}
	store, err := redis.New(o)
	if err != nil {
		return fmt.Errorf("redis: %w", err)
	}
	c.onClose(func() error { store.Close(); return nil })
	c.syncer, err = limit.NewSyncer(limit.SyncerOptions{Store: store, Instance: c.instance, Every: c.cfg.Redis.SyncEvery, Logger: c.logger, Metrics: c.limits})
	return err
}

func redisOptions(cfg *config.Config) (redis.Options, error) {
	r := &cfg.Redis
	tls, err := r.TLS.Config()
	if err != nil {
		return redis.Options{}, fmt.Errorf("redis.%w", err)
	}
	return redis.Options{Addresses: r.Addresses, Username: r.User, Password: r.Password.Reveal(), TLS: tls, DB: r.Database}, nil
}

// rateOf is a rate with the burst that the configuration's 0 stands for.
func rateOf(perSecond, burst int) limit.Rate {
	if burst == 0 {
		burst = 2 * perSecond
	}
	return limit.Rate{PerSecond: float64(perSecond), Burst: int64(burst)}
}

// tenantLimits are a rate and a quota for each tenant.
type tenantLimits struct {
	name    string
	rate    limit.Rate
	tenants map[string]limit.Rate
	quota   config.Quota
	exact   bool
}

func (c *core) eventLimits() (*limit.Policies, error) {
	r := &c.cfg.Events.Rate
	tenants := make(map[string]limit.Rate, len(r.Tenants))
	for tenant, t := range r.Tenants {
		tenants[tenant] = rateOf(t.PerSecond, t.Burst)
	}
	return c.newLimits(tenantLimits{"events", rateOf(r.PerSecond, r.Burst), tenants, r.Quota, r.Exact})
}

func (c *core) orderLimits() (*limit.Policies, error) {
	r := &c.cfg.Orders.Rate
	return c.newLimits(tenantLimits{"orders", rateOf(r.PerSecond, r.Burst), nil, r.Quota, r.Exact})
}

func (c *core) newLimits(t tenantLimits) (*limit.Policies, error) {
	exact := t.exact && c.syncer != nil
	rates, err := limit.NewRates(limit.RatesOptions{Name: t.name, Default: t.rate, PerKey: t.tenants, Shared: c.syncer, Exact: exact, Metrics: c.limits})
	if err != nil {
		return nil, err
	}
	quota, err := limit.NewWindows(limit.WindowsOptions{Name: t.name + "-quota", Default: limit.Quota{Limit: int64(t.quota.Limit), Window: t.quota.Window},
		Shared: c.syncer, Exact: exact, Metrics: c.limits})
	if err != nil {
		return nil, err
	}
	return limit.NewPolicies(rates, quota), nil
}
