package nats

import (
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"regexp"
	"strings"
	"time"

	natsgo "github.com/nats-io/nats.go"
)

// Options are what a Broker is made of. URL is required.
type Options struct {
	// URL is where the servers are: nats:// or tls://host:port, several of one cluster
	// separated by commas.
	URL string
	// Credentials, at most one kind: User and Password, Token, or the path of a .creds
	// file.
	User, Password  string
	Token           string
	CredentialsFile string
	// TLS, if set, is required of the servers.
	TLS *tls.Config
	// Name is shown in the servers' lists of connections; "millrace" if empty.
	Name string

	// Stream begins the names of the streams, one for each partition:
	// <Stream>-0, <Stream>-1 and so on; "MILLRACE-EVENTS" if empty.
	Stream string
	// Partitions is how many there are, 8 if zero. It can only be raised.
	Partitions int
	// Replicas is on how many servers each message is kept, 3 if zero.
	Replicas int
	// MaxBytes bounds one partition; beyond it publishing is refused. 8 GiB if zero. It
	// has to hold two minutes of messages, for which they stay once they are in the
	// store, and the backlog while the store is away.
	MaxBytes int64
	// Duplicates is how long the servers remember the ids of messages, 2 minutes if
	// zero. A Publisher's DecideWithin must be shorter.
	Duplicates time.Duration
	// AttemptTimeout bounds one try of a message, 3 s if zero.
	AttemptTimeout time.Duration
	// ReadAheadBytes bounds what the servers send of one partition ahead of its
	// reader, 4 MiB if zero.
	ReadAheadBytes int

	Logger *slog.Logger // discard if nil
}

var streamName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$`)

func orDefault[T comparable](v, byDefault T) T {
	var zero T
	if v == zero {
		return byDefault
	}
	return v
}

// withDefaults returns the options completed, or everything that is wrong with
// them.
func (o Options) withDefaults() (Options, error) {
	o.Name = orDefault(o.Name, "millrace")
	o.Stream = orDefault(o.Stream, "MILLRACE-EVENTS")
	o.Partitions = orDefault(o.Partitions, 8)
	o.Replicas = orDefault(o.Replicas, 3)
	o.MaxBytes = orDefault(o.MaxBytes, 8<<30)
	o.Duplicates = orDefault(o.Duplicates, 2*time.Minute)
	o.AttemptTimeout = orDefault(o.AttemptTimeout, 3*time.Second)
	o.ReadAheadBytes = orDefault(o.ReadAheadBytes, 4<<20)
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	var faults []error
	fault := func(wrong bool, format string, args ...any) {
		if wrong {
			faults = append(faults, fmt.Errorf(format, args...))
		}
	}
	for _, u := range strings.Split(o.URL, ",") {
		fault(!serverURL(strings.TrimSpace(u)), "the servers' URL must be nats://host:port or tls://host:port, several separated by commas")
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
	fault(!streamName.MatchString(o.Stream), "the stream's name %.80q must be 1 to 64 of A-Za-z0-9_-", o.Stream)
	fault(o.Partitions < 1 || o.Partitions > 256, "Partitions is %d, it must be 1 to 256", o.Partitions)
	fault(o.Replicas < 1 || o.Replicas > 5, "Replicas is %d, it must be 1 to 5", o.Replicas)
	fault(o.MaxBytes < 1<<20, "MaxBytes is %d, it must be at least 1 MiB", o.MaxBytes)
	fault(o.Duplicates < time.Second, "Duplicates is %v, it must be at least 1 s", o.Duplicates)
	fault(o.AttemptTimeout < 0 || o.ReadAheadBytes < 0, "AttemptTimeout or ReadAheadBytes is negative")
	if len(faults) > 0 {
		return o, fmt.Errorf("the options of the stream on NATS are wrong: %w", errors.Join(faults...))
	}
	return o, nil
}

func serverURL(s string) bool {
	u, err := url.Parse(s)
	return err == nil && u.Host != "" && (u.Scheme == "nats" || u.Scheme == "tls")
}

// connectOptions are the client's options for whom to connect as and how to stay
// connected.
func (o *Options) connectOptions() []natsgo.Option {
	list := []natsgo.Option{
		natsgo.Name(o.Name),
		natsgo.RetryOnFailedConnect(true),
		natsgo.MaxReconnects(-1),
		natsgo.IgnoreAuthErrorAbort(), // a password may be put right while we run
		natsgo.ReconnectWait(250 * time.Millisecond),
		natsgo.ReconnectJitter(100*time.Millisecond, 100*time.Millisecond),
		natsgo.ReconnectBufSize(-1), // fail at once: what is not sent is certain
		natsgo.Timeout(5 * time.Second),
		natsgo.PingInterval(5 * time.Second),
		natsgo.MaxPingsOutstanding(2),
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
		list = append(list, natsgo.Secure(o.TLS))
	}
	return list
}
