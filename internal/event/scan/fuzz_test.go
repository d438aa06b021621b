package scan

import (
	"bytes"
	"encoding/json"
	"errors"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
)

// FuzzScanAgreesWithEncodingJSON: the syntax layer accepts exactly what
// encoding/json and unicode/utf8 accept together, alone, as a body, as an event's
// payload and as a line.
func FuzzScanAgreesWithEncodingJSON(f *testing.F) {
	for _, file := range suite(f) {
		if len(file.text) < 4096 {
			f.Add(file.text)
		}
	}
	for _, line := range webhooks(f)[:8] {
		f.Add(line[:min(len(line), 4096)])
	}
	f.Add(telemetryBatch(2))
	f.Add([]byte(`["\ud800", "\udc00\ud800", "\ud83d\ude00", "日本語 text that is longer than a word", -0.0e-00, 1E+5]`))
	f.Fuzz(func(t *testing.T, text []byte) {
		reference := json.Valid(text)
		if got, want := Valid(text), reference && utf8.Valid(text); got != want {
			t.Fatalf("Valid is %v, want %v: %q", got, want, text)
		}
		var s Scanner
		_, err := s.Scan(text, JSON, Limits{MaxEvents: 1 << 20})
		var syntax *SyntaxError
		switch {
		case err == nil && !reference:
			t.Fatalf("scanned a body that is not JSON: %q", text)
		case err != nil && !errors.As(err, &syntax):
			t.Fatalf("error is a %T", err)
		case err != nil && syntax.Code == Malformed && reference:
			t.Fatalf("refused a body that is JSON: %v: %q", err, text)
		case err != nil && syntax.Code == WrongShape && !reference:
			t.Fatalf("body is not JSON, but only its shape was refused: %v: %q", err, text)
		case err != nil && (syntax.Offset < 0 || syntax.Offset > len(text)):
			t.Fatalf("offset %d of %d bytes", syntax.Offset, len(text))
		}
		checkAsPayload(t, text)
	})
}

// FuzzAcceptedEventsMeanTheSame: the scanner and an oracle made of encoding/json
// accept the same events, and read the same from those they accept.
func FuzzAcceptedEventsMeanTheSame(f *testing.F) {
	for _, seed := range eventSeeds {
		f.Add([]byte(seed), false)
		f.Add([]byte(seed), true)
	}
	f.Add(webhooks(f)[3], false)
	f.Add(telemetryBatch(1), false)
	f.Fuzz(func(t *testing.T, event []byte, cloud bool) {
		if !json.Valid(event) {
			return
		}
		checkAgainstOracle(t, event, cloud)
	})
}

// checkAgainstOracle scans a well-formed text as the second event of a batch.
func checkAgainstOracle(t *testing.T, event []byte, cloud bool) {
	t.Helper()
	event = bytes.TrimSpace(event)
	lim := Limits{MaxEvents: 3, MaxEventBytes: 2000, MaxDepth: 5}
	format, first := JSON, `{"type":"first"}`
	if cloud {
		format, first = CloudEventBatch, `{"specversion":"1.0","id":"1","source":"s","type":"first"}`
	}
	body := []byte("[" + first + " ,\n" + string(event) + "\t, " + first + "]")
	var s Scanner
	events, err := s.Scan(body, format, lim)
	if err != nil {
		t.Fatalf("refused: %v: %q", err, event)
	}
	if len(events) != 3 || events[0].Reason != "" || events[2].Reason != "" || string(events[2].Type) != "first" {
		t.Fatalf("the neighbours suffered: %+v", events)
	}
	e := events[1]
	if !bytes.Equal(e.Raw, event) {
		t.Fatalf("raw is %q, want %q", e.Raw, event)
	}
	want, ok := oracle(event, cloud, lim)
	if ok != (e.Reason == "") {
		t.Fatalf("reason is %q, the oracle accepts: %v: %q", e.Reason, ok, event)
	}
	for _, text := range [][]byte{e.ID, e.Type, e.Source, e.TenantID} {
		if !utf8.Valid(text) || bytes.IndexByte(text, 0) >= 0 {
			t.Fatalf("text that cannot be stored: %q", text)
		}
	}
	if !ok {
		return
	}
	got := oracleEvent{string(e.ID), string(e.Type), string(e.Source), string(e.TenantID), e.HasTimestamp, e.Timestamp, string(e.Attributes), string(e.Payload)}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Fatalf("%q: (-oracle +scanner)\n%s", event, diff)
	}
	if e.Attributes != nil && !Valid(e.Attributes) {
		t.Fatalf("attributes are not JSON: %q", e.Attributes)
	}
}

func TestTheScannerAgreesWithTheOracle(t *testing.T) {
	for _, seed := range eventSeeds {
		if !json.Valid([]byte(seed)) {
			t.Fatalf("seed is not JSON: %s", seed)
		}
		checkAgainstOracle(t, []byte(seed), false)
		checkAgainstOracle(t, []byte(seed), true)
	}
}

// eventSeeds are events, good and bad, native and CloudEvents.
var eventSeeds = []string{
	`{}`, `[]`, `null`, `7`, `"text"`, `{"type":"a"}`, `{"type":null}`, `{"type":""}`, `{"type":7}`, `{ "type" : "a" , "x" : 1 }`,
	`{"type":"a","type":"b"}`, `{"t\u0079pe":"a","type":"b"}`, `{"x":1,"\u0078":2,"type":"a"}`, `{"type":"a","id":null,"source":null,"timestamp":null,"tenantId":null,"payload":null}`,
	`{"type":"a","id":""}`, `{"type":"a","id":"\ud83d\ude00"}`, `{"type":"a","id":"\ud83d"}`, `{"type":"a","id":"\ufffd"}`, `{"type":"a","source":""}`, `{"type":"a","tenantId":""}`,
	`{"type":"a","payload":"\u0000"}`, `{"type":"a","payload":"\\u0000"}`, `{"type":"a","\u0000":1}`, `{"type":"a","payload":[[[[[1]]]]]}`, `{"type":"a","payload":[[[[1]]]]}`,
	`{"type":"a","timestamp":"2026-11-22T05:04:22.123456789123Z"}`, `{"type":"a","timestamp":"2026-11-22t05:04:22z"}`, `{"type":"a","timestamp":"2024-02-29T23:59:59+23:59"}`,
	`{"type":"a","timestamp":"2026-02-29T00:00:00Z"}`, `{"type":"a","timestamp":"2016-12-31T23:59:60Z"}`, `{"type":"a","timestamp":"9999-01-01T00:00:00Z"}`, `{"type":"a","timestamp":1}`,
	`{"type":"a","timestamp":"2026-11-22T05:04:22\u005a"}`, `{"type":"a","payload":{"a":"é","b":"\ud800"},"payloaD":1,"":2}`,
	`{"specversion":"1.0","id":"1","source":"s","type":"t"}`, `{"specversion":"0.3","id":"1","source":"s","type":"t"}`, `{"specversion":"1.0","source":"s","type":"t"}`,
	`{"specversion":"1.0","id":"1","source":"s","type":"t","time":"2026-11-22T05:04:22Z","data":{"a":1},"subject":"x","ext1":null,"tenantid":"acme"}`,
	`{"specversion":"1.0","id":"1","source":"s","type":"t","data_base64":"aGk="}`, `{"specversion":"1.0","id":"1","source":"s","type":"t","data_base64":"aGk"}`,
	`{"specversion":"1.0","id":"1","source":"s","type":"t","data_base64":"a\/==","data":null}`, `{"specversion":"1.0","id":"1","source":"s","type":"t","data_base64":"","data":1}`,
	`{"specversion":"1.0","id":"1","source":"s","type":"t","Ext":1}`, `{"specversion":"1.0","id":"1","source":"s","type":"t","ext":{}}`, `{"specversion":"1.0","id":"1","source":"s","type":"t","ext":1,"ext":null}`,
	`{"specversion":null,"id":"1","source":"s","type":"t"}`, `{"specversion":"1.0","id":"1","source":"","type":"t"}`, `{"data":1,"data_base64":"","specversion":"1.0","id":"1","source":"s","type":"t"}`,
}
