package event

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"time"

	"github.com/google/uuid"

	"millrace/internal/deadletter"
	"millrace/internal/event/scan"
)

// batch gathers frames of one day for one commit. Everything in it aliases its
// own buffer, which is reused from batch to batch.
type batch struct {
	logID    LogID
	known    bool // the store has told that it has the log
	from     uint64
	upTo     uint64
	day      time.Time
	items    []Row
	letters  []deadletter.Letter
	arrivals []time.Time // of each frame, for the lag
	buffer   []byte
	err      error
	// carried is a frame that begins the next day, and with it the next batch.
	carried  carriedFrame
	carrying bool
}

type carriedFrame struct {
	frame  Frame
	buffer []byte
}

// rows counts what one commit writes, dead letters included.
func (b *batch) rows() int    { return len(b.items) + len(b.letters) }
func (b *batch) bytes() int64 { return int64(len(b.buffer)) }

// begin empties the batch; it will continue at the sequence from.
func (b *batch) begin(from uint64) {
	clear(b.items)
	clear(b.letters)
	b.from, b.upTo, b.day, b.err = from, from, time.Time{}, nil
	b.items, b.letters, b.arrivals, b.buffer = b.items[:0], b.letters[:0], b.arrivals[:0], b.buffer[:0]
}

// takeCarried begins the batch with the frame that ended the last one.
func (b *batch) takeCarried() bool {
	if !b.carrying {
		return false
	}
	b.carrying = false
	// A store that was found elsewhere makes the reader begin anew, and the frame
	// comes again.
	if b.carried.frame.FirstSeq < b.from {
		return false
	}
	b.add(b.carried.frame)
	return true
}

// add takes in a frame, or carries it to the next batch if it is of another day.
func (b *batch) add(f Frame) {
	day := f.ReceivedAt.UTC().Truncate(24 * time.Hour)
	switch {
	case b.day.IsZero():
		b.day = day
	case !b.day.Equal(day):
		b.carry(f)
		return
	}
	b.arrivals = append(b.arrivals, f.ReceivedAt)
	for i, raw := range f.Records {
		seq := f.FirstSeq + uint64(i)
		if seq >= b.from && b.err == nil {
			b.addRecord(seq, f.ReceivedAt, raw)
		}
	}
	b.upTo = f.FirstSeq + uint64(len(f.Records))
}

func (b *batch) carry(f Frame) {
	c := &b.carried
	c.buffer = c.buffer[:0]
	for _, raw := range f.Records {
		c.buffer = append(c.buffer, raw...)
	}
	c.frame = f
	c.frame.Records = make([][]byte, len(f.Records))
	at := 0
	for i, raw := range f.Records {
		c.frame.Records[i] = c.buffer[at : at+len(raw)]
		at += len(raw)
	}
	b.carrying = true
}

// addRecord copies a record, since the reader's buffer is overwritten by the
// next frame, and decodes the copy. A buffer that grows leaves the old one to
// the rows that alias it.
func (b *batch) addRecord(seq uint64, receivedAt time.Time, raw []byte) {
	at := len(b.buffer)
	b.buffer = append(b.buffer, raw...)
	dead := 0
	err := eachRecord(b.buffer[at:], func(record []byte) error {
		n, err := b.decode(seq, dead, receivedAt, record)
		dead += n
		return err
	})
	if err != nil {
		b.err = fmt.Errorf("record %d: %w", seq, err)
	}
}

// decode takes in one record. The dead entries of a sequence are numbered from
// index on; it returns how many there were.
func (b *batch) decode(seq uint64, index int, receivedAt time.Time, raw []byte) (dead int, err error) {
	r, err := decodeRecord(raw)
	if err != nil {
		return 0, err
	}
	stamp := receivedAt.UnixNano()
	for range r.events {
		row, err := r.nextEvent(stamp)
		if err != nil {
			return 0, err
		}
		b.items = append(b.items, row)
	}
	for i := range r.dead {
		entry, err := r.nextDead()
		if err != nil {
			return 0, err
		}
		b.letters = append(b.letters, b.letter(seq, index+i, receivedAt, &r, &entry))
	}
	return r.dead, nil
}

// letter makes a dead letter whose id depends on nothing but its place in the
// log, so that a batch that is committed again writes the same letters.
func (b *batch) letter(seq uint64, index int, receivedAt time.Time, r *record, e *deadEntry) deadletter.Letter {
	var place [12]byte
	binary.LittleEndian.PutUint64(place[:], seq)
	binary.LittleEndian.PutUint32(place[8:], uint32(index))
	l := deadletter.Letter{
		ID:       letterID(receivedAt, b.logID[:], place[:]),
		TenantID: r.tenantID, Kind: deadletter.KindEvent, Reason: e.reason,
		Source: string(e.source), Type: string(e.typ), EventID: string(e.id),
		BatchID: uuid.UUID(r.batchID).String(), ReceivedAt: receivedAt, Attempts: 1,
		ContentType: contentType(e.format), Payload: e.payload, Truncated: e.truncated,
	}
	switch e.kind {
	case deadBody:
		l.Kind = deadletter.KindBody
	case deadWebhook:
		l.Kind = deadletter.KindWebhook
	}
	return l
}

// letterID is a UUIDv7 of the time of receipt whose random part is a hash of
// what makes the letter unique.
func letterID(receivedAt time.Time, unique ...[]byte) string {
	digest := sha256.New()
	for _, part := range unique {
		digest.Write(part)
	}
	var id uuid.UUID
	copy(id[6:], digest.Sum(nil))
	var stamp [8]byte
	binary.BigEndian.PutUint64(stamp[:], uint64(receivedAt.UnixMilli())<<16)
	copy(id[:6], stamp[:6])
	id[6] = id[6]&0x0f | 0x70
	id[8] = id[8]&0x3f | 0x80
	return id.String()
}

// contentType names a format as the edge does.
func contentType(f scan.Format) string {
	switch f {
	case scan.NDJSON:
		return "application/x-ndjson"
	case scan.CloudEvent:
		return "application/cloudevents+json"
	case scan.CloudEventBatch:
		return "application/cloudevents-batch+json"
	default:
		return "application/json"
	}
}

// formatOf is the inverse of contentType.
func formatOf(contentType string) scan.Format {
	switch contentType {
	case "application/x-ndjson":
		return scan.NDJSON
	case "application/cloudevents+json":
		return scan.CloudEvent
	case "application/cloudevents-batch+json":
		return scan.CloudEventBatch
	default:
		return scan.JSON
	}
}

// request returns what the store is to commit.
func (b *batch) request(o *SinkOptions) Batch {
	return Batch{LogID: b.logID, From: b.from, UpTo: b.upTo, Day: b.day, Rows: b.items, Known: b.known,
		Exact: o.Exact, ExactDays: o.ExactDays}
}
