package sqlite

import (
	"context"
	stdsql "database/sql"
	"embed"
	"fmt"
	"io/fs"
	"strconv"
	"strings"

	"github.com/pressly/goose/v3"
)

//go:embed migrations
var migrations embed.FS

// schema is the numbered migrations of one kind of file.
type schema struct {
	files  fs.FS
	newest int64
}

// loadSchema reads the migrations of a kind of file, "main" or "events".
func loadSchema(from fs.FS, kind string) (schema, error) {
	files, err := fs.Sub(from, "migrations/"+kind)
	if err != nil {
		return schema{}, fmt.Errorf("migrations of %s files: %w", kind, err)
	}
	names, err := fs.Glob(files, "*.sql")
	if err != nil {
		return schema{}, fmt.Errorf("migrations of %s files: %w", kind, err)
	}
	s := schema{files: files}
	for _, name := range names {
		number, _, _ := strings.Cut(name, "_")
		version, err := strconv.ParseInt(number, 10, 64)
		if err != nil {
			return schema{}, fmt.Errorf("migration %s of %s files does not begin with a number: %w", name, kind, err)
		}
		s.newest = max(s.newest, version)
	}
	return s, nil
}

// apply brings a file to the newest schema. A file that is newer still is left
// as it is when it says that it can be served, else *IncompatibleError.
func (s schema) apply(ctx context.Context, db *stdsql.DB, path string) error {
	version, needs, err := schemaVersion(ctx, db)
	if err != nil {
		return fmt.Errorf("read the schema version of %s: %w", path, err)
	}
	switch {
	case version == s.newest:
		return nil
	case version > s.newest && needs <= s.newest:
		return nil
	case version > s.newest:
		return &IncompatibleError{File: path, FileVersion: version, NeedsVersion: needs, KnownVersion: s.newest}
	}
	provider, err := goose.NewProvider(goose.DialectSQLite3, db, s.files, goose.WithDisableGlobalRegistry(true))
	if err != nil {
		return fmt.Errorf("prepare the migrations of %s: %w", path, err)
	}
	if _, err := provider.Up(ctx); err != nil {
		return fmt.Errorf("migrate %s from schema version %d to %d: %w", path, version, s.newest, err)
	}
	return nil
}

// schemaVersion returns 0 for a file without tables.
func schemaVersion(ctx context.Context, db *stdsql.DB) (version, needs int64, err error) {
	var tables int
	err = db.QueryRowContext(ctx, `SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name = 'schema_compat'`).Scan(&tables)
	if err != nil || tables == 0 {
		return 0, 0, err
	}
	err = db.QueryRowContext(ctx, `SELECT version, min_compatible FROM schema_compat ORDER BY version DESC LIMIT 1`).Scan(&version, &needs)
	return version, needs, err
}
