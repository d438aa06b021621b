package servers

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"sync"
	"syscall"
)

// RedisOptions say how a Redis server is started.
type RedisOptions struct {
	Options
	// Durable keeps the data through a Kill (append-only file, synced always).
	// Without it a restarted server is empty.
	Durable bool
	// Cluster runs the server in cluster mode, as the only node, with all slots.
	Cluster bool
}

// Redis is a private Redis server with a random password for the default user.
type Redis struct {
	*process
	o        RedisOptions
	port     int
	password string

	mu      sync.Mutex // one change of state at a time
	stopped bool
}

// StartRedis starts a server.
func StartRedis(ctx context.Context, o RedisOptions) (*Redis, error) {
	path, err := findOrInstall(ctx, o.Options, "redis", func() (string, bool) { return lookPath("redis-server") })
	if err != nil {
		return nil, err
	}
	h, err := newHome(o.Options, "redis", "")
	if err != nil {
		return nil, err
	}
	r := &Redis{o: o}
	r.process = newProcess(h, spec{name: "redis", path: path, args: []string{h.dir + "/redis.conf"}, signal: syscall.SIGTERM})
	if err := r.begin(ctx); err != nil {
		return nil, errors.Join(err, r.Stop(context.WithoutCancel(ctx)))
	}
	return r, nil
}

func (r *Redis) begin(ctx context.Context) (err error) {
	if r.port, err = r.home.reserve(r.o.Port); err != nil {
		return err
	}
	if r.password, err = r.home.secret("password"); err != nil {
		return err
	}
	lines := []string{
		"bind 127.0.0.1", "dir " + strconv.Quote(r.home.dir), "daemonize no", "save \"\"", "databases 1",
		"requirepass " + r.password, "masterauth " + r.password,
	}
	if c := r.o.TLS; c != nil {
		lines = append(lines, "port 0", fmt.Sprintf("tls-port %d", r.port), "tls-auth-clients optional", "tls-replication yes", "tls-cluster yes",
			"tls-cert-file "+strconv.Quote(c.CertFile), "tls-key-file "+strconv.Quote(c.KeyFile), "tls-ca-cert-file "+strconv.Quote(c.CAFile))
	} else {
		lines = append(lines, fmt.Sprintf("port %d", r.port))
	}
	if r.o.Durable {
		lines = append(lines, "appendonly yes", "appendfsync always")
	}
	if r.o.Cluster {
		bus, err := r.home.reserve(0)
		if err != nil {
			return err
		}
		lines = append(lines, "cluster-enabled yes", fmt.Sprintf("cluster-port %d", bus), "cluster-announce-ip 127.0.0.1")
	}
	if _, err := r.home.write("redis.conf", strings.Join(lines, "\n")+"\n"); err != nil {
		return err
	}
	if err := r.start(); err != nil {
		return err
	}
	return r.ready(ctx)
}

// ready waits until the server answers, and in cluster mode has all slots.
func (r *Redis) ready(ctx context.Context) error {
	assigned := !r.o.Cluster
	return r.await(ctx, func(ctx context.Context) error {
		if _, err := r.Do(ctx, "PING"); err != nil || !r.o.Cluster {
			return err
		}
		if !assigned {
			if _, err := r.Do(ctx, "CLUSTER", "ADDSLOTSRANGE", "0", "16383"); err != nil && !strings.Contains(err.Error(), "already busy") {
				return err
			}
			assigned = true
		}
		// Answered with MOVED or CLUSTERDOWN while the cluster is not whole.
		_, err := r.Do(ctx, "EXISTS", "ready")
		return err
	})
}

// Addr is where the server listens, host:port.
func (r *Redis) Addr() string { return loopback(r.port) }

// Password is that of the default user.
func (r *Redis) Password() string { return r.password }

// Do runs one command on a connection of its own and returns the first line of the
// answer, without its type.
func (r *Redis) Do(ctx context.Context, args ...string) (string, error) {
	c, err := r.dial(ctx)
	if err != nil {
		return "", err
	}
	defer c.Close()
	if deadline, ok := ctx.Deadline(); ok {
		if err := c.SetDeadline(deadline); err != nil {
			return "", err
		}
	}
	in := bufio.NewReader(c)
	if _, err := redisCommand(c, in, "AUTH", r.password); err != nil {
		return "", fmt.Errorf("redis AUTH: %w", err)
	}
	answer, err := redisCommand(c, in, args...)
	if err != nil {
		return "", fmt.Errorf("redis %s: %w", args[0], err)
	}
	return answer, nil
}

func (r *Redis) dial(ctx context.Context) (net.Conn, error) {
	if r.o.TLS == nil {
		return (&net.Dialer{}).DialContext(ctx, "tcp", r.Addr())
	}
	config, err := r.o.TLS.ClientConfig()
	if err != nil {
		return nil, err
	}
	return (&tls.Dialer{Config: config}).DialContext(ctx, "tcp", r.Addr())
}

// redisCommand sends a command and reads the first line of its answer.
func redisCommand(c net.Conn, in *bufio.Reader, args ...string) (string, error) {
	var text strings.Builder
	fmt.Fprintf(&text, "*%d\r\n", len(args))
	for _, a := range args {
		fmt.Fprintf(&text, "$%d\r\n%s\r\n", len(a), a)
	}
	if _, err := c.Write([]byte(text.String())); err != nil {
		return "", err
	}
	line, err := in.ReadString('\n')
	if err != nil {
		return "", err
	}
	line = strings.TrimRight(line, "\r\n")
	if line == "" {
		return "", errors.New("an empty line in place of an answer")
	}
	switch kind, rest := line[0], line[1:]; kind {
	case '-':
		return "", errors.New(rest)
	case '$': // the text is on the next line
		if rest == "-1" {
			return "", nil
		}
		line, err := in.ReadString('\n')
		return strings.TrimRight(line, "\r\n"), err
	default:
		return rest, nil
	}
}

// Flush removes all data.
func (r *Redis) Flush(ctx context.Context) error {
	_, err := r.Do(ctx, "FLUSHALL", "SYNC")
	return err
}

// Kill ends the server with SIGKILL.
func (r *Redis) Kill() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.kill()
}

// Shutdown ends the server in order and keeps its directory and port for Restart.
func (r *Redis) Shutdown(ctx context.Context) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.terminate(ctx)
}

// Restart starts the server on the same port and waits until it answers. One that
// runs is ended first. Only a Durable one has its data still.
func (r *Redis) Restart(ctx context.Context) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.stopped {
		return errors.New("the Redis server was stopped; start a new one")
	}
	if err := r.terminate(ctx); err != nil {
		return err
	}
	if err := r.start(); err != nil {
		return err
	}
	return r.ready(ctx)
}

// Stop ends the server and removes what is temporary. It may be called twice.
func (r *Redis) Stop(ctx context.Context) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.stopped {
		return nil
	}
	r.stopped = true
	return errors.Join(r.terminate(ctx), r.home.close())
}
