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
