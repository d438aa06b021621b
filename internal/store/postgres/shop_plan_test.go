package postgres

import (
	"context"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	storesql "millrace/internal/store/sql"
)

// explain returns the server's plan for a statement as a connection keeps it: one for
// all parameters.
func explain(t testing.TB, db *DB, query string, parameters int) string {
	t.Helper()
	var plan []string
	err := pgx.BeginFunc(t.Context(), db.hot, func(tx pgx.Tx) error {
		ctx := context.Background()
		for _, s := range []string{`SET LOCAL plan_cache_mode = force_generic_plan`, `PREPARE explained AS ` + query} {
			if _, err := tx.Exec(ctx, s); err != nil {
				return err
			}
		}
		nulls := strings.TrimSuffix(strings.Repeat("NULL, ", parameters), ", ")
		rows, err := tx.Query(ctx, `EXPLAIN (COSTS OFF) EXECUTE explained (`+nulls+`)`, pgx.QueryExecModeSimpleProtocol)
		if err != nil {
			return err
		}
		if plan, err = pgx.CollectRows(rows, pgx.RowTo[string]); err != nil {
			return err
		}
		_, err = tx.Exec(ctx, `DEALLOCATE explained`)
		return err
	})
	if err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	return strings.Join(plan, "\n")
}

// A plan that was made while a table was empty must do when it is large, and one that
// knows the table must not be worse.
func TestProductsAndPlacesAreReadThroughTheirIndexes(t *testing.T) {
	db := openTest(t)
	statements := storesql.Statements(storesql.PostgreSQL)
	check := func(when string) {
		t.Helper()
		for _, c := range []struct {
			name       string
			parameters int
			want       []string // parts of the plan
			not        []string
		}{
			{"product: changes", 4, []string{"Index Scan using products_by_change on products\n", "Index Cond: ((tenant_id = $1) AND (change > $2) AND (change <= COALESCE("}, []string{"Sort", "Seq Scan"}},
			{"place: changes", 4, []string{"Index Scan using places_by_change on places\n", "Index Cond: ((tenant_id = $1) AND (change > $2) AND (change <= COALESCE("}, []string{"Sort", "Seq Scan"}},
			{"product: load", 3, []string{"Index Scan using products_pkey on products", "Index Cond: (ROW(tenant_id, sku) > ROW($1, $2))"}, []string{"Sort"}},
			{"place: load", 3, []string{"Index Scan using places_pkey on places", "Index Cond: ((tenant_id = $1) AND (id > $2))"}, []string{"Sort"}},
			{"product: get", 2, []string{"Index Scan using products_pkey on products", "Index Cond: ((tenant_id = $1) AND (sku = $2))"}, nil},
			{"product: list", 4, []string{"products_pkey", "Index Cond: ((tenant_id = $1) AND (sku > $2))"}, nil},
			{"product: list of category", 6, []string{"Index Scan using products_by_category on products", "ROW(\"position\", sku) > ROW($3, $4)"}, []string{"Sort"}},
			{"product: get many", 4, []string{"Index Scan using products_pkey on products"}, []string{"Seq Scan"}},
			{"product: get many by slug", 4, []string{"products_by_slug"}, []string{"Seq Scan"}},
			{"place: get many", 4, []string{"Index Scan using places_pkey on places"}, []string{"Seq Scan"}},
			{"product: prices", 3, []string{"Index Scan using products_pkey on products", "Index Scan Backward using product_prices_pkey"}, []string{"Sort"}},
		} {
			plan := explain(t, db, statements[c.name], c.parameters)
			for _, part := range c.want {
				if !strings.Contains(plan+"\n", part) {
					t.Errorf("%s, %s: the plan lacks %q:\n%s", c.name, when, part, plan)
				}
			}
			for _, part := range c.not {
				if strings.Contains(plan, part) {
					t.Errorf("%s, %s: the plan has a %s:\n%s", c.name, when, part, plan)
				}
			}
		}
	}
	check("while the tables are empty")
	exec(t, db, `INSERT INTO products (tenant_id, sku, version, deleted, change, active, amount, currency, category, position, slug, names, descriptions, attributes, created_ns, updated_ns)
SELECT CASE WHEN n % 10 = 0 THEN 'small' ELSE 'large' END, 'sku-' || n, 1, 0, n / 5, 1, 100, 'EUR', 'c' || n % 50, n % 7, CASE WHEN n % 2 = 0 THEN 's' || n ELSE '' END, '{"en":"Thing"}', '{}', '', 0, 0
FROM generate_series(1, 20000) n`)
	exec(t, db, `INSERT INTO product_prices SELECT tenant_id, sku, 1, amount, currency, 0, 'ann' FROM products`)
	exec(t, db, `INSERT INTO places SELECT '*', n, 1, 0, n / 5, 'city', 'DE', '', n, 1, 1.5, 2.5, '{"en":"Town"}', 0 FROM generate_series(1, 20000) n`)
	check("before the tables are analyzed")
	exec(t, db, `ANALYZE products, product_prices, places`)
	check("when the tables are known")
	// Before that it may take a list for one of so few rows that they can as well be sorted.
	if plan := explain(t, db, statements["product: list"], 4); strings.Contains(plan, "Sort") {
		t.Errorf("a list of products is sorted:\n%s", plan)
	}
}
