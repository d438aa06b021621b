package kafka

import (
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"regexp"
	"strconv"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sasl"
	"github.com/twmb/franz-go/pkg/sasl/plain"
	"github.com/twmb/franz-go/pkg/sasl/scram"
)

// Mechanisms of showing user and password to the brokers.
const (
	Plain       = "PLAIN"
	ScramSHA256 = "SCRAM-SHA-256"
	ScramSHA512 = "SCRAM-SHA-512"
)

// Options are what a Broker is made of. Brokers is required.
type Options struct {
	// Brokers are some brokers of the cluster, host:port; they tell of the others.
	Brokers []string
	// Username and Password are shown with Mechanism, SCRAM-SHA-512 if that is empty;
	// no Username, no SASL.
	Username, Password string
	Mechanism          string
	// TLS is how the brokers are connected to with TLS; nil means without.
	TLS *tls.Config
	// Name is shown in the brokers' logs and quotas; "millrace" if empty.
	Name string

	// Topic is the topic's name, "millrace-events" if empty.
	Topic string
	// Partitions is how many there are, 8 if zero. It can only be raised.
	Partitions int
	// Replicas is on how many brokers each message is kept, 3 if zero. With 3 or more
	// a message is acknowledged by two at least.
	Replicas int
	// MaxBytes bounds one partition; beyond it publishing is refused. It is looked at
	// every two seconds, and brokers give space back by whole segments: the bound is
	// exceeded by what comes meanwhile. 8 GiB if zero. It has to hold two minutes of
	// messages, for which they stay once they are in the store, and the backlog while
	// the store is away.
	MaxBytes int64
	// MaxMessageBytes is the largest message, 5 MiB if zero. The topic is made for it.
	MaxMessageBytes int
	// SendTimeout is how long a message that no broker has seen waits for one, 5 s if
	// zero.
	SendTimeout time.Duration
	// BufferBytes bounds the messages in the client: those under way, and those whose
	// senders were told that the outcome is unknown and that the client still tries to
	// decide. Beyond it messages are refused. 64 MiB if zero, at least two messages.
	BufferBytes int
	// ReadAheadBytes bounds what a reader has received of one partition, 4 MiB if zero.
	ReadAheadBytes int
	// WatchEvery is how often the cluster is asked whether it is there and how much the
	// partitions take, 2 s if zero.
	WatchEvery time.Duration

	Logger *slog.Logger // discard if nil
}

var topicName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,199}$`)

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
	o.Mechanism = orDefault(o.Mechanism, ScramSHA512)
	o.Name = orDefault(o.Name, "millrace")
	o.Topic = orDefault(o.Topic, "millrace-events")
	o.Partitions = orDefault(o.Partitions, 8)
	o.Replicas = orDefault(o.Replicas, 3)
	o.MaxBytes = orDefault(o.MaxBytes, 8<<30)
	o.MaxMessageBytes = orDefault(o.MaxMessageBytes, 5<<20)
	o.SendTimeout = orDefault(o.SendTimeout, 5*time.Second)
	o.BufferBytes = orDefault(o.BufferBytes, max(64<<20, 2*o.MaxMessageBytes))
	o.ReadAheadBytes = orDefault(o.ReadAheadBytes, 4<<20)
	o.WatchEvery = orDefault(o.WatchEvery, 2*time.Second)
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	var faults []error
	fault := func(wrong bool, format string, args ...any) {
		if wrong {
			faults = append(faults, fmt.Errorf(format, args...))
		}
	}
	fault(len(o.Brokers) == 0, "Brokers is empty: name some of the cluster's, host:port")
	for _, b := range o.Brokers {
		host, port, err := net.SplitHostPort(b)
		_, bad := strconv.ParseUint(port, 10, 16)
		fault(err != nil || bad != nil || host == "", "the broker %.80q must be host:port", b)
	}
	fault(o.Username == "" && o.Password != "", "a Password needs its Username")
	fault(o.Mechanism != Plain && o.Mechanism != ScramSHA256 && o.Mechanism != ScramSHA512,
		"Mechanism is %.40q, it must be %s, %s or %s", o.Mechanism, Plain, ScramSHA256, ScramSHA512)
	fault(!topicName.MatchString(o.Topic), "the topic's name %.80q must be 1 to 200 of A-Za-z0-9._-", o.Topic)
	fault(o.Partitions < 1 || o.Partitions > 256, "Partitions is %d, it must be 1 to 256", o.Partitions)
	fault(o.Replicas < 1 || o.Replicas > 9, "Replicas is %d, it must be 1 to 9", o.Replicas)
	fault(o.MaxBytes < 1<<20, "MaxBytes is %d, it must be at least 1 MiB", o.MaxBytes)
	fault(o.MaxMessageBytes < 64<<10 || o.MaxMessageBytes > 64<<20, "MaxMessageBytes is %d, it must be 64 KiB to 64 MiB", o.MaxMessageBytes)
	fault(o.BufferBytes < 2*o.MaxMessageBytes, "BufferBytes is %d, it must be at least two messages of %d bytes", o.BufferBytes, o.MaxMessageBytes)
	fault(o.SendTimeout < time.Second, "SendTimeout is %v, it must be at least 1 s", o.SendTimeout)
	fault(o.ReadAheadBytes < 0 || o.WatchEvery < 0, "ReadAheadBytes or WatchEvery is negative")
	if len(faults) > 0 {
		return o, fmt.Errorf("the options of the stream on Kafka are wrong: %w", errors.Join(faults...))
	}
	return o, nil
}

// connectOptions are the client's options for whom to connect as.
func (o *Options) connectOptions() []kgo.Opt {
	list := []kgo.Opt{kgo.SeedBrokers(o.Brokers...), kgo.ClientID(o.Name), kgo.DialTimeout(5 * time.Second), kgo.RetryTimeout(10 * time.Second)}
	if o.TLS != nil {
		list = append(list, kgo.DialTLSConfig(o.TLS))
	}
	if o.Username != "" {
		list = append(list, kgo.SASL(o.mechanism()))
	}
	return list
}

func (o *Options) mechanism() sasl.Mechanism {
	switch o.Mechanism {
	case Plain:
		return plain.Auth{User: o.Username, Pass: o.Password}.AsMechanism()
	case ScramSHA256:
		return scram.Auth{User: o.Username, Pass: o.Password}.AsSha256Mechanism()
	default:
		return scram.Auth{User: o.Username, Pass: o.Password}.AsSha512Mechanism()
	}
}
