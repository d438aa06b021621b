package kafka

import (
	"container/heap"
	"context"
	"time"
)

// entry is a record that was taken from a partition.
type entry struct {
	offset int64
	epoch  int32
	done   bool
}

// partition is one that this process reads at present. The member's mutex guards
// what is not immutable.
type partition struct {
	topic    string
	number   int32
	owned    context.Context // ends when it is another's: no position is committed after that
	disown   context.CancelFunc
	handling context.Context // parent of its handlers': ends with the group's, and shortly after owned
	release  context.CancelFunc

	leaving bool            // nothing further is handed on
	stopped chan struct{}   // closed with leaving
	taken   []*entry        // in order of offsets, from the oldest that is not done with
	open    int             // of them, those not done with
	busy    int             // of them, those being handled
	paused  map[string]bool // why it is not read at present
}

// advance drops what is done with from the front and returns the entry behind
// which everything is, nil if that has not moved.
func (p *partition) advance() *entry {
	n := 0
	for n < len(p.taken) && p.taken[n].done {
		n++
	}
	if n == 0 {
		return nil
	}
	last := p.taken[n-1]
	clear(p.taken[:n]) // for the garbage collector
	p.taken = p.taken[n:]
	return last
}

// waiting is messages ordered by when they are due.
type waiting struct {
	list  []*flight
	bytes int64
}

var _ heap.Interface = (*waiting)(nil)

func (w *waiting) Len() int           { return len(w.list) }
func (w *waiting) Less(i, j int) bool { return w.list[i].due.Before(w.list[j].due) }
func (w *waiting) Swap(i, j int)      { w.list[i], w.list[j] = w.list[j], w.list[i] }

// Push implements heap.Interface.
func (w *waiting) Push(x any) {
	f := x.(*flight)
	w.list = append(w.list, f)
	w.bytes += f.size()
}

// Pop implements heap.Interface.
func (w *waiting) Pop() any {
	n := len(w.list) - 1
	f := w.list[n]
	w.list[n] = nil
	w.list = w.list[:n]
	w.bytes -= f.size()
	return f
}

// next returns the first that is due, or how long until then, 0 if nothing waits.
func (w *waiting) next(now time.Time) (f *flight, wait time.Duration) {
	for len(w.list) > 0 {
		first := w.list[0]
		if first.part.leaving {
			heap.Pop(w)
			continue
		}
		if wait = first.due.Sub(now); wait > 0 {
			return nil, wait
		}
		return heap.Pop(w).(*flight), 0
	}
	return nil, 0
}

// drop forgets those of partitions that are being left.
func (w *waiting) drop() {
	kept := w.list[:0]
	for _, f := range w.list {
		if f.part.leaving {
			w.bytes -= f.size()
			continue
		}
		kept = append(kept, f)
	}
	clear(w.list[len(kept):])
	w.list = kept
	heap.Init(w)
}

// size is about what a message takes in memory.
func (f *flight) size() int64 { return int64(len(f.Data)) + 512 }
