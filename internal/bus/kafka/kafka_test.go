package kafka_test

import (
	"bufio"
	"context"
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
	if addr, ok := os.LookupEnv(victimVariable); ok {
		if err := work(addr); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	if args, ok := os.LookupEnv(serverVariable); ok {
		if err := serve(args); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// victimVariable makes the test binary a member of a group that can be killed.
const victimVariable = "MILLRACE_TEST_VICTIM"

// work joins the group and never answers for a message, until standard input ends.
func work(addr string) error {
	b, err := kafka.New(quick(kafka.Options{Brokers: []string{addr}}))
	if err != nil {
		return err
	}
	_, err = b.Subscribe(context.Background(), bus.Group{Name: "workers", Subjects: []string{"orders.>"}, Concurrency: 4, AckWait: time.Hour, MaxAttempts: 5,
		DeadLetter: func(context.Context, *bus.Delivery, error) error { return nil },
	}, func(context.Context, *bus.Delivery) error {
		fmt.Println("stuck")
		select {}
	})
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

// victim is a member of a group in a process of its own.
type victim struct {
	process *exec.Cmd
	out     *bufio.Reader
}

func startVictim(t testing.TB, addr string) *victim {
	p := exec.Command(os.Args[0])
	p.Env = append(os.Environ(), victimVariable+"="+addr)
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
	v := &victim{process: p, out: bufio.NewReader(stdout)}
	t.Cleanup(func() { v.kill(t); _ = stdin.Close() })
	return v
}

// stuck waits until it has a message in its hands.
func (v *victim) stuck(t testing.TB) {
	t.Helper()
	if _, err := v.out.ReadString('\n'); err != nil {
		t.Fatal(err)
	}
}

func (v *victim) kill(testing.TB) {
	_ = v.process.Process.Kill() // it may have ended
	_ = v.process.Wait()         // says that it was killed
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
