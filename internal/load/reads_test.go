package load

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"
)

// fakeShelf shows products and places. Its knob makes it break promises.
type fakeShelf struct {
	*httptest.Server
	products []string
	places   []int

	mu       sync.Mutex
	asked    map[string]int    // by what a request asked for
	variants map[string][]byte // compressed bodies
	// before runs ahead of each GET of one thing; true means that it answered itself.
	before func(n int, w http.ResponseWriter, r *http.Request) bool
	gets   int
}

func newFakeShelf(t *testing.T) *fakeShelf {
	t.Helper()
	f := &fakeShelf{asked: map[string]int{}, variants: map[string][]byte{}}
	for i := range 230 {
		f.products = append(f.products, fmt.Sprintf("sku-%03d", i))
		f.places = append(f.places, 1000+i)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /products", func(w http.ResponseWriter, r *http.Request) {
		page, next := pageOf(f.products, r.URL.Query())
		rows := []map[string]any{}
		for _, sku := range page {
			rows = append(rows, map[string]any{"sku": sku})
		}
		answerJSON(w, 200, map[string]any{"products": rows, "nextCursor": next})
	})
	mux.HandleFunc("GET /places", func(w http.ResponseWriter, r *http.Request) {
		rows := []map[string]any{}
		if letter := r.FormValue("prefix"); letter <= "c" && r.FormValue("limit") == placesPage {
			for _, id := range f.places[:100] { // a place has many names
				rows = append(rows, map[string]any{"id": id})
			}
		}
		answerJSON(w, 200, map[string]any{"places": rows})
	})
	mux.HandleFunc("GET /products/{sku}", func(w http.ResponseWriter, r *http.Request) {
		f.show(w, r, map[string]any{"nested": map[string]any{"sku": "another"}, "sku": r.PathValue("sku")})
	})
	mux.HandleFunc("GET /places/{id}", func(w http.ResponseWriter, r *http.Request) {
		id, _ := strconv.Atoi(r.PathValue("id"))
		f.show(w, r, map[string]any{"id": id, "language": r.Header.Get("Accept-Language")})
	})
	f.Server = httptest.NewServer(mux)
	t.Cleanup(f.Close)
	return f
}

func (f *fakeShelf) show(w http.ResponseWriter, r *http.Request, document any) {
	f.mu.Lock()
	f.gets++
	n := f.gets
	f.asked[strings.TrimSpace(r.URL.Path+" "+r.Header.Get("Accept-Language"))]++
	f.mu.Unlock()
	if f.before != nil && f.before(n, w, r) {
		return
	}
	tag := `"v7"`
	body, _ := json.Marshal(document)
	if r.Header.Get("Accept-Encoding") != "" {
		tag = `"v7-` + r.Header.Get("Accept-Encoding") + `"`
		w.Header().Set("Content-Encoding", r.Header.Get("Accept-Encoding"))
		body = f.compressed(r.Header.Get("Accept-Encoding"), body)
	}
	w.Header().Set("ETag", tag)
	if r.Header.Get("If-None-Match") == tag {
		w.WriteHeader(304)
		return
	}
	_, _ = w.Write(body)
}

func (f *fakeShelf) compressed(coding string, body []byte) []byte {
	f.mu.Lock()
	defer f.mu.Unlock()
	key := coding + " " + string(body)
	if b := f.variants[key]; b != nil {
		return b
	}
	var b bytes.Buffer
	switch coding {
	case "gzip":
		z := gzip.NewWriter(&b)
		_, _ = z.Write(body)
		_ = z.Close()
	case "zstd":
		z, _ := zstd.NewWriter(&b)
		_, _ = z.Write(body)
		_ = z.Close()
	}
	f.variants[key] = b.Bytes()
	return b.Bytes()
}

// read runs Reads with a bound in time.
func (f *fakeShelf) read(t *testing.T, o ReadsOptions) (ReadsReport, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	o.URL = f.URL
	return Reads(ctx, o)
}

func TestReadsAskForWhatTheServerHasAndCountTheAnswers(t *testing.T) {
	for _, x := range []struct {
		name    string
		options ReadsOptions
		targets int
	}{
		{"products, from all pages of the list", ReadsOptions{Paths: []string{"/products/{sku}"}}, 230},
		{"some of the products", ReadsOptions{Paths: []string{"/products/{sku}"}, MaxKeys: 7}, 7},
		{"places, which are searched for", ReadsOptions{Paths: []string{"/places/{id}"}, Languages: []string{"de", "fr, en"}}, 100},
		{"both", ReadsOptions{Paths: []string{"/places/{id}", "/products/{sku}"}, MaxKeys: 5}, 10},
		{"given keys", ReadsOptions{Paths: []string{"/products/{sku}"}, Keys: []string{"a", "b/c ü"}, Zipf: 1}, 2},
		{"gzip", ReadsOptions{Paths: []string{"/products/{sku}"}, Encoding: "gzip", MaxKeys: 3}, 3},
		{"zstd", ReadsOptions{Paths: []string{"/products/{sku}"}, Encoding: "zstd", MaxKeys: 3}, 3},
	} {
		t.Run(x.name, func(t *testing.T) {
			f := newFakeShelf(t)
			x.options.Count, x.options.Connections = 2000, 4
			r, err := f.read(t, x.options)
			if err != nil {
				t.Fatal(err)
			}
			want := ReadCounts{Sent: 2000, Served: 2000}
			if diff := cmp.Diff(want, r.Reads); diff != "" {
				t.Errorf("counts (-want +got):\n%s\n%v", diff, r.Examples)
			}
			if r.Targets != x.targets || len(f.asked) != x.targets*max(len(x.options.Languages), 1) {
				t.Errorf("%d targets, and %d different requests; want %d", r.Targets, len(f.asked), x.targets)
			}
			if r.Latency.Count != 2000 || r.BodyBytes == 0 || r.PerSecond == 0 || r.Statuses["200"] != 2000 || r.CPUMicrosPerRead <= 0 {
				t.Errorf("report: %+v", r)
			}
		})
	}
}

func TestReadsAskAboutTheLastETag(t *testing.T) {
	f := newFakeShelf(t)
	r, err := f.read(t, ReadsOptions{Paths: []string{"/places/{id}"}, Keys: []string{"1", "2"}, Languages: []string{"de", "fr"}, Conditional: 1, Count: 1000, Connections: 1})
	if err != nil {
		t.Fatal(err)
	}
	// Each document is sent once in each language.
	want := ReadCounts{Sent: 1000, Served: 4, NotModified: 996, Conditional: 996}
	if diff := cmp.Diff(want, r.Reads); diff != "" {
		t.Errorf("counts (-want +got):\n%s", diff)
	}
	if r.NotModifiedShare != 0.996 {
		t.Errorf("the share of 304 is %v", r.NotModifiedShare)
	}
}

func TestReadsSeeBrokenPromises(t *testing.T) {
	tag := func(w http.ResponseWriter, tag, body string) bool {
		w.Header().Set("ETag", tag)
		_, _ = w.Write([]byte(body))
		return true
	}
	for _, x := range []struct {
		name, want  string
		conditional float64
		encoding    string
		before      func(n int, w http.ResponseWriter, r *http.Request) bool
	}{
		{name: "an answer of another product", want: `"a" was asked for and "b" came`,
			before: func(_ int, w http.ResponseWriter, _ *http.Request) bool { return tag(w, `"v1"`, `{"sku":"b"}`) }},
		{name: "an answer of no product", want: `"a" was asked for and "" came`,
			before: func(_ int, w http.ResponseWriter, _ *http.Request) bool {
				return tag(w, `"v1"`, `{"x":{"sku":"a"}}`)
			}},
		{name: "a body that is no JSON", want: "not a JSON object",
			before: func(_ int, w http.ResponseWriter, _ *http.Request) bool { return tag(w, `"v1"`, `sku a`) }},
		{name: "no ETag", want: "without a strong ETag",
			before: func(_ int, w http.ResponseWriter, _ *http.Request) bool { return tag(w, "", `{"sku":"a"}`) }},
		{name: "a weak ETag", want: `without a strong ETag: "W/\"v1\""`,
			before: func(_ int, w http.ResponseWriter, _ *http.Request) bool { return tag(w, `W/"v1"`, `{"sku":"a"}`) }},
		{name: "one ETag for two bodies", want: `two bodies have the ETag "v1"`,
			before: func(n int, w http.ResponseWriter, _ *http.Request) bool {
				return tag(w, `"v1"`, fmt.Sprintf(`{"sku":"a","price":%d}`, n/50))
			}},
		{name: "304 to who asked about nothing", want: "304 although nothing was asked about",
			before: func(_ int, w http.ResponseWriter, _ *http.Request) bool {
				w.Header().Set("ETag", `"v1"`)
				w.WriteHeader(304)
				return true
			}},
		{name: "304 of another version", want: `304 of "v8" although "v7" was asked about`, conditional: 1,
			before: func(_ int, w http.ResponseWriter, r *http.Request) bool {
				if r.Header.Get("If-None-Match") == "" {
					return false
				}
				w.Header().Set("ETag", `"v8"`)
				w.WriteHeader(304)
				return true
			}},
		{name: "what is not compressed as it says", want: "the body is not gzip", encoding: "gzip",
			before: func(_ int, w http.ResponseWriter, _ *http.Request) bool {
				w.Header().Set("Content-Encoding", "gzip")
				return tag(w, `"v1"`, `{"sku":"a"}`)
			}},
		{name: "a coding that nobody asked for", want: `Content-Encoding "secret"`,
			before: func(_ int, w http.ResponseWriter, _ *http.Request) bool {
				w.Header().Set("Content-Encoding", "secret")
				return tag(w, `"v1"`, `{"sku":"a"}`)
			}},
	} {
		t.Run(x.name, func(t *testing.T) {
			f := newFakeShelf(t)
			f.before = x.before
			r, err := f.read(t, ReadsOptions{Paths: []string{"/products/{sku}"}, Keys: []string{"a"}, Conditional: x.conditional, Encoding: x.encoding, Count: 100, Connections: 2})
			if !errors.Is(err, ErrBroken) || r.Reads.Broken == 0 || len(r.Broken) == 0 || !strings.Contains(r.Broken[0], x.want) {
				t.Errorf("%d broken, %q, %v; want %q", r.Reads.Broken, r.Broken, err, x.want)
			}
		})
	}
}

func TestReadsCountWhatWentWrong(t *testing.T) {
	f := newFakeShelf(t)
	f.before = func(n int, w http.ResponseWriter, r *http.Request) bool {
		switch {
		case n <= 10: // the first is good
			return false
		case n <= 13:
			w.Header().Set("Retry-After", "1")
			answerProblem(w, 503, "loading")
		case n <= 17:
			answerProblem(w, 404, "not-found")
		case n <= 22:
			panic(http.ErrAbortHandler) // no answer
		case n <= 30:
			w.Header().Set("Cache-Status", "millrace; hit; ttl=-32; detail=stale")
			return false
		default:
			return false
		}
		return true
	}
	r, err := f.read(t, ReadsOptions{Paths: []string{"/products/{sku}"}, Keys: []string{"a"}, Count: 100, Connections: 1})
	if err != nil {
		t.Fatal(err)
	}
	want := ReadCounts{Sent: 100, Served: 88, Refused: 3, Failed: 4, Unanswered: 5, Stale: 8}
	if diff := cmp.Diff(want, r.Reads); diff != "" {
		t.Errorf("counts (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(map[string]int64{"200": 88, "503": 3, "404": 4}, r.Statuses); diff != "" {
		t.Errorf("statuses (-want +got):\n%s", diff)
	}
	if len(r.Examples) != 3 || r.Latency.Count != 88 {
		t.Errorf("examples %q, %d latencies", r.Examples, r.Latency.Count)
	}
}

func TestReadsThatAreAllTurnedAwayEndEarly(t *testing.T) {
	for _, status := range []int{401, 403, 404} {
		t.Run(strconv.Itoa(status), func(t *testing.T) {
			f := newFakeShelf(t)
			f.before = func(_ int, w http.ResponseWriter, _ *http.Request) bool {
				answerProblem(w, status, "no")
				return true
			}
			r, err := f.read(t, ReadsOptions{Paths: []string{"/products/{sku}"}, Keys: []string{"a"}, Duration: time.Hour, Connections: 2})
			if !errors.Is(err, ErrTurnedAway) || !r.Interrupted || !strings.Contains(err.Error(), "because of no") {
				t.Errorf("interrupted: %v, %v", r.Interrupted, err)
			}
		})
	}
}

// An open loop charges the server for requests that had to wait for their turn.
func TestAnOpenLoopOfReadsCountsFromTheIntendedTime(t *testing.T) {
	f := newFakeShelf(t)
	stalled := make(chan struct{})
	time.AfterFunc(300*time.Millisecond, func() { close(stalled) })
	f.before = func(n int, _ http.ResponseWriter, _ *http.Request) bool {
		if n == 2 {
			<-stalled
		}
		return false
	}
	r, err := f.read(t, ReadsOptions{Paths: []string{"/products/{sku}"}, Keys: []string{"a"}, Rate: 500, Count: 200, Connections: 1})
	if err != nil {
		t.Fatal(err)
	}
	if r.Mode != OpenLoop || r.Reads.Served != 200 || r.Reads.Late < 50 || r.Latency.MaxMs < 200 || r.Latency.P50Ms < 1 {
		t.Errorf("mode %s, %+v, %s", r.Mode, r.Reads, r.Latency)
	}
}

func TestAWarmUpIsNotCounted(t *testing.T) {
	f := newFakeShelf(t)
	file := filepath.Join(t.TempDir(), "report.json")
	var out bytes.Buffer
	r, err := f.read(t, ReadsOptions{Paths: []string{"/products/{sku}"}, Keys: []string{"a"}, Rate: 1000, WarmUp: 50 * time.Millisecond, Count: 20, Connections: 2, JSONFile: file, Out: &out})
	if err != nil {
		t.Fatal(err)
	}
	if r.Reads.Sent != 20 || f.gets <= 20 || !strings.Contains(out.String(), "latency from the intended send time") {
		t.Errorf("%d counted of %d\n%s", r.Reads.Sent, f.gets, out.String())
	}
	var written ReadsReport
	if text, err := os.ReadFile(file); err != nil || json.Unmarshal(text, &written) != nil {
		t.Fatalf("report: %v %s", err, text)
	}
	if diff := cmp.Diff(r, written); diff != "" {
		t.Errorf("written (-returned +written):\n%s", diff)
	}
}

func TestReadsRefuseWhatMakesNoSense(t *testing.T) {
	f := newFakeShelf(t)
	for _, x := range []struct {
		name, want string
		options    ReadsOptions
	}{
		{"no path", "path: give what to read", ReadsOptions{Count: 1}},
		{"no end", "otherwise the run has no end", ReadsOptions{Paths: []string{"/x"}}},
		{"two placeholders", "at most one member's name", ReadsOptions{Paths: []string{"/a/{b}/{c}"}, Count: 1}},
		{"a path that is none", "at most one member's name", ReadsOptions{Paths: []string{"products"}, Count: 1}},
		{"a share beyond one", "conditional 2: must be a share", ReadsOptions{Paths: []string{"/x"}, Count: 1, Conditional: 2}},
		{"two lines in a header", "must be one line", ReadsOptions{Paths: []string{"/x"}, Count: 1, Languages: []string{"a\nb"}}},
		{"a list that is not there", "there is no such list", ReadsOptions{Paths: []string{"/things/{id}"}, Count: 1}},
		{"a member that is not there", `the list's entries have no "id"`, ReadsOptions{Paths: []string{"/products/{id}"}, Count: 1}},
	} {
		t.Run(x.name, func(t *testing.T) {
			if _, err := f.read(t, x.options); err == nil || !strings.Contains(err.Error(), x.want) {
				t.Errorf("%v; want %q", err, x.want)
			}
		})
	}
	f.products = nil
	if _, err := f.read(t, ReadsOptions{Paths: []string{"/products/{sku}"}, Count: 1}); err == nil || !strings.Contains(err.Error(), "the server has none in /products") {
		t.Errorf("an empty list: %v", err)
	}
}

func TestReadsRepeatThemselves(t *testing.T) {
	p := readPlan{seed: 3, targets: make([]readTarget, 50), groups: []readGroup{{0, 20, nil}, {20, 30, popularityOf(30, 1)}}, conditional: 0.5}
	p.seen = slices.Grow(p.seen, 50)[:50]
	a, b := p.drawer(), p.drawer()
	first, second, conditional := 0, 0, 0
	for k := range 2000 {
		x, y := a.draw(k), b.draw(k)
		if x.target != y.target || x.conditional != y.conditional {
			t.Fatalf("read %d is another one for another goroutine", k)
		}
		switch x.target {
		case &p.targets[20]:
			first++
		case &p.targets[21]:
			second++
		}
		if x.conditional {
			conditional++
		}
	}
	// 1/H(30) of the half that is drawn from the second group, and half of that.
	if first < 200 || first > 300 || second < 90 || second > 170 || conditional < 900 || conditional > 1100 {
		t.Errorf("the first was drawn %d times, the second %d, conditional were %d", first, second, conditional)
	}
}
