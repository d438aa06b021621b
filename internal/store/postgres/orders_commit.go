package postgres

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"millrace/internal/order"
)

var (
	sqlBegin    = &statement{"begin", `BEGIN`}
	sqlCommit   = &statement{"commit", `COMMIT`}
	sqlRollback = &statement{"rollback", `ROLLBACK`}
	// sqlXid gives the transaction its id, which tells later what became of it.
	sqlXid = &statement{"transaction id", `SELECT pg_current_xact_id()::text`}
)

// Bounds of a commit, beyond the caller's context: once it was asked for its
// outcome is waited for.
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

// evidence is a row that a transaction wrote: one of the history of an order.
type evidence struct {
	tenantID, orderID string
	version           int64
}

// hotTx is a transaction on one connection. It is over when commit or rollback
// returns. One goroutine.
type hotTx struct {
	o *orders
	c *hotConn
	// begun says that a BEGIN was sent; otherwise commit sends it with all the rest.
	begun bool
	xid   string
}

// begin opens a transaction and runs the statements in it, in one round trip. After
// an error it is over.
func (t *hotTx) begin(ctx context.Context, p *pipeline) error {
	opening := &pipeline{}
	opening.do(sqlBegin)
	opening.read(sqlXid, t.noteXid)
	opening.calls = append(opening.calls, p.calls...)
	t.begun = true
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
	if !t.begun || t.c.pg.IsClosed() {
		return
	}
	p := &pipeline{}
	p.do(sqlRollback)
	_ = t.c.run(ctx, p)
}

// commit runs the statements and commits, in one round trip: what they lock is
// locked for no longer than the server needs for them. After a *refusal nothing was
// done. proof is a row that they write.
//
// The commit is asked for only after the server has told the transaction's id,
// which it does while it is at work on the statements. So when the connection ends
// before, nothing was done; and when it ends after, somebody can be asked what was.
func (t *hotTx) commit(ctx context.Context, p *pipeline, proof evidence) error {
	bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), commitTime)
	defer cancel()
	stop := context.AfterFunc(ctx, cancel)
	defer stop()
	all := &pipeline{}
	if !t.begun {
		all.do(sqlBegin)
		all.read(sqlXid, t.noteXid)
	}
	before := len(all.calls)
	all.calls = append(all.calls, p.calls...)
	all.do(sqlCommit)
	pipe := t.c.pg.StartPipeline(bounded)
	all.send(t.c, pipe, 0, before)
	if before > 0 {
		pipe.SendFlushRequest()
	}
	all.send(t.c, pipe, before, len(all.calls)-1)
	if err := t.awaitXid(pipe, all.calls[:before]); err != nil {
		return closePipe(pipe, err)
	}
	if err := t.o.mayCommit(); err != nil {
		t.abandon(ctx, pipe)
		return fmt.Errorf("commit: %w", err)
	}
	if !stop() { // the caller is gone, and cancel was or is being called
		t.abandon(ctx, pipe)
		return fmt.Errorf("nothing was committed: %w", context.Cause(ctx))
	}
	t.begun = true
	all.send(t.c, pipe, len(all.calls)-1, len(all.calls))
	return t.settle(ctx, pipe, all, before, proof)
}

// awaitXid sends what is queued and reads the answers to the first statements.
func (t *hotTx) awaitXid(pipe *pgconn.Pipeline, first []call) error {
	if err := pipe.Flush(); err != nil {
		return err
	}
	for i := range first {
		got, err := pipe.GetResults()
		if err != nil {
			return err
		}
		rows, ok := got.(*pgconn.ResultReader)
		if !ok {
			return errors.New("the server did not tell the transaction's id")
		}
		if failed, each := first[i].consume(rows); failed != nil || each != nil {
			return errors.Join(failed, each)
		}
	}
	return nil
}

// abandon ends a transaction whose commit was not asked for, by ending its
// connection: the server is at work on it.
func (t *hotTx) abandon(ctx context.Context, pipe *pgconn.Pipeline) {
	_ = pipe.Close() // "unsynced": that closes it
	_ = t.c.pg.Close(ctx)
}

// settle asks for the commit, waits for the answers, and finds out what came of it
// when they do not come.
func (t *hotTx) settle(ctx context.Context, pipe *pgconn.Pipeline, p *pipeline, skip int, proof evidence) error {
	synced := false
	err := pipe.Sync()
	if err == nil {
		err, synced = p.answers(pipe, skip)
	}
	closed := pipe.Close()
	switch {
	case synced && err == nil:
		err = t.o.committed()
		if err == nil {
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

// outcome asks once. The status alone is not enough: a server that crashed before
// anything of the transaction was on its disk gives the same id to another.
func (o *orders) outcome(ctx context.Context, xid string, proof evidence) (string, error) {
	var status *string
	err := o.db.vital.QueryRow(ctx, `SELECT pg_xact_status($1::text::xid8)`, xid).Scan(&status)
	switch {
	case sqlState(err) == stateInvalidParameter:
		return "aborted", nil // it left no trace, not even its id
	case err != nil:
		return "", err
	case status == nil:
		return "", errors.New("the server has forgotten the transaction")
	case *status != "committed":
		return *status, nil
	}
	id, err := strconv.ParseUint(xid, 10, 64)
	if err != nil {
		return "", fmt.Errorf("the transaction's id is %q: %w", xid, err)
	}
	var wrote bool
	err = o.db.vital.QueryRow(ctx, `SELECT EXISTS (SELECT FROM order_history
		WHERE tenant_id = $1 AND order_id = $2 AND version = $3 AND xmin::text = $4)`,
		storable(proof.tenantID), storable(proof.orderID), proof.version, strconv.FormatUint(uint64(uint32(id)), 10)).Scan(&wrote)
	switch {
	case err != nil:
		return "", err
	case wrote:
		return "committed", nil
	}
	return "aborted", nil
}
