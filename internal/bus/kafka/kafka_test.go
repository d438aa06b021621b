package kafka_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"

	"millrace/internal/bus"
	"millrace/internal/bus/bustest"
	"millrace/internal/bus/kafka"
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
// test. Its argument is the port and the directory.
func serve(args string) error {
	text, dir, _ := strings.Cut(args, " ")
	port, err := strconv.Atoi(text)
	if err != nil {
		return err
	}
	c, err := kfake.NewCluster(kfake.Ports(port), kfake.DataDir(dir), kfake.SyncWrites())
	if err != nil {
		return err
	}
	defer c.Close()
	fmt.Println(c.ListenAddrs()[0])
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

// quick are options with a test's times: everything that a broker's silence or a
// change of members takes is shorter.
func quick(o kafka.Options) kafka.Options {
	o.ReconnectWait = 50 * time.Millisecond
	o.Heartbeat = 50 * time.Millisecond
	o.SessionTimeout = 6 * time.Second // the least a broker takes
	o.Partitions = 6
	return o
}

func open(t testing.TB, o kafka.Options) *kafka.Bus {
	t.Helper()
	b, err := kafka.New(quick(o))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// external is a broker in a process of its own.
type external struct {
	port      int
	addr, dir string
	process   *exec.Cmd
	stdin     io.Closer
}

func newExternal(t testing.TB) *external {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	e := &external{port: l.Addr().(*net.TCPAddr).Port, dir: t.TempDir()}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	e.Start(t, false)
	t.Cleanup(func() { e.Stop(t) })
	return e
}

func (e *external) Open(t testing.TB) bus.Bus {
	return open(t, kafka.Options{Brokers: []string{e.addr}})
}

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
	p.Env = append(os.Environ(), serverVariable+"="+strconv.Itoa(e.port)+" "+e.dir)
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
	e.addr = strings.TrimSpace(line)
}

func TestConformance(t *testing.T) {
	bustest.Run(t, func(t testing.TB) bustest.Broker { return newExternal(t) }, bustest.Gaps{NoRepeats: true, ByPartition: true})
}
