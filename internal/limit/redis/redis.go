// Package redis keeps the shared limits of package limit in Redis 6.2 or newer,
// alone, behind Sentinels or as a Cluster, or in what speaks its protocol.
//
// Pattern: each key of a limit is one hash: the level of its bucket or the counts of
// its windows, and for each instance the total that it was heard with. Lua scripts
// change it, so that each change is atomic and all time is the server's: clocks of
// instances do not matter. Keys carry one of 64 hash tags, so that one call to a
// script can take many keys and yet all of them are in one slot of a Cluster; the
// calls of one exchange go out in one pipeline. A key expires once it says nothing
// that a new one would not. Scripts are called by their hash, and sent again when
// the server has forgotten them.
//
// Concurrency: all methods may be called from any goroutine.
//
// Lifecycle: New connects to nothing, and so cannot fail because Redis is away. The
// first Beat or Exchange connects, and the next one tries again when it could not.
// Close closes the connections and waits for their goroutines.
package redis

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/redis/rueidis"
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
	// ClientName is shown by CLIENT LIST; "millrace" by default.
	ClientName string
	// Prefix begins all keys; "millrace" by default. Deployments that share a Redis
	// must differ in it. It must not hold a brace.
	Prefix string
	// DialTimeout bounds connecting and logging in; 1 s by default.
	DialTimeout time.Duration
}

// Sentinel names a master that Sentinels watch, and how to log in to them.
type Sentinel struct {
	Master, Username, Password string
	// TLS is how to speak TLS with the Sentinels.
	TLS *tls.Config
}

// unresponsive is after how long without an answer a connection is given up.
const unresponsive = time.Second

// Redis is a limit.Store, and can be examined.
type Redis struct {
	o   Options
	lua scripts

	connecting sync.Mutex // one at a time
	mu         sync.Mutex
	client     rueidis.Client // nil until connected
	closed     bool
}

// errClosed is what calls get after Close.
var errClosed = errors.New("the connection to Redis was closed")

// errNotConnected is what Take gets until another call has connected.
var errNotConnected = errors.New("there is no connection to Redis yet")

// New checks the options. It connects to nothing.
func New(o Options) (*Redis, error) {
	var faults []error
	if len(o.Addresses) == 0 {
		faults = append(faults, errors.New("redis: no address; give host:port of a server, such as redis-1:6379"))
	}
	for _, a := range o.Addresses {
		if host, port, err := net.SplitHostPort(a); err != nil || host == "" || port == "" {
			faults = append(faults, fmt.Errorf("redis: the address %q is not host:port; write one such as redis-1:6379", a))
		}
	}
	if o.DB < 0 || o.DB > 0 && len(o.Addresses) > 1 && o.Sentinel.Master == "" {
		faults = append(faults, fmt.Errorf("redis: database %d is not possible; a cluster has only 0, a single server 0 and up", o.DB))
	}
	if strings.ContainsAny(o.Prefix, "{}") {
		faults = append(faults, fmt.Errorf("redis: the prefix %q holds a brace, which would decide where in a cluster keys are; leave it out", o.Prefix))
	}
	if o.DialTimeout < 0 {
		faults = append(faults, fmt.Errorf("redis: a dial timeout of %s is not possible; give one above zero", o.DialTimeout))
	}
	if err := errors.Join(faults...); err != nil {
		return nil, err
	}
	if o.ClientName == "" {
		o.ClientName = "millrace"
	}
	if o.Prefix == "" {
		o.Prefix = "millrace"
	}
	if o.DialTimeout == 0 {
		o.DialTimeout = time.Second
	}
	return &Redis{o: o, lua: newScripts()}, nil
}

// connect returns the connected client.
func (r *Redis) connect(ctx context.Context) (rueidis.Client, error) {
	if c, err := r.connected(); c != nil || err != nil {
		return c, err
	}
	r.connecting.Lock()
	defer r.connecting.Unlock()
	if c, err := r.connected(); c != nil || err != nil {
		return c, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	c, err := rueidis.NewClient(r.clientOption())
	switch {
	case errors.Is(err, context.DeadlineExceeded) && r.o.TLS != nil:
		return nil, fmt.Errorf("redis at %s: it does not answer in TLS within %s; if it does not speak TLS there, switch TLS off or give its TLS port: %w", strings.Join(r.o.Addresses, ", "), r.o.DialTimeout, err)
	case err != nil:
		return nil, r.explain(err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		c.Close()
		return nil, errClosed
	}
	r.client = c
	return c, nil
}

// connected returns the client, nil if there is none yet.
func (r *Redis) connected() (rueidis.Client, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return nil, errClosed
	}
	return r.client, nil
}

func (r *Redis) clientOption() rueidis.ClientOption {
	o := rueidis.ClientOption{
		InitAddress: r.o.Addresses, Username: r.o.Username, Password: r.o.Password, TLSConfig: r.o.TLS,
		SelectDB: r.o.DB, ClientName: r.o.ClientName,
		Dialer:           net.Dialer{Timeout: r.o.DialTimeout, KeepAlive: unresponsive},
		ConnWriteTimeout: unresponsive,
		// Nothing is repeated behind our back: totals are sent anew, decisions not at all.
		DisableRetry: true, DisableCache: true,
		// A call whose deadline passes leaves the connection as it is.
		AlwaysPipelining: true, PipelineMultiplex: -1,
		ReadBufferEachConn: 64 << 10, WriteBufferEachConn: 64 << 10,
	}
	if s := r.o.Sentinel; s.Master != "" {
		o.Sentinel = rueidis.SentinelOption{MasterSet: s.Master, Username: s.Username, Password: s.Password, TLSConfig: s.TLS, ClientName: r.o.ClientName}
	}
	return o
}

// Ping connects if there is no connection, and returns what keeps the server from
// answering, if anything does.
func (r *Redis) Ping(ctx context.Context) error {
	c, err := r.connect(ctx)
	if err != nil {
		return err
	}
	return r.explain(c.Do(ctx, c.B().Ping().Build()).Error())
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
}

// explain says of an error what to do about it, where that is known.
func (r *Redis) explain(err error) error {
	if err == nil {
		return nil
	}
	where, text := strings.Join(r.o.Addresses, ", "), err.Error()
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
		advice = fmt.Sprintf("the user may not do that; allow it +@read +@write +@scripting +@connection +time +info +cluster, on ~%s:limit:*", r.o.Prefix)
	case says("certificate"):
		advice = "its certificate is not trusted; give the authority that signed it, and connect by a name that is in it"
	case says("DB index is out of range"):
		advice = fmt.Sprintf("it has no database %d; give one that it has, such as 0", r.o.DB)
	case says("OOM command not allowed"):
		advice = "its memory is full and its policy lets it remove nothing; raise maxmemory"
	case says("READONLY"):
		advice = "it is a read-only replica; give the address of the master, or of the Sentinels"
	case r.o.TLS == nil && (says("EOF", "connection reset")):
		advice = "it closed the connection; if it speaks TLS only, switch TLS on"
	default:
		return fmt.Errorf("redis at %s: %w", where, err)
	}
	return fmt.Errorf("redis at %s: %s: %w", where, advice, err)
}
