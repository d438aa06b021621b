package servers_test

import (
	"context"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"millrace/internal/servers"
	"millrace/internal/servers/servertest"
)

func testContext(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func connect(t *testing.T, dsn string) *pgx.Conn {
	t.Helper()
	c, err := pgx.Connect(testContext(t), dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close(context.Background()) })
	return c
}

func exec(t *testing.T, c *pgx.Conn, statement string) {
	t.Helper()
	if _, err := c.Exec(testContext(t), statement); err != nil {
		t.Fatalf("%s: %v", statement, err)
	}
}

func count(t *testing.T, c *pgx.Conn) (n int) {
	t.Helper()
	if err := c.QueryRow(testContext(t), "SELECT count(*) FROM kept").Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

func TestPostgresKeepsWhatWasCommittedWhenItIsKilled(t *testing.T) {
	ctx := testContext(t)
	p := servertest.Postgres(t, servers.PostgresOptions{})
	c := connect(t, p.DSN())
	exec(t, c, "CREATE TABLE kept (id int)")
	exec(t, c, "INSERT INTO kept VALUES (1)")
	var encoding, collation, fsync string
	if err := c.QueryRow(ctx, "SELECT current_setting('server_encoding'), datcollate, current_setting('fsync') FROM pg_database WHERE datname = current_database()").Scan(&encoding, &collation, &fsync); err != nil {
		t.Fatal(err)
	}
	if encoding != "UTF8" || collation != "C" || fsync != "on" {
		t.Errorf("encoding %s, collation %s, fsync %s; want UTF8, C, on", encoding, collation, fsync)
	}
	if err := p.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := c.Ping(ctx); err == nil {
		t.Error("a connection outlived the server")
	}
	if err := p.Restart(ctx); err != nil {
		t.Fatal(err)
	}
	if n := count(t, connect(t, p.DSN())); n != 1 {
		t.Errorf("%d rows after kill and restart, want 1", n)
	}
}

func TestPostgresReplicaFollowsAndItsReplayCanBePaused(t *testing.T) {
	ctx := testContext(t)
	p := shared.Postgres(t)
	db := connect(t, servertest.Database(t, p))
	exec(t, db, "CREATE TABLE kept (id int)")
	r := servertest.Replica(t, p, servers.ReplicaOptions{})
	replica := connect(t, r.DSNFor(db.Config().Database))
	add := func() {
		t.Helper()
		exec(t, db, "INSERT INTO kept VALUES (1)")
	}
	add()
	if err := r.CatchUp(ctx); err != nil {
		t.Fatal(err)
	}
	if n := count(t, replica); n != 1 {
		t.Errorf("%d rows on the replica, want 1", n)
	}
	if err := r.PauseReplay(ctx); err != nil {
		t.Fatal(err)
	}
	add()
	if n := count(t, replica); n != 1 {
		t.Errorf("%d rows on the replica whose replay is paused, want 1", n)
	}
	if err := r.ResumeReplay(ctx); err != nil {
		t.Fatal(err)
	}
	if err := r.CatchUp(ctx); err != nil {
		t.Fatal(err)
	}
	if n := count(t, replica); n != 2 {
		t.Errorf("%d rows on the replica, want 2", n)
	}
	if err := r.Kill(); err != nil {
		t.Fatal(err)
	}
	add()
	if err := r.Restart(ctx); err != nil {
		t.Fatal(err)
	}
	if err := r.CatchUp(ctx); err != nil {
		t.Fatal(err)
	}
	if n := count(t, connect(t, r.DSNFor(db.Config().Database))); n != 3 {
		t.Errorf("%d rows on the replica that was killed, want 3", n)
	}
}

func TestPostgresSpeaksTLSAndIsPaused(t *testing.T) {
	ctx := testContext(t)
	p := servertest.Postgres(t, servers.PostgresOptions{Options: servers.Options{TLS: servertest.Certificate(t, "postgres")}, Tuned: true})
	c := connect(t, p.DSN())
	var encrypted bool
	if err := c.QueryRow(ctx, "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()").Scan(&encrypted); err != nil || !encrypted {
		t.Errorf("encrypted %v, %v", encrypted, err)
	}
	if err := p.Pause(); err != nil {
		t.Fatal(err)
	}
	short, cancel := context.WithTimeout(ctx, soon)
	defer cancel()
	if err := c.Ping(short); err == nil {
		t.Error("a backend of a paused server answers")
	}
	if err := p.Resume(); err != nil {
		t.Fatal(err)
	}
	exec(t, connect(t, p.DSN()), "SELECT 1")
}
