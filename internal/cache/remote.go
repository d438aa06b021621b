package cache

import (
	"context"
	"time"
)

// Remote is the second level: a store that instances share, such as Redis. Methods
// may be called from any goroutine, and return by their context's deadline. The name
// of a cache sets its entries apart from those of others.
//
// What a Remote must keep to, so that nothing old is ever read from it:
//
//   - A load may store only while its lease stands (Read gives it, Store ends it).
//     What Tell says of a key ends the lease, so a load that began earlier stores
//     nothing.
//   - A version that is older than one told of is not stored for a while, nor is a Put
//     that was made before an invalidation without a version. A Put that arrives long
//     after Tell has given up is not stored at all.
//   - Its entries know when their load began, on a counter that each telling of a tag
//     raises: an entry with a tag that was told of later is not returned.
//   - Distrust does so for all entries, and Check does when the server may have lost
//     something: restarted, or replaced by its replica.
type Remote interface {
	// Check finds out whether the store answers. After a failure nothing is read
	// until Check has returned nil and what was untold has been told. It returns the
	// counter of tags.
	Check(ctx context.Context, cache string) (seq int64, err error)
	// Read returns what there is of a key, and leases it where that is less than
	// wanted and nobody else has it.
	Read(ctx context.Context, cache, key string, want Want) (Record, error)
	// Store keeps what a load brought, if the lease of that token stands, and ends it.
	Store(ctx context.Context, cache, key, token string, r Record) (stored bool, err error)
	// Release ends the lease of that token.
	Release(ctx context.Context, cache, key, token string) error
	// Tell says what has changed. It may be told again what it knows. After an error
	// any part of it may have been told. It returns the counter of tags.
	Tell(ctx context.Context, cache string, news []News) (seq int64, err error)
	// Distrust has everything that is there taken for not there.
	Distrust(ctx context.Context, cache string) error
}

// Want is what a reader wants.
type Want struct {
	// Left is how long a record must be fresh still; one with less gets a lease.
	Left time.Duration
	// Token names the lease, and Lease is how long it is.
	Token string
	Lease time.Duration
}

// Record is an entry of a Remote, and what Read says about it.
type Record struct {
	// Found: there is one. It may be over its time.
	Found bool
	// Leased: the reader has the lease now. Without it and with less than it wanted,
	// somebody else has.
	Leased bool
	// Negative says that there is nothing, and then there is no Data.
	Negative bool
	Data     []byte
	Version  int64
	Tags     []string
	// Age is since it was loaded, Left how long it is fresh still, zero or less once
	// it is not; Keep, for Store and Tell, is how long it is there at all.
	Age, Left, Keep time.Duration
	// Seq is, from Read, the counter of tags now: hand it to Store with what was
	// loaded after. Of a Put it is what was last heard of the counter before it.
	Seq int64
}

// News is a change of a key, or of a tag.
type News struct {
	Tag string
	Key string
	// Version: entries that are older are removed, and 0 removes any.
	Version int64
	// Forget: which versions were told of is forgotten, as the database has.
	Forget bool
	// Put, if not nil, is stored unless something newer is known. It has a version.
	Put *Record
	// Keep is for how long the change itself is remembered.
	Keep time.Duration
}

// Peers tells the other instances of changes, as far as it can: what is lost is
// healed by TTL.
type Peers interface {
	// Send gives data to all instances. It returns by ctx's deadline.
	Send(ctx context.Context, data []byte) error
	// Listen calls h with what instances send, its own among them, until stop.
	Listen(ctx context.Context, h func(data []byte)) (stop func(), err error)
}
