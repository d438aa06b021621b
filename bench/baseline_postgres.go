package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"millrace/internal/event"
	"millrace/internal/event/scan"
)

// baselineDSN is the variable that names the database of the postgres baseline.
const baselineDSN = "MILLRACE_BENCH_DSN"

// postgresInserter is the baseline with one insert per request into PostgreSQL. It
// does without the rollups, positions and packed hashes that the server writes in
// the same transaction, which is in its favour.
type postgresInserter struct {
	pool *pgxpool.Pool
	seq  atomic.Int64
}

func newPostgresInserter(ctx context.Context, dsn string) (*postgresInserter, error) {
	if dsn == "" {
		return nil, fmt.Errorf("$%s must name the database", baselineDSN)
	}
	config, err := pgxpool.ParseConfig(dsn)
	if err != nil {
		return nil, fmt.Errorf("$%s: %w", baselineDSN, err)
	}
	config.MaxConns = allConnections
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return nil, err
	}
	k := &postgresInserter{pool: pool}
	var table string
	if err := pool.QueryRow(ctx, "SELECT 'events'::regclass::text").Scan(&table); err != nil {
		return nil, fmt.Errorf("the table that the server makes: %w", err)
	}
	return k, nil
}

// eventColumns is how many values a row has.
const eventColumns = 9

func (k *postgresInserter) keep(ctx context.Context, events []scan.Event) error {
	now := time.Now().UnixNano()
	var b strings.Builder
	b.WriteString("INSERT INTO events (received_ns, seq, id_key, timestamp_ns, tenant_id, type, id, source, payload) VALUES ")
	args := make([]any, 0, eventColumns*len(events))
	for i, e := range events {
		if i > 0 {
			b.WriteByte(',')
		}
		for j := range eventColumns {
			sign := byte(',')
			if j == 0 {
				sign = '('
			}
			b.WriteByte(sign)
			fmt.Fprintf(&b, "$%d", i*eventColumns+j+1)
		}
		b.WriteByte(')')
		hash := event.HashOf("demo", string(e.Source), string(e.ID))
		args = append(args, now, k.seq.Add(1), int64(binary.BigEndian.Uint64(hash[:8])), e.Timestamp, "demo", string(e.Type), string(e.ID), string(e.Source), string(e.Payload))
	}
	_, err := k.pool.Exec(ctx, b.String(), args...) // prepared once for each size
	return err
}

func (k *postgresInserter) close() error {
	k.pool.Close()
	return nil
}
