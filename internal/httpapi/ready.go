package httpapi

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// readiness asks every part whether it can serve.
type readiness struct {
	timeout time.Duration

	mu     sync.Mutex
	checks []*check
}

// check is one part, and the probe of it that is under way. Whoever asks while a
// probe runs shares it, so that probing costs the same however often it is done,
// and a probe that hangs is not started twice.
type check struct {
	Check

	mu      sync.Mutex
	running *probe
}

type probe struct {
	done chan struct{}
	err  error
}

func (rd *readiness) add(c Check) error {
	if c.Name == "" || c.Probe == nil {
		return fmt.Errorf("httpapi: a readiness check needs a name and a probe (name %q)", c.Name)
	}
	rd.mu.Lock()
	defer rd.mu.Unlock()
	for _, have := range rd.checks {
		if have.Name == c.Name {
			return fmt.Errorf("httpapi: two readiness checks are called %q", c.Name)
		}
	}
	rd.checks = append(rd.checks, &check{Check: c})
	return nil
}

// forJob returns the checks a job needs, all of them for an empty job, and the
// jobs there are.
func (rd *readiness) forJob(job string) (checks []*check, jobs []string) {
	rd.mu.Lock()
	defer rd.mu.Unlock()
	for _, c := range rd.checks {
		for _, j := range c.Jobs {
			if !slices.Contains(jobs, j) {
				jobs = append(jobs, j)
			}
		}
		if job == "" || len(c.Jobs) == 0 || slices.Contains(c.Jobs, job) {
			checks = append(checks, c)
		}
	}
	slices.Sort(jobs)
	return checks, jobs
}

// ask returns the part's state, waiting for at most timeout.
func (c *check) ask(timeout time.Duration) error {
	c.mu.Lock()
	p := c.running
	if p == nil {
		p = &probe{done: make(chan struct{})}
		c.running = p
		go c.run(p, timeout)
	}
	c.mu.Unlock()
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	select {
	case <-p.done:
		return p.err
	case <-timer.C:
		return fmt.Errorf("did not answer within %v", timeout)
	}
}

// run is one probe. It has its own context, since no caller may cancel the
// others'.
func (c *check) run(p *probe, timeout time.Duration) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	defer func() {
		if v := recover(); v != nil {
			p.err = fmt.Errorf("the probe panicked: %v", v)
		}
		c.mu.Lock()
		c.running = nil
		c.mu.Unlock()
		close(p.done)
	}()
	p.err = c.Probe(ctx)
}

// readyState is the answer of a readiness probe.
type readyState struct {
	Status string      `json:"status" enum:"ready,not-ready" doc:"Whether every part can serve."`
	Checks []partState `json:"checks" nullable:"false" doc:"Each part's state."`
}

type partState struct {
	Name   string   `json:"name" example:"log"`
	Status string   `json:"status" enum:"ok,failing"`
	Detail string   `json:"detail,omitempty" doc:"What is wrong."`
	Jobs   []string `json:"jobs,omitempty" doc:"The jobs that need the part; absent: all."`
}

// state asks the parts a job needs, all at once.
func (s *Server) state(checks []*check) readyState {
	parts := make([]partState, len(checks), len(checks)+1)
	var wait sync.WaitGroup
	for i, c := range checks {
		parts[i] = partState{Name: c.Name, Status: "ok", Jobs: c.Jobs}
		wait.Go(func() {
			if err := c.ask(s.readiness.timeout); err != nil {
				parts[i].Status, parts[i].Detail = "failing", err.Error()
			}
		})
	}
	wait.Wait()
	if s.draining.Load() {
		parts = append(parts, partState{Name: "server", Status: "failing", Detail: errDraining.Error()})
	}
	out := readyState{Status: "ready", Checks: parts}
	for _, p := range parts {
		if p.Status != "ok" {
			out.Status = "not-ready"
		}
	}
	return out
}

func (r *readyState) appendJSON(b []byte) []byte {
	b = append(b, `{"status":`...)
	b = appendString(b, r.Status)
	b = append(b, `,"checks":[`...)
	for i, p := range r.Checks {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, `{"name":`...)
		b = appendString(b, p.Name)
		b = append(b, `,"status":`...)
		b = appendString(b, p.Status)
		b = appendMember(b, "detail", p.Detail)
		for j, job := range p.Jobs {
			b = append(b, separator(j, `,"jobs":[`)...)
			b = appendString(b, job)
		}
		if len(p.Jobs) > 0 {
			b = append(b, ']')
		}
		b = append(b, '}')
	}
	return append(b, "]}\n"...)
}

// getReady answers /readyz and /readyz/{job}.
func (sf *surface) getReady(_ context.Context, ex *exchange, r *http.Request) {
	s, job := sf.server, r.PathValue("job")
	checks, jobs := s.readiness.forJob(job)
	if job != "" && !slices.Contains(jobs, job) {
		ex.refuse(newProblem(slugNotFound, fmt.Sprintf("this instance does no job called %q; its jobs are: %s", clip(job), orNone(strings.Join(jobs, ", ")))))
		return
	}
	state := s.state(checks)
	status := http.StatusOK
	if state.Status != "ready" {
		status = http.StatusServiceUnavailable
		ex.problem = slugNotReady
		ex.Header().Set("Retry-After", strconv.Itoa(ceilSeconds(time.Second)))
	}
	ex.answer(status, state.appendJSON(nil))
}

// getLive answers /livez: who can answer is alive.
func (sf *surface) getLive(_ context.Context, ex *exchange, _ *http.Request) {
	ex.answer(http.StatusOK, []byte(`{"status":"alive"}`+"\n"))
}
