package postgres

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"millrace/internal/event"
)

func TestMaintenanceMakesPartitionsAheadOnceForAllInstances(t *testing.T) {
	dsn := freshDatabase(t)
	var wg sync.WaitGroup
	var dbs []*DB
	for i := range 4 {
		dbs = append(dbs, openAt(t, Options{DSN: dsn, Instance: fmt.Sprint("instance", i), MaxConns: 6, PartitionsAhead: 5}))
	}
	now := eventDay.Add(13 * time.Hour)
	if n, err := dbs[0].PartitionsAhead(t.Context(), now); n != 0 || err != nil {
		t.Errorf("%d partitions ahead, error %v; want none yet", n, err)
	}
	for _, db := range dbs {
		wg.Go(func() {
			if err := db.MaintainEvents(t.Context(), now); err != nil {
				t.Error(err)
			}
		})
		wg.Go(func() { // somebody appends to one of those days meanwhile
			if err := db.events.ensureDay(t.Context(), dayOf(eventDay)+2); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for range 2 { // the one that had the lock may not have been the last
		if err := dbs[1].MaintainEvents(t.Context(), now); err != nil {
			t.Error(err)
		}
	}
	if n, err := dbs[2].PartitionsAhead(t.Context(), now); n != 5 || err != nil {
		t.Errorf("%d partitions ahead, error %v; want 5", n, err)
	}
	if n, err := dbs[2].PartitionsAhead(t.Context(), now.AddDate(0, 0, 3)); n != 2 || err != nil {
		t.Errorf("three days later %d partitions ahead, error %v; want 2", n, err)
	}
	// Days without events are dropped, and were no days of receipt.
	if days, err := dbs[0].Events().DropBefore(t.Context(), eventDay.AddDate(0, 0, 4)); len(days) != 0 || err != nil {
		t.Errorf("dropped %v, error %v; want no day that had events", days, err)
	}
	days, err := eventDays(t.Context(), dbs[0].hot)
	if diff := cmp.Diff([]day{dayOf(eventDay) + 4, dayOf(eventDay) + 5}, days); diff != "" || err != nil {
		t.Errorf("error %v, days left differ (-want +got):\n%s", err, diff)
	}
	// And an append that comes to one after all makes it again.
	mustAppend(t, dbs[3], oneBatch(1, 1, eventRows("demo", "a", 1, eventDay.AddDate(0, 0, 2))...))
}

func TestADayThatIsReadIsNotDroppedAndHoldsUpNobodyForLong(t *testing.T) {
	db := openTest(t)
	mustAppend(t, db, oneBatch(1, 1, eventRows("demo", "old", 3, eventDay)...))
	mustAppend(t, db, oneBatch(1, 2, eventRows("demo", "new", 3, eventDay.AddDate(0, 0, 1))...))
	reader := session(t, db)
	execute(t, reader, `BEGIN`)
	execute(t, reader, `SELECT count(*) FROM events`)

	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	dropped := make(chan error, 1)
	go func() {
		days, err := db.Events().DropBefore(ctx, eventDay.AddDate(0, 0, 1))
		if len(days) != 0 {
			err = fmt.Errorf("removed %v", days)
		}
		dropped <- err
	}()
	var longest time.Duration
	var err error
	for n := uint64(3); ; n++ {
		if err = pollErr(dropped); err != nil {
			break
		}
		begin := time.Now()
		mustAppend(t, db, oneBatch(1, n, eventRows("demo", fmt.Sprint("a", n, "/"), 1, eventDay.AddDate(0, 0, 1))...))
		if _, err := db.Events().Events(t.Context(), event.Query{TenantID: "demo", Limit: 1}); err != nil {
			t.Fatal(err)
		}
		longest = max(longest, time.Since(begin))
	}
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("DropBefore of a day that is being read: %v; want a deadline", err)
	}
	t.Logf("the longest append and query beside it took %s", longest)
	if longest > time.Second {
		t.Errorf("an append and a query took %s while a day waited to be dropped", longest)
	}
	execute(t, reader, `COMMIT`)
	if days, err := db.Events().DropBefore(t.Context(), eventDay.AddDate(0, 0, 1)); len(days) != 1 || err != nil {
		t.Errorf("when the reader has gone: removed %v, error %v; want one day", days, err)
	}
}

// pollErr returns what came, nil if nothing did.
func pollErr(c <-chan error) error {
	select {
	case err := <-c:
		if err == nil {
			err = errors.New("no error")
		}
		return err
	default:
		return nil
	}
}

func TestMaintenanceDeletesClaimsThatNobodyWillAskFor(t *testing.T) {
	db := openTest(t)
	for i := range 6 {
		b := oneBatch(1, uint64(1+i), eventRows("demo", fmt.Sprint("d", i, "/"), 10, eventDay.AddDate(0, 0, i))...)
		b.Exact, b.ExactDays = true, 2
		mustAppend(t, db, b)
	}
	if err := db.MaintainEvents(t.Context(), eventDay.AddDate(0, 0, 6)); err != nil {
		t.Fatal(err)
	}
	var days []int64
	if err := db.hot.QueryRow(t.Context(), `SELECT array_agg(DISTINCT day - $1 ORDER BY day - $1) FROM event_claims`, int64(dayOf(eventDay))).Scan(&days); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]int64{3, 4, 5}, days); diff != "" {
		t.Errorf("days with claims, on day 6, when they hold for 2 and are kept for 2 more (-want +got):\n%s", diff)
	}
}

func TestDaysThatCannotBeAPartitionAreRefused(t *testing.T) {
	db := openTest(t)
	b := oneBatch(1, 1)
	b.Day = time.Date(1815, 6, 18, 0, 0, 0, 0, time.UTC)
	if _, err := db.Events().Append(t.Context(), b); err == nil || !strings.Contains(err.Error(), "1815-06-18") || errors.Is(err, event.ErrData) {
		t.Errorf("error %v; want one that names the day", err)
	}
}

func TestMaintenanceDeletesAsManyClaimsAsItHasTimeFor(t *testing.T) {
	db := openTest(t)
	const claims = 51 * claimsPerDelete
	execute(t, session(t, db), `INSERT INTO event_claims SELECT 'demo', lpad(to_hex(n), 32, '0')::uuid, 10, 10 FROM generate_series(1, $1::bigint) n`, claims)
	if err := db.MaintainEvents(t.Context(), eventDay); err != nil {
		t.Fatal(err)
	}
	var left int
	if err := db.hot.QueryRow(t.Context(), `SELECT count(*) FROM event_claims`).Scan(&left); err != nil || left > 0 {
		t.Errorf("%d of %d old claims are left, error %v", left, claims, err)
	}
}

func TestAnAppendThatTheServerEndsForItsTimeIsSlow(t *testing.T) {
	db := openAt(t, Options{DSN: freshDatabase(t), StatementTimeout: 300 * time.Millisecond, LockTimeout: 10 * time.Second})
	mustAppend(t, db, oneBatch(1, 1, eventRows("demo", "a", 3, eventDay)...))
	holder := session(t, db)
	execute(t, holder, `BEGIN`)
	execute(t, holder, `SELECT FROM event_positions FOR UPDATE`)
	if _, err := db.Events().Append(t.Context(), oneBatch(1, 2, eventRows("demo", "b", 3, eventDay)...)); !errors.Is(err, event.ErrSlow) {
		t.Errorf("error %v, want event.ErrSlow", err)
	}
}
