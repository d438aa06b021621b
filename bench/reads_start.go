package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"time"

	"millrace/internal/blackbox"
)

// readyForAll waits until everything is ready, the indexes in memory among it.
func readyForAll(s *blackbox.Server, ctx context.Context) error {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	var last string
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.URL+"/readyz", nil)
		if err != nil {
			return err
		}
		if resp, err := http.DefaultClient.Do(req); err == nil {
			_ = resp.Body.Close()
			if last = resp.Status; resp.StatusCode == http.StatusOK {
				return nil
			}
		}
		select {
		case <-tick.C:
		case <-s.Done():
			return fmt.Errorf("the server ended before it was ready: %s", s.LastWords())
		case <-ctx.Done():
			return fmt.Errorf("not ready (%s): %w\n%s", last, context.Cause(ctx), s.LastWords())
		}
	}
}

// starts is how often a start is measured.
const starts = 5

// readsStart measures how long a start takes with all places and without.
func readsStart(ctx context.Context, b *bench, r *result) (err error) {
	file := b.places
	if file == "" {
		file = filepath.Join(b.dir, "places.ndjson")
		if err := writePlaces(file, allPlaces); err != nil {
			return err
		}
		r.note("The places are made up, in the shape of the real ones.")
	}
	embedded := b.freshDir()
	token, err := blackbox.TokenFor(ctx, b.binary, embedded, "bench", "admin")
	if err != nil {
		return err
	}
	if err := b.measureStarts(ctx, r, "embedded", file, func() (*target, error) {
		return b.launchWith(ctx, r, launch{dir: embedded, token: token, isReady: readyForAll})
	}); err != nil {
		return err
	}
	s, err := b.backing(ctx, r, 1)
	if err != nil {
		return err
	}
	defer ended(&err, s.stop, ctx)
	database, err := s.database(ctx)
	if err != nil {
		return err
	}
	dir := b.freshDir()
	return b.measureStarts(ctx, r, "PostgreSQL", file, func() (*target, error) {
		return b.launchWith(ctx, r, launch{dir: dir, token: s.token, isReady: readyForAll, hidden: s.environment(database)})
	})
}

// measureStarts starts a server without places, imports them, and starts it again
// and again.
func (b *bench) measureStarts(ctx context.Context, r *result, name, file string, start func() (*target, error)) error {
	var empty, full []float64
	for range b.repeats() {
		t, err := start()
		if err != nil {
			return err
		}
		empty = append(empty, t.readyIn.Seconds())
		if err := stopOnly(ctx, t); err != nil {
			return err
		}
	}
	t, err := start()
	if err != nil {
		return err
	}
	began := time.Now()
	if err := b.importThings(ctx, r, t, "places", file); err != nil {
		return errors.Join(err, stopOnly(ctx, t))
	}
	imported := time.Since(began)
	if err := stopOnly(ctx, t); err != nil {
		return err
	}
	n := starts
	if b.quick {
		n = 1
	}
	for range n {
		if t, err = start(); err != nil {
			return err
		}
		full = append(full, t.readyIn.Seconds())
		if len(full) == n {
			if err := noteIndex(ctx, r, name, t); err != nil {
				return errors.Join(err, stopOnly(ctx, t))
			}
		}
		if err := stopOnly(ctx, t); err != nil {
			return err
		}
	}
	r.atMost(fmt.Sprintf("%s: start to ready with all places, median of %d", name, n), median(full), "s", 2)
	r.add(fmt.Sprintf("%s: start to ready without places", name), median(empty), "s")
	r.add(fmt.Sprintf("%s: importing the places took", name), imported.Seconds(), "s")
	r.note("%s: the starts took %.2f s.", name, full)
	return nil
}

// stopOnly stops a target and keeps its data.
func stopOnly(ctx context.Context, t *target) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	return t.server.Stop(ctx)
}

// noteIndex notes what the places take in memory, and that they are there.
func noteIndex(ctx context.Context, r *result, name string, t *target) error {
	m, err := t.server.Metrics(ctx)
	if err != nil {
		return err
	}
	u, err := t.server.Usage()
	if err != nil {
		return err
	}
	for _, x := range []struct{ metric, what, unit string }{
		{"millrace_index_records", "records of places in memory", ""},
		{"millrace_index_bytes", "bytes of the index of places", "MiB"},
		{"millrace_index_bytes_per_record", "bytes a record", "bytes"},
		{"millrace_index_load_seconds", "of the start, loading the places took", "s"},
	} {
		v, found := m.Sum(x.metric, "index=places")
		if !found {
			if h := m.Histogram(x.metric, "index=places"); h.Count() == 0 {
				return fmt.Errorf("the server has no metric %s of places", x.metric)
			}
			v, _ = m.Sum(x.metric+"_sum", "index=places")
		}
		if strings.HasSuffix(x.metric, "_bytes") {
			v /= mib
		}
		r.add(name+": "+x.what, v, x.unit)
		if x.metric == "millrace_index_records" && v == 0 {
			return errors.New("no places are in memory")
		}
	}
	r.add(name+": resident memory after the start", float64(u.RSSBytes)/mib, "MiB")
	var page struct {
		Places []json.RawMessage `json:"places"`
	}
	if err := getJSON(ctx, http.DefaultClient, t, "/places?prefix=a&limit=5", &page); err != nil {
		return err
	}
	if len(page.Places) != 5 {
		return fmt.Errorf("a search for places beginning with a found %d, not 5", len(page.Places))
	}
	return nil
}
