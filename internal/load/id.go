package load

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"time"
)

// idLen is the length of an id's text, a UUID in its usual form.
const idLen = 36

// idBytes is an id in binary, as the verifier keeps it.
type idBytes [16]byte

// idMaker makes the ids of one run: UUIDv7s that carry the batch's time, 42
// random bits that tell runs apart and a counter that tells the events of a run
// apart. Repeating a run therefore never repeats an id, and the same (time,
// number) always gives the same id, so a retry repeats them.
type idMaker struct {
	run uint64 // 42 random bits
}

func newIDMaker() idMaker { return idMaker{run: rand.Uint64() & (1<<42 - 1)} }

// at returns the id of event number n of a batch whose time is t.
func (m idMaker) at(t time.Time, n uint32) idBytes {
	var b idBytes
	ms := uint64(t.UnixMilli())
	binary.BigEndian.PutUint64(b[:8], ms<<16|0x7000|m.run>>30)
	binary.BigEndian.PutUint64(b[8:], 1<<63|(m.run&(1<<30-1))<<32|uint64(n))
	return b
}

// put writes the id's text into dst, which has room for idLen bytes.
func (b idBytes) put(dst []byte) {
	_ = dst[idLen-1]
	hex.Encode(dst[0:8], b[0:4])
	dst[8] = '-'
	hex.Encode(dst[9:13], b[4:6])
	dst[13] = '-'
	hex.Encode(dst[14:18], b[6:8])
	dst[18] = '-'
	hex.Encode(dst[19:23], b[8:10])
	dst[23] = '-'
	hex.Encode(dst[24:36], b[10:16])
}

func (b idBytes) String() string {
	var dst [idLen]byte
	b.put(dst[:])
	return string(dst[:])
}

// time returns the moment a UUIDv7 carries, to the millisecond.
func (b idBytes) time() time.Time {
	return time.UnixMilli(int64(binary.BigEndian.Uint64(b[:8]) >> 16)).UTC()
}

// parseID reads an id's text.
func parseID(s []byte) (idBytes, error) {
	var b idBytes
	if len(s) != idLen || s[8] != '-' || s[13] != '-' || s[18] != '-' || s[23] != '-' {
		return b, fmt.Errorf("%q is not a UUID", clip(s, 64))
	}
	var digits [32]byte
	n := copy(digits[:], s[0:8])
	n += copy(digits[n:], s[9:13])
	n += copy(digits[n:], s[14:18])
	n += copy(digits[n:], s[19:23])
	copy(digits[n:], s[24:36])
	if _, err := hex.Decode(b[:], digits[:]); err != nil {
		return b, fmt.Errorf("%q is not a UUID", clip(s, 64))
	}
	return b, nil
}

// clip shortens text that goes into an error.
func clip(s []byte, n int) string {
	if len(s) > n {
		return string(s[:n]) + "…"
	}
	return string(s)
}

// stampLen is the length of a timestamp as the generator writes it.
const stampLen = len("2026-11-22T05:04:23.123Z")

// appendStamp appends t in RFC 3339 with milliseconds, always stampLen bytes.
func appendStamp(dst []byte, t time.Time) []byte {
	return t.UTC().AppendFormat(dst, "2006-01-02T15:04:05.000Z")
}
