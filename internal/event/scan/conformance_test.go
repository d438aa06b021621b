package scan

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestJSONTestSuite(t *testing.T) {
	counts := map[byte]int{}
	for _, f := range suite(t) {
		t.Run(f.name, func(t *testing.T) {
			reference := json.Valid(f.text) && utf8.Valid(f.text)
			want := reference
			switch f.name[0] {
			case 'y':
				want = true
			case 'n':
				want = false
			}
			if want != reference {
				t.Fatalf("encoding/json says %v, the suite %v", reference, want)
			}
			if got := Valid(f.text); got != want {
				t.Fatalf("Valid is %v, want %v: %.80q", got, want, f.text)
			}
			checkAsPayload(t, f.text)
		})
		counts[f.name[0]]++
	}
	if counts['y'] != 95 || counts['n'] != 188 || counts['i'] != 35 {
		t.Fatalf("the suite is not complete: %v", counts)
	}
}

// checkAsPayload scans a text as the payload of an event in every native format
// and checks that it spoils the body exactly if encoding/json says so.
func checkAsPayload(t *testing.T, text []byte) {
	t.Helper()
	event := `{"type":"a","payload":` + string(text) + `}`
	var s Scanner
	for _, body := range []string{"[" + event + "]", `{"events":[` + event + `]}`} {
		events, err := s.Scan([]byte(body), JSON, Limits{})
		var syntax *SyntaxError
		switch {
		case err == nil:
			if !json.Valid([]byte(body)) {
				t.Fatalf("accepted, but encoding/json refuses it: %.120q", body)
			}
			if json.Valid(text) { // it may be two values that make two members
				checkRejection(t, events[0], text)
			}
		case !errors.As(err, &syntax):
			t.Fatalf("error is a %T: %v", err, err)
		case syntax.Code == Malformed && json.Valid([]byte(body)):
			t.Fatalf("refused, but encoding/json accepts it: %v: %.120q", err, body)
		}
	}
	line := strings.NewReplacer("\n", " ", "\r", " ").Replace(event)
	events, err := s.Scan([]byte(line), NDJSON, Limits{})
	if err != nil || len(events) != 1 {
		t.Fatalf("as a line: %d events, error %v", len(events), err)
	}
	if bad := strings.Contains(events[0].Reason, "is not one JSON object"); bad == json.Valid([]byte(line)) {
		t.Fatalf("as a line: reason %q, encoding/json says %v", events[0].Reason, !bad)
	}
}

// checkRejection checks the verdict on an event whose payload is a text that is
// well-formed: only encoding, NUL and depth may spoil it.
func checkRejection(t *testing.T, e Event, text []byte) {
	t.Helper()
	switch {
	case !utf8.Valid(text):
		if e.Reason != reasonNotUTF8 {
			t.Fatalf("reason %q for text that is not UTF-8", e.Reason)
		}
	case e.Reason == reasonNUL:
		if !strings.Contains(string(text), `\u0000`) {
			t.Fatal("rejected for a NUL that is not there")
		}
	case strings.Contains(e.Reason, " deep, more than the 64 allowed"):
		if strings.Count(string(text), "[")+strings.Count(string(text), "{") < DefaultMaxDepth {
			t.Fatal("rejected for a depth that it does not have")
		}
	case e.Reason != "":
		t.Fatalf("rejected: %s", e.Reason)
	case strings.TrimSpace(string(text)) != string(e.Payload):
		t.Fatalf("payload %q, want %q", e.Payload, text)
	}
}
