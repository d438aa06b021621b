package postgres

import (
	"context"
	stdsql "database/sql"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"millrace/internal/catalog"
	"millrace/internal/servers"
	"millrace/internal/servers/servertest"
	storesql "millrace/internal/store/sql"
)

// ownServer starts a server for one test that kills or pauses it, and returns it
// with the name of a migrated database.
func ownServer(t testing.TB) (*servers.Postgres, string) {
	t.Helper()
	p := servertest.Postgres(t, servers.PostgresOptions{Settings: quick})
	if err := prepareServer(within(t, time.Minute), p); err != nil {
		t.Fatal(err)
	}
	return p, template
}

// proxied returns a proxy in front of a server.
func proxied(t testing.TB, p *servers.Postgres) *servers.Proxy {
	t.Helper()
	proxy, err := servers.StartProxy(t.Context(), servers.ProxyOptions{Target: p.Addr()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := proxy.Stop(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return proxy
}

// eventually asks until the answer is yes.
func eventually(t testing.TB, limit time.Duration, what string, yes func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !yes() {
		select {
		case <-ctx.Done():
			t.Fatalf("not within %s: %s", limit, what)
		case <-tick.C:
		}
	}
}

// oneProduct reads a product that is not there, which a store that works says.
func oneProduct(ctx context.Context, db *DB) error {
	_, err := db.Catalog().Product(ctx, "ann", "x")
	if errors.Is(err, catalog.ErrNotFound) {
		return nil
	}
	return err
}

func TestAReadWhoseConnectionIsCutFailsAndTheNextWorks(t *testing.T) {
	p := server(t)
	proxy := proxied(t, p)
	db := openAt(t, Options{DSN: dsnAs(p, proxy.Addr(), owner, databaseLike(t, template))})
	ctx := storesql.ForTenant(within(t, 30*time.Second), "ann")
	if err := oneProduct(ctx, db); err != nil {
		t.Fatal(err)
	}
	failed := make(chan error, 1)
	go func() {
		_, err := db.fresh.Exec(ctx, `SELECT pg_sleep(20)`)
		failed <- err
	}()
	eventually(t, 10*time.Second, "the server runs the query", func() bool {
		return slices.Contains(collect[string](t, db.hot, ctx, `SELECT query FROM pg_stat_activity WHERE state = 'active' AND datname = current_database()`), `SELECT pg_sleep(20)`)
	})
	proxy.Cut()
	if err := <-failed; !unavailable(err) || reason(err) != "unavailable" {
		t.Errorf("error %v (%s), want one of the connection", err, reason(err))
	}
	for range 5 { // on each of the connections that were cut too
		if err := oneProduct(ctx, db); err != nil {
			t.Errorf("the next read: %v", err)
		}
	}
}

func TestAServerThatIsKilledAndComesBackIsUsedAgain(t *testing.T) {
	p, name := ownServer(t)
	db := openAt(t, Options{DSN: ownerDSN(p, name), ConnectTimeout: time.Second})
	ctx := within(t, 60*time.Second)
	if err := oneProduct(ctx, db); err != nil {
		t.Fatal(err)
	}
	if err := p.Kill(); err != nil {
		t.Fatal(err)
	}
	var says interface{ Unavailable() bool }
	for range 2 { // on a connection that is cut, and on none
		if err := oneProduct(ctx, db); !unavailable(err) || !errors.As(err, &says) {
			t.Errorf("a read while the server is down: %v", err)
		}
	}
	if err := db.Ping(ctx); err == nil {
		t.Error("a server that is down answers")
	}
	if err := p.Restart(ctx); err != nil {
		t.Fatal(err)
	}
	eventually(t, 10*time.Second, "reads, writes and heartbeats work again", func() bool {
		list, err := db.Instances(ctx)
		return oneProduct(ctx, db) == nil && db.Ping(ctx) == nil && err == nil && len(list) == 1 && time.Since(list[0].HeartbeatAt) < 2*beatEvery
	})
}

// The server is there and its packets are acknowledged, but nothing comes back.
func TestASilentServerIsGivenUp(t *testing.T) {
	p := server(t)
	proxy := proxied(t, p)
	db := openAt(t, Options{DSN: dsnAs(p, proxy.Addr(), owner, databaseLike(t, template)), StatementTimeout: 200 * time.Millisecond, ConnectTimeout: 500 * time.Millisecond})
	if err := oneProduct(t.Context(), db); err != nil {
		t.Fatal(err)
	}
	proxy.BlackHole()
	begin := time.Now()
	err := oneProduct(context.Background(), db) // no deadline of the caller's
	if limit := 200*time.Millisecond + stallMargin + 5*time.Second; err == nil || time.Since(begin) > limit {
		t.Errorf("after %s: error %v; want one within %s", time.Since(begin), err, limit)
	}
	if err := proxy.Pass(); err != nil {
		t.Fatal(err)
	}
	eventually(t, 15*time.Second, "reads work again", func() bool { return oneProduct(t.Context(), db) == nil })
}

func TestAStatementWhoseCallerHasGoneIsCancelledOnTheServer(t *testing.T) {
	db := openTest(t)
	for name, run := range map[string]func(ctx context.Context, statement string) error{
		"hot":             func(ctx context.Context, s string) error { _, err := db.hot.Exec(ctx, s); return asExpected(ctx, err) },
		"reads":           func(ctx context.Context, s string) error { _, err := db.fresh.Exec(ctx, s); return err },
		"shared writes":   func(ctx context.Context, s string) error { _, err := db.owner.ExecContext(ctx, s); return err },
		"shared reads":    func(ctx context.Context, s string) error { return sleepOn(ctx, db.read, s) },
		"a shared change": func(ctx context.Context, s string) error { return sleepIn(ctx, db.owner, s) },
	} {
		t.Run(name, func(t *testing.T) {
			statement := `SELECT pg_sleep(25) AS "` + name + `"`
			running := func() bool {
				return slices.Contains(collect[string](t, db.vital, t.Context(), `SELECT query FROM pg_stat_activity WHERE state = 'active' AND datname = current_database()`), statement)
			}
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			failed := make(chan error, 1)
			go func() { failed <- run(ctx, statement) }()
			eventually(t, 10*time.Second, "the server runs the statement", running)
			cancel()
			if err := <-failed; !errors.Is(err, context.Canceled) {
				t.Errorf("error %v, want one that says that the caller gave up", err)
			}
			eventually(t, 5*time.Second, "the server ends the statement", func() bool { return !running() })
		})
	}
}

func sleepOn(ctx context.Context, db *stdsql.DB, statement string) error {
	var x any
	return db.QueryRowContext(ctx, statement).Scan(&x)
}

func sleepIn(ctx context.Context, db *stdsql.DB, statement string) error {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback()
	if _, err := tx.ExecContext(ctx, statement); err != nil {
		return err
	}
	return tx.Commit()
}

func TestAStatementIsBoundedInTime(t *testing.T) {
	db := openAt(t, Options{DSN: freshDatabase(t), StatementTimeout: 300 * time.Millisecond})
	_, err := db.hot.Exec(t.Context(), `SELECT pg_sleep(10)`)
	if sqlState(err) != stateQueryCanceled || reason(err) != "timeout" {
		t.Errorf("error %v (%s)", err, reason(err))
	}
	if err := sleepOn(t.Context(), db.read, `SELECT pg_sleep(10)`); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a shared read: error %v, want one that says that it took too long", err)
	}
}

func TestACloseTwiceIsOne(t *testing.T) {
	db, err := Open(within(t, time.Minute), Options{DSN: freshDatabase(t), Instance: "test", MaxConns: minConns})
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(db.Close(), db.Close()); err != nil {
		t.Fatal(err)
	}
	if err := oneProduct(t.Context(), db); err == nil {
		t.Error("a closed store answers")
	}
}

func TestInstancesTellThatTheyLiveAndSignOff(t *testing.T) {
	dsn := freshDatabase(t)
	first := openAt(t, Options{DSN: dsn, Instance: "first", Details: `{"roles":["api"]}`, MaxConns: minConns})
	second, err := Open(within(t, time.Minute), Options{DSN: dsn, Instance: "second", MaxConns: minConns})
	if err != nil {
		t.Fatal(err)
	}
	defer second.Close()
	ids := func() (ids []string) {
		list, err := first.Instances(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, i := range list {
			ids = append(ids, i.ID)
		}
		return ids
	}
	list, err := first.Instances(t.Context())
	if err != nil || len(list) != 2 || list[0].Details != `{"roles":["api"]}` || list[1].Details != "{}" {
		t.Fatalf("%+v, error %v", list, err)
	}
	eventually(t, 10*time.Second, "both beat again", func() bool {
		now, err := first.Instances(t.Context())
		return err == nil && now[0].HeartbeatAt.After(list[0].HeartbeatAt) && now[1].HeartbeatAt.After(list[1].HeartbeatAt) && now[0].StartedAt.Equal(list[0].StartedAt)
	})
	if err := second.Close(); err != nil {
		t.Fatal(err)
	}
	if got := ids(); !slices.Equal(got, []string{"first"}) {
		t.Errorf("after one signed off: %q", got)
	}
	mustExec(t, dsn, `INSERT INTO instances (id, started_ns, heartbeat_ns, details) VALUES ('long gone', 1, 1, '{}')`)
	if n, err := first.forgetInstances(t.Context(), time.Now().Add(-forgetAfter)); n != 1 || err != nil || !slices.Equal(ids(), []string{"first"}) {
		t.Errorf("%d forgotten, error %v, left %q", n, err, ids())
	}
}

// logged keeps what is logged.
type logged struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

// count returns how often something was logged.
func (l *logged) count(what string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.text.String(), what)
}

// TestAReplicaAnswersWhileItIsFresh takes one replica through all it can be.
func TestAReplicaAnswersWhileItIsFresh(t *testing.T) {
	p, name := ownServer(t)
	r := servertest.Replica(t, p, servers.ReplicaOptions{})
	ctx := within(t, 2*time.Minute)
	var log logged
	metrics := NewMetrics(nil)
	db := openAt(t, Options{
		DSN: ownerDSN(p, name), ReplicaDSN: dsnAs(p, r.Addr(), owner, name), ReplicaMaxLag: 2 * time.Second,
		ConnectTimeout: time.Second, Metrics: metrics, Logger: slog.New(slog.NewTextHandler(&log, nil)),
	})
	tenant := storesql.ForTenant(ctx, "ann")
	recovering := func() bool {
		var yes bool
		if err := db.reader(ctx).QueryRow(tenant, `SELECT pg_is_in_recovery()`).Scan(&yes); err != nil {
			t.Logf("a read: %v", err)
		}
		return yes
	}
	onReplica := func() bool { return db.reader(ctx) == db.replica.pool && recovering() }
	onPrimary := func() bool { return db.reader(ctx) == db.fresh && !recovering() }

	// Reads may know a little sooner than the log, which is told at the next look.
	told := func(what string, least int) {
		t.Helper()
		eventually(t, 5*time.Second, "the log says: "+what, func() bool { return log.count(what) >= least })
	}

	eventually(t, 10*time.Second, "the replica is used", onReplica)
	insertRow(t, db, "audit_log", "ann")
	insertRow(t, db, "audit_log", "bob")
	eventually(t, 10*time.Second, "a tenant's rows, and they alone, are seen there", func() bool {
		return slices.Equal(collect[string](t, db.replica.pool, tenant, `SELECT tenant_id FROM audit_log`), []string{"ann"})
	})

	if err := r.PauseReplay(ctx); err != nil {
		t.Fatal(err)
	}
	eventually(t, 10*time.Second, "one that is behind is not used", onPrimary)
	told("it is behind", 1)
	if lag := testutil.ToFloat64(metrics.replicaLag); lag < 1 {
		t.Errorf("the gauge says %g s", lag)
	}
	if err := r.ResumeReplay(ctx); err != nil {
		t.Fatal(err)
	}
	eventually(t, 10*time.Second, "it is used again", onReplica)

	if err := r.Kill(); err != nil {
		t.Fatal(err)
	}
	eventually(t, 10*time.Second, "one that is gone is not used", onPrimary)
	told("the primary answers all reads until", 2)
	if lag := testutil.ToFloat64(metrics.replicaLag); lag != -1 {
		t.Errorf("the gauge says %g s", lag)
	}
	if err := r.Restart(ctx); err != nil {
		t.Fatal(err)
	}
	eventually(t, 20*time.Second, "it is used again", onReplica)
	told("the replica answers reads", 3)
	if n := log.count("level="); n > 12 {
		t.Errorf("%d lines were logged, more than one for each change", n)
	}
	if testutil.ToFloat64(metrics.reads.WithLabelValues("replica")) == 0 || testutil.ToFloat64(metrics.reads.WithLabelValues("primary")) == 0 {
		t.Error("reads were not counted")
	}
}

func TestWhatIsNoReplicaOfThePrimaryIsRefused(t *testing.T) {
	dsn := freshDatabase(t)
	db, err := Open(within(t, time.Minute), Options{DSN: dsn, ReplicaDSN: dsn, Instance: "test", MaxConns: minConns})
	if err == nil {
		db.Close()
	}
	if !errors.Is(err, errNoReplica) {
		t.Errorf("the primary itself: error %v", err)
	}
	// The servers of tests are copies of one, so another cluster is feigned.
	db = openAt(t, Options{DSN: dsn, MaxConns: minConns})
	o := db.o
	o.ReplicaDSN = dsn
	other, err := newReplica(t.Context(), &o, 1, "4711")
	if err != nil {
		t.Fatal(err)
	}
	defer other.close()
	if err := other.look(t.Context()); !errors.Is(err, errOtherCluster) || !isMisconfigured(err) || other.usable() {
		t.Errorf("another cluster: error %v", err)
	}
}

func TestAReplicaThatIsNotThereIsNoReasonNotToStart(t *testing.T) {
	dsn := freshDatabase(t)
	db := openAt(t, Options{DSN: dsn, ReplicaDSN: "postgres://me@127.0.0.1:1/db?sslmode=disable", MaxConns: minConns})
	if err := oneProduct(t.Context(), db); err != nil {
		t.Error(err)
	}
	if _, err := db.Catalog().Products(t.Context(), catalog.Query{TenantID: "ann", Limit: 1}); err != nil {
		t.Error(err)
	}
}
