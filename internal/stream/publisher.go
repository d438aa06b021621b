package stream

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"millrace/internal/coalesce"
	"millrace/internal/event"
)

// PublisherOptions are what a Publisher is made of. Broker is required.
type PublisherOptions struct {
	Broker Broker
	// MaxRecordBytes is the largest record that will be appended, 4 MiB if zero:
	// NewPublisher fails if the broker's messages cannot be that large.
	MaxRecordBytes int
	// PackBytes ends a pack, 512 KiB if zero; a larger record is a pack of its own.
	PackBytes int
	// MaxInflightBytes bounds the records that were taken and not yet decided, 64 MiB
	// if zero.
	MaxInflightBytes int64
	// MessagesPerPartition is how many messages may be on their way to one partition
	// at a time, 2 if zero.
	MessagesPerPartition int
	// AckTimeout bounds the wait of Append, 10 s if zero. For half of it a message that
	// is definitely not in the stream is tried on other partitions.
	AckTimeout time.Duration
	// DecideWithin is how long it is tried to find out what became of a message that
	// was not answered, 100 s if zero. It must be less than the broker remembers the
	// ids of messages, and than the TrimAfter of every Assigner.
	DecideWithin time.Duration
	Logger       *slog.Logger
	Metrics      *Metrics
}

const (
	defaultRecordBytes   = 4 << 20
	defaultPackBytes     = 512 << 10
	defaultInflightBytes = 64 << 20
	defaultDecideWithin  = 100 * time.Second
	// coolDown is how long a partition rests that has just refused.
	coolDown = 250 * time.Millisecond
	// refuseFor is how long everything is refused after no partition took a message.
	refuseFor = 500 * time.Millisecond
)

func (o PublisherOptions) withDefaults() (PublisherOptions, error) {
	o.MaxRecordBytes = orDefault(o.MaxRecordBytes, defaultRecordBytes)
	o.PackBytes = orDefault(o.PackBytes, defaultPackBytes)
	o.MaxInflightBytes = orDefault(o.MaxInflightBytes, defaultInflightBytes)
	o.MessagesPerPartition = orDefault(o.MessagesPerPartition, 2)
	o.AckTimeout = orDefault(o.AckTimeout, 10*time.Second)
	o.DecideWithin = orDefault(o.DecideWithin, defaultDecideWithin)
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Metrics == nil {
		o.Metrics = NewMetrics(nil)
	}
	switch {
	case o.Broker == nil:
		return o, errors.New("a publisher needs a broker")
	case o.MaxRecordBytes < 0 || o.MaxRecordBytes > maxPackBytes/2 || o.PackBytes < 0 || o.MaxInflightBytes < 0 || o.MessagesPerPartition < 0 || o.AckTimeout < 0:
		return o, errors.New("a bound of the publisher is negative, or records may be larger than 32 MiB")
	case o.DecideWithin < o.AckTimeout:
		return o, fmt.Errorf("DecideWithin (%v) must be at least AckTimeout (%v)", o.DecideWithin, o.AckTimeout)
	}
	if need := MessageBytes(o.MaxRecordBytes); o.Broker.MaxMessageBytes() < need {
		return o, &MessageSizeError{Have: o.Broker.MaxMessageBytes(), Need: need}
	}
	// What several records make together must fit too.
	o.PackBytes = min(o.PackBytes, o.Broker.MaxMessageBytes()-MessageBytes(0))
	return o, nil
}

// MessageBytes is how large a message a broker has to take so that a record of so
// many bytes can be published.
func MessageBytes(record int) int {
	return envelopeBytes + event.PackHeaderBytes + event.PackRecordBytes + record
}

// MessageSizeError says that a broker's messages are too small for our records.
type MessageSizeError struct {
	Have, Need int
}

func (e *MessageSizeError) Error() string {
	return fmt.Sprintf("the stream's servers take messages of at most %d bytes, and one submission can need %d: "+
		"raise max_payload in the configuration of the NATS servers (or max.message.bytes of the Kafka topic), or lower events.maxBodyBytes", e.Have, e.Need)
}

func orDefault[T comparable](v, byDefault T) T {
	var zero T
	if v == zero {
		return byDefault
	}
	return v
}

// Publisher appends records to a stream; it is an event.PatientLog.
//
// It owns a goroutine that forms packs, and one for each message under way, of
// which there are at most Partitions × MessagesPerPartition.
type Publisher struct {
	o       PublisherOptions
	prefix  string // of message ids: of this publisher alone
	packs   *coalesce.Coalescer[*request]
	free    chan int // partitions that may take one more message
	flights sync.WaitGroup
	ctx     context.Context // ends when Close has waited long enough
	cancel  context.CancelFunc

	inflight atomic.Int64
	closing  atomic.Bool
	refusal  atomic.Pointer[refusal]
	count    uint64 // of messages; the pack-forming goroutine's own

	// encoding is held while records are copied into a pack, so that who leaves can
	// wait until its record is not looked at any more.
	encoding sync.Mutex
}

var _ event.PatientLog = (*Publisher)(nil)

// refusal is why nothing is taken until a time.
type refusal struct {
	err   error
	until time.Time
}

// request is one record on its way.
type request struct {
	record  []byte
	weight  int64
	decided func(error)  // may be nil
	done    chan outcome // has room for one; nil if nobody waits
	state   atomic.Int32
}

type outcome struct {
	seq uint64
	err error
}

const (
	requestWaiting int32 = iota
	requestTaken
	requestWithdrawn
)

// NewPublisher returns a Publisher. A *MessageSizeError says which setting of the
// servers to raise.
func NewPublisher(o PublisherOptions) (*Publisher, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	var random [8]byte
	_, _ = rand.Read(random[:]) // never fails
	p := &Publisher{o: o, prefix: hex.EncodeToString(random[:]) + "-", free: make(chan int, o.Broker.Partitions()*o.MessagesPerPartition)}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	for range o.MessagesPerPartition {
		for n := range o.Broker.Partitions() {
			p.free <- n
		}
	}
	// The queue is bounded here, with what is under way, and not there.
	p.packs = coalesce.New(coalesce.Options{MaxBatchWeight: int64(o.PackBytes), MaxQueuedWeight: math.MaxInt64 / 2}, p.launch, p.launchPanicked)
	return p, nil
}

// Admit says whether an append would be refused now.
func (p *Publisher) Admit() error {
	switch r := p.refusal.Load(); {
	case p.closing.Load():
		return p.refused("closed", event.ErrLogClosed)
	case p.inflight.Load() >= p.o.MaxInflightBytes:
		return p.refused("busy", event.ErrLogBusy)
	case r != nil && time.Now().Before(r.until):
		return p.refused(reason(r.err), r.err)
	}
	if err := p.o.Broker.Err(); err != nil {
		return p.refused("away", fmt.Errorf("%w: %w", event.ErrLogAway, err))
	}
	return nil
}

func (p *Publisher) refused(reason string, err error) error {
	p.o.Metrics.refused.WithLabelValues(reason).Inc()
	return err
}

// Err says why nothing can be published now, nil if that is not known.
func (p *Publisher) Err() error {
	if r := p.refusal.Load(); r != nil && time.Now().Before(r.until) {
		return r.err
	}
	return p.o.Broker.Err()
}

// Next is 0: a stream in partitions has no order of its own.
func (p *Publisher) Next() uint64 { return 0 }

// InflightBytes returns the bytes that were taken and are not yet decided.
func (p *Publisher) InflightBytes() int64 { return p.inflight.Load() }

// Append makes a record durable in the stream, within AckTimeout. The position's
// sequence is that of the message in its partition, whichever that is, and it
// has no time of receipt. The errors are those of a Log on other machines.
func (p *Publisher) Append(record []byte) (event.Position, error) {
	ctx, cancel := context.WithTimeout(context.Background(), p.o.AckTimeout)
	defer cancel()
	o := p.wait(ctx, record, nil)
	return event.Position{Seq: o.seq}, o.err
}

// AppendWithin is Append that leaves with ctx too. See event.PatientLog.
func (p *Publisher) AppendWithin(ctx context.Context, record []byte, decided func(err error)) error {
	return p.wait(ctx, record, decided).err
}

// AppendAsync copies a record and returns. finished is told when it is decided.
func (p *Publisher) AppendAsync(record []byte, finished func(err error)) error {
	return p.enqueue(&request{record: append([]byte(nil), record...), decided: finished})
}

func (p *Publisher) wait(ctx context.Context, record []byte, decided func(err error)) outcome {
	r := &request{record: record, decided: decided, done: make(chan outcome, 1)}
	if err := p.enqueue(r); err != nil {
		if decided != nil {
			decided(err)
		}
		return outcome{err: err}
	}
	select {
	case o := <-r.done:
		return o
	case <-ctx.Done():
	}
	if r.state.CompareAndSwap(requestWaiting, requestWithdrawn) {
		err := p.why()
		p.finish(r, outcome{err: err})
		return outcome{err: err}
	}
	p.encoding.Lock() // until the record has been copied
	//lint:ignore SA2001 nothing is to be done but to wait
	p.encoding.Unlock()
	select {
	case o := <-r.done:
		return o
	default:
		return outcome{err: event.ErrLogUnknown}
	}
}

// why says why a record waited in vain for its turn.
func (p *Publisher) why() error {
	if err := p.Err(); err != nil {
		return fmt.Errorf("%w: %w", event.ErrLogAway, err)
	}
	return event.ErrLogBusy
}

func (p *Publisher) enqueue(r *request) error {
	if len(r.record) > p.o.MaxRecordBytes {
		p.o.Metrics.refused.WithLabelValues("too-large").Inc()
		return fmt.Errorf("%w: it has %d bytes, the limit is %d", event.ErrLogTooLarge, len(r.record), p.o.MaxRecordBytes)
	}
	if err := p.Admit(); err != nil {
		return err
	}
	r.weight = int64(len(r.record)) + event.PackRecordBytes
	p.o.Metrics.inflightBytes.Set(float64(p.inflight.Add(r.weight)))
	if err := p.packs.Add(r, r.weight); err != nil { // closed
		p.inflight.Add(-r.weight)
		return p.refused("closed", event.ErrLogClosed)
	}
	return nil
}

// finish tells who waits for a request, and gives its bytes back.
func (p *Publisher) finish(r *request, o outcome) {
	p.o.Metrics.inflightBytes.Set(float64(p.inflight.Add(-r.weight)))
	if r.decided != nil {
		r.decided(o.err)
	}
	if r.done != nil {
		r.done <- o
	}
}

// launch packs requests into one message and sends it on its way.
func (p *Publisher) launch(requests []*request) {
	partition, ok := p.slot(nil)
	f := p.pack(requests)
	switch {
	case len(f.requests) == 0:
		if ok {
			p.free <- partition
		}
		return
	case !ok:
		p.settle(f, outcome{err: event.ErrLogClosed})
		return
	}
	p.flights.Add(1)
	go p.fly(f, partition)
}

func (p *Publisher) launchPanicked(requests []*request, cause *coalesce.PanicError) {
	p.o.Logger.Error("packing events for the stream failed; they are answered as unknown", "error", cause)
	for _, r := range requests {
		if r.state.Swap(requestTaken) != requestWithdrawn {
			p.finish(r, outcome{err: fmt.Errorf("%w: %w", event.ErrLogUnknown, cause)})
		}
	}
}

// slot waits for a partition that may take a message. ok is false when the
// publisher has to stop, or giveUp has come.
func (p *Publisher) slot(giveUp <-chan time.Time) (partition int, ok bool) {
	select {
	case partition = <-p.free:
		return partition, true
	case <-giveUp:
	case <-p.ctx.Done():
	}
	return 0, false
}

// pack copies the records of those who still wait into one message.
func (p *Publisher) pack(requests []*request) *flight {
	p.count++
	f := &flight{id: p.prefix + strconv.FormatUint(p.count, 36), began: time.Now()}
	p.encoding.Lock()
	defer p.encoding.Unlock()
	records := make([][]byte, 0, len(requests))
	bytes := event.PackHeaderBytes
	for _, r := range requests {
		if r.state.CompareAndSwap(requestWaiting, requestTaken) {
			f.requests = append(f.requests, r)
			records = append(records, r.record)
			bytes += int(r.weight)
		}
	}
	if len(records) > 0 {
		pack := event.AppendPack(make([]byte, 0, bytes), records)
		f.message = seal(pack)
		p.o.Metrics.packRecords.Observe(float64(len(records)))
		p.o.Metrics.packBytes.Observe(float64(len(pack)))
		p.o.Metrics.messageBytes.Add(float64(len(f.message)))
	}
	for _, r := range f.requests {
		r.record = nil // the caller's again
	}
	return f
}

// Close takes nothing more, sends what is queued and waits until everything is
// decided or ctx ends: what is under way then is answered as unknown. It may be
// called more than once.
func (p *Publisher) Close(ctx context.Context) error {
	p.closing.Store(true)
	stop := context.AfterFunc(ctx, p.cancel)
	defer stop()
	p.packs.Close()
	p.flights.Wait()
	p.cancel()
	return nil
}
