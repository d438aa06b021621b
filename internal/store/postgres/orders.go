package postgres

import (
	"context"
	"errors"
	"fmt"
	"time"

	"millrace/internal/order"
)

// orders is the order.Store of the database.
//
// A batch of placements or steps is read without any lock, decided in memory, and
// written by statements that fail if what was read has changed: keys that are there
// already, a version that is another, more reserved than is on hand. All of them
// and the commit are sent at once, and what others wait for, the stock, comes last.
// So the row that everyone wants is locked while the server commits, and not while
// anything goes over the network. When it turns out that others were faster all is
// done again, and under locks from the start once that has happened twice, or when
// a SKU is nearly sold out, so that it surely would.
//
// Locks are taken in one order everywhere: orders, keys, stock.
type orders struct {
	db       *DB
	patience time.Duration // resolveTime
	faults   faults
}

var _ order.Store = (*orders)(nil)

func newOrders(db *DB) (*orders, error) { return &orders{db: db, patience: resolveTime}, nil }

// Orders returns the store of orders.
func (db *DB) Orders() order.Store { return db.orders }

// batch is some of what Place or Advance was asked for, to be done in one
// transaction. Its methods are called in this order, decide after each look, lock
// or hold; each may be called once only.
type batch interface {
	// look queues the reading of what decides, without locks.
	look(p *pipeline)
	// decide says what is to be done. query reads more.
	decide(query func(*pipeline) error) error
	// writes says whether there is anything to be written, and scarce whether it is
	// better done under locks.
	writes() bool
	scarce() bool
	// lock queues the locking, in order, of what look has read, and the reading of
	// it, in an open transaction.
	lock(p *pipeline)
	// decideLocked decides again, about what was locked.
	decideLocked(query func(*pipeline) error) error
	// hold is look and lock in one, for parts of a transaction.
	hold(p *pipeline)
	// outbox is what write will put there, under the sequences it is given.
	outbox() []outboxRow
	write(p *pipeline, seqs []int64) error
	// evidence is a row of what was written.
	evidence() evidence
	// overtaken says whether an error of the writing means that what was read has
	// changed since.
	overtaken(err error) bool
}

const (
	// freeTries is how often a batch is tried without locks.
	freeTries = 2
	// maxTries bounds how often it is begun again in all.
	maxTries = 10
)

// SQLSTATEs by which statements say that what was read has changed.
const (
	stateCheckViolation = "23514"
	stateDivisionByZero = "22012"
)

// transact does the batch [0, n) in one transaction. If the database refuses it for
// its data, it is done again in halves, each seeing what the earlier ones wrote,
// down to those that are refused, which are handed to refuse.
func (o *orders) transact(ctx context.Context, n int, part func(lo, hi int) batch, refuse func(i int, err error)) error {
	inParts := false
	for try := 1; ; try++ {
		err := o.db.holdHot(ctx, func(c *hotConn) error {
			if inParts {
				return o.attemptParts(ctx, c, n, part, refuse)
			}
			return o.attempt(ctx, c, part(0, n), try > freeTries)
		})
		switch {
		case err == nil || errors.Is(err, order.ErrUnknownOutcome):
			return err
		case errors.Is(err, errOvertaken) || isConflict(err):
			if try >= maxTries || ctx.Err() != nil {
				return fmt.Errorf("given up after %d tries: %w", try, err)
			}
		case ctx.Err() != nil:
			return fmt.Errorf("%w: %w", context.Cause(ctx), err) // the server says only that it was cancelled
		case !errors.Is(err, order.ErrData) || inParts:
			return err
		case n == 1:
			refuse(0, err)
			return nil
		default:
			inParts = true
		}
	}
}

// attempt does a batch in one transaction.
func (o *orders) attempt(ctx context.Context, c *hotConn, b batch, locked bool) error {
	query := func(p *pipeline) error { return c.run(ctx, p) }
	t := &hotTx{o: o, c: c}
	p := &pipeline{}
	b.look(p)
	if err := t.begin(ctx, p); err != nil {
		return told(b, err)
	}
	if err := b.decide(query); err != nil || !b.writes() {
		t.rollback(ctx)
		return told(b, err)
	}
	if locked || b.scarce() {
		p = &pipeline{}
		b.lock(p)
		err := query(p)
		if err == nil {
			err = b.decideLocked(query)
		}
		if err != nil || !b.writes() {
			t.rollback(ctx)
			return told(b, err)
		}
	}
	p, err := o.writing(ctx, c, b)
	if err != nil {
		t.rollback(ctx)
		return told(b, err)
	}
	err = told(b, t.commit(ctx, p, b.evidence()))
	if err == nil || errors.Is(err, order.ErrUnknownOutcome) {
		o.db.outbox.signal(b.outbox())
	}
	return err
}

// writing returns what a batch writes.
func (o *orders) writing(ctx context.Context, c *hotConn, b batch) (*pipeline, error) {
	seqs, err := o.db.outbox.sequences(ctx, c, b.outbox())
	if err != nil {
		return nil, err
	}
	p := &pipeline{}
	return p, b.write(p, seqs)
}

// told marks the errors that are about the data of a batch, and those that mean
// that the batch is to be begun again.
func told(b batch, err error) error {
	var refused *refusal
	switch {
	case err == nil || errors.Is(err, order.ErrUnknownOutcome) || !errors.As(err, &refused):
		return err
	case b.overtaken(err):
		return fmt.Errorf("%w: %w", errOvertaken, err)
	}
	return orderDataError(err)
}

var (
	sqlSavepoint  = &statement{"savepoint", `SAVEPOINT part`}
	sqlRollbackTo = &statement{"rollback to savepoint", `ROLLBACK TO part`}
	sqlRelease    = &statement{"release savepoint", `RELEASE part`}
)

// attemptParts does a batch, of which something will be refused, in parts of one
// transaction.
func (o *orders) attemptParts(ctx context.Context, c *hotConn, n int, part func(lo, hi int) batch, refuse func(i int, err error)) error {
	t := &partsTx{hotTx: hotTx{o: o, c: c}, part: part, refuse: refuse}
	if err := t.begin(ctx, &pipeline{}); err != nil {
		return err
	}
	err := t.halve(ctx, 0, n/2)
	if err == nil {
		err = t.halve(ctx, n/2, n)
	}
	if err != nil || t.proof == nil {
		t.rollback(ctx)
		return err
	}
	err = t.commit(ctx, &pipeline{}, *t.proof)
	if err == nil || errors.Is(err, order.ErrUnknownOutcome) {
		o.db.outbox.signal(t.told)
	}
	return err
}

// partsTx is a transaction that is done in parts.
type partsTx struct {
	hotTx
	part   func(lo, hi int) batch
	refuse func(i int, err error)
	proof  *evidence
	told   []outboxRow
}

func (t *partsTx) halve(ctx context.Context, lo, hi int) error {
	b := t.part(lo, hi)
	err := told(b, t.try(ctx, b))
	if !errors.Is(err, order.ErrData) {
		return err
	}
	undo := &pipeline{}
	undo.do(sqlRollbackTo)
	undo.do(sqlRelease)
	if failed := t.c.run(ctx, undo); failed != nil {
		return fmt.Errorf("undo a part of a batch: %v (it was refused: %v)", failed, err) // of the whole, not of a row
	}
	if hi-lo == 1 {
		t.refuse(lo, err)
		return nil
	}
	middle := lo + (hi-lo)/2
	if err := t.halve(ctx, lo, middle); err != nil {
		return err
	}
	return t.halve(ctx, middle, hi)
}

// try does a part after a savepoint.
func (t *partsTx) try(ctx context.Context, b batch) error {
	query := func(p *pipeline) error { return t.c.run(ctx, p) }
	p := &pipeline{}
	p.do(sqlSavepoint)
	b.hold(p)
	if err := query(p); err != nil {
		return err
	}
	if err := b.decide(query); err != nil {
		return err
	}
	p = &pipeline{}
	if b.writes() {
		var err error
		if p, err = t.o.writing(ctx, t.c, b); err != nil {
			return err
		}
	}
	p.do(sqlRelease)
	if err := query(p); err != nil || !b.writes() {
		return err
	}
	proof := b.evidence()
	t.proof, t.told = &proof, append(t.told, b.outbox()...)
	return nil
}
