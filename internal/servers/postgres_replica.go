package servers

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"time"

	"github.com/jackc/pgx/v5"
)

// ReplicaOptions say how a streaming replica is started.
type ReplicaOptions struct {
	Options
	// Primary is the address that the replica streams from, for example that of a
	// Proxy in front of the primary; the primary itself if empty.
	Primary string
}

// PostgresReplica is a streaming replica with a slot on its primary, so that it
// catches up however long it was away. It answers queries that only read.
type PostgresReplica struct {
	*Postgres
	primary *Postgres
	slot    string
}

// StartReplica copies the server and starts a streaming replica of it. It is
// stopped with its primary, unless it was before.
func (p *Postgres) StartReplica(ctx context.Context, o ReplicaOptions) (*PostgresReplica, error) {
	h, err := newHome(o.Options, "postgres-replica", "postgres")
	if err != nil {
		return nil, err
	}
	settings := PostgresOptions{Options: o.Options, Tuned: p.o.Tuned, Settings: p.o.Settings}
	if settings.TLS == nil {
		settings.TLS = p.o.TLS
	}
	r := &PostgresReplica{
		Postgres: &Postgres{o: settings, bin: p.bin, data: filepath.Join(h.dir, "data"), password: p.password},
		primary:  p,
	}
	r.process = newProcess(h, r.spec())
	if o.Primary == "" {
		o.Primary = p.Addr()
	}
	if err := r.begin(ctx, o); err != nil {
		return nil, errors.Join(err, r.Stop(context.WithoutCancel(ctx)))
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.replicas = append(p.replicas, r)
	return r, nil
}

func (r *PostgresReplica) begin(ctx context.Context, o ReplicaOptions) (err error) {
	if r.port, err = r.home.reserve(o.Port); err != nil {
		return err
	}
	r.slot = fmt.Sprintf("replica_%d", r.port)
	if r.version() == 0 {
		if err := r.copyFrom(ctx, o.Primary); err != nil {
			return err
		}
	}
	if err := r.configure(r.data, r.port); err != nil {
		return err
	}
	if err := r.start(); err != nil {
		return err
	}
	return r.ready(ctx)
}

// copyFrom takes a copy of the primary that knows how to stream the rest.
func (r *PostgresReplica) copyFrom(ctx context.Context, addr string) error {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return fmt.Errorf("address of the primary: %w", err)
	}
	if _, err := r.home.mkdir("data"); err != nil {
		return err
	}
	// The password goes through the environment into the replica's own settings.
	err = r.tool(ctx, "pg_basebackup", []string{"PGPASSWORD=" + r.password},
		"-D", r.data, "-h", host, "-p", port, "-U", postgresUser, "--checkpoint=fast", "--wal-method=stream",
		"--create-slot", "--slot="+r.slot, "--write-recovery-conf", "--no-sync")
	if err != nil {
		return fmt.Errorf("copy the primary at %s: %w", addr, err)
	}
	return nil
}

// PauseReplay stops applying what streams in: the replica answers, ever older.
func (r *PostgresReplica) PauseReplay(ctx context.Context) error {
	return r.execute(ctx, r.DSN(), "SELECT pg_wal_replay_pause()")
}

// ResumeReplay goes on applying.
func (r *PostgresReplica) ResumeReplay(ctx context.Context) error {
	return r.execute(ctx, r.DSN(), "SELECT pg_wal_replay_resume()")
}

// CatchUp waits until the replica has applied all that the primary has written
// by now.
func (r *PostgresReplica) CatchUp(ctx context.Context) error {
	var position string
	if err := r.primary.query(ctx, "SELECT pg_current_wal_flush_lsn()::text", &position); err != nil {
		return err
	}
	return r.await(ctx, func(ctx context.Context) error {
		var behind int64
		if err := r.query(ctx, "SELECT pg_wal_lsn_diff('"+position+"', pg_last_wal_replay_lsn())::bigint", &behind); err != nil {
			return err
		}
		if behind > 0 {
			return fmt.Errorf("the replica is %d bytes behind", behind)
		}
		return nil
	})
}

// query reads one value on a connection of its own.
func (p *Postgres) query(ctx context.Context, statement string, value any) error {
	c, err := pgx.Connect(ctx, p.DSNFor("postgres"))
	if err != nil {
		return err
	}
	return errors.Join(c.QueryRow(ctx, statement).Scan(value), c.Close(ctx))
}

// Stop ends the replica, removes what is temporary and drops its slot on the
// primary, which would keep the log for it for ever. It may be called twice.
func (r *PostgresReplica) Stop(ctx context.Context) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.stopped {
		return nil
	}
	r.stopped = true
	err := r.end(ctx)
	if !r.home.temporary || r.primary.PID() == 0 {
		return err // the slot is still wanted, or nobody keeps it
	}
	return errors.Join(err, r.dropSlot(ctx))
}

// dropSlot waits for a moment until the primary has noticed that the replica is gone.
func (r *PostgresReplica) dropSlot(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	return r.primary.await(ctx, func(ctx context.Context) error {
		return r.primary.execute(ctx, r.primary.DSNFor("postgres"),
			"SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = '"+r.slot+"'")
	})
}
