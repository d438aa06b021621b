package load

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"
)

// Price and currency of the products that a run puts in. Prices differ by product,
// so that a total that was made of another's price shows.
const (
	seedCurrency = "EUR"
	seedMinPrice = 100 // minor units
)

func seedPrice(sku int) int { return seedMinPrice + sku%900 }

// seedConnections is how many products are put in at a time.
const seedConnections = 16

// seed puts in products and stock and returns what stands in the acked file.
func (b *buyers) seed(ctx context.Context) ([]ackedSKU, error) {
	seeds := make([]ackedSKU, len(b.plan.skus))
	for i, sku := range b.plan.skus {
		seeds[i].SKU = sku
	}
	if b.o.NoSeed {
		return seeds, nil
	}
	fmt.Fprintf(b.o.Out, "putting in %s products with %s units each …\n", group(int64(len(seeds))), group(b.o.Stock))
	conns := make(chan *conn, seedConnections)
	for range seedConnections {
		c := newConn(b.dialer)
		defer c.close()
		conns <- c
	}
	err := parallel(ctx, seedConnections, len(seeds), func(ctx context.Context, i int) error {
		c := <-conns
		defer func() { conns <- c }()
		return b.seedOne(ctx, c, i, &seeds[i])
	})
	if err != nil {
		return nil, fmt.Errorf("putting in products: %w", err)
	}
	return seeds, nil
}

// seedOne puts in one product and its stock.
func (b *buyers) seedOne(ctx context.Context, c *conn, i int, s *ackedSKU) error {
	product := fmt.Sprintf(`{"names":{"en":"Load test product %d"},"price":{"amount":%d,"currency":%q},"category":"load-test","active":true}`,
		i+1, seedPrice(i), seedCurrency)
	if _, err := b.call(ctx, c, "PUT", "products/"+s.SKU, "", product); err != nil {
		return err
	}
	key := b.plan.ids.at(b.began, ^uint32(0)-uint32(i)).String()
	body, err := b.call(ctx, c, "POST", "stock/"+s.SKU+"/adjustments", key, fmt.Sprintf(`{"delta":%d,"reason":"load test"}`, b.o.Stock))
	if err != nil {
		return err
	}
	var level struct {
		OnHand *int64 `json:"onHand"`
	}
	if err := json.Unmarshal(body, &level); err != nil || level.OnHand == nil {
		return fmt.Errorf("POST stock/%s/adjustments: the answer has no onHand: %q", s.SKU, clip(body, 200))
	}
	s.Seeded, s.Put, s.Before = true, b.o.Stock, *level.OnHand-b.o.Stock
	return nil
}

// call makes a request that may be repeated, until it is answered with 2xx or a
// refusal that stays. The answer is valid until the connection's next.
func (b *buyers) call(ctx context.Context, c *conn, method, path, key, body string) ([]byte, error) {
	request := method + " " + b.base.JoinPath(path).RequestURI() + " HTTP/1.1\r\n" + headers(b.base, b.o.Token) +
		fmt.Sprintf("Content-Type: application/json\r\nContent-Length: %d\r\n", len(body))
	if key != "" {
		request += "Idempotency-Key: " + key + "\r\n"
	}
	request += "\r\n" + body
	for began := time.Now(); ; {
		a, err := c.roundTrip(ctx, []byte(request), b.o.Timeout)
		outcome := judge(a, err)
		switch outcome {
		case accepted:
			return a.body, nil
		case failed:
			return nil, fmt.Errorf("%s %s: %s", method, path, explain(a))
		}
		if err == nil {
			err = errors.New(explain(a))
		}
		delay := max(a.retryAfter, 50*time.Millisecond+rand.N(100*time.Millisecond))
		if time.Since(began)+delay > b.o.RetryFor || !wait(ctx, delay) {
			return nil, fmt.Errorf("%s %s: %w", method, path, err)
		}
	}
}
