package postgres

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgconn/ctxwatch"
	"github.com/jackc/pgx/v5/pgxpool"

	storesql "millrace/internal/store/sql"
)

const (
	// Connections are replaced now and then, so that new servers behind one name get
	// their share and backends give back memory; the jitter keeps them from all being
	// replaced at once.
	maxConnLifetime       = time.Hour
	maxConnLifetimeJitter = 10 * time.Minute
	maxConnIdleTime       = 10 * time.Minute
	healthCheckPeriod     = 10 * time.Second
	pingTimeout           = 3 * time.Second
	// stallMargin is how much longer than StatementTimeout a connection waits for the
	// server to say that it ended the statement.
	stallMargin = 5 * time.Second
	// cancelGrace is how long a statement whose caller has gone may take to end on the
	// server's side before the connection is given up.
	cancelGrace = 2 * time.Second
	// ownerIdleTime bounds how long the server keeps a transaction of the owner's, and
	// the locks it has, for a process that is paused or cut off.
	ownerIdleTime = 2500 * time.Millisecond
	// tenantSetting is the session setting that row-level security reads.
	tenantSetting = "millrace.tenant"
	// vitalConns are for what must not wait behind work: the heartbeat, and asking for
	// the outcome of a commit.
	vitalConns = 2
)

// split divides the connections to the primary between hot writes and reads.
func split(maxConns int) (hot, fresh, vital int) {
	vital = vitalConns
	fresh = max(2, (maxConns-vital)*2/5)
	return maxConns - vital - fresh, fresh, vital
}

// parse reads a connection string. Its errors never show a password.
func parse(o *Options, dsn string) (*pgxpool.Config, error) {
	c, err := pgxpool.ParseConfig(dsn)
	if err != nil {
		return nil, fmt.Errorf("postgres: the connection string cannot be read (it looks like postgres://user@host:5432/database): %w", withoutSecrets(dsn, err))
	}
	if o.TLS != nil {
		useTLS(c.ConnConfig, o.TLS)
	}
	return c, nil
}

// withoutSecrets returns the cause of an error of parsing: the error itself shows
// the connection string. That of keyword=value pairs may too, a word of a password
// that has spaces.
func withoutSecrets(dsn string, err error) error {
	var e *pgconn.ParseConfigError
	if !strings.HasPrefix(dsn, "postgres://") && !strings.HasPrefix(dsn, "postgresql://") {
		return errors.New("it is no URL, and as keyword=value pairs it is not understood; a value with spaces is written in single quotes")
	}
	if errors.As(err, &e) && e.Unwrap() != nil {
		return e.Unwrap()
	}
	return errors.New("it is not understood")
}

// useTLS puts TLS on every host of a connection string, without falling back to a
// connection in the clear.
func useTLS(c *pgx.ConnConfig, t *tls.Config) {
	forHost := func(host string) *tls.Config {
		if len(host) > 0 && host[0] == '/' { // a Unix socket
			return nil
		}
		clone := t.Clone()
		if clone.ServerName == "" {
			clone.ServerName = host
		}
		return clone
	}
	c.TLSConfig = forHost(c.Host)
	seen := map[string]bool{hostPort(c.Host, c.Port): true}
	var fallbacks []*pgconn.FallbackConfig
	for _, f := range c.Fallbacks { // one host stands there with and without TLS
		if !seen[hostPort(f.Host, f.Port)] {
			seen[hostPort(f.Host, f.Port)] = true
			f.TLSConfig = forHost(f.Host)
			fallbacks = append(fallbacks, f)
		}
	}
	c.Fallbacks = fallbacks
}

func hostPort(host string, port uint16) string { return host + ":" + strconv.Itoa(int(port)) }

// poolConfig returns the configuration that all pools share.
func poolConfig(o *Options, dsn string, conns int) (*pgxpool.Config, error) {
	c, err := parse(o, dsn)
	if err != nil {
		return nil, err
	}
	c.MaxConns = int32(conns)
	c.MinConns, c.MinIdleConns = 0, 0
	c.MaxConnLifetime, c.MaxConnLifetimeJitter = maxConnLifetime, maxConnLifetimeJitter
	c.MaxConnIdleTime, c.HealthCheckPeriod, c.PingTimeout = maxConnIdleTime, healthCheckPeriod, pingTimeout
	configureConn(o, c.ConnConfig)
	return c, nil
}

// configureConn sets the bounds on what one connection does.
func configureConn(o *Options, c *pgx.ConnConfig) {
	c.ConnectTimeout = o.ConnectTimeout
	c.DialFunc = dialer(o.ConnectTimeout, o.StatementTimeout+stallMargin)
	p := c.RuntimeParams
	p["application_name"] = applicationName(o.Instance)
	p["statement_timeout"] = millis(o.StatementTimeout)
	p["lock_timeout"] = millis(o.LockTimeout)
	// Between two statements of a transaction this program does little: who takes
	// longer is paused or gone, and holds locks.
	p["idle_in_transaction_session_timeout"] = millis(o.StatementTimeout)
	// The server notices a client's machine that is gone as this side notices a server's:
	// what it was at holds locks until then.
	p["tcp_keepalives_idle"] = strconv.Itoa(int(keepAliveIdle.Seconds()))
	p["tcp_keepalives_interval"] = strconv.Itoa(int(keepAliveInterval.Seconds()))
	p["tcp_keepalives_count"] = strconv.Itoa(keepAliveCount)
	p["tcp_user_timeout"] = millis(tcpUserTimeout)
	p["default_transaction_isolation"] = "read committed"
	// Statements here touch few rows: compiling them costs more than it saves.
	p["jit"] = "off"
	p["client_encoding"] = "UTF8"
}

func millis(d time.Duration) string { return strconv.FormatInt(max(1, d.Milliseconds()), 10) }

// applicationName is what the server's activity shows, cut where the server would.
func applicationName(instance string) string {
	name := "millrace"
	if instance != "" {
		name += "/" + instance
	}
	return name[:min(len(name), maxNameBytes)]
}

// transactionStatements is how many statements' time a transaction may take.
const transactionStatements = 4

// boundTransactions has servers that can (PostgreSQL 17) bound whole transactions,
// and with them the time between statements that were sent together.
func boundTransactions(o *Options) func(ctx context.Context, conn *pgx.Conn) error {
	return func(ctx context.Context, conn *pgx.Conn) error {
		if major(conn.PgConn().ParameterStatus("server_version")) < 17 {
			return nil
		}
		_, err := conn.Exec(ctx, `SELECT set_config('transaction_timeout', $1, false)`, millis(transactionStatements*o.StatementTimeout))
		return in("bound the transactions of a connection", err)
	}
}

// major is the number a server's version begins with, 0 if with none.
func major(version string) int {
	end := 0
	for end < len(version) && '0' <= version[end] && version[end] <= '9' {
		end++
	}
	n, _ := strconv.Atoi(version[:end])
	return n
}

// ownerPool is a pool of the owner's role. Nothing is connected before it is used.
func ownerPool(ctx context.Context, o *Options, conns int) (*pgxpool.Pool, error) {
	c, err := poolConfig(o, o.DSN, conns)
	if err != nil {
		return nil, err
	}
	c.ConnConfig.ValidateConnect = pgconn.ValidateConnectTargetSessionAttrsPrimary
	c.ConnConfig.RuntimeParams["idle_in_transaction_session_timeout"] = millis(min(o.StatementTimeout, ownerIdleTime))
	c.AfterConnect = boundTransactions(o)
	// A statement whose caller has gone is cancelled on the server, and its answer
	// waited for: what was committing then has a known outcome. (The other pools' are
	// cancelled too, and give up the connection.)
	c.ConnConfig.BuildContextWatcherHandler = func(conn *pgconn.PgConn) ctxwatch.Handler {
		return &pgconn.CancelRequestContextWatcherHandler{Conn: conn, DeadlineDelay: cancelGrace}
	}
	return pgxpool.NewWithConfig(ctx, c)
}

// readerPool is a pool whose connections read as the read role, each for the tenant
// of the context it was acquired with.
func readerPool(ctx context.Context, o *Options, dsn string, conns int) (*pgxpool.Pool, error) {
	c, err := poolConfig(o, dsn, conns)
	if err != nil {
		return nil, err
	}
	p := c.ConnConfig.RuntimeParams
	p["role"] = o.ReadRole
	p["default_transaction_read_only"] = "on"
	if dsn == o.DSN { // several hosts may be named; the replica's is checked by who looks at it
		c.ConnConfig.ValidateConnect = pgconn.ValidateConnectTargetSessionAttrsPrimary
	}
	c.AfterConnect, c.PrepareConn = boundTransactions(o), setTenant
	return pgxpool.NewWithConfig(ctx, c)
}

// tenantOfConn is the key under which a connection remembers its tenant.
const tenantOfConn = "millrace.tenant"

// setTenant tells a connection the context's tenant, unless it has it already.
func setTenant(ctx context.Context, conn *pgx.Conn) (keep bool, err error) {
	tenantID := storesql.TenantOf(ctx)
	data := conn.PgConn().CustomData()
	if there, _ := data[tenantOfConn].(string); there == tenantID {
		return true, nil
	}
	// Whatever comes of it, it is not known what the connection has.
	delete(data, tenantOfConn)
	if _, err := conn.Exec(ctx, `SELECT set_config('`+tenantSetting+`', $1, false)`, tenantID); err != nil {
		if unavailable(err) && ctx.Err() == nil {
			return false, nil // the server ended it while nobody used it: another one will do
		}
		return false, fmt.Errorf("set the tenant of a connection: %w", err)
	}
	data[tenantOfConn] = tenantID
	return true, nil
}
