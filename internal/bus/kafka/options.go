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

	"millrace/internal/bus"
)

// Mechanisms of showing user and password to the brokers.
const (
	Plain       = "PLAIN"
	ScramSHA256 = "SCRAM-SHA-256"
	ScramSHA512 = "SCRAM-SHA-512"
)

// Options are what a Bus is made of. Brokers is required.
type Options struct {
	// Brokers are some brokers of the cluster, host:port; they tell of the others.
	Brokers []string
	// Username and Password are shown to the brokers with Mechanism, SCRAM-SHA-512 if
	// that is empty; no Username, no SASL.
	Username, Password string
	Mechanism          string
	// TLS is how the brokers are connected to with TLS; nil means without.
	TLS *tls.Config

	// Name is shown in the brokers' logs and quotas; "millrace" if empty.
	Name string
	// Prefix is what the names of topics and consumer groups begin with, so that two
	// deployments can share a cluster; "millrace" if empty.
	Prefix string
	// Subjects are what can be published, bus.Group's patterns; "orders.>" if empty.
	// Each first word of them has a topic.
	Subjects []string

	// Of topics that are made here; those that are there are left as they are.
	//
	// ReplicationFactor is on how many brokers each message is kept; 1 if zero. With 3
	// or more a message is confirmed by two brokers at least.
	ReplicationFactor int
	// Partitions bound how many instances share a group's work; 12 if zero.
	Partitions int
	// RetentionBytes bounds each partition, RetentionAge each message's life: beyond
	// them the oldest go, even unhandled ones. 64 MiB and 24 h if zero.
	RetentionBytes int64
	RetentionAge   time.Duration

	// MaxMessageBytes is the most a message may have; 1 MB less a little if zero,
	// which is Kafka's own default.
	MaxMessageBytes int
	// MaxPublishing is how many messages may be on their way to the brokers without
	// their answer; further Publish calls wait. 8,192 if zero.
	MaxPublishing int
	// MaxUnanswered is how many messages of one partition may be taken and not done
	// with; beyond it the partition is not read further. That many at most
	// are delivered again after a crash. 10,000 if zero.
	MaxUnanswered int
	// MaxWaitingBytes bounds the messages of one group in this process that wait for
	// the time of their next attempt; beyond it no further ones are read. 32 MiB if
	// zero.
	MaxWaitingBytes int64

	// SessionTimeout is after which silence a member's partitions go to the others;
	// 10 s if zero, brokers take 6 s to 30 min. Heartbeat is how often a member
	// tells that it is there, and learns of others; 1 s if zero.
	SessionTimeout, Heartbeat time.Duration
	// ReconnectWait is the time between two attempts to reach the cluster, up to a
	// half more at random; 500 ms if zero.
	ReconnectWait time.Duration

	Logger  *slog.Logger // discard if nil
	Metrics *Metrics     // unregistered if nil
}

// Topic names have at most 249 characters; groups and subjects take 64 and 200.
var prefixName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_-]{0,31}$`)

// withDefaults returns the options completed, or everything that is wrong with
// them.
func (o Options) withDefaults() (Options, error) {
	o.Name = orDefault(o.Name, "millrace")
	o.Prefix = orDefault(o.Prefix, "millrace")
	o.Mechanism = orDefault(o.Mechanism, ScramSHA512)
	if len(o.Subjects) == 0 {
		o.Subjects = []string{"orders.>"}
	}
	o.ReplicationFactor = orDefault(o.ReplicationFactor, 1)
	o.Partitions = orDefault(o.Partitions, 12)
	o.RetentionBytes = orDefault(o.RetentionBytes, 64<<20)
	o.RetentionAge = orDefault(o.RetentionAge, 24*time.Hour)
	o.MaxMessageBytes = orDefault(o.MaxMessageBytes, 1_000_000)
	o.MaxPublishing = orDefault(o.MaxPublishing, 8192)
	o.MaxUnanswered = orDefault(o.MaxUnanswered, 10_000)
	o.MaxWaitingBytes = orDefault(o.MaxWaitingBytes, 32<<20)
	o.SessionTimeout = orDefault(o.SessionTimeout, 10*time.Second)
	o.Heartbeat = orDefault(o.Heartbeat, min(time.Second, o.SessionTimeout/3))
	o.ReconnectWait = orDefault(o.ReconnectWait, 500*time.Millisecond)
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Metrics == nil {
		o.Metrics = NewMetrics(nil)
	}
	if faults := o.faults(); len(faults) > 0 {
		return o, fmt.Errorf("the options of the Kafka bus are wrong: %w", errors.Join(faults...))
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
	fault(len(o.Brokers) == 0, "Brokers is empty: name some of the cluster's, host:port")
	for _, b := range o.Brokers {
		host, port, err := net.SplitHostPort(b)
		_, bad := strconv.ParseUint(port, 10, 16)
		fault(err != nil || bad != nil || host == "", "the broker %.80q must be host:port", b)
	}
	fault(o.Username == "" && o.Password != "", "a Password needs its Username")
	switch o.Mechanism {
	case Plain, ScramSHA256, ScramSHA512:
	default:
		fault(true, "Mechanism is %.40q, it must be %s, %s or %s", o.Mechanism, Plain, ScramSHA256, ScramSHA512)
	}
	fault(!prefixName.MatchString(o.Prefix), "the prefix %.80q must be 1 to 32 of A-Za-z0-9_-", o.Prefix)
	for _, s := range o.Subjects {
		if err := bus.CheckPattern(s); err != nil {
			faults = append(faults, err)
		}
	}
	fault(o.ReplicationFactor < 1 || o.ReplicationFactor > 9, "ReplicationFactor is %d, it must be 1 to 9", o.ReplicationFactor)
	fault(o.Partitions < 1 || o.Partitions > 1000, "Partitions is %d, it must be 1 to 1000", o.Partitions)
	fault(o.RetentionBytes < 1<<20, "RetentionBytes is %d, it must be at least 1 MiB", o.RetentionBytes)
	fault(o.RetentionAge < time.Minute, "RetentionAge is %v, it must be at least 1 min", o.RetentionAge)
	fault(o.MaxMessageBytes < 16<<10 || o.MaxMessageBytes > 64<<20, "MaxMessageBytes is %d, it must be 16 KiB to 64 MiB", o.MaxMessageBytes)
	fault(o.MaxPublishing < 1, "MaxPublishing is %d, it must be at least 1", o.MaxPublishing)
	fault(o.MaxUnanswered < 1, "MaxUnanswered is %d, it must be at least 1", o.MaxUnanswered)
	fault(o.MaxWaitingBytes < 1<<20, "MaxWaitingBytes is %d, it must be at least 1 MiB", o.MaxWaitingBytes)
	fault(o.SessionTimeout < time.Second || o.SessionTimeout > 30*time.Minute, "SessionTimeout is %v, it must be 1 s to 30 min", o.SessionTimeout)
	fault(o.Heartbeat < 10*time.Millisecond || o.Heartbeat > o.SessionTimeout/2, "Heartbeat is %v, it must be 10 ms to half of SessionTimeout", o.Heartbeat)
	fault(o.ReconnectWait < 0, "ReconnectWait is negative")
	return faults
}

// envelopeBytes is what a record has besides a message's data, at most: names,
// headers, id and the batch around it.
const envelopeBytes = 8 << 10

// Times of the client's own.
const (
	dialTimeout     = 5 * time.Second
	answerTimeout   = 5 * time.Second  // of a broker, beyond what a request allows it
	produceTimeout  = 5 * time.Second  // for a broker to have a message everywhere
	deliveryTimeout = 15 * time.Second // after which the client forgets a message that nobody waits for
	metadataAge     = 250 * time.Millisecond
	requestRetries  = 8
)

// clientOptions are how to reach the cluster, the same for every client.
func (o *Options) clientOptions() []kgo.Opt {
	list := []kgo.Opt{
		kgo.SeedBrokers(o.Brokers...),
		kgo.ClientID(o.Name),
		kgo.SoftwareNameAndVersion("millrace", "1"),
		kgo.WithLogger(clientLog{o.Logger.With("part", "kafka")}),
		kgo.DialTimeout(dialTimeout),
		kgo.RequestTimeoutOverhead(answerTimeout),
		kgo.RetryTimeout(requestTimeout),
		kgo.RequestRetries(requestRetries),
		kgo.RetryBackoffFn(func(failures int) time.Duration { return bus.Backoff(failures, 50*time.Millisecond, time.Second) }),
		kgo.MetadataMinAge(metadataAge),
		kgo.MetadataMaxAge(30 * time.Second),
		kgo.DisableClientMetrics(),
	}
	if o.TLS != nil {
		list = append(list, kgo.DialTLSConfig(o.TLS.Clone()))
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

// clientLog brings the client's log lines into slog, one level lower: what an
// operator must know is logged here, once.
type clientLog struct{ log *slog.Logger }

// Level implements kgo.Logger.
func (clientLog) Level() kgo.LogLevel { return kgo.LogLevelWarn }

// Log implements kgo.Logger.
func (l clientLog) Log(_ kgo.LogLevel, text string, args ...any) {
	l.log.Debug("the Kafka client: "+text, args...)
}
