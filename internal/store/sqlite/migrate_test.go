package sqlite

import (
	"errors"
	"io/fs"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/google/go-cmp/cmp"

	"millrace/internal/catalog"
	"millrace/internal/event"
)

func TestEveryMigrationRecordsWhomItServes(t *testing.T) {
	for _, kind := range []string{"main", "events"} {
		s, err := loadSchema(migrations, kind)
		if err != nil {
			t.Fatal(err)
		}
		names, err := fs.Glob(s.files, "*.sql")
		if err != nil || int64(len(names)) != s.newest {
			t.Errorf("%s files have %d migrations up to version %d, error %v; want one of each number", kind, len(names), s.newest, err)
		}
		path := filepath.Join(t.TempDir(), "x.db")
		db, err := pool(path, writing, 1)
		if err != nil {
			t.Fatal(err)
		}
		defer db.Close()
		if err := s.apply(t.Context(), db, path); err != nil {
			t.Fatal(err)
		}
		var rows, newest int64
		err = db.QueryRow(`SELECT count(*), max(version) FROM schema_compat WHERE min_compatible <= version`).Scan(&rows, &newest)
		if err != nil || rows != s.newest || newest != s.newest {
			t.Errorf("%s files record %d versions up to %d, error %v; want each of the %d migrations to insert its row", kind, rows, newest, err, s.newest)
		}
		var goose int64
		if err := db.QueryRow(`SELECT max(version_id) FROM goose_db_version`).Scan(&goose); err != nil || goose != s.newest {
			t.Errorf("goose counts version %d of %s files, error %v; want %d", goose, kind, err, s.newest)
		}
	}
}

func TestAnOlderFileIsMigratedAndKeepsItsRows(t *testing.T) {
	first := fstest.MapFS{"migrations/x/00001_a.sql": {Data: []byte(`-- +goose Up
CREATE TABLE schema_compat (version INTEGER PRIMARY KEY, min_compatible INTEGER NOT NULL);
INSERT INTO schema_compat VALUES (1, 1);
CREATE TABLE things (name TEXT);
INSERT INTO things VALUES ('old');`)}}
	second := fstest.MapFS{"migrations/x/00001_a.sql": first["migrations/x/00001_a.sql"], "migrations/x/00002_b.sql": {Data: []byte(`-- +goose Up
ALTER TABLE things ADD COLUMN size INTEGER NOT NULL DEFAULT 7;
INSERT INTO schema_compat VALUES (2, 1);`)}}
	path := filepath.Join(t.TempDir(), "x.db")
	db, err := pool(path, writing, 1)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	for _, files := range []fs.FS{first, second, second, first} { // the last one is an older binary after a rollback
		s, err := loadSchema(files, "x")
		if err != nil {
			t.Fatal(err)
		}
		if err := s.apply(t.Context(), db, path); err != nil {
			t.Fatalf("apply version %d: %v", s.newest, err)
		}
	}
	var name string
	var size int
	if err := db.QueryRow(`SELECT name, size FROM things`).Scan(&name, &size); err != nil || name != "old" || size != 7 {
		t.Errorf("row %q, %d, error %v; want old, 7", name, size, err)
	}
	// A third version that the first cannot serve.
	if _, err := db.Exec(`INSERT INTO schema_compat VALUES (3, 2)`); err != nil {
		t.Fatal(err)
	}
	for files, served := range map[*fstest.MapFS]bool{&first: false, &second: true} {
		s, err := loadSchema(*files, "x")
		if err != nil {
			t.Fatal(err)
		}
		err = s.apply(t.Context(), db, path)
		var incompatible *IncompatibleError
		if errors.As(err, &incompatible) == served {
			t.Errorf("a program of version %d before a file of version 3: error %v; want it served: %v", s.newest, err, served)
		}
	}
}

// TestProductsOfAnOlderFileAreTheFirstVersionOfTheirCatalogue migrates a file that
// knows neither versions nor tombstones.
func TestProductsOfAnOlderFileAreTheFirstVersionOfTheirCatalogue(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "millrace.db")
	old := fstest.MapFS{}
	err := fs.WalkDir(migrations, "migrations/main", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || entry.Name() > "00004" {
			return err
		}
		data, err := fs.ReadFile(migrations, name)
		old[name] = &fstest.MapFile{Data: data}
		return err
	})
	if err != nil || len(old) != 3 {
		t.Fatalf("%d old migrations, error %v", len(old), err)
	}
	s, err := loadSchema(old, "main")
	if err != nil {
		t.Fatal(err)
	}
	raw, err := pool(path, writing, 1)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.apply(t.Context(), raw, path); err != nil {
		t.Fatal(err)
	}
	if _, err := raw.Exec(`INSERT INTO products VALUES ('ann', 'x', 7, 1, 5, 'EUR', 'c', '{"en":"X"}', '{}', '', 1, 2),
('ann', 'y', 1, 0, 5, 'EUR', 'c', '{"en":"Y"}', '{}', '', 1, 2), ('bob', 'x', 2, 1, 5, 'EUR', 'c', '{"en":"X"}', '{}', '', 1, 2)`); err != nil {
		t.Fatal(err)
	}
	if err := raw.Close(); err != nil {
		t.Fatal(err)
	}
	db := open(t, dir)
	versions, _, err := db.Catalog().Versions(t.Context())
	if diff := cmp.Diff(map[string]int64{"ann": 1, "bob": 1}, versions); diff != "" || err != nil {
		t.Errorf("versions: error %v, differ (-want +got):\n%s", err, diff)
	}
	x := catalog.Product{TenantID: "ann", SKU: "x", Version: 7, Change: 1, Active: true, Price: catalog.Money{Amount: 5, Currency: "EUR"}, Category: "c",
		Names: map[string]string{"en": "X"}, CreatedAt: time.Unix(0, 1).UTC(), UpdatedAt: time.Unix(0, 2).UTC()}
	changed, more, err := db.Catalog().Changes(t.Context(), "ann", 0, 1)
	if err != nil || more || len(changed) != 2 || cmp.Diff(x, changed[0]) != "" && cmp.Diff(x, changed[1]) != "" {
		t.Errorf("changes %+v, error %v; want the two products of version 1", changed, err)
	}
	x.Slug = "x"
	results, errs, err := db.Catalog().Put(t.Context(), []catalog.Put{{Product: x, Now: time.Unix(3, 0)}})
	if err != nil || errs[0] != nil || results[0].Product.Version != 8 || results[0].Product.Change != 2 {
		t.Errorf("a put afterwards: %+v, %v, %v; want version 8 and change 2", results, errs, err)
	}
	// A program of before would not raise versions.
	raw, err = pool(path, writing, 1)
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	var incompatible *IncompatibleError
	if err := s.apply(t.Context(), raw, path); !errors.As(err, &incompatible) {
		t.Errorf("an older program: error %v, want an *IncompatibleError", err)
	}
}

func TestAFileOfANewerProgramIsRefused(t *testing.T) {
	for file, newer := range map[string]string{"millrace.db": "main", "events/2026-11-23.db": "events"} {
		t.Run(newer, func(t *testing.T) {
			dir := t.TempDir()
			db := open(t, dir)
			appendRows(t, db, "a")
			if err := db.Close(); err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(dir, file)
			raw, err := pool(path, writing, 1)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := raw.Exec(`INSERT INTO schema_compat VALUES (99, 98)`); err != nil {
				t.Fatal(err)
			}
			if err := raw.Close(); err != nil {
				t.Fatal(err)
			}
			_, err = Open(t.Context(), Options{Dir: dir})
			var incompatible *IncompatibleError
			if !errors.As(err, &incompatible) || incompatible.File != path || incompatible.FileVersion != 99 || incompatible.NeedsVersion != 98 {
				t.Fatalf("error %v; want an IncompatibleError that names %s and its versions", err, path)
			}
			for _, part := range []string{path, "99", "98", "Start the newer Millrace again"} {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("the message lacks %q: %v", part, err)
				}
			}
		})
	}
}

// appendRows appends an event per id to Monday, the 23rd, as one batch of a log.
func appendRows(t testing.TB, db *DB, ids ...string) {
	t.Helper()
	log := event.LogID{1}
	next, _, err := db.Events().Position(t.Context(), log)
	if err != nil {
		t.Fatal(err)
	}
	b := event.Batch{LogID: log, From: next, UpTo: next + 1, Day: benchDay.AddDate(0, 0, 1)}
	for _, id := range ids {
		b.Rows = append(b.Rows, event.Row{Hash: event.HashOf("demo", "", id), TenantID: "demo", Type: "t", ID: id,
			ReceivedAt: b.Day.UnixNano(), Payload: "{}"})
	}
	if _, err := db.Events().Append(t.Context(), b); err != nil {
		t.Fatal(err)
	}
}
