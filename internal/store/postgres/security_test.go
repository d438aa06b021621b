package postgres

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	storesql "millrace/internal/store/sql"
)

// Tables whose rows are no tenant's: the key leads with a tenant_id that is empty.
var nobodysTables = map[string]string{
	"schema_compat":    "the version of the schema",
	"instances":        "the processes that run",
	"leases":           "who may do what only one is to do",
	"event_batches":    "in which order events became readable; their rows are read by tenant",
	"goose_db_version": "the migrations' own; it has no tenant_id",
}

// tenantTables returns every table with rows of tenants.
func tenantTables(t testing.TB, db *DB) []string {
	t.Helper()
	tables := collect[string](t, db.hot, t.Context(), `SELECT relname::text FROM pg_class
WHERE relnamespace = current_schema()::regnamespace AND relkind IN ('r', 'p') AND NOT relispartition ORDER BY relname`)
	tables = slices.DeleteFunc(tables, func(name string) bool { return nobodysTables[name] != "" })
	if len(tables) < 15 {
		t.Fatalf("only %v; the test looks in the wrong place", tables)
	}
	// Where rows go by day, the ones are of 1970.
	for _, name := range collect[string](t, db.hot, t.Context(), `SELECT relname::text FROM pg_class
WHERE relnamespace = current_schema()::regnamespace AND relkind = 'p'`) {
		if _, err := db.hot.Exec(t.Context(), `CREATE TABLE `+name+`_of_the_test PARTITION OF `+name+` FOR VALUES FROM (1) TO (2)`); err != nil {
			t.Fatal(err)
		}
	}
	return tables
}

// insertRow puts one row of a tenant in a table, whatever its columns are.
func insertRow(t testing.TB, db *DB, table, tenantID string) {
	t.Helper()
	rows, err := db.hot.Query(t.Context(), `SELECT attname::text, format_type(atttypid, NULL) FROM pg_attribute
WHERE attrelid = $1::text::regclass AND attnum > 0 AND NOT attisdropped AND attgenerated = '' AND attidentity = ''`, table)
	if err != nil {
		t.Fatal(err)
	}
	var columns, values []string
	var name, kind string
	if _, err := pgx.ForEachRow(rows, []any{&name, &kind}, func() error {
		columns = append(columns, pgx.Identifier{name}.Sanitize())
		switch {
		case name == "tenant_id":
			values = append(values, "'"+tenantID+"'")
		case kind == "text":
			values = append(values, "'x'")
		case kind == "bytea":
			values = append(values, "'x'")
		case kind == "uuid":
			values = append(values, "gen_random_uuid()")
		default:
			values = append(values, "'1'")
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	statement := `INSERT INTO ` + table + ` (` + strings.Join(columns, ", ") + `) VALUES (` + strings.Join(values, ", ") + `)`
	if _, err := db.hot.Exec(t.Context(), statement); err != nil {
		t.Fatalf("%s: %v", statement, err)
	}
}

func TestNoTenantSeesAnothersRows(t *testing.T) {
	db := openTest(t)
	tables := tenantTables(t, db)
	for _, table := range tables {
		for _, tenantID := range []string{"ann", "bob", ""} {
			insertRow(t, db, table, tenantID)
		}
	}
	for _, table := range tables {
		t.Run(table, func(t *testing.T) {
			for _, c := range []struct {
				name string
				ctx  context.Context
				want []string
			}{
				{"ann", storesql.ForTenant(t.Context(), "ann"), []string{"ann"}},
				{"bob", storesql.ForTenant(t.Context(), "bob"), []string{"bob"}},
				{"one that has none", storesql.ForTenant(t.Context(), "eve"), nil},
				{"nobody", t.Context(), nil},
				{"nobody, said so", storesql.ForTenant(t.Context(), ""), nil},
				{"one with a name like SQL", storesql.ForTenant(t.Context(), `' OR true --`), nil},
			} {
				got := collect[string](t, db.fresh, c.ctx, `SELECT tenant_id FROM `+table)
				if !slices.Equal(got, c.want) {
					t.Errorf("%s sees rows of %q, want of %q", c.name, got, c.want)
				}
			}
			if got := collect[string](t, db.hot, t.Context(), `SELECT tenant_id FROM `+table+` ORDER BY tenant_id`); !slices.Equal(got, []string{"", "ann", "bob"}) {
				t.Errorf("the owner sees %q", got)
			}
		})
	}
}

func TestWhoReadsForTenantsWritesNothing(t *testing.T) {
	db := openTest(t)
	ctx := storesql.ForTenant(t.Context(), "ann")
	for _, table := range tenantTables(t, db) {
		insertRow(t, db, table, "ann")
		for _, statement := range []string{
			`DELETE FROM ` + table,
			`UPDATE ` + table + ` SET tenant_id = 'eve'`,
			`TRUNCATE ` + table,
			`INSERT INTO ` + table + ` (tenant_id) VALUES ('ann')`,
		} {
			// Once as it is, once by one who has lifted the first of the two bars.
			for _, mode := range []string{`SET TRANSACTION READ ONLY`, `SET TRANSACTION READ WRITE`} {
				err := pgx.BeginFunc(ctx, db.fresh, func(tx pgx.Tx) error {
					if _, err := tx.Exec(ctx, mode); err != nil {
						return err
					}
					_, err := tx.Exec(ctx, statement)
					return err
				})
				if state := sqlState(err); state != stateInsufficientRights && state != "25006" {
					t.Errorf("%s after %s: error %v", statement, mode, err)
				}
			}
		}
	}
}

// Rights on a partition would be a way around the policies, which are its parent's.
func TestWhoReadsForTenantsReadsPartitionsThroughTheirTableAlone(t *testing.T) {
	db := openTest(t)
	open := collect[string](t, db.hot, t.Context(), `SELECT relname::text FROM pg_class
WHERE relnamespace = current_schema()::regnamespace AND relkind IN ('r', 'p') AND has_table_privilege($1, oid, 'SELECT')
  AND (relispartition OR NOT relrowsecurity) ORDER BY relname`, db.o.ReadRole)
	for _, table := range open {
		if nobodysTables[table] == "" {
			t.Errorf("%s reads %s, which has no row-level security of its own", db.o.ReadRole, table)
		}
	}
}

// TestAConnectionServesOneTenantAfterTheOther has many tenants share few
// connections, and some of their reads end in the middle.
func TestAConnectionServesOneTenantAfterTheOther(t *testing.T) {
	db := openAt(t, Options{DSN: freshDatabase(t), MaxConns: minConns})
	const tenants, reads = 8, 60
	for i := range tenants {
		insertRow(t, db, "products", fmt.Sprint("tenant-", i))
	}
	var all sync.WaitGroup
	for i := range tenants {
		all.Go(func() {
			tenantID := fmt.Sprint("tenant-", i)
			for n := range reads {
				ctx, cancel := context.WithCancel(storesql.ForTenant(t.Context(), tenantID))
				if n%7 == i%7 { // cancelled before, or while it waits for a connection
					if n%2 == 0 {
						cancel()
					} else {
						time.AfterFunc(50*time.Microsecond, cancel)
					}
				}
				rows, err := db.fresh.Query(ctx, `SELECT tenant_id FROM products`)
				var got []string
				if err == nil {
					got, err = pgx.CollectRows(rows, pgx.RowTo[string])
				}
				switch {
				case err != nil && !errors.Is(err, context.Canceled) && sqlState(err) != stateQueryCanceled:
					t.Errorf("%s: %v", tenantID, err)
				case err == nil && !slices.Equal(got, []string{tenantID}):
					t.Errorf("%s sees %q", tenantID, got)
				}
				cancel()
			}
		})
	}
	all.Wait()
}

// The schema can be distributed by tenant only if every key leads with it.
func TestEveryKeyLeadsWithTheTenant(t *testing.T) {
	db := openTest(t)
	rows, err := db.hot.Query(t.Context(), `SELECT t.relname::text, i.relname::text, coalesce(a.attname::text, 'an expression')
FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid JOIN pg_class t ON t.oid = x.indrelid
LEFT JOIN pg_attribute a ON a.attrelid = t.oid AND a.attnum = x.indkey[0]
WHERE t.relnamespace = current_schema()::regnamespace AND (x.indisunique OR x.indisprimary) ORDER BY 1, 2`)
	if err != nil {
		t.Fatal(err)
	}
	keys := 0
	var table, index, first string
	if _, err := pgx.ForEachRow(rows, []any{&table, &index, &first}, func() error {
		keys++
		if first != "tenant_id" && table != "goose_db_version" {
			t.Errorf("%s of %s leads with %s", index, table, first)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if keys < 15 {
		t.Fatalf("only %d keys; the test looks in the wrong place", keys)
	}
}

// Text is compared as bytes, so that an order by it is the same on every database.
func TestEveryTextOfAKeyIsComparedAsBytes(t *testing.T) {
	db := openTest(t)
	odd := collect[string](t, db.hot, t.Context(), `SELECT t.relname || '.' || a.attname FROM pg_index x
JOIN pg_class t ON t.oid = x.indrelid JOIN pg_attribute a ON a.attrelid = t.oid AND a.attnum = ANY (x.indkey)
JOIN pg_collation c ON c.oid = a.attcollation
WHERE t.relnamespace = current_schema()::regnamespace AND c.collname <> 'C'`)
	if len(odd) > 0 {
		t.Errorf("not COLLATE \"C\": %q", odd)
	}
}
