package postgres

import (
	"context"
	"testing"
	"time"

	"millrace/internal/outbox"
)

// Who waits for a block from the database holds up nobody who has one.
func TestSequencesAreGivenOutWhileABlockIsWaitedFor(t *testing.T) {
	dbs := openShops(t, freshDatabase(t), 1, 1)
	x := dbs[0].outbox
	bus, events := []outboxRow{{lane: outbox.LaneBus}}, []outboxRow{{lane: outbox.LaneEvents}}
	sequence := func(ctx context.Context, rows []outboxRow) (seqs []int64, err error) {
		err = dbs[0].holdHot(ctx, func(c *hotConn) error {
			seqs, err = x.sequences(ctx, c, rows)
			return err
		})
		return seqs, err
	}
	if _, err := sequence(t.Context(), bus); err != nil { // a block of this lane is there
		t.Fatal(err)
	}
	tx, err := dbs[0].vital.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(context.Background())
	if _, err := tx.Exec(t.Context(), `ALTER SEQUENCE outbox_blocks OWNED BY NONE`); err != nil { // which locks it
		t.Fatal(err)
	}
	waited := make(chan error, 1)
	go func() { _, err := sequence(context.Background(), events); waited <- err }()
	eventually(t, 2*time.Second, "a block is waited for", func() bool {
		var waiting int
		if err := tx.QueryRow(t.Context(), `SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'outbox_blocks'::regclass`).Scan(&waiting); err != nil {
			t.Fatal(err)
		}
		return waiting == 1
	})
	given := make(chan error, 1)
	go func() { _, err := sequence(context.Background(), bus); given <- err }()
	select {
	case err := <-given:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(2 * time.Second):
		t.Error("it was held up")
	}
	if err := tx.Rollback(context.Background()); err != nil {
		t.Log(err) // the server may have ended it
	}
	if err := <-waited; err != nil {
		t.Error(err)
	}
}

func TestSequencesOfBlocksAndTimelinesAreApart(t *testing.T) {
	last := seqRange{}
	for _, c := range [][2]int64{{0, 1}, {1, 0}, {1, 1}, {1, maxBlock}, {2, 0}, {maxTimeline, maxBlock}} {
		got, err := block(c[0], c[1])
		if err != nil || got.next < last.until || got.until <= got.next && c[0] < maxTimeline {
			t.Errorf("block %d of timeline %d: %+v, %v, after %+v", c[1], c[0], got, err, last)
		}
		last = got
	}
	for _, c := range [][2]int64{{-1, 1}, {maxTimeline + 1, 0}, {1, maxBlock + 1}, {1, -1}} {
		if got, err := block(c[0], c[1]); err == nil {
			t.Errorf("block %d of timeline %d: %+v, want an error", c[1], c[0], got)
		}
	}
}
