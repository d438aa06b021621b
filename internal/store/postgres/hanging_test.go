package postgres

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// stopped is a connection of a process that is stopped: nothing of its own ends what
// it has begun.
func stopped(t *testing.T, db *DB) *pgx.Conn {
	t.Helper()
	c, err := pgx.ParseConfig(db.o.DSN)
	if err != nil {
		t.Fatal(err)
	}
	configureConn(&db.o, c)
	c.RuntimeParams["application_name"] = applicationName("stopped")
	conn, err := pgx.ConnectConfig(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.PgConn().Conn().Close() }) // it may be in the midst of something
	return conn
}

// stopAfter sends statements in a row, without the end of the row, as a process
// does that is stopped before it sends the rest.
func stopAfter(t *testing.T, conn *pgx.Conn, statements ...string) {
	t.Helper()
	pipeline := conn.PgConn().StartPipeline(context.Background())
	for _, s := range statements {
		pipeline.SendQueryParams(s, nil, nil, nil, nil)
	}
	pipeline.SendFlushRequest()
	if err := pipeline.Flush(); err != nil {
		t.Fatal(err)
	}
	for range statements {
		results, err := pipeline.GetResults()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := results.(*pgconn.ResultReader).Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// A process can be stopped wherever it sends several statements at once. The server
// then says of its backend that it is active, and ends it by no timeout.
func TestAProcessThatIsStoppedHoldsUpNobodyForLong(t *testing.T) {
	for name, c := range map[string]struct {
		holds string
		waits func(ctx context.Context, db *DB) error
	}{
		"an append of another log, behind one that has its batch's number": {
			`SELECT event_batch_number()`,
			func(ctx context.Context, db *DB) error {
				_, err := db.Events().Append(ctx, oneBatch(2, 1, eventRows("demo", "b", 3, eventDay)...))
				return err
			},
		},
		"the new owner of a log, behind the one that was": {
			`INSERT INTO event_positions (log_id, next_seq, last_day) VALUES ('01000000-0000-0000-0000-000000000000', 2, 0)`,
			func(ctx context.Context, db *DB) error {
				_, err := db.Events().Append(ctx, oneBatch(1, 1, eventRows("demo", "b", 3, eventDay)...))
				return err
			},
		},
		"an order, behind one of the same stock": {
			`UPDATE stock SET version = version + 1`,
			func(ctx context.Context, db *DB) error {
				_, err := db.hot.Exec(ctx, `UPDATE stock SET version = version + 1`)
				return err
			},
		},
		"a new day, behind one who makes another": {
			fmt.Sprintf(`SELECT pg_advisory_xact_lock(%d)`, int64(partitionsLock)),
			func(ctx context.Context, db *DB) error { return db.events.ensureDay(ctx, dayOf(eventDay)+9) },
		},
		"the deletion of claims, behind one who does it": {
			fmt.Sprintf(`SELECT pg_advisory_xact_lock(%d)`, int64(claimsLock)),
			func(ctx context.Context, db *DB) error {
				err := db.MaintainEvents(ctx, eventDay)
				var left int
				return errors.Join(err, db.hot.QueryRow(ctx, `SELECT 1 / (count(*) = 0)::int FROM event_claims`).Scan(&left))
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := openAt(t, Options{DSN: freshDatabase(t), StatementTimeout: time.Second, LockTimeout: 500 * time.Millisecond})
			execute(t, session(t, db), `INSERT INTO stock VALUES ('demo', 's', 10, 0, 1, 0)`)
			execute(t, session(t, db), `INSERT INTO event_claims VALUES ('demo', gen_random_uuid(), 10, 10)`)
			if err := db.events.ensureDay(t.Context(), dayOf(eventDay)); err != nil {
				t.Fatal(err)
			}
			stopAfter(t, stopped(t, db), `BEGIN`, c.holds)
			failures := 0
			soon(t, "it goes on", func() bool {
				err := c.waits(t.Context(), db)
				if err != nil {
					failures++
				}
				return err == nil
			})
			if failures == 0 {
				t.Error("what was stopped held nothing up: the test shows nothing")
			}
		})
	}
}

// What is slow but moves is let be, and so is who holds nothing that others need.
func TestOnlyWhatStandsStillIsEnded(t *testing.T) {
	db := openTest(t) // its own watchman has more patience than this test
	if err := db.events.ensureDay(t.Context(), dayOf(eventDay)); err != nil {
		t.Fatal(err)
	}
	w, begun := newWatchman(db), time.Now()
	lookAt := func(at time.Duration) {
		t.Helper()
		if err := w.look(t.Context(), begun.Add(at)); err != nil {
			t.Fatal(err)
		}
	}
	lives := func(conn *pgx.Conn) bool {
		t.Helper()
		var n int
		if err := db.vital.QueryRow(t.Context(), `SELECT count(*) FROM pg_stat_activity WHERE pid = $1`, conn.PgConn().PID()).Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n > 0
	}
	writer, reader, resting, between := stopped(t, db), stopped(t, db), stopped(t, db), stopped(t, db)
	stopAfter(t, writer, `BEGIN`, `SELECT event_batch_number()`)
	stopAfter(t, reader, `BEGIN`, `SELECT count(*) FROM events`)
	execute(t, resting, `SELECT 1`)
	execute(t, between, `BEGIN`)
	execute(t, between, `INSERT INTO event_claims VALUES ('demo', gen_random_uuid(), 10, 10)`)
	stranger := session(t, db) // who is not of this program
	stopAfter(t, stranger, `BEGIN`, `INSERT INTO event_claims VALUES ('demo', gen_random_uuid(), 10, 10)`)

	copying := stopped(t, db)
	more, ended := make(chan []byte), make(chan error, 1)
	go func() {
		_, err := copying.PgConn().CopyFrom(context.Background(), chunks(more), `COPY `+dayOf(eventDay).of("events")+` `+copyColumns)
		ended <- err
	}()
	rows := &rowReader{rows: eventRows("demo", "a", 5000, eventDay), seq: 1}
	chunk := func() []byte {
		b := make([]byte, 32<<10)
		n, err := rows.Read(b)
		if err != nil {
			t.Fatal(err)
		}
		return b[:n]
	}
	progress := func() (n int) {
		_ = db.vital.QueryRow(t.Context(), `SELECT bytes_processed FROM pg_stat_progress_copy WHERE pid = $1`, copying.PgConn().PID()).Scan(&n)
		return n
	}
	sent := 0
	for at := time.Duration(0); at <= 2*w.patience; at += w.patience / looksPerHang {
		b := chunk()
		more <- b
		sent += len(b)
		soon(t, "the copy moves", func() bool { return progress() >= sent })
		execute(t, between, `SELECT 1`)
		lookAt(at)
		if at < w.patience && !lives(writer) {
			t.Fatalf("the writer is ended after %s of %s", at, w.patience)
		}
	}
	soon(t, "the writer is ended", func() bool { return !lives(writer) })
	for name, conn := range map[string]*pgx.Conn{"a reader": reader, "who has no transaction": resting, "who goes on": between, "a stranger": stranger, "a slow copy": copying} {
		if !lives(conn) {
			t.Errorf("%s is ended", name)
		}
	}
	// Who did not look for a while does not know what went on.
	lookAt(w.idle + time.Hour)
	if !lives(reader) || !lives(copying) {
		t.Error("ended by one who has not watched")
	}
	for at := w.idle + time.Hour; at <= 2*w.idle+time.Hour; at += w.patience / looksPerHang {
		lookAt(at)
	}
	soon(t, "the copy that has stopped, and at last the reader, are ended", func() bool { return !lives(copying) && !lives(reader) })
	close(more)
	if err := <-ended; err == nil {
		t.Error("the copy that was ended had success")
	}
	if !lives(resting) || !lives(stranger) {
		t.Error("who has no transaction, or is a stranger, is ended")
	}
}

// chunks is read piece by piece.
type chunks chan []byte

func (c chunks) Read(p []byte) (int, error) {
	b, ok := <-c
	if !ok {
		return 0, errors.New("it is over")
	}
	return copy(p, b), nil
}
