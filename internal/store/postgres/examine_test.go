package postgres

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"millrace/internal/servers"
	"millrace/internal/servers/servertest"
)

// examined returns what Examine finds, by name.
func examined(t testing.TB, o Options) (Report, map[string]Check) {
	t.Helper()
	report, err := Examine(within(t, time.Minute), o)
	if err != nil {
		t.Fatal(err)
	}
	checks := map[string]Check{}
	for _, c := range report.Checks {
		if _, twice := checks[c.Name]; twice {
			t.Errorf("%s is told twice", c.Name)
		}
		checks[c.Name] = c
		if (c.Grade == Warning || c.Grade == Failure) && (c.Fix == "" || c.Why == "" || c.Want == "") {
			t.Errorf("no advice: %+v", c)
		}
		if c.Grade == OK && c.Fix != "" {
			t.Errorf("advice for what is well: %+v", c)
		}
		if strings.Contains(fmt.Sprint(c), server(t).Password()) {
			t.Errorf("a password is shown: %+v", c)
		}
	}
	return report, checks
}

func wantGrades(t testing.TB, checks map[string]Check, want map[string]Grade) {
	t.Helper()
	for name, g := range want {
		if c, there := checks[name]; !there || c.Grade != g {
			t.Errorf("%s: %+v, want %q", name, c, g)
		}
	}
}

func TestADatabaseThatIsWellIsFoundSo(t *testing.T) {
	db := openTest(t)
	_, checks := examined(t, Options{DSN: db.o.DSN})
	wantGrades(t, checks, map[string]Grade{
		"round trip": OK, "clock": OK, "version": OK, "encoding": OK, "encryption": OK, "schema": OK, "user": OK, "partitions may be made": OK, "owner": OK,
		"read role": OK, "row-level security": OK, "connections": OK, "size": OK,
		"setting synchronous_commit": OK, "setting autovacuum": OK, "setting max_wal_size": OK,
		// The server of the tests keeps nothing for the machine's own death.
		"setting fsync": Failure, "setting full_page_writes": Failure,
	})
	if _, there := checks["replica"]; there {
		t.Error("a replica that nobody has is told of")
	}
}

func TestWhatIsWrongWithADatabaseIsFound(t *testing.T) {
	p := server(t)
	for _, c := range []struct {
		name  string
		do    string // as the superuser
		undo  string
		o     Options
		check string
		want  Grade
		says  string
	}{
		{name: "an older schema", do: `DELETE FROM schema_compat WHERE version > 1`, check: "schema", want: Failure, says: "millrace migrate up"},
		{name: "a newer schema", do: `INSERT INTO schema_compat (version, min_compatible) VALUES (99, 98)`, check: "schema", want: Failure, says: "98"},
		{name: "a newer schema that will do", do: `INSERT INTO schema_compat (version, min_compatible) VALUES (99, 1)`, check: "schema", want: OK},
		{name: "a table without row-level security", do: `ALTER TABLE orders DISABLE ROW LEVEL SECURITY`, check: "row-level security", want: Failure, says: "ENABLE"},
		{name: "a table without its policy", do: `DROP POLICY tenant ON stock`, check: "row-level security", want: Failure, says: "ENABLE"},
		{name: "a table that the read role may not read", do: `REVOKE SELECT ON products FROM millrace_reader`, check: "row-level security", want: Failure, says: "migrate up"},
		{name: "a table of another owner", do: `ALTER TABLE stock OWNER TO postgres`, check: "owner", want: Failure, says: "OWNER TO"},
		{name: "no right to make tables", do: `REVOKE CREATE ON SCHEMA public FROM PUBLIC; ALTER SCHEMA public OWNER TO postgres`, check: "partitions may be made", want: Failure, says: "GRANT CREATE"},
		{name: "a read role that is not there", o: Options{ReadRole: "nobody"}, check: "read role", want: Failure, says: "CREATE ROLE"},
		{name: "a read role above the policies", do: `CREATE ROLE lofty BYPASSRLS`, undo: `DROP ROLE lofty`, o: Options{ReadRole: "lofty"}, check: "read role", want: Failure, says: "NOBYPASSRLS"},
		{name: "a read role of others", do: `CREATE ROLE others`, undo: `DROP ROLE others`, o: Options{ReadRole: "others"}, check: "read role", want: Failure, says: "GRANT"},
		{name: "a read role that owns the tables", o: Options{ReadRole: owner}, check: "read role", want: Failure, says: "role of its own"},
		{name: "too few connections", o: Options{MaxConns: 5000}, check: "connections", want: Failure, says: "max_connections"},
		{name: "partitions missing", o: Options{PartitionsAhead: 1000}, check: "partitions ahead", want: Warning, says: "run an instance"},
		{name: "a replica that is none", o: Options{ReplicaDSN: "itself"}, check: "replica", want: Failure, says: "or none"},
		{name: "a replica that is not there", o: Options{ReplicaDSN: "postgres://me:s3cret@127.0.0.1:1/db"}, check: "replica", want: Failure, says: "leave it out"},
		{name: "a replica's connection string that cannot be read", o: Options{ReplicaDSN: "postgres://me:s3cret@[::1"}, check: "replica", want: Failure, says: "mend"},
	} {
		t.Run(c.name, func(t *testing.T) {
			name := databaseLike(t, template)
			if c.do != "" {
				mustExec(t, p.DSNFor(name), c.do)
			}
			if c.undo != "" {
				defer mustExec(t, p.DSNFor(name), c.undo)
			}
			c.o.DSN = ownerDSN(p, name)
			if c.o.ReplicaDSN == "itself" {
				c.o.ReplicaDSN = c.o.DSN
			}
			_, checks := examined(t, c.o)
			wantGrades(t, checks, map[string]Grade{c.check: c.want})
			if got := checks[c.check]; !strings.Contains(got.Fix, c.says) || strings.Contains(fmt.Sprint(got), "s3cret") {
				t.Errorf("%+v, want advice that says %q", got, c.says)
			}
		})
	}
}

func TestAReadRoleThatRowLevelSecurityDoesNotBindIsRefused(t *testing.T) {
	db, err := Open(within(t, time.Minute), Options{DSN: freshDatabase(t), Instance: "test", ReadRole: owner, MaxConns: minConns})
	if err == nil {
		db.Close()
		t.Fatal("it was opened")
	}
	if !strings.Contains(err.Error(), "not bound by row-level security") {
		t.Errorf("Open: %v", err)
	}
}

func TestHowAConnectionIsEncryptedIsLookedAt(t *testing.T) {
	for _, mode := range []string{"", "disable", "allow", "prefer"} {
		dsn := strings.Replace(freshDatabase(t), "sslmode=disable", "sslmode="+mode, 1)
		if mode == "" {
			dsn = strings.Replace(dsn, "sslmode=", "", 1)
		}
		_, checks := examined(t, Options{DSN: dsn})
		if c := checks["encryption"]; c.Grade != OK || c.Found != "not encrypted, on this machine" {
			t.Errorf("sslmode %q with a server that has no TLS: %+v", mode, c)
		}
	}
	for _, c := range []struct {
		mode                 string
		ours, servers, local bool
		want                 Grade
		says                 string
	}{
		{"verify-full", true, true, false, OK, "verified"},
		{"verify-ca", true, true, false, OK, "verified"},
		{"require", true, true, false, Warning, "whoever answers"},
		{"prefer", true, true, false, Warning, "the next connection is not"},
		{"allow", true, true, false, Warning, "the next connection is not"},
		{"prefer", false, false, false, Warning, "not encrypted"},
		{"disable", false, false, false, Warning, "not encrypted"},
		{"disable", false, false, true, OK, "on this machine"},
		{"prefer", true, true, true, OK, "on this machine"},
		{"verify-full", true, false, false, Warning, "not all the way"},
	} {
		conn, err := pgx.ParseConfig("postgres://me@db.example.com/shop?sslmode=" + c.mode)
		if err != nil {
			t.Fatal(err)
		}
		got := encryptionCheck(c.ours, c.servers, c.local, conn)
		if got.Grade != c.want || !strings.Contains(got.Found, c.says) || (got.Fix == "") != (c.want == OK) {
			t.Errorf("%+v: %+v", c, got)
		}
	}
}

func TestNoErrorOfAConnectionStringShowsThePassword(t *testing.T) {
	for _, dsn := range []string{
		"host=h password=a s3cret user=x", "host=h password='s3cret", "host=h password=s3\\ cret s3cret", "host=h password=s3cret port=x", "s3cret",
		"postgres//u:s3cret@h/d", "postgres://u:s3cret/x@h:5432/d", "postgres://u:s3cret%zz@h/d", "postgres://u:s3cret x@h/d", "postgres://u:s3cret@h:99999999/d",
	} {
		_, err := parse(&Options{}, dsn)
		if err == nil || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%s: %v", dsn, err)
		}
	}
}

func TestADatabaseThatIsEmptyOrNotThereIsExaminedToo(t *testing.T) {
	_, checks := examined(t, Options{DSN: emptyDatabase(t)})
	wantGrades(t, checks, map[string]Grade{"schema": Failure, "version": OK, "read role": OK})
	report, checks := examined(t, Options{DSN: "postgres://me:s3cret@127.0.0.1:1/db"})
	wantGrades(t, checks, map[string]Grade{"reachable": Failure})
	if report.Worst() != Failure || strings.Contains(fmt.Sprint(report), "s3cret") {
		t.Errorf("%+v", report)
	}
	if _, err := Examine(t.Context(), Options{}); err == nil {
		t.Error("examined nothing")
	}
}

func TestASuperuserIsWarnedOf(t *testing.T) {
	p := server(t)
	_, checks := examined(t, Options{DSN: p.DSNFor(databaseLike(t, template))})
	wantGrades(t, checks, map[string]Grade{"user": Warning, "disk": checks["disk"].Grade})
	if checks["disk"].Grade == Unknown { // it is shown the directory, which is on this machine
		t.Errorf("disk: %+v", checks["disk"])
	}
}

func TestAReplicaIsExamined(t *testing.T) {
	p, name := ownServer(t)
	r := servertest.Replica(t, p, servers.ReplicaOptions{})
	o := Options{DSN: ownerDSN(p, name), ReplicaDSN: dsnAs(p, r.Addr(), owner, name)}
	report, err := Examine(within(t, time.Minute), o)
	if err != nil {
		t.Fatal(err)
	}
	checks := map[string]Check{}
	for _, c := range report.Checks {
		checks[c.Name] = c
	}
	wantGrades(t, checks, map[string]Grade{"replica": OK, "replica's lag": OK, "setting wal_level": OK})
	if _, warned := checks["replication slot"]; warned {
		t.Error("the replica's own slot is told of")
	}
	if err := r.Kill(); err != nil {
		t.Fatal(err)
	}
	eventually(t, 30*time.Second, "a slot that nobody reads is found", func() bool {
		report, err := Examine(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range report.Checks {
			if strings.HasPrefix(c.Name, "replication slot ") && c.Grade == Warning {
				return true
			}
		}
		return false
	})
}
