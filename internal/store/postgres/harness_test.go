package postgres

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"millrace/internal/servers"
)

// The server of this test process. It is started by the first test that asks for
// it and stopped by TestMain.
var testServer struct {
	once sync.Once
	err  error
	*servers.Postgres

	databases atomic.Int64
}

func TestMain(m *testing.M) {
	code := m.Run()
	if testServer.Postgres != nil {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		if err := testServer.Stop(ctx); err != nil {
			fmt.Fprintln(os.Stderr, "stop PostgreSQL:", err)
			code = max(code, 1)
		}
		cancel()
	}
	os.Exit(code)
}

// template is the database that has the newest schema and nothing else.
const template = "migrated"

// quick are settings of a server whose files need not survive the machine: killed
// processes leave what they wrote.
var quick = map[string]string{"fsync": "off", "full_page_writes": "off"}

// owner is the user that tests connect as: like one that an administrator has made
// for Millrace, it is no superuser.
const owner = "millrace"

// server returns the test process's own server. Tests that kill or pause one start
// another.
func server(t testing.TB) *servers.Postgres {
	t.Helper()
	testServer.once.Do(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute) // it may have to be installed
		defer cancel()
		if testServer.Postgres, testServer.err = servers.StartPostgres(ctx, servers.PostgresOptions{Settings: quick}); testServer.err == nil {
			testServer.err = prepareServer(ctx, testServer.Postgres)
		}
	})
	if testServer.err != nil {
		t.Fatalf("start a PostgreSQL for the tests: %v", testServer.err)
	}
	return testServer.Postgres
}

// prepareServer makes the owner and the template.
func prepareServer(ctx context.Context, p *servers.Postgres) error {
	err := execOn(ctx, p.DSNFor("postgres"),
		`CREATE ROLE `+owner+` LOGIN CREATEROLE PASSWORD '`+p.Password()+`'`,
		`CREATE DATABASE `+template+` OWNER `+owner)
	if err != nil {
		return err
	}
	_, err = Migrate(ctx, Options{DSN: ownerDSN(p, template)})
	return err
}

// ownerDSN is the connection string of the owner for a database of a server that
// was prepared.
func ownerDSN(p *servers.Postgres, database string) string {
	return dsnAs(p, p.Addr(), owner, database)
}

// dsnAs is the connection string of a user, at an address that leads to the server.
func dsnAs(p *servers.Postgres, addr, user, database string) string {
	u, err := url.Parse(p.DSNAt(addr, database))
	if err != nil {
		panic(err) // it is ours
	}
	u.User = url.UserPassword(user, p.Password())
	return u.String()
}

func execOn(ctx context.Context, dsn string, statements ...string) error {
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	for _, s := range statements {
		if _, err := conn.Exec(ctx, s); err != nil {
			return fmt.Errorf("%s: %w", s, err)
		}
	}
	return nil
}

// freshDatabase makes a database with the newest schema, for one test, and returns
// the owner's connection string.
func freshDatabase(t testing.TB) string { return ownerDSN(server(t), databaseLike(t, template)) }

// emptyDatabase makes a database without a schema, for one test.
func emptyDatabase(t testing.TB) string { return ownerDSN(server(t), databaseLike(t, "template0")) }

// databaseLike copies a database for one test and returns its name.
func databaseLike(t testing.TB, from string) string {
	t.Helper()
	admin := server(t).DSNFor("postgres")
	name := "test" + strconv.FormatInt(testServer.databases.Add(1), 10)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := errors.Join(server(t).CreateDatabase(ctx, name, from), execOn(ctx, admin, `ALTER DATABASE `+name+` OWNER TO `+owner)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := execOn(ctx, admin, `DROP DATABASE IF EXISTS `+name+` WITH (FORCE)`); err != nil {
			t.Logf("drop the database of the test: %v", err) // the server goes with it anyway
		}
	})
	return name
}

// openTest opens a store on a database of the test's own.
func openTest(t testing.TB) *DB { return openAt(t, Options{DSN: freshDatabase(t)}) }

// openAt opens a store and closes it with the test. What o leaves open is set for
// a test: few connections, an instance's name.
func openAt(t testing.TB, o Options) *DB {
	t.Helper()
	setDefault(&o.Instance, "test")
	setDefault(&o.MaxConns, 12)
	if o.Logger == nil {
		o.Logger = slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn}))
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	db, err := Open(ctx, o)
	if err != nil {
		t.Fatalf("Open: %v", err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return db
}
