package nats

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

// startWithin bounds the start of a Server, the recovery of its stream included.
const startWithin = 30 * time.Second

// ServerOptions are what a Server is made of.
type ServerOptions struct {
	// StoreDir is the server's own directory; it is created. What it holds are hints:
	// it may be removed while the server is stopped. Required.
	StoreDir string
	// MaxStoreBytes is the most its streams may take on disk together; 1 GiB if zero.
	// It must be at least the MaxBytes of the stream.
	MaxStoreBytes int64
	// Listen is a host:port for clients outside this process (port 0 takes a free
	// one); empty means that there are none.
	Listen string
	// User and Password are asked of every client if Password is set.
	User, Password string
	Logger         *slog.Logger // discard if nil
}

// Server is a NATS server with JetStream in this process. It is safe for
// concurrent use. Close it after every Bus that uses it.
type Server struct {
	server *server.Server
	closed sync.Once
}

// StartServer starts a Server and returns when it can be used.
func StartServer(o ServerOptions) (*Server, error) {
	opts, err := o.native()
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(o.StoreDir, 0o750); err != nil {
		return nil, fmt.Errorf("the directory of the message broker cannot be created: %w", err)
	}
	s, err := server.NewServer(opts)
	if err != nil {
		return nil, fmt.Errorf("the message broker in this process cannot be set up: %w", err)
	}
	logger := o.Logger
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	log := &serverLog{log: logger.With("part", "broker")}
	s.SetLoggerV2(log, false, false, false)
	s.Start()
	if !s.ReadyForConnections(startWithin) || !s.JetStreamEnabled() {
		s.Shutdown()
		s.WaitForShutdown()
		return nil, fmt.Errorf("the message broker in this process did not start: %s. If %s is damaged, remove it: it holds hints only, and overdue orders are found without them",
			orDefault(log.lastError(), "not ready within "+startWithin.String()), o.StoreDir)
	}
	return &Server{server: s}, nil
}

func (o *ServerOptions) native() (*server.Options, error) {
	if o.StoreDir == "" {
		return nil, errors.New("the message broker in this process needs a StoreDir")
	}
	if o.MaxStoreBytes < 0 {
		return nil, fmt.Errorf("MaxStoreBytes of the message broker is %d, it must not be negative", o.MaxStoreBytes)
	}
	opts := &server.Options{
		ServerName:         "millrace",
		DontListen:         true,
		NoSigs:             true,
		JetStream:          true,
		StoreDir:           o.StoreDir,
		JetStreamMaxStore:  orDefault(o.MaxStoreBytes, 1<<30),
		JetStreamMaxMemory: 64 << 20, // our streams are files
		Username:           o.User,
		Password:           o.Password,
	}
	if o.Listen != "" {
		host, text, err := net.SplitHostPort(o.Listen)
		port, bad := strconv.ParseUint(text, 10, 16)
		if err != nil || bad != nil {
			return nil, fmt.Errorf("the message broker cannot listen on %q: it must be host:port", o.Listen)
		}
		opts.DontListen, opts.Host, opts.Port = false, orDefault(host, "0.0.0.0"), int(port)
		if port == 0 {
			opts.Port = server.RANDOM_PORT
		}
	}
	return opts, nil
}

// InProcessConn implements InProcess.
func (s *Server) InProcessConn() (net.Conn, error) { return s.server.InProcessConn() }

// URL returns where the server listens, for clients outside this process.
func (s *Server) URL() string { return s.server.ClientURL() }

// Close stops the server, which writes what it holds. It may be called more than
// once.
func (s *Server) Close() {
	s.closed.Do(s.server.Shutdown)
	s.server.WaitForShutdown()
}

// serverLog brings the server's log lines into slog: its notices say nothing an
// operator needs here.
type serverLog struct {
	log *slog.Logger

	mu   sync.Mutex // guards what follows
	last string     // the last error
}

func (l *serverLog) lastError() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.last
}

func (l *serverLog) failed(format string, args []any) {
	text := strings.TrimSpace(fmt.Sprintf(format, args...))
	l.mu.Lock()
	l.last = text
	l.mu.Unlock()
	l.log.Error(text)
}

func (l *serverLog) Noticef(format string, args ...any) { l.log.Debug(fmt.Sprintf(format, args...)) }
func (l *serverLog) Warnf(format string, args ...any)   { l.log.Warn(fmt.Sprintf(format, args...)) }
func (l *serverLog) Errorf(format string, args ...any)  { l.failed(format, args) }
func (l *serverLog) Fatalf(format string, args ...any)  { l.failed(format, args) } // must not end the process
func (l *serverLog) Debugf(format string, args ...any)  { l.log.Debug(fmt.Sprintf(format, args...)) }
func (l *serverLog) Tracef(string, ...any)              {}
