package sqlite

import (
	"context"
	stdsql "database/sql"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	"millrace/internal/audit"
	"millrace/internal/auth"
	"millrace/internal/deadletter"
	"millrace/internal/event"
	storesql "millrace/internal/store/sql"
)

// Options say where the store lives. Dir is required.
type Options struct {
	// Dir is the data directory; it is created if it is not there.
	Dir string
	// MaxOpenDays bounds the day files that have readers open, 8 if zero. One
	// takes up to four connections of 2 MiB each.
	MaxOpenDays int
	// Logger is for what happens outside of a call's answer. Nil discards.
	Logger *slog.Logger
	// Metrics are made with NewMetrics. Nil means none.
	Metrics *Metrics
}

func (o Options) withDefaults() (Options, error) {
	if o.Dir == "" {
		return o, errors.New("sqlite: Dir is empty; name the data directory")
	}
	if o.MaxOpenDays == 0 {
		o.MaxOpenDays = 8
	}
	if o.MaxOpenDays < 1 {
		return o, fmt.Errorf("sqlite: MaxOpenDays is %d; give at least 1", o.MaxOpenDays)
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Metrics == nil {
		o.Metrics = NewMetrics(nil)
	}
	dir, err := filepath.Abs(o.Dir)
	if err != nil {
		return o, fmt.Errorf("sqlite: data directory %s: %w", o.Dir, err)
	}
	o.Dir = dir
	return o, nil
}

// DB is the embedded store. It is safe for concurrent use.
type DB struct {
	events      *events
	deadLetters *storesql.DeadLetters
	keys        *storesql.Keys
	orders      *orders
	audit       *storesql.Audit
	// The pools of millrace.db: write has one connection; lists, histories, counts
	// and the audit log have a pool of their own, so that many who list are not in
	// the way of the outbox and of those who need one row.
	write, read, lists *stdsql.DB
}

// Open opens the store below o.Dir, creates what is missing and migrates what is
// old. It answers *IncompatibleError when a file needs a newer program. ctx
// bounds the opening only.
func Open(ctx context.Context, o Options) (*DB, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	eventsDir := filepath.Join(o.Dir, "events")
	if err := os.MkdirAll(eventsDir, 0o700); err != nil {
		return nil, fmt.Errorf("create the event directory: %w", err)
	}
	db := &DB{}
	if err := db.openMain(ctx, filepath.Join(o.Dir, "millrace.db"), o); err != nil {
		return nil, errors.Join(err, db.closeMain())
	}
	eventsSchema, err := loadSchema(migrations, "events")
	if err != nil {
		return nil, errors.Join(err, db.closeMain())
	}
	days, err := openFiles(ctx, eventsDir, eventsSchema, o.MaxOpenDays, o.Metrics)
	if err != nil {
		return nil, errors.Join(err, db.closeMain())
	}
	db.events = newEvents(days, o.Logger, o.Metrics)
	return db, nil
}

func (db *DB) openMain(ctx context.Context, path string, opts Options) error {
	s, err := loadSchema(migrations, "main")
	if err != nil {
		return err
	}
	if db.write, err = hotPool(path); err != nil {
		return err
	}
	if err := s.apply(ctx, db.write, path); err != nil {
		return err
	}
	if db.read, err = pool(path, reading, mainReaders); err != nil {
		return err
	}
	if db.lists, err = pool(path, reading, mainListers); err != nil {
		return err
	}
	db.deadLetters = storesql.NewDeadLetters(db.shared())
	db.keys = storesql.NewKeys(db.shared())
	db.audit = storesql.NewAudit(db.shared())
	if db.orders, err = openOrders(ctx, db, path, opts.Logger, opts.Metrics); err != nil {
		return err
	}
	return nil
}

// shared returns the pools as the shared stores take them.
func (db *DB) shared() storesql.Pools {
	return storesql.Pools{Dialect: storesql.SQLite, Write: db.write, Read: db.read, Lists: db.lists, AllRead: db.read, AllLists: db.lists}
}

func (db *DB) closeMain() error {
	var errs []error
	if db.orders != nil {
		errs = append(errs, db.orders.close())
	}
	for _, p := range []*stdsql.DB{db.lists, db.read, db.write} { // the writer last: it checkpoints
		if p != nil {
			errs = append(errs, p.Close())
		}
	}
	return errors.Join(errs...)
}

// Events returns the store of events.
func (db *DB) Events() event.Store { return db.events }

// DeadLetters returns the store of dead letters.
func (db *DB) DeadLetters() deadletter.Store { return db.deadLetters }

// Keys returns the store of API keys.
func (db *DB) Keys() auth.KeyStore { return db.keys }

// Audit returns the store of the audit log.
func (db *DB) Audit() audit.Store { return db.audit }

// Ping says whether the store can be read: millrace.db, and the newest day file.
func (db *DB) Ping(ctx context.Context) error {
	var n int
	if err := db.read.QueryRowContext(ctx, `SELECT count(*) FROM schema_compat`).Scan(&n); err != nil {
		return fmt.Errorf("millrace.db cannot be read: %w", err)
	}
	return db.events.ping(ctx)
}

// Close waits for calls under way and closes all files. Calls that come later
// answer an error. A second Close does nothing.
func (db *DB) Close() error {
	return errors.Join(db.events.close(), db.closeMain())
}
