package postgres

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// Grade says what to think of a Check.
type Grade string

// The grades.
const (
	OK      Grade = "ok"
	Warning Grade = "warning"
	Failure Grade = "failure"
	// Unknown is for what could not be looked at.
	Unknown Grade = "unknown"
)

// Check is one thing that Examine looked at.
type Check struct {
	Name  string
	Grade Grade
	// Found is how it is, Want how it should be, Why what that matters for, and Fix
	// what to do. Fix is empty if nothing is to be done.
	Found, Want, Why, Fix string
}

// Report is what Examine found, in the order it looked.
type Report struct{ Checks []Check }

// Worst returns the worst grade of the report; Unknown counts as OK.
func (r *Report) Worst() Grade {
	worst := OK
	for i := range r.Checks {
		switch g := r.Checks[i].Grade; {
		case g == Failure:
			return Failure
		case g == Warning:
			worst = Warning
		}
	}
	return worst
}

const (
	// examineTimeout bounds an examination whose context has no deadline.
	examineTimeout = 30 * time.Second
	// slowAnswer is what a round trip may take before it is worth a warning: placing an
	// order takes three, one after the other, while its stock is locked.
	slowAnswer = 5 * time.Millisecond
	// A clock that is off by less changes nothing, one that is off by more than the
	// second expires leases that are held.
	maxSkew, badSkew = 200 * time.Millisecond, 3 * time.Second
	// probes is how often the round trip is measured.
	probes     = 7
	minVersion = 14
)

// examination is one run of Examine.
type examination struct {
	o      Options
	conn   *pgx.Conn
	report Report

	migrated bool // the schema is there
	settings map[string]setting
}

// Examine looks at the database, and the replica if there is one, as somebody who
// is about to run Millrace on them should. It changes nothing, and shows no
// password. What is wrong is in the report; the error is for options that cannot be
// used at all.
func Examine(ctx context.Context, o Options) (Report, error) {
	o, err := o.withConnectionDefaults()
	if err != nil {
		return Report{}, err
	}
	if _, err := parse(&o, o.DSN); err != nil {
		return Report{}, err
	}
	if _, bounded := ctx.Deadline(); !bounded {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, examineTimeout)
		defer cancel()
	}
	e := &examination{o: o}
	e.conn, err = examineConn(ctx, &o, o.DSN)
	if err != nil {
		e.add(Check{"reachable", Failure, err.Error(), "a connection", "without its database Millrace keeps what it accepts in its log, up to that log's bound, and places no orders",
			"start the server, and check the address, the user and the password"})
		return e.report, nil
	}
	defer e.conn.Close(context.WithoutCancel(ctx))
	for _, look := range []func(context.Context) error{
		e.roundTrip, e.version, e.encryption, e.schema, e.rights, e.readRole, e.readSettings, e.connections, e.partitions, e.slots, e.size, e.replica,
	} {
		if err := look(ctx); err != nil {
			if ctx.Err() != nil || e.conn.IsClosed() {
				e.add(Check{"examination", Unknown, "it ended early: " + err.Error(), "", "", "try again"})
				break
			}
			e.add(Check{"examination", Unknown, err.Error(), "", "", ""})
		}
	}
	return e.report, nil
}

func examineConn(ctx context.Context, o *Options, dsn string) (*pgx.Conn, error) {
	c, err := parse(o, dsn)
	if err != nil {
		return nil, err
	}
	configureConn(o, c.ConnConfig)
	return pgx.ConnectConfig(ctx, c.ConnConfig)
}

func (e *examination) add(c Check) { e.report.Checks = append(e.report.Checks, c) }

// grade returns bad if something is wrong, else OK.
func grade(wrong bool, bad Grade) Grade {
	if wrong {
		return bad
	}
	return OK
}

// fix returns what to do if something is wrong, else nothing.
func fix(wrong bool, what string) string {
	if wrong {
		return what
	}
	return ""
}

// roundTrip measures how long an answer takes and how far the clocks are apart. The
// server read its clock between the question and the answer, so the difference to
// the middle is known to half a round trip.
func (e *examination) roundTrip(ctx context.Context) error {
	var best, offset time.Duration
	for i := range probes {
		var micros int64
		before := time.Now()
		if err := e.conn.QueryRow(ctx, `SELECT (extract(epoch FROM clock_timestamp()) * 1e6)::bigint`).Scan(&micros); err != nil {
			return in("measure the round trip", err)
		}
		took := time.Since(before)
		if i > 0 && (best == 0 || took < best) { // the first prepares the statement
			best, offset = took, time.UnixMicro(micros).Sub(before.Add(took/2))
		}
	}
	slow := best > slowAnswer
	e.add(Check{"round trip", grade(slow, Warning), best.Round(10 * time.Microsecond).String(), "at most " + slowAnswer.String(),
		"orders of one SKU wait for each other for three round trips", fix(slow, "run Millrace near the database: the same zone, the same network")})
	off := max(offset.Abs()-best/2, 0)
	g := grade(off > maxSkew, Warning)
	if off > badSkew {
		g = Failure
	}
	e.add(Check{"clock", g, fmt.Sprintf("the server's clock differs by %s ± %s", offset.Round(100*time.Microsecond), (best / 2).Round(100*time.Microsecond)),
		"at most " + maxSkew.String(), "instances judge leases, heartbeats and deadlines by their own clocks, which are to agree", fix(g != OK, "run an NTP client on both machines")})
	return nil
}

func (e *examination) version(ctx context.Context) error {
	var number int
	var name, encoding string
	err := e.conn.QueryRow(ctx, `SELECT current_setting('server_version_num')::int, current_setting('server_version'), current_setting('server_encoding')`).Scan(&number, &name, &encoding)
	if err != nil {
		return in("read the version", err)
	}
	old := number/10000 < minVersion
	e.add(Check{"version", grade(old, Failure), "PostgreSQL " + name, fmt.Sprintf("%d or newer", minVersion), "older ones lack what the statements use", fix(old, "upgrade the server")})
	odd := encoding != "UTF8"
	e.add(Check{"encoding", grade(odd, Failure), encoding, "UTF8", "texts of all languages are stored", fix(odd, "create the database with ENCODING 'UTF8' TEMPLATE template0")})
	return nil
}

// encryption looks at the connection itself, and at whether the next one is bound to
// be the same.
func (e *examination) encryption(ctx context.Context) error {
	var encrypted *bool // as the server sees it: there may be a pooler between
	if err := e.conn.QueryRow(ctx, `SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()`).Scan(&encrypted); err != nil && !noRows(err) {
		return in("read whether the connection is encrypted", err)
	}
	wire := e.conn.PgConn().Conn()
	_, ours := wire.(*tls.Conn)
	e.add(encryptionCheck(ours, encrypted == nil || *encrypted, isLocal(wire.RemoteAddr()), e.conn.Config()))
	return nil
}

// encryptionCheck judges how a connection is encrypted on this side and, as far as
// it tells, on the server's.
func encryptionCheck(ours, servers, local bool, c *pgx.ConnConfig) Check {
	check := Check{Name: "encryption", Grade: OK, Found: "encrypted, and the server's certificate is verified", Want: "TLS with a certificate that is verified, unless on one machine",
		Why: "passwords and orders travel here"}
	switch {
	case !ours:
		check.Found = "not encrypted"
	case !servers:
		check.Found = "encrypted, but not all the way: what is between does not encrypt"
	case mayBeClear(c):
		check.Found = "encrypted, but where the server refuses that the next connection is not"
	case !verified(c.TLSConfig):
		check.Found = "encrypted, but whoever answers is taken for the server"
	default:
		return check
	}
	if local {
		check.Found += ", on this machine"
		return check
	}
	check.Grade, check.Fix = Warning, "use sslmode=verify-full in the connection string"
	if ours && !servers {
		check.Fix = "have the pooler use TLS to the server"
	}
	return check
}

// mayBeClear says whether some connection would be made without TLS.
func mayBeClear(c *pgx.ConnConfig) bool {
	return c.TLSConfig == nil || slices.ContainsFunc(c.Fallbacks, func(f *pgconn.FallbackConfig) bool { return f.TLSConfig == nil })
}

func verified(c *tls.Config) bool {
	return c != nil && (!c.InsecureSkipVerify || c.VerifyPeerCertificate != nil || c.VerifyConnection != nil)
}

// isLocal says whether an address is of this machine, as far as it tells.
func isLocal(a net.Addr) bool {
	switch a := a.(type) {
	case *net.UnixAddr:
		return true
	case *net.TCPAddr:
		return a.IP.IsLoopback()
	}
	return false
}

func (e *examination) schema(ctx context.Context) error {
	known, _, err := migrations()
	if err != nil {
		return err
	}
	newest := known[len(known)-1].Version
	var version, needs int64
	err = e.conn.QueryRow(ctx, `SELECT version, min_compatible FROM schema_compat ORDER BY version DESC LIMIT 1`).Scan(&version, &needs)
	if err != nil && sqlState(err) != stateUndefinedTable && !noRows(err) {
		return in("read the schema version", err)
	}
	c := Check{Name: "schema", Grade: OK, Found: fmt.Sprintf("version %d", version), Want: fmt.Sprintf("version %d", newest), Why: "statements and tables belong together"}
	e.migrated = version > 0
	switch {
	case version == 0:
		c.Grade, c.Found, c.Fix = Failure, "none", "run `millrace migrate up`"
	case version < newest:
		c.Grade, c.Fix = Failure, "run `millrace migrate up`"
	case version > newest && needs > newest:
		c.Grade, c.Fix = Failure, fmt.Sprintf("run a Millrace that knows version %d", needs)
	case version > newest:
		c.Found += ", which this program can serve"
	}
	e.add(c)
	return nil
}

// rights looks at the user that Millrace writes as.
func (e *examination) rights(ctx context.Context) error {
	var user string
	var super, create bool
	var limit int
	err := e.conn.QueryRow(ctx, `SELECT rolname::text, rolsuper, rolconnlimit, coalesce(has_schema_privilege(current_schema(), 'CREATE'), false)
FROM pg_roles WHERE rolname = current_user`).Scan(&user, &super, &limit, &create)
	if err != nil {
		return in("read the rights of the user", err)
	}
	e.add(Check{"user", grade(super, Warning), map[bool]string{true: user + ", a superuser", false: user}[super], "a user of its own that is no superuser",
		"who takes the connection string takes the whole server", fix(super, "CREATE ROLE millrace LOGIN, and make it the owner of the database")})
	e.add(Check{"partitions may be made", grade(!create, Failure), map[bool]string{true: "yes", false: "no"}[create], "yes", "every day's events have a partition, which Millrace makes",
		fix(!create, "GRANT CREATE ON SCHEMA public TO "+pgx.Identifier{user}.Sanitize())})
	if limit >= 0 && limit < e.o.MaxConns {
		e.add(Check{"connections of the user", Failure, fmt.Sprint(limit), fmt.Sprintf("%d for each instance", e.o.MaxConns), "what is refused a connection fails",
			"ALTER ROLE " + pgx.Identifier{user}.Sanitize() + " CONNECTION LIMIT -1"})
	}
	if !e.migrated {
		return nil
	}
	var foreign []string
	err = e.conn.QueryRow(ctx, `SELECT array_agg(relname::text ORDER BY relname) FROM pg_class
WHERE relnamespace = current_schema()::regnamespace AND relkind IN ('r', 'p') AND NOT pg_has_role(relowner, 'USAGE')`).Scan(&foreign)
	if err != nil {
		return in("read the owners of the tables", err)
	}
	wrong := len(foreign) > 0
	e.add(Check{"owner", grade(wrong, Failure), map[bool]string{true: "not of " + strings.Join(foreign[:min(3, len(foreign))], ", "), false: "of all tables"}[wrong],
		"the user owns the tables", "row-level security binds all others, and only the owner makes and drops partitions", fix(wrong, "ALTER TABLE … OWNER TO "+pgx.Identifier{user}.Sanitize())})
	return nil
}

// readRole looks at the role that reads for tenants, and at what keeps them apart.
func (e *examination) readRole(ctx context.Context) error {
	name := e.o.ReadRole
	quoted := pgx.Identifier{name}.Sanitize()
	var free bool // of row-level security
	err := e.conn.QueryRow(ctx, `SELECT rolsuper OR rolbypassrls FROM pg_roles WHERE rolname = $1`, name).Scan(&free)
	c := Check{Name: "read role", Grade: Failure, Found: name, Want: name + ", which the user can become and row-level security binds", Why: "it keeps tenants apart even where a statement forgets to"}
	switch {
	case noRows(err):
		c.Found, c.Fix = "there is no "+name, "run `millrace migrate up`, or have an administrator CREATE ROLE "+quoted+" NOLOGIN"
		e.add(c)
		return nil
	case err != nil:
		return in("read the role "+name, err)
	case free:
		c.Found, c.Fix = name+" is above row-level security", "ALTER ROLE "+quoted+" NOSUPERUSER NOBYPASSRLS"
		e.add(c)
		return nil
	}
	var unbound *string // tables
	err = pgx.BeginFunc(ctx, e.conn, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `SET LOCAL ROLE `+quoted); err != nil {
			return err
		}
		err := tx.QueryRow(ctx, `SELECT string_agg(relname::text, ', ' ORDER BY relname) FROM pg_class
WHERE relnamespace = current_schema()::regnamespace AND relkind IN ('r', 'p') AND relrowsecurity AND NOT row_security_active(oid)`).Scan(&unbound)
		return errors.Join(err, errRolledBack)
	})
	switch {
	case !errors.Is(err, errRolledBack):
		c.Found, c.Fix = "the user cannot become it: "+err.Error(), "GRANT "+quoted+" TO the user"
		e.add(c)
		return nil
	case unbound != nil:
		c.Found, c.Fix = "row-level security does not bind "+name+": it has the rights of the owner of "+*unbound, "name a role of its own for reading, NOLOGIN and no member of the owner"
		e.add(c)
		return nil
	}
	c.Grade = OK
	e.add(c)
	if !e.migrated {
		return nil
	}
	return e.walls(ctx, name)
}

// errRolledBack ends a transaction that was only to be tried.
var errRolledBack = errors.New("rolled back as planned")

// walls looks at the tables of tenants.
func (e *examination) walls(ctx context.Context, role string) error {
	rows, err := e.conn.Query(ctx, `SELECT c.relname::text, c.relrowsecurity AND EXISTS (SELECT FROM pg_policy WHERE polrelid = c.oid), has_table_privilege($1, c.oid, 'SELECT')
FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'tenant_id' AND NOT a.attisdropped
WHERE c.relnamespace = current_schema()::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition ORDER BY 1`, role)
	if err != nil {
		return in("read the tables of tenants", err)
	}
	var open, dark []string
	var table string
	var walled, readable bool
	if _, err := pgx.ForEachRow(rows, []any{&table, &walled, &readable}, func() error {
		switch shared := slices.Contains([]string{"schema_compat", "instances", "leases", "event_batches"}, table); {
		case !walled && !shared:
			open = append(open, table)
		case !readable && !shared:
			dark = append(dark, table)
		}
		return nil
	}); err != nil {
		return in("read the tables of tenants", err)
	}
	c := Check{Name: "row-level security", Grade: OK, Found: "on all tables of tenants", Want: "on all tables of tenants, readable by " + role, Why: "it keeps tenants apart even where a statement forgets to"}
	switch {
	case len(open) > 0:
		c.Grade, c.Found, c.Fix = Failure, "not on "+strings.Join(open, ", "), "ALTER TABLE … ENABLE ROW LEVEL SECURITY, with the policy that the other tables have"
	case len(dark) > 0:
		c.Grade, c.Found, c.Fix = Failure, role+" may not read "+strings.Join(dark, ", "), "run `millrace migrate up`, which grants it"
	}
	e.add(c)
	return nil
}
