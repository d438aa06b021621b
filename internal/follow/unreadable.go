package follow

import (
	"slices"
	"sync"
)

const (
	maxUnreadable = 10_000 // are counted
	namedInLog    = 10
)

// unreadable are the names of rows that cannot be read, to which the goroutines of a
// load add.
type unreadable struct {
	mu    sync.Mutex // guards names
	names map[string]bool
}

func newUnreadable() *unreadable { return &unreadable{names: map[string]bool{}} }

// add adds names and returns those that are new.
func (u *unreadable) add(names ...string) (fresh []string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, name := range names {
		if !u.names[name] && len(u.names) < maxUnreadable {
			u.names[name] = true
			fresh = append(fresh, name)
		}
	}
	return fresh
}

// remove takes names away and returns those that were there.
func (u *unreadable) remove(names ...string) (gone []string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, name := range names {
		if u.names[name] {
			delete(u.names, name)
			gone = append(gone, name)
		}
	}
	return gone
}

func (u *unreadable) len() int {
	u.mu.Lock()
	defer u.mu.Unlock()
	return len(u.names)
}

// namesOf returns the names of the rows that are unreadable, or of those that are not.
func (f *Follower[R]) namesOf(rows []R, unreadable bool) (names []string) {
	if f.o.Unreadable == nil {
		return nil
	}
	for i := range rows {
		if f.o.Unreadable(&rows[i]) == unreadable {
			names = append(names, f.o.Called(&rows[i]))
		}
	}
	return names
}

// logUnreadable tells of rows that turned out to be unreadable.
func (f *Follower[R]) logUnreadable(names []string) {
	if len(names) == 0 {
		return
	}
	slices.Sort(names)
	f.log.Error("rows of the database cannot be read: something else than this program has written them; nobody is shown them, put them again",
		"rows", len(names), "first", names[:min(len(names), namedInLog)])
}
