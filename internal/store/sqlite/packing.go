package sqlite

import (
	"encoding/binary"
	"time"

	"millrace/internal/event"
)

// Geometry of the indexes; it is part of the file format.
const (
	chunkBits  = 16 // a chunk is 65,536 events
	blockBits  = 10 // a block is 1,024 events, so a chunk has 64
	bucketBits = 8  // a chunk's ids lie in 256 buckets
	buckets    = 1 << bucketBits

	hashBytes  = len(event.Hash{})
	entryBytes = hashBytes + 2

	nanosPerTick = int64(time.Second)
)

// slotOf returns the key of a bucket of event_ids.
func slotOf(chunk int64, h event.Hash) int64 { return chunk<<bucketBits | int64(h[0]) }

// packer sorts the hashes of a commit into buckets, so that each bucket it
// touches is written once.
type packer struct {
	entries [buckets][]byte
}

// add indexes rows, the first of which has the sequence seq.
func (p *packer) add(rows []event.Row, seq int64, put *statement) error {
	for len(rows) > 0 {
		chunk := seq >> chunkBits
		n := min(int64(len(rows)), (chunk+1)<<chunkBits-seq)
		for i := range rows[:n] {
			h := &rows[i].Hash
			e := append(p.entries[h[0]], h[:]...)
			p.entries[h[0]] = binary.LittleEndian.AppendUint16(e, uint16(seq+int64(i)))
		}
		for b := range p.entries {
			if len(p.entries[b]) == 0 {
				continue
			}
			err := put.with(chunk<<bucketBits|int64(b), p.entries[b])
			p.entries[b] = p.entries[b][:0]
			if err != nil {
				p.reset()
				return err
			}
		}
		rows, seq = rows[n:], seq+n
	}
	return nil
}

func (p *packer) reset() {
	for b := range p.entries {
		p.entries[b] = p.entries[b][:0]
	}
}
