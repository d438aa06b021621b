package nats_test

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"millrace/internal/deadletter"
	"millrace/internal/event"
	"millrace/internal/event/scan"
	"millrace/internal/stream"
)

// positions is an event.Store that keeps positions only: what it cannot take, no
// store can.
type positions struct {
	event.Store
	mu   sync.Mutex
	next map[event.LogID]uint64
	rows atomic.Int64
}

func (s *positions) Position(_ context.Context, log event.LogID) (uint64, bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	next, known := s.next[log]
	return next, known, nil
}

func (s *positions) Append(_ context.Context, b event.Batch) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if next, known := s.next[b.LogID]; known && next != b.From {
		return 0, &event.PositionError{Have: next, From: b.From}
	}
	s.next[b.LogID] = b.UpTo
	s.rows.Add(int64(len(b.Rows)))
	return len(b.Rows), nil
}

type noLetters struct{}

func (noLetters) Add(context.Context, []deadletter.Letter) error { return nil }

// hundred appends a batch of 100 events of about 200 bytes whose ids are new.
func hundred(body []byte, n int64) []byte {
	body = append(body[:0], '[')
	for i := range int64(100) {
		if i > 0 {
			body = append(body, ',')
		}
		k := uint64(n*100+i) * 0x9E3779B97F4A7C15
		body = fmt.Appendf(body, `{"id":"%016x-%d","type":"device.reading","source":"sensors/eu/%d","timestamp":"2026-11-22T08:30:%02dZ",`+
			`"payload":{"temperature":%d.5,"humidity":%d,"battery":0.%d,"position":[52.%d,13.%d],"firmware":"1.2.3"}}`, k, i, k%97, k%60, k%40, k%100, k%1000, k%99991, k%88883)
	}
	return append(body, ']')
}

// cpu is the processor time that the servers have used.
func (c *cluster) cpu() time.Duration {
	var sum time.Duration
	for _, n := range c.nodes {
		sum += cpuOf(n.process.Process.Pid)
	}
	return sum
}

// cpuOf is the processor time of a process, 0 where /proc does not tell.
func cpuOf(pid int) time.Duration {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	_, rest, _ := strings.Cut(string(stat), ") ")
	var ticks int64
	for i, field := range strings.Fields(rest) {
		if i == 11 || i == 12 { // user and system time
			n, _ := strconv.ParseInt(field, 10, 64)
			ticks += n
		}
	}
	return time.Duration(ticks) * 10 * time.Millisecond
}

// BenchmarkAckStream accepts batches of 100 events into a cluster of three servers
// that sync every write, and sinks them into a store that costs nothing.
func BenchmarkAckStream(b *testing.B) {
	for _, partitions := range []int{3, 8} {
		for _, callers := range []int{1, 32, 128} {
			b.Run(fmt.Sprintf("partitions=%d/callers=%d", partitions, callers), func(b *testing.B) {
				c := startCluster(b, 3, 8<<20)
				o := c.options(b)
				o.Stream, o.Partitions, o.MaxBytes = "BENCH", partitions, 1<<30
				broker := c.open(b, o)
				store := &positions{next: map[event.LogID]uint64{}}
				f := newFleet(b)
				a, err := stream.NewAssigner(stream.AssignerOptions{Broker: broker, Leases: f.db.Leases(), Instance: "one",
					NewSink: func(p *stream.Partition) (stream.Sink, error) {
						return event.NewSink(event.SinkOptions{Log: p, Advice: p.Advice(), Store: store, DeadLetters: noLetters{}, MinInterval: 25 * time.Millisecond})
					}})
				if err != nil {
					b.Fatal(err)
				}
				ctx, cancel := context.WithCancel(context.Background())
				ended := make(chan error, 1)
				go func() { ended <- a.Run(ctx) }()
				defer func() { cancel(); <-ended }()
				p, err := stream.NewPublisher(stream.PublisherOptions{Broker: broker})
				if err != nil {
					b.Fatal(err)
				}
				in, err := event.NewIngester(event.IngesterOptions{Log: p, Ack: event.AckStream, Limits: scan.Limits{MaxEvents: 100}})
				if err != nil {
					b.Fatal(err)
				}
				var n, took atomic.Int64
				var group sync.WaitGroup
				serversBefore, oursBefore := c.cpu(), cpuOf(os.Getpid())
				b.ResetTimer()
				for range callers {
					group.Go(func() {
						var body []byte
						for {
							k := n.Add(1)
							if k > int64(b.N) {
								return
							}
							body = hundred(body, k)
							began := time.Now()
							if _, err := in.Ingest(ctx, event.Submission{TenantID: "demo", Body: body}); err != nil {
								b.Error(err)
								return
							}
							took.Add(int64(time.Since(began)))
						}
					})
				}
				group.Wait()
				b.StopTimer()
				acked := b.Elapsed()
				behind := int64(b.N)*100 - store.rows.Load()
				deadline := time.Now().Add(20 * time.Second)
				for store.rows.Load() < int64(b.N)*100 && time.Now().Before(deadline) {
					<-a.Changed()
				}
				b.ReportMetric(float64(b.N)*100/acked.Seconds(), "events/s")
				b.ReportMetric((c.cpu()-serversBefore).Seconds()/acked.Seconds(), "server-cores")
				b.ReportMetric((cpuOf(os.Getpid())-oursBefore).Seconds()/acked.Seconds(), "own-cores")
				b.ReportMetric(float64(took.Load())/float64(b.N)/1e6, "ms/ack")
				b.ReportMetric(float64(behind), "behind")
				if err := p.Close(ctx); err != nil {
					b.Fatal(err)
				}
			})
		}
	}
}
