// Package sqlite is the embedded store: it keeps events, dead letters and API
// keys in SQLite files below one directory and needs no server.
//
// Files. DIR/millrace.db has everything that is not an event. DIR/events has one
// file per UTC day of receipt, such as 2026-11-22.db, with that day's events,
// their rollups and the position of the log they came from, so that a commit is
// one file's and retention is an unlink. All are plain SQLite databases in WAL
// mode with synchronous=FULL: what Append, Add, Insert, … returned without an
// error survives a crash and a power cut.
//
// Event rows are appended in order of receipt to a rowid table. There is no
// b-tree over their ids or types: keys that arrive at random touch a different
// page with every row, and throughput collapses when such a tree outgrows the
// cache. Two small indexes, kept per chunk of 65,536 events, take their place:
// event_ids has the hashes of a chunk's events packed into 256 buckets, and
// presence says which 1,024-event blocks have a tenant or a type. A look-up by
// id probes one bucket per chunk, newest first; a filtered query reads only the
// blocks that have something for it.
//
// Events that Millrace itself makes are exact whatever the mode: the append
// transaction inserts their hashes into own_claims, a table apart from that of
// exact mode, and the files of the days before are asked for them first. Their
// amounts are added up in money_rollups, by currency; every other event counts in
// rollups.
//
// Concurrency. A day file has one writer, which Append opens and keeps, and a
// small pool of reading connections. Queries of all files see one snapshot: the
// last sequence of each file is published after its commit, and a query reads
// none beyond those it saw published when it began. At most Options.MaxOpenDays
// files have readers open; they are closed least recently used first.
// Retention waits for a file's readers before it removes it. The store assumes
// that it is the only process that writes these files; whoever opens it holds a
// lock on the directory.
//
// millrace.db has one connection that writes, for which callers wait in Go, a pool
// that reads single rows and the outbox, and one that lists and counts: however
// many list, what is on its way is not held up. What is asked very often of it, placing and advancing orders,
// comes in batches and goes through multi-row statements that stay prepared on
// that connection, see hotConn. The size of such a commit is the number of pages it
// touches, so its pages are small.
//
// Lifecycle. Open migrates every file to the newest schema, or refuses when a
// file is of a newer program that this one cannot serve. Day files are
// checkpointed within Append. In the background runs one goroutine, the
// checkpointer of millrace.db; Close stops it and waits for calls under way.
package sqlite
