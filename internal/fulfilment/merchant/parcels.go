package merchant

import (
	"container/heap"
	"context"
	"sync"
	"time"
)

// stage is what is next for an order.
type stage int

const (
	toShip stage = iota
	toDeliver
)

// parcel is an order that the merchant has something to do for.
type parcel struct {
	orderID  string
	stage    stage
	at       time.Time
	attempts int // failed ones of this stage
	place    int // in the heap, -1 while a worker has it
	dropped  bool
}

// parcels are the orders that wait, each once, in order of time.
type parcels struct {
	most int
	wake chan struct{} // has room for one: "the first may have changed"
	room chan struct{} // has room for one: "there is room again"

	mu      sync.Mutex // guards what follows
	byOrder map[string]*parcel
	byTime  timeHeap
}

func newParcels(most int) *parcels {
	return &parcels{most: most, wake: make(chan struct{}, 1), room: make(chan struct{}, 1), byOrder: map[string]*parcel{}}
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default: // the signal that is there already serves
	}
}

// add puts an order in the queue and reports false if there is no room. One that is
// there stays as it is.
func (q *parcels) add(orderID string, s stage, at time.Time) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.byOrder[orderID] != nil {
		return true
	}
	if len(q.byOrder) >= q.most {
		return false
	}
	p := &parcel{orderID: orderID, stage: s, at: at}
	q.byOrder[orderID] = p
	heap.Push(&q.byTime, p)
	signal(q.wake)
	return true
}

// drop forgets an order. A worker that has it finishes the call it makes.
func (q *parcels) drop(orderID string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	p := q.byOrder[orderID]
	if p == nil {
		return
	}
	p.dropped = true
	if p.place >= 0 {
		heap.Remove(&q.byTime, p.place)
	}
	q.remove(p)
}

func (q *parcels) remove(p *parcel) {
	delete(q.byOrder, p.orderID)
	signal(q.room)
}

// next takes the first order out of the heap if its time has come; otherwise it
// returns how long that is away.
func (q *parcels) next() (*parcel, time.Duration) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.byTime) == 0 {
		return nil, time.Hour
	}
	if wait := time.Until(q.byTime[0].at); wait > 0 {
		return nil, wait
	}
	p := heap.Pop(&q.byTime).(*parcel)
	p.place = -1
	return p, 0
}

// again puts back what a worker had, to be done at a time.
func (q *parcels) again(p *parcel, at time.Time) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if p.dropped {
		return
	}
	p.at = at
	heap.Push(&q.byTime, p)
	signal(q.wake)
}

// done forgets what a worker had.
func (q *parcels) done(p *parcel) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if !p.dropped {
		q.remove(p)
	}
}

// hand gives orders whose time has come to ready until ctx ends.
func (q *parcels) hand(ctx context.Context, ready chan<- *parcel) {
	for {
		p, wait := q.next()
		if p == nil {
			timer := time.NewTimer(wait)
			select {
			case <-ctx.Done():
				timer.Stop()
				return
			case <-timer.C:
			case <-q.wake:
				timer.Stop()
			}
			continue
		}
		select {
		case ready <- p:
		case <-ctx.Done():
			return
		}
	}
}

// timeHeap orders parcels by time, for container/heap.
type timeHeap []*parcel

func (h timeHeap) Len() int           { return len(h) }
func (h timeHeap) Less(i, j int) bool { return h[i].at.Before(h[j].at) }
func (h timeHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].place, h[j].place = i, j
}

func (h *timeHeap) Push(x any) {
	p := x.(*parcel)
	p.place = len(*h)
	*h = append(*h, p)
}

func (h *timeHeap) Pop() any {
	old := *h
	p := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	return p
}
