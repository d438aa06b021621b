package cache

import (
	"encoding/binary"
	"errors"
)

// message is what instances tell each other: of one cache, what has changed.
//
// As bytes: a byte for the format, then the cache's and the instance's name, a byte of
// flags, and for each change a byte of flags, the version as a varint and the name.
// Strings have their length before them, as a varint.
type message struct {
	cache, instance string
	all             bool // everything has changed
	changes         []announced
}

type announced struct {
	subject
	announcement
}

const (
	messageFormat = 1
	flagTag       = 1
	flagUntold    = 2
	flagAll       = 1
)

var errMessage = errors.New("it is not a message of this format")

func (m message) encode() []byte {
	b := make([]byte, 0, 64+64*len(m.changes))
	text := func(s string) { b = append(binary.AppendUvarint(b, uint64(len(s))), s...) }
	flags := func(first bool, a byte, second bool, z byte) {
		var f byte
		if first {
			f |= a
		}
		if second {
			f |= z
		}
		b = append(b, f)
	}
	b = append(b, messageFormat)
	text(m.cache)
	text(m.instance)
	flags(m.all, flagAll, false, 0)
	for _, ch := range m.changes {
		flags(ch.tag, flagTag, ch.untold, flagUntold)
		b = binary.AppendUvarint(b, uint64(ch.version))
		text(ch.name)
	}
	return b
}

// decodeMessage reads what encode wrote, of another cache's message its name alone.
func decodeMessage(cache string, b []byte) (m message, err error) {
	number := func() (n uint64) {
		n, size := binary.Uvarint(b)
		if size <= 0 {
			err, b = errMessage, nil
			return 0
		}
		b = b[size:]
		return n
	}
	text := func() (s string) {
		n := number()
		if n > uint64(len(b)) {
			err, b = errMessage, nil
			return ""
		}
		s, b = string(b[:n]), b[n:]
		return s
	}
	one := func() (c byte) {
		if len(b) == 0 {
			err = errMessage
			return 0
		}
		c, b = b[0], b[1:]
		return c
	}
	if one() != messageFormat {
		return m, errMessage
	}
	if m.cache = text(); err == nil && m.cache != cache {
		return m, nil // all caches hear all messages
	}
	m.instance = text()
	m.all = one()&flagAll != 0
	for err == nil && len(b) > 0 {
		f := one()
		v := int64(number())
		m.changes = append(m.changes, announced{subject{f&flagTag != 0, text()}, announcement{max(v, 0), f&flagUntold != 0}})
	}
	return m, err
}
