package postgres

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"sort"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// The server of this test process. It is started by the first test that asks for
// it and stopped by TestMain.
var testServer struct {
	once sync.Once
	err  error
	dsn  string // of the database postgres
	stop func()

	databases atomic.Int64
}

func TestMain(m *testing.M) {
	code := m.Run()
	if testServer.stop != nil {
		testServer.stop()
	}
	os.Exit(code)
}

// template is the database that has the newest schema and nothing else.
const template = "migrated"

// server returns the connection string of the test process's own server.
func server(t testing.TB) string {
	t.Helper()
	testServer.once.Do(func() {
		testServer.dsn, testServer.stop, testServer.err = startServer()
		if testServer.err != nil {
			return
		}
		testServer.err = makeTemplate(testServer.dsn)
	})
	if testServer.err != nil {
		t.Fatalf("start a PostgreSQL for the tests: %v", testServer.err)
	}
	return testServer.dsn
}

func makeTemplate(dsn string) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := execOn(ctx, dsn, `CREATE DATABASE `+template); err != nil {
		return err
	}
	_, err := Migrate(ctx, Options{DSN: withDatabase(dsn, template)})
	return err
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

func withDatabase(dsn, name string) string {
	u, err := url.Parse(dsn)
	if err != nil {
		panic(err) // it is ours
	}
	u.Path = "/" + name
	return u.String()
}

// freshDatabase makes a database with the newest schema, for one test, and returns
// its connection string.
func freshDatabase(t testing.TB) string { return databaseLike(t, template) }

// emptyDatabase makes a database without a schema, for one test.
func emptyDatabase(t testing.TB) string { return databaseLike(t, "template0") }

func databaseLike(t testing.TB, from string) string {
	t.Helper()
	dsn := server(t)
	name := "test" + strconv.FormatInt(testServer.databases.Add(1), 10)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := execOn(ctx, dsn, `CREATE DATABASE `+name+` TEMPLATE `+from); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := execOn(ctx, dsn, `DROP DATABASE IF EXISTS `+name+` WITH (FORCE)`); err != nil {
			t.Logf("drop the database of the test: %v", err) // the server goes with it anyway
		}
	})
	return withDatabase(dsn, name)
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

// startServer starts a private server until the shared package does so.
func startServer() (dsn string, stop func(), err error) {
	bins, _ := filepath.Glob("/usr/lib/postgresql/*/bin")
	if len(bins) == 0 {
		return "", nil, fmt.Errorf("no PostgreSQL below /usr/lib/postgresql")
	}
	sort.Strings(bins)
	bin := bins[len(bins)-1]
	dir, err := os.MkdirTemp("", "millrace-pg")
	if err != nil {
		return "", nil, err
	}
	attr := &syscall.SysProcAttr{Pdeathsig: syscall.SIGQUIT}
	if os.Getuid() == 0 {
		u, err := user.Lookup("postgres")
		if err != nil {
			return "", nil, err
		}
		uid, _ := strconv.Atoi(u.Uid)
		gid, _ := strconv.Atoi(u.Gid)
		attr.Credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
		if err := os.Chown(dir, uid, gid); err != nil {
			return "", nil, err
		}
	}
	run := func(name string, args ...string) *exec.Cmd {
		c := exec.Command(filepath.Join(bin, name), args...)
		c.SysProcAttr, c.Dir = attr, dir
		return c
	}
	data := filepath.Join(dir, "data")
	if out, err := run("initdb", "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "-N").CombinedOutput(); err != nil {
		return "", nil, fmt.Errorf("initdb: %w: %s", err, out)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", nil, err
	}
	port := l.Addr().(*net.TCPAddr).Port
	l.Close()
	pg := run("postgres", "-D", data, "-p", strconv.Itoa(port), "-h", "127.0.0.1", "-k", dir, "-c", "max_connections=200", "-c", "max_wal_size=4GB", "-c", "shared_buffers=256MB")
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		return "", nil, err
	}
	pg.Stdout, pg.Stderr = log, log
	if err := pg.Start(); err != nil {
		return "", nil, err
	}
	stop = func() {
		_ = pg.Process.Signal(syscall.SIGINT)
		_ = pg.Wait()
		_ = os.RemoveAll(dir)
	}
	dsn = fmt.Sprintf("postgres://postgres@127.0.0.1:%d/postgres?sslmode=disable", port)
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	for {
		if err = execOn(ctx, dsn, `SELECT 1`); err == nil {
			return dsn, stop, nil
		}
		select {
		case <-ctx.Done():
			stop()
			return "", nil, err
		case <-time.After(20 * time.Millisecond):
		}
	}
}
