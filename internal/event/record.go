package event

import (
	"encoding/binary"
	"errors"
	"math"
	"unsafe"

	"millrace/internal/event/scan"
)

// A record is one submission in the log: the events that were accepted from it
// and the ones that were not. Its layout, version 1, all integers little-endian
// or unsigned varints:
//
//	version u8 · batch id [16] · tenant (len, bytes) · event count · dead count
//	event: hash [16] · timestamp i64 · lengths of id, type, source, attributes,
//	       payload · their bytes
//	dead:  kind u8 · flags u8 · format u8 · lengths of reason, id, type, source, payload ·
//	       their bytes
//
// The timestamp noTimestamp stands for the time of receipt, which the log gives
// only when it writes the record.
//
// Version 2 differs in the event, and is written for events of our own making
// only:
//
//	event: hash [16] · timestamp i64 · flags u8 · amount zigzag varint · lengths of
//	       id, type, source, attributes, payload, currency · their bytes
const (
	recordVersion    = 1
	recordVersionOwn = 2
	noTimestamp      = math.MinInt64
	deadTruncated    = 1 << 0
	ownExact         = 1 << 0
	knownOwnFlags    = ownExact
	maxRecordFields  = 5
	ownRecordFields  = maxRecordFields + 1
)

// errRecord says that a record with a good checksum does not decode: it was
// written by a newer version, or by a defect.
var errRecord = errors.New("log record cannot be decoded: it was written by another version of millrace")

// batchID is a UUID in binary.
type batchID = [16]byte

// deadEntry is a rejected event, or a refused body, inside a record.
type deadEntry struct {
	kind      byte
	truncated bool
	format    scan.Format
	reason    string
	id        []byte
	typ       []byte
	source    []byte
	payload   []byte
}

// The kinds of dead entry, as stored.
const (
	deadEvent   byte = 'e'
	deadBody    byte = 'b'
	deadWebhook byte = 'w'
)

func appendRecordHeader(dst []byte, id batchID, tenantID string, events, dead int) []byte {
	return appendHeader(append(dst, recordVersion), id, tenantID, events, dead)
}

// appendOwnHeader begins a record of version 2, which has no dead entries.
func appendOwnHeader(dst []byte, id batchID, tenantID string, events int) []byte {
	return appendHeader(append(dst, recordVersionOwn), id, tenantID, events, 0)
}

func appendHeader(dst []byte, id batchID, tenantID string, events, dead int) []byte {
	dst = append(dst, id[:]...)
	dst = binary.AppendUvarint(dst, uint64(len(tenantID)))
	dst = append(dst, tenantID...)
	dst = binary.AppendUvarint(dst, uint64(events))
	return binary.AppendUvarint(dst, uint64(dead))
}

func appendRecordEvent(dst []byte, h Hash, e *scan.Event) []byte {
	ts := int64(noTimestamp)
	if e.HasTimestamp {
		ts = e.Timestamp
	}
	dst = append(dst, h[:]...)
	dst = binary.LittleEndian.AppendUint64(dst, uint64(ts))
	return appendFields(dst, e.ID, e.Type, e.Source, e.Attributes, e.Payload)
}

// appendRecordOwn appends an event to a record of version 2.
func appendRecordOwn(dst []byte, e *Own) []byte {
	h := HashOf(e.TenantID, e.Source, e.ID)
	dst = append(dst, h[:]...)
	dst = binary.LittleEndian.AppendUint64(dst, uint64(e.Timestamp.UnixNano()))
	dst = append(dst, ownExact)
	dst = binary.AppendVarint(dst, e.Amount)
	for _, n := range [ownRecordFields]int{len(e.ID), len(e.Type), len(e.Source), 0, len(e.Payload), len(e.Currency)} {
		dst = binary.AppendUvarint(dst, uint64(n))
	}
	dst = append(append(append(dst, e.ID...), e.Type...), e.Source...)
	return append(append(dst, e.Payload...), e.Currency...)
}

func appendRecordDead(dst []byte, d *deadEntry) []byte {
	var flags byte
	if d.truncated {
		flags |= deadTruncated
	}
	dst = append(dst, d.kind, flags, byte(d.format))
	reason := unsafe.Slice(unsafe.StringData(d.reason), len(d.reason))
	return appendFields(dst, reason, d.id, d.typ, d.source, d.payload)
}

func appendFields(dst []byte, fields ...[]byte) []byte {
	for _, f := range fields {
		dst = binary.AppendUvarint(dst, uint64(len(f)))
	}
	for _, f := range fields {
		dst = append(dst, f...)
	}
	return dst
}

// record is a decoded record header; events and dead entries are read from it
// one after the other, the events first. Everything aliases the encoded bytes.
type record struct {
	own      bool // version 2
	batchID  batchID
	tenantID string
	events   int
	dead     int
	rest     []byte
}

func decodeRecord(b []byte) (record, error) {
	var r record
	if len(b) < 1+len(r.batchID) || b[0] != recordVersion && b[0] != recordVersionOwn {
		return r, errRecord
	}
	r.own = b[0] == recordVersionOwn
	copy(r.batchID[:], b[1:])
	d := decoder{rest: b[1+len(r.batchID):]}
	r.tenantID = d.text(d.length())
	r.events = d.length()
	r.dead = d.length()
	r.rest = d.rest
	if d.bad {
		return r, errRecord
	}
	return r, nil
}

// nextEvent reads one event. Its strings alias the record.
func (r *record) nextEvent(receivedAt int64) (Row, error) {
	row := Row{TenantID: r.tenantID, ReceivedAt: receivedAt}
	d := decoder{rest: r.rest}
	head := d.bytes(len(row.Hash) + 8)
	if d.bad {
		return row, errRecord
	}
	copy(row.Hash[:], head)
	row.Timestamp = int64(binary.LittleEndian.Uint64(head[len(row.Hash):]))
	if row.Timestamp == noTimestamp {
		row.Timestamp = receivedAt
	}
	if r.own {
		d.money(&row)
	}
	var n [ownRecordFields]int
	d.lengths(n[:r.fields()])
	row.ID, row.Type, row.Source = d.text(n[0]), d.text(n[1]), d.text(n[2])
	row.Attributes, row.Payload = d.text(n[3]), d.text(n[4])
	if r.own {
		row.Currency = d.text(n[5])
	}
	if d.bad {
		return row, errRecord
	}
	r.rest = d.rest
	return row, nil
}

// fields is how many texts an event of the record has.
func (r *record) fields() int {
	if r.own {
		return ownRecordFields
	}
	return maxRecordFields
}

// skipEvent reads no more of one event than its hash.
func (r *record) skipEvent() (Hash, error) {
	var h Hash
	d := decoder{rest: r.rest}
	copy(h[:], d.bytes(len(h)+8))
	if r.own {
		d.money(&Row{})
	}
	var n [ownRecordFields]int
	d.lengths(n[:r.fields()])
	d.bytes(n[0] + n[1] + n[2] + n[3] + n[4] + n[5])
	if d.bad {
		return h, errRecord
	}
	r.rest = d.rest
	return h, nil
}

// nextDead reads one dead entry, after all events were read.
func (r *record) nextDead() (deadEntry, error) {
	var e deadEntry
	d := decoder{rest: r.rest}
	head := d.bytes(3)
	if d.bad {
		return e, errRecord
	}
	e.kind, e.truncated, e.format = head[0], head[1]&deadTruncated != 0, scan.Format(head[2])
	var n [maxRecordFields]int
	d.lengths(n[:])
	e.reason = d.text(n[0])
	e.id, e.typ, e.source, e.payload = d.bytes(n[1]), d.bytes(n[2]), d.bytes(n[3]), d.bytes(n[4])
	if d.bad {
		return e, errRecord
	}
	r.rest = d.rest
	return e, nil
}

// decoder reads from the front of rest and remembers whether it ever ran out.
type decoder struct {
	rest []byte
	bad  bool
}

func (d *decoder) length() int {
	v, n := binary.Uvarint(d.rest)
	if n <= 0 || v > math.MaxInt32 {
		d.bad = true
		return 0
	}
	d.rest = d.rest[n:]
	return int(v)
}

// money reads what an event of version 2 has beyond one of version 1, but for its
// currency. A flag that is not known may mean anything, so it is not passed over.
func (d *decoder) money(row *Row) {
	flags := d.bytes(1)
	if d.bad || flags[0]&^knownOwnFlags != 0 {
		d.bad = true
		return
	}
	row.Exact = flags[0]&ownExact != 0
	amount, n := binary.Varint(d.rest)
	if n <= 0 {
		d.bad = true
		return
	}
	row.Amount, d.rest = amount, d.rest[n:]
}

func (d *decoder) lengths(dst []int) {
	for i := range dst {
		dst[i] = d.length()
	}
}

func (d *decoder) bytes(n int) []byte {
	if d.bad || n < 0 || n > len(d.rest) {
		d.bad = true
		return nil
	}
	b := d.rest[:n:n]
	d.rest = d.rest[n:]
	return b
}

// text is bytes as a string that aliases them: the sink hands a million of them
// a second to the store, which copies what it keeps.
func (d *decoder) text(n int) string {
	b := d.bytes(n)
	return unsafe.String(unsafe.SliceData(b), len(b))
}
