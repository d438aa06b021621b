package sqlite

import "os"

// walBound keeps SQLite's WAL from growing without end: its own checkpoints
// yield to readers, and under steady reading might never finish.
type walBound struct {
	path      string
	limit     int64
	nextForce int64 // bytes before another forced checkpoint
	commits   int   // since the file was looked at
}

// commitsPerLook is how many commits pass before the WAL's length is looked at.
const commitsPerLook = 64

// boundWAL checkpoints by force when the WAL grew too long.
func (o *orders) boundWAL(c *hotConn) {
	w := &o.wal
	if w.commits++; w.commits < commitsPerLook {
		return
	}
	w.commits = 0
	info, err := os.Stat(w.path)
	if err != nil || info.Size() < max(w.limit, w.nextForce) {
		return // only a measure against growth; a later commit looks again
	}
	if err := c.exec("PRAGMA wal_checkpoint(TRUNCATE)"); err != nil {
		o.logger.Warn("the SQLite WAL could not be cut; a reader may hold it", "file", w.path, "bytes", info.Size(), "error", err)
	}
	w.nextForce = 0
	if info, err := os.Stat(w.path); err == nil && info.Size() >= w.limit {
		w.nextForce = info.Size() + walKeptBytes // do not make every commit wait for that reader
	}
}
