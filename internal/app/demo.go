package app

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"time"

	"millrace/internal/audit"
	"millrace/internal/auth"
	"millrace/internal/catalog"
	"millrace/internal/catalog/demo"
	"millrace/internal/fulfilment"
	"millrace/internal/fulfilment/merchant"
	"millrace/internal/inventory"
)

const (
	// demoHost is where the demo's merchant listens; the demo allows webhooks there.
	demoHost = "127.0.0.1"
	// demoEndpoint is the merchant's webhook endpoint.
	demoEndpoint = "demo-merchant"
	// demoImport names the import of the demo's stock, so that it is applied once.
	demoImport = "demo"
)

func demoActor() audit.Actor { return audit.Actor{Subject: "demo", Method: "system"} }

// openDemo fills the demo's shop, once, and returns its merchant, which is told by
// webhooks like any other and calls back over the public API.
func (c *core) openDemo(ctx context.Context, apiURL string) (*merchant.Merchant, error) {
	if err := c.seedDemo(ctx); err != nil {
		return nil, fmt.Errorf("filling the demo's shop: %w", err)
	}
	key := make([]byte, 24)
	rand.Read(key) // never fails
	secret := "whsec_" + base64.StdEncoding.EncodeToString(key)
	m, err := merchant.New(merchant.Options{API: apiURL, Token: c.demoToken, Secret: secret, Logger: c.logger})
	if err != nil {
		return nil, err
	}
	enabled := true
	_, err = c.shop.webhooks.PutEndpoint(ctx, demoTenant, demoEndpoint,
		fulfilment.EndpointRequest{URL: m.URL(), Secret: secret, Enabled: &enabled}, 0, demoActor())
	if err != nil {
		return nil, errors.Join(fmt.Errorf("the demo merchant's webhook endpoint: %w", err), m.Close())
	}
	return m, nil
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
		puts = append(puts, catalog.Put{Product: p, IfVersion: -1, Actor: demoActor()})
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
