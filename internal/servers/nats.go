package servers

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// natsUser is who may do everything.
const natsUser = "millrace"

// NATSOptions say how NATS servers are started. Dir is that of all nodes; Port is
// the first node's.
type NATSOptions struct {
	Options
	// Nodes is how many servers form the cluster: 1 (the default) or 3 and more.
	Nodes int
	// ClientCertificates makes the servers ask clients for a certificate of TLS's
	// authority.
	ClientCertificates bool
	// SyncInterval is JetStream's: "always" if empty, so that what was acknowledged
	// is on disk.
	SyncInterval string
}

// NATS is a private NATS server, or a cluster of them, with JetStream, the user
// millrace and a random password.
type NATS struct {
	o        NATSOptions
	password string
	home     *home // holds the secret; each node has its own besides
	nodes    []*NATSNode

	mu      sync.Mutex
	stopped bool
}

// NATSNode is one server of a NATS.
type NATSNode struct {
	*process
	nats    *NATS
	name    string
	port    int
	cluster int // port
	monitor int // port

	mu sync.Mutex // one change of state at a time
}

// StartNATS starts the nodes and waits until JetStream works.
func StartNATS(ctx context.Context, o NATSOptions) (*NATS, error) {
	o.Nodes = max(o.Nodes, 1)
	if o.Nodes == 2 {
		return nil, errors.New("a NATS cluster of two stops when one of them does: use 1 or 3 nodes")
	}
	if o.SyncInterval == "" {
		o.SyncInterval = "always"
	}
	binary, err := natsBinary(ctx)
	if err != nil {
		return nil, err
	}
	h, err := newHome(o.Options, "nats", "")
	if err != nil {
		return nil, err
	}
	n := &NATS{o: o, home: h}
	if err := n.begin(ctx, binary); err != nil {
		return nil, errors.Join(err, n.Stop(context.WithoutCancel(ctx)))
	}
	return n, nil
}

func (n *NATS) begin(ctx context.Context, binary string) (err error) {
	if n.password, err = n.home.secret("password"); err != nil {
		return err
	}
	for i := range n.o.Nodes {
		if err := n.addNode(i, binary); err != nil {
			return err
		}
	}
	for _, node := range n.nodes {
		if err := errors.Join(node.configure(), node.start()); err != nil {
			return err
		}
	}
	return n.Ready(ctx)
}

// addNode reserves what a node needs, so that all know all others' addresses
// before the first one starts.
func (n *NATS) addNode(i int, binary string) error {
	node := &NATSNode{nats: n, name: "n" + strconv.Itoa(i+1)}
	// A directory for each: processes are told apart by where they work.
	h, err := newHome(Options{Dir: filepath.Join(n.home.dir, node.name)}, "nats", "")
	if err != nil {
		return err
	}
	node.process = newProcess(h, spec{name: "nats", path: binary, args: []string{"-c", filepath.Join(h.dir, "nats.conf")}, signal: syscall.SIGTERM})
	n.nodes = append(n.nodes, node)
	want := 0
	if i == 0 {
		want = n.o.Port
	}
	var errs [3]error
	node.port, errs[0] = h.reserve(want)
	node.cluster, errs[1] = h.reserve(0)
	node.monitor, errs[2] = h.reserve(0)
	return errors.Join(errs[:]...)
}

// configure writes the node's configuration.
func (d *NATSNode) configure() error {
	n := d.nats
	var b strings.Builder
	// The largest body of a request, and what is noted about it, must fit into one
	// message.
	fmt.Fprintf(&b, "server_name: %s\nlisten: %q\nhttp: %q\nmax_payload: 8MB\n", d.name, loopback(d.port), loopback(d.monitor))
	fmt.Fprintf(&b, "authorization { user: %s, password: %q }\n", natsUser, n.password)
	fmt.Fprintf(&b, "jetstream { store_dir: %q, sync_interval: %s, max_memory_store: 256MB, max_file_store: 16GB }\n", filepath.Join(d.home.dir, "data"), n.o.SyncInterval)
	if c := n.o.TLS; c != nil {
		fmt.Fprintf(&b, "tls { cert_file: %q, key_file: %q, ca_file: %q, verify: %t }\n", c.CertFile, c.KeyFile, c.CAFile, n.o.ClientCertificates)
	}
	if len(n.nodes) > 1 {
		// Routes are on the loopback, with the same credentials.
		fmt.Fprintf(&b, "cluster {\n  name: millrace\n  listen: %q\n  authorization { user: %s, password: %q }\n  routes: [\n", loopback(d.cluster), natsUser, n.password)
		for _, other := range n.nodes {
			if other != d {
				fmt.Fprintf(&b, "    \"nats://%s:%s@%s\"\n", natsUser, n.password, loopback(other.cluster))
			}
		}
		b.WriteString("  ]\n}\n")
	}
	_, err := d.home.write("nats.conf", b.String())
	return err
}

// Nodes are the servers, in order.
func (n *NATS) Nodes() []*NATSNode { return n.nodes }

// User may do everything.
func (n *NATS) User() string { return natsUser }

// Password is the user's.
func (n *NATS) Password() string { return n.password }

// URL lists all nodes' addresses, separated by commas, without user and password.
func (n *NATS) URL() string {
	urls := make([]string, len(n.nodes))
	for i, d := range n.nodes {
		urls[i] = d.URL()
	}
	return strings.Join(urls, ",")
}

// Addr is where the node listens for clients, host:port.
func (d *NATSNode) Addr() string { return loopback(d.port) }

// Name is the node's name in the cluster.
func (d *NATSNode) Name() string { return d.name }

// MonitorURL is where the node tells its state over HTTP (/healthz, /jsz, ...).
func (d *NATSNode) MonitorURL() string { return "http://" + loopback(d.monitor) }

// URL is the node's URL, without user and password.
func (d *NATSNode) URL() string {
	if d.nats.o.TLS != nil {
		return "tls://" + d.Addr()
	}
	return "nats://" + d.Addr()
}

// Connect connects to the cluster as its user. The caller closes the connection.
func (n *NATS) Connect(options ...nats.Option) (*nats.Conn, error) {
	return n.connect(n.URL(), options...)
}

func (n *NATS) connect(url string, options ...nats.Option) (*nats.Conn, error) {
	all := []nats.Option{nats.UserInfo(natsUser, n.password), nats.Timeout(2 * time.Second)}
	if n.o.TLS != nil {
		config, err := n.o.TLS.ClientConfig()
		if err != nil {
			return nil, err
		}
		all = append(all, nats.Secure(config))
	}
	return nats.Connect(url, append(all, options...)...)
}

// Ready waits until each node that runs answers, knows JetStream's leader and is
// up to date with it.
func (n *NATS) Ready(ctx context.Context) error {
	for _, d := range n.nodes {
		if d.PID() == 0 {
			continue
		}
		if err := d.await(ctx, d.healthy); err != nil {
			return err
		}
	}
	return nil
}

// healthy asks the node over a client's connection and over its monitor.
func (d *NATSNode) healthy(ctx context.Context) error {
	c, err := d.nats.connect(d.URL(), nats.NoReconnect())
	if err != nil {
		return err
	}
	defer c.Close()
	js, err := jetstream.New(c)
	if err != nil {
		return err
	}
	if _, err := js.AccountInfo(ctx); err != nil {
		return fmt.Errorf("JetStream of %s: %w", d.name, err)
	}
	return getOK(ctx, d.MonitorURL()+"/healthz")
}

// Kill ends the node with SIGKILL.
func (d *NATSNode) Kill() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.kill()
}

// Shutdown ends the node in order and keeps its data and ports for Restart.
func (d *NATSNode) Shutdown(ctx context.Context) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.terminate(ctx)
}

// Restart starts the node on the same data and ports and waits until it answers and
// is up to date. It needs a majority of the cluster. One that runs is ended in
// order first.
func (d *NATSNode) Restart(ctx context.Context) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := errors.Join(d.terminate(ctx), d.start()); err != nil {
		return err
	}
	return d.await(ctx, d.healthy)
}

// Kill ends all nodes with SIGKILL.
func (n *NATS) Kill() error {
	var errs []error
	for _, d := range n.nodes {
		errs = append(errs, d.Kill())
	}
	return errors.Join(errs...)
}

// Pause stops all nodes with SIGSTOP.
func (n *NATS) Pause() error { return n.each((*NATSNode).Pause) }

// Resume lets all nodes go on with SIGCONT.
func (n *NATS) Resume() error { return n.each((*NATSNode).Resume) }

func (n *NATS) each(f func(*NATSNode) error) error {
	var errs []error
	for _, d := range n.nodes {
		errs = append(errs, f(d))
	}
	return errors.Join(errs...)
}

// Restart starts all nodes on the same data and ports and waits until JetStream
// works. Those that run are ended in order first.
func (n *NATS) Restart(ctx context.Context) error { return n.restart(ctx, false) }

// RestartEmpty does as Restart and removes all data: streams, consumers, messages.
func (n *NATS) RestartEmpty(ctx context.Context) error { return n.restart(ctx, true) }

func (n *NATS) restart(ctx context.Context, empty bool) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.stopped {
		return errors.New("the NATS servers were stopped; start new ones")
	}
	if err := n.each(func(d *NATSNode) error { return d.terminate(ctx) }); err != nil {
		return err
	}
	err := n.each(func(d *NATSNode) error {
		if empty {
			if err := os.RemoveAll(filepath.Join(d.home.dir, "data")); err != nil {
				return err
			}
		}
		return d.start()
	})
	if err != nil {
		return err
	}
	return n.Ready(ctx)
}

// Log returns the end of what each node printed.
func (n *NATS) Log() string {
	var b strings.Builder
	for _, d := range n.nodes {
		fmt.Fprintf(&b, "--- %s\n%s\n", d.name, d.Log())
	}
	return b.String()
}

// Stop ends all nodes and removes what is temporary. It may be called twice.
func (n *NATS) Stop(ctx context.Context) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.stopped {
		return nil
	}
	n.stopped = true
	var wg sync.WaitGroup
	errs := make([]error, len(n.nodes))
	for i, d := range n.nodes {
		wg.Go(func() { errs[i] = errors.Join(d.terminate(ctx), d.home.close()) })
	}
	wg.Wait()
	return errors.Join(errors.Join(errs...), n.home.close())
}
