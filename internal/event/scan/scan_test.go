package scan

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// scanOne scans one native event and returns it.
func scanOne(t *testing.T, event string, lim Limits) Event {
	t.Helper()
	events, err := NewScanner().Scan([]byte("["+event+"]"), JSON, lim)
	if err != nil {
		t.Fatalf("%s: %v", event, err)
	}
	if len(events) != 1 {
		t.Fatalf("%s: %d events", event, len(events))
	}
	return events[0]
}

func TestEveryFieldOfAnEventIsRead(t *testing.T) {
	const event = `{"x":[1, 2],"id":"caf\u00e9","type":"order.placed","source":"sh\/op","timestamp":"2026-11-22T05:04:22.5+01:00","tenantId":"acme","payload": {"a" : 1e2} ,"y" : "\u00fc"}`
	got := scanOne(t, event, Limits{})
	want := Event{
		ID: []byte("café"), Type: []byte("order.placed"), Source: []byte("sh/op"), TenantID: []byte("acme"),
		HasTimestamp: true, Timestamp: time.Date(2026, 11, 22, 4, 4, 22, 5e8, time.UTC).UnixNano(),
		Attributes: []byte(`{"x":[1, 2],"y" : "\u00fc"}`), Payload: []byte(`{"a" : 1e2}`), Raw: []byte(event),
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Fatal(diff)
	}
}

func TestACloudEventIsRead(t *testing.T) {
	const event = `{"specversion":"1.0","type":"com.example.someevent","source":"/mycontext","subject":"larger-context","id":"A234-1234-1234",` +
		`"time":"2018-04-05T17:31:00Z","comexampleextension1":"value","comexampleothervalue":5,"unset":null,"tenantid":"acme","datacontenttype":"application/json","data":{"k":"v"}}`
	want := Event{
		ID: []byte("A234-1234-1234"), Type: []byte("com.example.someevent"), Source: []byte("/mycontext"), TenantID: []byte("acme"),
		HasTimestamp: true, Timestamp: time.Date(2018, 4, 5, 17, 31, 0, 0, time.UTC).UnixNano(),
		Attributes: []byte(`{"specversion":"1.0","subject":"larger-context","comexampleextension1":"value","comexampleothervalue":5,"datacontenttype":"application/json"}`),
		Payload:    []byte(`{"k":"v"}`), Raw: []byte(event),
	}
	for f, body := range map[Format]string{CloudEvent: " " + event + "\n", CloudEventBatch: "[ " + event + " ]"} {
		events, err := NewScanner().Scan([]byte(body), f, Limits{})
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff([]Event{want}, events); diff != "" {
			t.Fatal(diff)
		}
	}
}

func TestBinaryCloudEventDataBecomesAMarkedString(t *testing.T) {
	const event = `{"specversion":"1.0","type":"t","source":"s","id":"1","data_base64":"aGk="}`
	events, err := NewScanner().Scan([]byte(event), CloudEvent, Limits{})
	if err != nil || events[0].Reason != "" {
		t.Fatal(err, events)
	}
	if got := string(events[0].Payload); got != `"aGk="` {
		t.Errorf("payload %s", got)
	}
	if got := string(events[0].Attributes); got != `{"specversion":"1.0","data_base64":true}` {
		t.Errorf("attributes %s", got)
	}
}

func TestEventsThatAreRejectedSayWhy(t *testing.T) {
	long := strings.Repeat("a", 3000)
	var many strings.Builder
	for i := range MaxAttributes + 1 {
		fmt.Fprintf(&many, `"m%d":0,`, i)
	}
	for _, c := range []struct{ name, event, reason string }{
		{"not an object", `"text"`, reasonNotObject},
		{"no type", `{"id":"1"}`, reasonTypeMissing},
		{"a type that is null", `{"type":null}`, reasonTypeMissing},
		{"an empty type", `{"type":""}`, reasonTypeEmpty},
		{"a type that is a number", `{"type":7}`, reasonTypeKind},
		{"a type that is an object", `{"type":{}}`, reasonTypeKind},
		{"a long type", `{"type":"` + long[:257] + `"}`, reasonTypeLong},
		{"a type with half a surrogate pair", `{"type":"\ud800x"}`, reasonTypeText},
		{"an empty id", `{"type":"a","id":""}`, reasonIDEmpty},
		{"an id that is a number", `{"type":"a","id":7}`, reasonIDKind},
		{"a long id", `{"type":"a","id":"` + long[:257] + `"}`, reasonIDLong},
		{"an id with half a surrogate pair", `{"type":"a","id":"\udc00"}`, reasonIDText},
		{"a source that is a list", `{"type":"a","source":[]}`, reasonSourceKind},
		{"a long source", `{"type":"a","source":"` + long[:2049] + `"}`, reasonSourceLong},
		{"a source with half a surrogate pair", `{"type":"a","source":"\ud83d\u0041"}`, reasonSourceText},
		{"an empty tenant", `{"type":"a","tenantId":""}`, reasonTenantEmpty},
		{"a tenant that is a boolean", `{"type":"a","tenantId":true}`, reasonTenantKind},
		{"a tenant that is too long", `{"type":"a","tenantId":"` + long[:257] + `"}`, reasonTenantLong},
		{"a tenant with half a surrogate pair", `{"type":"a","tenantId":"\ud83d"}`, reasonTenantText},
		{"a time that is a number", `{"type":"a","timestamp":1700000000}`, reasonTimeKind},
		{"a time that is none", `{"type":"a","timestamp":"yesterday"}`, reasonTimeForm},
		{"a member twice", `{"type":"a","id":"1","id":"1"}`, `"id" is there twice: send each name once`},
		{"a member twice, once with an escape", `{"type":"a","\u0074ype":"a"}`, `"type" is there twice: send each name once`},
		{"an unknown member twice", `{"type":"a","x":1,"x":1}`, reasonDuplicate},
		{"a null member twice", `{"type":"a","id":null,"id":"1"}`, `"id" is there twice: send each name once`},
		{"too many members", `{` + many.String() + `"type":"a"}`, reasonManyOthers},
		{"NUL in the payload", `{"type":"a","payload":{"k":["\u0000"]}}`, reasonNUL},
		{"NUL in a name", `{"type":"a","payload":{"\u0000":1}}`, reasonNUL},
		{"NUL in the id", `{"type":"a","id":"\u0000"}`, reasonNUL},
		{"bytes that are not UTF-8 in the payload", "{\"type\":\"a\",\"payload\":\"\xff\"}", reasonNotUTF8},
		{"an overlong encoding", "{\"type\":\"a\",\"payload\":\"\xc0\xaf\"}", reasonNotUTF8},
		{"a surrogate in UTF-8", "{\"type\":\"a\",\"payload\":\"\xed\xa0\x80\"}", reasonNotUTF8},
		{"bytes that are not UTF-8 in a name", "{\"type\":\"a\",\"\xe9\":1}", reasonNotUTF8},
		{"too deep", `{"type":"a","payload":` + strings.Repeat("[", 64) + strings.Repeat("]", 64) + `}`, "the event nests 65 deep, more than the 64 allowed: flatten it"},
		{"too large", `{"type":"a","payload":"` + strings.Repeat("a", 256<<10) + `"}`, "the event is 262169 bytes, more than the 262144 allowed: send less in one event"},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := scanOne(t, c.event, Limits{})
			if e.Reason != c.reason {
				t.Fatalf("reason %q, want %q", e.Reason, c.reason)
			}
			if string(e.Raw) != c.event {
				t.Fatalf("raw %.80q, want %.80q", e.Raw, c.event)
			}
		})
	}
}

func TestTheLimitsThemselvesAreAllowed(t *testing.T) {
	long := strings.Repeat("a", 2048)
	var most strings.Builder
	for i := range MaxAttributes {
		fmt.Fprintf(&most, `"m%d":0,`, i)
	}
	for _, event := range []string{
		`{"type":"` + long[:256] + `","id":"` + long[:256] + `","source":"` + long + `"}`,
		`{"type":"` + strings.Repeat(`\u0061`, 256) + `"}`,
		`{"type":"a","payload":` + strings.Repeat("[", 63) + strings.Repeat("]", 63) + `}`,
		`{` + most.String() + `"type":"a"}`,
		`{"type":"a","payload":"` + strings.Repeat("a", 256<<10-len(`{"type":"a","payload":""}`)) + `"}`,
		`{"type":"a","payload":"\ud800 stays as it is"}`,
	} {
		if e := scanOne(t, event, Limits{}); e.Reason != "" {
			t.Errorf("%.60s… is rejected: %s", event, e.Reason)
		}
	}
}

func TestCloudEventsThatAreRejectedSayWhy(t *testing.T) {
	const base = `"specversion":"1.0","id":"1","source":"s","type":"t"`
	for _, c := range []struct{ name, event, reason string }{
		{"no version", `{"id":"1","source":"s","type":"t"}`, reasonCloudVersion},
		{"an old version", `{"specversion":"0.3","id":"1","source":"s","type":"t"}`, reasonCloudVersion},
		{"a version that is a number", `{"specversion":1.0,"id":"1","source":"s","type":"t"}`, reasonCloudVersion},
		{"no id", `{"specversion":"1.0","source":"s","type":"t"}`, reasonCloudID},
		{"no source", `{"specversion":"1.0","id":"1","type":"t"}`, reasonCloudSource},
		{"an empty source", `{"specversion":"1.0","id":"1","source":"","type":"t"}`, reasonCloudSource},
		{"no type", `{"specversion":"1.0","id":"1","source":"s"}`, reasonCloudType},
		{"both kinds of data", `{` + base + `,"data":1,"data_base64":"aGk="}`, reasonCloudData},
		{"data that is not base64", `{` + base + `,"data_base64":"a-b_"}`, reasonCloudBase64},
		{"base64 without padding", `{` + base + `,"data_base64":"aGk"}`, reasonCloudBase64},
		{"binary data that is a number", `{` + base + `,"data_base64":7}`, reasonCloudBase64},
		{"an attribute in camel case", `{` + base + `,"comeFrom":"x"}`, reasonCloudName},
		{"an attribute that is an object", `{` + base + `,"ext":{}}`, reasonCloudValue},
		{"an attribute twice", `{` + base + `,"ext":null,"ext":1}`, reasonDuplicate},
	} {
		t.Run(c.name, func(t *testing.T) {
			events, err := NewScanner().Scan([]byte(c.event), CloudEvent, Limits{})
			if err != nil || events[0].Reason != c.reason {
				t.Fatalf("error %v, reason %q, want %q", err, events[0].Reason, c.reason)
			}
		})
	}
}

func TestARejectedEventKeepsTheIDThatCouldBeRead(t *testing.T) {
	for event, id := range map[string]string{
		`{"id":"1","type":7}`:                     "1",
		`{"type":7,"id":"1"}`:                     "1",
		`{"type":"a","id":"1\u0000"}`:             "",
		"{\"type\":\"\xff\",\"id\":\"1\"}":        "1",
		"{\"type\":\"a\",\"id\":\"\xff\"}":        "",
		`{"type":"a","id":"\ud800"}`:              "",
		`{"type":"a","id":"1","payload":[[[1]]]}`: "1",
	} {
		e := scanOne(t, event, Limits{MaxDepth: 3})
		if e.Reason == "" || string(e.ID) != id {
			t.Errorf("%q: id %q, reason %q", event, e.ID, e.Reason)
		}
	}
}

func TestBodiesThatAreRefusedSayWhyAndWhere(t *testing.T) {
	const e = `{"type":"a"}`
	for _, c := range []struct {
		name   string
		format Format
		body   string
		code   Code
		offset int
		says   string
	}{
		{"nothing", JSON, "", Empty, 0, "empty"},
		{"white space", JSON, " \r\n\t", Empty, 4, "empty"},
		{"no lines", NDJSON, "\n \r\n", Empty, 4, "at least one"},
		{"an empty array", JSON, " [ ] ", Empty, 5, "at least one"},
		{"an empty list of events", JSON, `{"events":[]}`, Empty, 13, "at least one"},
		{"an empty CloudEvents batch", CloudEventBatch, "[]", Empty, 2, "at least one"},
		{"too many events", JSON, "[" + e + "," + e + "," + e + "]", TooManyEvents, 27, "more than 2"},
		{"too many lines", NDJSON, e + "\n\n" + e + "\n" + e, TooManyEvents, 27, "more than 2"},
		{"a bare event", JSON, e, WrongShape, 0, "wrap it in an array"},
		{"an empty object", JSON, "{}", WrongShape, 0, `"events"`},
		{"an object of something else", JSON, `{"items":[]}`, WrongShape, 0, `"events"`},
		{"a member before events", JSON, `{"a":1,"events":[` + e + `]}`, WrongShape, 0, `"events"`},
		{"a member beside events", JSON, `{"events":[` + e + `],"a":1}`, WrongShape, 0, `beside "events"`},
		{"events twice", JSON, `{"events":[` + e + `],"\u0065vents":[]}`, WrongShape, 0, "twice"},
		{"events that are no array", JSON, `{"events":` + e + `}`, WrongShape, 0, "not an array"},
		{"a number", JSON, " 7", WrongShape, 1, "no batch"},
		{"a CloudEvents batch sent as one", CloudEvent, "[]", WrongShape, 0, "cloudevents-batch"},
		{"one CloudEvent sent as a batch", CloudEventBatch, "{}", WrongShape, 0, "application/cloudevents+json"},
		{"a wrong shape that is not JSON either", JSON, `{"a":1,}`, Malformed, 7, "member name"},
		{"text", JSON, "hello", Malformed, 0, "JSON value"},
		{"two bodies", JSON, "[" + e + "] []", Malformed, 15, "follows"},
		{"two CloudEvents", CloudEvent, `{} {}`, Malformed, 3, "follows"},
		{"an array that does not end", JSON, "[" + e, Malformed, 13, "too early"},
		{"an array that ends with a comma", JSON, "[" + e + ",]", Malformed, 14, "JSON value"},
		{"no comma between events", JSON, "[" + e + e + "]", Malformed, 13, `"," or "]"`},
		{"a string that does not end", JSON, `[{"type":"a`, Malformed, 11, "not closed"},
		{"a line end in a string", JSON, "[{\"type\":\"a\n\"}]", Malformed, 11, "control character"},
		{"an unknown escape", JSON, `[{"type":"\x"}]`, Malformed, 10, "escape"},
		{"an escape of too few digits", JSON, `[{"type":"\u00g0"}]`, Malformed, 10, "hexadecimal"},
		{"a number with a leading zero", JSON, `[{"a":01}]`, Malformed, 7, `"," or "}"`},
		{"a number that ends with its point", JSON, `[{"a":1.}]`, Malformed, 8, "number"},
		{"a byte order mark", NDJSON, "\ufeff" + e, Malformed, 0, "byte order mark"},
		{"UTF-16", JSON, "\xff\xfe[\x00]\x00", Malformed, 0, "UTF-16"},
		{"nesting without end", JSON, strings.Repeat("[", 1e6), Malformed, 10_000, "10,000"},
		{"an unknown format", Format(9), "[]", WrongShape, 0, "format 9"},
	} {
		t.Run(c.name, func(t *testing.T) {
			events, err := NewScanner().Scan([]byte(c.body), c.format, Limits{MaxEvents: 2})
			var got *SyntaxError
			if !errors.As(err, &got) || events != nil {
				t.Fatalf("%d events, error %v", len(events), err)
			}
			if got.Code != c.code || got.Offset != c.offset || !strings.Contains(got.Reason, c.says) {
				t.Fatalf("%v at %d: %q; want %v at %d, saying %q", got.Code, got.Offset, got.Reason, c.code, c.offset, c.says)
			}
		})
	}
}

func TestALineStandsForItself(t *testing.T) {
	const body = "\r\n" + `{"type":"a","id":"1"}` + "\r\n  \n" + `{"type":"b","id":"2"` + "\n\t" + `{"type":"c"} {"type":"d"}` + " \r\n" + `[{"type":"e"}]` + "\n" + `{"type":"f"}`
	events, err := NewScanner().Scan([]byte(body), NDJSON, Limits{})
	if err != nil {
		t.Fatal(err)
	}
	type line struct{ Type, ID, Raw, Payload, Reason string }
	var got []line
	for _, e := range events {
		got = append(got, line{string(e.Type), string(e.ID), string(e.Raw), string(e.Payload), e.Reason})
	}
	want := []line{
		{"a", "1", `{"type":"a","id":"1"}`, "null", ""},
		{"b", "2", `{"type":"b","id":"2"`, "null", "the line is not one JSON object: at byte 20 of it: " + reasonEnds},
		{"c", "", `{"type":"c"} {"type":"d"}`, "null", "the line is not one JSON object: at byte 14 of it: something follows after the event: write one event a line"},
		{"", "", `[{"type":"e"}]`, "null", reasonNotObject},
		{"f", "", `{"type":"f"}`, "null", ""},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Fatal(diff)
	}
}

func TestABadLineKeepsNoTextThatCannotBeStored(t *testing.T) {
	events, err := NewScanner().Scan([]byte("{\"type\":\"a\",\"id\":\"\xff\",\"source\":\"\\u0000\"\n"), NDJSON, Limits{})
	if err != nil {
		t.Fatal(err)
	}
	if e := events[0]; e.Reason == "" || e.ID != nil || e.Source != nil || string(e.Type) != "a" {
		t.Fatalf("id %q, source %q, type %q, reason %q", e.ID, e.Source, e.Type, e.Reason)
	}
}

func TestABadEventDoesNotSpoilItsBatch(t *testing.T) {
	const body = `{"events":[{"type":"a"},{"type":7},"x",{"type":"b","payload":"\u0000"},{"type":"c","payload":1}]}`
	events, err := NewScanner().Scan([]byte(body), JSON, Limits{})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range events {
		got = append(got, e.Reason)
	}
	if diff := cmp.Diff([]string{"", reasonTypeKind, reasonNotObject, reasonNUL, ""}, got); diff != "" {
		t.Fatal(diff)
	}
}

func TestWebhooksComeThroughByteForByte(t *testing.T) {
	s := NewScanner()
	for _, line := range webhooks(t) {
		events, err := s.Scan(line, NDJSON, Limits{})
		if err != nil || len(events) != 1 || events[0].Reason != "" {
			t.Fatalf("error %v, events %+v", err, events)
		}
		_, after, _ := bytes.Cut(line, []byte(`"payload":`))
		if got := events[0].Payload; !bytes.Equal(got, after[:len(got)]) || len(got)+1 != len(after) {
			t.Fatalf("payload differs: %.100s", line)
		}
	}
}

func TestScanningAllocatesNothingOnceItIsWarm(t *testing.T) {
	escaped := []byte(`[{"type":"caf\u00e9","id":"a\/b","x":1,"y":"\u00e9","payload":"\ud83d\ude00"},{"type":"b","z":null}]`)
	cloud := []byte(`[{"specversion":"1.0","id":"1","source":"s","type":"t","ext":1,"data_base64":"aGk="}]`)
	lines := bytes.Join(webhooks(t)[:50], []byte("\n"))
	for _, c := range []struct {
		name   string
		body   []byte
		format Format
	}{
		{"telemetry", telemetryBatch(100), JSON}, {"escapes and attributes", escaped, JSON},
		{"CloudEvents", cloud, CloudEventBatch}, {"lines", lines, NDJSON},
	} {
		s := NewScanner()
		scan := func() {
			events, err := s.Scan(c.body, c.format, Limits{})
			if err != nil || events[0].Reason != "" {
				t.Fatal(err, events)
			}
			s.Reset()
		}
		scan()
		if n := testing.AllocsPerRun(100, scan); n != 0 {
			t.Errorf("%s: %v allocations", c.name, n)
		}
	}
}

func TestResetLetsGoOfTheBodyAndOfMuchMemory(t *testing.T) {
	s := NewScanner()
	var many strings.Builder
	for range 2000 {
		many.WriteString(`{"type":"a","x":"` + strings.Repeat("x", 1000) + `"}` + "\n")
	}
	for _, body := range []string{many.String(), `{"type":"b","y":1}`} {
		if _, err := s.Scan([]byte(body), NDJSON, Limits{MaxEvents: 5000}); err != nil {
			t.Fatal(err)
		}
	}
	s.Reset()
	if cap(s.arena) > maxKeptArenaBytes || cap(s.events) > maxKeptEvents {
		t.Fatalf("keeps %d bytes and %d events", cap(s.arena), cap(s.events))
	}
	if _, err := s.Scan([]byte(`{"type":"b","y":1}`), NDJSON, Limits{}); err != nil {
		t.Fatal(err)
	}
	s.Reset()
	for _, e := range s.events[:cap(s.events)] {
		if e.Raw != nil || e.Payload != nil || e.Type != nil {
			t.Fatal("an event still holds on to its body")
		}
	}
	for _, m := range s.others[:cap(s.others)] {
		if m.name != nil {
			t.Fatal("a member still holds on to its body")
		}
	}
}

func TestAMemberOfAnObjectIsFound(t *testing.T) {
	const object = ` { "a" : {"type":1} , "t\u0079pe" : "x" , "type":"y" } `
	for name, want := range map[string]string{"type": `"x"`, "a": `{"type":1}`, "Type": "", "b": ""} {
		if got := string(Member([]byte(object), name)); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	for _, text := range []string{"", "[]", "7", "{", "{}", `{"a"`, `{"a":`, `{"a":1`, `{"a":1,`} {
		if got := Member([]byte(text), "type"); got != nil {
			t.Errorf("%s has a member %q", text, got)
		}
	}
}
