package app

import (
	"fmt"

	"millrace/internal/bus"
	"millrace/internal/bus/kafka"
	"millrace/internal/bus/nats"
	"millrace/internal/bus/rabbitmq"
	"millrace/internal/config"
)

// busName is the embedded broker's directory in the data directory.
const busName = "bus"

// openBus connects to the broker that the configuration names, or runs one.
func (w *works) openBus() error {
	var b bus.Bus
	var err error
	switch w.core.cfg.Bus.Driver {
	case "rabbitmq":
		b, err = w.openRabbitMQ()
	case "kafka":
		b, err = w.openKafka()
	default:
		b, err = w.openNATS()
	}
	if err != nil {
		return err
	}
	w.core.bus = b
	w.closers = append(w.closers, b.Close)
	return nil
}

func (w *works) openNATS() (bus.Bus, error) {
	c := w.core
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
		w.closers = append(w.closers, func() error { server.Close(); return nil })
		o.Server = server
	}
	return nats.New(o)
}

func (w *works) openRabbitMQ() (bus.Bus, error) {
	o, err := rabbitOptions(w.core.cfg)
	if err != nil {
		return nil, err
	}
	o.Name, o.Logger, o.Metrics = w.core.instance, w.core.logger, rabbitmq.NewMetrics(w.core.registry)
	b, err := rabbitmq.New(o)
	if err != nil {
		return nil, fmt.Errorf("bus.rabbitmq: %w", err)
	}
	return b, nil
}

func (w *works) openKafka() (bus.Bus, error) {
	o, err := kafkaOptions(w.core.cfg)
	if err != nil {
		return nil, err
	}
	o.Logger, o.Metrics = w.core.logger, kafka.NewMetrics(w.core.registry)
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
