package postgres

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"sync"

	"github.com/jackc/pgx/v5/pgxpool"

	"millrace/internal/event"
)

// copyColumns are in the order in which rowReader writes them.
const copyColumns = `(received_ns, seq, id_key, timestamp_ns, tenant_id, type, id, source, attributes, payload) FROM STDIN (FORMAT binary)`

// copyRows copies rows into the day's partition, the first with the sequence seq.
func copyRows(ctx context.Context, conn *pgxpool.Conn, d day, rows []event.Row, seq int64, s *appendScratch) error {
	r := &rowReader{buffer: s.copied[:0], rows: rows, seq: seq}
	tag, err := conn.Conn().PgConn().CopyFrom(ctx, r, `COPY `+d.of("events")+` `+copyColumns)
	s.copied = r.stop()
	if err == nil && tag.RowsAffected() != int64(len(rows)) {
		err = fmt.Errorf("the server took %d rows of %d", tag.RowsAffected(), len(rows))
	}
	return err
}

// rowReader encodes rows as binary COPY while they are read. When a copy fails,
// the goroutine that reads may outlive it: stop keeps it away from the rows, whose
// memory is another's.
type rowReader struct {
	mu     sync.Mutex
	buffer []byte // what was encoded and not read yet is from at on
	at     int
	rows   []event.Row // still to be encoded
	seq    int64       // of the first of them
	begun  bool
	ended  bool
}

const (
	copySignature = "PGCOPY\n\xff\r\n\x00" + "\x00\x00\x00\x00" + "\x00\x00\x00\x00" // flags, extension
	copyFields    = 10
	copyTrailer   = 0xffff
	copyNull      = 0xffffffff // as the length of a field
	copyChunk     = 64 << 10   // encoded ahead of being read
)

// stop ends the reading and returns the buffer.
func (r *rowReader) stop() []byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	buffer := r.buffer
	r.buffer, r.rows, r.at, r.ended = nil, nil, 0, true
	return buffer
}

// Read implements io.Reader.
func (r *rowReader) Read(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.at == len(r.buffer) {
		if r.ended {
			return 0, io.EOF
		}
		r.fill()
	}
	n := copy(p, r.buffer[r.at:])
	r.at += n
	return n, nil
}

func (r *rowReader) fill() {
	b := r.buffer[:0]
	if !r.begun {
		b, r.begun = append(b, copySignature...), true
	}
	for len(r.rows) > 0 && len(b) < copyChunk {
		b = appendRow(b, &r.rows[0], r.seq)
		r.rows, r.seq = r.rows[1:], r.seq+1
	}
	if len(r.rows) == 0 {
		b, r.ended = binary.BigEndian.AppendUint16(b, copyTrailer), true
	}
	r.buffer, r.at = b, 0
}

func appendRow(b []byte, r *event.Row, seq int64) []byte {
	b = binary.BigEndian.AppendUint16(b, copyFields)
	b = appendInt(b, r.ReceivedAt)
	b = appendInt(b, seq)
	b = appendInt(b, int64(r.Hash.LookupKey()))
	b = appendInt(b, r.Timestamp)
	b = appendText(b, r.TenantID)
	b = appendText(b, r.Type)
	b = appendText(b, r.ID)
	b = appendTextOrNull(b, r.Source)
	b = appendTextOrNull(b, r.Attributes)
	return appendText(b, r.Payload)
}

func appendInt(b []byte, v int64) []byte {
	return binary.BigEndian.AppendUint64(append(b, 0, 0, 0, 8), uint64(v))
}

func appendText(b []byte, s string) []byte {
	return append(binary.BigEndian.AppendUint32(b, uint32(len(s))), s...)
}

func appendTextOrNull(b []byte, s string) []byte {
	if s == "" {
		return binary.BigEndian.AppendUint32(b, copyNull)
	}
	return appendText(b, s)
}
