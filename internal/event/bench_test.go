package event

import (
	"fmt"
	"testing"

	"millrace/internal/wal"
)

// hundred returns a batch of 100 events of about 200 bytes whose ids begin with
// a number that is new each time.
func hundred(body []byte, n int) []byte {
	body = append(body[:0], '[')
	for i := range 100 {
		if i > 0 {
			body = append(body, ',')
		}
		body = fmt.Appendf(body, `{"id":"%d-%d","type":"device.reading","source":"sensors/eu/17","timestamp":"2026-11-22T08:30:00Z",`+
			`"payload":{"temperature":21.5,"humidity":40,"battery":0.93,"position":[52.52,13.405],"firmware":"1.2.3"}}`, n, i)
	}
	return append(body, ']')
}

// BenchmarkIngest accepts batches of 100 events into a log that keeps nothing.
func BenchmarkIngest(b *testing.B) {
	in := newIngester(b, IngesterOptions{Log: nullLog{}})
	var body []byte
	n := 0
	for b.Loop() {
		b.StopTimer()
		n++
		body = hundred(body, n)
		b.StartTimer()
		if r, err := in.Ingest(b.Context(), Submission{TenantID: "demo", Body: body}); err != nil || r.Accepted != 100 {
			b.Fatal(r, err)
		}
	}
}

// BenchmarkSinkDecode turns records of 100 events into rows.
func BenchmarkSinkDecode(b *testing.B) {
	log := newGateLog()
	log.outcome <- nil
	in := newIngester(b, IngesterOptions{Log: log})
	if _, err := in.Ingest(b.Context(), Submission{TenantID: "demo", Body: hundred(nil, 1)}); err != nil {
		b.Fatal(err)
	}
	frame := wal.Frame{ReceivedAt: noon}
	record := <-log.entered
	for range 100 {
		frame.Records = append(frame.Records, record)
	}
	var rows batch
	for b.Loop() {
		rows.begin(0)
		rows.add(frame)
		if rows.err != nil || rows.rows() != 10_000 {
			b.Fatal(rows.rows(), rows.err)
		}
	}
}
