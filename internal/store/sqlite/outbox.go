package sqlite

import (
	"context"
	stdsql "database/sql"
	"database/sql/driver"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	sqlite3 "modernc.org/sqlite/lib"

	"millrace/internal/order"
	"millrace/internal/outbox"
)

// laneNames are the outbox's lanes; elsewhere they go by their number here.
var laneNames = [...]outbox.Lane{outbox.LaneBus, outbox.LaneEvents}

func laneNumber(name outbox.Lane) (int, error) {
	n := slices.Index(laneNames[:], name)
	if n < 0 {
		return 0, fmt.Errorf("the outbox has no lane %q; it has %q", name, laneNames)
	}
	return n, nil
}

// depthCap bounds the rows that Depth counts.
const depthCap = 100_000

// outboxRows is the outbox.Store. Sequences come from memory: one process owns
// the file, and a number that a transaction did not use is never used again.
type outboxRows struct {
	orders      *orders // for its transactions
	read, lists *stdsql.DB
	last        [len(laneNames)]atomic.Int64 // the sequence given out last
	written     [len(laneNames)]chan struct{}
}

var _ outbox.Store = (*outboxRows)(nil)

func openOutbox(ctx context.Context, read, lists *stdsql.DB) (*outboxRows, error) {
	x := &outboxRows{read: read, lists: lists}
	for n, lane := range laneNames {
		var last int64
		if err := read.QueryRowContext(ctx, `SELECT coalesce(max(seq), 0) FROM outbox WHERE lane = ?`, string(lane)).Scan(&last); err != nil {
			return nil, fmt.Errorf("read where lane %s of the outbox ends: %w", lane, err)
		}
		x.last[n].Store(last)
		x.written[n] = make(chan struct{}, 1)
	}
	return x, nil
}

// signal tells those who wait that lanes got rows.
func (x *outboxRows) signal(lanes [len(laneNames)]bool) {
	for n, got := range lanes {
		if !got {
			continue
		}
		select {
		case x.written[n] <- struct{}{}:
		default: // one is pending
		}
	}
}

// outboxRow is a row on its way in.
type outboxRow struct {
	lane     int
	tenantID string
	message  *order.Message
}

var insertOutbox = shape{head: "INSERT INTO outbox (lane, seq, tenant_id, subject, id, at_ns, trace, data) VALUES ", params: 8}

// write puts rows into the outbox, in the open transaction.
func (x *outboxRows) write(c *hotConn, rows []outboxRow) error {
	_, err := c.use(&insertOutbox).write(len(rows), func(i int, args []driver.NamedValue) {
		r := &rows[i]
		args[0].Value = string(laneNames[r.lane])
		args[1].Value = x.last[r.lane].Add(1)
		args[2].Value = r.tenantID
		args[3].Value = r.message.Subject
		args[4].Value = r.message.ID
		args[5].Value = nanosOf(r.message.At)
		args[6].Value = r.message.Trace
		args[7].Value = r.message.Data
		c.lanes[r.lane] = true
	})
	if code(err) == sqlite3.SQLITE_CONSTRAINT {
		// A sequence that is there already is our doing, not the order's.
		return fmt.Errorf("write to the outbox; another process may be writing to this file: %w", err)
	}
	if err != nil {
		return fmt.Errorf("write to the outbox: %w", refusedData(err))
	}
	return nil
}

// Pending returns the oldest rows of a lane. See outbox.Store.
func (x *outboxRows) Pending(ctx context.Context, lane outbox.Lane, after int64, limit int) ([]outbox.Row, error) {
	if _, err := laneNumber(lane); err != nil {
		return nil, err
	}
	if limit < 1 {
		return nil, fmt.Errorf("read the outbox: the limit is %d; ask for at least 1", limit)
	}
	var found []outbox.Row
	err := readRows(ctx, x.read, 7, func(row []driver.Value) error {
		found = append(found, outbox.Row{Seq: intOf(row[0]), Lane: lane, TenantID: textOf(row[1]), Subject: textOf(row[2]),
			ID: textOf(row[3]), At: timeOf(row[4]), Trace: textOf(row[5]), Data: bytesOf(row[6])})
		return nil
	}, `SELECT seq, tenant_id, subject, id, at_ns, trace, data FROM outbox WHERE lane = ? AND seq > ? ORDER BY seq LIMIT ?`,
		string(lane), after, limit)
	if err != nil {
		return nil, fmt.Errorf("read lane %s of the outbox: %w", lane, err)
	}
	return found, nil
}

var (
	removeRange = shape{head: "DELETE FROM outbox WHERE lane = ? AND seq BETWEEN ? AND ?", params: 3, single: true}
)

// Remove removes rows, runs of sequences at once. See outbox.Store.
func (x *outboxRows) Remove(ctx context.Context, lane outbox.Lane, seqs []int64) error {
	if _, err := laneNumber(lane); err != nil {
		return err
	}
	if len(seqs) == 0 {
		return nil
	}
	runs := runsOf(seqs)
	err := x.orders.transact(ctx, func(c *hotConn) error {
		for _, run := range runs {
			if _, err := c.use(&removeRange).write(1, func(_ int, args []driver.NamedValue) {
				args[0].Value, args[1].Value, args[2].Value = string(lane), run[0], run[1]
			}); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("remove %d rows from lane %s of the outbox: %w", len(seqs), lane, err)
	}
	return nil
}

// runsOf returns the numbers as ranges, first and last.
func runsOf(numbers []int64) [][2]int64 {
	sorted := slices.Sorted(slices.Values(numbers))
	var runs [][2]int64
	for _, n := range sorted {
		if k := len(runs) - 1; k >= 0 && n <= runs[k][1]+1 {
			runs[k][1] = n
			continue
		}
		runs = append(runs, [2]int64{n, n})
	}
	return runs
}

// Depth counts a lane's rows up to 100,000. See outbox.Store.
func (x *outboxRows) Depth(ctx context.Context, lane outbox.Lane) (rows int64, oldest time.Time, err error) {
	if _, err := laneNumber(lane); err != nil {
		return 0, time.Time{}, err
	}
	var oldestNs int64
	err = x.lists.QueryRowContext(ctx, `SELECT (SELECT count(*) FROM (SELECT 1 FROM outbox WHERE lane = ?1 LIMIT ?2)),
		coalesce((SELECT at_ns FROM outbox WHERE lane = ?1 ORDER BY seq LIMIT 1), 0)`, string(lane), depthCap).Scan(&rows, &oldestNs)
	if err != nil {
		return 0, time.Time{}, fmt.Errorf("measure lane %s of the outbox: %w", lane, err)
	}
	return rows, timeOf(oldestNs), nil
}

// Written returns the lane's signal; it is nil, which never comes, for a lane
// there is not. See outbox.Store.
func (x *outboxRows) Written(lane outbox.Lane) <-chan struct{} {
	n, err := laneNumber(lane)
	if err != nil {
		return nil
	}
	return x.written[n]
}
