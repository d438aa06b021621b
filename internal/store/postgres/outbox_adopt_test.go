package postgres

import (
	"context"
	"testing"
	"time"

	"millrace/internal/outbox"
)

// pendingOf returns the sequences of a store's own rows in a lane.
func pendingOf(t testing.TB, db *DB, lane outbox.Lane) (seqs []int64) {
	t.Helper()
	rows, err := db.Outbox().Pending(t.Context(), lane, 0, 100_000)
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range rows {
		seqs = append(seqs, row.Seq)
	}
	return seqs
}

func mustAdopt(t testing.TB, db *DB, want int) {
	t.Helper()
	if got, err := db.AdoptOutbox(t.Context()); err != nil || got != want {
		t.Fatalf("AdoptOutbox: %d rows, %v; want %d", got, err, want)
	}
}

// later lets an instance see the others as so much older.
func later(db *DB, d time.Duration) {
	db.outbox.adoption.now = func() time.Time { return time.Now().Add(d) }
}

// pausedShop returns an instance that lives and one with rows in the outbox whose
// heart has stopped, as if it were paused.
func pausedShop(t testing.TB, orders int) (alive, paused *DB) {
	t.Helper()
	dbs := openShops(t, freshDatabase(t), 2, 1)
	alive, paused = dbs[0], dbs[1]
	mustPlace(t, paused, newShoppers(1, 1).batch(orders))
	paused.stop()
	paused.running.Wait()
	// Stopping it made it take its leave.
	if _, err := alive.hot.Exec(t.Context(), `INSERT INTO instances (id, started_ns, heartbeat_ns, details) VALUES ($1, 1, 1, '{}')
		ON CONFLICT (tenant_id, id) DO UPDATE SET heartbeat_ns = excluded.heartbeat_ns`, paused.o.Instance); err != nil {
		t.Fatal(err)
	}
	return alive, paused
}

func TestRowsOfAnInstanceThatIsGoneAreGivenToOneThatLives(t *testing.T) {
	const orders = 2*adoptedAtOnce + 10
	alive, paused := pausedShop(t, orders)
	want := pendingOf(t, paused, outbox.LaneBus)
	if n := len(pendingOf(t, alive, outbox.LaneBus)); n != 0 || len(want) != orders {
		t.Fatalf("%d rows are the living one's and %d the other's", n, len(want))
	}
	for range 2 { // seen, and not for long enough
		mustAdopt(t, alive, 0)
	}
	later(alive, silence)
	mustAdopt(t, alive, 2*orders) // of both lanes
	got := pendingOf(t, alive, outbox.LaneBus)
	if len(got) != orders || got[0] != want[0] || got[orders-1] != want[orders-1] {
		t.Errorf("%d rows were taken over, want %d", len(got), orders)
	}
	for _, lane := range laneNames {
		select {
		case <-alive.Outbox().Written(lane):
		default:
			t.Errorf("lane %s was not signalled", lane)
		}
	}
	mustAdopt(t, alive, 0)
}

func TestAnInstanceThatWasPausedAndComesBackLosesNothing(t *testing.T) {
	alive, paused := pausedShop(t, 3)
	inHand := pendingOf(t, paused, outbox.LaneEvents)
	mustAdopt(t, alive, 0)
	later(alive, silence)
	mustAdopt(t, alive, 6)
	// It hands over what it had in hand and removes it: it is the other's now, who
	// hands it over again.
	if err := paused.Outbox().Remove(t.Context(), outbox.LaneEvents, inHand); err != nil {
		t.Fatal(err)
	}
	if got := pendingOf(t, alive, outbox.LaneEvents); len(got) != 3 {
		t.Errorf("%d rows are left to be handed over, want 3", len(got))
	}
	// What it writes now is its own.
	mustPlace(t, paused, newShoppers(2, 1).batch(1))
	if got := pendingOf(t, paused, outbox.LaneEvents); len(got) != 1 {
		t.Errorf("it has %d rows of its own, want 1", len(got))
	}
	if rows, _, err := alive.Outbox().Depth(t.Context(), outbox.LaneEvents); err != nil || rows != 3 {
		t.Errorf("the depth is %d, %v; want its own 3", rows, err)
	}
}

func TestNothingIsTakenFromAnInstanceThatSpeaksAgain(t *testing.T) {
	alive, paused := pausedShop(t, 3)
	mustAdopt(t, alive, 0)
	if _, err := alive.hot.Exec(t.Context(), `UPDATE instances SET heartbeat_ns = heartbeat_ns + 1 WHERE id = $1`, paused.o.Instance); err != nil {
		t.Fatal(err)
	}
	later(alive, silence)
	mustAdopt(t, alive, 0) // a heartbeat that is new to it
	gone, err := alive.outbox.gone(t.Context())
	if err != nil || len(gone) != 0 {
		t.Fatalf("gone: %v, %v", gone, err)
	}
	later(alive, 2*silence)
	if gone, err = alive.outbox.gone(t.Context()); err != nil || gone[paused.o.Instance] == nil {
		t.Fatalf("gone: %v, %v; want the other", gone, err)
	}
	// Between the look and the taking it speaks.
	if _, err := alive.hot.Exec(t.Context(), `UPDATE instances SET heartbeat_ns = heartbeat_ns + 1 WHERE id = $1`, paused.o.Instance); err != nil {
		t.Fatal(err)
	}
	if n, err := alive.outbox.adopt(t.Context(), 0, paused.o.Instance, gone[paused.o.Instance], 10); err != nil || n != 0 {
		t.Errorf("%d rows were taken, %v", n, err)
	}
}

func TestWhatAnInstanceLeavesBehindIsTakenAtOnce(t *testing.T) {
	dbs := openShops(t, freshDatabase(t), 2, 1)
	mustPlace(t, dbs[1], newShoppers(1, 1).batch(4))
	mustAdopt(t, dbs[0], 0)
	if err := dbs[1].Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := dbs[0].hot.Exec(t.Context(), `DELETE FROM instances WHERE id = $1`, dbs[1].o.Instance); err != nil {
		t.Fatal(err)
	}
	mustAdopt(t, dbs[0], 8)
}

func TestOneInstanceAdoptsAtATime(t *testing.T) {
	alive, paused := pausedShop(t, 1)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	mustAdopt(t, alive, 0)
	later(alive, silence)
	tx, err := paused.hot.Begin(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(context.Background())
	if _, err := tx.Exec(ctx, `SELECT pg_advisory_xact_lock($1)`, int64(adoptionLock)); err != nil {
		t.Fatal(err)
	}
	mustAdopt(t, alive, 0)
	if err := tx.Rollback(ctx); err != nil {
		t.Fatal(err)
	}
	mustAdopt(t, alive, 2)
}
