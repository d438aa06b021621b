package torture

import (
	"context"
	"database/sql"
	"encoding/hex"
	"path/filepath"
	"testing"

	_ "modernc.org/sqlite" // reads the files the server left

	"millrace/internal/blackbox"
)

// checkFiles looks into the files of a server that was stopped, past all of its
// code: each event is there once, the rollups are the sums of the rows, the log
// is whole, and the store stands where the log ends.
func (s *stage) checkFiles(ctx context.Context, t *testing.T) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(s.o.Data, "events", "*.db"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no day files in %s: %v", s.o.Data, err)
	}
	var rows int64
	positions := map[string]int64{}
	for _, file := range files {
		rows += checkDay(ctx, t, file, positions)
	}
	if rows == 0 {
		t.Error("the day files hold no events")
	}
	if len(positions) != 1 {
		t.Errorf("the store knows %d logs: %v; one log lives through all restarts", len(positions), positions)
	}
	t.Logf("%d rows in %d day files, log positions %v", rows, len(files), positions)
	if out, err := blackbox.Run(ctx, s.o.Binary, "wal", "inspect", filepath.Join(s.o.Data, "wal")); err != nil {
		t.Errorf("wal inspect: %v\n%s", err, out)
	}
}

// checkDay checks one day file, adds its log positions to the others and returns
// its number of rows.
func checkDay(ctx context.Context, t *testing.T, file string, positions map[string]int64) int64 {
	t.Helper()
	db, err := sql.Open("sqlite", "file:"+file+"?mode=ro")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	one := func(query string) (n int64) {
		if err := db.QueryRowContext(ctx, query).Scan(&n); err != nil {
			t.Fatalf("%s: %s: %v", filepath.Base(file), query, err)
		}
		return n
	}
	var whole string
	if err := db.QueryRowContext(ctx, `PRAGMA integrity_check`).Scan(&whole); err != nil || whole != "ok" {
		t.Errorf("%s: integrity check: %q, %v", filepath.Base(file), whole, err)
	}
	if n := one(`SELECT count(*) FROM (SELECT 1 FROM events GROUP BY tenant_id, source, id HAVING count(*) > 1)`); n > 0 {
		t.Errorf("%s: %d events are stored more than once", filepath.Base(file), n)
	}
	const wrong = `
WITH r AS (
  SELECT tenant_id, minute, type, sum(count) AS n, sum(bytes) AS b FROM (
    SELECT tenant_id, minute, type, count, bytes FROM rollups UNION ALL SELECT tenant_id, minute, type, count, bytes FROM money_rollups
  ) GROUP BY 1, 2, 3
), e AS (
  SELECT tenant_id, received_ns / 60000000000 AS minute, type, count(*) AS n, sum(length(CAST(payload AS BLOB))) AS b FROM events GROUP BY 1, 2, 3
)
SELECT count(*) FROM (SELECT * FROM r EXCEPT SELECT * FROM e UNION ALL SELECT * FROM e EXCEPT SELECT * FROM r)`
	if n := one(wrong); n > 0 {
		t.Errorf("%s: %d rollups are not the sums of their rows", filepath.Base(file), n)
	}
	logs, err := db.QueryContext(ctx, `SELECT log_id, next_seq FROM positions`)
	if err != nil {
		t.Fatal(err)
	}
	defer logs.Close()
	for logs.Next() {
		var id []byte
		var next int64
		if err := logs.Scan(&id, &next); err != nil {
			t.Fatal(err)
		}
		name := hex.EncodeToString(id)
		positions[name] = max(positions[name], next)
	}
	if err := logs.Err(); err != nil {
		t.Fatal(err)
	}
	return one(`SELECT count(*) FROM events`)
}
