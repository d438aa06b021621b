package postgres

import (
	"encoding/base64"
	"encoding/binary"
	"hash/crc32"

	"millrace/internal/event"
)

// cursor is a place between events: right behind the event it names, in the
// direction of the query. Newest first it is a time and a sequence. Oldest first it
// is within the batch n, of whose events those up to that time and sequence are
// over; n is 0 where it is not known, and then it is looked up. A cursor says
// nothing of a tenant, and needs not: every query filters by its own.
type cursor struct {
	n, received, seq int64
}

// A cursor's text is base64url of version, batch, time, seq and a checksum. The
// checksum tells a cursor from a guess; it keeps no secret.
const (
	cursorVersion = 2 // 1 is that of the embedded store
	cursorBytes   = 1 + 3*8 + 4
)

func (c cursor) String() string {
	b := make([]byte, 0, cursorBytes)
	b = append(b, cursorVersion)
	b = binary.BigEndian.AppendUint64(b, uint64(c.n))
	b = binary.BigEndian.AppendUint64(b, uint64(c.received))
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
	c := cursor{
		n:        int64(binary.BigEndian.Uint64(body[1:])),
		received: int64(binary.BigEndian.Uint64(body[9:])),
		seq:      int64(binary.BigEndian.Uint64(body[17:])),
	}
	if c.n < 0 || c.seq < 1 {
		return cursor{}, event.ErrBadCursor
	}
	return c, nil
}
