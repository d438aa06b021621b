package storetest

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"millrace/internal/audit"
	"millrace/internal/catalog"
	"millrace/internal/fulfilment"
	"millrace/internal/inventory"
)

// What several instances do to one store at a time.

// deliveryClaimRace has many claim from the same endpoints until all is claimed.
func deliveryClaimRace(t *testing.T, s WebhooksStores) {
	const deliveries, claimers = 240, 8
	var shares []fulfilment.Share
	for i := range deliveries {
		enqueueDeliveries(t, s.Webhooks, webhookDelivery("demo", fmt.Sprint("e", i%4), i))
	}
	for i := range 4 {
		shares = append(shares, shareOf("demo", fmt.Sprint("e", i), 3))
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	var mu sync.Mutex
	claimed := map[string]int{}
	left := func() bool {
		mu.Lock()
		defer mu.Unlock()
		return len(claimed) < deliveries
	}
	var all sync.WaitGroup
	for i := range claimers {
		mine := slices.Clone(shares)
		if i%2 == 1 {
			slices.Reverse(mine)
		}
		all.Go(func() {
			for left() && ctx.Err() == nil {
				got, err := s.Webhooks.Claim(ctx, monday.Add(time.Hour), monday.Add(2*time.Hour), mine)
				if err != nil {
					t.Errorf("Claim: %v", err)
					return
				}
				mu.Lock()
				for _, d := range got {
					if claimed[d.ID]++; d.Attempts != 1 {
						t.Errorf("%s is at attempt %d", d.ID, d.Attempts)
					}
				}
				mu.Unlock()
			}
		})
	}
	all.Wait()
	for id, n := range claimed {
		if n > 1 {
			t.Errorf("%s was claimed %d times", id, n)
		}
	}
	if len(claimed) != deliveries {
		t.Errorf("%d of %d were claimed", len(claimed), deliveries)
	}
}

// productCross has batches of the same products put at once, one in the order of
// SKU and the other against it: on a database that locks rows they must not wait
// for each other in a circle.
func productCross(t *testing.T, s CatalogStore, _ audit.Store) {
	const products, rounds, writers = 150, 4, 2
	var all sync.WaitGroup
	for w := range writers {
		all.Go(func() {
			for round := range rounds {
				var puts []catalog.Put
				for i := range products {
					p := product("demo", i)
					p.Price.Amount = int64(1 + i + products*(round*writers+w)) // always another than before
					puts = append(puts, putOf(p, 0))
				}
				if w == 1 {
					slices.Reverse(puts)
				}
				results, errs, err := s.Put(t.Context(), puts)
				if err != nil {
					t.Errorf("Put: %v", err)
					return
				}
				for i := range results {
					if errs[i] != nil || !results[i].Changed {
						t.Errorf("%s: %+v, error %v", puts[i].Product.SKU, results[i], errs[i])
						return
					}
				}
			}
		})
	}
	all.Wait()
	for i := range products {
		p, err := s.Product(t.Context(), "demo", product("demo", i).SKU)
		if err != nil || p.Version != rounds*writers {
			t.Fatalf("version %d, error %v; want %d", p.Version, err, rounds*writers)
		}
	}
}

// importCross does the same with imports of stock, while orders reserve.
func importCross(t *testing.T, h *InventoryHarness) {
	const skus, rounds, writers = 150, 3, 2
	sku := func(i int) string { return fmt.Sprintf("sku-%03d", i) }
	for i := range skus {
		h.put(t, sku(i), 100)
	}
	var all sync.WaitGroup
	for w := range writers {
		all.Go(func() {
			for round := range rounds {
				var lines []inventory.ImportLine
				for i := range skus {
					l := deltaLine(int64(1+i), sku(i), 1)
					l.ImportID = fmt.Sprint("run-", w, "-", round)
					lines = append(lines, l)
				}
				if w == 1 {
					slices.Reverse(lines)
				}
				results, err := h.Store.Import(t.Context(), lines)
				if err != nil {
					t.Errorf("Import: %v", err)
					return
				}
				for _, r := range results {
					if r.Err != nil || r.Repeated {
						t.Errorf("line: %+v", r)
						return
					}
				}
			}
		})
	}
	all.Go(func() {
		for i := range skus {
			if err := h.Reserve(t.Context(), "demo", sku(skus-1-i), 1); err != nil {
				t.Errorf("reserve: %v", err)
				return
			}
		}
	})
	all.Wait()
	for i := range skus {
		h.wantNumbers(t, sku(i), 100+rounds*writers, 1)
	}
}

// adjustCrowd has more adjust one level at once than a store would try again.
func adjustCrowd(t *testing.T, h *InventoryHarness) {
	const crowd = 40
	h.put(t, "a", 0)
	var all sync.WaitGroup
	for i := range crowd {
		all.Go(func() {
			a := adjustment("a", 1, fmt.Sprint("key-", i))
			if _, replayed, err := h.Store.Adjust(t.Context(), a); err != nil || replayed {
				t.Errorf("adjust: replayed %v, error %v", replayed, err)
			}
		})
	}
	all.Wait()
	h.wantNumbers(t, "a", crowd, 0)
}
