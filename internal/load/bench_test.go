package load

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"testing"
	"time"
)

// discardServer reads requests of a known length and answers 202 without any of
// net/http's work, so that what is measured is mostly the client.
func discardServer(b *testing.B, length int) string {
	b.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			nc, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer nc.Close()
				buf := make([]byte, length)
				for {
					head := 0
					for { // up to the body
						n, err := nc.Read(buf[head:])
						if err != nil {
							return
						}
						head += n
						if i := bytes.Index(buf[:head], []byte("\r\n\r\n")); i >= 0 {
							if _, err := io.CopyN(io.Discard, nc, int64(length-head+i+4)); err != nil {
								return
							}
							break
						}
					}
					if _, err := io.WriteString(nc, "HTTP/1.1 202 Accepted\r\nContent-Type: application/json\r\nContent-Length: 49\r\n\r\n"+`{"batchId":"x","accepted":100,"rejected":[]}12345`); err != nil {
						return
					}
				}
			}()
		}
	}()
	return "http://" + l.Addr().String()
}

// BenchmarkClient compares what a round trip of a 48 KB batch costs in CPU time,
// server included, over the package's own connection and over net/http.
func BenchmarkClient(b *testing.B) {
	for _, which := range []string{"own", "net/http"} {
		b.Run(which, func(b *testing.B) {
			probe, err := newPlan(mustURL(b, "http://127.0.0.1:12345/events"), "", telemetry(100, 25), 100, 1_000_000, 0)
			if err != nil {
				b.Fatal(err)
			}
			body := probe.cycle[0].bytes[len(probe.cycle[0].bytes)-probe.cycle[0].body:]
			base := discardServer(b, len(body))
			p, err := newPlan(mustURL(b, base+"/events"), "", telemetry(100, 25), 100, 1_000_000, 0)
			if err != nil {
				b.Fatal(err)
			}
			var do func() error
			if which == "own" {
				d, err := newDialer(mustURL(b, base), nil, time.Second)
				if err != nil {
					b.Fatal(err)
				}
				c := newConn(d)
				defer c.close()
				do = func() error {
					_, err := c.roundTrip(context.Background(), p.cycle[0].bytes, 10*time.Second)
					return err
				}
			} else {
				client := &http.Client{Transport: &http.Transport{WriteBufferSize: 64 << 10}, Timeout: 10 * time.Second}
				defer client.CloseIdleConnections()
				do = func() error {
					resp, err := client.Post(base+"/events", "application/json", bytes.NewReader(body))
					if err != nil {
						return err
					}
					defer resp.Body.Close()
					_, err = io.Copy(io.Discard, resp.Body)
					return err
				}
			}
			b.ReportAllocs()
			b.ResetTimer()
			cpu := cpuTime()
			for b.Loop() {
				if err := do(); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64((cpuTime()-cpu).Microseconds())/float64(b.N), "cpu-µs/op")
		})
	}
}

// BenchmarkFill is the work for one batch of 100 events before it is sent.
func BenchmarkFill(b *testing.B) {
	p, err := newPlan(mustURL(b, "http://127.0.0.1:8080/events"), "token", telemetry(cycleEvents, 25), 100, 1_000_000, 0)
	if err != nil {
		b.Fatal(err)
	}
	var buf []byte
	now := time.Now()
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		r, _ := p.batch(i)
		buf = p.fill(buf, r, now, p.before(i))
	}
	b.SetBytes(int64(len(buf)))
}
