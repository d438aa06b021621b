package wal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"time"
)

// ID names a log for its whole life.
type ID = [16]byte

// The frame header, little endian:
//
//	 0  magic        8
//	 8  version      1
//	 9  kind         1
//	10  (zero)       2
//	12  payload      4   bytes that follow the header
//	16  log id      16
//	32  generation   8   of the segment
//	40  first        8   sequence of the first record
//	48  count        8   records (lost records in a gap)
//	56  durable      8   one past the last sequence known durable when written
//	64  received     8   Unix nanoseconds
//	72  payload CRC  4   Castagnoli, as is the next
//	76  header CRC   4   of the 76 bytes before
//
// The payload of a data frame is each record's length (4 bytes) and bytes. The
// payload of a seal is the generation that follows (8 bytes). A frame is filled
// up with zeros to a whole number of sectors.
const (
	headerBytes   = 80
	sectorBytes   = 512
	formatVersion = 1
	lengthBytes   = 4 // before each record

	// magic holds bytes that no UTF-8 text has, so that a record of text can never
	// contain a frame.
	magic = "\xffMRWAL\xfe\n"
)

type frameKind uint8

const (
	frameData  frameKind = 1
	frameSeal  frameKind = 2
	frameClose frameKind = 3
	frameGap   frameKind = 4
)

func (k frameKind) String() string {
	switch k {
	case frameData:
		return "data"
	case frameSeal:
		return "seal"
	case frameClose:
		return "close"
	case frameGap:
		return "gap"
	}
	return fmt.Sprintf("kind %d", uint8(k))
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

type header struct {
	kind       frameKind
	payload    uint32
	id         ID
	generation uint64
	first      uint64
	count      uint64
	durable    uint64
	received   int64
	payloadCRC uint32
}

// next is the sequence that follows the frame.
func (h *header) next() uint64 { return h.first + h.count }

// bytes is the frame's size on disk.
func (h *header) bytes() int64 { return frameBytes(int64(h.payload)) }

func (h *header) receivedAt() time.Time { return time.Unix(0, h.received).UTC() }

// frameBytes is the size on disk of a frame with so many bytes of payload.
func frameBytes(payload int64) int64 {
	return (headerBytes + payload + sectorBytes - 1) / sectorBytes * sectorBytes
}

func (h *header) encode(b []byte) {
	_ = b[headerBytes-1]
	copy(b, magic)
	b[8] = formatVersion
	b[9] = byte(h.kind)
	b[10], b[11] = 0, 0
	binary.LittleEndian.PutUint32(b[12:], h.payload)
	copy(b[16:32], h.id[:])
	binary.LittleEndian.PutUint64(b[32:], h.generation)
	binary.LittleEndian.PutUint64(b[40:], h.first)
	binary.LittleEndian.PutUint64(b[48:], h.count)
	binary.LittleEndian.PutUint64(b[56:], h.durable)
	binary.LittleEndian.PutUint64(b[64:], uint64(h.received))
	binary.LittleEndian.PutUint32(b[72:], h.payloadCRC)
	binary.LittleEndian.PutUint32(b[76:], crc32.Checksum(b[:76], castagnoli))
}

var (
	errNoFrame  = errors.New("there is no frame")
	errChecksum = errors.New("the header's checksum does not match")
)

// decodeHeader reads a header from the first headerBytes of b.
func decodeHeader(b []byte) (header, error) {
	var h header
	if len(b) < headerBytes || string(b[:len(magic)]) != magic {
		return h, errNoFrame
	}
	if binary.LittleEndian.Uint32(b[76:]) != crc32.Checksum(b[:76], castagnoli) {
		return h, errChecksum
	}
	if b[8] != formatVersion {
		return h, fmt.Errorf("the frame has format version %d, this program reads version %d", b[8], formatVersion)
	}
	h.kind = frameKind(b[9])
	h.payload = binary.LittleEndian.Uint32(b[12:])
	copy(h.id[:], b[16:32])
	h.generation = binary.LittleEndian.Uint64(b[32:])
	h.first = binary.LittleEndian.Uint64(b[40:])
	h.count = binary.LittleEndian.Uint64(b[48:])
	h.durable = binary.LittleEndian.Uint64(b[56:])
	h.received = int64(binary.LittleEndian.Uint64(b[64:]))
	h.payloadCRC = binary.LittleEndian.Uint32(b[72:])
	if h.kind < frameData || h.kind > frameGap {
		return h, fmt.Errorf("the frame is of an unknown %v", h.kind)
	}
	if h.first == 0 || h.first+h.count < h.first {
		return h, fmt.Errorf("the frame's sequences %d+%d are impossible", h.first, h.count)
	}
	return h, nil
}

// checkPayload verifies a frame's payload against its header.
func (h *header) checkPayload(payload []byte) error {
	if crc32.Checksum(payload, castagnoli) != h.payloadCRC {
		return errors.New("the payload's checksum does not match")
	}
	switch h.kind {
	case frameSeal:
		if len(payload) != 8 || h.count != 0 {
			return errors.New("the seal is malformed")
		}
	case frameClose, frameGap:
		if len(payload) != 0 || (h.kind == frameClose && h.count != 0) {
			return fmt.Errorf("the %v frame is malformed", h.kind)
		}
	case frameData:
		// Every record takes at least its length field, so a count beyond that is
		// a lie. The lengths themselves are checked when records are split.
		if h.count == 0 || h.count > uint64(len(payload)/lengthBytes) {
			return errors.New("the frame's record count is impossible")
		}
	}
	return nil
}

// splitRecords appends the records in a data frame's payload to dst. They alias
// the payload.
func splitRecords(dst [][]byte, payload []byte, count uint64) ([][]byte, error) {
	for range count {
		if len(payload) < lengthBytes {
			return dst, errors.New("a record's length is missing")
		}
		n := uint64(binary.LittleEndian.Uint32(payload))
		payload = payload[lengthBytes:]
		if n > uint64(len(payload)) {
			return dst, errors.New("a record is longer than its frame")
		}
		dst = append(dst, payload[:n:n])
		payload = payload[n:]
	}
	if len(payload) != 0 {
		return dst, errors.New("bytes are left over after the last record")
	}
	return dst, nil
}

// sealFrame builds the seal of a segment.
func sealFrame(id ID, generation, next, following uint64, received int64) []byte {
	b := make([]byte, frameBytes(8))
	binary.LittleEndian.PutUint64(b[headerBytes:], following)
	h := header{kind: frameSeal, payload: 8, id: id, generation: generation, first: next, durable: next, received: received,
		payloadCRC: crc32.Checksum(b[headerBytes:headerBytes+8], castagnoli)}
	h.encode(b)
	return b
}

// bareFrame builds a frame without payload: a close frame or, with a count, a gap.
func bareFrame(kind frameKind, id ID, generation, first, count uint64, received int64) []byte {
	b := make([]byte, frameBytes(0))
	h := header{kind: kind, id: id, generation: generation, first: first, count: count, durable: first, received: received}
	h.encode(b)
	return b
}
