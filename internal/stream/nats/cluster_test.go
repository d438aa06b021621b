package nats_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	natsgo "github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"millrace/internal/stream/nats"
)

// nodeVariable makes the test binary a server: a process of its own is what can
// be killed.
const nodeVariable = "MILLRACE_TEST_STREAM_NODE"

type nodeConfig struct {
	Name       string
	Dir        string
	Client     int
	Cluster    int // 0 for a server that is alone
	Routes     []string
	MaxPayload int32
	User       string
	Password   string
}

func TestMain(m *testing.M) {
	if text, ok := os.LookupEnv(nodeVariable); ok {
		if err := serveNode(text); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// serveNode runs a server until standard input ends, so that it does not outlive
// the test.
func serveNode(text string) error {
	var c nodeConfig
	if err := json.Unmarshal([]byte(text), &c); err != nil {
		return err
	}
	o := &server.Options{
		ServerName: c.Name, Host: "127.0.0.1", Port: c.Client, NoSigs: true, JetStream: true, StoreDir: c.Dir,
		JetStreamMaxStore: 8 << 30, JetStreamMaxMemory: 64 << 20, MaxPayload: c.MaxPayload, SyncAlways: true,
		Username: c.User, Password: c.Password,
	}
	if c.Cluster != 0 {
		o.Cluster = server.ClusterOpts{Name: "test", Host: "127.0.0.1", Port: c.Cluster, Username: c.User, Password: c.Password}
		for _, r := range c.Routes {
			u, err := url.Parse(r)
			if err != nil {
				return err
			}
			o.Routes = append(o.Routes, u)
		}
	}
	s, err := server.NewServer(o)
	if err != nil {
		return err
	}
	s.Start()
	if !s.ReadyForConnections(30 * time.Second) {
		return fmt.Errorf("the server %s did not become ready", c.Name)
	}
	fmt.Println("ready")
	_, err = io.Copy(io.Discard, os.Stdin)
	s.Shutdown()
	return err
}

// node is a server as a process.
type node struct {
	config  nodeConfig
	process *exec.Cmd
	stdin   io.WriteCloser
}

func (n *node) start(t testing.TB) {
	t.Helper()
	text, err := json.Marshal(n.config)
	if err != nil {
		t.Fatal(err)
	}
	n.process = exec.Command(os.Args[0])
	n.process.Env = append(os.Environ(), nodeVariable+"="+string(text))
	n.process.Stderr = os.Stderr
	if n.stdin, err = n.process.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := n.process.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := n.process.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "ready\n" {
		t.Fatalf("the server says %q, error %v", line, err)
	}
}

// kill is kill -9.
func (n *node) kill(t testing.TB) {
	t.Helper()
	if err := n.process.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = n.process.Wait() // killed
	_ = n.stdin.Close()
}

func (n *node) signal(t testing.TB, s syscall.Signal) {
	t.Helper()
	if err := n.process.Process.Signal(s); err != nil {
		t.Fatal(err)
	}
}

// cluster is servers of one JetStream cluster.
type cluster struct {
	nodes []*node
	url   string
}

// startCluster starts n servers; one is alone and no cluster.
func startCluster(t testing.TB, n int, maxPayload int32) *cluster {
	t.Helper()
	c := &cluster{}
	var ports []int
	var listeners []net.Listener
	for range 2 * n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		listeners = append(listeners, l)
		ports = append(ports, l.Addr().(*net.TCPAddr).Port)
	}
	for _, l := range listeners {
		_ = l.Close()
	}
	var urls, routes []string
	for i := range n {
		routes = append(routes, fmt.Sprintf("nats://u:p@127.0.0.1:%d", ports[n+i]))
		urls = append(urls, fmt.Sprintf("nats://127.0.0.1:%d", ports[i]))
	}
	c.url = strings.Join(urls, ",")
	dir := t.TempDir()
	for i := range n {
		node := &node{config: nodeConfig{Name: fmt.Sprint("n", i), Dir: filepath.Join(dir, fmt.Sprint("n", i)), Client: ports[i],
			Routes: routes, MaxPayload: maxPayload, User: "u", Password: "p"}}
		if n > 1 {
			node.config.Cluster = ports[n+i]
		}
		c.nodes = append(c.nodes, node)
		node.start(t)
		t.Cleanup(func() {
			if node.process.ProcessState == nil {
				node.kill(t)
			}
		})
	}
	return c
}

func (c *cluster) options(t testing.TB) nats.Options {
	replicas := len(c.nodes)
	return nats.Options{URL: c.url, User: "u", Password: "p", Stream: "T-" + strings.Map(letters, t.Name()), Replicas: replicas,
		MaxBytes: 256 << 20, AttemptTimeout: 2 * time.Second}
}

// letters leaves what a stream's name may have.
func letters(r rune) rune {
	if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' {
		return r
	}
	return -1
}

func (c *cluster) open(t testing.TB, o nats.Options) *nats.Broker {
	t.Helper()
	if len(o.Stream) > 60 {
		o.Stream = o.Stream[:30] + o.Stream[len(o.Stream)-30:]
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	b, err := nats.Open(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close() })
	return b
}

// jetStream is a client of the test's own.
func (c *cluster) jetStream(t testing.TB) jetstream.JetStream {
	t.Helper()
	nc, err := natsgo.Connect(c.url, natsgo.UserInfo("u", "p"), natsgo.MaxReconnects(-1), natsgo.ReconnectWait(100*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	return js
}

// leader returns the node that leads a partition.
func (c *cluster) leader(t testing.TB, js jetstream.JetStream, streamName string) *node {
	t.Helper()
	s, err := js.Stream(t.Context(), streamName)
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range c.nodes {
		if n.config.Name == s.CachedInfo().Cluster.Leader {
			return n
		}
	}
	t.Fatalf("the leader of %s is %q", streamName, s.CachedInfo().Cluster.Leader)
	return nil
}
