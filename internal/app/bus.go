package app

import (
	"context"
	"fmt"

	"millrace/internal/bus"
	"millrace/internal/bus/kafka"
	"millrace/internal/bus/nats"
	"millrace/internal/bus/rabbitmq"
	"millrace/internal/config"
)

// busName is the embedded broker's directory in the data directory.
const busName = "bus"

// openBus connects a server to the broker that the configuration names, or runs one.
func (c *core) openBus(context.Context) (err error) {
	if c.serving == nil {
		return nil
	}
	switch c.cfg.Bus.Driver {
	case "rabbitmq":
		c.bus, err = c.openRabbitMQ()
	case "kafka":
		c.bus, err = c.openKafka()
	default:
		c.bus, err = c.openNATS()
	}
	if err != nil {
		return err
	}
	c.onClose(c.bus.Close)
	return nil
}

func (c *core) openNATS() (bus.Bus, error) {
	o, err := natsOptions(c.cfg)
	if err != nil {
		return nil, err
	}
	o.Logger, o.Metrics = c.logger, nats.NewMetrics(c.registry)
	if n := &c.cfg.Bus.NATS; n.URL == "" {
		server, err := nats.StartServer(nats.ServerOptions{StoreDir: c.dir.file(busName), MaxStoreBytes: int64(n.StoreMaxBytes), Logger: c.logger})
		if err != nil {
			return nil, err
		}
		c.onClose(func() error { server.Close(); return nil })
		o.Server = server
	}
	return nats.New(o)
}

func (c *core) openRabbitMQ() (bus.Bus, error) {
	o, err := rabbitOptions(c.cfg)
	if err != nil {
		return nil, err
	}
	o.Name, o.Logger, o.Metrics = c.instance, c.logger, rabbitmq.NewMetrics(c.registry)
	b, err := rabbitmq.New(o)
	if err != nil {
		return nil, fmt.Errorf("bus.rabbitmq: %w", err)
	}
	return b, nil
}

func (c *core) openKafka() (bus.Bus, error) {
	o, err := kafkaOptions(c.cfg)
	if err != nil {
		return nil, err
	}
	o.Logger, o.Metrics = c.logger, kafka.NewMetrics(c.registry)
	b, err := kafka.New(o)
	if err != nil {
		return nil, fmt.Errorf("bus.kafka: %w", err)
	}
	return b, nil
}

// natsOptions are what the configuration says of NATS.
func natsOptions(cfg *config.Config) (nats.Options, error) {
	n := &cfg.Bus.NATS
	tls, err := n.TLS.Config()
	if err != nil {
		return nats.Options{}, fmt.Errorf("bus.nats.%w", err)
	}
	return nats.Options{URL: n.URL, User: n.User, Password: n.Password.Reveal(), Token: n.Token.Reveal(), CredentialsFile: n.CredsFile, TLS: tls,
		MonitorURLs: n.MonitorURLs, Replicas: n.Replicas, MaxBytes: int64(n.StoreMaxBytes) / 2}, nil
}

func rabbitOptions(cfg *config.Config) (rabbitmq.Options, error) {
	r := &cfg.Bus.RabbitMQ
	tls, err := r.TLS.Config()
	if err != nil {
		return rabbitmq.Options{}, fmt.Errorf("bus.rabbitmq.%w", err)
	}
	return rabbitmq.Options{URLs: r.URLs, Username: r.User, Password: r.Password.Reveal(), VHost: r.VHost, TLS: tls,
		QueueReplicas: r.Replicas, MaxBytes: int64(r.StoreMaxBytes), ManagementURLs: r.ManagementURLs}, nil
}

func kafkaOptions(cfg *config.Config) (kafka.Options, error) {
	k := &cfg.Bus.Kafka
	tls, err := k.TLS.Config()
	if err != nil {
		return kafka.Options{}, fmt.Errorf("bus.kafka.%w", err)
	}
	return kafka.Options{Brokers: k.Brokers, Prefix: k.Prefix, Username: k.User, Password: k.Password.Reveal(), Mechanism: k.Mechanism, TLS: tls,
		ReplicationFactor: k.Replicas, Partitions: k.Partitions}, nil
}
