package sqlite

import (
	stdsql "database/sql"
	"testing"
)

// TestEveryKeyOfTheMainFileLeadsWithTheTenant is what the schema on PostgreSQL is
// held to as well, where it has no exceptions but the migrations' own table.
func TestEveryKeyOfTheMainFileLeadsWithTheTenant(t *testing.T) {
	except := map[string]string{
		"goose_db_version": "the migrations' own",
		"schema_compat":    "the version of the file, which belongs to no tenant",
		"api_keys":         "a caller shows a key before anybody knows its tenant; one file is never distributed by tenant",
		"outbox":           "a queue of this file's own, read by the road out",
	}
	db := open(t, t.TempDir())
	// A key is a unique index, or the rowid, which the only column of type INTEGER of a
	// primary key stands for.
	rows, err := db.read.QueryContext(t.Context(), `
SELECT t.name, i.name, (SELECT c.name FROM pragma_index_info(i.name) c WHERE c.seqno = 0)
FROM sqlite_master t JOIN pragma_index_list(t.name) i WHERE t.type = 'table' AND i."unique" = 1
UNION ALL
SELECT t.name, 'the rowid', c.name FROM sqlite_master t JOIN pragma_table_info(t.name) c
WHERE t.type = 'table' AND c.pk = 1 AND t.name NOT LIKE 'sqlite_%'`)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	keys, unused := 0, map[string]bool{}
	for table := range except {
		unused[table] = true
	}
	for rows.Next() {
		var table, index string
		var first stdsql.NullString
		if err := rows.Scan(&table, &index, &first); err != nil {
			t.Fatal(err)
		}
		keys++
		if first.String == "tenant_id" {
			continue
		}
		delete(unused, table)
		if except[table] == "" {
			t.Errorf("%s of %s leads with %q", index, table, first.String)
		}
	}
	if err := rows.Err(); err != nil || keys < 15 {
		t.Fatalf("only %d keys, error %v; the test looks in the wrong place", keys, err)
	}
	for table := range unused {
		t.Errorf("%s needs no exception", table)
	}
}
