package scan

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"
	"unsafe"

	"github.com/bytedance/sonic"
	"github.com/bytedance/sonic/ast"
	"github.com/valyala/fastjson"
)

// contender does what Scan does: it checks a body, splits the batch, reads the
// envelope's fields, the time among them, and finds the payload's raw text. What
// a library cannot do, or is spared, its comment says; all of them are spared
// duplicate names, depth and \u0000.
type contender struct {
	name string
	scan func(b *testing.B, body []byte) (events, payloadBytes int)
}

func contenders() []contender {
	return []contender{
		{"millrace", millrace()},
		{"fastjson", fastjsonScan(true)},
		{"fastjson-unchecked", fastjsonScan(false)},
		{"sonic", sonicStruct()},
		{"sonic-ast", sonicAST},
		{"encoding-json", encodingJSON},
	}
}

func millrace() func(b *testing.B, body []byte) (int, int) {
	s := NewScanner()
	return func(b *testing.B, body []byte) (n, size int) {
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
		s.Reset()
		return len(events), size
	}
}

// fastjsonScan in full validates first, for Parse lets control characters and
// unknown escapes pass, and writes the payload out again, for fastjson does not
// keep a value's text; UTF-8 it never checks. Unchecked it parses and gets, and
// does nothing about the payload's text: less than the job, shown because it is
// the fastest that the two libraries have.
func fastjsonScan(full bool) func(b *testing.B, body []byte) (int, int) {
	var (
		p      fastjson.Parser
		buffer []byte
	)
	return func(b *testing.B, body []byte) (n, size int) {
		if full {
			if err := fastjson.ValidateBytes(body); err != nil {
				b.Fatal(err)
			}
		}
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
			payload := e.Get("payload")
			if typ == nil || payload == nil || len(id)+len(source)+len(tenant) == 0 {
				b.Fatal("field missing")
			}
			if full {
				buffer = payload.MarshalTo(buffer[:0])
				size += len(buffer)
			}
		}
		return len(events), size
	}
}

// sonicStruct decodes into a struct with compiled code: strings and payload
// without copies, UTF-8 and control characters checked.
func sonicStruct() func(b *testing.B, body []byte) (int, int) {
	type envelope struct {
		ID        string                 `json:"id"`
		Type      string                 `json:"type"`
		Source    string                 `json:"source"`
		Timestamp string                 `json:"timestamp"`
		TenantID  string                 `json:"tenantId"`
		Payload   sonic.NoCopyRawMessage `json:"payload"`
	}
	api := sonic.Config{ValidateString: true}.Froze()
	var events []envelope
	return func(b *testing.B, body []byte) (n, size int) {
		clear(events)
		events = events[:0]
		if err := api.UnmarshalFromString(unsafe.String(unsafe.SliceData(body), len(body)), &events); err != nil {
			b.Fatal(err)
		}
		for i := range events {
			e := &events[i]
			if e.Type == "" || len(e.Payload) == 0 {
				b.Fatal("field missing")
			}
			if e.Timestamp != "" {
				if _, reason := parseTime([]byte(e.Timestamp)); reason != "" {
					b.Fatal(reason)
				}
			}
			size += len(e.Payload)
		}
		return len(events), size
	}
}

// sonicAST validates the body as a whole and then walks it.
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
			if _, reason := parseTime([]byte(at)); reason != "" {
				b.Fatal(reason)
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

// BenchmarkRatio says how many times as long as millrace each contender takes.
// They take turns, and the best turn of each counts, so that the ratios hold on a
// machine that does other things besides.
func BenchmarkRatio(b *testing.B) {
	for name, bodies := range map[string][][]byte{"telemetry": {telemetryBatch(100)}, "webhooks": webhookBatches(b)} {
		b.Run(name, func(b *testing.B) {
			contenders := contenders()
			best := make([]time.Duration, len(contenders))
			for b.Loop() {
				for i, c := range contenders {
					start := time.Now()
					for _, body := range bodies {
						c.scan(b, body)
					}
					if took := time.Since(start); best[i] == 0 || took < best[i] {
						best[i] = took
					}
				}
			}
			b.ReportMetric(0, "ns/op") // of all of them together: says nothing
			for i, c := range contenders {
				b.ReportMetric(float64(best[i])/float64(best[0]), "x-"+c.name)
			}
		})
	}
}

// BenchmarkUnusual: a mebibyte each of what slows a scanner down. None may fall
// far behind the others, or a sender could make a request cost what many do.
func BenchmarkUnusual(b *testing.B) {
	const size = 1 << 20
	fill := func(head, part, tail string) []byte {
		return []byte(head + strings.Repeat(part, (size-len(head)-len(tail))/len(part)) + tail)
	}
	var attributes strings.Builder
	for i := range MaxAttributes {
		fmt.Fprintf(&attributes, `"member-with-a-long-name-%03d":0,`, i)
	}
	flat := `{` + attributes.String() + `"type":"a"},`
	bodies := []struct {
		name string
		body []byte
	}{
		{"white-space", fill(`[{"type":"a","payload":[`, "1 ,\n      ", `1]}]`)},
		{"escapes", fill(`[{"type":"a","payload":"`, `\n\"\u00e9`, `"}]`)},
		{"non-ASCII", fill(`[{"type":"a","payload":"`, `Größenänderung 日本語 `, `"}]`)},
		{"short-strings", fill(`[{"type":"a","payload":[`, `"",`, `""]}]`)},
		{"numbers", fill(`[{"type":"a","payload":[`, `-1.25e3,`, `0]}]`)},
		{"nesting", []byte(`[{"type":"a","payload":[` + strings.Repeat(strings.Repeat("[", 9000)+strings.Repeat("]", 9000)+",", 58) + `0]}]`)},
		{"duplicate-check", []byte("[" + strings.TrimSuffix(strings.Repeat(flat, size/len(flat)), ",") + "]")},
	}
	s := NewScanner()
	for _, c := range bodies {
		b.Run(c.name, func(b *testing.B) {
			b.SetBytes(int64(len(c.body)))
			for b.Loop() {
				if _, err := s.Scan(c.body, JSON, Limits{MaxEvents: 1000}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
