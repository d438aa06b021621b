package sqlite

import (
	stdsql "database/sql"
	"fmt"
	"net/url"
	"time"

	modernc "modernc.org/sqlite"
)

// Settings of SQLite, as measured with 480-byte events on two cores.
const (
	// pageBytes holds a full bucket of event_ids without an overflow page.
	pageBytes = 8 << 10
	// writerCacheBytes holds the dirty pages of a commit of 20,000 events.
	writerCacheBytes = 24 << 20
	readerCacheBytes = 2 << 20
	// checkpointPages is the length of the SQLite WAL (32 MiB) at which a commit
	// copies it into the database: about 50 ms of work.
	checkpointPages = 4000
	// walKeptBytes is what a WAL that grew keeps of the disk after a checkpoint.
	walKeptBytes = 64 << 20
	// walLimitBytes is the length at which a commit insists on a checkpoint,
	// waiting for readers if it must: passive ones starve under steady reading.
	walLimitBytes = 256 << 20
	busyTimeout   = 5 * time.Second
	// forceTimeout bounds that waiting: nobody writes meanwhile.
	forceTimeout = 100 * time.Millisecond

	// mainPageBytes is for millrace.db, whose commits touch few bytes each of many
	// pages: with pages of 8 KiB they write two thirds more.
	mainPageBytes = 4 << 10
	// mainCheckpointPages (128 MiB) is a last resort: the checkpointer comes long
	// before, and not within somebody's commit.
	mainCheckpointPages = 32000
	// mainReaders and mainListers are the connections of the two pools that read
	// millrace.db.
	mainReaders = 3
	mainListers = 3
)

// access says what a connection may do.
type access int

const (
	writing     access = iota // creates the file if it is not there
	writingMain               // the same, for millrace.db
	reading                   // fails if the file is not there
)

func dsn(path string, a access) string {
	q := url.Values{}
	q.Set("_busy_timeout", fmt.Sprint(busyTimeout.Milliseconds()))
	q.Add("_pragma", "temp_store(MEMORY)")
	q.Add("_pragma", "trusted_schema(OFF)")
	switch a {
	case writing, writingMain:
		page, checkpoint := pageBytes, checkpointPages
		if a == writingMain {
			page, checkpoint = mainPageBytes, mainCheckpointPages
		}
		q.Set("mode", "rwc")
		q.Set("_txlock", "immediate")
		q.Set("_journal_mode", "WAL") // applied after the _pragma values, which page_size needs
		q.Set("_synchronous", "FULL")
		q.Add("_pragma", fmt.Sprintf("page_size(%d)", page))
		q.Add("_pragma", fmt.Sprintf("cache_size(-%d)", writerCacheBytes>>10))
		q.Add("_pragma", fmt.Sprintf("wal_autocheckpoint(%d)", checkpoint))
		q.Add("_pragma", fmt.Sprintf("journal_size_limit(%d)", walKeptBytes))
	case reading:
		// Read-only opening (mode=ro) would leave -wal and -shm files behind.
		q.Set("mode", "rw")
		q.Set("_query_only", "1")
		q.Add("_pragma", fmt.Sprintf("cache_size(-%d)", readerCacheBytes>>10))
	}
	return "file:" + (&url.URL{Path: path}).EscapedPath() + "?" + q.Encode()
}

// pool opens a database/sql pool; connections are made when they are needed.
func pool(path string, a access, conns int) (*stdsql.DB, error) {
	connector, err := modernc.NewConnector(dsn(path, a))
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	db := stdsql.OpenDB(connector)
	db.SetMaxOpenConns(conns)
	db.SetMaxIdleConns(conns)
	return db, nil
}
