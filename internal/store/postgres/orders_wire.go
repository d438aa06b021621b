package postgres

import (
	"encoding/binary"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"
)

// The hot paths speak PostgreSQL's binary format themselves: a batch is a handful of
// arrays, and encoding them costs nothing per row but the copying.

// Object identifiers of the types in arrays; they never change.
const (
	oidBytea = 17
	oidInt8  = 20
	oidText  = 25
)

// appendArray begins an array of n elements in one dimension.
func appendArray(b []byte, oid uint32, n int) []byte {
	if n == 0 {
		b = binary.BigEndian.AppendUint32(b, 0) // dimensions
		b = binary.BigEndian.AppendUint32(b, 0) // no NULLs
		return binary.BigEndian.AppendUint32(b, oid)
	}
	b = binary.BigEndian.AppendUint32(b, 1)
	b = binary.BigEndian.AppendUint32(b, 0)
	b = binary.BigEndian.AppendUint32(b, oid)
	b = binary.BigEndian.AppendUint32(b, uint32(n))
	return binary.BigEndian.AppendUint32(b, 1) // the first index
}

// texts encodes a text[] of n elements.
func texts(n int, at func(i int) string) []byte {
	b := appendArray(make([]byte, 0, 20+40*n), oidText, n)
	for i := range n {
		s := storable(at(i))
		b = binary.BigEndian.AppendUint32(b, uint32(len(s)))
		b = append(b, s...)
	}
	return b
}

// blobs encodes a bytea[] of n elements.
func blobs(n int, at func(i int) []byte) []byte {
	b := appendArray(make([]byte, 0, 20+128*n), oidBytea, n)
	for i := range n {
		v := at(i)
		b = binary.BigEndian.AppendUint32(b, uint32(len(v)))
		b = append(b, v...)
	}
	return b
}

// numbers encodes a bigint[] of n elements.
func numbers(n int, at func(i int) int64) []byte {
	b := appendArray(make([]byte, 0, 20+12*n), oidInt8, n)
	for i := range n {
		b = binary.BigEndian.AppendUint32(b, 8)
		b = binary.BigEndian.AppendUint64(b, uint64(at(i)))
	}
	return b
}

// text and number encode single arguments.
func text(s string) []byte  { return []byte(storable(s)) }
func number(n int64) []byte { return binary.BigEndian.AppendUint64(nil, uint64(n)) }

// textOf, intOf and timeOf read columns in the binary format, which are never NULL.
func textOf(v []byte) string { return original(string(v)) }

func intOf(v []byte) int64 {
	if len(v) != 8 {
		return 0
	}
	return int64(binary.BigEndian.Uint64(v))
}

// timeOf reads a column of Unix nanoseconds, 0 meaning none.
func timeOf(v []byte) time.Time { return timeOfNs(intOf(v)) }

func timeOfNs(ns int64) time.Time {
	if ns == 0 {
		return time.Time{}
	}
	return time.Unix(0, ns).UTC()
}

// nanosOf is the inverse of timeOfNs.
func nanosOf(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixNano()
}

// PostgreSQL's texts hold neither NUL nor what is not UTF-8. Both stand there as an
// escape, U+0001, and a character made of the byte; so does the escape itself.
const (
	escape     = 0x01
	escapeBase = 0x100
)

// storable returns a text as PostgreSQL can keep it. It is s itself almost always,
// and never the same for two texts.
func storable(s string) string {
	if strings.IndexByte(s, 0) < 0 && strings.IndexByte(s, escape) < 0 && utf8.ValidString(s) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); {
		r, n := utf8.DecodeRuneInString(s[i:])
		if r == 0 || r == escape || r == utf8.RuneError && n == 1 {
			b.WriteByte(escape)
			b.WriteRune(escapeBase + rune(s[i]))
		} else {
			b.WriteString(s[i : i+n])
		}
		i += n
	}
	return b.String()
}

// original is the inverse of storable.
func original(s string) string {
	if strings.IndexByte(s, escape) < 0 {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); {
		r, n := utf8.DecodeRuneInString(s[i:])
		if next, m := utf8.DecodeRuneInString(s[i+n:]); r == escape && next >= escapeBase && next < escapeBase+0x100 {
			b.WriteByte(byte(next - escapeBase))
			i += n + m
			continue
		}
		b.WriteString(s[i : i+n])
		i += n
	}
	return b.String()
}

// row is what a reading statement answers with; its columns are good until the
// next row is read.
type row [][]byte

// wide says whether a row has so many columns.
func (r row) wide(columns int) error {
	if len(r) != columns {
		return fmt.Errorf("a row has %d columns instead of %d", len(r), columns)
	}
	return nil
}
