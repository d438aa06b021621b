package load

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"
)

// fakeServer keeps events in memory behind the routes that the generator and the
// verifier use. Its knobs make it break promises.
type fakeServer struct {
	*httptest.Server

	mu       sync.Mutex
	events   []storedEvent // in order of receipt
	posts    int
	bodies   [][]byte // of all posts, if keepBodies
	offCount int64    // added to each type's statistics

	keepBodies bool
	// before runs ahead of each POST; true means that it answered itself.
	before func(post int, w http.ResponseWriter, batch []storedEvent) bool
	// reject says whether an event is rejected.
	reject func(storedEvent) bool
}

func newFakeServer(t *testing.T) *fakeServer {
	t.Helper()
	f := &fakeServer{}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /events", f.post)
	mux.HandleFunc("GET /events", f.list)
	mux.HandleFunc("GET /events/stats", f.stats)
	mux.HandleFunc("GET /events/{id}", f.one)
	f.Server = httptest.NewServer(mux)
	t.Cleanup(f.Close)
	return f
}

func (f *fakeServer) post(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	var batch []storedEvent
	if err != nil || json.Unmarshal(body, &batch) != nil {
		http.Error(w, "not JSON", http.StatusBadRequest)
		return
	}
	f.mu.Lock()
	f.posts++
	post := f.posts
	if f.keepBodies {
		f.bodies = append(f.bodies, body)
	}
	f.mu.Unlock()
	if f.before != nil && f.before(post, w, batch) {
		return
	}
	accepted, duplicates, rejected := f.store(batch)
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusAccepted)
	_ = json.NewEncoder(w).Encode(map[string]any{"batchId": "b", "accepted": accepted, "duplicates": duplicates, "rejected": rejected})
}

func (f *fakeServer) store(batch []storedEvent) (accepted, duplicates int, rejected []rejection) {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := time.Now().UTC()
	rejected = []rejection{}
	known := map[string]bool{}
	for _, e := range f.events {
		known[e.ID] = true
	}
	for i, e := range batch {
		if f.reject != nil && f.reject(e) {
			rejected = append(rejected, rejection{Index: i, ID: e.ID, Reason: "no"})
			continue
		}
		accepted++
		if known[e.ID] {
			duplicates++
			continue
		}
		e.ReceivedAt = now
		f.events = append(f.events, e)
	}
	return accepted, duplicates, rejected
}

// between returns a copy of the events received in the range of a request.
func (f *fakeServer) between(r *http.Request) []storedEvent {
	from, err1 := time.Parse(time.RFC3339Nano, r.FormValue("from"))
	to, err2 := time.Parse(time.RFC3339Nano, r.FormValue("to"))
	if err1 != nil || err2 != nil {
		panic(fmt.Sprintf("bad range %q %q", r.FormValue("from"), r.FormValue("to")))
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []storedEvent
	for _, e := range f.events {
		if !e.ReceivedAt.Before(from) && e.ReceivedAt.Before(to) {
			out = append(out, e)
		}
	}
	return out
}

func (f *fakeServer) list(w http.ResponseWriter, r *http.Request) {
	all := f.between(r)
	slices.Reverse(all)
	limit, _ := strconv.Atoi(r.FormValue("limit"))
	start, _ := strconv.Atoi(cmp.Or(r.FormValue("cursor"), "0"))
	end := min(start+limit, len(all))
	next := ""
	if end < len(all) {
		next = strconv.Itoa(end)
	}
	_ = json.NewEncoder(w).Encode(map[string]any{"events": all[start:end], "nextCursor": next})
}

func (f *fakeServer) one(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, e := range f.events {
		if e.ID == r.PathValue("id") {
			_ = json.NewEncoder(w).Encode(e)
			return
		}
	}
	http.NotFound(w, r)
}

func (f *fakeServer) stats(w http.ResponseWriter, r *http.Request) {
	type point struct {
		Time         time.Time
		Count, Bytes int64
	}
	type series struct {
		Type   string
		Points []*point
	}
	byType := map[string]*series{}
	for _, e := range f.between(r) {
		s := byType[e.Type]
		if s == nil {
			s = &series{Type: e.Type, Points: []*point{{Count: f.offCount}}}
			byType[e.Type] = s
		}
		minute := e.ReceivedAt.Truncate(time.Minute)
		if last := s.Points[len(s.Points)-1]; !last.Time.Equal(minute) {
			s.Points = append(s.Points, &point{Time: minute})
		}
		p := s.Points[len(s.Points)-1]
		p.Count++
		p.Bytes += int64(len(e.Payload))
	}
	out := []any{}
	for _, s := range byType {
		points := []any{}
		for _, p := range s.Points {
			points = append(points, map[string]any{"time": p.Time, "count": p.Count, "bytes": p.Bytes})
		}
		out = append(out, map[string]any{"type": s.Type, "points": points})
	}
	_ = json.NewEncoder(w).Encode(map[string]any{"series": out})
}
