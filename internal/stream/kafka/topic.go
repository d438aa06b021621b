package kafka

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// ConfigError says that the topic is not as it must be.
type ConfigError struct {
	// Topic is its name.
	Topic string
	// Faults say what is wrong and what to change.
	Faults []string
}

func (e *ConfigError) Error() string {
	return "the topic " + e.Topic + " cannot be used: " + strings.Join(e.Faults, "; ")
}

// maxSegmentBytes and the number of segments bound what a partition keeps after it
// was trimmed.
const (
	maxSegmentBytes = 256 << 20
	minSegmentBytes = 16 << 20
	segments        = 16
)

// configs are how the topic is made.
func (b *Broker) configs() map[string]*string {
	insync := 1
	if b.o.Replicas >= 3 {
		insync = 2
	}
	segment := min(max(b.o.MaxBytes/segments, minSegmentBytes), maxSegmentBytes)
	return map[string]*string{
		"cleanup.policy":                 new("delete"),
		"retention.ms":                   new("-1"),
		"retention.bytes":                new("-1"),
		"message.timestamp.type":         new("LogAppendTime"),
		"max.message.bytes":              new(strconv.Itoa(b.o.MaxMessageBytes + batchOverhead)),
		"min.insync.replicas":            new(strconv.Itoa(insync)),
		"unclean.leader.election.enable": new("false"),
		"segment.bytes":                  new(strconv.FormatInt(segment, 10)),
	}
}

// topicID returns the topic's id, and makes the topic if it is not there.
func (b *Broker) topicID(ctx context.Context) (kadm.TopicID, error) {
	t, err := b.askTopic(ctx)
	if err != nil {
		return kadm.TopicID{}, fmt.Errorf("asking for the topic %s: %w", b.o.Topic, err)
	}
	failure := kerr.ErrorForCode(t.ErrorCode)
	if errors.Is(failure, kerr.UnknownTopicOrPartition) || failure == nil && len(t.Partitions) == 0 {
		if err := b.furnish(ctx); err != nil {
			return kadm.TopicID{}, err
		}
		b.mu.Lock()
		defer b.mu.Unlock()
		return b.topic, nil
	}
	if failure != nil {
		return kadm.TopicID{}, fmt.Errorf("asking for the topic %s: %w", b.o.Topic, failure)
	}
	b.remember(t.TopicID)
	return t.TopicID, nil
}

// askTopic asks the cluster, and not what the client remembers of it for some
// seconds: a topic that was made anew in between would pass for the old one.
func (b *Broker) askTopic(ctx context.Context) (kmsg.MetadataResponseTopic, error) {
	request, topic := kmsg.NewPtrMetadataRequest(), kmsg.NewMetadataRequestTopic()
	topic.Topic = kmsg.StringPtr(b.o.Topic)
	request.Topics = append(request.Topics, topic)
	answer, err := request.RequestWith(ctx, b.client)
	if err != nil {
		return kmsg.MetadataResponseTopic{}, err
	}
	if len(answer.Topics) != 1 {
		return kmsg.MetadataResponseTopic{}, fmt.Errorf("the answer speaks of %d topics", len(answer.Topics))
	}
	return answer.Topics[0], nil
}

// remember notes the topic's id. The client never takes up a topic that was made
// anew by itself, so that nobody mistakes it for the old one.
func (b *Broker) remember(id kadm.TopicID) {
	b.mu.Lock()
	before := b.topic
	b.topic = id
	b.mu.Unlock()
	if before != id && before != (kadm.TopicID{}) {
		b.o.Logger.Error("the topic of events was deleted and made anew; what was in it and not yet in the database is lost", "topic", b.o.Topic)
		b.client.PurgeTopicsFromClient(b.o.Topic)
	}
}

// furnish makes the topic if it is missing and checks it if it is there.
func (b *Broker) furnish(ctx context.Context) error {
	b.furnishing.Lock()
	defer b.furnishing.Unlock()
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	_, err := b.admin.CreateTopic(ctx, int32(b.o.Partitions), int16(b.o.Replicas), b.configs(), b.o.Topic)
	switch {
	case errors.Is(err, kerr.InvalidReplicationFactor):
		return &ConfigError{Topic: b.o.Topic, Faults: []string{fmt.Sprintf(
			"the cluster has fewer than %d brokers: add brokers, or lower events.stream.replicas, which loses events with fewer disks", b.o.Replicas)}}
	case err != nil && !errors.Is(err, kerr.TopicAlreadyExists):
		return fmt.Errorf("making the topic %s: %w", b.o.Topic, err)
	}
	topics, err := b.admin.ListTopics(ctx, b.o.Topic)
	if err == nil {
		err = topics.Error()
	}
	if err != nil {
		return fmt.Errorf("asking for the topic %s: %w", b.o.Topic, err)
	}
	t := topics[b.o.Topic]
	if t.ID == (kadm.TopicID{}) {
		return b.withoutIDs()
	}
	if len(t.Partitions) < b.o.Partitions {
		if _, err := b.admin.UpdatePartitions(ctx, b.o.Partitions, b.o.Topic); err != nil {
			return fmt.Errorf("raising the topic %s to %d partitions: %w", b.o.Topic, b.o.Partitions, err)
		}
	}
	faults, err := b.faults(ctx, &t)
	if err != nil {
		return err
	}
	if len(faults) > 0 {
		return &ConfigError{Topic: b.o.Topic, Faults: faults}
	}
	b.remember(t.ID)
	return nil
}

func (b *Broker) withoutIDs() error {
	return &ConfigError{Topic: b.o.Topic, Faults: []string{"the cluster gives topics no ids, so that one that was made anew could be mistaken for the old: use Kafka 2.8 or later"}}
}

// faults says how the topic differs from what it must be.
func (b *Broker) faults(ctx context.Context, t *kadm.TopicDetail) ([]string, error) {
	described, err := b.admin.DescribeTopicConfigs(ctx, b.o.Topic)
	if err != nil {
		return nil, fmt.Errorf("asking for the settings of the topic %s: %w", b.o.Topic, err)
	}
	is, err := described.On(b.o.Topic, nil)
	if err == nil {
		err = is.Err
	}
	if err != nil {
		return nil, fmt.Errorf("asking for the settings of the topic %s: %w", b.o.Topic, err)
	}
	values := map[string]string{}
	for _, c := range is.Configs {
		values[c.Key] = c.MaybeValue()
	}
	var faults []string
	for _, key := range []string{"cleanup.policy", "retention.ms", "retention.bytes", "message.timestamp.type", "unclean.leader.election.enable"} {
		if got, known := values[key]; known && got != *b.configs()[key] {
			faults = append(faults, fmt.Sprintf("%s is %s: set it to %s with kafka-configs --alter", key, got, *b.configs()[key]))
		}
	}
	for _, key := range []string{"max.message.bytes", "min.insync.replicas"} {
		want, _ := strconv.Atoi(*b.configs()[key])
		if got, err := strconv.Atoi(values[key]); err == nil && got < want {
			faults = append(faults, fmt.Sprintf("%s is %d: raise it to %d with kafka-configs --alter", key, got, want))
		}
	}
	beyond := false
	for n, p := range t.Partitions {
		if len(p.Replicas) < b.o.Replicas {
			faults = append(faults, fmt.Sprintf("partition %d has %d replicas and events.stream.replicas is %d: reassign it", n, len(p.Replicas), b.o.Replicas))
		}
		beyond = beyond || int(n) >= b.o.Partitions
	}
	if beyond {
		faults = append(faults, fmt.Sprintf("it has %d partitions and %d are configured: nobody would bring the others into the database; raise events.stream.partitions", len(t.Partitions), b.o.Partitions))
	}
	return faults, nil
}
