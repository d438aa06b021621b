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

// group is what is counted together: one type of one tenant.
type group struct{ tenant, kind string }

// count is what is known of a group in one minute and chunk.
type count struct {
	events, bytes int64
	blocks        uint64
	first, last   int64 // Unix nanoseconds
}

// tally adds up rollups and presence. Its maps live as long as one call of add:
// their keys alias the rows.
type tally struct {
	groups  map[group]*count
	tenants map[string]*count
}

// add counts rows, the first of which has the sequence seq.
func (t *tally) add(w *writer, b *event.Batch, rows []event.Row, seq int64) error {
	if t.groups == nil {
		t.groups, t.tenants = map[group]*count{}, map[string]*count{}
	}
	defer t.reset()
	for len(rows) > 0 {
		chunk, minute := seq>>chunkBits, minuteOf(rows[0].ReceivedAt)
		n := t.count(rows, seq, chunk, minute)
		if err := t.flush(w, b, chunk, minute); err != nil {
			return err
		}
		rows, seq = rows[n:], seq+int64(n)
	}
	return nil
}

// count adds up the rows of one chunk and minute and returns how many those are.
func (t *tally) count(rows []event.Row, seq, chunk, minute int64) int {
	var last group
	var c *count
	for i := range rows {
		r := &rows[i]
		if (seq+int64(i))>>chunkBits != chunk || minuteOf(r.ReceivedAt) != minute {
			return i
		}
		if c == nil || last.kind != r.Type || last.tenant != r.TenantID {
			last = group{r.TenantID, r.Type}
			if c = t.groups[last]; c == nil {
				c = &count{first: r.ReceivedAt, last: r.ReceivedAt}
				t.groups[last] = c
			}
		}
		c.events++
		c.bytes += int64(len(r.Payload))
		c.see(uint64(1)<<(uint64(seq+int64(i))>>blockBits&63), r.ReceivedAt, r.ReceivedAt)
	}
	return len(rows)
}

func (c *count) see(blocks uint64, first, last int64) {
	c.blocks |= blocks
	c.first, c.last = min(c.first, first), max(c.last, last)
}

// flush writes what was counted.
func (t *tally) flush(w *writer, b *event.Batch, chunk, minute int64) error {
	for g, c := range t.groups {
		if err := w.addRollup.with(g.tenant, minute, g.kind, b.LogID[:], c.events, c.bytes); err != nil {
			return err
		}
		if err := w.addPresence.with(g.tenant, g.kind, chunk, int64(c.blocks), c.first, c.last); err != nil {
			return err
		}
		all := t.tenants[g.tenant]
		if all == nil {
			all = &count{first: c.first, last: c.last}
			t.tenants[g.tenant] = all
		}
		all.see(c.blocks, c.first, c.last)
	}
	for tenant, c := range t.tenants {
		if err := w.addPresence.with(tenant, "", chunk, int64(c.blocks), c.first, c.last); err != nil {
			return err
		}
	}
	t.reset()
	return nil
}

func (t *tally) reset() {
	clear(t.groups)
	clear(t.tenants)
}

// minuteOf returns the Unix minute of a time in Unix nanoseconds.
func minuteOf(ns int64) int64 {
	const perMinute = int64(time.Minute)
	m := ns / perMinute
	if ns%perMinute < 0 {
		m--
	}
	return m
}
