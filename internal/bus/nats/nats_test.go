package nats_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"millrace/internal/bus"
	"millrace/internal/bus/bustest"
	"millrace/internal/bus/nats"
)

// serverVariable makes the test binary a broker that can be killed.
const serverVariable = "MILLRACE_TEST_BROKER"

func TestMain(m *testing.M) {
	if args, ok := os.LookupEnv(serverVariable); ok {
		if err := serve(args); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// serve runs a broker until standard input ends, so that it does not outlive the
// test. Its argument is the address and the directory.
func serve(args string) error {
	addr, dir, _ := strings.Cut(args, " ")
	s, err := nats.StartServer(nats.ServerOptions{Listen: addr, StoreDir: dir})
	if err != nil {
		return err
	}
	defer s.Close()
	fmt.Println(s.URL())
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

func open(t testing.TB, o nats.Options) *nats.Bus {
	t.Helper()
	o.ReconnectWait = 50 * time.Millisecond
	b, err := nats.New(o)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// external is a broker in a process of its own, reached by URL.
type external struct {
	addr, url, dir string
	process        *exec.Cmd
	stdin          io.Closer
}

func newExternal(t testing.TB) *external {
	e := &external{addr: "127.0.0.1:0", dir: t.TempDir()}
	e.Start(t, false)
	e.addr = strings.TrimPrefix(e.url, "nats://")
	t.Cleanup(func() { e.Stop(t) })
	return e
}

func (e *external) Open(t testing.TB) bus.Bus { return open(t, nats.Options{URL: e.url}) }

func (e *external) Stop(t testing.TB) {
	t.Helper()
	if e.process == nil {
		return
	}
	_ = e.process.Process.Kill() // it may have ended
	_ = e.process.Wait()         // says that it was killed
	_ = e.stdin.Close()
	e.process = nil
}

func (e *external) Start(t testing.TB, empty bool) {
	t.Helper()
	if empty {
		if err := os.RemoveAll(e.dir); err != nil {
			t.Fatal(err)
		}
	}
	p := exec.Command(os.Args[0])
	p.Env = append(os.Environ(), serverVariable+"="+e.addr+" "+e.dir)
	p.Stderr = os.Stderr
	stdin, err := p.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := p.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	e.process, e.stdin = p, stdin
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		t.Fatalf("the broker did not start: %v", err)
	}
	e.url = strings.TrimSpace(line)
}

// embedded is a broker in this process. The bus keeps to the provider, behind
// which the server changes.
type embedded struct {
	dir    string
	server atomic.Pointer[nats.Server]
}

func newEmbedded(t testing.TB) *embedded {
	e := &embedded{dir: t.TempDir()}
	e.Start(t, false)
	t.Cleanup(func() { e.Stop(t) })
	return e
}

func (e *embedded) InProcessConn() (net.Conn, error) {
	if s := e.server.Load(); s != nil {
		return s.InProcessConn()
	}
	return nil, fmt.Errorf("the server is stopped")
}

func (e *embedded) Open(t testing.TB) bus.Bus { return open(t, nats.Options{Server: e}) }

func (e *embedded) Stop(testing.TB) {
	if s := e.server.Swap(nil); s != nil {
		s.Close()
	}
}

func (e *embedded) Start(t testing.TB, empty bool) {
	t.Helper()
	if empty {
		if err := os.RemoveAll(e.dir); err != nil {
			t.Fatal(err)
		}
	}
	s, err := nats.StartServer(nats.ServerOptions{StoreDir: e.dir})
	if err != nil {
		t.Fatal(err)
	}
	e.server.Store(s)
}

func TestConformanceOfAnExternalBroker(t *testing.T) {
	bustest.Run(t, func(t testing.TB) bustest.Broker { return newExternal(t) }, bustest.Gaps{})
}

func TestConformanceOfABrokerInThisProcess(t *testing.T) {
	bustest.Run(t, func(t testing.TB) bustest.Broker { return newEmbedded(t) }, bustest.Gaps{})
}
