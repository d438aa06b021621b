package servers

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"github.com/jackc/pgx/v5"
)

// postgresUser is the server's superuser.
const postgresUser = "postgres"

// PostgresOptions say how a PostgreSQL server is started.
type PostgresOptions struct {
	Options
	// Tuned gives the server the memory and the write-ahead log that a benchmark
	// wants. It is as durable as without.
	Tuned bool
	// Settings are further settings of postgresql.conf, which win over all others.
	Settings map[string]string
}

// Postgres is a private PostgreSQL server with the superuser postgres, a random
// password and, at first, the empty database "millrace". Times are UTC, the
// encoding is UTF8, the order of text is binary.
type Postgres struct {
	*process
	o        PostgresOptions
	bin      string // folder of the programs
	data     string
	port     int
	password string

	mu       sync.Mutex // one change of state at a time
	replicas []*PostgresReplica
	stopped  bool
}

// StartPostgres starts a server. The newest version that is installed is taken.
func StartPostgres(ctx context.Context, o PostgresOptions) (*Postgres, error) {
	bin, err := findOrInstall(ctx, o.Options, "postgresql", findPostgres)
	if err != nil {
		return nil, err
	}
	h, err := newHome(o.Options, "postgres", "postgres")
	if err != nil {
		return nil, err
	}
	p := &Postgres{o: o, bin: bin, data: filepath.Join(h.dir, "data")}
	p.process = newProcess(h, p.spec())
	if err := p.begin(ctx); err != nil {
		return nil, errors.Join(err, p.Stop(context.WithoutCancel(ctx)))
	}
	return p, nil
}

// spec is how a server with this data is started; the port is in its settings.
func (p *Postgres) spec() spec {
	return spec{name: "postgres", path: filepath.Join(p.bin, "postgres"), args: []string{"-D", p.data}, signal: syscall.SIGINT}
}

// begin makes the data, starts the server for the first time and gives it its
// password and database.
func (p *Postgres) begin(ctx context.Context) (err error) {
	if p.port, err = p.home.reserve(p.o.Port); err != nil {
		return err
	}
	if p.password, err = p.home.secret("password"); err != nil {
		return err
	}
	if _, err := os.Stat(filepath.Join(p.data, "PG_VERSION")); err != nil {
		if err := p.initialize(ctx); err != nil {
			return err
		}
	}
	if err := p.configure(p.data, p.port); err != nil {
		return err
	}
	if err := p.start(); err != nil {
		return err
	}
	// The socket is in a directory that nobody else may enter, and asks for no
	// password: there is none yet.
	if err := p.await(ctx, func(ctx context.Context) error { return p.ping(ctx, p.socketDSN()) }); err != nil {
		return err
	}
	if err := p.execute(ctx, p.socketDSN(), "ALTER ROLE postgres PASSWORD '"+p.password+"'"); err != nil {
		return fmt.Errorf("set the password: %w", err)
	}
	if err := p.CreateDatabase(ctx, "millrace", ""); err != nil && !isDuplicateDatabase(err) {
		return err
	}
	return p.ready(ctx)
}

// ready waits until the server answers over TCP.
func (p *Postgres) ready(ctx context.Context) error {
	return p.await(ctx, func(ctx context.Context) error { return p.ping(ctx, p.DSN()) })
}

func (p *Postgres) ping(ctx context.Context, dsn string) error {
	return p.execute(ctx, dsn, "SELECT 1")
}

// execute runs one statement on a connection of its own.
func (p *Postgres) execute(ctx context.Context, dsn, statement string) error {
	c, err := pgx.Connect(ctx, dsn)
	if err != nil {
		return err
	}
	_, err = c.Exec(ctx, statement)
	return errors.Join(err, c.Close(ctx))
}

// Addr is where the server listens, host:port.
func (p *Postgres) Addr() string { return loopback(p.port) }

// Password is the superuser's password.
func (p *Postgres) Password() string { return p.password }

// DSN is the URL of the database "millrace", password included.
func (p *Postgres) DSN() string { return p.DSNFor("millrace") }

// DSNFor is the URL of a database, password included.
func (p *Postgres) DSNFor(database string) string { return p.DSNAt(p.Addr(), database) }

// DSNAt is the URL of a database at another address, as that of a Proxy in front
// of the server.
func (p *Postgres) DSNAt(addr, database string) string {
	return p.DSNAs(addr, database, postgresUser, p.password)
}

// DSNAs is the URL of a database for another user than the superuser.
func (p *Postgres) DSNAs(addr, database, user, password string) string {
	query := url.Values{"sslmode": {"disable"}}
	if c := p.o.TLS; c != nil {
		query = url.Values{"sslmode": {"verify-full"}, "sslrootcert": {c.CAFile}}
	}
	u := url.URL{Scheme: "postgres", User: url.UserPassword(user, password), Host: addr, Path: "/" + database, RawQuery: query.Encode()}
	return u.String()
}

// socketDSN is for this package alone.
func (p *Postgres) socketDSN() string {
	return fmt.Sprintf("host=%s port=%d user=%s dbname=postgres connect_timeout=5", p.home.dir, p.port, postgresUser)
}

// CreateDatabase creates a database, as a copy of template if that is not empty.
// Nobody may be connected to the template meanwhile.
func (p *Postgres) CreateDatabase(ctx context.Context, name, template string) error {
	statement := "CREATE DATABASE " + pgx.Identifier{name}.Sanitize()
	if template != "" {
		// Copying files costs less than logging every page of the template.
		statement += " TEMPLATE " + pgx.Identifier{template}.Sanitize()
		if p.version() >= 15 {
			statement += " STRATEGY FILE_COPY"
		}
	}
	if err := p.execute(ctx, p.DSNFor("postgres"), statement); err != nil {
		return fmt.Errorf("create database %s: %w", name, err)
	}
	return nil
}

// DropDatabase drops a database if it exists, whoever is connected to it.
func (p *Postgres) DropDatabase(ctx context.Context, name string) error {
	statement := "DROP DATABASE IF EXISTS " + pgx.Identifier{name}.Sanitize() + " WITH (FORCE)"
	if err := p.execute(ctx, p.DSNFor("postgres"), statement); err != nil {
		return fmt.Errorf("drop database %s: %w", name, err)
	}
	return nil
}

// CreateOwner creates a user that may log in and create roles, unless it exists,
// gives it the password and makes it the owner of a database: the rights that
// Millrace needs, and no more.
func (p *Postgres) CreateOwner(ctx context.Context, user, password, database string) error {
	c, err := pgx.Connect(ctx, p.DSNFor(database))
	if err != nil {
		return err
	}
	defer c.Close(ctx)
	name := pgx.Identifier{user}.Sanitize()
	var exists bool
	if err := c.QueryRow(ctx, "SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = $1)", user).Scan(&exists); err != nil {
		return err
	}
	verb := "CREATE"
	if exists {
		verb = "ALTER"
	}
	literal := "'" + strings.ReplaceAll(password, "'", "''") + "'"
	for _, statement := range []string{
		verb + " ROLE " + name + " LOGIN CREATEROLE PASSWORD " + literal,
		"ALTER DATABASE " + pgx.Identifier{database}.Sanitize() + " OWNER TO " + name,
	} {
		if _, err := c.Exec(ctx, statement); err != nil {
			return fmt.Errorf("make %s the owner of database %s: %w", user, database, err)
		}
	}
	return nil
}

// Kill ends the postmaster and all of its children with SIGKILL, so that a restart
// has to recover.
func (p *Postgres) Kill() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.kill()
}

// Restart starts the server on the same data and port and waits until it answers.
// One that runs is shut down in order first.
func (p *Postgres) Restart(ctx context.Context) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stopped {
		return errors.New("the PostgreSQL server was stopped; start a new one")
	}
	if err := p.terminate(ctx); err != nil {
		return err
	}
	if err := p.start(); err != nil {
		return err
	}
	return p.ready(ctx)
}

// Shutdown ends the server in order and keeps its data and port for Restart.
func (p *Postgres) Shutdown(ctx context.Context) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.terminate(ctx)
}

// Stop ends the server and its replicas and removes what is temporary. It may be
// called twice.
func (p *Postgres) Stop(ctx context.Context) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stopped {
		return nil
	}
	p.stopped = true
	var errs []error
	for _, r := range p.replicas {
		errs = append(errs, r.Stop(ctx))
	}
	return errors.Join(append(errs, p.end(ctx))...)
}

// end ends one server's processes and clears up after it.
func (p *Postgres) end(ctx context.Context) error {
	err := p.terminate(ctx)
	// After a kill the segment of shared memory is still there.
	if text, readErr := os.ReadFile(filepath.Join(p.data, "postmaster.pid")); readErr == nil {
		removeSharedMemory(sharedMemoryID(string(text)))
	}
	return errors.Join(err, p.home.close())
}

// sharedMemoryID reads the id from the text of postmaster.pid: the seventh line is
// "key id".
func sharedMemoryID(text string) int {
	lines := strings.Split(text, "\n")
	if len(lines) < 7 {
		return -1
	}
	fields := strings.Fields(lines[6])
	if len(fields) != 2 {
		return -1
	}
	id, err := strconv.Atoi(fields[1])
	if err != nil {
		return -1
	}
	return id
}

// findPostgres returns the folder of the newest version's programs.
func findPostgres() (string, bool) {
	folders, _ := filepath.Glob("/usr/lib/postgresql/*/bin") // the pattern is good
	slices.SortFunc(folders, func(a, b string) int { return versionOfFolder(b) - versionOfFolder(a) })
	for _, dir := range folders {
		if executable(filepath.Join(dir, "postgres")) && executable(filepath.Join(dir, "initdb")) {
			return dir, true
		}
	}
	path, ok := lookPath("postgres")
	if !ok {
		return "", false
	}
	path, err := filepath.EvalSymlinks(path)
	return filepath.Dir(path), err == nil && executable(filepath.Join(filepath.Dir(path), "initdb"))
}

func versionOfFolder(bin string) int {
	n, _ := strconv.Atoi(filepath.Base(filepath.Dir(bin))) // 0 sorts last
	return n
}

// version is the major version of the server's data.
func (p *Postgres) version() int {
	text, err := os.ReadFile(filepath.Join(p.data, "PG_VERSION"))
	if err != nil {
		return 0
	}
	n, _ := strconv.Atoi(strings.TrimSpace(string(text)))
	return n
}

// settings are those of postgresql.conf.
func (o PostgresOptions) settings() map[string]string {
	s := map[string]string{
		"max_connections":            "200",
		"shared_buffers":             "256MB",
		"max_wal_size":               "4GB",
		"checkpoint_timeout":         "15min",
		"wal_level":                  "replica",
		"max_wal_senders":            "10",
		"max_replication_slots":      "10",
		"hot_standby":                "on",
		"hot_standby_feedback":       "on",
		"fsync":                      "on",
		"synchronous_commit":         "on",
		"full_page_writes":           "on",
		"password_encryption":        "scram-sha-256",
		"timezone":                   "UTC",
		"log_timezone":               "UTC",
		"log_line_prefix":            "%m [%p] ",
		"logging_collector":          "off",
		"dynamic_shared_memory_type": "mmap", // in the data directory: nothing is left in /dev/shm
	}
	if o.Tuned {
		maps.Copy(s, map[string]string{
			"shared_buffers":  "1GB",
			"max_wal_size":    "16GB",
			"min_wal_size":    "2GB",
			"wal_buffers":     "64MB",
			"wal_compression": "on",
			// What COPY writes goes to the disk as it comes, and not in bursts that the syncs
			// of the logs wait behind.
			"backend_flush_after":          "512kB",
			"checkpoint_completion_target": "0.9",
			"random_page_cost":             "1.1",
			"effective_io_concurrency":     "200",
			"work_mem":                     "16MB",
			"maintenance_work_mem":         "256MB",
			"jit":                          "off",
		})
	}
	maps.Copy(s, o.Settings)
	return s
}
