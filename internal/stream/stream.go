// Package stream keeps accepted events in a replicated stream, for instances that
// have no disk to keep: the accept path answers once the stream's servers have a
// batch, and whichever instance owns a partition of the stream brings it into the
// store.
//
//	event.Ingester ──▶ Publisher ──▶ Broker (partitions 0 … P-1)
//	                  packs, retries        │
//	                         Assigner ──▶ Partition ──▶ event.Sink ──▶ store
//	                     leases: who owns   (one for each partition that it owns)
//
// Pattern. A Publisher packs the records of concurrent submissions into one
// message while earlier messages are under way, and spreads the messages over the
// partitions; a partition that does not answer holds up its own messages alone.
// An Assigner shares the partitions among the instances that live, by leases, and
// runs one Sink for each it has. The lease only saves double work: what is stored
// once is decided by the store, which moves its position in the partition in the
// transaction that inserts the rows. A Broker is what a technology has to give;
// nats and kafka do.
//
// One message is one sequence of the partition, whatever records are in it. The
// time of receipt is the broker's, so reading a message again gives the same rows
// and the same dead letters.
//
// Concurrency: everything exported is safe for concurrent use, but for the readers
// of a Partition, which belong to one goroutine each. Memory is bounded: bytes
// under way in the Publisher, bytes read ahead in a Partition.
//
// Lifecycle: open a Broker, make a Publisher and an Assigner of it, run the
// Assigner; at the end stop the Assigner, close the Publisher, then the Broker.
package stream

import (
	"context"
	"fmt"
	"time"

	"millrace/internal/event"
)

// Broker is a stream in partitions, numbered from 0, each kept by several servers
// in one order. It is safe for concurrent use.
type Broker interface {
	// Partitions is how many there are.
	Partitions() int
	// MaxMessageBytes is the largest message it takes.
	MaxMessageBytes() int
	// Err says why nothing can be published now, as far as is known without asking;
	// nil if it is not known to be so. It is cheap.
	Err() error

	// Publish adds a message to a partition and returns its sequence once enough
	// servers have it durably. It tries again by itself, for as long as ctx allows,
	// whatever leaves open whether the message is there; the id, which no other
	// message has, keeps it from being there twice.
	//
	// An error that wraps event.ErrLogUnknown says that ctx ended before that was
	// decided, or that it cannot be. Any other error says that the message is
	// not in the stream and never will be by this call: event.ErrLogFull,
	// event.ErrLogAway, event.ErrLogTooLarge.
	Publish(ctx context.Context, partition int, id string, message []byte) (seq uint64, err error)

	// State says how a partition stands now.
	State(ctx context.Context, partition int) (State, error)

	// Read calls yield with the messages of a partition in order, beginning with the
	// sequence from or the next there is, until ctx ends or yield returns an error. It
	// waits for what comes, and over interruptions that pass. If the partition
	// is not the log any more, the error says so. The message is yield's to keep.
	Read(ctx context.Context, partition int, log event.LogID, from uint64, yield func(Message) error) error

	// Trim says that what is below upTo is needed no more. A partition that is not
	// the log any more is left alone.
	Trim(ctx context.Context, partition int, log event.LogID, upTo uint64) error

	// Advice is what to tell an operator about a partition.
	Advice(partition int) event.Advice

	// Close gives up the connection.
	Close() error
}

// State is how a partition stands at a moment.
type State struct {
	// ID is of the partition for its whole life: one that was deleted and made anew
	// has another.
	ID event.LogID
	// First is the sequence of the first message that is there, Next one past the
	// last; they are equal if there is none. Sequences begin at 1.
	First, Next uint64
	// Bytes is what the messages take, as far as the broker says.
	Bytes int64
}

// Message is one message of a partition.
type Message struct {
	Seq uint64
	// ReceivedAt is when the broker took it, by the broker's clock.
	ReceivedAt time.Time
	Data       []byte
}

// Facts are what a look at a stream found that changed nothing.
type Facts struct {
	// Reachable: the servers answered.
	Reachable bool
	// Found says in a few words what there is.
	Found string
	// Problems say what is wrong and what to do.
	Problems []string
}

// Problem adds a problem.
func (f *Facts) Problem(format string, args ...any) {
	f.Problems = append(f.Problems, fmt.Sprintf(format, args...))
}

// CheckRecord adds a problem if messages of at most so many bytes are too small
// for the largest record.
func (f *Facts) CheckRecord(messageBytes, recordBytes int) {
	if need := MessageBytes(recordBytes); messageBytes < need {
		f.Problem("%v", &MessageSizeError{Have: messageBytes, Need: need})
	}
}
