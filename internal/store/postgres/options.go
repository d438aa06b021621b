package postgres

import (
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"
)

// Options say where the database is and how it is used. DSN and Instance are
// required.
type Options struct {
	// DSN is a connection string or URL, as libpq takes it. Its user owns the tables.
	DSN string
	// ReplicaDSN is a streaming replica that answers lists of orders, the catalogue and
	// queries of events while it is at most ReplicaMaxLag behind; empty if there is
	// none.
	ReplicaDSN    string
	ReplicaMaxLag time.Duration // 5 s if zero, at least 2 s: its age is told by a heartbeat each second
	// TLS replaces what the connection strings say of it. Nil leaves it to them. Its
	// ServerName is set to the host if it is empty.
	TLS *tls.Config
	// Instance is this process's name: unique among those that run, and best the same
	// after a restart.
	Instance string
	// Details are told of this instance in the table instances, a JSON object; "{}"
	// if empty.
	Details string
	// ReadRole is the role that reads for tenants, whom row-level security keeps
	// apart; "millrace_reader" if empty.
	ReadRole string
	// MaxConns bounds the connections to the primary of all pools together; 40 if
	// zero. The replica has as many as reads have.
	MaxConns int
	// StatementTimeout bounds each statement; 30 s if zero. Migrations are exempt.
	StatementTimeout time.Duration
	// LockTimeout bounds how long a statement waits for a lock; a third of
	// StatementTimeout if zero.
	LockTimeout time.Duration
	// ConnectTimeout bounds one try to connect; 5 s if zero.
	ConnectTimeout time.Duration
	// PartitionsAhead is how many days' partitions of events exist before their day;
	// 3 if zero.
	PartitionsAhead int
	// Migrate brings an older schema to the newest at opening; without it an older
	// schema is an error that says to run `millrace migrate up`.
	Migrate bool
	Logger  *slog.Logger // discard if nil
	Metrics *Metrics     // unregistered if nil
}

// What zero options stand for, and what is not asked of the user.
const (
	defaultReadRole         = "millrace_reader"
	defaultMaxConns         = 40
	minConns                = 6 // so that each pool has some
	defaultStatementTimeout = 30 * time.Second
	defaultConnectTimeout   = 5 * time.Second
	defaultReplicaMaxLag    = 5 * time.Second
	defaultPartitionsAhead  = 3
	// maxNameBytes is how long PostgreSQL lets the name of a role or application be.
	maxNameBytes = 63
)

func (o Options) withDefaults() (Options, error) {
	o, err := o.withConnectionDefaults()
	if err != nil {
		return o, err
	}
	if o.Instance == "" {
		return o, errors.New("postgres: Instance is empty; give every process a name of its own")
	}
	if strings.ContainsRune(o.Instance, 0) || len(o.Instance) > 200 {
		return o, fmt.Errorf("postgres: Instance is %d bytes long or has a NUL; give a name of at most 200 bytes", len(o.Instance))
	}
	return o, nil
}

// withConnectionDefaults is for what connects without being an instance.
func (o Options) withConnectionDefaults() (Options, error) {
	if o.DSN == "" {
		return o, errors.New("postgres: DSN is empty; give the connection string of the database")
	}
	setDefault(&o.ReadRole, defaultReadRole)
	setDefault(&o.Details, "{}")
	setDefault(&o.MaxConns, defaultMaxConns)
	setDefault(&o.StatementTimeout, defaultStatementTimeout)
	setDefault(&o.LockTimeout, o.StatementTimeout/3)
	setDefault(&o.ConnectTimeout, defaultConnectTimeout)
	setDefault(&o.ReplicaMaxLag, defaultReplicaMaxLag)
	setDefault(&o.PartitionsAhead, defaultPartitionsAhead)
	for _, c := range []struct {
		name  string
		found time.Duration
		least time.Duration
	}{
		{"StatementTimeout", o.StatementTimeout, 100 * time.Millisecond},
		{"LockTimeout", o.LockTimeout, time.Millisecond},
		{"ConnectTimeout", o.ConnectTimeout, 100 * time.Millisecond},
		{"ReplicaMaxLag", o.ReplicaMaxLag, 2 * beatEvery},
	} {
		if c.found < c.least {
			return o, fmt.Errorf("postgres: %s is %s; give at least %s", c.name, c.found, c.least)
		}
	}
	switch {
	case o.MaxConns < minConns:
		return o, fmt.Errorf("postgres: MaxConns is %d; give at least %d", o.MaxConns, minConns)
	case o.PartitionsAhead < 1:
		return o, fmt.Errorf("postgres: PartitionsAhead is %d; give at least 1", o.PartitionsAhead)
	case len(o.ReadRole) > maxNameBytes || strings.ContainsRune(o.ReadRole, 0):
		return o, fmt.Errorf("postgres: ReadRole is %d bytes long or has a NUL; give a name of at most %d bytes", len(o.ReadRole), maxNameBytes)
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Metrics == nil {
		o.Metrics = NewMetrics(nil)
	}
	return o, nil
}

func setDefault[T comparable](v *T, otherwise T) {
	var zero T
	if *v == zero {
		*v = otherwise
	}
}
