package storetest

import (
	"context"
	"testing"
	"time"

	"millrace/internal/event"
)

// EventsHarness is a fresh event store and the ways to trouble it.
type EventsHarness struct {
	Store event.Store
	// Reopen closes the store and opens what it left.
	Reopen func(t testing.TB) event.Store
	// Crash returns the store as a new process finds it after this one died
	// without closing anything.
	Crash func(t testing.TB) event.Store
	// LoseReply makes the next Append of the store commit and answer an error.
	LoseReply func(t testing.TB)
	// FillDisk makes every Append fail for want of space until free is called.
	FillDisk func(t testing.TB) (free func())

	// PositionsApart says that the positions of logs are in no day, so that any day
	// may be removed.
	PositionsApart bool

	// Gaps says why a function above is nil, by its name.
	Gaps map[string]string
}

// EventsFactory gives a fresh store; it registers its own clean-up.
type EventsFactory func(t testing.TB) *EventsHarness

// need skips the test if the harness declares that it lacks a fault.
func (h *EventsHarness) need(t *testing.T, name string, there bool) {
	t.Helper()
	if there {
		return
	}
	if why := h.Gaps[name]; why != "" {
		t.Skipf("declared gap: %s: %s", name, why)
	}
	t.Fatalf("the harness has no %s and does not say why; declare the gap", name)
}

// deadline bounds every test of the suites.
const deadline = 3 * time.Minute

func testContext(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	t.Cleanup(cancel)
	return ctx
}
