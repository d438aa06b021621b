package limit

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

func TestBytesInFlightNeverExceedTheBound(t *testing.T) {
	b, err := NewBytes("bodies", 1000, nil)
	if err != nil {
		t.Fatal(err)
	}
	steps := []struct {
		name string
		n    int64
		want bool
		used int64
	}{
		{"nothing is always free", 0, true, 0},
		{"more than all is never free", 1001, false, 0},
		{"some", 600, true, 600},
		{"one too many", 401, false, 600},
		{"all that is left", 400, true, 1000},
		{"nothing is free even then", 0, true, 1000},
		{"one more is not", 1, false, 1000},
		{"the largest number does not wrap around", 1<<63 - 1, false, 1000},
	}
	for _, s := range steps {
		if got := b.TryAcquire(s.n); got != s.want || b.InFlight() != s.used {
			t.Fatalf("%s: got %v with %d in flight, want %v with %d", s.name, got, b.InFlight(), s.want, s.used)
		}
	}
	b.Release(1000)
	if b.InFlight() != 0 || !b.TryAcquire(b.Limit()) {
		t.Error("what was released is not free")
	}
}

func TestBytesHoldUnderConcurrency(t *testing.T) {
	b, err := NewBytes("bodies", 100, nil)
	if err != nil {
		t.Fatal(err)
	}
	var held, worst atomic.Int64
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			n := int64(10 + w)
			for range 5000 {
				if b.TryAcquire(n) {
					if h := held.Add(n); h > worst.Load() {
						worst.Store(h)
					}
					held.Add(-n)
					b.Release(n)
				}
			}
		})
	}
	wg.Wait()
	if worst.Load() > 100 || worst.Load() == 0 || b.InFlight() != 0 {
		t.Errorf("at worst %d were held and %d are left, want at most 100 and none", worst.Load(), b.InFlight())
	}
}

func TestMisuseOfBytesPanics(t *testing.T) {
	for name, f := range map[string]func(*Bytes){
		"a negative acquire":                  func(b *Bytes) { b.TryAcquire(-1) },
		"a negative release":                  func(b *Bytes) { b.TryAcquire(5); b.Release(-1) },
		"a release of more than was acquired": func(b *Bytes) { b.TryAcquire(5); b.Release(6) },
	} {
		t.Run(name, func(t *testing.T) {
			b, err := NewBytes("bodies", 10, nil)
			if err != nil {
				t.Fatal(err)
			}
			defer func() {
				if recover() == nil {
					t.Error("no panic")
				}
			}()
			f(b)
		})
	}
}

func TestBoundsOfNothingAreRefused(t *testing.T) {
	if _, err := NewBytes("b", 0, nil); err == nil || !strings.Contains(err.Error(), "above zero") {
		t.Errorf("NewBytes: got %v", err)
	}
	if _, err := NewConnections("c", -1, nil); err == nil || !strings.Contains(err.Error(), "above zero") {
		t.Errorf("NewConnections: got %v", err)
	}
}

// echo serves a listener: what comes in goes back out.
func echo(t *testing.T, l net.Listener) {
	t.Helper()
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer c.Close()
				defer c.Close() // twice must not give two places back
				io.Copy(c, c)
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		wg.Wait()
	})
}

// works says whether a connection is served.
func works(c net.Conn) error {
	c.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := c.Write([]byte("x")); err != nil {
		return err
	}
	_, err := io.ReadFull(c, make([]byte, 1))
	return err
}

func TestConnectionsAboveTheBoundAreClosedAtOnce(t *testing.T) {
	conns, err := NewConnections("http", 2, nil)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	echo(t, conns.Listen(raw))
	// dial opens a connection and says whether it is served. A reset may be seen
	// as early as the connecting.
	dial := func() (net.Conn, error) {
		c, err := net.Dial("tcp", raw.Addr().String())
		if err != nil {
			return nil, err
		}
		t.Cleanup(func() { c.Close() })
		return c, works(c)
	}
	first, err := dial()
	if err != nil {
		t.Fatalf("the first connection: %v", err)
	}
	if _, err := dial(); err != nil {
		t.Fatalf("the second connection: %v", err)
	}
	var timeout net.Error
	if _, err := dial(); err == nil {
		t.Error("a connection above the bound is served")
	} else if errors.As(err, &timeout) && timeout.Timeout() {
		t.Error("a connection above the bound hangs instead of being closed")
	}
	if err := works(first); err != nil {
		t.Errorf("a connection that was there suffers: %v", err)
	}
	first.Close()
	// Its place is free as soon as the server has seen the end, which is soon but
	// not at once: try until then.
	for deadline := time.Now().Add(10 * time.Second); ; {
		if _, err := dial(); err == nil {
			break
		} else if time.Now().After(deadline) {
			t.Fatalf("the place of a closed connection is never free: %v", err)
		}
	}
	if _, err := dial(); err == nil {
		t.Error("closing one connection made room for two")
	}
	if n := conns.Open(); n != 2 {
		t.Errorf("%d connections are open, want 2", n)
	}
}

func TestAnHTTPServerBehindTheBoundGivesPlacesBack(t *testing.T) {
	conns, err := NewConnections("http", 1, nil)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "ok") })}
	done := make(chan error, 1)
	go func() { done <- server.Serve(conns.Listen(raw)) }()
	client := &http.Client{Transport: &http.Transport{}, Timeout: 10 * time.Second}
	for range 3 { // over one connection that is kept alive
		resp, err := client.Get("http://" + raw.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
	}
	if n := conns.Open(); n != 1 {
		t.Errorf("%d connections are open, want 1", n)
	}
	client.CloseIdleConnections()
	server.Close()
	if err := <-done; !errors.Is(err, http.ErrServerClosed) {
		t.Errorf("Serve ended with %v", err)
	}
	if n := conns.Open(); n != 0 {
		t.Errorf("%d connections are open after the server closed, want none", n)
	}
}

func BenchmarkBytes(b *testing.B) {
	x, err := NewBytes("bodies", 1<<30, nil)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if x.TryAcquire(4096) {
				x.Release(4096)
			}
		}
	})
}
