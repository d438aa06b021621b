package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"millrace/internal/bus/kafka"
	"millrace/internal/bus/nats"
	"millrace/internal/bus/rabbitmq"
	"millrace/internal/cli"
	"millrace/internal/config"
	"millrace/internal/event"
	"millrace/internal/limit/redis"
	"millrace/internal/store/postgres"
	"millrace/internal/stream"
	streamkafka "millrace/internal/stream/kafka"
	streamnats "millrace/internal/stream/nats"
)

// doctorTimeout bounds the look at one service.
const doctorTimeout = 20 * time.Second

// Doctor looks at everything that the configuration names. It changes nothing.
func Doctor(ctx context.Context, cfg *config.Config) []cli.Finding {
	looks := []func(context.Context, *config.Config) []cli.Finding{lookAtMachine, lookAtStore, lookAtRedis, lookAtBus, lookAtStream}
	found := make([][]cli.Finding, len(looks))
	var group errgroup.Group
	for i, look := range looks {
		group.Go(func() error {
			ctx, cancel := context.WithTimeout(ctx, doctorTimeout)
			defer cancel()
			found[i] = look(ctx, cfg)
			return nil
		})
	}
	_ = group.Wait() // no look answers an error
	var all []cli.Finding
	for _, f := range found {
		all = append(all, f...)
	}
	return all
}

func failed(service, check string, err error, advice string) cli.Finding {
	return cli.Finding{Service: service, Check: check, Grade: cli.GradeFailure, Found: err.Error(), Advice: advice}
}

func fine(service, check, found string) cli.Finding {
	return cli.Finding{Service: service, Check: check, Grade: cli.GradeOK, Found: found}
}

// problems turns what a broker's examination complains of into warnings.
func problems(service string, all []string) []cli.Finding {
	var found []cli.Finding
	for i, p := range all {
		found = append(found, cli.Finding{Service: service, Check: fmt.Sprintf("problem %d", i+1), Grade: cli.GradeWarning, Found: p, Advice: p})
	}
	return found
}

// lookAtMachine looks at the disk that the log is on.
func lookAtMachine(_ context.Context, cfg *config.Config) []cli.Finding {
	const service = "machine"
	dir, err := filepath.Abs(cfg.Data)
	if err != nil {
		return []cli.Finding{failed(service, "data directory", err, "")}
	}
	for { // the directory, or where it will be made
		if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) || dir == filepath.Dir(dir) {
			break
		}
		dir = filepath.Dir(dir)
	}
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return []cli.Finding{failed(service, "disk of the data directory", err, "see whether "+cfg.Data+" can be used")}
	}
	free := config.Size(st.Bavail * uint64(st.Bsize))
	f := fine(service, "disk of the data directory", fmt.Sprintf("%d MiB free", free/config.MiB))
	need := cfg.Events.DiskReserveBytes
	if cfg.Events.Ack != string(event.AckStream) {
		need += cfg.Events.BacklogMaxBytes
	}
	if free < need {
		f.Grade = cli.GradeWarning
		f.Advice = fmt.Sprintf("the log may grow to %s while the database is away, and stops at %s free: give it a larger disk, or lower events.backlogMaxBytes",
			cfg.Events.BacklogMaxBytes, cfg.Events.DiskReserveBytes)
	}
	return []cli.Finding{f}
}

func lookAtStore(ctx context.Context, cfg *config.Config) []cli.Finding {
	if cfg.Store.Driver != "postgres" {
		status, err := MigrateStatus(ctx, cfg)
		if err != nil {
			return []cli.Finding{failed("sqlite", "schema", err, "see whether "+cfg.Data+" can be read")}
		}
		pending := 0
		for _, m := range status {
			if m.AppliedAt.IsZero() {
				pending++
			}
		}
		return []cli.Finding{fine("sqlite", "schema", fmt.Sprintf("%d migrations, %d pending: a server applies them when it starts", len(status), pending))}
	}
	o, err := postgresOptions(cfg, toolInstance, slog.New(slog.DiscardHandler))
	if err != nil {
		return []cli.Finding{failed("postgres", "configuration", err, "mend it")}
	}
	report, err := postgres.Examine(ctx, o)
	if err != nil {
		return []cli.Finding{failed("postgres", "configuration", err, "mend it")}
	}
	var found []cli.Finding
	for _, c := range report.Checks {
		advice := c.Fix
		if c.Fix != "" && c.Why != "" {
			advice = c.Fix + " (" + c.Why + ")"
		}
		text := c.Found
		if c.Want != "" && c.Grade != postgres.OK {
			text += ", should be " + c.Want
		}
		found = append(found, cli.Finding{Service: "postgres", Check: c.Name, Grade: gradeOf(string(c.Grade)), Found: text, Advice: advice})
	}
	return found
}

func gradeOf(grade string) string {
	if grade == "failure" {
		return cli.GradeFailure
	}
	return grade
}

func lookAtRedis(ctx context.Context, cfg *config.Config) []cli.Finding {
	if len(cfg.Redis.Addresses) == 0 {
		return nil
	}
	o, err := redisOptions(cfg)
	if err != nil {
		return []cli.Finding{failed("redis", "configuration", err, "mend it")}
	}
	r, err := redis.New(o)
	if err != nil {
		return []cli.Finding{failed("redis", "configuration", err, "mend it")}
	}
	defer r.Close()
	var found []cli.Finding
	for _, c := range r.Examine(ctx) {
		found = append(found, cli.Finding{Service: "redis", Check: c.Name, Grade: gradeOf(string(c.Grade)), Found: c.Found, Advice: c.Advice})
	}
	return found
}

func lookAtBus(ctx context.Context, cfg *config.Config) []cli.Finding {
	switch {
	case cfg.Bus.Driver == "rabbitmq":
		return lookAtRabbitMQ(ctx, cfg)
	case cfg.Bus.Driver == "kafka":
		return lookAtKafka(ctx, cfg)
	case cfg.Bus.NATS.URL != "":
		return lookAtNATS(ctx, cfg)
	}
	f := fine("bus", "broker", "embedded in each instance")
	if cfg.Store.Driver == "postgres" {
		f.Grade, f.Advice = cli.GradeWarning, "with several instances each hears only of its own orders at once, and of others' from the sweeper: set bus.nats.url to a NATS server of all, or choose another bus.driver"
	}
	return []cli.Finding{f}
}

// lookAtStream looks at the stream of events.ack stream.
func lookAtStream(ctx context.Context, cfg *config.Config) []cli.Finding {
	if cfg.Events.Ack != string(event.AckStream) {
		return nil
	}
	const service = "stream"
	var f stream.Facts
	var err error
	if logger := slog.New(slog.DiscardHandler); cfg.Bus.Driver == "kafka" {
		var o streamkafka.Options
		if o, err = kafkaStreamOptions(cfg, logger); err == nil {
			f = streamkafka.Examine(ctx, o, maxRecordBytes(cfg))
		}
	} else {
		var o streamnats.Options
		if o, err = natsStreamOptions(cfg, logger); err == nil {
			f = streamnats.Examine(ctx, o, maxRecordBytes(cfg))
		}
	}
	if err != nil {
		return []cli.Finding{failed(service, "configuration", err, "mend it")}
	}
	var found []cli.Finding
	if f.Reachable {
		found = append(found, fine(service, "partitions", f.Found))
	}
	for i, p := range f.Problems { // servers refuse to start with most of them
		found = append(found, failed(service, fmt.Sprintf("problem %d", i+1), errors.New(p), p))
	}
	return found
}

func lookAtNATS(ctx context.Context, cfg *config.Config) []cli.Finding {
	o, err := natsOptions(cfg)
	if err != nil {
		return []cli.Finding{failed("nats", "configuration", err, "mend it")}
	}
	b, err := nats.New(o)
	if err != nil {
		return []cli.Finding{failed("nats", "configuration", err, "mend it")}
	}
	defer b.Close()
	f := b.Examine(ctx)
	if !f.Reachable {
		return []cli.Finding{failed("nats", "reachable", errors.New(strings.Join(f.Problems, "; ")), "start the servers, and check bus.nats.url and the credentials")}
	}
	found := []cli.Finding{
		fine("nats", "reachable", fmt.Sprintf("%s, version %s", f.RoundTrip.Round(time.Microsecond), f.Version)),
		fine("nats", "streams", fmt.Sprintf("%d of the bus", len(f.Streams))),
	}
	found = append(found, problems("nats", f.Problems)...)
	if cfg.Events.Ack == string(event.AckStream) {
		found = append(found, lookAtSync(f.Monitored)...)
	}
	return found
}

// lookAtSync says whether JetStream syncs before it acknowledges, on which
// events.ack stream stands.
func lookAtSync(servers []nats.MonitorFacts) []cli.Finding {
	const check = "sync before the acknowledgement"
	if len(servers) == 0 {
		return []cli.Finding{{Service: "nats", Check: check, Grade: cli.GradeWarning, Found: "unknown",
			Advice: "events.ack stream needs jetstream { sync_interval: always } on every server; set bus.nats.monitorUrls so that this can be looked at"}}
	}
	var found []cli.Finding
	for _, s := range servers {
		switch {
		case s.Err != nil:
			found = append(found, failed("nats", check, fmt.Errorf("%s: %w", s.URL, s.Err), "see whether bus.nats.monitorUrls is right and the server runs"))
		case !s.SyncAlways:
			found = append(found, failed("nats", check, fmt.Errorf("%s syncs later", s.Server),
				"set jetstream { sync_interval: always } and restart it: servers that lose power together would lose events that were answered"))
		default:
			found = append(found, fine("nats", check, s.Server+" syncs always"))
		}
	}
	return found
}

func lookAtRabbitMQ(ctx context.Context, cfg *config.Config) []cli.Finding {
	o, err := rabbitOptions(cfg)
	if err != nil {
		return []cli.Finding{failed("rabbitmq", "configuration", err, "mend it")}
	}
	b, err := rabbitmq.New(o)
	if err != nil {
		return []cli.Finding{failed("rabbitmq", "configuration", err, "mend it")}
	}
	defer b.Close()
	f := b.Examine(ctx)
	if f.Unreachable != nil {
		return []cli.Finding{failed("rabbitmq", "reachable", f.Unreachable, "start the nodes, and check bus.rabbitmq.urls, vhost and the credentials")}
	}
	found := []cli.Finding{fine("rabbitmq", "reachable", fmt.Sprintf("%s, %s %s, vhost %s", f.Broker, f.Product, f.Version, f.VHost))}
	for _, c := range []struct {
		check  string
		err    error
		advice string
	}{
		{"permissions", f.Permissions, "let the user configure, write and read what begins with millrace in the vhost"},
		{"quorum queues", f.Quorum, "quorum queues need RabbitMQ 3.10 or newer and nodes that agree"},
	} {
		if c.err != nil {
			found = append(found, failed("rabbitmq", c.check, c.err, c.advice))
		} else {
			found = append(found, fine("rabbitmq", c.check, "as needed"))
		}
	}
	if f.Blocked != "" {
		found = append(found, failed("rabbitmq", "alarms", errors.New(f.Blocked), "free memory or disk of the node: it takes no messages"))
	}
	for _, n := range f.Nodes {
		grade, advice := cli.GradeOK, ""
		if !n.Running || n.MemoryAlarm || n.DiskAlarm || len(n.Partitions) > 0 {
			grade, advice = cli.GradeFailure, "see the node's log"
		}
		found = append(found, cli.Finding{Service: "rabbitmq", Check: "node " + n.Name, Grade: grade, Advice: advice,
			Found: fmt.Sprintf("running %v, memory alarm %v, disk alarm %v, partitions %d", n.Running, n.MemoryAlarm, n.DiskAlarm, len(n.Partitions))})
	}
	if f.Management != nil {
		found = append(found, cli.Finding{Service: "rabbitmq", Check: "nodes", Grade: cli.GradeUnknown, Found: f.Management.Error()})
	}
	return append(found, cli.Finding{Service: "rabbitmq", Check: "consumer timeout", Grade: cli.GradeUnknown, Found: f.ConsumerTimeout})
}

func lookAtKafka(ctx context.Context, cfg *config.Config) []cli.Finding {
	o, err := kafkaOptions(cfg)
	if err != nil {
		return []cli.Finding{failed("kafka", "configuration", err, "mend it")}
	}
	b, err := kafka.New(o)
	if err != nil {
		return []cli.Finding{failed("kafka", "configuration", err, "mend it")}
	}
	defer b.Close()
	f := b.Examine(ctx)
	if !f.Reachable {
		return []cli.Finding{failed("kafka", "reachable", errors.New(strings.Join(f.Problems, "; ")), "start the brokers, and check bus.kafka.brokers and the credentials")}
	}
	found := []cli.Finding{
		fine("kafka", "reachable", fmt.Sprintf("%s, %d brokers, version %s", f.RoundTrip.Round(time.Microsecond), len(f.Brokers), f.Version)),
		fine("kafka", "topics", fmt.Sprintf("%d of the bus", len(f.Topics))),
	}
	return append(found, problems("kafka", f.Problems)...)
}
