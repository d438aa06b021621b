package load

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func mustURL(t testing.TB, s string) *url.URL {
	t.Helper()
	u, err := url.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func TestIDsAreUUIDv7sThatCarryTheirTimeAndComeBackFromText(t *testing.T) {
	at := time.Date(2026, 11, 22, 5, 4, 23, 123_000_000, time.UTC)
	m := newIDMaker()
	id := m.at(at, 77)
	text := id.String()
	if text[14] != '7' || !strings.ContainsRune("89ab", rune(text[19])) {
		t.Errorf("%s is not a version 7 UUID", text)
	}
	if !id.time().Equal(at) {
		t.Errorf("time is %s, want %s", id.time(), at)
	}
	back, err := parseID([]byte(text))
	if err != nil || back != id {
		t.Errorf("parseID(%q) = %s, %v", text, back, err)
	}
	if again := m.at(at, 77); again != id {
		t.Errorf("the same number at the same time gave %s, before %s", again, id)
	}
	if next := m.at(at, 78).String(); next <= text {
		t.Errorf("%s does not follow %s", next, text)
	}
	if later := m.at(at.Add(time.Millisecond), 0).String(); later <= text {
		t.Errorf("%s is later and does not follow %s", later, text)
	}
	if other := newIDMaker().at(at, 77); other == id {
		t.Error("two runs made the same id")
	}
}

func TestParseIDRefusesWhatIsNotAUUID(t *testing.T) {
	for _, s := range []string{"", "x", "019aa0a1b2c37000800000000000000000aa", "019aa0a1-b2c3-7000-8000-00000000000g"} {
		if _, err := parseID([]byte(s)); err == nil {
			t.Errorf("parseID(%q) succeeded", s)
		}
	}
}

// parsed is a filled request as a server sees it.
func parsed(t *testing.T, request []byte) (*http.Request, []storedEvent) {
	t.Helper()
	r, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(request)))
	if err != nil {
		t.Fatalf("not a request: %v", err)
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.HasSuffix(request, body) {
		t.Fatal("something follows the body")
	}
	var events []storedEvent
	if err := json.Unmarshal(body, &events); err != nil {
		t.Fatalf("the body is not JSON: %v\n%s", err, body)
	}
	return r, events
}

func TestABuiltInBatchIsAValidRequestOfEventsOfAbout480Bytes(t *testing.T) {
	p, err := newPlan(mustURL(t, "http://host:8080/events"), "secret", telemetry(cycleEvents, 25), 100, 1_000_000, 0)
	if err != nil {
		t.Fatal(err)
	}
	if len(p.cycle) != cycleEvents/100 || p.perCycle != cycleEvents {
		t.Fatalf("%d batches of %d events in a cycle", len(p.cycle), p.perCycle)
	}
	at := time.Date(2026, 11, 22, 5, 4, 23, 123_456_789, time.UTC)
	ids := map[string]bool{}
	types := map[string]int{}
	var buf []byte
	for k := range 2 * len(p.cycle) {
		r, _ := p.batch(k)
		buf = p.fill(buf, r, at, p.before(k))
		req, events := parsed(t, buf)
		if got := req.Header.Get("Authorization"); got != "Bearer secret" {
			t.Fatalf("Authorization is %q", got)
		}
		if size := r.body / len(events); size < 470 || size > 490 {
			t.Errorf("batch %d has %d bytes an event", k, size)
		}
		for i, e := range events {
			ids[e.ID] = true
			types[e.Type]++
			if !e.Timestamp.Equal(at.Truncate(time.Millisecond)) {
				t.Fatalf("timestamp is %s", e.Timestamp)
			}
			want := p.payloads[r.slots[i].payload]
			got, err := newPayload(e.Type, e.Source, e.Payload)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(want, got); d != "" {
				t.Fatalf("the payload is not the one the file would say (-want +got):\n%s", d)
			}
		}
	}
	if len(ids) != 2*cycleEvents {
		t.Errorf("%d different ids of %d events", len(ids), 2*cycleEvents)
	}
	if len(types) != len(telemetryTypes) || types[telemetryTypes[0]] != types[telemetryTypes[7]] {
		t.Errorf("types are not even: %v", types)
	}
}

func TestAPlanWithALimitEndsExactlyThere(t *testing.T) {
	p, err := newPlan(mustURL(t, "http://host/events"), "", telemetry(30, 25), 20, 1_000_000, 130)
	if err != nil {
		t.Fatal(err)
	}
	var sizes []int
	for k := 0; ; k++ {
		r, ok := p.batch(k)
		if !ok {
			break
		}
		_, events := parsed(t, p.fill(nil, r, time.Now(), p.before(k)))
		sizes = append(sizes, len(events))
	}
	if d := cmp.Diff([]int{20, 20, 20, 20, 20, 20, 10}, sizes); d != "" {
		t.Errorf("sizes of batches (-want +got):\n%s", d)
	}
}

func TestBatchesOfLargeEventsStayBelowTheBodyLimitAndCoverEverySample(t *testing.T) {
	var samples []sample
	for range 7 {
		s, err := newSample("large", "", nil, []byte(`"`+strings.Repeat("x", 30_000)+`"`))
		if err != nil {
			t.Fatal(err)
		}
		samples = append(samples, s)
	}
	p, err := newPlan(mustURL(t, "http://host/events"), "", samples, 100, 100_000, 0)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[int32]bool{}
	for _, r := range p.cycle {
		if r.body > 100_000 {
			t.Errorf("a body has %d bytes", r.body)
		}
		for _, s := range r.slots {
			seen[s.payload] = true
		}
	}
	if len(seen) != len(samples) || p.perCycle != 9 {
		t.Errorf("%d of %d samples used in a cycle of %d", len(seen), len(samples), p.perCycle)
	}
	if _, err := newPlan(mustURL(t, "http://host/events"), "", samples, 100, 20_000, 0); err == nil || !strings.Contains(err.Error(), "more than a body may have") {
		t.Errorf("an event larger than a body gave %v", err)
	}
}

func TestAPayloadFileKeepsEveryMemberButTheGeneratorsOwn(t *testing.T) {
	lines := `{"type":"a","source":"s","payload":{"b": 1.50 ,"ü":"\u00fc"},"id":"x","timestamp":"y","subject":"q","zone":3}

{"type":"b"}
`
	for _, name := range []string{"plain.ndjson", "packed.ndjson.gz"} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), name)
			text := []byte(lines)
			if strings.HasSuffix(name, ".gz") {
				var buf bytes.Buffer
				z := gzip.NewWriter(&buf)
				_, _ = z.Write(text)
				_ = z.Close()
				text = buf.Bytes()
			}
			if err := os.WriteFile(path, text, 0o600); err != nil {
				t.Fatal(err)
			}
			samples, err := readCorpus(path)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, s := range samples {
				got = append(got, string(s.rest))
			}
			want := []string{`"type":"a","source":"s","subject":"q","zone":3,"payload":{"b": 1.50 ,"ü":"\u00fc"}`, `"type":"b","payload":null`}
			if d := cmp.Diff(want, got); d != "" {
				t.Errorf("members (-want +got):\n%s", d)
			}
		})
	}
}

func TestABadPayloadFileIsRefusedWithItsLine(t *testing.T) {
	for name, c := range map[string]struct{ text, want string }{
		"not JSON":       {"{\"type\":\"a\"}\nnope\n", "line 2: not a JSON object"},
		"no type":        {`{"payload":1}`, `line 1: "type" must be a string`},
		"type no string": {`{"type":1}`, `line 1: "type" must be a string`},
		"empty":          {"\n\n", "no events in it"},
		"bad gzip":       {"\x1f\x8bxx", "payload file"},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "f")
			if err := os.WriteFile(path, []byte(c.text), 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := readCorpus(path); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error is %v, want %q in it", err, c.want)
			}
		})
	}
}

func TestMeaningIsEqualForTheSameContentOnly(t *testing.T) {
	base := `{"a":[1,2.50,"é<"],"b":null,"c":true}`
	for name, c := range map[string]struct {
		text string
		same bool
	}{
		"white space":         {"{ \"a\" : [1,\n2.50, \"é<\"],\"b\":null,\"c\":true }", true},
		"escapes":             {`{"\u0061":[1,2.50,"\u00e9\u003c"],"b":null,"c":true}`, true},
		"another digit":       {`{"a":[1,2.5,"é<"],"b":null,"c":true}`, false},
		"number as string":    {`{"a":["1",2.50,"é<"],"b":null,"c":true}`, false},
		"another order":       {`{"b":null,"a":[1,2.50,"é<"],"c":true}`, false},
		"a member lost":       {`{"a":[1,2.50,"é<"],"b":null}`, false},
		"null as the string":  {`{"a":[1,2.50,"é<"],"b":"","c":true}`, false},
		"nested not the same": {`{"a":[1,2.50],"é<":null,"b":null,"c":true}`, false},
	} {
		t.Run(name, func(t *testing.T) {
			a, err1 := meaningOf([]byte(base))
			b, err2 := meaningOf([]byte(c.text))
			if err1 != nil || err2 != nil {
				t.Fatal(err1, err2)
			}
			if (a == b) != c.same {
				t.Errorf("same meaning: %v, want %v", a == b, c.same)
			}
		})
	}
	for _, bad := range []string{"", "{", `{"a":}`, "nope"} {
		if _, err := meaningOf([]byte(bad)); err == nil {
			t.Errorf("meaningOf(%q) succeeded", bad)
		}
	}
}
