package load

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestAnOpenLoopOffersItsRateAndEverythingAddsUp(t *testing.T) {
	f := newFakeServer(t)
	dir := t.TempDir()
	var out bytes.Buffer
	r, err := Events(t.Context(), EventsOptions{
		URL: f.URL, Rate: 2000, Batch: 10, Count: 2400, Connections: 8,
		AckedFile: filepath.Join(dir, "acked"), JSONFile: filepath.Join(dir, "report.json"), Out: &out,
	})
	if err != nil {
		t.Fatal(err)
	}
	want := Counts{Sent: 2400, Acked: 2400, Batches: 240, Late: r.Events.Late}
	if d := cmp.Diff(want, r.Events); d != "" {
		t.Errorf("counts (-want +got):\n%s", d)
	}
	if r.Mode != OpenLoop || r.Statuses["202"] != 240 || r.Accept.Count != 240 || r.Accept.P50Ms <= 0 || r.Seconds < 1.19 {
		t.Errorf("report is %+v", r)
	}
	if len(f.events) != 2400 {
		t.Errorf("the server has %d events", len(f.events))
	}
	for _, want := range []string{"s  sent ", "open loop, 2,000 events/s", "acked", "intended send time: p50", "202 × 240"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in the output:\n%s", want, &out)
		}
	}
	var back Report
	text, err := os.ReadFile(filepath.Join(dir, "report.json"))
	if err != nil || json.Unmarshal(text, &back) != nil {
		t.Fatalf("the report file: %v\n%s", err, text)
	}
	if d := cmp.Diff(r, back); d != "" {
		t.Errorf("the report file differs (-returned +file):\n%s", d)
	}
}

func TestAStallIsChargedToEveryBatchThatHadToWait(t *testing.T) {
	stall := func(rate int) Report {
		f := newFakeServer(t)
		f.before = func(post int, _ http.ResponseWriter, _ []storedEvent) bool {
			if post == 1 {
				<-time.After(400 * time.Millisecond)
			}
			return false
		}
		r, err := Events(t.Context(), EventsOptions{URL: f.URL, Rate: rate, Batch: 1, Count: 100, Connections: 1})
		if err != nil {
			t.Fatal(err)
		}
		if r.Events.Acked != 100 {
			t.Fatalf("%d of 100 acked", r.Events.Acked)
		}
		return r
	}
	// 200 batches a second: about 80 are due during the stall of the only
	// connection, so the median has waited as well.
	open := stall(200)
	if open.Accept.P50Ms < 100 || open.Events.Late < 60 {
		t.Errorf("open loop: p50 %.1f ms and %d late; the stall was hidden", open.Accept.P50Ms, open.Events.Late)
	}
	closed := stall(0)
	if closed.Mode != ClosedLoop || closed.Accept.P50Ms > 100 || closed.Accept.MaxMs < 390 || closed.Events.Late != 0 {
		t.Errorf("closed loop: %s, %+v", closed.Accept, closed)
	}
}

func TestBatchesThatCouldNotLeaveInTimeAreCountedAsMissed(t *testing.T) {
	f := newFakeServer(t)
	release := make(chan struct{})
	f.before = func(post int, _ http.ResponseWriter, _ []storedEvent) bool {
		if post == 1 { // long after the end of the run
			time.AfterFunc(1500*time.Millisecond, func() { close(release) })
		}
		<-release
		return false
	}
	r, err := Events(t.Context(), EventsOptions{URL: f.URL, Rate: 1000, Batch: 10, Duration: 500 * time.Millisecond, Connections: 2})
	if err != nil {
		t.Fatal(err)
	}
	if r.Events.Sent+r.Events.Missed != 500 || r.Events.Missed < 400 || r.Events.Acked != r.Events.Sent {
		t.Errorf("counts are %+v; 500 events were due", r.Events)
	}
}

func TestAClosedLoopStopsExactlyAtItsCount(t *testing.T) {
	f := newFakeServer(t)
	r, err := Events(t.Context(), EventsOptions{URL: f.URL, Batch: 100, Count: 1234, Connections: 4})
	if err != nil {
		t.Fatal(err)
	}
	if r.Events.Acked != 1234 || len(f.events) != 1234 {
		t.Errorf("acked %d, stored %d", r.Events.Acked, len(f.events))
	}
}

func TestARefusedBatchIsCountedAndNotSentAgain(t *testing.T) {
	f := newFakeServer(t)
	f.before = func(post int, w http.ResponseWriter, _ []storedEvent) bool {
		switch post {
		case 1:
			w.Header().Set("Retry-After", "1")
			w.WriteHeader(http.StatusServiceUnavailable)
		case 2:
			w.WriteHeader(http.StatusTooManyRequests)
		case 3:
			w.WriteHeader(http.StatusInternalServerError)
		case 4:
			w.WriteHeader(http.StatusUnprocessableEntity)
		}
		return post <= 4
	}
	r, err := Events(t.Context(), EventsOptions{URL: f.URL, Batch: 10, Count: 100, Connections: 1})
	if err != nil {
		t.Fatal(err)
	}
	want := Counts{Sent: 100, Acked: 60, Refused: 20, Unknown: 10, Failed: 10, Batches: 10}
	if d := cmp.Diff(want, r.Events); d != "" {
		t.Errorf("counts (-want +got):\n%s", d)
	}
	if d := cmp.Diff(map[string]int64{"202": 6, "429": 1, "503": 1, "500": 1, "422": 1}, r.Statuses); d != "" {
		t.Errorf("statuses (-want +got):\n%s", d)
	}
	if r.Refusal.Count != 2 || r.Accept.Count != 6 {
		t.Errorf("%d refusals and %d accepts have a latency", r.Refusal.Count, r.Accept.Count)
	}
}

func TestARetryObeysRetryAfterAndSendsTheSameBytes(t *testing.T) {
	f := newFakeServer(t)
	f.keepBodies = true
	var times []time.Time
	var mu sync.Mutex
	f.before = func(post int, w http.ResponseWriter, batch []storedEvent) bool {
		mu.Lock()
		times = append(times, time.Now())
		mu.Unlock()
		switch post {
		case 1: // definitely not stored
			w.Header().Set("Retry-After", "1")
			w.WriteHeader(http.StatusServiceUnavailable)
		case 2: // stored, but the answer does not say so
			f.store(batch)
			w.Header().Set("Content-Type", "application/problem+json")
			w.WriteHeader(http.StatusServiceUnavailable)
			_, _ = w.Write([]byte(`{"type":"https://millrace.dev/problems/outcome-unknown","title":"x"}`))
		case 3: // the connection breaks
			panic(http.ErrAbortHandler)
		}
		return post <= 3
	}
	r, err := Events(t.Context(), EventsOptions{URL: f.URL, Batch: 10, Count: 10, Connections: 1, Retry: true})
	if err != nil {
		t.Fatal(err)
	}
	want := Counts{Sent: 10, Acked: 10, Duplicates: 10, Batches: 1, Retries: 3}
	if d := cmp.Diff(want, r.Events); d != "" {
		t.Errorf("counts (-want +got):\n%s", d)
	}
	if waited := times[1].Sub(times[0]); waited < time.Second {
		t.Errorf("the retry came after %s although Retry-After was 1 s", waited)
	}
	for i, b := range f.bodies[1:] {
		if !bytes.Equal(b, f.bodies[0]) {
			t.Errorf("attempt %d sent another body", i+2)
		}
	}
	if r.Accept.MaxMs < 1000 {
		t.Errorf("the latency of %.0f ms leaves out the time of the retries", r.Accept.MaxMs)
	}
}

func TestARetryEndsAndADoubtfulAttemptKeepsTheOutcomeUnknown(t *testing.T) {
	f := newFakeServer(t)
	f.before = func(post int, w http.ResponseWriter, _ []storedEvent) bool {
		if post == 1 {
			w.WriteHeader(http.StatusBadGateway)
		} else {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		return true
	}
	r, err := Events(t.Context(), EventsOptions{URL: f.URL, Batch: 10, Count: 10, Connections: 1, Retry: true, RetryFor: 300 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	if r.Events.Unknown != 10 || r.Events.Refused != 0 || r.Events.Retries < 1 {
		t.Errorf("counts are %+v", r.Events)
	}
}

func TestAServerThatTurnsEveryBatchAwayEndsTheRun(t *testing.T) {
	f := newFakeServer(t)
	f.before = func(_ int, w http.ResponseWriter, _ []storedEvent) bool {
		w.WriteHeader(http.StatusUnauthorized)
		_, _ = w.Write([]byte(`{"type":"https://millrace.dev/problems/token-expired","title":"Unauthorized","detail":"the token expired, get a new one"}`))
		return true
	}
	r, err := Events(t.Context(), EventsOptions{URL: f.URL, Rate: 1000, Batch: 10, Duration: time.Minute, Connections: 2})
	if !errors.Is(err, ErrTurnedAway) || !strings.Contains(err.Error(), "get a new one") {
		t.Errorf("error is %v", err)
	}
	if !r.Interrupted || r.Events.Failed == 0 {
		t.Errorf("report is %+v", r)
	}
}

func TestAServerThatIsAwayIsReportedAndNotHammered(t *testing.T) {
	f := newFakeServer(t)
	f.Close()
	r, err := Events(t.Context(), EventsOptions{URL: f.URL, Batch: 10, Duration: 200 * time.Millisecond, Connections: 1})
	if err != nil {
		t.Fatal(err)
	}
	if r.Events.Unreached != r.Events.Sent || r.Events.Batches < 1 || r.Events.Batches > 5 || len(r.Examples) != 1 {
		t.Errorf("counts are %+v, examples %q", r.Events, r.Examples)
	}
}

func TestCancellingEndsARunSoonWithItsReport(t *testing.T) {
	f := newFakeServer(t)
	release := make(chan struct{})
	defer close(release)
	ctx, cancel := context.WithCancel(t.Context())
	f.before = func(post int, _ http.ResponseWriter, _ []storedEvent) bool {
		if post == 3 {
			cancel()
			<-release // never answered while the run lasts
		}
		return false
	}
	began := time.Now()
	r, err := Events(ctx, EventsOptions{URL: f.URL, Batch: 10, Duration: time.Minute, Connections: 1})
	if !errors.Is(err, context.Canceled) || !r.Interrupted {
		t.Errorf("error %v, report %+v", err, r)
	}
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("it took %s", took)
	}
	if r.Events.Acked != 20 || r.Events.Unknown != 10 {
		t.Errorf("counts are %+v", r.Events)
	}
}

func TestOptionsThatMakeNoSenseAreRefusedAllAtOnce(t *testing.T) {
	_, err := Events(t.Context(), EventsOptions{URL: "http://x", Rate: -1, Batch: 20_000, Connections: -3, Token: "a\nb"})
	for _, want := range []string{"rate -1", "batch 20000", "duration: give", "connections -3", "token: must be one line"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("no %q in %v", want, err)
		}
	}
	for _, u := range []string{"", "127.0.0.1:8080", "ftp://x", "http://"} {
		if _, err := Events(t.Context(), EventsOptions{URL: u, Count: 1}); err == nil || !strings.Contains(err.Error(), "URL") {
			t.Errorf("URL %q gave %v", u, err)
		}
	}
}

func TestTheAckedFileListsAcceptedAndDoubtfulEventsOnly(t *testing.T) {
	f := newFakeServer(t)
	path := filepath.Join(t.TempDir(), "acked")
	f.reject = func(e storedEvent) bool { return strings.HasSuffix(e.ID, "3") }
	f.before = func(post int, w http.ResponseWriter, _ []storedEvent) bool {
		switch post {
		case 2:
			w.WriteHeader(http.StatusServiceUnavailable)
		case 3:
			w.WriteHeader(http.StatusInternalServerError)
		}
		return post == 2 || post == 3
	}
	r, err := Events(t.Context(), EventsOptions{URL: f.URL, Batch: 16, Count: 64, Connections: 1, AckedFile: path})
	if err != nil {
		t.Fatal(err)
	}
	if r.Events.Acked != 30 || r.Events.Rejected != 2 || r.Events.Refused != 16 || r.Events.Unknown != 16 {
		t.Fatalf("counts are %+v", r.Events)
	}
	set, err := readAcked([]string{path})
	if err != nil {
		t.Fatal(err)
	}
	if set.acked != 30 || set.unsure != 16 || len(set.index) != 46 || set.ended.IsZero() || len(set.last) != 1 {
		t.Errorf("the file has %d acked, %d unsure, %d ids, end %s", set.acked, set.unsure, len(set.index), set.ended)
	}
	for _, e := range f.events {
		id, _ := parseID([]byte(e.ID))
		i, ok := set.index[id]
		if !ok {
			t.Fatalf("%s is stored and not in the file", e.ID)
		}
		if p := set.payloads[set.events[i].payload]; p.Type != e.Type || p.Source != e.Source {
			t.Errorf("%s has payload %+v, it is %s of %s", e.ID, p, e.Type, e.Source)
		}
	}
}

func TestAnAckedFileThatWasCutOffCountsUpToItsLastWholeLine(t *testing.T) {
	f := newFakeServer(t)
	path := filepath.Join(t.TempDir(), "acked")
	if _, err := Events(t.Context(), EventsOptions{URL: f.URL, Batch: 10, Count: 100, Connections: 1, AckedFile: path}); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	lines := bytes.SplitAfter(text, []byte("\n"))
	cut := slices.Concat(lines[:len(lines)-3]...) // without #end and one event
	cut = append(cut, lines[0][:5]...)
	if err := os.WriteFile(path, cut, 0o600); err != nil {
		t.Fatal(err)
	}
	set, err := readAcked([]string{path})
	if err != nil {
		t.Fatal(err)
	}
	if set.acked != 99 || !set.ended.IsZero() {
		t.Errorf("%d acked, ended %s", set.acked, set.ended)
	}
}

func TestAnAckedFileThatIsDamagedIsRefusedWithItsLine(t *testing.T) {
	const head = ackedMagic + "\n#run {\"started\":\"2026-11-22T05:00:00Z\"}\n#payload 0 {\"type\":\"a\"}\n"
	const id = "019aa0a1-b2c3-7000-8000-0000000000aa"
	for name, c := range map[string]struct{ text, want string }{
		"another file":      {"hello\n", "does not begin with"},
		"empty":             {"", `no "#run" line`},
		"no run":            {ackedMagic + "\n", `no "#run" line`},
		"bad run":           {ackedMagic + "\n#run {}\n", "line 2: bad #run"},
		"payload in wrong":  {head + "#payload 2 {}\n", "line 4: bad #payload"},
		"bad id":            {head + "nope\t0\n", `line 4: "nope" is not a UUID`},
		"no tab":            {head + id + "\n", "line 4"},
		"payload not there": {head + id + "\t1\n", "line 4"},
		"the same id twice": {head + id + "\t0\n?" + id + "\t0\n", "twice"},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "acked")
			if err := os.WriteFile(path, []byte(c.text), 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := readAcked([]string{path}); err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), path) {
				t.Errorf("error is %v, want %q in it", err, c.want)
			}
		})
	}
	if _, err := readAcked([]string{"/no/such/file"}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a file that is not there gave %v", err)
	}
}
