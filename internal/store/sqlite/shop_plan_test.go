package sqlite

import (
	"strings"
	"testing"

	storesql "millrace/internal/store/sql"
)

func TestProductsAndPlacesAreReadThroughTheirIndexes(t *testing.T) {
	db := open(t, t.TempDir())
	statements := storesql.Statements(storesql.SQLite)
	for _, c := range []struct {
		name       string
		parameters int
		want       []string
	}{
		{"product: changes", 4, []string{"SEARCH products USING INDEX products_by_change (tenant_id=? AND change>? AND change<?)", "SEARCH products USING INDEX products_by_change (tenant_id=? AND change>?)"}},
		{"place: changes", 4, []string{"SEARCH places USING INDEX places_by_change (tenant_id=? AND change>? AND change<?)", "SEARCH places USING INDEX places_by_change (tenant_id=? AND change>?)"}},
		{"product: load", 3, []string{"SEARCH products USING INDEX sqlite_autoindex_products_1 ((tenant_id,sku)>(?,?))"}},
		{"place: load", 3, []string{"SEARCH places USING PRIMARY KEY (tenant_id=? AND id>?)"}},
		{"product: get", 2, []string{"SEARCH products USING INDEX sqlite_autoindex_products_1 (tenant_id=? AND sku=?)"}},
		{"product: list", 4, []string{"SEARCH products USING INDEX sqlite_autoindex_products_1 (tenant_id=? AND sku>?)"}},
		{"product: list of category", 6, []string{"SEARCH products USING INDEX products_by_category (tenant_id=? AND category=? AND (position,sku)>(?,?))"}},
		{"product: get many", 4, []string{"SEARCH products USING INDEX sqlite_autoindex_products_1 (tenant_id=? AND sku=?)"}},
		{"product: get many by slug", 4, []string{"SEARCH products USING INDEX products_by_slug (tenant_id=? AND slug=?)"}},
		{"place: get many", 4, []string{"SEARCH places USING PRIMARY KEY (tenant_id=? AND id=?)"}},
	} {
		args := make([]any, c.parameters)
		for i := range args {
			args[i] = 1
		}
		plan := planOf(t, db, statements[c.name], args...)
		for _, part := range c.want {
			if !strings.Contains(plan, part) {
				t.Errorf("%s: the plan lacks %q: %s", c.name, part, plan)
			}
		}
		if strings.Contains(plan, "TEMP B-TREE FOR ORDER BY") || strings.Contains(plan, "SCAN products") || strings.Contains(plan, "SCAN places") {
			t.Errorf("%s: the plan sorts or reads the table: %s", c.name, plan)
		}
	}
}
