package kafka

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"millrace/internal/stream"
)

// Examine looks at the topic for an operator, and whether it takes the largest
// record. It changes nothing: a topic that is missing is made by the first server
// that starts. It takes a few seconds at most.
func Examine(ctx context.Context, o Options, recordBytes int) stream.Facts {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	var f stream.Facts
	o, err := o.withDefaults()
	if err != nil {
		f.Problem("%v", err)
		return f
	}
	client, err := kgo.NewClient(o.connectOptions()...)
	if err != nil {
		f.Problem("the Kafka client cannot be set up: %v", err)
		return f
	}
	defer client.Close()
	b := &Broker{o: o, client: client, admin: kadm.NewClient(client)}
	topics, err := b.admin.ListTopics(ctx, o.Topic)
	if err != nil {
		f.Problem("the Kafka cluster cannot be reached: %v", err)
		return f
	}
	f.Reachable = true
	f.CheckRecord(o.MaxMessageBytes, recordBytes)
	switch t := topics[o.Topic]; {
	case errors.Is(t.Err, kerr.UnknownTopicOrPartition), t.Err == nil && len(t.Partitions) == 0:
		f.Found = "the topic " + o.Topic + " is not there yet"
	case t.Err != nil:
		f.Problem("the topic %s cannot be looked at: %v", o.Topic, t.Err)
	default:
		b.judge(ctx, &f, &t)
	}
	return f
}

// judge adds what is wrong with the topic.
func (b *Broker) judge(ctx context.Context, f *stream.Facts, t *kadm.TopicDetail) {
	f.Found = fmt.Sprintf("%d of %d partitions are there", len(t.Partitions), b.o.Partitions)
	if t.ID == (kadm.TopicID{}) {
		f.Problem("%v", b.withoutIDs())
	}
	faults, err := b.faults(ctx, t)
	if err != nil {
		f.Problem("%v", err)
	}
	if len(faults) > 0 {
		f.Problem("%v", &ConfigError{Topic: b.o.Topic, Faults: faults})
	}
	need, _ := strconv.Atoi(*b.configs()["min.insync.replicas"]) // our own
	for _, p := range t.Partitions.Sorted() {
		switch {
		case p.Leader < 0:
			f.Problem("partition %d of the topic %s has no leader: start its brokers", p.Partition, b.o.Topic)
		case len(p.ISR) < need:
			f.Problem("partition %d of the topic %s has %d replicas in sync and takes messages with %d: start its brokers", p.Partition, b.o.Topic, len(p.ISR), need)
		}
	}
}
