// Package redis keeps the second level of package cache in Redis 6.2 or newer, alone,
// behind Sentinels or as a Cluster, or in what speaks its protocol.
//
// Pattern: an entry is one hash with the value, its version, the counter of tags from
// before its load, and the lease of who loads it now, so that a Lua script changes all
// of it at once and all of it is in one slot of a Cluster. All time is the server's.
// A tag is a key with the counter's value at its last invalidation; an entry is
// believed if its own is not less than those of its tags. The counter, and its value
// below which nothing is believed (the epoch), are in one more hash per cache.
//
// Memory: besides the entries, each tag that was invalidated takes about 179 bytes (as
// measured, with names of 32) for TTL + StaleFor + HardTimeout + 5 s, and each key that
// was about 232 bytes for HardTimeout + 5 s. At 1,000 tags a second and cache's
// defaults that is 66 MB.
//
// A server that was restarted, or replaced by its replica, may hold what was
// invalidated since. So nothing is read over a new connection before Check has seen
// that the same servers answer as before, and raised the epoch if not. What Redis
// acknowledges and loses while its connections stay, in a partitioned cluster for
// instance, and tags that it evicts, are healed by the entries' TTL; a policy of
// maxmemory that evicts is otherwise safe.
//
// Concurrency: all methods may be called from any goroutine.
//
// Lifecycle: New connects to nothing, and so cannot fail because Redis is away. Check
// connects, in the background beyond its deadline; other calls fail until it has.
// Close closes the connections and waits for their goroutines.
package redis

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/rueidis"

	"millrace/internal/cache"
)

// Options say where Redis is and how to talk to it.
type Options struct {
	// Addresses are host:port. One is a server of its own or any node of a cluster;
	// several are nodes of one cluster, or the Sentinels if Sentinel is set. Required.
	Addresses []string
	// Username and Password are what to log in with; both may be empty, and an empty
	// Username is the default user.
	Username, Password string
	// TLS is how to speak TLS; nil is plain text.
	TLS *tls.Config
	// DB is the number of the database. A cluster has only 0.
	DB int
	// Sentinel, if Master is set, finds the server by asking Addresses for it.
	Sentinel Sentinel
	// Prefix begins all keys; "millrace:cache:" by default. Deployments that share a
	// Redis must differ in it. It must not hold a brace.
	Prefix string
	// DialTimeout bounds connecting and logging in; 1 s by default.
	DialTimeout time.Duration
	// Logger gets what an operator wants to know; nil discards it.
	Logger *slog.Logger
}

// Sentinel names a master that Sentinels watch, and how to log in to them.
type Sentinel struct {
	Master, Username, Password string
	// TLS is how to speak TLS with the Sentinels.
	TLS *tls.Config
}

// unresponsive is after how long without an answer a connection is given up.
const unresponsive = time.Second

// Redis is a cache.Remote.
type Redis struct {
	o   Options
	lua scripts
	// began is what this side's clock counts from.
	began time.Time
	// dials counts the connections that were begun: an answer of a server that was
	// not there before comes after one.
	dials atomic.Int64

	connecting sync.WaitGroup
	mu         sync.Mutex // guards what follows
	client     rueidis.Client
	attempt    *attempt // under way
	closed     bool
	spaces     map[string]*space
}

// attempt is one of connecting.
type attempt struct {
	done   chan struct{}
	client rueidis.Client
	err    error
}

// space is what is known of one cache.
type space struct {
	keys, tags, meta string // beginnings of keys, and a key

	epoch    atomic.Int64 // as last read
	verified atomic.Int64 // the number of dials that Check has looked at, or -1
	ahead    atomic.Int64 // milliseconds by which the server's clock is ahead of ours

	unreadable atomic.Int64 // keys that were deleted

	checking sync.Mutex
	servers  atomic.Pointer[string] // that Check saw
}

var _ cache.Remote = (*Redis)(nil)

var (
	errClosed       = errors.New("the connection to Redis was closed")
	errNotConnected = errors.New("there is no connection to Redis yet")
	errUnverified   = errors.New("the connection to Redis is new; what is there is read once it is known that nothing was lost")
	errForeign      = errors.New("the script's answer is not its own; is something else answering in Redis's place?")
)

// New checks the options. It connects to nothing.
func New(o Options) (*Redis, error) {
	var faults []error
	fault := func(format string, args ...any) { faults = append(faults, fmt.Errorf("redis: "+format, args...)) }
	if len(o.Addresses) == 0 {
		fault("no address; give host:port of a server, such as redis-1:6379")
	}
	for _, a := range o.Addresses {
		if host, port, err := net.SplitHostPort(a); err != nil || host == "" || port == "" {
			fault("the address %q is not host:port; write one such as redis-1:6379", a)
		}
	}
	if o.DB < 0 || o.DB > 0 && len(o.Addresses) > 1 && o.Sentinel.Master == "" {
		fault("database %d is not possible; a cluster has only 0, a single server 0 and up", o.DB)
	}
	if strings.ContainsAny(o.Prefix, "{}") {
		fault("the prefix %q holds a brace, which would decide where in a cluster keys are; leave it out", o.Prefix)
	}
	if o.DialTimeout < 0 {
		fault("a dial timeout of %s is not possible; give one above zero", o.DialTimeout)
	}
	if err := errors.Join(faults...); err != nil {
		return nil, err
	}
	if o.Prefix == "" {
		o.Prefix = "millrace:cache:"
	}
	if o.DialTimeout == 0 {
		o.DialTimeout = time.Second
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return &Redis{o: o, lua: newScripts(), began: time.Now(), spaces: make(map[string]*space)}, nil
}

// connect returns the connected client. Connecting goes on when ctx ends.
func (r *Redis) connect(ctx context.Context) (rueidis.Client, error) {
	r.mu.Lock()
	if r.closed || r.client != nil {
		defer r.mu.Unlock()
		return r.client, r.refusal()
	}
	a := r.attempt
	if a == nil {
		a = &attempt{done: make(chan struct{})}
		r.attempt = a
		r.connecting.Go(func() { r.dial(a) })
	}
	r.mu.Unlock()
	select {
	case <-a.done:
		return a.client, a.err
	case <-ctx.Done():
		return nil, fmt.Errorf("redis at %s: it is being connected to: %w", r.where(), ctx.Err())
	}
}

// dial makes one attempt.
func (r *Redis) dial(a *attempt) {
	c, err := rueidis.NewClient(r.clientOption())
	r.mu.Lock()
	defer r.mu.Unlock()
	defer close(a.done)
	r.attempt = nil
	switch {
	case errors.Is(err, context.DeadlineExceeded) && r.o.TLS != nil:
		a.err = fmt.Errorf("redis at %s: it does not answer in TLS within %s; if it does not speak TLS there, switch TLS off or give its TLS port: %w", r.where(), r.o.DialTimeout, err)
	case err != nil:
		a.err = r.explain(err)
	case r.closed:
		c.Close()
		a.err = errClosed
	default:
		r.client, a.client = c, c
	}
}

// refusal is why there is no client. r is locked.
func (r *Redis) refusal() error {
	switch {
	case r.closed:
		return errClosed
	case r.client == nil:
		return errNotConnected
	default:
		return nil
	}
}

// connected returns the client, if there is one.
func (r *Redis) connected() (rueidis.Client, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.client, r.refusal()
}

func (r *Redis) space(name string) *space {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.spaces[name]
	if s == nil {
		begin := r.o.Prefix + name
		s = &space{keys: begin + ":e:", tags: begin + ":t:", meta: begin + ":m"}
		s.verified.Store(-1)
		r.spaces[name] = s
	}
	return s
}

func (r *Redis) clientOption() rueidis.ClientOption {
	o := rueidis.ClientOption{
		InitAddress: r.o.Addresses, Username: r.o.Username, Password: r.o.Password, TLSConfig: r.o.TLS,
		SelectDB: r.o.DB, ClientName: "millrace-cache",
		Dialer:           net.Dialer{Timeout: r.o.DialTimeout, KeepAlive: unresponsive},
		DialCtxFn:        r.dialServer,
		ConnWriteTimeout: unresponsive,
		// Nothing is repeated behind our back, and RAM is package cache's.
		DisableRetry: true, DisableCache: true,
		// A call whose deadline passes leaves the connection as it is.
		AlwaysPipelining: true, PipelineMultiplex: -1,
		ReadBufferEachConn: 64 << 10, WriteBufferEachConn: 64 << 10,
	}
	if s := r.o.Sentinel; s.Master != "" {
		o.Sentinel = rueidis.SentinelOption{MasterSet: s.Master, Username: s.Username, Password: s.Password, TLSConfig: s.TLS, ClientName: o.ClientName}
	}
	return o
}

// dialServer begins a connection, and counts it before anything can come over it.
func (r *Redis) dialServer(ctx context.Context, addr string, d *net.Dialer, t *tls.Config) (net.Conn, error) {
	r.dials.Add(1)
	if t != nil {
		return (&tls.Dialer{NetDialer: d, Config: t}).DialContext(ctx, "tcp", addr)
	}
	return d.DialContext(ctx, "tcp", addr)
}

// Close closes the connections. It may be called twice.
func (r *Redis) Close() {
	r.mu.Lock()
	c := r.client
	r.client, r.closed = nil, true
	r.mu.Unlock()
	if c != nil {
		c.Close()
	}
	r.connecting.Wait()
}

func (r *Redis) where() string { return strings.Join(r.o.Addresses, ", ") }

// explain says of an error what to do about it, where that is known.
func (r *Redis) explain(err error) error {
	if err == nil {
		return nil
	}
	text := err.Error()
	says := func(words ...string) bool {
		for _, w := range words {
			if strings.Contains(text, w) {
				return true
			}
		}
		return false
	}
	advice := ""
	switch {
	case says("WRONGPASS", "invalid password", "without any password configured"):
		advice = "it refuses the user or the password; set those that the server knows"
	case says("NOAUTH"):
		advice = "it wants a password; set the user and the password"
	case says("NOPERM"):
		advice = fmt.Sprintf("the user may not do that; allow it +@read +@write +@scripting +@connection +time +info +cluster, on ~%s*", r.o.Prefix)
	case says("certificate"):
		advice = "its certificate is not trusted; give the authority that signed it, and connect by a name that is in it"
	case says("DB index is out of range"):
		advice = fmt.Sprintf("it has no database %d; give one that it has, such as 0", r.o.DB)
	case says("OOM command not allowed"):
		advice = "its memory is full and its policy lets it remove nothing; raise maxmemory, or set maxmemory-policy to one that evicts"
	case says("READONLY"):
		advice = "it is a read-only replica; give the address of the master, or of the Sentinels"
	case r.o.TLS == nil && says("EOF", "connection reset"):
		advice = "it closed the connection; if it speaks TLS only, switch TLS on"
	default:
		return fmt.Errorf("redis at %s: %w", r.where(), err)
	}
	return fmt.Errorf("redis at %s: %s: %w", r.where(), advice, err)
}
