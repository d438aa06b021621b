package limit

import (
	"context"
	"time"
)

// Entry is one key in a call to the Store: a token bucket, or a sliding window if
// Window is not zero. The amounts of a bucket are nanoseconds of its flow (a unit of
// a rate of 1,000 a second is 1,000,000 of them), those of a window are units.
type Entry struct {
	// Limit and Key are whose count it is. All instances name them alike.
	Limit, Key string
	// Window is the length of the window.
	Window time.Duration

	// For Exchange. Total is all that the instance has ever spent on the key. The
	// store adds what that is more than it last heard from the instance, or more
	// than From if that is more.
	Total, From int64
	// Elapsed is how long ago the first of it was spent. The bucket's flow since then
	// counts, though it is told only now. Buckets only.
	Elapsed time.Duration
	// Late is how much of it was spent in the window before. Windows only.
	Late int64

	// For Take. Cost is added if the key's count then is at most Bound (a bucket), or
	// was less than Bound before (a window). It may be negative, to give back.
	Cost, Bound int64

	// The answer. Done says that there is one, and Allowed that Take added the cost.
	Done, Allowed bool
	// Used is what of the bucket is used after it, in time of its flow. It is negative
	// if the bucket was full for so long.
	Used time.Duration
	// Current and Previous are the counts of the windows, and Position how far the
	// store's clock is into the current one.
	Current, Previous int64
	Position          time.Duration
}

// Store counts for all instances. It is safe for concurrent use. Each call ends with
// its context at the latest, or soon after it.
type Store interface {
	// Exchange adds what an instance spent and fills in how each key stands. An entry
	// that is repeated, alone or as part of a larger total, counts once. On an error
	// some entries may be done; of the others it is not known whether they took
	// effect.
	Exchange(ctx context.Context, instance string, entries []Entry) error
	// Take decides about one entry at once, for all instances.
	Take(ctx context.Context, e *Entry) error
	// Beat says that an instance is alive, for ttl, and returns how many are, itself
	// included.
	Beat(ctx context.Context, instance string, ttl time.Duration) (int, error)
	// Leave says that an instance is no longer.
	Leave(ctx context.Context, instance string) error
}
