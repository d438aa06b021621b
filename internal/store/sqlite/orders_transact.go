package sqlite

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"strings"
	"time"

	sqlite3 "modernc.org/sqlite/lib"

	"millrace/internal/order"
)

// faults let a test fail commits. They are called by whoever has the write
// connection, and are set before the store is used or while holding it.
type faults struct {
	// beforeBegin fails a transaction before it begins, beforeCommit a commit that
	// does not take place, afterCommit one that did.
	beforeBegin, beforeCommit, afterCommit func() error
}

// refusedData marks an error that comes from what is in an order.
func refusedData(err error) error {
	switch code(err) {
	case sqlite3.SQLITE_CONSTRAINT, sqlite3.SQLITE_TOOBIG, sqlite3.SQLITE_MISMATCH:
		return fmt.Errorf("%w: %w", order.ErrData, err)
	}
	return err
}

// hold takes the write connection from the pool.
func (o *orders) hold(ctx context.Context, use func(*hotConn) error) error {
	conn, err := o.write.Conn(ctx)
	if err != nil {
		return fmt.Errorf("wait for the connection that writes: %w", err)
	}
	defer conn.Close() // gives it back; after ErrBadConn it is closed already
	return conn.Raw(func(raw any) error {
		c, ok := raw.(*hotConn)
		if !ok {
			return fmt.Errorf("the pool gave a %T, not a connection of the hot paths", raw)
		}
		return use(c)
	})
}

// errBegin says that a transaction could not begin: nothing of it was done.
var errBegin = errors.New("begin")

// transaction runs work and ends the transaction in any case. An error that wraps
// driver.ErrBadConn makes the pool close the connection.
func (o *orders) transaction(c *hotConn, work func(*hotConn) error) error {
	c.wrote, c.lanes = false, [len(laneNames)]bool{}
	err := error(nil)
	if o.faults.beforeBegin != nil {
		err = o.faults.beforeBegin()
	}
	if err == nil {
		err = c.exec("BEGIN IMMEDIATE")
	}
	if err != nil {
		return fmt.Errorf("%w: %w", errBegin, err)
	}
	open := true
	defer func() {
		if open { // work panicked
			_ = c.rollback() // the pool closes the connection anyway
		}
	}()
	err = work(c)
	open = false
	if err == nil && c.wrote {
		return o.commit(c)
	}
	if rollback := c.rollback(); rollback != nil {
		return errors.Join(err, rollback, driver.ErrBadConn)
	}
	return err
}

func (o *orders) commit(c *hotConn) error {
	err := error(nil)
	if o.faults.beforeCommit != nil {
		err = o.faults.beforeCommit()
	}
	if err == nil {
		began := time.Now()
		err = c.exec("COMMIT")
		o.metrics.commitSeconds.Observe(time.Since(began).Seconds())
	}
	switch {
	case err == nil && o.faults.afterCommit != nil:
		err = o.faults.afterCommit()
		fallthrough
	case err == nil:
		o.outbox.signal(c.lanes)
		if err != nil {
			return fmt.Errorf("%w: commit: %w", order.ErrUnknownOutcome, err)
		}
		o.checkpoints.wake()
		return nil
	}
	// A transaction that is still open was not committed.
	if rollback := c.exec("ROLLBACK"); rollback != nil {
		o.outbox.signal(c.lanes)
		return fmt.Errorf("%w: commit: %w", order.ErrUnknownOutcome, errors.Join(err, rollback, driver.ErrBadConn))
	}
	return fmt.Errorf("commit: %w", err)
}

// rollback may be called when no transaction is open: some errors make SQLite
// roll back by itself.
func (c *hotConn) rollback() error {
	err := c.exec("ROLLBACK")
	if err != nil && strings.Contains(err.Error(), "no transaction is active") {
		return nil
	}
	return err
}

func halve(c *hotConn, lo, hi int, attempt func(c *hotConn, lo, hi int) error, refuse func(i int, err error)) error {
	if err := c.exec("SAVEPOINT part"); err != nil {
		return err
	}
	err := attempt(c, lo, hi)
	if err == nil {
		return c.exec("RELEASE part")
	}
	if !errors.Is(err, order.ErrData) {
		return err
	}
	if undo := errors.Join(c.exec("ROLLBACK TO part"), c.exec("RELEASE part")); undo != nil {
		return fmt.Errorf("undo a part of a batch: %w", errors.Join(undo, errors.New(err.Error()))) // of the whole, not of a row
	}
	if hi-lo == 1 {
		refuse(lo, err)
		return nil
	}
	middle := lo + (hi-lo)/2
	if err := halve(c, lo, middle, attempt, refuse); err != nil {
		return err
	}
	return halve(c, middle, hi, attempt, refuse)
}
