package postgres

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5/stdlib"

	"millrace/internal/order"
	"millrace/internal/servers"
	"millrace/internal/servers/servertest"
	storesql "millrace/internal/store/sql"
)

// TestAStandbyIsAskedForNothingThatMustBeNew takes a standby from behind to primary.
func TestAStandbyIsAskedForNothingThatMustBeNew(t *testing.T) {
	p, name := ownServer(t)
	r := servertest.Replica(t, p, servers.ReplicaOptions{})
	ctx := within(t, 2*time.Minute)
	standby := dsnAs(p, r.Addr(), owner, name)
	// Several hosts are named, as for a failover, and the standby first.
	hosts := fmt.Sprintf("postgres://%s:%s@%s,%s/%s?sslmode=disable", owner, p.Password(), r.Addr(), p.Addr(), name)
	o := Options{DSN: hosts, ReplicaDSN: standby, ReplicaMaxLag: time.Minute}
	db := openAt(t, o)
	stockShop(t, db, 1)
	eventually(t, 20*time.Second, "the replica is used", func() bool { return db.replica.usable() })
	if err := r.PauseReplay(ctx); err != nil {
		t.Fatal(err)
	}
	s := newShoppers(1, 1)
	batch := s.batch(1)
	mustPlace(t, db, batch) // the standby does not know
	id := batch[0].Placed.ID

	if h, err := db.Orders().History(ctx, "demo", id); err != nil || len(h) != 1 {
		t.Errorf("the history just after placing has %d entries, %v; want 1", len(h), err)
	}
	q := order.Query{TenantID: "demo", CustomerID: batch[0].Placed.CustomerID, Limit: 10}
	for _, c := range []struct {
		fresh bool
		want  int
	}{{false, 0}, {true, 1}} {
		q.Fresh = c.fresh
		if page, err := db.Orders().Orders(ctx, q); err != nil || len(page.Orders) != c.want {
			t.Errorf("the buyer's list just after placing, fresh %t, has %d orders, %v; want %d", c.fresh, len(page.Orders), err, c.want)
		}
	}

	proof := evidenceOf(t, db, id)
	var xid string
	if err := db.hot.QueryRow(ctx, `SELECT xmin::text FROM order_history WHERE order_id = $1`, id).Scan(&xid); err != nil {
		t.Fatal(err)
	}
	asked := &DB{o: db.o, vital: db.replica.pool} // an address may lead anywhere
	other := &orders{db: asked, patience: 100 * time.Millisecond}
	if done, err := other.resolve(ctx, xid, proof); done || !errors.Is(err, errRecovering) {
		t.Errorf("the outcome as a standby tells it: %v, %v; want an error", done, err)
	}
	if done, err := db.orders.resolve(ctx, xid, proof); !done || err != nil {
		t.Errorf("the outcome as the primary tells it: %v, %v; want that it was committed", done, err)
	}

	if _, _, err := storesql.NewCatalog(storesql.Pools{Dialect: storesql.PostgreSQL, AllRead: stdlib.OpenDBFromPool(db.replica.pool)}).Versions(ctx); err == nil {
		t.Error("a standby answers which versions there are")
	}
	versions, epoch, err := db.Catalog().Versions(ctx)
	if err != nil {
		t.Fatal(err)
	}

	// A failover that loses the newest of the log gives numbers out again.
	mine := slices.Max(pendingOf(t, db, "bus"))
	if err := errors.Join(r.ResumeReplay(ctx), execOn(ctx, p.DSNAt(r.Addr(), name), `SELECT pg_promote()`, `SELECT setval('outbox_blocks', 1, false)`)); err != nil {
		t.Fatal(err)
	}
	after := openAt(t, Options{DSN: standby, Instance: "after"})
	mustPlace(t, after, s.batch(1))
	if got := slices.Max(pendingOf(t, after, "bus")); got>>blockBits == mine>>blockBits || got < mine {
		t.Errorf("a sequence after the failover is %d, and one before was %d", got, mine)
	}
	again, another, err := after.Catalog().Versions(ctx)
	if diff := cmp.Diff(versions, again); diff != "" || err != nil || another == epoch {
		t.Errorf("after the failover the epoch is %s, and before it was %s: error %v, versions differ (-before +after):\n%s", another, epoch, err, diff)
	}
}
