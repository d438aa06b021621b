package sqlite

import (
	"context"
	stdsql "database/sql"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Migration is one step of the schema of millrace.db. The files of events have
// steps of their own, which each file takes when it is opened.
type Migration struct {
	Version int64
	Name    string
	// AppliedAt is zero if it was not applied yet.
	AppliedAt time.Time
}

// Status returns the migrations of millrace.db that this program knows, with when
// each was applied. A directory without the file has applied none. It changes
// nothing, and works beside a running server.
func Status(ctx context.Context, dir string) ([]Migration, error) {
	s, err := loadSchema(migrations, "main")
	if err != nil {
		return nil, err
	}
	all, err := s.steps()
	if err != nil {
		return nil, err
	}
	path := filepath.Join(dir, "millrace.db")
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return all, nil
	}
	db, err := pool(path, reading, 1)
	if err != nil {
		return nil, err
	}
	defer db.Close()
	rows, err := db.QueryContext(ctx, `SELECT version_id, max(tstamp) FROM goose_db_version WHERE is_applied GROUP BY version_id`)
	if err != nil {
		return nil, fmt.Errorf("read the migrations of %s: %w", path, err)
	}
	defer rows.Close()
	for rows.Next() {
		if err := noteApplied(rows, all); err != nil {
			return nil, fmt.Errorf("read the migrations of %s: %w", path, err)
		}
	}
	return all, rows.Err()
}

func noteApplied(row *stdsql.Rows, all []Migration) error {
	var version int64
	var at string
	if err := row.Scan(&version, &at); err != nil {
		return err
	}
	i := slices.IndexFunc(all, func(m Migration) bool { return m.Version == version })
	if i < 0 {
		return nil // goose's own first row, or a newer program's
	}
	t, err := time.Parse(time.DateTime, at)
	if err == nil {
		all[i].AppliedAt = t.UTC()
	}
	return err
}

// steps returns the migrations of the schema, in order.
func (s schema) steps() ([]Migration, error) {
	names, err := fs.Glob(s.files, "*.sql")
	if err != nil {
		return nil, err
	}
	slices.Sort(names)
	all := make([]Migration, 0, len(names))
	for _, name := range names {
		number, rest, _ := strings.Cut(strings.TrimSuffix(name, ".sql"), "_")
		version, err := strconv.ParseInt(number, 10, 64)
		if err != nil {
			return nil, err
		}
		all = append(all, Migration{Version: version, Name: rest})
	}
	return all, nil
}
