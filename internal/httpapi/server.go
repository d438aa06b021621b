package httpapi

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"millrace/internal/order"
)

// Server is the edge. Make it with New.
type Server struct {
	o         Options
	logger    *slog.Logger
	metrics   *Metrics
	public    *surface
	control   *surface
	http      *http.Server
	cert      *certificate // nil without TLS
	bodies    *bodies
	orders    *bodies // of POST /orders, whose bodies are small
	decoders  decoders
	exchanges sync.Pool
	answers   sync.Pool // *[]byte for answers
	variants  *variants
	languages *languages
	caching   *caching
	tails     *slots
	reads     *slots
	waits     *slots
	buyers    *slots // of waits, by buyer
	readiness readiness
	refusals  lineBudget
	started   time.Time
	// catalogInMemory says that products are read from memory.
	catalogInMemory bool

	draining  atomic.Bool
	drainOnce sync.Once
	drained   chan struct{} // closed when the tails have to end
}

// New returns a Server that is ready to serve. It reads the certificate once, so
// a wrong one is told at start.
func New(o Options) (*Server, error) {
	inMemory := o.CatalogStale != nil
	o.setDefaults()
	if err := o.validate(); err != nil {
		return nil, err
	}
	s := &Server{
		o: o, logger: o.Logger, metrics: o.Metrics,
		bodies:   newBodies(o.MaxBodyBytes, o.Bytes),
		tails:    newTails(o.MaxTails, o.MaxTailsPerTenant),
		reads:    newReads(o.MaxReads, o.MaxReadsPerTenant),
		waits:    newWaits(o.MaxWaits, o.MaxWaitsPerTenant),
		buyers:   newWaitsOfBuyers(o.MaxWaits, o.MaxWaitsPerBuyer),
		refusals: lineBudget{perSecond: 20},
		started:  o.Now(),
		drained:  make(chan struct{}),

		languages: newLanguages(), caching: newCaching(o.CatalogCache), catalogInMemory: inMemory,
	}
	s.orders = newBodiesOf(min(maxOrderBytes, o.MaxBodyBytes), s.bodies.shares, "an order has at most "+strconv.Itoa(order.MaxLines)+" items")
	s.decoders.maxBytes = o.MaxBodyBytes
	s.exchanges.New = func() any { return new(exchange) }
	s.answers.New = func() any { b := make([]byte, 0, 4<<10); return &b }
	s.readiness.timeout = o.ProbeTimeout
	for _, c := range o.Checks {
		if err := s.AddCheck(c); err != nil {
			return nil, err
		}
	}
	var err error
	if s.variants, err = newVariants(o.VariantBytes, o.Metrics); err != nil {
		return nil, err
	}
	if o.ProbesOnly {
		s.public = newProbeSurface(s)
	} else if s.public, err = newPublicSurface(s); err != nil {
		return nil, err
	}
	if s.control, err = newControlSurface(s); err != nil {
		return nil, err
	}
	return s, s.setUpHTTP()
}

func (s *Server) setUpHTTP() error {
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(true)
	protocols.SetUnencryptedHTTP2(true)
	s.http = &http.Server{
		Handler:           s.public,
		ReadHeaderTimeout: s.o.HeaderTimeout,
		WriteTimeout:      s.o.WriteTimeout,
		IdleTimeout:       s.o.IdleTimeout,
		MaxHeaderBytes:    s.o.MaxHeaderBytes,
		Protocols:         &protocols,
		HTTP2:             &http.HTTP2Config{MaxConcurrentStreams: 250},
		ErrorLog:          slog.NewLogLogger(s.logger.Handler(), slog.LevelDebug), // TLS handshakes that fail, mostly
	}
	if s.o.CertFile == "" {
		return nil
	}
	var err error
	if s.cert, err = newCertificate(s.o.CertFile, s.o.KeyFile, s.logger, s.metrics); err != nil {
		return err
	}
	s.http.TLSConfig = &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: s.cert.get}
	return nil
}

// Handler returns the public surface. Serve serves it; tests may use it alone.
func (s *Server) Handler() http.Handler { return s.public }

// ControlHandler returns the operator's surface. It asks for no credential: serve
// it only where nobody but the operator can connect, such as a Unix socket with
// mode 0600. The tenant is named by the header X-Millrace-Tenant.
func (s *Server) ControlHandler() http.Handler { return s.control }

// AddCheck registers a part for readiness. It is safe at any time; names are
// unique.
func (s *Server) AddCheck(c Check) error { return s.readiness.add(c) }

// Serve answers requests on the listener until ctx ends or Shutdown is called;
// then it waits until the way down is complete. It may be called for several
// listeners. It closes the listener. The error is nil after an orderly end.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	failed := make(chan error, 1)
	go func() {
		if s.cert != nil {
			failed <- s.http.ServeTLS(l, "", "")
			return
		}
		failed <- s.http.Serve(l)
	}()
	select {
	case err := <-failed:
		if errors.Is(err, http.ErrServerClosed) {
			return nil
		}
		return fmt.Errorf("serving %s: %w", l.Addr(), err)
	case <-ctx.Done():
	}
	down, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.o.DrainTimeout)
	defer cancel()
	err := s.Shutdown(down)
	<-failed
	return err
}

// Shutdown drains: readiness fails at once, requests are still taken for
// Options.DrainDelay, then the listeners close, tails end and requests in flight
// finish. What is still open when ctx ends is cut, and that is the error. It may
// be called again.
func (s *Server) Shutdown(ctx context.Context) error {
	s.BeginDrain()
	if s.o.DrainDelay > 0 {
		timer := time.NewTimer(s.o.DrainDelay)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
		}
	}
	s.drainOnce.Do(func() { close(s.drained) })
	err := s.http.Shutdown(ctx)
	if err == nil {
		return nil
	}
	if cut := s.http.Close(); cut != nil && !errors.Is(cut, net.ErrClosed) {
		s.logger.Warn("closing connections failed", "error", cut)
	}
	return fmt.Errorf("requests were still in flight when the time to drain was over, and were cut: %w", err)
}

// BeginDrain makes readiness fail, and nothing else.
func (s *Server) BeginDrain() { s.draining.Store(true) }
