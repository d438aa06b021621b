package kafka_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"millrace/internal/event"
	"millrace/internal/stream"
	"millrace/internal/stream/kafka"
	"millrace/internal/stream/streamtest"
)

func newCluster(t testing.TB, options ...kfake.Opt) *kfake.Cluster {
	t.Helper()
	c, err := kfake.NewCluster(append([]kfake.Opt{kfake.NumBrokers(3)}, options...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func options(c *kfake.Cluster) kafka.Options {
	return kafka.Options{Brokers: c.ListenAddrs(), MaxMessageBytes: 512 << 10, WatchEvery: 20 * time.Millisecond, SendTimeout: 2 * time.Second}
}

func open(t testing.TB, o kafka.Options) *kafka.Broker {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	b, err := kafka.Open(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close() })
	return b
}

func admin(t testing.TB, c *kfake.Cluster) *kadm.Client {
	t.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(c.ListenAddrs()...))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	return kadm.NewClient(client)
}

func TestKafkaConforms(t *testing.T) {
	streamtest.Broker(t, func(t testing.TB) *streamtest.Harness {
		c := newCluster(t)
		return &streamtest.Harness{
			Open: func(t testing.TB, s streamtest.Settings) stream.Broker {
				o := options(c)
				o.Partitions, o.MaxBytes = s.Partitions, s.MaxBytes
				return open(t, o)
			},
			Recreate: func(t testing.TB, _ int) {
				if _, err := admin(t, c).DeleteTopics(t.Context(), "millrace-events"); err != nil {
					t.Fatal(err)
				}
			},
			Gaps: map[string]string{
				"Repeat": "Kafka recognises what its client sends again, not what a caller does",
				"Remove": "Kafka deletes from the beginning only",
				"Full":   "the bound is looked at every now and then, see TestAFullPartitionRefuses",
			},
		}
	})
}

func TestAFullPartitionRefuses(t *testing.T) {
	c := newCluster(t)
	o := options(c)
	o.Partitions, o.MaxBytes = 2, 1<<20
	b := open(t, o)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	data := make([]byte, 100<<10)
	var err error
	for n := 0; err == nil && ctx.Err() == nil; n++ {
		_, err = b.Publish(ctx, 0, fmt.Sprint(n), data)
	}
	if !errors.Is(err, event.ErrLogFull) {
		t.Fatalf("error %v, want ErrLogFull", err)
	}
	if _, err := b.Publish(ctx, 1, "other", data); err != nil {
		t.Errorf("the other partition: %v", err)
	}
}

func TestATopicThatIsNotAsItMustBeIsAnErrorThatSaysWhatToChange(t *testing.T) {
	for name, fault := range map[string]struct {
		key, value string
		replicas   int16
		partitions int32
		want       string
	}{
		"a retention":           {"retention.ms", "1000", 3, 8, "retention.ms is 1000: set it to -1"},
		"the producer's times":  {"message.timestamp.type", "CreateTime", 3, 8, "LogAppendTime"},
		"small messages":        {"max.message.bytes", "1000", 3, 8, "raise it to"},
		"one broker is enough":  {"min.insync.replicas", "1", 3, 8, "min.insync.replicas is 1: raise it to 2"},
		"too few replicas":      {"min.insync.replicas", "2", 1, 8, "has 1 replicas"},
		"partitions beyond":     {"min.insync.replicas", "2", 3, 9, "raise events.stream.partitions"},
		"compaction of the log": {"cleanup.policy", "compact", 3, 8, "cleanup.policy is compact: set it to delete"},
	} {
		t.Run(name, func(t *testing.T) {
			c := newCluster(t)
			configs := map[string]*string{"retention.ms": new("-1"), "message.timestamp.type": new("LogAppendTime"), "min.insync.replicas": new("2"),
				"max.message.bytes": new("10000000")}
			configs[fault.key] = new(fault.value)
			if _, err := admin(t, c).CreateTopic(t.Context(), fault.partitions, fault.replicas, configs, "millrace-events"); err != nil {
				t.Fatal(err)
			}
			_, err := kafka.Open(t.Context(), options(c))
			var wrong *kafka.ConfigError
			if !errors.As(err, &wrong) || !strings.Contains(err.Error(), fault.want) {
				t.Errorf("error %v, want one that says %q", err, fault.want)
			}
		})
	}
}

func TestAReplyThatIsLostStoresNothingTwice(t *testing.T) {
	c := newCluster(t)
	o := options(c)
	o.Partitions = 1
	b := open(t, o)
	streamtest.Publish(t, b, 0, "before")
	var mu sync.Mutex
	lost := 0
	c.ControlKey(int16(kmsg.Produce), func(kmsg.Request) (kmsg.Response, error, bool) {
		mu.Lock()
		defer mu.Unlock()
		c.KeepControl()
		if lost++; lost > 3 {
			return nil, nil, false
		}
		return nil, errors.New("the connection is lost"), true
	})
	for i := range 5 {
		if seq := streamtest.Publish(t, b, 0, fmt.Sprint("m", i)); seq != uint64(i+2) {
			t.Errorf("message %d has the sequence %d", i, seq)
		}
	}
	if got := streamtest.Read(t, b, 0, 1, 6); len(got) != 6 || lost < 4 {
		t.Errorf("%d messages, %d replies lost", len(got), lost)
	}
}

func TestAClusterThatIsAwayRefusesForCertain(t *testing.T) {
	c := newCluster(t)
	o := options(c)
	o.Partitions = 1
	b := open(t, o)
	streamtest.Publish(t, b, 0, "before")
	c.ControlKey(int16(kmsg.Produce), func(r kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		answer := r.ResponseKind().(*kmsg.ProduceResponse)
		for _, rt := range r.(*kmsg.ProduceRequest).Topics {
			st := kmsg.NewProduceResponseTopic()
			st.Topic, st.TopicID = rt.Topic, rt.TopicID
			for _, rp := range rt.Partitions {
				sp := kmsg.NewProduceResponseTopicPartition()
				sp.Partition, sp.ErrorCode = rp.Partition, kerr.NotEnoughReplicas.Code
				st.Partitions = append(st.Partitions, sp)
			}
			answer.Topics = append(answer.Topics, st)
		}
		return answer, nil, true
	})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if _, err := b.Publish(ctx, 0, "a", []byte("a")); !errors.Is(err, event.ErrLogAway) && !errors.Is(err, event.ErrLogUnknown) {
		t.Errorf("error %v", err)
	}
	ctx, cancel = context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if _, err := kafka.Open(ctx, kafka.Options{Brokers: []string{"127.0.0.1:1"}}); err == nil {
		t.Error("a cluster that is not there was opened")
	}
}

func TestCredentialsAreShownToTheCluster(t *testing.T) {
	for mechanism, sasl := range map[string]string{kafka.Plain: "PLAIN", kafka.ScramSHA256: "SCRAM-SHA-256", kafka.ScramSHA512: "SCRAM-SHA-512"} {
		c := newCluster(t, kfake.EnableSASL(), kfake.Superuser(sasl, "ann", "secret"))
		o := options(c)
		o.Username, o.Password, o.Mechanism = "ann", "secret", mechanism
		streamtest.Publish(t, open(t, o), 0, "a")
		o.Password = "wrong"
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		if _, err := kafka.Open(ctx, o); err == nil || strings.Contains(err.Error(), "wrong") {
			t.Errorf("%s with a wrong password: %v", mechanism, err)
		}
		cancel()
	}
}
