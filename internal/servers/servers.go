// Package servers starts private copies of the servers that Millrace works with:
// PostgreSQL (with a streaming replica), Redis, NATS, RabbitMQ and nginx, and a TCP
// proxy that injects faults in front of any of them. Tests, benchmarks and `make
// cluster` use it; Millrace itself does not.
//
// Pattern: StartX(ctx, XOptions) finds the program, or installs it with apt-get,
// makes a directory, reserves loopback ports, starts the program and returns when
// it has answered a real client. The value then has
//
//   - Stop(ctx): ends it in order, frees its ports and removes its directory,
//   - Kill(): SIGKILL for every process of it, at once,
//   - Restart(ctx): starts it on the same data and ports, after a Kill or while it runs,
//   - Pause() and Resume(): SIGSTOP and SIGCONT for every process of it,
//   - Log(): the end of what it printed.
//
// Concurrency: all methods may be called from any goroutine; those that change the
// state of one server wait for each other.
//
// Lifecycle: a server outlives nobody. When the process that started it ends,
// however it ends, a guard (a sleeping shell that notices because a pipe closes)
// kills what is left of it and removes its directory. On Linux the kernel kills the
// server's first process besides.
//
// Several processes may start servers at once: ports are reserved among them with
// file locks, and downloads, builds and templates are made by one at a time.
package servers

import (
	"cmp"
	"crypto/rand"
	"encoding/hex"
	"log/slog"
	"time"
)

const (
	// startTimeout bounds a start of one server, beside the caller's context.
	startTimeout = 60 * time.Second
	// stopTimeout bounds an orderly end; then the server is killed.
	stopTimeout = 30 * time.Second
	// pollInterval is how often something outside is asked whether it is so yet.
	pollInterval = 10 * time.Millisecond
)

// Options are what all servers have in common. The zero value is good.
type Options struct {
	// Dir is where the server keeps everything. A directory of the system's
	// temporary one if empty, and then it is removed at Stop. A Dir that is given
	// stays, and a server that finds its data there goes on with it.
	Dir string
	// Port is the loopback port to listen on; a free one if 0.
	Port int
	// TLS makes the server speak TLS with this certificate. Nil is plain text.
	TLS *Certificate
	// Logger is told what is done; nil is silent.
	Logger *slog.Logger
}

func (o Options) logger() *slog.Logger {
	return cmp.Or(o.Logger, slog.New(slog.DiscardHandler))
}

// randomSecret returns a password that needs no escaping anywhere.
func randomSecret() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}
