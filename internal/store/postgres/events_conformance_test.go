package postgres

import (
	"context"
	"strconv"
	"testing"
	"time"

	"millrace/internal/event"
	"millrace/internal/servers"
	"millrace/internal/servers/servertest"
	"millrace/internal/store/storetest"
)

// killable starts a server that its test may kill, and returns how to make
// databases there.
func killable(t testing.TB) (p *servers.Postgres, database func(t testing.TB) (name string)) {
	t.Helper()
	p = servertest.Postgres(t, servers.PostgresOptions{Settings: quick})
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := prepareServer(ctx, p); err != nil {
		t.Fatal(err)
	}
	databases := 0
	return p, func(t testing.TB) string {
		t.Helper()
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		databases++
		name := "test" + strconv.Itoa(databases)
		if err := execOn(ctx, p.DSNFor("postgres"), `CREATE DATABASE `+name+` OWNER `+owner+` TEMPLATE `+template); err != nil {
			t.Fatal(err)
		}
		return name
	}
}

func TestEventsConform(t *testing.T) {
	p, database := killable(t)
	proxy := servertest.PostgresProxy(t, p)
	storetest.Events(t, func(t testing.TB) *storetest.EventsHarness {
		name := database(t)
		o := Options{DSN: dsnAs(p, proxy.Addr(), owner, name)}
		db := openAt(t, o)
		return &storetest.EventsHarness{
			Store:          db.Events(),
			PositionsApart: true,
			Reopen: func(t testing.TB) event.Store {
				if err := db.Close(); err != nil {
					t.Fatalf("Close: %v", err)
				}
				db = openAt(t, o)
				return db.Events()
			},
			Crash: func(t testing.TB) event.Store {
				if err := p.Kill(); err != nil {
					t.Fatal(err)
				}
				ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
				defer cancel()
				if err := p.Restart(ctx); err != nil {
					t.Fatal(err)
				}
				return openAt(t, o).Events()
			},
			LoseReply: func(testing.TB) { proxy.LoseCommitReply() },
			FillDisk:  func(t testing.TB) func() { return refuseSpace(t, ownerDSN(p, name)) },
		}
	})
}

// refuseSpace makes the server answer appends as it does on a full disk.
func refuseSpace(t testing.TB, dsn string) (free func()) {
	t.Helper()
	run := func(statements ...string) {
		t.Helper()
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := execOn(ctx, dsn, statements...); err != nil {
			t.Fatal(err)
		}
	}
	run(`CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN RAISE EXCEPTION 'could not extend file' USING ERRCODE = 'disk_full'; END $$`,
		`CREATE TRIGGER full_disk BEFORE INSERT ON events FOR EACH ROW EXECUTE FUNCTION full_disk()`)
	return func() { run(`DROP TRIGGER full_disk ON events`) }
}
