package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"millrace/internal/audit"
	"millrace/internal/auth"
	"millrace/internal/catalog"
	"millrace/internal/catalog/demo"
	"millrace/internal/fulfilment"
	"millrace/internal/fulfilment/merchant"
	"millrace/internal/inventory"
	"millrace/internal/place"
	places "millrace/internal/place/demo"
)

const (
	// demoEndpoint is the merchant's webhook endpoint.
	demoEndpoint = "demo-merchant"
	// demoImport names the import of the demo's stock, so that it is applied once.
	demoImport = "demo"
)

func demoActor() audit.Actor { return audit.Actor{Subject: "demo", Method: "system"} }

// demoShop is the demo's merchant. It listens before anything else is there, so
// that its address, and no other on this machine, can be allowed for webhooks.
type demoShop struct {
	merchant *merchant.Merchant
	secret   string
	core     *core  // set by open
	apiURL   string // set by open
}

// newDemoShop returns nil when there is to be none.
func newDemoShop(enabled bool, logger *slog.Logger) (*demoShop, error) {
	if !enabled {
		return nil, nil
	}
	d := &demoShop{secret: fulfilment.NewSecret()}
	var err error
	d.merchant, err = merchant.New(merchant.Options{
		API:    func() string { return d.apiURL },
		Token:  func(ctx context.Context) (string, error) { return d.core.demoToken(ctx) },
		Secret: d.secret, Logger: logger,
	})
	return d, err
}

// hosts are the addresses that webhooks may go to although they are of this
// machine.
func (d *demoShop) hosts() []string {
	if d == nil {
		return nil
	}
	return []string{d.merchant.Addr()}
}

// close stops listening; a merchant that runs does so by itself.
func (d *demoShop) close() error {
	if d == nil {
		return nil
	}
	return d.merchant.Close()
}

// open fills the shop, once, and registers the merchant's webhook endpoint. The
// merchant is told like any other, and calls back over the public API.
func (d *demoShop) open(ctx context.Context, c *core, apiURL string) error {
	d.core, d.apiURL = c, apiURL
	if err := c.seedDemo(ctx); err != nil {
		return fmt.Errorf("filling the demo's shop: %w", err)
	}
	if err := c.seedPlaces(ctx); err != nil {
		return fmt.Errorf("importing the demo's places: %w", err)
	}
	enabled := true
	_, err := c.shop.webhooks.PutEndpoint(ctx, demoTenant, demoEndpoint,
		fulfilment.EndpointRequest{URL: d.merchant.URL(), Secret: d.secret, Enabled: &enabled}, 0, demoActor())
	if err != nil {
		return fmt.Errorf("the demo merchant's webhook endpoint: %w", err)
	}
	return nil
}

// demoToken mints what the merchant calls the API with.
func (c *core) demoToken(context.Context) (string, error) {
	return c.issuer.Mint(auth.Claims{TenantID: demoTenant, Subject: demoEndpoint, Scopes: auth.MakeScopes(auth.ScopeOrdersAdmin), TTL: time.Hour})
}

// seedDemo puts the demo's products and stock where nothing was put before: what
// somebody changed stays as it is.
func (c *core) seedDemo(ctx context.Context) error {
	var puts []catalog.Put
	for _, p := range demo.Products() {
		p.TenantID = demoTenant
		puts = append(puts, catalog.Put{Product: p, IfVersion: catalog.NoVersion, Actor: demoActor()})
	}
	_, errs, err := c.shop.catalog.Put(ctx, puts)
	if err != nil {
		return err
	}
	for i, err := range errs {
		if err != nil && !errors.Is(err, catalog.ErrVersion) {
			return fmt.Errorf("%s: %w", puts[i].Product.SKU, err)
		}
	}
	stock := demo.Stock()
	skus := make([]string, 0, len(stock))
	for sku := range stock {
		skus = append(skus, sku)
	}
	slices.Sort(skus) // a line's number must not change
	lines := make([]inventory.ImportLine, len(skus))
	for i, sku := range skus {
		lines[i] = inventory.ImportLine{TenantID: demoTenant, ImportID: demoImport, Line: int64(i + 1), SKU: sku, OnHand: stock[sku], Actor: demoActor()}
	}
	results, err := c.shop.stock.Import(ctx, lines)
	if err != nil {
		return err
	}
	for i, r := range results {
		if r.Err != nil {
			return fmt.Errorf("stock of %s: %w", lines[i].SKU, r.Err)
		}
	}
	return nil
}

// seedPlaces imports the demo's places where none were ever imported.
func (c *core) seedPlaces(ctx context.Context) error {
	versions, _, err := c.db.Places().Versions(ctx)
	if err != nil || versions[place.Everywhere] > 0 {
		return err
	}
	for chunk := range slices.Chunk(places.Places(), place.MaxPuts) {
		_, errs, err := c.places.Put(ctx, place.Put{Places: chunk, TenantID: demoTenant, Actor: demoActor()})
		if err := errors.Join(err, errors.Join(errs...)); err != nil {
			return err
		}
	}
	return nil
}
