package postgres

import (
	"context"
	stdsql "database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
)

//go:embed migrations/*.sql
var migrationFiles embed.FS

// Migration is one step of the schema.
type Migration struct {
	Version int64
	Name    string
	// AppliedAt is zero if it was not applied yet.
	AppliedAt time.Time
}

// IncompatibleError says that the database was migrated by a newer program which
// this one cannot stand in for.
type IncompatibleError struct {
	// Database names the database, without user and password.
	Database string
	// SchemaVersion is the version the database has.
	SchemaVersion int64
	// NeedsVersion is the oldest schema version a program must know to use it.
	NeedsVersion int64
	// KnownVersion is the newest schema version this program knows.
	KnownVersion int64
}

func (e *IncompatibleError) Error() string {
	return fmt.Sprintf("database %s has schema version %d, which needs a Millrace that knows version %d or newer; "+
		"this one knows up to version %d. Start the newer Millrace again, or restore the database from before its migration",
		e.Database, e.SchemaVersion, e.NeedsVersion, e.KnownVersion)
}

// migrations returns the steps this program knows, in order.
func migrations() ([]Migration, fs.FS, error) {
	files, err := fs.Sub(migrationFiles, "migrations")
	if err != nil {
		return nil, nil, fmt.Errorf("migrations of PostgreSQL: %w", err)
	}
	names, err := fs.Glob(files, "*.sql") // sorted
	if err != nil {
		return nil, nil, fmt.Errorf("migrations of PostgreSQL: %w", err)
	}
	var all []Migration
	for _, name := range names {
		number, rest, _ := strings.Cut(strings.TrimSuffix(name, ".sql"), "_")
		version, err := strconv.ParseInt(number, 10, 64)
		if err != nil {
			return nil, nil, fmt.Errorf("migration %s of PostgreSQL does not begin with a number: %w", name, err)
		}
		all = append(all, Migration{Version: version, Name: strings.ReplaceAll(rest, "_", " ")})
	}
	return all, files, nil
}

// admin is a connection pool for migrations and examinations: the owner's role, no
// bound on statements but the context's.
func admin(o *Options) (*stdsql.DB, string, error) {
	c, err := poolConfig(o, o.DSN, vitalConns)
	if err != nil {
		return nil, "", err
	}
	conn := c.ConnConfig
	conn.DialFunc = dialer(o.ConnectTimeout, maxMigration)
	conn.ValidateConnect = pgconn.ValidateConnectTargetSessionAttrsPrimary
	for _, name := range []string{"statement_timeout", "idle_in_transaction_session_timeout"} {
		conn.RuntimeParams[name] = "0"
	}
	db := stdlib.OpenDB(*conn)
	db.SetMaxOpenConns(vitalConns)
	return db, conn.Database + " on " + hostPort(conn.Host, conn.Port), nil
}

const (
	// migrationLock is the key of the advisory lock that migrations are applied under.
	migrationLock = 0x6d696c6c72616365 // "millrace"
	// lockPoll is how often the lock is tried. It is not waited for in a statement,
	// whose snapshot would hold up what the other does.
	lockPoll = 100 * time.Millisecond
	// maxMigration bounds a statement of a migration.
	maxMigration = time.Hour
)

// Migrate brings the schema to the newest version, and gives the read role its
// rights. Of several that run at once, one applies and the others find it done. It
// returns what it applied, and *IncompatibleError if the schema is of a newer
// program that this one cannot stand in for.
func Migrate(ctx context.Context, o Options) (applied []Migration, err error) {
	o, err = o.withConnectionDefaults()
	if err != nil {
		return nil, err
	}
	db, name, err := admin(&o)
	if err != nil {
		return nil, err
	}
	defer db.Close()
	conn, err := db.Conn(ctx)
	if err != nil {
		return nil, in("connect to PostgreSQL", err)
	}
	defer conn.Close() // and with it the session's lock
	if err := lockMigrations(ctx, conn); err != nil {
		return nil, fmt.Errorf("wait for another process that migrates %s: %w", name, err)
	}
	defer unlockMigrations(conn)
	known, files, err := migrations()
	if err != nil {
		return nil, err
	}
	version, err := compare(ctx, conn, name, known)
	if err != nil {
		return nil, err
	}
	newest := known[len(known)-1].Version
	if version > newest {
		return nil, nil
	}
	if version < newest {
		if applied, err = up(ctx, db, files, known); err != nil {
			return nil, fmt.Errorf("migrate %s from schema version %d to %d: %w", name, version, newest, err)
		}
	}
	return applied, grantReader(ctx, conn, o.ReadRole)
}

func up(ctx context.Context, db *stdsql.DB, files fs.FS, known []Migration) ([]Migration, error) {
	provider, err := goose.NewProvider(goose.DialectPostgres, db, files, goose.WithDisableGlobalRegistry(true))
	if err != nil {
		return nil, err
	}
	results, err := provider.Up(ctx)
	if err != nil {
		return nil, err
	}
	var applied []Migration
	now := time.Now()
	for _, r := range results {
		for _, m := range known {
			if m.Version == r.Source.Version {
				m.AppliedAt = now
				applied = append(applied, m)
			}
		}
	}
	return applied, nil
}

func lockMigrations(ctx context.Context, conn *stdsql.Conn) error {
	tick := time.NewTicker(lockPoll)
	defer tick.Stop()
	for {
		var held bool
		if err := conn.QueryRowContext(ctx, `SELECT pg_try_advisory_lock($1)`, int64(migrationLock)).Scan(&held); err != nil || held {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

// unlockMigrations gives the lock back also when the context is gone: the session
// may live on in a pooler.
func unlockMigrations(conn *stdsql.Conn) {
	ctx, cancel := context.WithTimeout(context.Background(), pingTimeoutMax)
	defer cancel()
	_, _ = conn.ExecContext(ctx, `SELECT pg_advisory_unlock($1)`, int64(migrationLock)) // else the end of the session does
}

// compare returns the version of the schema, 0 if there is none, and
// *IncompatibleError if this program cannot use it.
func compare(ctx context.Context, conn *stdsql.Conn, name string, known []Migration) (int64, error) {
	version, needs, err := schemaVersion(ctx, conn)
	if err != nil {
		return 0, fmt.Errorf("read the schema version of %s: %w", name, err)
	}
	newest := known[len(known)-1].Version
	if version > newest && needs > newest {
		return 0, &IncompatibleError{Database: name, SchemaVersion: version, NeedsVersion: needs, KnownVersion: newest}
	}
	return version, nil
}

func schemaVersion(ctx context.Context, conn *stdsql.Conn) (version, needs int64, err error) {
	err = conn.QueryRowContext(ctx, `SELECT version, min_compatible FROM schema_compat ORDER BY version DESC LIMIT 1`).Scan(&version, &needs)
	if sqlState(err) == stateUndefinedTable || errors.Is(err, stdsql.ErrNoRows) {
		return 0, 0, nil
	}
	return version, needs, err
}

// checkSchema says whether the schema can be used as it is.
func checkSchema(ctx context.Context, o *Options) error {
	db, name, err := admin(o)
	if err != nil {
		return err
	}
	defer db.Close()
	conn, err := db.Conn(ctx)
	if err != nil {
		return in("connect to PostgreSQL", err)
	}
	defer conn.Close()
	known, _, err := migrations()
	if err != nil {
		return err
	}
	version, err := compare(ctx, conn, name, known)
	switch newest := known[len(known)-1].Version; {
	case err != nil:
		return err
	case version == 0:
		return fmt.Errorf("database %s has no schema of Millrace yet: run `millrace migrate up`", name)
	case version < newest:
		return fmt.Errorf("database %s has schema version %d and this program needs %d: run `millrace migrate up`", name, version, newest)
	}
	return nil
}

// Status returns the migrations this program knows with when each was applied, and
// the oldest schema version a program must know to use the database as it is, 0 if
// it has no schema. A newer schema is no error here; its steps are listed without a
// name.
func Status(ctx context.Context, o Options) (all []Migration, minCompatible int64, err error) {
	o, err = o.withConnectionDefaults()
	if err != nil {
		return nil, 0, err
	}
	db, name, err := admin(&o)
	if err != nil {
		return nil, 0, err
	}
	defer db.Close()
	conn, err := db.Conn(ctx)
	if err != nil {
		return nil, 0, in("connect to PostgreSQL", err)
	}
	defer conn.Close()
	return status(ctx, conn, name)
}

func status(ctx context.Context, conn *stdsql.Conn, name string) (all []Migration, minCompatible int64, err error) {
	all, _, err = migrations()
	if err != nil {
		return nil, 0, err
	}
	version, minCompatible, err := schemaVersion(ctx, conn)
	if err != nil {
		return nil, 0, fmt.Errorf("read the schema version of %s: %w", name, err)
	}
	if version == 0 {
		return all, 0, nil
	}
	rows, err := conn.QueryContext(ctx, `SELECT version_id, max(tstamp) FROM goose_db_version WHERE version_id > 0 AND is_applied GROUP BY version_id ORDER BY version_id`)
	if err != nil {
		return nil, 0, fmt.Errorf("read the migrations of %s: %w", name, err)
	}
	defer rows.Close()
	for rows.Next() {
		var m Migration
		if err := rows.Scan(&m.Version, &m.AppliedAt); err != nil {
			return nil, 0, fmt.Errorf("read the migrations of %s: %w", name, err)
		}
		i := slices.IndexFunc(all, func(k Migration) bool { return k.Version == m.Version })
		if i < 0 {
			all = append(all, m)
			continue
		}
		all[i].AppliedAt = m.AppliedAt.UTC()
	}
	return all, minCompatible, in("read the migrations of "+name, rows.Err())
}
