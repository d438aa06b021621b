package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/google/uuid"

	"millrace/internal/config"
	"millrace/internal/event"
	"millrace/internal/stream"
	"millrace/internal/stream/kafka"
	"millrace/internal/stream/nats"
)

// streamIntake is a replicated stream: all instances publish to it, and those of
// the role sink share its partitions.
type streamIntake struct {
	broker    stream.Broker
	publisher *stream.Publisher
	assigner  *stream.Assigner // nil without the role sink
	never     chan struct{}
}

func openStream(ctx context.Context, c *core) (_ *streamIntake, err error) {
	s := &streamIntake{never: make(chan struct{})}
	ctx, cancel := context.WithTimeout(ctx, max(c.cfg.Store.Postgres.StartTimeout, longStartPause))
	defer cancel()
	c.logger.Info("waiting for the stream of events", "broker", c.cfg.Bus.Driver, "partitions", c.cfg.Events.Stream.Partitions, "replicas", c.cfg.Events.Stream.Replicas)
	if s.broker, err = openStreamBroker(ctx, c); err != nil {
		return nil, fmt.Errorf("the stream of events.ack stream: %w", err)
	}
	c.onClose(s.broker.Close)
	metrics := stream.NewMetrics(c.registry)
	s.publisher, err = stream.NewPublisher(stream.PublisherOptions{Broker: s.broker, MaxRecordBytes: maxRecordBytes(c.cfg),
		MaxInflightBytes: int64(c.cfg.Events.Stream.InflightBytes), AckTimeout: streamAckTimeout(c.cfg), Logger: c.logger, Metrics: metrics})
	if err != nil {
		return nil, err
	}
	c.onClose(s.closePublisher)
	if !c.has(config.RoleSink) {
		return s, nil
	}
	s.assigner, err = stream.NewAssigner(stream.AssignerOptions{
		Broker: s.broker, Leases: c.db.Leases(), Instance: c.instance + "/" + uuid.NewString(),
		NewSink: func(p *stream.Partition) (stream.Sink, error) {
			o := c.sinkOptions(p)
			o.Advice, o.Metrics = p.Advice(), c.sinkMetrics.Shared()
			return event.NewSink(o)
		},
		AcceptLoss: c.cfg.Events.Stream.AcceptLoss, Logger: c.logger, Metrics: metrics,
	})
	return s, err
}

// publisherClose bounds how long the end of an instance waits for messages under
// way; nobody waits for their answer any more.
const publisherClose = 10 * time.Second

func (s *streamIntake) closePublisher() error {
	ctx, cancel := context.WithTimeout(context.Background(), publisherClose)
	defer cancel()
	return s.publisher.Close(ctx)
}

// streamAckTimeout is how long a request waits for the stream: less than it may
// take in all, so that it is answered.
func streamAckTimeout(cfg *config.Config) time.Duration {
	return min(10*time.Second, cfg.HTTP.RequestTimeout/2)
}

// maxRecordBytes is the largest record of the log: a body, and what is noted about
// each of its events.
func maxRecordBytes(cfg *config.Config) int {
	const perEvent = 256
	return int(cfg.Events.MaxBodyBytes) + perEvent*cfg.Events.MaxBatchEvents
}

func openStreamBroker(ctx context.Context, c *core) (stream.Broker, error) {
	if c.cfg.Bus.Driver == "kafka" {
		o, err := kafkaStreamOptions(c.cfg, c.logger)
		if err != nil {
			return nil, err
		}
		return kafka.Open(ctx, o)
	}
	o, err := natsStreamOptions(c.cfg, c.logger)
	if err != nil {
		return nil, err
	}
	return nats.Open(ctx, o)
}

func kafkaStreamOptions(cfg *config.Config, logger *slog.Logger) (kafka.Options, error) {
	k, e := &cfg.Bus.Kafka, &cfg.Events.Stream
	tls, err := k.TLS.Config()
	if err != nil {
		return kafka.Options{}, fmt.Errorf("bus.kafka.%w", err)
	}
	return kafka.Options{Brokers: k.Brokers, Username: k.User, Password: k.Password.Reveal(), Mechanism: k.Mechanism, TLS: tls,
		Topic: e.Name, Partitions: e.Partitions, Replicas: e.Replicas, MaxBytes: int64(e.MaxBytes), Logger: logger}, nil
}

func natsStreamOptions(cfg *config.Config, logger *slog.Logger) (nats.Options, error) {
	n, e := &cfg.Bus.NATS, &cfg.Events.Stream
	tls, err := n.TLS.Config()
	if err != nil {
		return nats.Options{}, fmt.Errorf("bus.nats.%w", err)
	}
	return nats.Options{URL: n.URL, User: n.User, Password: n.Password.Reveal(), Token: n.Token.Reveal(), CredentialsFile: n.CredsFile, TLS: tls,
		Stream: e.Name, Partitions: e.Partitions, Replicas: e.Replicas, MaxBytes: int64(e.MaxBytes), Logger: logger}, nil
}

func (s *streamIntake) log() event.Log { return s.publisher }

// Changed never fires on an instance that sinks nothing: its tails poll.
func (s *streamIntake) Changed() <-chan struct{} {
	if s.assigner == nil {
		return s.never
	}
	return s.assigner.Changed()
}

// WaitCommitted does not wait: nobody knows when other instances have stored what
// this one published.
func (s *streamIntake) WaitCommitted(context.Context, uint64) error { return nil }

func (s *streamIntake) Run(ctx context.Context) error {
	if s.assigner == nil {
		<-ctx.Done()
		return nil
	}
	return s.assigner.Run(ctx)
}

// Drain has nothing to wait for: the stream keeps what is not stored yet.
func (s *streamIntake) Drain(context.Context) {}

func (s *streamIntake) Fill(ctx context.Context, f *windowFill) error {
	return event.RebuildWindow(ctx, f.window, f.store, nil, 0, f.since)
}

// Failed never happens: a stream that is away comes back.
func (s *streamIntake) Failed() <-chan struct{} { return s.never }
func (s *streamIntake) Err() error              { return nil }

func (s *streamIntake) Probe() error { return s.broker.Err() }

func (s *streamIntake) ProbeSink() error {
	if s.assigner == nil {
		return nil
	}
	if err := s.assigner.Probe(); err != nil {
		return errors.New("events cannot be brought from the stream into the database; see this server's log")
	}
	return nil
}
