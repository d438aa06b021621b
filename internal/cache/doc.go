// Package cache keeps values in two levels: RAM, and a store that instances share
// (Remote, such as Redis), for data that does not fit into RAM as a whole.
//
// Pattern: Get looks into RAM, then into Remote, then calls the load that its caller
// gave. Of one key one load runs at a time: in an instance all wait for one flight,
// and among instances the one with Remote's lease loads while the others look for its
// result. Values are fresh for TTL. Shortly before its end the next hit has them
// loaded again in the background (EagerAt); after it they are kept for StaleFor and
// served, marked as stale, if a load fails or lasts longer than SoftTimeout. That
// there is nothing is kept too (ErrNotFound, NegativeTTL).
//
// # Freshness
//
// Put and Invalidate take effect in this order: RAM here, Remote, the RAM of the other
// instances. When they return,
//
//   - no Get here that begins then serves what is older, or joins a load that began
//     before; such a load answers those who were there before and is kept nowhere, in
//     RAM since its flight is forgotten, in Remote since its lease has ended;
//   - no Get here reads the key from Remote until Remote was told. Telling is a
//     background goroutine's, so that no writer waits for the network. While Remote
//     does not answer, what is untold is remembered and told before anything is read
//     from there again; if that becomes too much, everything in Remote is disbelieved
//     instead. An instance that hears of a change which Remote does not know remembers
//     it too.
//
// The other instances drop theirs when the broadcast arrives, usually within
// milliseconds. A broadcast that is lost heals by itself: RAM there holds the old value
// for TTL plus the time of a load at the most. It is older than that only if loads
// fail as well, up to TTL + StaleFor, and then it is marked as stale. The same holds if
// an instance ends before it could tell Remote.
//
// Versions, where the caller has them, are compared wherever a value is kept: an older
// one never replaces a newer one, and an announced version is remembered for
// HardTimeout and 5 s, in RAM and in Remote, so that what comes late is refused. A
// record that is deleted and made again must go on with higher versions, or have none;
// otherwise it is taken for outdated for that long. A load that returns less than was
// announced, from a replica that lags for instance, is repeated for about 0.4 s. If it
// is the same each time it is believed, since the database has lost commits (a replica
// took over, or it was restored), and what was known is forgotten everywhere; a replica
// that lags for longer is believed with it. Otherwise the Get fails with ErrOutdated.
//
// A tag, or a change without a version, cannot be ordered with a Put that another
// writer makes at the same time: keys that are Put should be invalidated with versions.
//
// # When Remote is away
//
// Any failed call, a call over RemoteTimeout among them, makes Remote "away": Gets do
// without it and wait for nothing. A background goroutine tries again after 50 ms and
// then less and less often, to once in 2 s.
//
// Concurrency: all methods may be called from any goroutine. A hit in RAM takes no
// lock.
//
// Lifecycle: New starts the goroutines that tell and hear, Close ends them and all
// loads. The cache neither starts nor closes Remote and Peers.
package cache
