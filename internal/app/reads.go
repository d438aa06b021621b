package app

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"millrace/internal/auth"
	"millrace/internal/bus"
	"millrace/internal/cache"
	cacheredis "millrace/internal/cache/redis"
	"millrace/internal/catalog"
	"millrace/internal/config"
	"millrace/internal/follow"
	"millrace/internal/httpapi"
	"millrace/internal/memindex"
	"millrace/internal/order"
	"millrace/internal/place"
)

// reads is what a server answers reads from.
//
//	catalog.Index, place.Index ◀── follow.Follower ◀── store (load, changes)
//	                                     ▲  │
//	                                     │  └─▶ bus (broadcast) ─▶ other instances
//	                                  own writes
//	order.Reads, auth.Keys ◀── cache.Cache (RAM) ◀── Redis ◀── store
//
// In a command all of it is nil, and reads go to the store. An instance that does
// not serve the API has the caches, because what it changes must be told, and no
// index.
type reads struct {
	catalog *catalog.Index
	places  *place.Index
	// followers keep the indexes up to date.
	followers     []follower
	followCatalog *follow.Follower[catalog.Product]
	followPlaces  *follow.Follower[place.Place]
	orders        *order.Reads
}

// follower is a follow.Follower of whatever it follows.
type follower interface {
	Run(ctx context.Context) error
}

// openReads opens the caches and indexes of a server.
func (c *core) openReads(context.Context) error {
	if err := c.openCaches(); err != nil {
		return err
	}
	if c.serving != nil && c.has(config.RoleAPI) {
		if err := c.openIndexes(); err != nil {
			return err
		}
	}
	return c.openPlaces()
}

func (c *core) openIndexes() (err error) {
	r := &c.reads
	r.catalog, r.places = catalog.NewIndex(httpapi.RenderProduct), place.NewIndex(httpapi.RenderPlace)
	index, metrics := memindex.NewMetrics(c.registry), follow.NewMetrics(c.registry)
	index.Watch("catalog", r.catalog.Stats)
	index.Watch("places", r.places.Stats)
	r.followCatalog, err = follow.New(follow.Options[catalog.Product]{
		Name: "catalog", Source: c.db.Catalog(), Peers: c.peers("catalog"), Instance: c.instance,
		Load: r.catalog.Load, Apply: r.catalog.Apply,
		Change: func(p *catalog.Product) int64 { return p.Change }, At: func(p *catalog.Product) time.Time { return p.UpdatedAt },
		Unreadable: func(p *catalog.Product) bool { return p.Unreadable },
		Called:     func(p *catalog.Product) string { return "product " + p.SKU + " of tenant " + p.TenantID },
		PollEvery:  c.cfg.Reads.PollEvery, Metrics: metrics, Logger: c.logger,
	})
	if err != nil {
		return err
	}
	r.followPlaces, err = follow.New(follow.Options[place.Place]{
		Name: "places", Source: c.db.Places(), Peers: c.peers("places"), Instance: c.instance,
		Load: r.places.Load, Apply: r.places.Apply,
		Change: func(p *place.Place) int64 { return p.Change }, At: func(p *place.Place) time.Time { return p.UpdatedAt },
		Unreadable: func(p *place.Place) bool { return p.Unreadable },
		Called:     func(p *place.Place) string { return "place " + strconv.FormatInt(p.ID, 10) },
		PollEvery:  c.cfg.Reads.PollEvery, Metrics: metrics, Logger: c.logger,
	})
	r.followers = []follower{r.followCatalog, r.followPlaces}
	return err
}

// follow keeps an index up to date until ctx ends.
func (c *core) follow(ctx context.Context, f follower) {
	if err := f.Run(ctx); err != nil && ctx.Err() == nil {
		c.logger.Error("an index in memory is no longer kept up to date; restart this instance", "error", err)
	}
}

func (c *core) openCatalog() (err error) {
	o := catalog.Options{Store: c.db.Catalog(), Index: c.reads.catalog, Render: httpapi.RenderProduct}
	if f := c.reads.followCatalog; f != nil {
		o.Ready, o.Wrote = f.Ready, f.Wrote
	}
	c.shop.catalog, err = catalog.New(o)
	return err
}

func (c *core) openPlaces() (err error) {
	o := place.Options{Store: c.db.Places(), Index: c.reads.places, DefaultLanguage: c.cfg.Places.Language}
	if f := c.reads.followPlaces; f != nil {
		o.Ready, o.Wrote = f.Ready, f.Wrote
	}
	c.places, err = place.New(o)
	return err
}

// openCaches opens what orders, histories and API keys are read through.
func (c *core) openCaches() (err error) {
	o := &c.cfg.Reads.Cache
	if !o.Enabled || c.serving == nil {
		c.keys, err = auth.NewKeys(c.db.Keys(), nil)
		return err
	}
	remote, err := c.openCacheRemote()
	if err != nil {
		return err
	}
	metrics, peers := cache.NewMetrics(c.registry), c.peers("cache")
	c.keys, err = auth.NewCachedKeys(c.db.Keys(), nil, auth.CacheOptions{
		TTL: o.TTL, StaleFor: zeroIsNone(o.StaleFor), Remote: remote, Peers: peers, Instance: c.instance, Metrics: metrics, Logger: c.logger,
	})
	if err != nil {
		return err
	}
	c.onClose(func() error { c.keys.Close(); return nil })
	c.reads.orders, err = order.NewReads(order.ReadsOptions{
		TTL: o.TTL, StaleFor: zeroIsNone(o.StaleFor), MaxBytes: int64(o.MaxBytes), Remote: remote, Peers: peers,
		Instance: c.instance, Metrics: metrics, Logger: c.logger,
	})
	if err != nil {
		return err
	}
	c.onClose(func() error { c.reads.orders.Close(); return nil })
	return nil
}

// changed is told of orders that were placed or changed, nil if nobody wants to know.
func (c *core) changed() func([]order.Order) {
	if c.reads.orders == nil {
		return nil
	}
	return c.reads.orders.Changed
}

// openCacheRemote opens Redis as the second level, nil if there is none.
func (c *core) openCacheRemote() (cache.Remote, error) {
	r := &c.cfg.Redis
	if !c.cfg.Reads.Cache.Redis || len(r.Addresses) == 0 {
		return nil, nil
	}
	tls, err := r.TLS.Config()
	if err != nil {
		return nil, fmt.Errorf("redis.%w", err)
	}
	remote, err := cacheredis.New(cacheredis.Options{Addresses: r.Addresses, Username: r.User, Password: r.Password.Reveal(), TLS: tls, DB: r.Database, Logger: c.logger})
	if err != nil {
		return nil, fmt.Errorf("redis: %w", err)
	}
	c.onClose(func() error { remote.Close(); return nil })
	return remote, nil
}

// peers are the other instances: what is broadcast on a subject of the bus. It is
// nil, a nil interface, where there are none.
func (c *core) peers(name string) follow.Peers {
	if c.cfg.Store.Driver == "sqlite" {
		return nil
	}
	return busPeers{c.bus, "reads." + name}
}

// busPeers are the listeners to a subject on all instances.
type busPeers struct {
	bus     bus.Bus
	subject string
}

// Send implements follow.Peers and cache.Peers.
func (p busPeers) Send(ctx context.Context, data []byte) error {
	return p.bus.Broadcast(ctx, bus.Message{Subject: p.subject, Data: data})
}

// Listen implements follow.Peers and cache.Peers.
func (p busPeers) Listen(ctx context.Context, h func(data []byte)) (stop func(), err error) {
	sub, err := p.bus.Listen(ctx, p.subject, func(m bus.Message) { h(m.Data) })
	if err != nil {
		return nil, err
	}
	return func() {
		ctx, cancel := context.WithTimeout(context.Background(), peersGrace)
		defer cancel()
		_ = sub.Close(ctx) // its broadcasts are hints
	}, nil
}

// peersGrace bounds how long the end of listening to broadcasts may take.
const peersGrace = 2 * time.Second
