package follow

import "time"

// scope is what is known of one scope.
type scope struct {
	// mark is the change up to which everything is in the index.
	mark int64
	// told is the highest change somebody told of, polled the highest a poll read.
	// What was told may not exist; what was read does.
	told, polled int64
	// raised is the number of the poll that was the latest when mark was raised.
	raised int64
	// more says that the last page that was read was not the last there is.
	more            bool
	queued, running bool
	// retryAt is before when a hint starts nothing, because the last read failed.
	retryAt time.Time
}

func (s *scope) behind() bool { return s.more || s.told > s.mark || s.polled > s.mark }

// board says which scopes are to be read, in the order in which they turned out to
// be behind. It belongs to one goroutine.
type board struct {
	scopes map[string]*scope
	queue  []string
	polls  int64 // that began

	// The scopes that were behind at the poll of checkedAt, and to which change they
	// must come before the index is complete as of then. nil: no check is under way.
	check     map[string]int64
	checkedAt time.Time
}

func newBoard() *board { return &board{scopes: map[string]*scope{}} }

// reset begins anew with what was loaded.
func (b *board) reset(versions map[string]int64) {
	old := b.scopes
	b.scopes, b.queue, b.check = make(map[string]*scope, len(versions)), nil, nil
	for name, v := range versions {
		b.scopes[name] = &scope{mark: v, raised: b.polls}
	}
	for name, s := range old { // what was told during the load
		if s.told > s.mark {
			b.hint(name, s.told, time.Time{})
		}
	}
}

func (b *board) of(name string) *scope {
	s := b.scopes[name]
	if s == nil {
		s = &scope{}
		b.scopes[name] = s
	}
	return s
}

// hint notes a change that somebody told of.
func (b *board) hint(name string, change int64, now time.Time) {
	s := b.of(name)
	s.told = max(s.told, change)
	if !now.Before(s.retryAt) {
		b.enqueue(name, s)
	}
}

// enqueue has a scope read if it is behind and not about to be read.
func (b *board) enqueue(name string, s *scope) {
	if s.queued || s.running || !s.behind() {
		return
	}
	s.queued = true
	b.queue = append(b.queue, name)
}

// next takes the scope that waits longest for being read.
func (b *board) next() (name string, s *scope, ok bool) {
	if len(b.queue) == 0 {
		return "", nil, false
	}
	name = b.queue[0]
	b.queue = b.queue[1:]
	s = b.scopes[name]
	s.queued, s.running = false, true
	return name, s, true
}

// poll takes the versions that a poll read, which began at began, and says which
// scope went back, if any did.
func (b *board) poll(versions map[string]int64, began time.Time) (back string, went bool) {
	for name, s := range b.scopes {
		// A mark that was raised while the poll read may be ahead of it.
		v, there := versions[name]
		if v < s.mark && s.raised < b.polls {
			return name, true
		}
		if !there {
			b.enqueue(name, s)
		}
	}
	check := map[string]int64{}
	for name, v := range versions {
		s := b.of(name)
		s.polled = v
		if v > s.mark {
			check[name] = v
		}
		b.enqueue(name, s) // what a hint told of and a failure left as well
	}
	if b.check == nil { // an older check is ended first, or a slow one would never end
		b.check, b.checkedAt = check, began
	}
	return "", false
}

// done notes that a scope was read: up to last, all of it if !more, as of a moment
// when polled had been read.
func (b *board) done(name string, last, polled, told int64, more bool) {
	s := b.scopes[name]
	s.running, s.more, s.retryAt = false, more, time.Time{}
	mark := last
	if !more {
		// All there is has been read. What a poll saw before that is no more, or has a
		// newer change; what was told and is not there never was.
		mark = max(mark, polled)
		if s.told <= told {
			s.told = 0
		}
	}
	if mark > s.mark {
		s.mark, s.raised = mark, b.polls
	}
	if v, there := b.check[name]; there && s.mark >= v {
		delete(b.check, name)
	}
	if s.mark == 0 && !s.behind() { // nobody knows it but who told of it
		delete(b.scopes, name)
		return
	}
	b.enqueue(name, s)
}

// failed notes that a scope could not be read; the next poll tries again, and
// before retryAt no hint does. It says whether that is the first time in a row.
func (b *board) failed(name string, retryAt time.Time) (first bool) {
	s := b.scopes[name]
	first = s.retryAt.IsZero()
	s.running, s.retryAt = false, retryAt
	return first
}

// completed returns the time of a poll all of whose changes are in the index by
// now, once.
func (b *board) completed() (at time.Time, ok bool) {
	if b.check == nil || len(b.check) > 0 {
		return time.Time{}, false
	}
	b.check = nil
	return b.checkedAt, true
}
