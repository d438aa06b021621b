package load

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// loaded returns a fake server with a finished run of 300 events and its file.
// 20 events are of unknown outcome; half of them were stored.
func loaded(t *testing.T) (*fakeServer, string) {
	t.Helper()
	f := newFakeServer(t)
	f.before = func(post int, w http.ResponseWriter, batch []storedEvent) bool {
		if post == 2 || post == 3 {
			if post == 2 {
				f.store(batch)
			}
			w.WriteHeader(http.StatusInternalServerError)
			return true
		}
		return false
	}
	path := filepath.Join(t.TempDir(), "acked")
	if _, err := Events(t.Context(), EventsOptions{URL: f.URL, Batch: 10, Count: 320, Connections: 1, AckedFile: path}); err != nil {
		t.Fatal(err)
	}
	return f, path
}

func TestVerifyingFindsEveryKindOfFault(t *testing.T) {
	clean := VerifyReport{Acked: 300, Unsure: 20, Found: 300, UnsureFound: 10, Walked: 310, Asked: 310, StatsChecked: 8}
	for name, c := range map[string]struct {
		break_ func(f *fakeServer)
		shared bool
		want   func(r *VerifyReport)
		says   string // empty = no fault
	}{
		"nothing": {break_: func(*fakeServer) {}, want: func(*VerifyReport) {}},
		"a lost event": {
			break_: func(f *fakeServer) { f.events = append(f.events[:100], f.events[101:]...) },
			want:   func(r *VerifyReport) { r.Found--; r.Walked--; r.Missing++; r.Asked-- },
			says:   "1 missing",
		},
		"the last event lost": {
			break_: func(f *fakeServer) { f.events = f.events[:309] },
			want:   func(r *VerifyReport) { r.Found--; r.Walked--; r.Missing++; r.Asked-- },
			says:   "1 missing",
		},
		"a doubled event": {
			break_: func(f *fakeServer) { f.events = append(f.events, f.events[50]) },
			want:   func(r *VerifyReport) { r.Walked++; r.Doubled++ },
			says:   "1 doubled",
		},
		"a doubled event of unknown outcome": {
			break_: func(f *fakeServer) { f.events = append(f.events, f.events[10]) },
			want:   func(r *VerifyReport) { r.Walked++; r.Doubled++ },
			says:   "1 doubled",
		},
		"a payload swapped with another": {
			break_: func(f *fakeServer) { f.events[7].Payload = f.events[8].Payload },
			// Seen by the walk and again when asked for by id.
			want: func(r *VerifyReport) { r.Changed += 2 },
			says: "2 changed",
		},
		"a payload with white space": {
			break_: func(f *fakeServer) { f.events[7].Payload = append([]byte("  "), f.events[7].Payload...) },
			// A JSON encoder takes the space out again: only the statistics notice.
			want: func(r *VerifyReport) { r.StatsWrong++ },
			says: "1 types with wrong statistics",
		},
		"a payload with other escapes": {
			break_: func(f *fakeServer) {
				f.events[7].Payload = bytes.Replace(f.events[7].Payload, []byte("pressure"), []byte(`\u0070ressure`), 1)
				f.events[8].Payload = f.events[8].Payload[:len(f.events[8].Payload):len(f.events[8].Payload)]
			},
			want: func(r *VerifyReport) { r.Rewritten++; r.StatsWrong++ },
			says: "1 types with wrong statistics",
		},
		"another type": {
			break_: func(f *fakeServer) { f.events[7].Type = "other" },
			want:   func(r *VerifyReport) { r.Changed += 2; r.StatsChecked++ },
			says:   "2 changed",
		},
		"another timestamp": {
			break_: func(f *fakeServer) { f.events[7].Timestamp = f.events[7].Timestamp.Add(time.Millisecond) },
			want:   func(r *VerifyReport) { r.Changed += 2 },
			says:   "the timestamp was",
		},
		"an event nobody sent": {
			break_: func(f *fakeServer) {
				e := f.events[0]
				e.ID = "stranger"
				f.events = append(f.events, e)
			},
			want: func(r *VerifyReport) { r.Walked++; r.Strangers++ },
			says: "stranger",
		},
		"an event of another client": {
			shared: true,
			break_: func(f *fakeServer) {
				e := f.events[0]
				e.ID = "stranger"
				f.events = append(f.events, e)
			},
			want: func(r *VerifyReport) { r.Walked++; r.Strangers++ },
		},
		"statistics that count too many": {
			break_: func(f *fakeServer) { f.offCount = 1 },
			want:   func(r *VerifyReport) { r.StatsWrong = 8 },
			says:   "8 types with wrong statistics",
		},
		"statistics that count too few, shared": {
			shared: true,
			break_: func(f *fakeServer) { f.offCount = -1 },
			want:   func(r *VerifyReport) { r.StatsWrong = 8 },
			says:   "8 types with wrong statistics",
		},
	} {
		t.Run(name, func(t *testing.T) {
			f, path := loaded(t)
			c.break_(f)
			var out bytes.Buffer
			jsonFile := filepath.Join(t.TempDir(), "verify.json")
			got, err := VerifyEvents(t.Context(), VerifyOptions{URL: f.URL, AckedFiles: []string{path}, Wait: -1, Each: true, Shared: c.shared, Out: &out, JSONFile: jsonFile})
			want := clean
			c.want(&want)
			if d := cmp.Diff(want, got, cmpopts.IgnoreFields(VerifyReport{}, "From", "To", "Seconds", "Examples")); d != "" {
				t.Errorf("report (-want +got):\n%s\n%q", d, got.Examples)
			}
			if c.says == "" {
				if err != nil || !strings.Contains(out.String(), "every acknowledged event is there once") {
					t.Errorf("error %v, output:\n%s", err, &out)
				}
			} else {
				if !errors.Is(err, ErrBroken) {
					t.Fatalf("error is %v, want ErrBroken", err)
				}
				if all := err.Error() + strings.Join(got.Examples, "\n"); !strings.Contains(all, c.says) {
					t.Errorf("no %q in %s", c.says, all)
				}
			}
			var back VerifyReport
			if text, err := os.ReadFile(jsonFile); err != nil || json.Unmarshal(text, &back) != nil {
				t.Errorf("the report file: %v", err)
			}
		})
	}
}

func TestVerifyingWaitsUntilTheEventsAreQueryable(t *testing.T) {
	f, path := loaded(t)
	all := f.events
	f.events = all[:150]
	asked := make(chan struct{}, 100)
	inner := f.Config.Handler
	f.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		inner.ServeHTTP(w, r)
		asked <- struct{}{}
	})
	go func() {
		<-asked
		<-asked
		f.mu.Lock()
		f.events = all
		f.mu.Unlock()
		for range asked { //nolint:revive // the others need no room
		}
	}()
	r, err := VerifyEvents(t.Context(), VerifyOptions{URL: f.URL, AckedFiles: []string{path}, Wait: time.Minute})
	if err != nil {
		t.Errorf("%v\n%q", err, r.Examples)
	}
}

func TestVerifyingSeveralRunsTogetherKnowsAllOfTheirEvents(t *testing.T) {
	f := newFakeServer(t)
	dir := t.TempDir()
	files := []string{filepath.Join(dir, "a"), filepath.Join(dir, "b")}
	for i, path := range files {
		if _, err := Events(t.Context(), EventsOptions{URL: f.URL, Batch: 7, Count: 50 * (i + 1), Connections: 2, EventsPerType: 1 + i, AckedFile: path}); err != nil {
			t.Fatal(err)
		}
	}
	r, err := VerifyEvents(t.Context(), VerifyOptions{URL: f.URL, AckedFiles: files})
	if err != nil || r.Found != 150 {
		t.Errorf("%v, found %d", err, r.Found)
	}
	// Without the second file its events are strangers.
	if r, err = VerifyEvents(t.Context(), VerifyOptions{URL: f.URL, AckedFiles: files[1:]}); err == nil && r.Strangers != 0 {
		t.Errorf("%v, %d strangers", err, r.Strangers)
	}
}

func TestVerifyingPagesThroughMoreThanOnePage(t *testing.T) {
	f := newFakeServer(t)
	path := filepath.Join(t.TempDir(), "acked")
	if _, err := Events(t.Context(), EventsOptions{URL: f.URL, Batch: 2500, Count: 5000, Connections: 1, MaxBodyBytes: 4 << 20, AckedFile: path}); err != nil {
		t.Fatal(err)
	}
	r, err := VerifyEvents(t.Context(), VerifyOptions{URL: f.URL, AckedFiles: []string{path}})
	if err != nil || r.Walked != 5000 || r.Asked < sampleIDs || r.Asked > 2*sampleIDs {
		t.Errorf("%v, %+v", err, r)
	}
}

func TestVerifyingSaysWhatTheServerSaid(t *testing.T) {
	_, path := loaded(t)
	f := newFakeServer(t)
	f.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusForbidden)
		_, _ = w.Write([]byte(`{"title":"Forbidden","detail":"the token needs the scope events:read"}`))
	})
	if _, err := VerifyEvents(t.Context(), VerifyOptions{URL: f.URL, AckedFiles: []string{path}}); err == nil || !strings.Contains(err.Error(), "needs the scope events:read") {
		t.Errorf("error is %v", err)
	}
	for _, o := range []VerifyOptions{{URL: f.URL}, {URL: "x", AckedFiles: []string{path}}, {URL: f.URL, AckedFiles: []string{path}, Concurrency: -1}} {
		if _, err := VerifyEvents(t.Context(), o); err == nil {
			t.Errorf("options %+v were taken", o)
		}
	}
}
