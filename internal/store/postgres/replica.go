package postgres

import (
	"context"
	"sync/atomic"

	"github.com/jackc/pgx/v5/pgxpool"
)

// replica is a streaming replica and what is known of it.
type replica struct {
	pool  *pgxpool.Pool
	fresh atomic.Bool
}

func newReplica(ctx context.Context, o *Options, conns int) (*replica, error) {
	pool, err := readerPool(ctx, o, o.ReplicaDSN, conns)
	if err != nil {
		return nil, err
	}
	return &replica{pool: pool}, nil
}

// usable says whether the replica was fresh enough when it was looked at last.
func (r *replica) usable() bool { return r.fresh.Load() }
