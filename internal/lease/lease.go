// Package lease says which of several instances may do what only one is to do, for
// as long as it keeps saying that it is alive.
//
// A lease saves double work; it protects nothing. A process that was paused for
// longer than its lease goes on where it stopped and does not know that another
// has taken over. So everything done under a lease must be guarded where it takes
// effect: the position of a log, the version of an order, the token of the lease.
package lease

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Lease is a name that a holder has until it expires.
type Lease struct {
	// Name is what the lease is about, such as "stream/EVENTS-3" or "sink/<instance>".
	Name string
	// Holder is the instance that has it.
	Holder string
	// Token grows by one whenever the holder changes.
	Token int64
	// ExpiresAt is when others may take it.
	ExpiresAt time.Time
}

// Store keeps leases. It is safe for concurrent use. Times are of the callers'
// clocks, which are expected to be within a small part of a lease's life of each
// other.
type Store interface {
	// Acquire takes a lease that is free or has expired, or prolongs the holder's own,
	// until now+ttl. held says whether holder has it after the call; the lease is
	// returned as it stands, whoever has it.
	Acquire(ctx context.Context, name, holder string, now time.Time, ttl time.Duration) (l Lease, held bool, err error)
	// Release gives a lease back if holder has it. Its token is kept.
	Release(ctx context.Context, name, holder string) error
	// Leases returns the leases whose name begins with prefix and that have not
	// expired, in order of name.
	Leases(ctx context.Context, prefix string, now time.Time) ([]Lease, error)
}

// maxNameBytes bounds names and holders.
const maxNameBytes = 256

// Check says what is wrong with the arguments of Acquire, for stores.
func Check(name, holder string, ttl time.Duration) error {
	switch {
	case name == "" || len(name) > maxNameBytes:
		return fmt.Errorf("a lease needs a name of 1 to %d bytes, this one has %d", maxNameBytes, len(name))
	case holder == "" || len(holder) > maxNameBytes:
		return fmt.Errorf("the lease %s needs a holder of 1 to %d bytes, this one has %d", name, maxNameBytes, len(holder))
	case ttl <= 0:
		return errors.New("the lease " + name + " must live longer than zero")
	}
	return nil
}
