package wal

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"testing"
)

func TestASealTakesTheRoomKeptForIt(t *testing.T) {
	if got := len(sealFrame(ID{}, 1, 1, 2, 0)); got != sealBytes {
		t.Fatalf("a seal takes %d bytes, %d are kept", got, sealBytes)
	}
}

func TestMagicIsNotText(t *testing.T) {
	for i := range len(magic) {
		if magic[i] == 0xff {
			return
		}
	}
	t.Fatal("a record of text may contain a frame")
}

// FuzzFrame feeds arbitrary bytes to everything that decodes a segment. Whatever
// decodes must be what encodes to the same bytes.
func FuzzFrame(f *testing.F) {
	id := ID{1, 2, 3}
	c := committer{next: 7, seg: &segment{generation: 3}}
	data := c.build(id, []*request{{record: []byte("one")}, {record: nil}, {record: []byte("three")}}, 3*lengthBytes+8, 99)
	f.Add(data)
	f.Add(sealFrame(id, 3, 10, 4, 99))
	f.Add(bareFrame(frameGap, id, 3, 10, 1<<40, 0))
	f.Add(bytes.Repeat([]byte(magic), 20))
	// The checksums are put right first, or the fuzzer would get no further.
	f.Fuzz(func(t *testing.T, b []byte) {
		b = bytes.Clone(b)
		if len(b) >= headerBytes {
			n := min(int64(binary.LittleEndian.Uint32(b[12:])), int64(len(b)-headerBytes))
			binary.LittleEndian.PutUint32(b[72:], crc32.Checksum(b[headerBytes:headerBytes+n], castagnoli))
			binary.LittleEndian.PutUint32(b[76:], crc32.Checksum(b[:76], castagnoli))
		}
		var w window
		w.reset(readerFile{bytes.NewReader(b)}, int64(len(b)))
		h, err := decodeHeader(b)
		if err != nil {
			return
		}
		got := make([]byte, headerBytes)
		h.encode(got)
		if b[10] == 0 && b[11] == 0 && !bytes.Equal(got, b[:headerBytes]) {
			t.Fatalf("%x decodes to %+v, which encodes to %x", b[:headerBytes], h, got)
		}
		h, payload, err := w.frameAt(0, h.id, h.generation)
		if err != nil {
			return
		}
		if int64(len(payload)) != int64(h.payload) {
			t.Fatalf("a payload of %d bytes has %d", h.payload, len(payload))
		}
		if h.kind != frameData {
			return
		}
		records, err := splitRecords(nil, payload, h.count)
		if err != nil {
			return
		}
		sum := 0
		for _, r := range records {
			sum += lengthBytes + len(r)
		}
		if sum != len(payload) || uint64(len(records)) != h.count {
			t.Fatalf("%d records of %d bytes in a payload of %d", len(records), sum, len(payload))
		}
	})
}

// readerFile is a file to be read only.
type readerFile struct{ *bytes.Reader }

func (readerFile) WriteAt([]byte, int64) (int, error) { panic("not written to") }
func (readerFile) Close() error                       { return nil }
func (readerFile) Allocate(int64) error               { panic("not written to") }
func (readerFile) Sync() error                        { return nil }
func (readerFile) Datasync() error                    { return nil }
func (f readerFile) Size() (int64, error)             { return f.Reader.Size(), nil }
