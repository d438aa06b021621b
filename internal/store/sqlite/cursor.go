package sqlite

import (
	"encoding/base64"
	"encoding/binary"
	"hash/crc32"

	"millrace/internal/event"
)

// cursor is a place between events: right behind the event it names, in the
// direction of the query. It says nothing of a tenant, and needs not: every query
// filters by its own.
type cursor struct {
	day day
	seq int64
}

// A cursor's text is base64url of version, day, seq and a checksum. The checksum
// tells a cursor from a guess; it keeps no secret.
const (
	cursorVersion = 1
	cursorBytes   = 1 + 4 + 8 + 4
)

func (c cursor) String() string {
	b := make([]byte, 0, cursorBytes)
	b = append(b, cursorVersion)
	b = binary.BigEndian.AppendUint32(b, uint32(c.day))
	b = binary.BigEndian.AppendUint64(b, uint64(c.seq))
	b = binary.BigEndian.AppendUint32(b, crc32.ChecksumIEEE(b))
	return base64.RawURLEncoding.EncodeToString(b)
}

// parseCursor answers event.ErrBadCursor for what String did not write.
func parseCursor(s string) (cursor, error) {
	if len(s) != base64.RawURLEncoding.EncodedLen(cursorBytes) {
		return cursor{}, event.ErrBadCursor
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(s)
	if err != nil || b[0] != cursorVersion {
		return cursor{}, event.ErrBadCursor
	}
	body, sum := b[:cursorBytes-4], b[cursorBytes-4:]
	if crc32.ChecksumIEEE(body) != binary.BigEndian.Uint32(sum) {
		return cursor{}, event.ErrBadCursor
	}
	c := cursor{day: day(binary.BigEndian.Uint32(body[1:])), seq: int64(binary.BigEndian.Uint64(body[5:]))}
	if c.seq < 1 {
		return cursor{}, event.ErrBadCursor
	}
	return c, nil
}
