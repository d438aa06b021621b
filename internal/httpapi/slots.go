package httpapi

import (
	"fmt"
	"sync"
	"time"
)

// slots bounds how many of something are under way at once, by tenant (or whoever
// else has a share) and in all. It is safe for concurrent use.
type slots struct {
	max, perTenant int
	// What is refused: whose tenant has all it may, and when all are taken.
	tenantFull, full func() *problem

	mu    sync.Mutex
	total int
	taken map[string]int // by tenant
}

func newSlots(most, perTenant int, tenantFull, full func() *problem) *slots {
	return &slots{max: most, perTenant: perTenant, tenantFull: tenantFull, full: full, taken: map[string]int{}}
}

// enter takes a slot for the tenant, or says why there is none. Who got one must
// leave.
func (p *slots) enter(tenant string) *problem {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.taken[tenant] >= p.perTenant:
		return p.tenantFull()
	case p.total >= p.max:
		return p.full()
	}
	p.total++
	p.taken[tenant]++
	return nil
}

func (p *slots) leave(tenant string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.total--
	if p.taken[tenant]--; p.taken[tenant] == 0 {
		delete(p.taken, tenant)
	}
}

// newTails returns the places of live tails.
func newTails(most, perTenant int) *slots {
	return newSlots(most, perTenant, func() *problem {
		if perTenant < 0 {
			return newProblem(slugNotImplemented, "live tails are turned off on this server; poll GET /events")
		}
		return newProblem(slugTooManyStreams, fmt.Sprintf("the tenant has %d live tails open, which is the most; close one", perTenant)).
			after(retryUnavailable)
	}, func() *problem {
		return newProblem(slugTooManyStreams, fmt.Sprintf("the server has %d live tails open, which is the most; try again later", most)).
			after(retryUnavailable)
	})
}

// newReads returns the places of reads that can be long: of many events, of
// statistics and of many dead letters.
func newReads(most, perTenant int) *slots {
	return newSlots(most, perTenant, func() *problem {
		return newProblem(slugTooManyReads, fmt.Sprintf("the tenant has %d reads under way, which is the most at once; "+
			"wait for one to end, and read fewer pages at once", perTenant)).after(time.Second)
	}, func() *problem {
		return newProblem(slugOverloaded, fmt.Sprintf("the server has %d reads under way, which is the most at once; "+
			"wait for retryAfter seconds and read again", most)).after(time.Second)
	})
}

// newWaits returns the places of requests that wait for an order to change.
func newWaits(most, perTenant int) *slots {
	return newSlots(most, perTenant, func() *problem {
		return newProblem(slugTooManyWaits, fmt.Sprintf("%d requests of the tenant wait for an order to change, which is the most; "+
			"ask without wait, every few seconds", perTenant)).after(retryUnavailable)
	}, waitsFull(most))
}

// newWaitsOfBuyers returns the places of one buyer's among them.
func newWaitsOfBuyers(most, perBuyer int) *slots {
	return newSlots(most, perBuyer, func() *problem {
		return newProblem(slugTooManyWaits, fmt.Sprintf("%d requests of yours wait for an order to change, which is the most; "+
			"ask without wait, every few seconds", perBuyer)).after(retryUnavailable)
	}, waitsFull(most))
}

func waitsFull(most int) func() *problem {
	return func() *problem {
		return newProblem(slugTooManyWaits, fmt.Sprintf("%d requests wait for an order to change, which is the most; "+
			"ask without wait, every few seconds", most)).after(retryUnavailable)
	}
}
