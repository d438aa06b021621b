package rabbitmq_test

import (
	"encoding/binary"
	"io"
	"net"
	"sync"
	"testing"
)

// wire is a proxy that knows the protocol's frames. It can add the broker's about
// blocked connections, and freeze: then it reads and writes nothing more, and
// closes nothing before the test ends.
type wire struct {
	listener net.Listener
	target   string
	running  sync.WaitGroup
	frozen   chan struct{}
	over     chan struct{}

	mu    sync.Mutex // guards what follows; held while a frame is written
	conns []net.Conn // to clients
	all   []net.Conn
}

func newWire(t testing.TB, target string) *wire {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := &wire{listener: l, target: target, frozen: make(chan struct{}), over: make(chan struct{})}
	w.running.Go(w.accept)
	t.Cleanup(func() {
		close(w.over)
		_ = l.Close()
		w.mu.Lock()
		for _, c := range w.all {
			_ = c.Close()
		}
		w.mu.Unlock()
		w.running.Wait()
	})
	return w
}

func (w *wire) addr() string { return w.listener.Addr().String() }

func (w *wire) freeze() { close(w.frozen) }

// flows waits until the end if the wire is frozen, and then returns false.
func (w *wire) flows() bool {
	select {
	case <-w.frozen:
		<-w.over
		return false
	default:
		return true
	}
}

func (w *wire) accept() {
	for {
		client, err := w.listener.Accept()
		if err != nil {
			return
		}
		server, err := net.Dial("tcp", w.target)
		if err != nil {
			_ = client.Close()
			continue
		}
		w.mu.Lock()
		w.conns, w.all = append(w.conns, client), append(w.all, client, server)
		w.mu.Unlock()
		w.running.Go(func() {
			w.bytes(server, client)
			_ = server.Close()
		})
		w.running.Go(func() {
			w.frames(client, server)
			_ = client.Close()
		})
	}
}

// bytes forwards what a client sends.
func (w *wire) bytes(server, client net.Conn) {
	buf := make([]byte, 32<<10)
	for w.flows() {
		n, err := client.Read(buf)
		if err != nil || !w.flows() {
			return
		}
		if _, err := server.Write(buf[:n]); err != nil {
			return
		}
	}
}

// frames forwards whole frames of the broker.
func (w *wire) frames(client, server net.Conn) {
	head := make([]byte, 7) // type, channel, size
	for w.flows() {
		if _, err := io.ReadFull(server, head); err != nil {
			_ = w.flows()
			return
		}
		rest := make([]byte, binary.BigEndian.Uint32(head[3:])+1)
		if _, err := io.ReadFull(server, rest); err != nil || !w.flows() {
			return
		}
		w.mu.Lock()
		_, err := client.Write(append(append([]byte(nil), head...), rest...))
		w.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// block tells all clients connection.blocked or connection.unblocked.
func (w *wire) block(on bool) {
	payload := []byte{0, 10, 0, 61}
	if on {
		const reason = "low on memory"
		payload = append([]byte{0, 10, 0, 60, byte(len(reason))}, reason...)
	}
	frame := append([]byte{1, 0, 0, 0, 0, 0, byte(len(payload))}, payload...)
	frame = append(frame, 0xce)
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, c := range w.conns {
		_, _ = c.Write(frame) // one that has ended needs none
	}
}
