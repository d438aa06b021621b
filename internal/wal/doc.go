// Package wal is a segmented write-ahead log with group commit. It is the queue
// between those who accept records and the one who stores them: Append answers
// once a record survives a power loss, a Reader gets the records in order, and
// Release gives their space back when they are safe elsewhere.
//
// # Layout
//
// A log is a directory. The file "meta" holds the log's id. Segments are files
// named by generation, a number that only grows; "spare-*" files are segments to
// be, and "quarantine" keeps what Repair put aside. A segment is a row of frames,
// each beginning at a multiple of 512 bytes, so that no two frames share a disk
// sector:
//
//	data    one group commit: records with one time of receipt
//	seal    the end of a segment, naming the generation that follows
//	close   written by a clean Close; carries no records
//	gap     written by Repair: sequences that are known to be lost
//
// Every frame carries the log's id, its segment's generation, its first sequence
// and checksums of header and payload. Spare segments are recycled ones, full of
// frames of older generations, which the generation tells apart.
//
// # Why recovery is sound
//
// One committer writes a frame, syncs it, and only then wakes its callers and
// writes the next: at most one frame is ever not known to be durable. So a frame
// that cannot be read is a torn tail, never acknowledged, exactly if nothing
// follows it: no frame later in the segment, no later segment. Everything else is
// damage: Open refuses with a *DamageError and changes nothing. A new segment gets
// its name durably first, then the old one is sealed durably, then the new one
// gets its first frame: a seal without a successor is a missing segment. What
// this cannot tell is damage to the very last frame of a log that was not closed
// cleanly: it looks like a torn tail.
//
// Open writes the last frame again and syncs it before anyone may read it, since
// what a read returns need not be on disk: not after a kill between write and
// sync, nor after a sync that failed.
//
// # Concurrency and lifecycle
//
// All methods of Log are safe for concurrent use; a Reader belongs to one
// goroutine. Open starts two goroutines, the committer and the keeper (which
// recycles and prepares segments and watches the disk's free space); Close stops
// both. A failed sync or an unexpected write error poisons the log: Failed is
// closed, callers in flight get ErrUnknown, all later ones ErrFailed, and the
// process should exit. A full disk is not a failure: appends are refused with
// ErrDiskFull until there is room again.
//
// The directory belongs to one process, which the caller ensures with a lock.
// Inspect may run beside it, Repair may not.
package wal
