package sqlite

import (
	"context"
	stdsql "database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"millrace/internal/event"
)

// readersPerDay bounds the connections that read one day file.
const readersPerDay = 4

// dayFile is one file of events. Its fields are guarded by files.mu.
type dayFile struct {
	day  day
	path string

	// lastSeq and lastReceived are those of the newest committed event, 0 if none.
	lastSeq      int64
	lastReceived int64
	// hasOwn says whether the file has claims of exact rows; it may say so of one
	// that has none.
	hasOwn bool
	// stale says that a commit's outcome is unknown: the file must be asked.
	stale bool

	readers *stdsql.DB // nil when closed
	refs    int        // calls that use the file now
	usedAt  uint64     // files.clock when it was last acquired
	// dropped is not nil when retention has condemned the file; it is closed when
	// the last call has released it.
	dropped chan struct{}
}

// position is where a log stands in the store.
type position struct {
	next uint64
	day  day // whose file says so
}

// files knows every day file, and what has been committed to it.
type files struct {
	dir     string
	schema  schema
	maxOpen int
	metrics *Metrics

	mu        sync.Mutex
	byDay     map[day]*dayFile
	positions map[event.LogID]position
	clock     uint64
	closed    bool
	idle      *sync.Cond // a file was released; on mu
}

// openFiles finds, migrates and reads all day files below dir.
func openFiles(ctx context.Context, dir string, s schema, maxOpen int, m *Metrics) (*files, error) {
	f := &files{dir: dir, schema: s, maxOpen: maxOpen, metrics: m,
		byDay: map[day]*dayFile{}, positions: map[event.LogID]position{}}
	f.idle = sync.NewCond(&f.mu)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("list the event files: %w", err)
	}
	for _, entry := range entries {
		d, ok := parseFileName(entry.Name())
		if !ok {
			continue
		}
		file := &dayFile{day: d, path: filepath.Join(dir, entry.Name())}
		state, err := f.prepare(ctx, file.path)
		if err != nil {
			return nil, err
		}
		f.byDay[d] = file
		f.learn(file, state)
	}
	m.dayFiles.Set(float64(len(f.byDay)))
	return f, nil
}

// fileState is what a day file says of itself.
type fileState struct {
	lastSeq, lastReceived int64
	hasOwn                bool
	positions             map[event.LogID]uint64
}

// prepare creates the file if there is none, migrates it and reads its state.
func (f *files) prepare(ctx context.Context, path string) (fileState, error) {
	db, err := pool(path, writing, 1)
	if err != nil {
		return fileState{}, err
	}
	defer db.Close()
	if err := f.schema.apply(ctx, db, path); err != nil {
		return fileState{}, err
	}
	return readState(ctx, db, path)
}

func readState(ctx context.Context, db *stdsql.DB, path string) (fileState, error) {
	s := fileState{positions: map[event.LogID]uint64{}}
	err := db.QueryRowContext(ctx, `SELECT seq, received_ns FROM events ORDER BY seq DESC LIMIT 1`).Scan(&s.lastSeq, &s.lastReceived)
	if err != nil && !errors.Is(err, stdsql.ErrNoRows) {
		return fileState{}, fmt.Errorf("read the newest event of %s: %w", path, err)
	}
	if err := db.QueryRowContext(ctx, `SELECT EXISTS (SELECT 1 FROM own_claims)`).Scan(&s.hasOwn); err != nil {
		return fileState{}, fmt.Errorf("read the claims of %s: %w", path, err)
	}
	rows, err := db.QueryContext(ctx, `SELECT log_id, next_seq FROM positions`)
	if err != nil {
		return fileState{}, fmt.Errorf("read the log positions of %s: %w", path, err)
	}
	defer rows.Close()
	for rows.Next() {
		var id []byte
		var next int64
		if err := rows.Scan(&id, &next); err != nil {
			return fileState{}, fmt.Errorf("read the log positions of %s: %w", path, err)
		}
		if len(id) != len(event.LogID{}) || next < 0 {
			return fileState{}, fmt.Errorf("%s has a log position that is damaged (id %x, next %d); restore the file from a backup", path, id, next)
		}
		s.positions[event.LogID(id)] = uint64(next)
	}
	if err := rows.Err(); err != nil {
		return fileState{}, fmt.Errorf("read the log positions of %s: %w", path, err)
	}
	return s, nil
}

// learn takes over what a file says of itself. The caller holds mu or is alone.
func (f *files) learn(file *dayFile, s fileState) {
	file.lastSeq, file.lastReceived, file.hasOwn, file.stale = s.lastSeq, s.lastReceived, s.hasOwn, false
	for id, next := range s.positions {
		f.advance(id, position{next: next, day: file.day})
	}
}

// advance raises a log's position. The caller holds mu or is alone.
func (f *files) advance(id event.LogID, p position) {
	old, known := f.positions[id]
	if !known || p.next > old.next || p.next == old.next && p.day > old.day {
		f.positions[id] = p
	}
}

// publish makes a commit visible: queries that begin from now on see it.
func (f *files) publish(file *dayFile, lastSeq, lastReceived int64, id event.LogID, next uint64, own bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	file.lastSeq = lastSeq
	file.lastReceived = max(file.lastReceived, lastReceived)
	file.hasOwn = file.hasOwn || own
	f.advance(id, position{next: next, day: file.day})
}

// doubt says that the outcome of a commit to the file is unknown.
func (f *files) doubt(file *dayFile) {
	f.mu.Lock()
	defer f.mu.Unlock()
	file.stale = true
}

// settle asks every file that is in doubt where it stands. The caller holds the
// append lock.
func (f *files) settle(ctx context.Context) error {
	f.mu.Lock()
	var stale []*dayFile
	for _, file := range f.byDay {
		if file.stale {
			stale = append(stale, file)
		}
	}
	f.mu.Unlock()
	for _, file := range stale {
		db, err := f.acquire(file)
		if errors.Is(err, errDropped) {
			continue // then it held no log's position
		}
		if err != nil {
			return err
		}
		state, err := readState(ctx, db, file.path)
		f.release(file)
		if err != nil {
			return err
		}
		f.mu.Lock()
		f.learn(file, state)
		f.mu.Unlock()
	}
	return nil
}

// position returns where a log stands.
func (f *files) position(id event.LogID) (next uint64, known bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	p, known := f.positions[id]
	return p.next, known
}

// get returns the file of a day, and creates it if there is none. The caller
// holds the append lock.
func (f *files) get(ctx context.Context, d day) (*dayFile, error) {
	f.mu.Lock()
	file, closed := f.byDay[d], f.closed
	f.mu.Unlock()
	switch {
	case closed:
		return nil, ErrClosed
	case file != nil:
		return file, nil
	}
	file = &dayFile{day: d, path: filepath.Join(f.dir, d.fileName())}
	state, err := f.prepare(ctx, file.path)
	if err != nil {
		return nil, fmt.Errorf("create the event file of %s: %w", d.time().Format(time.DateOnly), err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.byDay[d] = file
	f.learn(file, state)
	f.metrics.dayFiles.Set(float64(len(f.byDay)))
	return file, nil
}

// view is a file as a query may see it: nothing beyond lastSeq.
type view struct {
	file         *dayFile
	lastSeq      int64
	lastReceived int64
	hasOwn       bool
}

// snapshot returns all files that have events, the oldest first, as they stood
// at one moment.
func (f *files) snapshot() ([]view, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return nil, ErrClosed
	}
	views := make([]view, 0, len(f.byDay))
	for _, file := range f.byDay {
		if file.lastSeq > 0 && file.dropped == nil {
			views = append(views, view{file: file, lastSeq: file.lastSeq, lastReceived: file.lastReceived, hasOwn: file.hasOwn})
		}
	}
	slices.SortFunc(views, func(a, b view) int { return int(a.file.day) - int(b.file.day) })
	return views, nil
}

// errDropped says that retention took the file away.
var errDropped = errors.New("the day was removed by retention")

// acquire returns the file's readers and keeps them open until release.
func (f *files) acquire(file *dayFile) (*stdsql.DB, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.closed:
		return nil, ErrClosed
	case file.dropped != nil:
		return nil, errDropped
	}
	if file.readers == nil {
		db, err := pool(file.path, reading, readersPerDay)
		if err != nil {
			return nil, err
		}
		file.readers = db
	}
	f.clock++
	file.usedAt = f.clock
	file.refs++
	return file.readers, nil
}

// release gives back what acquire or hold took, and closes the readers of the
// file that was unused for longest when too many are open.
func (f *files) release(file *dayFile) {
	f.mu.Lock()
	file.refs--
	if file.refs == 0 && file.dropped != nil {
		close(file.dropped)
	}
	var oldest *dayFile
	open := 0
	for _, other := range f.byDay {
		if other.readers == nil {
			continue
		}
		open++
		if other.refs == 0 && other.dropped == nil && (oldest == nil || other.usedAt < oldest.usedAt) {
			oldest = other
		}
	}
	var closing *stdsql.DB
	if open > f.maxOpen && oldest != nil {
		closing, oldest.readers = oldest.readers, nil
	}
	f.idle.Broadcast()
	f.mu.Unlock()
	if closing != nil {
		closing.Close() // nobody uses it, and it only reads: there is nothing to lose
	}
}

// hold keeps retention from the file until release.
func (f *files) hold(file *dayFile) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.closed:
		return ErrClosed
	case file.dropped != nil:
		return errDropped
	}
	file.refs++
	return nil
}

// close waits for the calls under way and closes all readers.
func (f *files) close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closed = true
	var errs []error
	for _, file := range f.byDay {
		for file.refs > 0 {
			f.idle.Wait()
		}
		if file.readers != nil {
			errs = append(errs, file.readers.Close())
			file.readers = nil
		}
	}
	return errors.Join(errs...)
}
