package follow

import "sync"

// mailbox holds, for scopes that changed, the highest change that was told of, until
// somebody takes them. It is bounded: what does not fit makes it overflow, which
// stands for "anything may have changed". It is safe for concurrent use and never
// blocks.
type mailbox struct {
	wake chan struct{} // has an element when there is something to take
	max  int

	mu       sync.Mutex // guards what follows
	changes  map[string]int64
	overflow bool
}

func newMailbox(most int) *mailbox {
	return &mailbox{wake: make(chan struct{}, 1), max: most, changes: map[string]int64{}}
}

// put adds a change.
func (m *mailbox) put(scope string, change int64) {
	m.mu.Lock()
	last, there := m.changes[scope]
	switch {
	case there:
		m.changes[scope] = max(last, change)
	case len(m.changes) < m.max:
		m.changes[scope] = change
	default:
		m.overflow = true
	}
	m.mu.Unlock()
	m.ring()
}

// putBack puts back what take took.
func (m *mailbox) putBack(changes map[string]int64, overflow bool) {
	for scope, change := range changes {
		m.put(scope, change)
	}
	if overflow {
		m.spill()
	}
}

// spill marks the mailbox as overflown.
func (m *mailbox) spill() {
	m.mu.Lock()
	m.overflow = true
	m.mu.Unlock()
	m.ring()
}

func (m *mailbox) ring() {
	select {
	case m.wake <- struct{}{}:
	default:
	}
}

// take empties the mailbox.
func (m *mailbox) take() (changes map[string]int64, overflow bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	changes, overflow = m.changes, m.overflow
	m.changes, m.overflow = map[string]int64{}, false
	return changes, overflow
}
