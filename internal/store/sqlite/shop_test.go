package sqlite

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"millrace/internal/audit"
	"millrace/internal/catalog"
	"millrace/internal/inventory"
	"millrace/internal/place"
)

var shopkeeper = audit.Actor{Subject: "ann", Method: "jwt"}

// importLines returns n lines of an import, for the SKUs from first on.
func importLines(run, first, n int) []inventory.ImportLine {
	lines := make([]inventory.ImportLine, n)
	for i := range lines {
		lines[i] = inventory.ImportLine{TenantID: "demo", ImportID: fmt.Sprint("run-", run), Line: int64(i + 1), SKU: fmt.Sprintf("sku-%06d", first+i),
			OnHand: int64(run + i), Now: time.Unix(1_800_000_000+int64(run), 0), Actor: shopkeeper}
	}
	return lines
}

// TestNothingIsImportedOverAChangeMadeMeanwhile lets a trigger change the levels
// between the reading and the writing of an import, as another transaction could
// on a database with many writers.
func TestNothingIsImportedOverAChangeMadeMeanwhile(t *testing.T) {
	db := open(t, t.TempDir())
	stock := db.Inventory()
	if _, err := stock.Import(t.Context(), importLines(1, 0, 3)); err != nil {
		t.Fatal(err)
	}
	before, err := stock.Level(t.Context(), "demo", "sku-000001")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := db.write.Exec(`CREATE TEMP TRIGGER meanwhile AFTER INSERT ON stock_import_lines
BEGIN UPDATE stock SET version = version + 1 WHERE sku = 'sku-000001'; END`); err != nil {
		t.Fatal(err)
	}
	if results, err := stock.Import(t.Context(), importLines(2, 0, 3)); err == nil || results != nil {
		t.Errorf("imported over a change: %+v", results)
	}
	if after, err := stock.Level(t.Context(), "demo", "sku-000001"); after != before || err != nil {
		t.Errorf("a refused import left %+v, error %v; want %+v", after, err, before)
	}
	if _, err := db.write.Exec(`DROP TRIGGER meanwhile`); err != nil {
		t.Fatal(err)
	}
	if results, err := stock.Import(t.Context(), importLines(2, 0, 3)); err != nil || results[1].Level.OnHand != 3 || results[1].Repeated {
		t.Errorf("afterwards: %+v, error %v", results, err)
	}
}

// TestAProductThatCannotBeReadIsReadAsSuchAndCanBePutAgain writes what Put never does.
func TestAProductThatCannotBeReadIsReadAsSuchAndCanBePutAgain(t *testing.T) {
	for _, column := range []string{"names", "descriptions"} {
		db, put := open(t, t.TempDir()), puts(1, 0, 3)
		store := db.Catalog()
		before, _, err := store.Put(t.Context(), put)
		if err != nil {
			t.Fatal(err)
		}
		last := before[1].Product
		if _, err := db.write.Exec(`UPDATE products SET `+column+` = '{"en":' WHERE sku = ?`, last.SKU); err != nil {
			t.Fatal(err)
		}
		check := func(what string, products []catalog.Product, err error) {
			t.Helper()
			if err != nil || len(products) != 3 {
				t.Fatalf("%s: %d products, error %v; want 3", what, len(products), err)
			}
			for _, p := range products {
				if p.Unreadable != (p.SKU == last.SKU) || p.Unreadable && (p.Names != nil || p.Version != last.Version || p.Change != last.Change) {
					t.Errorf("%s: %+v", what, p)
				}
			}
		}
		var loaded []catalog.Product
		err = store.Load(t.Context(), func(p []catalog.Product) error { loaded = append(loaded, p...); return nil })
		check("loaded with bad "+column, loaded, err)
		changed, _, err := store.Changes(t.Context(), "demo", 0, 100)
		check("changed with bad "+column, changed, err)
		if _, err := store.Product(t.Context(), "demo", last.SKU); err == nil || !strings.Contains(err.Error(), "put the product again") {
			t.Errorf("a product with bad %s alone: error %v", column, err)
		}
		again, errs, err := store.Put(t.Context(), put)
		if err != nil || errs[1] != nil || !again[1].Changed || again[0].Changed || again[1].Product.Version != last.Version+1 {
			t.Errorf("put again with bad %s: %+v, %v, %v", column, again, errs, err)
		}
		if p, err := store.Product(t.Context(), "demo", last.SKU); err != nil || p.Unreadable || len(p.Names) == 0 {
			t.Errorf("afterwards: %+v, %v", p, err)
		}
	}
}

func TestAPlaceThatCannotBeReadIsReadAsSuchAndCanBePutAgain(t *testing.T) {
	db := open(t, t.TempDir())
	store := db.Places()
	put := place.Put{TenantID: "demo", Now: time.Unix(1_800_000_000, 0), Actor: shopkeeper, Places: []place.Place{
		{ID: 1, Kind: place.City, CountryCode: "DE", Names: map[string]string{"en": "One"}}, {ID: 2, Kind: place.City, CountryCode: "DE", Names: map[string]string{"en": "Two"}}}}
	if _, err := store.Put(t.Context(), put); err != nil {
		t.Fatal(err)
	}
	if _, err := db.write.Exec(`UPDATE places SET names = 'Two' WHERE id = 2`); err != nil {
		t.Fatal(err)
	}
	var loaded []place.Place
	err := store.Load(t.Context(), func(p []place.Place) error { loaded = append(loaded, p...); return nil })
	if err != nil || len(loaded) != 2 || loaded[0].Unreadable || !loaded[1].Unreadable || loaded[1].Version != 1 {
		t.Errorf("loaded %+v, error %v", loaded, err)
	}
	again, err := store.Put(t.Context(), put)
	if err != nil || again[0].Changed || !again[1].Changed || again[1].Place.Version != 2 {
		t.Errorf("put again: %+v, %v", again, err)
	}
	if changed, _, err := store.Changes(t.Context(), place.Everywhere, 1, 10); err != nil || len(changed) != 1 || changed[0].Unreadable || changed[0].Names["en"] != "Two" {
		t.Errorf("afterwards: %+v, %v", changed, err)
	}
}

// TestTheLastLineOfDefenceHolds goes around the store's own checks.
func TestTheLastLineOfDefenceHolds(t *testing.T) {
	db := open(t, t.TempDir())
	if _, err := db.Inventory().Import(t.Context(), importLines(5, 0, 1)); err != nil {
		t.Fatal(err)
	}
	for _, statement := range []string{
		`UPDATE stock SET reserved = on_hand + 1`,
		`UPDATE stock SET reserved = -1`,
		`UPDATE stock SET on_hand = -1`,
		`INSERT INTO stock VALUES ('demo', 'x', 1, 2, 1, 0)`,
	} {
		if _, err := db.write.Exec(statement); err == nil {
			t.Errorf("%s is taken", statement)
		}
	}
}

// puts returns n puts of products, for the SKUs from first on.
func puts(run, first, n int) []catalog.Put {
	list := make([]catalog.Put, n)
	for i := range list {
		list[i] = catalog.Put{Now: time.Unix(1_800_000_000+int64(run), 0), Actor: shopkeeper, Product: catalog.Product{
			TenantID: "demo", SKU: fmt.Sprintf("sku-%06d", first+i), Names: map[string]string{"en": fmt.Sprint("Thing number ", i), "de": fmt.Sprint("Ding Nummer ", i)},
			Descriptions: map[string]string{"en": "One thing among many, with a line to say so.", "de": "Ein Ding unter vielen, mit einer Zeile dazu."},
			Price:        catalog.Money{Amount: int64(run + i + 1), Currency: "EUR"}, Category: "things", Attributes: []byte(`{"colour":"black","size":"M"}`), Active: true,
		}}
	}
	return list
}

// The batches are of a size at which an import does not keep orders waiting.
const importBatch = 250

func BenchmarkImportStock(b *testing.B) {
	for name, first := range importKinds() {
		b.Run(name, func(b *testing.B) {
			service := inventory.New(open(b, b.TempDir()).Inventory(), nil)
			lines := 0
			for run := 1; b.Loop(); run++ {
				results, err := service.Import(b.Context(), importLines(run, first(run), importBatch))
				if err != nil || results[0].Err != nil || results[0].Repeated {
					b.Fatal(err, results[0])
				}
				lines += len(results)
			}
			b.ReportMetric(float64(lines)/b.Elapsed().Seconds(), "lines/s")
		})
	}
}

func BenchmarkImportProducts(b *testing.B) {
	for name, first := range importKinds() {
		b.Run(name, func(b *testing.B) {
			store := open(b, b.TempDir()).Catalog()
			lines := 0
			for run := 1; b.Loop(); run++ {
				results, errs, err := store.Put(b.Context(), puts(run, first(run), importBatch))
				if err = errors.Join(append(errs, err)...); err != nil || !results[0].Changed {
					b.Fatal(err, results[0])
				}
				lines += len(results)
			}
			b.ReportMetric(float64(lines)/b.Elapsed().Seconds(), "lines/s")
		})
	}
}

// importKinds says with which number a run's lines begin: after those of the run
// before, or always with the same, so that all but the first run change what is
// there.
func importKinds() map[string]func(run int) int {
	return map[string]func(run int) int{
		"new":     func(run int) int { return run * importBatch },
		"changed": func(int) int { return 0 },
	}
}

// BenchmarkAdjustStock is one adjustment, one transaction.
func BenchmarkAdjustStock(b *testing.B) {
	service := inventory.New(open(b, b.TempDir()).Inventory(), nil)
	n := 0
	for b.Loop() {
		n++
		if _, _, err := service.Adjust(b.Context(), inventory.Adjustment{TenantID: "demo", SKU: "a", Delta: 1, Reason: "counted", Key: fmt.Sprint(n), Actor: shopkeeper}); err != nil {
			b.Fatal(err)
		}
	}
}
