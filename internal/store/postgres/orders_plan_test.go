package postgres

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// planOf returns the nodes of the server's plan for a statement of the hot paths that
// read or change a table, on a connection that is prepared for them.
func planOf(t testing.TB, db *DB, s *statement) (nodes []string) {
	t.Helper()
	err := db.holdHot(t.Context(), func(c *hotConn) error {
		nulls := strings.TrimSuffix(strings.Repeat("NULL, ", len(c.at[s].ParamOIDs)), ", ")
		results, err := c.pg.Exec(t.Context(), `EXPLAIN (COSTS OFF) EXECUTE "`+s.name+`" (`+nulls+`)`).ReadAll()
		for _, r := range results {
			for _, row := range r.Rows {
				node := strings.TrimPrefix(strings.TrimSpace(string(row[0])), "->  ")
				for _, kind := range []string{"Nested Loop", "Hash", "Merge", "Sort Key", "Function Scan", "Seq Scan", "Index", "Bitmap", "Filter"} {
					if strings.HasPrefix(node, kind) {
						nodes = append(nodes, node)
					}
				}
			}
		}
		return err
	})
	if err != nil {
		t.Fatalf("%s: %v", s.name, err)
	}
	return nodes
}

// A plan is made once for a connection, maybe while a table is empty, and must do
// for when it is large.
func TestStatementsFollowTheirArraysThroughThePrimaryKeyEvenWhenPlannedOnEmptyTables(t *testing.T) {
	const (
		byKey = "Index Cond: ((tenant_id = (k.tenant_id)::text) AND (scope = (k.scope)::text) AND (subject = (k.subject)::text) AND (key = (k.key)::text))"
		byID  = "Index Cond: ((tenant_id = (k.tenant_id)::text) AND (id = (k.id)::text))"
		bySKU = "Index Cond: ((tenant_id = (k.tenant_id)::text) AND (sku = (k.sku)::text))"
	)
	db := openTest(t)
	for _, c := range []struct {
		s    *statement
		want []string
	}{
		{sqlFindKeys, []string{"Nested Loop", "Function Scan on k", "Index Scan using idempotency_keys_pkey on idempotency_keys i", byKey}},
		{sqlDeleteKeys, []string{"Nested Loop", "Function Scan on k", "Index Scan using idempotency_keys_pkey on idempotency_keys i", byKey, "Filter: (k.created_ns = created_ns)"}},
		{sqlFindShelves, []string{"Nested Loop Left Join", "Nested Loop", "Function Scan on k", "Index Scan using products_pkey on products p", bySKU, "Filter: (deleted = 0)",
			"Index Scan using stock_pkey on stock s", "Index Cond: ((tenant_id = k.tenant_id) AND (sku = k.sku))"}},
		{sqlLockStock, []string{`Sort Key: s.tenant_id COLLATE "C", s.sku COLLATE "C"`, "Nested Loop", "Function Scan on k", "Index Scan using stock_pkey on stock s", bySKU}},
		{sqlChangeStock, []string{"Nested Loop", "Function Scan on k", "Index Scan using stock_pkey on stock s", bySKU}},
		{sqlFindOrders, []string{"Nested Loop", "Function Scan on k", "Index Scan using orders_pkey on orders o", byID}},
		{sqlLockOrders, []string{`Sort Key: o.tenant_id COLLATE "C", o.id COLLATE "C"`, "Nested Loop", "Function Scan on k", "Index Scan using orders_pkey on orders o", byID}},
		{sqlUpdateOrders, []string{"Nested Loop", "Function Scan on k", "Index Scan using orders_pkey on orders o", byID, "Filter: (k.read_version = version)"}},
		{sqlLoadLedger, []string{"Sort Key: l.tenant_id COLLATE \"C\", l.charge_key COLLATE \"C\", l.n", "Nested Loop", "Function Scan on k", "Index Scan using sandbox_ledger_pkey on sandbox_ledger l",
			"Index Cond: ((tenant_id = (k.tenant_id)::text) AND (charge_key = (k.charge_key)::text))"}},
		{sqlRemoveOutbox, []string{"Index Scan using outbox_by_owner on outbox", "Index Cond: ((lane = $1) AND (owner = $2) AND (seq >= $3) AND (seq <= $4))"}},
	} {
		if diff := cmp.Diff(c.want, planOf(t, db, c.s)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.s.name, diff)
		}
	}
}
