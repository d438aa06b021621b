package postgres

import (
	"context"
	"errors"
	"fmt"
	"time"

	"millrace/internal/order"
)

var (
	sqlBegin    = &statement{"begin", `BEGIN`}
	sqlCommit   = &statement{"commit", `COMMIT`}
	sqlRollback = &statement{"rollback", `ROLLBACK`}
	// sqlXid gives the transaction its id, which tells later what became of it.
	sqlXid = &statement{"transaction id", `SELECT pg_current_xact_id()::text`}
)

// Bounds of a commit. Once it was asked for its outcome is looked for, also when the
// caller has gone.
const (
	// resolveTime bounds finding out what became of a commit without an answer.
	resolveTime = 5 * time.Second
	// resolvePoll is how often it is asked for.
	resolvePoll = 20 * time.Millisecond
	// commitTime bounds the statements of a transaction together with its commit.
	commitTime = 15 * time.Second
)

// errOvertaken says that another transaction changed what this one had read:
// nothing was done, and the whole may be done again.
var errOvertaken = errors.New("others changed the same meanwhile")

// faults let a test fail commits. They are set before the store is used.
type faults struct {
	// beforeCommit fails a commit that does not take place, afterCommit loses the
	// answer to one that does, and all ways to ask for it.
	beforeCommit, afterCommit func() error
}

// evidence is a row that a transaction wrote: one of the history of an order. It is
// nobody else's: the id of a placed order is given once, and the time of a step is to
// the nanosecond.
type evidence struct {
	tenantID, orderID string
	version           int64
	event             order.Event
	atNs              int64
}

func (e *effects) evidence() evidence {
	h := &e.history[0]
	return evidence{h.TenantID, h.ID, h.entry.Version, h.entry.Event, nanosOf(h.entry.At)}
}

// hotTx is a transaction on one connection. It is over when commit or rollback
// returns, or begin fails. One goroutine.
//
// While it has locks that others want it is not to wait for this process, which may
// be paused or cut off at any moment: commit sends all that is left at once. Where
// it must wait, between two round trips, the server ends it after ownerIdleTime. The
// server counts that time only from the end of what it was sent (a Sync, and not a
// Flush).
type hotTx struct {
	o   *orders
	c   *hotConn
	xid string
}

// begin opens a transaction and runs the statements in it, in one round trip. Its id
// is known from then on, so that somebody can be asked later what became of it.
func (t *hotTx) begin(ctx context.Context, p *pipeline) error {
	opening := &pipeline{}
	opening.do(sqlBegin)
	opening.read(sqlXid, t.noteXid)
	opening.calls = append(opening.calls, p.calls...)
	err := t.c.run(ctx, opening)
	if err != nil {
		t.rollback(ctx)
	}
	return err
}

func (t *hotTx) noteXid(r row) error {
	t.xid = string(r[0])
	return r.wide(1)
}

// rollback ends the transaction. When that does not work the pool closes the
// connection, which ends it too.
func (t *hotTx) rollback(ctx context.Context) {
	if t.c.pg.IsClosed() {
		return
	}
	p := &pipeline{}
	p.do(sqlRollback)
	_ = t.c.run(ctx, p)
}

// commit runs the statements and commits, in one round trip: what they lock is
// locked for no longer than the server needs for them. After a *refusal nothing was
// done. proof is a row that they write, or that was written before.
//
// When the caller gives up the server is asked to cancel the statements; what it
// answers then tells what came of them.
func (t *hotTx) commit(ctx context.Context, p *pipeline, proof evidence) error {
	if err := errors.Join(t.o.mayCommit(), ctx.Err()); err != nil {
		t.rollback(ctx)
		return fmt.Errorf("nothing was committed: %w", err)
	}
	bounded, cancel := context.WithTimeout(ctx, commitTime)
	defer cancel()
	p.do(sqlCommit)
	pipe := t.c.pg.StartPipeline(bounded)
	p.send(t.c, pipe, 0, len(p.calls))
	synced := false
	err := pipe.Sync()
	if err == nil {
		err, synced = p.answers(pipe, 0)
	}
	closed := pipe.Close()
	switch {
	case synced && err == nil:
		if err = t.o.committed(); err == nil {
			return closed
		}
		return fmt.Errorf("%w: commit: %w", order.ErrUnknownOutcome, err)
	case synced:
		t.rollback(ctx)
		return err
	}
	done, unknown := t.o.resolve(ctx, t.xid, proof)
	switch {
	case unknown != nil:
		return fmt.Errorf("%w: commit: %w; and to ask for its outcome failed: %w", order.ErrUnknownOutcome, err, unknown)
	case done:
		return nil
	}
	return fmt.Errorf("the connection failed, nothing was committed: %w", err)
}

func (o *orders) mayCommit() error {
	if o.faults.beforeCommit != nil {
		return o.faults.beforeCommit()
	}
	return nil
}

func (o *orders) committed() error {
	if o.faults.afterCommit != nil {
		return o.faults.afterCommit()
	}
	return nil
}

// resolve finds out whether a transaction was committed. It waits while the server
// is still at it, or cannot be reached, while its patience lasts; the error says that it did
// not find out.
func (o *orders) resolve(ctx context.Context, xid string, proof evidence) (committed bool, err error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), o.patience)
	defer cancel()
	tick := time.NewTicker(resolvePoll)
	defer tick.Stop()
	for {
		status, asked := o.outcome(ctx, xid, proof)
		switch {
		case status == "committed":
			return true, nil
		case status == "aborted":
			return false, nil
		case asked != nil && (err == nil || ctx.Err() == nil): // not that the time is over, if more is known
			err = asked
		case asked == nil:
			err = fmt.Errorf("the transaction is %s", status)
		}
		select {
		case <-ctx.Done():
			return false, err
		case <-tick.C:
		}
	}
}

// stateInvalidParameter is the answer to the id of a transaction there never was.
const stateInvalidParameter = "22023"

// errRecovering is the answer of a standby, which may be behind. The address that
// leads there may lead to the primary the next time.
var errRecovering = errors.New("the server that was asked is a standby")

// outcome asks once. The status alone is not enough: a server that crashed before
// anything of the transaction was on its disk gives the same id to another. The row
// is looked for by a statement of its own, which sees what the status tells of.
func (o *orders) outcome(ctx context.Context, xid string, proof evidence) (string, error) {
	var recovering, wrote bool
	var status *string
	err := o.db.vital.QueryRow(ctx, `SELECT pg_is_in_recovery(), CASE WHEN NOT pg_is_in_recovery() THEN pg_xact_status($1::text::xid8) END`, xid).Scan(&recovering, &status)
	switch {
	case sqlState(err) == stateInvalidParameter:
		return "aborted", nil // it left no trace, not even its id
	case err != nil:
		return "", err
	case recovering:
		return "", errRecovering
	case status != nil && *status != "committed":
		return *status, nil
	}
	err = o.db.vital.QueryRow(ctx, `SELECT pg_is_in_recovery(), EXISTS (SELECT FROM order_history
		WHERE tenant_id = $1 AND order_id = $2 AND version = $3 AND event = $4 AND at_ns = $5)`,
		storable(proof.tenantID), storable(proof.orderID), proof.version, string(proof.event), proof.atNs).Scan(&recovering, &wrote)
	switch {
	case err != nil:
		return "", err
	case recovering:
		return "", errRecovering
	case wrote:
		return "committed", nil
	case status == nil:
		return "", errors.New("the server has forgotten the transaction")
	}
	return "aborted", nil
}
