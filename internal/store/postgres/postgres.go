package postgres

import (
	"context"
	stdsql "database/sql"
	"errors"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// DB is the store on PostgreSQL. It is safe for concurrent use.
type DB struct {
	o Options

	// hot is the owner's: events, placements, transitions, and all reads across
	// tenants. Row-level security does not bind it.
	hot *pgxpool.Pool
	// fresh reads on the primary as the read role, for the tenant of the context alone
	// (storesql.ForTenant).
	fresh *pgxpool.Pool
	// vital is the owner's, with few connections, for what must not wait behind work:
	// the heartbeat, and asking for the outcome of a commit.
	vital *pgxpool.Pool
	// replica is nil without one.
	replica *replica

	// The same pools for the shared statements: owner is hot, read is fresh, and lists
	// goes where reader says.
	owner, read, lists *stdsql.DB

	events *events
	orders *orders
	outbox *outboxRows

	stop    context.CancelFunc // of what runs in the background
	running sync.WaitGroup

	closing sync.Once
}

// Open connects, brings the schema up to date or checks it, and starts the
// heartbeat. It answers *IncompatibleError when the schema needs a newer program.
// ctx bounds the opening only.
func Open(ctx context.Context, o Options) (*DB, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	if o.Migrate {
		if _, err := Migrate(ctx, o); err != nil {
			return nil, err
		}
	} else if err := checkSchema(ctx, &o); err != nil {
		return nil, err
	}
	db := &DB{o: o}
	if err := db.openPools(ctx); err != nil {
		db.closePools()
		return nil, err
	}
	background, stop := context.WithCancel(context.WithoutCancel(ctx))
	db.stop = stop
	if err := db.start(ctx, background); err != nil {
		db.Close()
		return nil, err
	}
	return db, nil
}

func (db *DB) openPools(ctx context.Context) (err error) {
	o := &db.o
	hot, fresh, vital := split(o.MaxConns)
	if db.hot, err = ownerPool(ctx, o, hot); err != nil {
		return err
	}
	if db.vital, err = ownerPool(ctx, o, vital); err != nil {
		return err
	}
	if db.fresh, err = readerPool(ctx, o, o.DSN, fresh); err != nil {
		return err
	}
	if o.ReplicaDSN != "" {
		id, err := systemIdentifier(ctx, db.vital)
		if err != nil {
			return err
		}
		if db.replica, err = newReplica(ctx, o, fresh, id); err != nil {
			return err
		}
	}
	db.owner = sqlPool(func(context.Context) *pgxpool.Pool { return db.hot }, nil)
	db.read = sqlPool(func(context.Context) *pgxpool.Pool { return db.fresh }, nil)
	db.lists = sqlPool(db.reader, db.fresh)
	o.Metrics.pools.watch(db.poolsByName())
	return nil
}

func (db *DB) poolsByName() map[string]*pgxpool.Pool {
	pools := map[string]*pgxpool.Pool{"hot": db.hot, "reads": db.fresh, "vital": db.vital}
	if db.replica != nil {
		pools["replica"] = db.replica.pool
	}
	return pools
}

// start checks that what was opened can be used, and starts what runs beside it.
func (db *DB) start(ctx, background context.Context) (err error) {
	h := &heart{db: db, startedNs: time.Now().UnixNano()}
	if err := h.claimName(ctx); err != nil {
		return err
	}
	if err := db.checkReader(ctx); err != nil {
		return err
	}
	if db.events, err = newEvents(db); err != nil {
		return err
	}
	if db.orders, err = newOrders(db); err != nil {
		return err
	}
	if db.outbox, err = newOutbox(db); err != nil {
		return err
	}
	db.running.Go(func() { newWatchman(db).run(background) })
	return db.startHeart(ctx, background, h)
}

// reader returns the pool for a read that need not see the newest: the replica's
// while it is fresh enough, else the primary's. Both read as the read role, for
// the tenant of the context.
func (db *DB) reader(context.Context) *pgxpool.Pool {
	if db.replica != nil && db.replica.usable() {
		db.o.Metrics.reads.WithLabelValues("replica").Inc()
		return db.replica.pool
	}
	db.o.Metrics.reads.WithLabelValues("primary").Inc()
	return db.fresh
}

// maxConflicts bounds how often withTx runs a transaction that lost against
// another.
const maxConflicts = 10

// withTx runs do in a transaction of the owner's and commits it. It begins again
// when the transaction loses against another (deadlock, serialization): do must be
// safe to run again. A commit whose reply is lost is an error like any other.
func (db *DB) withTx(ctx context.Context, do func(tx pgx.Tx) error) error {
	for tries := 1; ; tries++ {
		err := pgx.BeginFunc(ctx, db.hot, do)
		if err == nil || !isConflict(err) || tries == maxConflicts || ctx.Err() != nil {
			return err
		}
	}
}

// deadline returns a context that ends when a statement must have, unless ctx ends
// sooner.
func (db *DB) deadline(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, db.o.StatementTimeout+stallMargin)
}

// pingTimeoutMax bounds Ping, whatever its context says.
const pingTimeoutMax = 5 * time.Second

// Ping says whether the primary answers.
func (db *DB) Ping(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, pingTimeoutMax)
	defer cancel()
	return in("PostgreSQL does not answer", db.vital.Ping(ctx))
}

// Close waits for calls under way, which their deadlines bound, and closes all
// connections. Calls that come later answer an error. A second Close does nothing.
func (db *DB) Close() error {
	var err error
	db.closing.Do(func() {
		db.stop()
		db.running.Wait()
		err = db.closePools()
	})
	return err
}

func (db *DB) closePools() error {
	var errs []error
	for _, p := range []*stdsql.DB{db.owner, db.read, db.lists} {
		if p != nil {
			errs = append(errs, p.Close())
		}
	}
	if db.replica != nil {
		db.replica.close()
	}
	for _, p := range []*pgxpool.Pool{db.hot, db.fresh, db.vital} {
		if p != nil {
			p.Close()
		}
	}
	return errors.Join(errs...)
}
