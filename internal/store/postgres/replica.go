package postgres

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

const (
	// lookEvery is how often the replica is looked at, and lookTimeout how long that
	// may take.
	lookEvery   = 500 * time.Millisecond
	lookTimeout = time.Second
)

// replica is a streaming replica and what is known of it.
type replica struct {
	o        *Options
	pool     *pgxpool.Pool
	watch    *pgxpool.Pool // of one connection, so that looking waits for nobody
	systemID string        // of the primary

	// seenNs is this instance's newest heartbeat that was seen on the replica, 0 while
	// the replica is not to be used whatever it has.
	seenNs atomic.Int64

	state string // of the last look, for the log
}

func newReplica(ctx context.Context, o *Options, conns int, systemID string) (*replica, error) {
	r := &replica{o: o, systemID: systemID}
	var err error
	if r.pool, err = readerPool(ctx, o, o.ReplicaDSN, conns); err != nil {
		return nil, fmt.Errorf("replica: %w", err)
	}
	if r.watch, err = readerPool(ctx, o, o.ReplicaDSN, 1); err != nil {
		r.pool.Close()
		return nil, fmt.Errorf("replica: %w", err)
	}
	return r, nil
}

func (r *replica) close() {
	r.pool.Close()
	r.watch.Close()
}

// usable says whether the replica is fresh enough at this moment, as far as it was
// seen.
func (r *replica) usable() bool {
	seen := r.seenNs.Load()
	if seen == 0 {
		return false
	}
	age := time.Duration(time.Now().UnixNano() - seen)
	// An age below zero is a clock that was set back: nothing is known then.
	return age >= -beatEvery && age <= r.o.ReplicaMaxLag
}

func (r *replica) run(ctx context.Context) {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			_ = r.look(ctx) // it has told
		}
	}
}

// lookStatement reads how old the replica is and whether it is one of this primary.
const lookStatement = `SELECT (SELECT heartbeat_ns FROM instances WHERE tenant_id = '' AND id = $1),
  pg_is_in_recovery(), (SELECT system_identifier::text FROM pg_control_system())`

// Errors of a replica that waiting does not mend.
var (
	errOtherCluster  = errors.New("it is of another database cluster than the primary; give the connection string of a streaming replica of it")
	errNoReplica     = errors.New("it is no replica: it is not in recovery; give the connection string of a streaming replica, or none")
	errNotYetSeen    = errors.New("this instance's heartbeat has not arrived there yet")
	errReplicaBehind = errors.New("it is behind")
)

func isMisconfigured(err error) bool {
	return errors.Is(err, errOtherCluster) || errors.Is(err, errNoReplica)
}

// look looks at the replica, says in the log what has changed, and answers why it
// is not used, nil if it is.
func (r *replica) look(ctx context.Context) error {
	seen, err := r.ask(ctx)
	age := time.Duration(time.Now().UnixNano() - seen)
	switch {
	case err != nil:
		r.seenNs.Store(0)
		r.o.Metrics.replicaLag.Set(-1)
	default:
		r.seenNs.Store(seen)
		r.o.Metrics.replicaLag.Set(max(0, age.Seconds()))
		if !r.usable() {
			err = fmt.Errorf("%w by %s, more than %s", errReplicaBehind, age.Round(100*time.Millisecond), r.o.ReplicaMaxLag)
		}
	}
	if ctx.Err() == nil {
		r.tell(err)
	}
	if err != nil {
		return fmt.Errorf("the replica cannot be used: %w", err)
	}
	return nil
}

// ask returns this instance's heartbeat as the replica has it.
func (r *replica) ask(ctx context.Context) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	var beat *int64
	var recovering bool
	var id string
	err := r.watch.QueryRow(ctx, lookStatement, r.o.Instance).Scan(&beat, &recovering, &id)
	switch {
	case err != nil:
		return 0, err
	case id != r.systemID:
		return 0, errOtherCluster
	case !recovering:
		return 0, errNoReplica
	case beat == nil:
		return 0, errNotYetSeen
	}
	return *beat, nil
}

// tell logs when the replica begins or ceases to be used, or the reason changes.
func (r *replica) tell(err error) {
	state := "used"
	switch {
	case errors.Is(err, errReplicaBehind), errors.Is(err, errNotYetSeen):
		state = "behind"
	case isMisconfigured(err):
		state = "wrong"
	case err != nil:
		state = "unreachable"
	}
	if state == r.state {
		return
	}
	r.state = state
	switch {
	case err == nil:
		r.o.Logger.Info("the replica answers reads that need not see the newest")
	case isMisconfigured(err):
		r.o.Logger.Error("the replica is not used, the primary answers all reads", "error", err)
	default:
		r.o.Logger.Warn("the replica is not used, the primary answers all reads until it can be", "error", err)
	}
}

// systemIdentifier is what a primary and its replicas have in common and no other
// cluster has.
func systemIdentifier(ctx context.Context, q interface {
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}) (string, error) {
	var id string
	err := q.QueryRow(ctx, `SELECT system_identifier::text FROM pg_control_system()`).Scan(&id)
	return id, in("read the system identifier", err)
}
