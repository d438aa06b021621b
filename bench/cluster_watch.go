package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"millrace/internal/blackbox"
)

// The parts whose CPU time is told apart.
const (
	partMillrace = "millrace"
	partPostgres = "postgres"
	partNATS     = "nats"
	partRedis    = "redis"
)

// parts are all of them, in the order of the record.
var parts = [...]string{partMillrace, partPostgres, partNATS, partRedis}

// cpu returns the CPU time that each part has used so far.
func (f *fleet) cpu() (map[string]time.Duration, error) {
	roots := map[string][]int{partPostgres: {f.backing.postgres.PID()}, partRedis: {f.backing.redis.PID()}}
	for _, t := range f.members {
		roots[partMillrace] = append(roots[partMillrace], t.server.PID())
	}
	for _, n := range f.backing.nats.Nodes() {
		roots[partNATS] = append(roots[partNATS], n.PID())
	}
	all, err := processes()
	if err != nil {
		return nil, err
	}
	out := map[string]time.Duration{}
	for part, pids := range roots {
		out[part] = treeCPU(all, pids)
	}
	return out, nil
}

// processCPU is a process's parent and the CPU time of it and of those of its
// children that have ended.
type processCPU struct {
	parent int
	cpu    time.Duration
}

// processes reads what /proc says of all of them.
func processes() (map[int]processCPU, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("the CPU time of processes: %w", err)
	}
	all := map[int]processCPU{}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		stat, err := os.ReadFile("/proc/" + e.Name() + "/stat")
		if err != nil {
			continue // it has ended
		}
		// The second field is the name in parentheses and may hold anything.
		fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
		if len(fields) < 15 {
			return nil, fmt.Errorf("/proc/%d/stat has %d fields", pid, len(fields))
		}
		p := processCPU{}
		p.parent, _ = strconv.Atoi(fields[1])
		const ticksPerSecond = 100            // USER_HZ, fixed on Linux
		for _, ticks := range fields[11:15] { // user and system, its own and its ended children's
			n, err := strconv.ParseInt(ticks, 10, 64)
			if err != nil {
				return nil, fmt.Errorf("/proc/%d/stat: %w", pid, err)
			}
			p.cpu += time.Duration(n) * time.Second / ticksPerSecond
		}
		all[pid] = p
	}
	return all, nil
}

// treeCPU adds up the processes that are or descend from some.
func treeCPU(all map[int]processCPU, roots []int) (sum time.Duration) {
	for pid, p := range all {
		for at, depth := pid, 0; at > 1 && depth < 64; at, depth = all[at].parent, depth+1 {
			if slices.Contains(roots, at) {
				sum += p.cpu
				break
			}
		}
	}
	return sum
}

// fleetWatch is what was seen of a fleet while something ran.
type fleetWatch struct {
	seconds       float64
	before, after readings
	cpu           map[string]time.Duration
	maxRSS        int64 // highest of one instance
	// waiting is how many events were accepted and not yet in the store, and rows
	// how many were there, once a second, with the second they were read at.
	at, waiting, rows []float64
}

// readings are the metrics of each member.
type readings []blackbox.Metrics

func (f *fleet) metrics(ctx context.Context) (readings, error) {
	var out readings
	for _, t := range f.members {
		m, err := t.server.Metrics(ctx)
		if err != nil {
			return nil, err
		}
		out = append(out, m)
	}
	return out, nil
}

func (m readings) sum(name string, labels ...string) (total float64) {
	for _, x := range m {
		v, _ := x.Sum(name, labels...)
		total += v
	}
	return total
}

// stored and accepted count events from outside and of the server's own.
func (m readings) stored() float64 { return m.sum("millrace_sink_inserted_total") }

func (m readings) accepted() float64 { return m.sum("millrace_events_accepted_total") }

// watch runs do and looks at the instances meanwhile.
func (f *fleet) watch(ctx context.Context, do func() error) (w fleetWatch, err error) {
	if w.before, err = f.metrics(ctx); err != nil {
		return w, err
	}
	used, err := f.cpu()
	if err != nil {
		return w, err
	}
	began := time.Now()
	done := make(chan struct{})
	var watcher sync.WaitGroup
	watcher.Go(func() {
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		for {
			f.look(ctx, &w, began)
			select {
			case <-tick.C:
			case <-done:
				return
			}
		}
	})
	err = do()
	close(done)
	watcher.Wait()
	w.seconds = time.Since(began).Seconds()
	if err != nil {
		return w, err
	}
	if w.cpu, err = f.cpu(); err != nil {
		return w, err
	}
	for part := range w.cpu {
		w.cpu[part] -= used[part]
	}
	w.after, err = f.metrics(ctx)
	return w, err
}

// look takes one reading. One that fails is left out; the last one must not.
func (f *fleet) look(ctx context.Context, w *fleetWatch, began time.Time) {
	for _, t := range f.members {
		if u, err := t.server.Usage(); err == nil {
			w.maxRSS = max(w.maxRSS, u.RSSBytes)
		}
	}
	if m, err := f.metrics(ctx); err == nil {
		w.at = append(w.at, time.Since(began).Seconds())
		w.waiting, w.rows = append(w.waiting, m.accepted()-m.stored()), append(w.rows, m.stored())
	}
}

// histogram adds up what the instances observed.
func (w fleetWatch) histogram(name string, labels ...string) (sum blackbox.Histogram) {
	for i := range w.after {
		h := w.after[i].Histogram(name, labels...).Minus(w.before[i].Histogram(name, labels...))
		if sum.Bounds == nil {
			sum = h
			continue
		}
		for j := range min(len(h.Counts), len(sum.Counts)) { // the bounds are the same in each
			sum.Counts[j] += h.Counts[j]
		}
	}
	return sum
}

// lag is the time from receipt to queryable.
func (w fleetWatch) lag() blackbox.Histogram { return w.histogram("millrace_sink_lag_seconds") }

// cores says how many cores each part used.
func (w fleetWatch) cores() string {
	var out []string
	for _, part := range parts {
		out = append(out, fmt.Sprintf("%s %s", part, number(w.cpu[part].Seconds()/w.seconds)))
	}
	return "cores: " + strings.Join(out, ", ")
}

// settle waits until every accepted event is in the store and no log or stream has
// a backlog, and returns how long that took.
func (f *fleet) settle(ctx context.Context) (time.Duration, error) {
	return f.await(ctx, 2*time.Minute, func(m readings) bool {
		return m.stored() >= m.accepted() && m.sum("millrace_wal_backlog_bytes") == 0
	})
}

// await waits until the readings are as wanted and returns how long that took. A
// reading that fails is repeated.
func (f *fleet) await(parent context.Context, limit time.Duration, wanted func(readings) bool) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(parent, limit)
	defer cancel()
	began := time.Now()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	var last error
	for {
		m, err := f.metrics(ctx)
		if err == nil && wanted(m) {
			return time.Since(began), nil
		}
		if last = err; err == nil {
			last = fmt.Errorf("%s events accepted, %s stored, %s bytes of backlog", number(m.accepted()), number(m.stored()), number(m.sum("millrace_wal_backlog_bytes")))
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return 0, errors.Join(fmt.Errorf("not settled within %s: %w", limit, context.Cause(ctx)), last)
		}
	}
}
