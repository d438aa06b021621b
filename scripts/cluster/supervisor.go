package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"millrace/internal/blackbox"
	"millrace/internal/servers"
)

const (
	instanceCount = 3
	// restartDelay is how long what has died stays so: long enough to see it.
	restartDelay = 3 * time.Second
	// startTimeout bounds the start of one part, downTimeout the orderly end of all.
	startTimeout = 2 * time.Minute
	downTimeout  = 90 * time.Second
)

// supervise starts everything, keeps it running until ctx ends, and stops it.
func (c *cluster) supervise(ctx context.Context) (err error) {
	logger := slog.New(slog.NewTextHandler(os.Stderr, nil))
	for _, v := range os.Environ() { // the instances' configuration is ours alone
		if name, _, _ := strings.Cut(v, "="); strings.HasPrefix(name, "MILLRACE_") {
			if err := os.Unsetenv(name); err != nil {
				return err
			}
		}
	}
	s := &supervisor{cluster: c, logger: logger}
	defer func() {
		stopping, cancel := context.WithTimeout(context.WithoutCancel(ctx), downTimeout)
		defer cancel()
		err = errors.Join(err, s.stop(stopping))
		if err != nil {
			logger.Error("the cluster ended", "error", err)
		}
	}()
	if err := s.start(ctx); err != nil {
		return err
	}
	logger.Info("the cluster is up", "front", s.state.Front)
	s.keep(ctx)
	return nil
}

// supervisor owns all processes of the cluster.
type supervisor struct {
	*cluster
	logger    *slog.Logger
	state     state
	backing   backing
	nginx     *servers.Nginx
	instances []*member
	release   []func() // of reserved ports
}

// member is an instance of Millrace and how to start it again.
type member struct {
	instance
	options blackbox.Options

	mu     sync.Mutex
	server *blackbox.Server
}

func (s *supervisor) start(ctx context.Context) (err error) {
	if s.state, err = s.readState(); err != nil {
		return err
	}
	if err := s.reservePorts(); err != nil {
		return err
	}
	s.state.SupervisorPID, s.state.Ready, s.state.Instances = os.Getpid(), false, nil
	if err := s.writeState(s.state); err != nil {
		return err
	}
	s.logger.Info("starting PostgreSQL, Redis and NATS")
	if err := s.backing.start(ctx, s.state.Data, s.state.Ports, s.logger); err != nil {
		return err
	}
	env, err := s.backing.environment(ctx, s.cluster)
	if err != nil {
		return err
	}
	if err := s.mintToken(ctx); err != nil {
		return err
	}
	s.logger.Info("starting Millrace")
	if err := s.startInstances(ctx, env); err != nil {
		return err
	}
	var upstreams []string
	for _, m := range s.instances {
		upstreams = append(upstreams, m.options.Listen)
		s.state.Instances = append(s.state.Instances, m.instance)
	}
	s.nginx, err = servers.StartNginx(ctx, servers.NginxOptions{
		Options:   servers.Options{Dir: filepath.Join(s.state.Data, "nginx"), Port: s.port, Logger: s.logger},
		Upstreams: upstreams,
	})
	if err != nil {
		return err
	}
	s.state.Front, s.state.Ready = s.nginx.URL(), true
	return s.writeState(s.state)
}

// reservePorts chooses those ports that must stay the same as long as the data
// does.
func (s *supervisor) reservePorts() error {
	for _, p := range []*int{&s.state.Ports.Postgres, &s.state.Ports.Replica} {
		if *p != 0 {
			continue
		}
		port, release, err := servers.FreePort()
		if err != nil {
			return err
		}
		release() // the server reserves it for itself
		*p = port
	}
	return nil
}

// mintToken makes the issuer's key, before three instances do so at once, and a
// token to try things with.
func (s *supervisor) mintToken(ctx context.Context) error {
	token, err := blackbox.Run(ctx, s.binary("millrace"), "token", "--data", s.in("millrace-1", "data"), "--set", "auth.keyFile="+s.issuerKey(),
		"--tenant", "demo", "--subject", "quick-start", "--scope", "admin", "--ttl", "24h")
	if err != nil {
		return err
	}
	return os.WriteFile(s.in("token"), []byte(token), 0o600)
}

// startInstances starts the first one, which brings the schema up to date, and then
// the others.
func (s *supervisor) startInstances(ctx context.Context, shared []string) error {
	for i := range instanceCount {
		m, err := s.newMember(i, shared)
		if err != nil {
			return err
		}
		s.instances = append(s.instances, m)
	}
	if err := s.startInstance(ctx, s.instances[0]); err != nil {
		return err
	}
	var wg sync.WaitGroup
	errs := make([]error, instanceCount)
	for i, m := range s.instances[1:] {
		wg.Go(func() { errs[i] = s.startInstance(ctx, m) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// newMember reserves an instance's ports and writes its configuration down, as a
// file of variables that a shell can read too.
func (s *supervisor) newMember(i int, shared []string) (*member, error) {
	name := fmt.Sprintf("millrace-%d", i+1)
	var addresses [2]string
	for j := range addresses {
		port, release, err := servers.FreePort()
		if err != nil {
			return nil, err
		}
		s.release = append(s.release, release)
		addresses[j] = fmt.Sprintf("127.0.0.1:%d", port)
	}
	data := s.in(name, "data")
	env := append(slices.Clone(shared),
		"MILLRACE_INSTANCE="+name,
		"MILLRACE_DATA="+data,
		"MILLRACE_HTTP__LISTEN="+addresses[0],
		"MILLRACE_ADMIN__LISTEN="+addresses[1],
	)
	if i == 0 {
		// One shop for all of them, with one merchant.
		env = append(env, "MILLRACE_DEMO__ENABLED=true")
	}
	slices.Sort(env)
	if err := os.MkdirAll(data, 0o700); err != nil {
		return nil, err
	}
	if err := os.WriteFile(s.in(name, "env"), []byte(shellVariables(env)), 0o600); err != nil {
		return nil, err
	}
	return &member{
		instance: instance{Name: name, URL: "http://" + addresses[0], Admin: "http://" + addresses[1]},
		options: blackbox.Options{
			Binary: s.binary("millrace"), Data: data, Listen: addresses[0], Admin: addresses[1], Env: env,
			Output: s.in(name, "millrace.log"),
		},
	}, nil
}

// shellVariables writes variables down for a shell to read.
func shellVariables(env []string) string {
	var b strings.Builder
	for _, v := range env {
		name, value, _ := strings.Cut(v, "=")
		fmt.Fprintf(&b, "%s='%s'\n", name, strings.ReplaceAll(value, "'", `'\''`))
	}
	return b.String()
}

// startInstance starts an instance and waits until it takes events and orders.
func (s *supervisor) startInstance(ctx context.Context, m *member) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	server, err := blackbox.Start(m.options)
	if err != nil {
		return fmt.Errorf("%s: %w", m.Name, err)
	}
	m.mu.Lock()
	m.server = server
	m.mu.Unlock()
	if err := s.writePID(m.Name, server.PID()); err != nil {
		return err
	}
	for _, ready := range []func(context.Context) error{server.Ready, server.ReadyForOrders} {
		if err := ready(ctx); err != nil {
			return fmt.Errorf("%s: %w", m.Name, err)
		}
	}
	return nil
}

// stop ends everything in order: who asks before who is asked.
func (s *supervisor) stop(ctx context.Context) error {
	var errs []error
	if s.nginx != nil {
		errs = append(errs, s.nginx.Stop(ctx))
	}
	var wg sync.WaitGroup
	ends := make([]error, len(s.instances))
	for i, m := range s.instances {
		wg.Go(func() {
			m.mu.Lock()
			defer m.mu.Unlock()
			if m.server == nil {
				return
			}
			select {
			case <-m.server.Done(): // it had died
			default:
				ends[i] = m.server.Stop(ctx)
			}
		})
	}
	wg.Wait()
	errs = append(errs, ends...)
	errs = append(errs, s.backing.stop(ctx))
	for _, release := range s.release {
		release()
	}
	s.state.Ready, s.state.SupervisorPID = false, 0
	return errors.Join(append(errs, s.writeState(s.state))...)
}
