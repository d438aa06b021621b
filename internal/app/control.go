package app

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"millrace/internal/auth"
	"millrace/internal/cli"
	"millrace/internal/config"
	"millrace/internal/telemetry"
)

// controlURL is the base of control requests; who answers depends on the client.
const controlURL = "http://millrace.control"

// Control returns a client of the control API for a data directory: of the
// server that holds it, over its socket, or, when none does, of a handler in
// this process on data that it opens itself. Release ends either.
func Control(ctx context.Context, cfg *config.Config) (client *http.Client, baseURL string, release func() error, err error) {
	if _, err := os.Stat(cfg.Data); errors.Is(err, os.ErrNotExist) {
		return nil, "", nil, fmt.Errorf("there is no data directory %s: name the one of your server with --data", cfg.Data)
	}
	c, err := openOffline(ctx, cfg)
	if errors.Is(err, errHeld) {
		return dialServer(cfg.Data)
	}
	if err != nil {
		return nil, "", nil, err
	}
	return c.client()
}

// dialServer returns a client over the socket of the server that holds dir.
func dialServer(dir string) (*http.Client, string, func() error, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, "", nil, fmt.Errorf("the data directory: %w", err)
	}
	transport := &http.Transport{
		DialContext: func(context.Context, string, string) (net.Conn, error) {
			conn, err := dialControl(dir)
			if err != nil {
				return nil, fmt.Errorf("another process holds %s but does not answer on its control socket (is it still starting, or another command?): %w", dir, err)
			}
			return conn, nil
		},
	}
	release := func() error { transport.CloseIdleConnections(); return nil }
	return &http.Client{Transport: transport}, controlURL, release, nil
}

// offline is a core without listeners.
type offline struct {
	core  *core
	stop  context.CancelFunc
	ended chan error
}

func openOffline(ctx context.Context, cfg *config.Config) (*offline, error) {
	logger, err := telemetry.NewLogger(os.Stderr, slog.LevelError, cfg.Log.Format)
	if err != nil {
		return nil, err
	}
	c, err := openCore(ctx, cfg, logger, prometheus.NewRegistry(), nil)
	if err != nil {
		return nil, err
	}
	runCtx, stop := context.WithCancel(context.WithoutCancel(ctx))
	o := &offline{core: c, stop: stop, ended: make(chan error, 1)}
	go func() { o.ended <- c.run(runCtx) }()
	return o, nil
}

// offlineDrain bounds how long a command waits for what it put into the log to
// reach the store; the next start would go on with it.
const offlineDrain = 10 * time.Second

func (o *offline) release() error {
	ctx, cancel := context.WithTimeout(context.Background(), offlineDrain)
	defer cancel()
	o.core.intake.Drain(ctx)
	o.stop()
	return errors.Join(<-o.ended, o.core.Close())
}

func (o *offline) client() (*http.Client, string, func() error, error) {
	authenticator, err := o.core.newAuthenticator()
	if err != nil {
		return nil, "", nil, errors.Join(err, o.release())
	}
	edge, err := o.core.newEdge(nil, authenticator, nil, func() []string { return nil })
	if err != nil {
		return nil, "", nil, errors.Join(err, o.release())
	}
	return &http.Client{Transport: inProcess{edge.ControlHandler()}}, controlURL, o.release, nil
}

// inProcess carries requests to a handler of this process.
type inProcess struct{ handler http.Handler }

// RoundTrip answers from the handler. The whole answer is in memory, as the
// control API's are small.
func (t inProcess) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	if r.Body == nil {
		r.Body = http.NoBody
	}
	defer r.Body.Close()
	r.RequestURI = r.URL.RequestURI()
	w := &recorder{header: http.Header{}, code: http.StatusOK}
	t.handler.ServeHTTP(w, r)
	return &http.Response{
		Status: fmt.Sprintf("%d %s", w.code, http.StatusText(w.code)), StatusCode: w.code, Proto: r.Proto, ProtoMajor: 1, ProtoMinor: 1,
		Header: w.header, Body: io.NopCloser(&w.body), ContentLength: int64(w.body.Len()), Request: r,
	}, nil
}

// recorder is a ResponseWriter that keeps the answer.
type recorder struct {
	header http.Header
	code   int
	body   bytes.Buffer
}

func (w *recorder) Header() http.Header         { return w.header }
func (w *recorder) WriteHeader(code int)        { w.code = code }
func (w *recorder) Write(b []byte) (int, error) { return w.body.Write(b) }

// Token mints a token with the key of a data directory, which is made if it is
// not there. It works beside a running server.
func Token(cfg *config.Config, r cli.TokenRequest) (string, error) {
	dir, err := makeDataDir(cfg.Data)
	if err != nil {
		return "", err
	}
	issuer, err := openIssuer(cfg, dir)
	if err != nil {
		return "", err
	}
	scopes, err := auth.ParseScopeNames(r.Scopes)
	if err != nil {
		return "", err
	}
	return issuer.Mint(auth.Claims{TenantID: r.Tenant, Subject: r.Subject, Scopes: scopes, TTL: r.TTL})
}

// LockData takes the lock of a data directory for a command that changes its
// files, and fails when a server holds it.
func LockData(dir string) (release func() error, err error) {
	d, err := openDataDir(dir)
	if err != nil {
		return nil, err
	}
	return d.Close, nil
}
