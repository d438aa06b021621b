package postgres

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"millrace/internal/outbox"
)

// laneNames are the outbox's lanes.
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

// outboxRows is the outbox.Store of the database. Every row is of the instance that
// wrote it, which alone hands it over: nobody has to agree with anybody. The rows
// of an instance that is gone are given to one that lives, see AdoptOutbox.
//
// Sequences come in blocks, from one sequence of the database for all instances and
// lanes. Each lane has blocks of its own, so that its rows are without gaps and
// are removed in few runs.
type outboxRows struct {
	db      *DB
	written [len(laneNames)]chan struct{}

	adoption adoption // of AdoptOutbox's goroutine

	mu   sync.Mutex                // never held while the database is asked
	left [len(laneNames)]seqRanges // not given out yet
}

// seqRange is some sequences, from next to before until.
type seqRange struct{ next, until int64 }

type seqRanges []seqRange

func (r seqRanges) count() (n int64) {
	for _, some := range r {
		n += some.until - some.next
	}
	return n
}

// take removes the first sequence; there must be one.
func (r *seqRanges) take() int64 {
	first := &(*r)[0]
	seq := first.next
	if first.next++; first.next == first.until {
		*r = (*r)[1:]
	}
	return seq
}

var _ outbox.Store = (*outboxRows)(nil)

func newOutbox(db *DB) (*outboxRows, error) {
	x := &outboxRows{db: db, adoption: adoption{now: time.Now}}
	for n := range laneNames {
		x.written[n] = make(chan struct{}, 1)
	}
	return x, nil
}

// Outbox returns the store of what transactions left to be told.
func (db *DB) Outbox() outbox.Store { return db.outbox }

var (
	sqlOutboxBlock  = &statement{"outbox block", `SELECT nextval('outbox_blocks'), ('x' || substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8))::bit(32)::bigint`}
	sqlInsertOutbox = &statement{"insert outbox", `INSERT INTO outbox (lane, seq, tenant_id, subject, id, at_ns, trace, data, owner)
		SELECT *, $9::text FROM unnest($1::text[], $2::bigint[], $3::text[], $4::text[], $5::text[], $6::bigint[], $7::text[], $8::bytea[])`}
	sqlRemoveOutbox = &statement{"remove from outbox", `DELETE FROM outbox WHERE lane = $1::text AND owner = $2::text AND seq BETWEEN $3::bigint AND $4::bigint`}
)

// A sequence is made of the server's timeline, the number of a block, and a number
// in the block. After a failover that lost the newest of the log numbers of blocks
// are given out again, by a server on another timeline.
const (
	blockBits = 16 // what a process does not use of a block when it ends nobody ever uses
	blockSize = 1 << blockBits
	// maxBlock and maxTimeline are where sequences would not fit into 63 bits any more.
	maxBlock    = 1<<32 - 1
	maxTimeline = 1<<15 - 1
)

// block returns the sequences of a block.
func block(timeline, number int64) (seqRange, error) {
	if timeline < 0 || timeline > maxTimeline || number < 0 || number > maxBlock {
		return seqRange{}, fmt.Errorf("block %d of timeline %d is beyond what sequences can be made of; restore the database from a dump to a new cluster", number, timeline)
	}
	first := (timeline<<32 | number) << blockBits
	return seqRange{first, first + blockSize}, nil
}

// sequences gives each row a sequence.
func (x *outboxRows) sequences(ctx context.Context, c *hotConn, rows []outboxRow) ([]int64, error) {
	lanes := make([]int, len(rows))
	var need [len(laneNames)]int64
	for i := range rows {
		n, err := laneNumber(rows[i].lane)
		if err != nil {
			return nil, err
		}
		lanes[i] = n
		need[n]++
	}
	for {
		seqs, short := x.give(lanes, &need)
		if short < 0 {
			return seqs, nil
		}
		if err := x.reserve(ctx, c, short); err != nil {
			return nil, fmt.Errorf("reserve sequences of the outbox: %w", err)
		}
	}
}

// give takes a sequence for each lane named, or says of which lane there are not
// enough, else -1.
func (x *outboxRows) give(lanes []int, need *[len(laneNames)]int64) (seqs []int64, short int) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for n := range need {
		if x.left[n].count() < need[n] {
			return nil, n
		}
	}
	seqs = make([]int64, len(lanes))
	for i, n := range lanes {
		seqs[i] = x.left[n].take()
	}
	return seqs, -1
}

// reserve adds a block to a lane. Of several that find it wanting each adds one.
func (x *outboxRows) reserve(ctx context.Context, c *hotConn, lane int) error {
	var number, timeline int64
	p := &pipeline{}
	p.read(sqlOutboxBlock, func(r row) error {
		if err := r.wide(2); err != nil {
			return err
		}
		number, timeline = intOf(r[0]), intOf(r[1])
		return nil
	})
	if err := c.run(ctx, p); err != nil {
		return err
	}
	added, err := block(timeline, number)
	if err != nil {
		return err
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	x.left[lane] = append(x.left[lane], added)
	return nil
}

// writeOutbox queues rows, lane by lane, so that each finds the rows before it next
// to it in the index.
func writeOutbox(p *pipeline, rows []outboxRow, instance string, seqs []int64) {
	n := len(rows)
	if n == 0 {
		return
	}
	at := make([]int, n)
	for i := range at {
		at[i] = i
	}
	slices.SortFunc(at, func(a, b int) int { return int(max(-1, min(1, seqs[a]-seqs[b]))) })
	p.do(sqlInsertOutbox,
		texts(n, func(i int) string { return string(rows[at[i]].lane) }),
		numbers(n, func(i int) int64 { return seqs[at[i]] }),
		texts(n, func(i int) string { return rows[at[i]].tenantID }),
		texts(n, func(i int) string { return rows[at[i]].message.Subject }),
		texts(n, func(i int) string { return rows[at[i]].message.ID }),
		numbers(n, func(i int) int64 { return nanosOf(rows[at[i]].message.At) }),
		texts(n, func(i int) string { return rows[at[i]].message.Trace }),
		blobs(n, func(i int) []byte { return rows[at[i]].message.Data }),
		text(instance))
}

// signal tells those who wait that the rows' lanes got some.
func (x *outboxRows) signal(rows []outboxRow) {
	var lanes [len(laneNames)]bool
	for i := range rows {
		if n, err := laneNumber(rows[i].lane); err == nil {
			lanes[n] = true
		}
	}
	for n, got := range lanes {
		if got {
			x.wake(n)
		}
	}
}

func (x *outboxRows) wake(lane int) {
	select {
	case x.written[lane] <- struct{}{}:
	default: // one is pending
	}
}

const pendingRows = `SELECT seq, tenant_id, subject, id, at_ns, trace, data FROM outbox
	WHERE lane = $1 AND owner = $2 AND seq > $3 ORDER BY seq LIMIT $4`

// Pending returns the oldest rows of a lane that are this instance's. See
// outbox.Store.
func (x *outboxRows) Pending(ctx context.Context, lane outbox.Lane, after int64, limit int) ([]outbox.Row, error) {
	if _, err := laneNumber(lane); err != nil {
		return nil, err
	}
	if limit < 1 {
		return nil, fmt.Errorf("read the outbox: the limit is %d; ask for at least 1", limit)
	}
	ctx, cancel := x.db.deadline(ctx)
	defer cancel()
	var found []outbox.Row
	rows, err := x.db.hot.Query(ctx, pendingRows, string(lane), x.db.o.Instance, after, limit)
	err = eachRow(rows, err, func(r row) error {
		if err := r.wide(7); err != nil {
			return err
		}
		found = append(found, outbox.Row{Seq: intOf(r[0]), Lane: lane, TenantID: textOf(r[1]), Subject: textOf(r[2]),
			ID: textOf(r[3]), At: timeOf(r[4]), Trace: textOf(r[5]), Data: slices.Clone(r[6])})
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read lane %s of the outbox: %w", lane, err)
	}
	return found, nil
}

// Remove removes rows, runs of sequences at once. A row that was given to another
// instance meanwhile stays, and is handed over by that one again. See outbox.Store.
func (x *outboxRows) Remove(ctx context.Context, lane outbox.Lane, seqs []int64) (err error) {
	if _, err := laneNumber(lane); err != nil {
		return err
	}
	if len(seqs) == 0 {
		return nil
	}
	defer x.db.o.Metrics.timed("outbox_remove", &err)()
	ctx, cancel := x.db.deadline(ctx)
	defer cancel()
	runs := runsOf(seqs)
	err = x.db.holdHot(ctx, func(c *hotConn) error {
		p := &pipeline{}
		for _, run := range runs {
			p.do(sqlRemoveOutbox, text(string(lane)), text(x.db.o.Instance), number(run[0]), number(run[1]))
		}
		return c.run(ctx, p)
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

const outboxDepth = `SELECT (SELECT count(*) FROM (SELECT FROM outbox WHERE lane = $1 AND owner = $2 LIMIT $3) AS capped),
	coalesce((SELECT at_ns FROM outbox WHERE lane = $1 AND owner = $2 ORDER BY seq LIMIT 1), 0)`

// Depth counts a lane's rows that are this instance's, up to 100,000, so that the
// sum over the instances counts none twice. See outbox.Store.
func (x *outboxRows) Depth(ctx context.Context, lane outbox.Lane) (rows int64, oldest time.Time, err error) {
	if _, err := laneNumber(lane); err != nil {
		return 0, time.Time{}, err
	}
	ctx, cancel := x.db.deadline(ctx)
	defer cancel()
	var oldestNs int64
	if err = x.db.hot.QueryRow(ctx, outboxDepth, string(lane), x.db.o.Instance, depthCap).Scan(&rows, &oldestNs); err != nil {
		return 0, time.Time{}, fmt.Errorf("measure lane %s of the outbox: %w", lane, err)
	}
	return rows, timeOfNs(oldestNs), nil
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
