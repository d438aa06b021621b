package main

import (
	"context"
	"sync"
	"time"
)

// part is something that runs and can be started again.
type part struct {
	name    string
	done    func() <-chan struct{}
	pid     func() int
	restart func(ctx context.Context) error
}

// keep starts again what dies, until ctx ends.
func (s *supervisor) keep(ctx context.Context) {
	var wg sync.WaitGroup
	for _, p := range s.parts() {
		if err := s.writePID(p.name, p.pid()); err != nil {
			s.logger.Error("pid file", "name", p.name, "error", err)
		}
		wg.Go(func() { s.keepPart(ctx, p) })
	}
	wg.Wait()
}

func (s *supervisor) keepPart(ctx context.Context, p part) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-p.done():
		}
		s.logger.Warn("it died and is started again", "name", p.name, "in", restartDelay)
		if !sleep(ctx, restartDelay) {
			return
		}
		starting, cancel := context.WithTimeout(ctx, startTimeout)
		err := p.restart(starting)
		cancel()
		if err != nil {
			s.logger.Error("it does not start", "name", p.name, "error", err)
			continue
		}
		s.logger.Info("it runs again", "name", p.name, "pid", p.pid())
		if err := s.writePID(p.name, p.pid()); err != nil {
			s.logger.Error("pid file", "name", p.name, "error", err)
		}
	}
}

// parts are all processes of the cluster.
func (s *supervisor) parts() []part {
	b := &s.backing
	out := []part{
		{"postgres", b.postgres.Done, b.postgres.PID, b.postgres.Restart},
		{"postgres-replica", b.replica.Done, b.replica.PID, b.replica.Restart},
		{"redis", b.redis.Done, b.redis.PID, b.redis.Restart},
		{"nginx", s.nginx.Done, s.nginx.PID, s.nginx.Restart},
	}
	for _, n := range b.nats.Nodes() {
		out = append(out, part{"nats-" + n.Name(), n.Done, n.PID, n.Restart})
	}
	for _, m := range s.instances {
		out = append(out, part{m.Name, m.done, m.pid, func(ctx context.Context) error { return s.startInstance(ctx, m) }})
	}
	return out
}

func (m *member) done() <-chan struct{} {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.server.Done()
}

func (m *member) pid() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.server.PID()
}

// sleep waits; false if ctx ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
