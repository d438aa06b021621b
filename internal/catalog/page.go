package catalog

import (
	"encoding/base64"
	"encoding/binary"
	"hash/crc32"
)

// maxPageBytes bounds what a page holds: when it has as much, it ends. A Store bounds
// its pages likewise.
const maxPageBytes = 8 << 20

// lister collects a page.
type lister struct {
	limit, bytes int
	items        []*Item
	more         bool // there is another one
}

// take takes the next item and says whether it wants another.
func (l *lister) take(it *Item) bool {
	if len(l.items) >= l.limit || l.bytes >= maxPageBytes {
		l.more = true
		return false
	}
	l.items = append(l.items, it)
	l.bytes += len(it.Body)
	return true
}

// Kinds of cursors. They are in what callers keep: a number is never given another
// meaning.
const (
	afterSKU      byte = 0x11 // SKU
	afterPosition byte = 0x12 // position, 8 bytes; SKU
)

// writeCursor returns the cursor that goes on after an item. The checksum tells a
// cursor from a guess; it keeps no secret.
func writeCursor(q Query, last *Item) string {
	b := []byte{afterSKU}
	if q.Category != "" {
		b = binary.BigEndian.AppendUint64([]byte{afterPosition}, uint64(last.Position))
	}
	b = append(b, last.SKU...)
	b = binary.BigEndian.AppendUint32(b, crc32.ChecksumIEEE(b))
	return base64.RawURLEncoding.EncodeToString(b)
}

// readCursor returns the key of the item after which a query goes on, nil if it
// begins at the beginning. The error is ErrBadCursor for anything that writeCursor
// did not make for such a query.
func readCursor(q Query) (*Item, error) {
	if q.Cursor == "" {
		return nil, nil
	}
	if len(q.Cursor) > 2*(1+8+maxSKUBytes+4) {
		return nil, ErrBadCursor
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(q.Cursor)
	if err != nil || len(b) < 1+4 {
		return nil, ErrBadCursor
	}
	body, sum := b[:len(b)-4], b[len(b)-4:]
	if crc32.ChecksumIEEE(body) != binary.BigEndian.Uint32(sum) {
		return nil, ErrBadCursor
	}
	kind, body := body[0], body[1:]
	it := &Item{}
	switch {
	case kind == afterSKU && q.Category == "":
	case kind == afterPosition && q.Category != "" && len(body) >= 8:
		it.Position = int64(binary.BigEndian.Uint64(body))
		body = body[8:]
	default:
		return nil, ErrBadCursor
	}
	it.SKU = string(body)
	if !validSKU(it.SKU) {
		return nil, ErrBadCursor
	}
	return it, nil
}
