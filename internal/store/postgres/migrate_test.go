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
	"github.com/jackc/pgx/v5"
	"github.com/pressly/goose/v3"

	"millrace/internal/catalog"
)

// within bounds what a test asks of a server.
func within(t testing.TB, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

func mustExec(t testing.TB, dsn string, statements ...string) {
	t.Helper()
	if err := execOn(within(t, time.Minute), dsn, statements...); err != nil {
		t.Fatal(err)
	}
}

func TestOfManyThatMigrateAtOnceOneApplies(t *testing.T) {
	dsn := emptyDatabase(t)
	ctx := within(t, time.Minute)
	const n = 6
	var applied [n][]Migration
	var errs [n]error
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() {
			if i%2 == 0 {
				applied[i], errs[i] = Migrate(ctx, Options{DSN: dsn})
				return
			}
			db, err := Open(ctx, Options{DSN: dsn, Instance: fmt.Sprint("instance-", i), Migrate: true, MaxConns: minConns})
			if errs[i] = err; err == nil {
				errs[i] = db.Close()
			}
		})
	}
	all.Wait()
	if err := errors.Join(errs[:]...); err != nil {
		t.Fatal(err)
	}
	known, _, err := migrations()
	if err != nil {
		t.Fatal(err)
	}
	by := 0
	for _, steps := range applied {
		if len(steps) > 0 {
			by++
			if len(steps) != len(known) {
				t.Errorf("one applied %d steps of %d", len(steps), len(known))
			}
		}
	}
	if by > 1 {
		t.Errorf("%d applied something", by)
	}
	steps, minCompatible, err := Status(ctx, Options{DSN: dsn})
	if err != nil || minCompatible == 0 || len(steps) != len(known) {
		t.Fatalf("status: %d steps, oldest compatible %d, error %v", len(steps), minCompatible, err)
	}
	for i, s := range steps {
		if s.AppliedAt.IsZero() || s.Version != known[i].Version || s.Name != known[i].Name {
			t.Errorf("status: %+v, want %+v with a time", s, known[i])
		}
	}
}

func TestTheStatusOfAnEmptyDatabaseIsThatNothingIsApplied(t *testing.T) {
	steps, minCompatible, err := Status(within(t, time.Minute), Options{DSN: emptyDatabase(t)})
	if err != nil || minCompatible != 0 || len(steps) < 3 {
		t.Fatalf("%d steps, oldest compatible %d, error %v", len(steps), minCompatible, err)
	}
	if diff := cmp.Diff(Migration{Version: 1, Name: "main"}, steps[0]); diff != "" {
		t.Error(diff)
	}
}

func TestASchemaThatDoesNotFitIsToldApart(t *testing.T) {
	known, _, err := migrations()
	if err != nil {
		t.Fatal(err)
	}
	newest := known[len(known)-1].Version
	incompatible := func(err error) bool {
		var e *IncompatibleError
		return errors.As(err, &e) && e.SchemaVersion == newest+5 && e.NeedsVersion == newest+4 && e.KnownVersion == newest
	}
	for _, c := range []struct {
		name    string
		prepare string // on a migrated database; "" is an empty one
		migrate bool
		says    string
		is      func(error) bool
	}{
		{"empty, without leave to migrate", "", false, "run `millrace migrate up`", nil},
		{"older, without leave to migrate", fmt.Sprintf(`DELETE FROM schema_compat WHERE version = %d`, newest), false, "run `millrace migrate up`", nil},
		{"newer and incompatible", fmt.Sprintf(`INSERT INTO schema_compat (version, min_compatible) VALUES (%d, %d)`, newest+5, newest+4), false, "Start the newer Millrace again", incompatible},
		{"newer and incompatible, with leave to migrate", fmt.Sprintf(`INSERT INTO schema_compat (version, min_compatible) VALUES (%d, %d)`, newest+5, newest+4), true, "Start the newer Millrace again", incompatible},
		{"newer and compatible", fmt.Sprintf(`INSERT INTO schema_compat (version, min_compatible) VALUES (%d, %d)`, newest+5, newest), false, "", nil},
		{"newer and compatible, with leave to migrate", fmt.Sprintf(`INSERT INTO schema_compat (version, min_compatible) VALUES (%d, %d)`, newest+5, newest), true, "", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			dsn := emptyDatabase(t)
			if c.prepare != "" {
				dsn = freshDatabase(t)
				mustExec(t, dsn, c.prepare)
			}
			db, err := Open(within(t, time.Minute), Options{DSN: dsn, Instance: "test", Migrate: c.migrate})
			if err == nil {
				err = db.Ping(t.Context())
				db.Close()
			}
			switch {
			case c.says == "" && err != nil:
				t.Errorf("refused: %v", err)
			case c.says != "" && (err == nil || !strings.Contains(err.Error(), c.says)):
				t.Errorf("error %v, want one that says %q", err, c.says)
			case c.is != nil && !c.is(err):
				t.Errorf("error %#v", err)
			}
		})
	}
}

// TestWhoMayNotMakeRolesIsToldWhatAnAdministratorHasToDo does as it is told.
func TestWhoMayNotMakeRolesIsToldWhatAnAdministratorHasToDo(t *testing.T) {
	p := server(t)
	name := databaseLike(t, "template0")
	admin := p.DSNFor(name)
	mustExec(t, admin, `CREATE ROLE plain LOGIN PASSWORD '`+p.Password()+`'`, `ALTER DATABASE `+name+` OWNER TO plain`)
	t.Cleanup(func() { // the database, which is its own, goes first
		if err := execOn(context.Background(), p.DSNFor("postgres"), `DROP DATABASE `+name+` WITH (FORCE)`, `DROP ROLE plain`, `DROP ROLE "plain's reader"`); err != nil {
			t.Error(err)
		}
	})
	o := Options{DSN: dsnAs(p, p.Addr(), "plain", name), Instance: "test", ReadRole: "plain's reader", Migrate: true, MaxConns: minConns}
	_, err := Open(within(t, time.Minute), o)
	if err == nil {
		t.Fatal("opened without a role")
	}
	_, statements, found := strings.Cut(err.Error(), "try again: ")
	if !found || strings.Contains(err.Error(), p.Password()) {
		t.Fatalf("the error says %q", err)
	}
	mustExec(t, admin, strings.Split(strings.TrimSuffix(statements, ";"), ";")...)
	openAt(t, o)
}

func TestDatabasesOfOneServerMakeTheReadRoleAtOnce(t *testing.T) {
	const n = 4
	var dsns [n]string
	for i := range dsns {
		dsns[i] = emptyDatabase(t)
	}
	t.Cleanup(func() {
		for _, dsn := range dsns {
			_ = execOn(context.Background(), dsn, `DROP OWNED BY racing_reader`) // its rights, for the role to go
		}
		if err := execOn(context.Background(), ownerDSN(server(t), template), `DROP ROLE racing_reader`); err != nil {
			t.Error(err)
		}
	})
	ctx := within(t, time.Minute)
	var errs [n]error
	var all sync.WaitGroup
	for i, dsn := range dsns {
		all.Go(func() { _, errs[i] = Migrate(ctx, Options{DSN: dsn, ReadRole: "racing_reader"}) })
	}
	all.Wait()
	if err := errors.Join(errs[:]...); err != nil {
		t.Fatal(err)
	}
	for _, dsn := range dsns {
		openAt(t, Options{DSN: dsn, ReadRole: "racing_reader", MaxConns: minConns})
	}
}

func TestAConnectionStringThatCannotBeReadIsNotShown(t *testing.T) {
	for _, dsn := range []string{"postgres://me:s3cret@host:notaport/db", "host=h password=s3cret port=x", "postgres://me:s3cret@[::1/db", "s3cret"} {
		_, err := Open(t.Context(), Options{DSN: dsn, Instance: "test"})
		if err == nil || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%s: error %v", dsn, err)
		}
	}
}

// A wrong password, a server that is not there: what pgx says of them.
func TestWhatCannotBeConnectedToIsNamedWithoutItsPassword(t *testing.T) {
	p := server(t)
	for _, dsn := range []string{
		strings.Replace(p.DSN(), p.Password(), "wr0ng", 1),
		"postgres://me:wr0ng@127.0.0.1:1/db",
	} {
		_, err := Open(within(t, time.Minute), Options{DSN: dsn, Instance: "test"})
		if err == nil || strings.Contains(err.Error(), "wr0ng") || !strings.Contains(err.Error(), "127.0.0.1") {
			t.Errorf("error %v", err)
		}
	}
}

// collect returns the only column of a query.
func collect[T any](t testing.TB, q interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}, ctx context.Context, query string, args ...any) []T {
	t.Helper()
	rows, err := q.Query(ctx, query, args...)
	if err != nil {
		t.Fatal(err)
	}
	list, err := pgx.CollectRows(rows, pgx.RowTo[T])
	if err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	return list
}

// TestProductsOfAnOlderSchemaAreTheFirstVersionOfTheirCatalogue migrates a schema that
// knows neither versions nor tombstones.
func TestProductsOfAnOlderSchemaAreTheFirstVersionOfTheirCatalogue(t *testing.T) {
	dsn := emptyDatabase(t)
	ctx := within(t, time.Minute)
	_, files, err := migrations()
	if err != nil {
		t.Fatal(err)
	}
	o, err := Options{DSN: dsn}.withConnectionDefaults()
	if err != nil {
		t.Fatal(err)
	}
	raw, _, err := admin(&o)
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	provider, err := goose.NewProvider(goose.DialectPostgres, raw, files, goose.WithDisableGlobalRegistry(true))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := provider.UpTo(ctx, 3); err != nil {
		t.Fatal(err)
	}
	mustExec(t, dsn, `INSERT INTO products VALUES ('ann', 'x', 7, 1, 5, 'EUR', 'c', '{"en":"X"}', '{}', '', 1, 2),
('ann', 'y', 1, 0, 5, 'EUR', 'c', '{"en":"Y"}', '{}', '', 1, 2), ('bob', 'x', 2, 1, 5, 'EUR', 'c', '{"en":"X"}', '{}', '', 1, 2)`)
	db := openAt(t, Options{DSN: dsn, Migrate: true})
	versions, _, err := db.Catalog().Versions(ctx)
	if diff := cmp.Diff(map[string]int64{"ann": 1, "bob": 1}, versions); diff != "" || err != nil {
		t.Errorf("versions: error %v, differ (-want +got):\n%s", err, diff)
	}
	changed, more, err := db.Catalog().Changes(ctx, "ann", 0, 1)
	if err != nil || len(changed) != 2 || changed[0].Change != 1 || changed[1].Change != 1 || changed[0].Deleted || more {
		t.Errorf("changes %+v, error %v; want the two products of version 1", changed, err)
	}
	x, err := db.Catalog().Product(ctx, "ann", "x") // as the read role
	if err != nil {
		t.Fatal(err)
	}
	x.Slug = "x"
	results, errs, err := db.Catalog().Put(ctx, []catalog.Put{{Product: x, Now: time.Unix(3, 0)}})
	if err != nil || errs[0] != nil || results[0].Product.Version != 8 || results[0].Product.Change != 2 {
		t.Errorf("a put afterwards: %+v, %v, %v; want version 8 and change 2", results, errs, err)
	}
	var needs int64
	if err := db.hot.QueryRow(ctx, `SELECT min_compatible FROM schema_compat WHERE version = 4`).Scan(&needs); err != nil || needs != 4 {
		t.Errorf("version 4 needs a program of version %d, error %v; want 4: an older one would not raise versions", needs, err)
	}
}
