package rabbitmq

import (
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"regexp"
	"time"

	"millrace/internal/bus"
)

// Options are what a Bus is made of. URLs is required, and either Username and
// Password or a client certificate in TLS.
type Options struct {
	// URLs are where the nodes of one cluster are: amqp:// or amqps://host[:port],
	// nothing else in them. They are tried in turn.
	URLs []string
	// Username and Password identify us. With neither, the client certificate in TLS
	// does (the broker's EXTERNAL mechanism).
	Username, Password string
	// VHost is the virtual host; "/" if empty.
	VHost string
	// TLS is for amqps, and for https in ManagementURLs.
	TLS *tls.Config

	// Name is shown in the broker's list of connections; "millrace" if empty.
	Name string
	// Prefix is the first word of the name of every exchange and queue, so that two
	// deployments with different prefixes can share a virtual host; "millrace"
	// if empty.
	Prefix string
	// Subjects are what can be published and taken, bus.Group's patterns;
	// "orders.>" if empty.
	Subjects []string
	// QueueReplicas is on how many nodes of a cluster a new queue is kept, 1 to 9
	// and odd; the broker decides if zero.
	QueueReplicas int
	// MaxBytes and MaxAge bound the queue of each group, and each of its queues of
	// delayed messages: beyond them the oldest messages go, even unhandled ones, so
	// that a group that is stuck never holds up publishing. What goes is counted.
	// 512 MiB and 24 h if zero.
	MaxBytes int64
	MaxAge   time.Duration
	// MaxMessageBytes is the most data a message may have; 1 MiB if zero. The
	// broker's own max_message_size must not be less.
	MaxMessageBytes int64
	// Publishers is how many Publish calls send at a time, each on a channel of its
	// own with up to 512 messages unconfirmed; further calls wait. 4 if zero.
	Publishers int
	// Heartbeat is asked of the broker: a connection on which nothing has arrived for
	// one and a half of it is given up. At least 2 s; 8 s if zero.
	Heartbeat time.Duration
	// ReconnectWait is the time before the second attempt to connect; it doubles up
	// to ten of it, of which up to a half is taken off at random. 500 ms if zero.
	ReconnectWait time.Duration
	// ManagementURLs are http:// or https://host[:port] of the broker's management
	// plugin, for Examine only.
	ManagementURLs []string

	Logger  *slog.Logger // discard if nil
	Metrics *Metrics     // unregistered if nil
}

var prefixName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$`)

// withDefaults returns the options completed, or everything that is wrong with
// them.
func (o Options) withDefaults() (Options, error) {
	o.VHost = orDefault(o.VHost, "/")
	o.Name = orDefault(o.Name, "millrace")
	o.Prefix = orDefault(o.Prefix, "millrace")
	if len(o.Subjects) == 0 {
		o.Subjects = []string{"orders.>"}
	}
	o.MaxBytes = orDefault(o.MaxBytes, 512<<20)
	o.MaxAge = orDefault(o.MaxAge, 24*time.Hour)
	o.MaxMessageBytes = orDefault(o.MaxMessageBytes, 1<<20)
	o.Publishers = orDefault(o.Publishers, 4)
	o.Heartbeat = orDefault(o.Heartbeat, 8*time.Second)
	o.ReconnectWait = orDefault(o.ReconnectWait, 500*time.Millisecond)
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Metrics == nil {
		o.Metrics = NewMetrics(nil)
	}
	if faults := o.faults(); len(faults) > 0 {
		return o, fmt.Errorf("the options of the RabbitMQ bus are wrong: %w", errors.Join(faults...))
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
	fault(len(o.URLs) == 0, "URLs is empty: give at least one amqp://host:port or amqps://host:port")
	for i, s := range o.URLs {
		fault(!plainURL(s, "amqp", "amqps"),
			"URL %d must be amqp://host:port or amqps://host:port and nothing more: user, password and virtual host have options of their own", i+1)
	}
	for i, s := range o.ManagementURLs {
		fault(!plainURL(s, "http", "https"), "management URL %d must be http://host:port or https://host:port and nothing more", i+1)
	}
	fault(o.Username == "" && o.Password != "", "a password needs a user name")
	fault(o.Username == "" && o.Password == "" && !o.hasCertificate(), "give a user name and password, or a client certificate")
	fault(!prefixName.MatchString(o.Prefix), "the prefix %.80q must be 1 to 64 of A-Za-z0-9_-", o.Prefix)
	for _, s := range o.Subjects {
		if err := bus.CheckPattern(s); err != nil {
			faults = append(faults, err)
		}
	}
	fault(o.QueueReplicas < 0 || o.QueueReplicas > 9 || o.QueueReplicas > 0 && o.QueueReplicas%2 == 0,
		"QueueReplicas is %d, it must be odd and at most 9, or 0 to leave it to the broker", o.QueueReplicas)
	fault(o.MaxBytes < 1<<20, "MaxBytes is %d, it must be at least 1 MiB", o.MaxBytes)
	fault(o.MaxAge < time.Second || o.MaxAge > forgetGroupAfter, "MaxAge is %v, it must be 1 s to %v", o.MaxAge, forgetGroupAfter)
	fault(o.MaxMessageBytes < 1<<10 || o.MaxMessageBytes > 128<<20, "MaxMessageBytes is %d, it must be 1 KiB to 128 MiB", o.MaxMessageBytes)
	fault(o.Publishers < 1 || o.Publishers > 256, "Publishers is %d, it must be 1 to 256", o.Publishers)
	fault(o.Heartbeat < 2*time.Second || o.Heartbeat > time.Hour, "Heartbeat is %v, it must be 2 s to 1 h", o.Heartbeat)
	fault(o.ReconnectWait < 0, "ReconnectWait is negative")
	return faults
}

func (o *Options) hasCertificate() bool {
	return o.TLS != nil && (len(o.TLS.Certificates) > 0 || o.TLS.GetClientCertificate != nil)
}

// plainURL says whether s is a scheme and a host alone. What it is otherwise is
// told nowhere: it may hold a password.
func plainURL(s string, schemes ...string) bool {
	u, err := url.Parse(s)
	if err != nil || u.Hostname() == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" || u.Path != "" && u.Path != "/" {
		return false
	}
	for _, scheme := range schemes {
		if u.Scheme == scheme {
			return true
		}
	}
	return false
}

// address returns the host:port of one of the URLs.
func address(raw string) string {
	u, err := url.Parse(raw)
	if err != nil { // checked in New
		return "?"
	}
	port := u.Port()
	if port == "" {
		port = map[string]string{"amqp": "5672", "amqps": "5671"}[u.Scheme]
	}
	return net.JoinHostPort(u.Hostname(), port)
}
