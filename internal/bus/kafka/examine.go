package kafka

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kversion"
)

// Facts are what Examine found. What could not be learned is zero.
type Facts struct {
	// Reachable: a broker answered. RoundTrip is how long that took.
	Reachable bool
	RoundTrip time.Duration
	ClusterID string
	// Brokers are those that are there, host:port. Controller is one of them, empty
	// if there is none.
	Brokers    []string
	Controller string
	// Version is a guess from what the brokers can do, such as "v3.7". Mixed: they
	// are not all of the same.
	Version string
	Mixed   bool
	// Topics are ours that are there; the others are created when they are needed.
	Topics []TopicFacts
	// Problems say what is wrong and what to do, the worst first.
	Problems []string
}

// TopicFacts are about one of our topics.
type TopicFacts struct {
	Name       string
	Partitions int
	// Replicas is the least that any partition has, InSync the least of them that
	// are up to date.
	Replicas, InSync int
	// Leaderless are partitions that cannot be read or written now.
	Leaderless []int32
	// MinInSync is how many must have a message before it is confirmed
	// (min.insync.replicas), 0 if not known.
	MinInSync int
	// Unclean: a replica that lacks messages may become leader
	// (unclean.leader.election.enable).
	Unclean bool
	// MaxMessageBytes is max.message.bytes, 0 if not known.
	MaxMessageBytes int
}

// Examine looks at the cluster for an operator. It changes nothing.
func (b *Bus) Examine(ctx context.Context) Facts {
	ctx, cancel := bounded(ctx)
	defer cancel()
	var f Facts
	for {
		begun := time.Now()
		err := b.Ping(ctx)
		if err == nil {
			f.Reachable, f.RoundTrip = true, time.Since(begun)
			break
		}
		if !pause(ctx, 50*time.Millisecond) {
			f.problem("the message broker cannot be reached: %v", err)
			return f
		}
	}
	if err := b.examineBrokers(ctx, &f); err != nil {
		f.problem("the brokers do not tell of themselves: %v", b.failed("ask for them", err))
		return f
	}
	if err := b.examineTopics(ctx, &f); err != nil {
		f.problem("the topics cannot be looked at: %v", b.failed("look at them", err))
	}
	f.judge(&b.options)
	return f
}

func (f *Facts) problem(format string, args ...any) {
	f.Problems = append(f.Problems, fmt.Sprintf(format, args...))
}

func (b *Bus) examineBrokers(ctx context.Context, f *Facts) error {
	meta, err := b.admin.BrokerMetadata(ctx)
	if err != nil {
		return err
	}
	f.ClusterID = meta.Cluster
	for _, one := range meta.Brokers {
		addr := one.Host + ":" + strconv.Itoa(int(one.Port))
		f.Brokers = append(f.Brokers, addr)
		if one.NodeID == meta.Controller {
			f.Controller = addr
		}
	}
	versions, err := b.admin.ApiVersions(ctx)
	if err != nil {
		return err
	}
	versions.Each(func(v kadm.BrokerApiVersions) {
		if v.Err != nil {
			f.problem("the broker %d does not answer: %v", v.NodeID, v.Err)
			return
		}
		guess := v.VersionGuess(kversion.SkipKeys(4, 5, 6, 7)) // only brokers with ZooKeeper have them
		f.Mixed = f.Mixed || (f.Version != "" && f.Version != guess)
		f.Version = guess
	})
	return nil
}

func (b *Bus) examineTopics(ctx context.Context, f *Facts) error {
	names := b.stock.names()
	details, err := b.admin.ListTopics(ctx, names...)
	if err != nil {
		return err
	}
	index := map[string]int{}
	for _, d := range details.Sorted() {
		if errors.Is(d.Err, kerr.UnknownTopicOrPartition) {
			continue
		}
		if d.Err != nil {
			return fmt.Errorf("%s: %w", d.Topic, d.Err)
		}
		t := TopicFacts{Name: d.Topic, Partitions: len(d.Partitions)}
		for i, p := range d.Partitions.Sorted() {
			if i == 0 || len(p.Replicas) < t.Replicas {
				t.Replicas = len(p.Replicas)
			}
			if i == 0 || len(p.ISR) < t.InSync {
				t.InSync = len(p.ISR)
			}
			if p.Leader < 0 {
				t.Leaderless = append(t.Leaderless, p.Partition)
			}
		}
		index[d.Topic] = len(f.Topics)
		f.Topics = append(f.Topics, t)
	}
	if len(f.Topics) == 0 {
		return nil
	}
	configs, err := b.admin.DescribeTopicConfigs(ctx, slices.Collect(func(yield func(string) bool) {
		for _, t := range f.Topics {
			if !yield(t.Name) {
				return
			}
		}
	})...)
	if err != nil {
		return err
	}
	for _, c := range configs {
		if i, ok := index[c.Name]; ok && c.Err == nil {
			f.Topics[i].configured(c.Configs)
		}
	}
	return nil
}

func (t *TopicFacts) configured(list []kadm.Config) {
	for _, c := range list {
		switch c.Key {
		case "min.insync.replicas":
			t.MinInSync, _ = strconv.Atoi(c.MaybeValue())
		case "max.message.bytes":
			t.MaxMessageBytes, _ = strconv.Atoi(c.MaybeValue())
		case "unclean.leader.election.enable":
			t.Unclean = c.MaybeValue() == "true"
		}
	}
}

// judge adds what is wrong.
func (f *Facts) judge(o *Options) {
	if f.Controller == "" {
		f.problem("the cluster has no controller: topics cannot be made, nor leaders chosen")
	}
	if len(f.Brokers) < o.ReplicationFactor {
		f.problem("%d brokers are there, messages shall be kept on %d", len(f.Brokers), o.ReplicationFactor)
	}
	for _, t := range f.Topics {
		if len(t.Leaderless) > 0 {
			f.problem("partitions %v of the topic %s have no leader: start enough of their brokers", t.Leaderless, t.Name)
		}
		if t.InSync < t.Replicas {
			f.problem("a partition of the topic %s has %d of %d replicas up to date", t.Name, t.InSync, t.Replicas)
		}
		if t.Replicas < o.ReplicationFactor {
			f.problem("the topic %s has %d replicas, %d are configured: add them with kafka-reassign-partitions", t.Name, t.Replicas, o.ReplicationFactor)
		}
		if t.Replicas >= 3 && t.MinInSync == 1 {
			f.problem("the topic %s confirms messages that one broker has: set its min.insync.replicas to 2", t.Name)
		}
		if t.MinInSync > 0 && t.MinInSync >= t.Replicas && t.Replicas > 1 {
			f.problem("the topic %s takes nothing while one of its %d brokers is down: set its min.insync.replicas below that", t.Name, t.Replicas)
		}
		if t.Unclean && t.Replicas > 1 {
			f.problem("the topic %s may lose confirmed messages when its brokers fail one after the other: set its unclean.leader.election.enable to false", t.Name)
		}
		if t.MaxMessageBytes > 0 && t.MaxMessageBytes < o.MaxMessageBytes {
			f.problem("the topic %s takes messages of %d bytes at most, %d are sent: raise its max.message.bytes", t.Name, t.MaxMessageBytes, o.MaxMessageBytes)
		}
	}
}
