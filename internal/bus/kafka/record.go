package kafka

import (
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"millrace/internal/bus"
)

// Headers of a record that are ours. A message's own have no dot in their names.
const (
	headerSubject = "millrace.subject"
	headerAttempt = "millrace.attempt" // of the next delivery; 1 if it is missing
	headerDue     = "millrace.due"     // Unix ms before which it is not delivered
)

// topics are the names a deployment uses.
type topics struct{ prefix string }

// of returns the topic of a message's subject: that of its first word.
func (t topics) of(subject string) string {
	word, _, _ := strings.Cut(subject, ".")
	return t.prefix + ".messages." + word
}

// retry returns the topic of a group's messages that wait for another attempt.
func (t topics) retry(group string) string { return t.prefix + ".retry." + group }

func (t topics) broadcast() string { return t.prefix + ".broadcast" }

// group returns the broker's name of a group.
func (t topics) group(name string) string { return t.prefix + "." + name }

// record returns a message as a record of a topic. The turn chooses the partition.
func record(topic string, m *bus.Message, turn int32) *kgo.Record {
	r := &kgo.Record{Topic: topic, Value: m.Data, Partition: turn,
		Headers: make([]kgo.RecordHeader, 0, len(m.Headers)+1)}
	if m.ID != "" {
		r.Key = []byte(m.ID)
	}
	r.Headers = append(r.Headers, kgo.RecordHeader{Key: headerSubject, Value: []byte(m.Subject)})
	for name, value := range m.Headers {
		r.Headers = append(r.Headers, kgo.RecordHeader{Key: name, Value: []byte(value)})
	}
	return r
}

// letter is a record that was read.
type letter struct {
	bus.Delivery
	due time.Time // zero: now
}

// read returns a record's message; ok is false if it is not one of ours.
func read(r *kgo.Record) (l letter, ok bool) {
	l.Attempt, l.ID, l.Data = 1, string(r.Key), r.Value
	for _, h := range r.Headers {
		switch h.Key {
		case headerSubject:
			l.Subject = string(h.Value)
		case headerAttempt:
			if n, err := strconv.Atoi(string(h.Value)); err == nil && n > 0 {
				l.Attempt = n
			}
		case headerDue:
			if ms, err := strconv.ParseInt(string(h.Value), 10, 64); err == nil && ms > 0 {
				l.due = time.UnixMilli(ms)
			}
		default:
			if l.Headers == nil {
				l.Headers = make(map[string]string, len(r.Headers)-1)
			}
			l.Headers[h.Key] = string(h.Value)
		}
	}
	return l, bus.CheckSubject(l.Subject) == nil
}

// again returns the record for a message's next attempt.
func again(topic string, m *bus.Message, attempt int, due time.Time, turn int32) *kgo.Record {
	r := record(topic, m, turn)
	r.Headers = append(r.Headers, kgo.RecordHeader{Key: headerAttempt, Value: strconv.AppendInt(nil, int64(attempt), 10)})
	if !due.IsZero() {
		r.Headers = append(r.Headers, kgo.RecordHeader{Key: headerDue, Value: strconv.AppendInt(nil, due.UnixMilli(), 10)})
	}
	return r
}

// inTurn is the producer's partitioner: a record names its turn in place of a
// partition, and records with the same turn go to the same one. Partitions
// without a leader are passed over.
type inTurn struct{}

// ForTopic implements kgo.Partitioner.
func (inTurn) ForTopic(string) kgo.TopicPartitioner { return inTurn{} }

// RequiresConsistency implements kgo.TopicPartitioner.
func (inTurn) RequiresConsistency(*kgo.Record) bool { return false }

// Partition implements kgo.TopicPartitioner.
func (inTurn) Partition(r *kgo.Record, n int) int { return int(uint32(r.Partition)) % n }
