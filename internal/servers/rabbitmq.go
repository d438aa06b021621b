package servers

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

// rabbitUser is the server's administrator.
const rabbitUser = "millrace"

// RabbitMQOptions say how a RabbitMQ server is started.
type RabbitMQOptions struct {
	Options
}

// RabbitMQ is a private RabbitMQ server: one node, on which quorum queues work, with
// the user millrace and a random password. It has an Erlang port mapper of its own.
// Starting takes seconds.
type RabbitMQ struct {
	*process
	epmd     *process
	o        RabbitMQOptions
	port     int
	password string

	mu      sync.Mutex // one change of state at a time
	stopped bool
}

// StartRabbitMQ starts a server.
func StartRabbitMQ(ctx context.Context, o RabbitMQOptions) (*RabbitMQ, error) {
	path, err := findOrInstall(ctx, o.Options, "rabbitmq", findRabbitMQ)
	if err != nil {
		return nil, err
	}
	epmd, ok := lookPath("epmd")
	if !ok {
		return nil, errors.New("RabbitMQ is installed, yet Erlang's program epmd is not: install the package erlang-base")
	}
	h, err := newHome(o.Options, "rabbitmq", "rabbitmq")
	if err != nil {
		return nil, err
	}
	r := &RabbitMQ{o: o}
	r.process = newProcess(h, spec{name: "rabbitmq", path: path, signal: syscall.SIGTERM})
	r.epmd = newProcess(h, spec{name: "epmd", path: epmd, signal: syscall.SIGKILL})
	if err := r.begin(ctx); err != nil {
		return nil, errors.Join(err, r.Stop(context.WithoutCancel(ctx)))
	}
	return r, nil
}

// findRabbitMQ finds the script that starts the server as who runs it; the one in
// PATH may be a wrapper that changes to the system's own user and folders.
func findRabbitMQ() (string, bool) {
	const packaged = "/usr/lib/rabbitmq/bin/rabbitmq-server"
	if executable(packaged) {
		return packaged, true
	}
	return lookPath("rabbitmq-server")
}

func (r *RabbitMQ) begin(ctx context.Context) (err error) {
	if r.port, err = r.home.reserve(r.o.Port); err != nil {
		return err
	}
	distribution, err1 := r.home.reserve(0)
	mapper, err2 := r.home.reserve(0)
	var err3, err4 error
	r.password, err3 = r.home.secret("password")
	_, err4 = r.home.mkdir("mnesia")
	if err := errors.Join(err1, err2, err3, err4, r.configure()); err != nil {
		return err
	}
	mapperEnv := []string{"ERL_EPMD_ADDRESS=127.0.0.1", "ERL_EPMD_PORT=" + strconv.Itoa(mapper)}
	r.epmd.spec.env = mapperEnv
	in := func(name string) string { return filepath.Join(r.home.dir, name) }
	r.spec.env = append(mapperEnv,
		"RABBITMQ_NODENAME="+r.nodeName(),
		"RABBITMQ_NODE_PORT="+strconv.Itoa(r.port),
		"RABBITMQ_NODE_IP_ADDRESS=127.0.0.1",
		"RABBITMQ_DIST_PORT="+strconv.Itoa(distribution),
		"RABBITMQ_CONFIG_FILE="+in("rabbitmq.conf"),
		"RABBITMQ_ADVANCED_CONFIG_FILE="+in("advanced.config"),
		"RABBITMQ_CONF_ENV_FILE="+in("rabbitmq-env.conf"),
		"RABBITMQ_ENABLED_PLUGINS_FILE="+in("enabled_plugins"),
		"RABBITMQ_MNESIA_BASE="+in("mnesia"),
		"RABBITMQ_LOG_BASE="+r.home.dir,
		"RABBITMQ_LOGS=-",
		"RABBITMQ_GENERATED_CONFIG_DIR="+in("generated"),
		"RABBITMQ_PID_FILE="+in("pid"),
		// The machine is shared: schedulers do not spin, and the node listens for
		// others on the loopback only.
		"RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS=+sbwt none +sbwtdcpu none +sbwtdio none -kernel inet_dist_use_interface {127,0,0,1}",
		"ERL_CRASH_DUMP="+os.DevNull,
	)
	return r.up(ctx)
}

// nodeName has the port in it, so that it is the same after a restart.
func (r *RabbitMQ) nodeName() string { return fmt.Sprintf("millrace%d@localhost", r.port) }

func (r *RabbitMQ) configure() error {
	lines := []string{
		"default_user = " + rabbitUser,
		"default_pass = " + r.password,
		"default_user_tags.administrator = true",
		"loopback_users = none",
		"disk_free_limit.absolute = 64MB",
		"vm_memory_high_watermark.absolute = 1GB",
		"log.console = true",
		"log.console.level = info",
	}
	if c := r.o.TLS; c != nil {
		cert, err1 := r.home.copyIn(c.CertFile, "server.crt")
		key, err2 := r.home.copyIn(c.KeyFile, "server.key")
		ca, err3 := r.home.copyIn(c.CAFile, "ca.crt")
		if err := errors.Join(err1, err2, err3); err != nil {
			return err
		}
		lines = append(lines, "listeners.tcp = none", fmt.Sprintf("listeners.ssl.default = %d", r.port),
			"ssl_options.certfile = "+cert, "ssl_options.keyfile = "+key, "ssl_options.cacertfile = "+ca,
			"ssl_options.verify = verify_peer", "ssl_options.fail_if_no_peer_cert = false")
	} else {
		lines = append(lines, "listeners.tcp.default = "+loopback(r.port))
	}
	var errs []error
	for name, text := range map[string]string{
		"rabbitmq.conf":   strings.Join(lines, "\n") + "\n",
		"advanced.config": "[].\n", "enabled_plugins": "[].\n", "rabbitmq-env.conf": "\n",
	} {
		_, err := r.home.write(name, text)
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// up starts port mapper and server and waits until a channel opens.
func (r *RabbitMQ) up(ctx context.Context) error {
	if err := r.epmd.start(); err != nil {
		return err
	}
	if err := r.start(); err != nil {
		return err
	}
	return r.await(ctx, func(context.Context) error {
		config := amqp.Config{Heartbeat: 0, Dial: amqp.DefaultDial(2 * time.Second)}
		if r.o.TLS != nil {
			var err error
			if config.TLSClientConfig, err = r.o.TLS.ClientConfig(); err != nil {
				return err
			}
		}
		c, err := amqp.DialConfig(r.URL(), config)
		if err != nil {
			return err
		}
		_, err = c.Channel()
		return errors.Join(err, c.Close())
	})
}

// Addr is where the server listens, host:port.
func (r *RabbitMQ) Addr() string { return loopback(r.port) }

// User is the server's administrator.
func (r *RabbitMQ) User() string { return rabbitUser }

// Password is the administrator's.
func (r *RabbitMQ) Password() string { return r.password }

// URL is the server's URL, password included.
func (r *RabbitMQ) URL() string { return r.URLAt(r.Addr()) }

// URLAt is the URL at another address, as that of a Proxy in front of the server.
func (r *RabbitMQ) URLAt(addr string) string {
	scheme := "amqp"
	if r.o.TLS != nil {
		scheme = "amqps"
	}
	u := url.URL{Scheme: scheme, User: url.UserPassword(rabbitUser, r.password), Host: addr, Path: "/"}
	return u.String()
}

// TLSConfig is a client's, or nil if the server speaks plain text.
func (r *RabbitMQ) TLSConfig() (*tls.Config, error) {
	if r.o.TLS == nil {
		return nil, nil
	}
	return r.o.TLS.ClientConfig()
}

// QueueOnDisk waits until the server has written down that a quorum queue of the
// virtual host "/" exists. It does so up to seconds after the declaration; one that
// is killed before that has a queue without a leader ever after, whatever messages
// it had confirmed.
func (r *RabbitMQ) QueueOnDisk(ctx context.Context, queue string) error {
	return r.await(ctx, func(context.Context) error {
		const pattern = "mnesia/*/quorum/*/names.dets"
		files, err := filepath.Glob(filepath.Join(r.home.dir, pattern))
		if err != nil {
			return err
		}
		for _, f := range files {
			text, err := os.ReadFile(f)
			if err != nil {
				return err
			}
			if bytes.Contains(text, []byte("%2F_"+queue)) {
				return nil
			}
		}
		return fmt.Errorf("queue %s is in none of %d files %s", queue, len(files), pattern)
	})
}

// Kill ends the server with SIGKILL.
func (r *RabbitMQ) Kill() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.down()
}

// down kills server and port mapper, which work in the same directory.
func (r *RabbitMQ) down() error { return errors.Join(r.kill(), r.epmd.kill()) }

// halt ends the server in order, then the port mapper.
func (r *RabbitMQ) halt(ctx context.Context) error {
	return errors.Join(r.terminate(ctx), r.epmd.kill())
}

// Shutdown ends the server in order and keeps its data and ports for Restart.
func (r *RabbitMQ) Shutdown(ctx context.Context) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.halt(ctx)
}

// Restart starts the server on the same data and ports and waits until it answers.
// One that runs is ended in order first.
func (r *RabbitMQ) Restart(ctx context.Context) error { return r.restart(ctx, false) }

// RestartEmpty does as Restart and removes all data: queues, exchanges, messages.
func (r *RabbitMQ) RestartEmpty(ctx context.Context) error { return r.restart(ctx, true) }

func (r *RabbitMQ) restart(ctx context.Context, empty bool) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.stopped {
		return errors.New("the RabbitMQ server was stopped; start a new one")
	}
	if err := r.halt(ctx); err != nil {
		return err
	}
	if empty {
		if err := os.RemoveAll(filepath.Join(r.home.dir, "mnesia")); err != nil {
			return err
		}
		if _, err := r.home.mkdir("mnesia"); err != nil {
			return err
		}
	}
	return r.up(ctx)
}

// Stop ends the server and removes what is temporary. It may be called twice.
func (r *RabbitMQ) Stop(ctx context.Context) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.stopped {
		return nil
	}
	r.stopped = true
	// Nobody needs the data any more, and an orderly end takes seconds.
	if r.home.temporary {
		return errors.Join(r.down(), r.home.close())
	}
	return errors.Join(r.halt(ctx), r.home.close())
}
