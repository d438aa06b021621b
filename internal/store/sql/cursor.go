package sql

import (
	"encoding/base64"
	"encoding/binary"
	"hash/crc32"
)

// Kinds of cursors that hold a text, so that one of a list is none of another.
// They are in cursors that callers keep: a number is never given to another kind.
const (
	auditCursor   byte = 2
	productCursor byte = 3
	stockCursor   byte = 4
	// positionsCursor has a position, a space and a SKU.
	positionsCursor byte = 5
)

// textCursorMaxBytes bounds a cursor's text.
const textCursorMaxBytes = 1 << 10

// packCursor returns the cursor that goes on after a text. Like letterCursor's,
// its checksum tells a cursor from a guess; it keeps no secret.
func packCursor(kind byte, after string) string {
	b := append([]byte{kind}, after...)
	b = binary.BigEndian.AppendUint32(b, crc32.ChecksumIEEE(b))
	return base64.RawURLEncoding.EncodeToString(b)
}

// unpackCursor is the inverse of packCursor; ok is false for anything that it
// did not make.
func unpackCursor(kind byte, cursor string) (after string, ok bool) {
	if len(cursor) > textCursorMaxBytes {
		return "", false
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(cursor)
	if err != nil || len(b) < 1+4 || b[0] != kind {
		return "", false
	}
	body, sum := b[:len(b)-4], b[len(b)-4:]
	if crc32.ChecksumIEEE(body) != binary.BigEndian.Uint32(sum) {
		return "", false
	}
	after = string(body[1:])
	return after, storable(after)
}
