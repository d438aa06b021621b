package httpapi

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"syscall"
	"testing"
	"time"

	"millrace/internal/event"
	"millrace/internal/limit"
)

// discardEvents accepts everything without looking, so that only the edge is
// measured.
type discardEvents struct{ fakeEvents }

func (*discardEvents) Ingest(context.Context, event.Submission) (event.Receipt, error) {
	return event.Receipt{BatchID: "0198c5d4-5b1e-7c3a-9f00-1d2e3f405162", Accepted: 100}, nil
}

// batch is a body of n telemetry events of about 480 bytes.
func batch(n int) []byte {
	var b bytes.Buffer
	b.WriteByte('[')
	for i := range n {
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, `{"id":"device-0000-%06d","type":"device.reading","source":"sensors/eu/17","timestamp":"2026-11-22T08:30:00Z","payload":{"celsius":21.5,"pad":"%0330d"}}`, i, i)
	}
	b.WriteByte(']')
	return b.Bytes()
}

// quietEdge is an edge as a server would have it, with its logs thrown away
// below Info.
func quietEdge(tb testing.TB) *fixture {
	bytesBound, err := limit.NewBytes("bodies", 256<<20, nil)
	if err != nil {
		tb.Fatal(err)
	}
	rates, err := limit.NewRates(limit.RatesOptions{Name: "events", Default: limit.Rate{PerSecond: 1e9, Burst: 1e9}})
	if err != nil {
		tb.Fatal(err)
	}
	return newFixture(tb, func(o *Options) {
		o.Events, o.Bytes, o.Rates, o.Logger = &discardEvents{}, bytesBound, rates, nil
	})
}

// replay is a request that can be sent again without building it anew.
type replay struct {
	req  *http.Request
	body *bytes.Reader
	w    discardWriter
}

type discardWriter struct {
	h      http.Header
	status int
}

func (d *discardWriter) Header() http.Header         { return d.h }
func (d *discardWriter) Write(b []byte) (int, error) { return len(b), nil }
func (d *discardWriter) WriteHeader(status int)      { d.status = status }

func newReplay(body []byte) *replay { return newReplayTo("/events", body) }

func newReplayTo(path string, body []byte) *replay {
	r := &replay{body: bytes.NewReader(body), w: discardWriter{h: http.Header{}}}
	r.req, _ = http.NewRequest(http.MethodPost, path, nil)
	r.req.Body = io.NopCloser(r.body)
	r.req.ContentLength = int64(len(body))
	r.req.Header.Set("Authorization", "Bearer writer")
	r.req.Header.Set("Content-Type", "application/json")
	r.req.Pattern = ""
	return r
}

func (r *replay) send(tb testing.TB, h http.Handler) {
	_, _ = r.body.Seek(0, io.SeekStart)
	clear(r.w.h)
	r.w.status = 0
	h.ServeHTTP(&r.w, r.req)
	if r.w.status != http.StatusAccepted {
		tb.Fatalf("status %d", r.w.status)
	}
}

func TestPostEventsAllocatesLittleBeyondNetHTTP(t *testing.T) {
	f := quietEdge(t)
	r := newReplay(batch(100))
	h := f.server.Handler()
	r.send(t, h) // fills the pools
	most := 15.0
	if raceEnabled {
		most = 80 // pools forget at random then
	}
	if got := testing.AllocsPerRun(200, func() { r.send(t, h) }); got > most {
		t.Errorf("POST /events allocates %v times a request beyond net/http; at most %v are wanted", got, most)
	} else {
		t.Logf("%v allocations a request", got)
	}
}

// BenchmarkHandler measures the edge alone, without a network.
func BenchmarkHandler(b *testing.B) {
	for _, c := range []struct {
		name string
		n    int
	}{{"batch of 1", 1}, {"batch of 100", 100}} {
		b.Run(c.name, func(b *testing.B) {
			f := quietEdge(b)
			r := newReplay(batch(c.n))
			h := f.server.Handler()
			b.ReportAllocs()
			b.SetBytes(int64(r.body.Size()))
			for b.Loop() {
				r.send(b, h)
			}
		})
	}
}

// BenchmarkPostEvents compares the edge with a bare handler that throws the body
// away, both over real connections.
func BenchmarkPostEvents(b *testing.B) {
	body := batch(100)
	bare := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.WriteHeader(http.StatusAccepted)
	})
	f := quietEdge(b)
	full := newFixture(b, func(o *Options) {
		o.Events, o.Logger = &discardEvents{fakeEvents{admit: &event.Unavailable{Reason: "backlog-full", Detail: "full"}}}, nil
	})
	for _, c := range []struct {
		name    string
		handler http.Handler
		status  int
	}{{"bare net/http", bare, 202}, {"millrace edge", f.server.Handler(), 202}, {"millrace edge refusing", full.server.Handler(), 503}} {
		b.Run(c.name, func(b *testing.B) { benchmarkOverTCP(b, c.handler, body, c.status) })
	}
}

// benchmarkOverTCP sends prepared bytes and reads answers with next to no work
// of its own, and reports the CPU time of both sides together, which other work
// on the machine disturbs less than the clock.
func benchmarkOverTCP(b *testing.B, h http.Handler, body []byte, status int) {
	benchmarkPathOverTCP(b, h, "/events", "", body, status)
}

// benchmarkPathOverTCP is benchmarkOverTCP for any path, with further header lines.
func benchmarkPathOverTCP(b *testing.B, h http.Handler, path, header string, body []byte, status int) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	srv := &http.Server{Handler: h}
	go func() { _ = srv.Serve(l) }()
	defer srv.Close()
	request := fmt.Appendf(nil, "POST %s HTTP/1.1\r\nHost: millrace\r\nAuthorization: Bearer writer\r\n"+
		"Content-Type: application/json\r\n%sContent-Length: %d\r\n\r\n%s", path, header, len(body), body)
	want := fmt.Appendf(nil, "HTTP/1.1 %d ", status)
	b.ReportAllocs()
	b.SetBytes(int64(len(body)))
	b.SetParallelism(8)
	before := cpuTime(b)
	b.RunParallel(func(pb *testing.PB) {
		conn, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			b.Error(err)
			return
		}
		defer conn.Close()
		r := bufio.NewReader(conn)
		for pb.Next() {
			if _, err := conn.Write(request); err != nil {
				b.Error(err)
				return
			}
			if err := skipAnswer(r, want); err != nil {
				b.Error(err)
				return
			}
		}
	})
	b.ReportMetric(float64(cpuTime(b)-before)/float64(b.N), "cpu-ns/op")
}

// skipAnswer reads one answer and checks its status line.
func skipAnswer(r *bufio.Reader, want []byte) error {
	length := 0
	for first := true; ; first = false {
		line, err := r.ReadSlice('\n')
		if err != nil {
			return err
		}
		if first && !bytes.HasPrefix(line, want) {
			return fmt.Errorf("answer %q", line)
		}
		if v, ok := bytes.CutPrefix(line, []byte("Content-Length: ")); ok {
			for _, c := range bytes.TrimSpace(v) {
				length = length*10 + int(c-'0')
			}
		}
		if len(line) == 2 {
			_, err = r.Discard(length)
			return err
		}
	}
}

func cpuTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
