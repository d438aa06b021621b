package nats

import (
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"os"
	"regexp"
	"strings"
	"time"

	natsgo "github.com/nats-io/nats.go"

	"millrace/internal/bus"
)

// InProcess is a server in this process; *Server is one.
type InProcess interface {
	// InProcessConn returns a new connection to it.
	InProcessConn() (net.Conn, error)
}

// Options are what a Bus is made of. Either URL or Server is required.
type Options struct {
	// URL is where an external broker is: nats:// or tls://host:port, several of one
	// cluster separated by commas.
	URL string
	// Server is a broker in this process.
	Server InProcess

	// Credentials of an external broker, at most one kind: User and Password, Token,
	// or the path of a .creds file.
	User, Password  string
	Token           string
	CredentialsFile string
	// TLS is how an external broker is connected to with TLS: its authorities, and
	// our certificate if it asks for one. Nil means the system's authorities
	// where a URL says tls://, or the broker asks for TLS.
	TLS *tls.Config
	// MonitorURLs are the broker's monitoring ports, http://host:port, one of each
	// server. Only Examine asks there.
	MonitorURLs []string

	// Name is shown in the broker's list of connections; "millrace" if empty.
	Name string
	// Stream is the name of the stream, and the first word of every subject on the
	// broker, so that two deployments with different names can share an
	// account; "millrace" if empty.
	Stream string
	// Subjects are what the stream keeps, bus.Group's patterns; "orders.>" if empty.
	// Nothing else can be published.
	Subjects []string
	// Replicas of the stream in a cluster, 1 to 5; 1 if zero. A stream that has fewer
	// gets them; one that has more keeps them.
	Replicas int
	// MaxBytes and MaxAge bound the stream: beyond them the oldest messages go, even
	// unhandled ones, so that a group that is stuck never holds up publishing.
	// 512 MiB and 24 h if zero.
	MaxBytes int64
	MaxAge   time.Duration
	// Duplicates is how long a repeated message id is recognized; 30 s if zero. The
	// broker keeps every id of that time in memory.
	Duplicates time.Duration
	// MaxAckPending is how many messages of one group may be unanswered at a time
	// over all instances, those that wait for their next attempt included;
	// 10,000 if zero.
	MaxAckPending int
	// MaxPublishing is how many messages may be on their way to the broker without
	// its answer; further Publish calls wait. 4,096 if zero.
	MaxPublishing int
	// ReconnectWait is the time between two attempts to connect, up to a half more at
	// random; 500 ms if zero.
	ReconnectWait time.Duration

	Logger  *slog.Logger // discard if nil
	Metrics *Metrics     // unregistered if nil
}

var streamName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$`)

// withDefaults returns the options completed, or everything that is wrong with
// them.
func (o Options) withDefaults() (Options, error) {
	o.Name = orDefault(o.Name, "millrace")
	o.Stream = orDefault(o.Stream, "millrace")
	if len(o.Subjects) == 0 {
		o.Subjects = []string{"orders.>"}
	}
	o.Replicas = orDefault(o.Replicas, 1)
	o.MaxBytes = orDefault(o.MaxBytes, 512<<20)
	o.MaxAge = orDefault(o.MaxAge, 24*time.Hour)
	o.Duplicates = orDefault(o.Duplicates, min(30*time.Second, o.MaxAge))
	o.MaxAckPending = orDefault(o.MaxAckPending, 10_000)
	o.MaxPublishing = orDefault(o.MaxPublishing, 4096)
	o.ReconnectWait = orDefault(o.ReconnectWait, 500*time.Millisecond)
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Metrics == nil {
		o.Metrics = NewMetrics(nil)
	}
	if faults := o.faults(); len(faults) > 0 {
		return o, fmt.Errorf("the options of the NATS bus are wrong: %w", errors.Join(faults...))
	}
	return o, nil
}

func orDefault[T comparable](v, byDefault T) T {
	var zero T
	if v == zero {
		return byDefault
	}
	return v
}

func (o *Options) faults() []error {
	var faults []error
	fault := func(wrong bool, format string, args ...any) {
		if wrong {
			faults = append(faults, fmt.Errorf(format, args...))
		}
	}
	fault((o.URL == "") == (o.Server == nil), "give either the URL of a broker or a server in this process")
	if o.URL != "" {
		for _, u := range strings.Split(o.URL, ",") {
			fault(!brokerURL(strings.TrimSpace(u)), "the broker's URL must be nats://host:port or tls://host:port, several separated by commas")
		}
	}
	kinds := 0
	for _, set := range []bool{o.User != "" || o.Password != "", o.Token != "", o.CredentialsFile != ""} {
		if set {
			kinds++
		}
	}
	fault(kinds > 1, "give one kind of credentials: user and password, a token, or a credentials file")
	if o.CredentialsFile != "" {
		_, err := os.Stat(o.CredentialsFile)
		fault(err != nil, "the credentials file cannot be read: %w", err)
	}
	fault(o.TLS != nil && o.Server != nil, "TLS is for an external broker, not for one in this process")
	for _, u := range o.MonitorURLs {
		fault(!webURL(u), "a monitoring URL must be http://host:port or https://host:port")
	}
	fault(!streamName.MatchString(o.Stream), "the stream name %.80q must be 1 to 64 of A-Za-z0-9_-", o.Stream)
	for _, s := range o.Subjects {
		if err := bus.CheckPattern(s); err != nil {
			faults = append(faults, err)
		}
	}
	fault(o.Replicas < 1 || o.Replicas > 5, "Replicas is %d, it must be 1 to 5", o.Replicas)
	fault(o.MaxBytes < 1<<20, "MaxBytes is %d, it must be at least 1 MiB", o.MaxBytes)
	fault(o.MaxAge < time.Second, "MaxAge is %v, it must be at least 1 s", o.MaxAge)
	fault(o.Duplicates < 100*time.Millisecond || o.Duplicates > o.MaxAge, "Duplicates is %v, it must be at least 100 ms and at most MaxAge", o.Duplicates)
	fault(o.MaxAckPending < 1, "MaxAckPending is %d, it must be at least 1", o.MaxAckPending)
	fault(o.MaxPublishing < 1, "MaxPublishing is %d, it must be at least 1", o.MaxPublishing)
	fault(o.ReconnectWait < 0, "ReconnectWait is negative")
	return faults
}

func brokerURL(s string) bool {
	u, err := url.Parse(s)
	return err == nil && u.Host != "" && (u.Scheme == "nats" || u.Scheme == "tls")
}

func webURL(s string) bool {
	u, err := url.Parse(s)
	return err == nil && u.Host != "" && (u.Scheme == "http" || u.Scheme == "https")
}

// connectOptions are the client's options for where and as whom to connect.
func (o *Options) connectOptions() []natsgo.Option {
	list := []natsgo.Option{natsgo.Name(o.Name)}
	if o.Server != nil {
		list = append(list, natsgo.InProcessServer(o.Server))
	}
	if o.User != "" || o.Password != "" {
		list = append(list, natsgo.UserInfo(o.User, o.Password))
	}
	if o.Token != "" {
		list = append(list, natsgo.Token(o.Token))
	}
	if o.CredentialsFile != "" {
		list = append(list, natsgo.UserCredentials(o.CredentialsFile))
	}
	if o.TLS != nil {
		list = append(list, natsgo.Secure(o.TLS.Clone()))
	}
	return list
}
