package rabbitmq

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

// Bounds of an examination.
const (
	maxManagementBytes = 8 << 20
	probeExpires       = time.Minute // what an examination that was cut off leaves behind
)

// Facts are what Examine found out.
type Facts struct {
	// Unreachable is why there is no connection; then nothing else is known.
	Unreachable error
	// Broker is the host:port of the node we are connected to, Product, Version and
	// Cluster what it says of itself.
	Broker, Product, Version, Cluster string
	VHost                             string
	TLS                               bool
	Heartbeat                         time.Duration // as agreed
	// Permissions is nil if the user may create, bind, write, read and delete what
	// the bus needs.
	Permissions error
	// Quorum is nil if a quorum queue could be created, and took a message and gave
	// it back.
	Quorum error
	// Confirmed is how long the broker took to confirm that message.
	Confirmed time.Duration
	// Blocked is why the broker takes no messages, as far as it has told us: it does
	// so after the first that it does not take. "" if it has not.
	Blocked string
	// Nodes are those of the cluster; nil if Management is not.
	Nodes []Node
	// Management is why the management plugin could not be asked.
	Management error
	// ConsumerTimeout tells that a setting cannot be read: after this time without an
	// answer to a delivery (30 min unless consumer_timeout says otherwise) the
	// broker takes the messages back. It must be longer than eight times the
	// longest AckWait.
	ConsumerTimeout string
}

// Node is a node of the cluster, as the management plugin tells.
type Node struct {
	Name           string   `json:"name"`
	Running        bool     `json:"running"`
	MemoryAlarm    bool     `json:"mem_alarm"`
	DiskAlarm      bool     `json:"disk_free_alarm"`
	DiskFree       int64    `json:"disk_free"`       // bytes
	DiskFreeLimit  int64    `json:"disk_free_limit"` // bytes
	MemoryUsed     int64    `json:"mem_used"`        // bytes
	MemoryLimit    int64    `json:"mem_limit"`       // bytes
	Partitions     []string `json:"partitions"`
	BeingDrained   bool     `json:"being_drained"`
	FilesUsed      int64    `json:"fd_used"`
	FilesLimit     int64    `json:"fd_total"`
	ErlangProcs    int64    `json:"proc_used"`
	ErlangProcsMax int64    `json:"proc_total"`
}

// errNoManagement says that there is nobody to ask.
var errNoManagement = errors.New("no management URL is configured: the number of nodes and their alarms are unknown")

// Examine finds out how the broker is set up, until ctx ends, or for 10 s if that
// has no deadline.
func (b *Bus) Examine(ctx context.Context) Facts {
	ctx, cancel := b.bounded(ctx)
	defer cancel()
	f := Facts{VHost: b.options.VHost,
		ConsumerTimeout: "unknown: the protocol does not tell; the default is 30 min (see rabbitmqctl environment, consumer_timeout)"}
	s, err := b.publishing.current()
	if err != nil {
		f.Unreachable = b.failed("examine the broker", err)
		return f
	}
	f.Broker = s.addr
	f.Product, _ = s.conn.Properties["product"].(string)
	f.Version, _ = s.conn.Properties["version"].(string)
	f.Cluster, _ = s.conn.Properties["cluster_name"].(string)
	f.TLS = s.conn.ConnectionState().HandshakeComplete
	f.Heartbeat = s.conn.Config.Heartbeat
	err = b.publishing.ask(ctx, func(s *session) error { return s.with(b.declareExchanges) })
	f.Permissions = b.failed("create the exchanges", err)
	if err == nil {
		answers := make(chan time.Duration, 1) // the question may run on when it is given up
		err = b.publishing.ask(ctx, func(s *session) error { return b.probe(ctx, s, answers) })
		f.Quorum = b.failed("use a quorum queue", err)
		if err == nil {
			f.Confirmed = <-answers
		}
	}
	f.Blocked = s.why()
	f.Nodes, f.Management = b.nodes(ctx)
	return f
}

// probe sends a message through a quorum queue of its own.
func (b *Bus) probe(ctx context.Context, s *session, took chan<- time.Duration) error {
	queue := b.options.Prefix + ".examine." + rand.Text()
	return s.with(func(ch *amqp.Channel) error {
		if _, err := ch.QueueDeclare(queue, true, false, false, false, b.quorum(amqp.Table{"x-expires": probeExpires.Milliseconds()})); err != nil {
			return err
		}
		err := probeQueue(ctx, ch, queue, took)
		if _, deleting := ch.QueueDelete(queue, false, false, false); err == nil {
			err = deleting
		}
		return err
	})
}

func probeQueue(ctx context.Context, ch *amqp.Channel, queue string, took chan<- time.Duration) error {
	if err := ch.Confirm(false); err != nil {
		return err
	}
	begun := time.Now()
	c, err := ch.PublishWithDeferredConfirm("", queue, true, false, amqp.Publishing{DeliveryMode: amqp.Persistent})
	if err != nil {
		return err
	}
	acked, err := c.WaitContext(ctx)
	if err != nil {
		return err
	}
	if !acked {
		return errRefusedMessage
	}
	confirmed := time.Since(begun)
	d, there, err := ch.Get(queue, false)
	if err != nil {
		return err
	}
	if !there {
		return errors.New("a message that was confirmed is not in its queue")
	}
	took <- confirmed
	return d.Ack(false)
}

// nodes asks the management plugin, at the first of its addresses that answers.
func (b *Bus) nodes(ctx context.Context) ([]Node, error) {
	if len(b.options.ManagementURLs) == 0 {
		return nil, errNoManagement
	}
	transport := &http.Transport{TLSClientConfig: b.options.TLS.Clone()}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	var faults []error
	for _, base := range b.options.ManagementURLs {
		nodes, err := b.nodesOf(ctx, client, base)
		if err == nil {
			return nodes, nil
		}
		faults = append(faults, err)
	}
	return nil, errors.Join(faults...)
}

func (b *Bus) nodesOf(ctx context.Context, client *http.Client, base string) ([]Node, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimSuffix(base, "/")+"/api/nodes", nil)
	if err != nil {
		return nil, err
	}
	request.SetBasicAuth(b.options.Username, b.options.Password)
	response, err := client.Do(request)
	if err != nil {
		return nil, fmt.Errorf("the management plugin cannot be asked: %w", err)
	}
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("the management plugin at %s answered %s; the user needs the tag \"monitoring\"", request.URL.Host, response.Status)
	}
	var nodes []Node
	if err := json.NewDecoder(io.LimitReader(response.Body, maxManagementBytes)).Decode(&nodes); err != nil {
		return nil, fmt.Errorf("the answer of the management plugin at %s cannot be read: %w", request.URL.Host, err)
	}
	return nodes, nil
}
