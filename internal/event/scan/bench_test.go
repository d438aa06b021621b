package scan

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/bytedance/sonic"
	"github.com/bytedance/sonic/ast"
	"github.com/valyala/fastjson"
)

// Each contender does what Scan does: it checks a body, splits the batch, reads
// the envelope's fields, the time among them, and finds the payload's raw text.
// Where a library cannot do all of it, the comment says what it is spared.
func contenders() []struct {
	name string
	scan func(b *testing.B, body []byte) (events, payloadBytes int)
} {
	type contender = struct {
		name string
		scan func(b *testing.B, body []byte) (events, payloadBytes int)
	}
	s := NewScanner()
	return []contender{
		{"millrace", func(b *testing.B, body []byte) (n, size int) {
			events, err := s.Scan(body, JSON, Limits{})
			if err != nil {
				b.Fatal(err)
			}
			for i := range events {
				if events[i].Reason != "" {
					b.Fatal(events[i].Reason)
				}
				size += len(events[i].Payload)
			}
			return len(events), size
		}},
		{"fastjson", fastjsonScan()},
		{"sonic-struct", sonicStruct()},
		{"sonic-ast", sonicAST},
		{"encoding-json", encodingJSON},
	}
}

// fastjsonScan parses, as fastjson's Parse needs no Validate before. It is
// spared: UTF-8 and control characters are not checked, nor the depth, nor
// duplicates; and as it knows no raw text of a value, finding the payload is
// all it does, where writing it out again would cost it more.
func fastjsonScan() func(b *testing.B, body []byte) (int, int) {
	var p fastjson.Parser
	return func(b *testing.B, body []byte) (n, size int) {
		v, err := p.ParseBytes(body)
		if err != nil {
			b.Fatal(err)
		}
		events, err := v.Array()
		if err != nil {
			b.Fatal(err)
		}
		for _, e := range events {
			id, typ, source, tenant := e.GetStringBytes("id"), e.GetStringBytes("type"), e.GetStringBytes("source"), e.GetStringBytes("tenantId")
			if at := e.GetStringBytes("timestamp"); at != nil {
				if _, reason := parseTime(at); reason != "" {
					b.Fatal(reason)
				}
			}
			if typ == nil || e.Get("payload") == nil || len(id)+len(source)+len(tenant) == 0 {
				b.Fatal("field missing")
			}
		}
		return len(events), 0
	}
}

// sonicStruct decodes into a struct with compiled code, strings and payload
// without copies, UTF-8 and control characters checked. It is spared: depth and
// duplicates.
func sonicStruct() func(b *testing.B, body []byte) (int, int) {
	type envelope struct {
		ID        string                 `json:"id"`
		Type      string                 `json:"type"`
		Source    string                 `json:"source"`
		Timestamp string                 `json:"timestamp"`
		TenantID  string                 `json:"tenantId"`
		Payload   sonic.NoCopyRawMessage `json:"payload"`
	}
	api := sonic.Config{ValidateString: true, NoValidateJSONSkip: false}.Froze()
	var events []envelope
	return func(b *testing.B, body []byte) (n, size int) {
		clear(events)
		events = events[:0]
		if err := api.Unmarshal(body, &events); err != nil {
			b.Fatal(err)
		}
		for i := range events {
			e := &events[i]
			if e.Type == "" {
				b.Fatal("field missing")
			}
			if e.Timestamp != "" {
				if _, err := time.Parse(time.RFC3339Nano, e.Timestamp); err != nil {
					b.Fatal(err)
				}
			}
			size += len(e.Payload)
		}
		return len(events), size
	}
}

// sonicAST validates the body as a whole and then walks it. It is spared what
// sonicStruct is.
func sonicAST(b *testing.B, body []byte) (n, size int) {
	if !sonic.Valid(body) {
		b.Fatal("not valid")
	}
	root, err := sonic.GetWithOptions(body, ast.SearchOptions{})
	if err != nil {
		b.Fatal(err)
	}
	events, err := root.Values()
	if err != nil {
		b.Fatal(err)
	}
	var e ast.Node
	for events.Next(&e) {
		typ, err := e.Get("type").StrictString()
		if err != nil || typ == "" {
			b.Fatal("field missing", err)
		}
		for _, name := range []string{"id", "source", "tenantId"} {
			if v := e.Get(name); v.Exists() {
				if _, err := v.StrictString(); err != nil {
					b.Fatal(err)
				}
			}
		}
		if v := e.Get("timestamp"); v.Exists() {
			at, err := v.StrictString()
			if err != nil {
				b.Fatal(err)
			}
			if _, err := time.Parse(time.RFC3339Nano, at); err != nil {
				b.Fatal(err)
			}
		}
		raw, err := e.Get("payload").Raw()
		if err != nil {
			b.Fatal(err)
		}
		n++
		size += len(raw)
	}
	return n, size
}

func encodingJSON(b *testing.B, body []byte) (n, size int) {
	var events []struct {
		ID, Type, Source, TenantID string
		Timestamp                  time.Time
		Payload                    json.RawMessage
	}
	if err := json.Unmarshal(body, &events); err != nil {
		b.Fatal(err)
	}
	for i := range events {
		size += len(events[i].Payload)
	}
	return len(events), size
}

func benchmarkCorpus(b *testing.B, bodies [][]byte) {
	for _, c := range contenders() {
		b.Run(c.name, func(b *testing.B) {
			c.scan(b, bodies[0]) // compiles, grows
			var total int64
			for _, body := range bodies {
				total += int64(len(body))
			}
			b.SetBytes(total)
			b.ReportAllocs()
			events := 0
			for b.Loop() {
				for _, body := range bodies {
					n, _ := c.scan(b, body)
					events += n
				}
			}
			b.ReportMetric(float64(events)/b.Elapsed().Seconds(), "events/s")
		})
	}
}

// BenchmarkTelemetry: batches of 100 events of about 480 bytes.
func BenchmarkTelemetry(b *testing.B) { benchmarkCorpus(b, [][]byte{telemetryBatch(100)}) }

// BenchmarkWebhooks: GitHub webhooks of 1 to 27 KB, twenty in a batch.
func BenchmarkWebhooks(b *testing.B) { benchmarkCorpus(b, webhookBatches(b)) }
