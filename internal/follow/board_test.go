package follow

import (
	"slices"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
)

// begin notes that a poll begins.
func (b *board) begin() { b.polls++ }

func mustNext(t *testing.T, b *board, want string) *scope {
	t.Helper()
	name, s, ok := b.next()
	if !ok || name != want {
		t.Fatalf("%q is next, %v, want %s", name, ok, want)
	}
	return s
}

func mustRest(t *testing.T, b *board) {
	t.Helper()
	if name, _, ok := b.next(); ok {
		t.Fatalf("%s is next, want nothing", name)
	}
}

func TestScopesAreReadInTheOrderInWhichTheyFellBehind(t *testing.T) {
	b := newBoard()
	b.reset(map[string]int64{"a": 5, "b": 5, "c": 5})
	var now time.Time
	b.hint("b", 6, now)
	b.hint("a", 9, now)
	b.hint("b", 7, now)
	b.hint("c", 5, now) // is known
	s := mustNext(t, b, "b")
	b.hint("b", 8, now) // while it is read
	mustNext(t, b, "a")
	mustRest(t, b)
	b.done("b", 7, s.polled, 7, false)
	mustNext(t, b, "b")
	b.done("a", 7, 0, 9, true) // a page
	b.hint("c", 6, now)
	mustNext(t, b, "a")
	b.done("a", 9, 0, 9, true) // it does not know that this was all
	mustNext(t, b, "c")
	mustNext(t, b, "a")
	b.done("a", 9, 0, 9, false)
	mustRest(t, b)
}

func TestAMarkThatIsRaisedDuringAPollIsNotTakenForADatabaseThatWentBack(t *testing.T) {
	b := newBoard()
	b.reset(map[string]int64{"a": 5})
	b.hint("a", 6, time.Time{})
	b.begin() // reads 5
	mustNext(t, b, "a")
	b.done("a", 6, 0, 6, false)
	if scope, back := b.poll(map[string]int64{"a": 5}, time.Time{}); back {
		t.Errorf("%s went back", scope)
	}
	b.begin()
	if _, back := b.poll(map[string]int64{"a": 5}, time.Time{}); !back {
		t.Error("the next poll reads less than is known, and nothing is said")
	}
	b.begin()
	if _, back := b.poll(map[string]int64{}, time.Time{}); !back {
		t.Error("a scope is gone, and nothing is said")
	}
}

func TestAnIndexIsCompleteWhenEveryScopeHasWhatThePollSaw(t *testing.T) {
	at := func(s int) time.Time { return time.Unix(int64(s), 0) }
	b := newBoard()
	b.reset(map[string]int64{"a": 1, "b": 1})
	complete := func(want int) {
		t.Helper()
		got, ok := b.completed()
		if ok != (want > 0) || ok && !got.Equal(at(want)) {
			t.Errorf("complete as of %v, %v, want %d", got, ok, want)
		}
	}
	complete(0)
	b.begin()
	b.poll(map[string]int64{"a": 1, "b": 1}, at(1))
	complete(1)
	complete(0) // once
	b.begin()
	b.poll(map[string]int64{"a": 2, "b": 3}, at(2))
	complete(0)
	b.next() // a and b, in any order
	b.next()
	b.done("b", 2, 3, 0, true)
	b.begin()
	b.poll(map[string]int64{"a": 9, "b": 9}, at(3)) // before the check of the poll before has ended
	b.done("a", 2, 2, 0, false)
	complete(0)
	mustNext(t, b, "b")
	b.done("b", 3, 9, 0, true)
	complete(2)
	b.next()
	b.next()
	b.done("a", 9, 9, 0, false)
	b.failed("b", at(10))
	complete(0)
	b.begin()
	b.poll(map[string]int64{"a": 9, "b": 9}, at(4))
	mustNext(t, b, "b")
	b.done("b", 3, 9, 0, false) // its rows are gone for good; the poll's number stands
	complete(4)
	b.begin()
	b.poll(map[string]int64{"a": 9, "b": 9}, at(5))
	complete(5)
	mustRest(t, b)
}

func TestWhatWasToldDuringALoadIsReadAfterIt(t *testing.T) {
	b := newBoard()
	b.reset(map[string]int64{"a": 5, "b": 5})
	for _, name := range []string{"a", "b", "c"} {
		b.hint(name, 7, time.Time{})
	}
	b.reset(map[string]int64{"a": 7, "b": 6, "d": 1})
	var names []string
	for range 2 {
		name, _, _ := b.next()
		names = append(names, name)
	}
	slices.Sort(names)
	if diff := gocmp.Diff([]string{"b", "c"}, names); diff != "" {
		t.Errorf("to be read (-want +got):\n%s", diff)
	}
	mustRest(t, b)
}

func TestAScopeThatFailedWaitsForThePoll(t *testing.T) {
	b := newBoard()
	now := time.Unix(100, 0)
	b.hint("a", 1, now)
	mustNext(t, b, "a")
	if !b.failed("a", now.Add(time.Second)) {
		t.Error("the first failure is not told as such")
	}
	b.hint("a", 2, now)
	mustRest(t, b)
	b.hint("a", 3, now.Add(time.Second))
	mustNext(t, b, "a")
	if b.failed("a", now.Add(2*time.Second)) {
		t.Error("the second failure is told as the first")
	}
	b.begin()
	b.poll(map[string]int64{"other": 1}, now)
	var names []string
	for range 2 {
		name, _, _ := b.next()
		names = append(names, name)
	}
	if diff := gocmp.Diff([]string{"a", "other"}, names); diff != "" {
		t.Errorf("next (-want +got):\n%s", diff)
	}
	b.done("a", 0, 0, 3, false)
	if b.scopes["a"] != nil {
		t.Error("a scope that nobody has is kept")
	}
}

func TestAMailboxKeepsTheHighestChangeAndIsBounded(t *testing.T) {
	m := newMailbox(2)
	for _, c := range []int64{2, 3, 1} {
		m.put("a", c)
	}
	m.put("b", 1)
	m.put("c", 1)
	m.put("b", 4)
	<-m.wake
	changes, overflow := m.take()
	if diff := gocmp.Diff(map[string]int64{"a": 3, "b": 4}, changes); diff != "" || !overflow {
		t.Errorf("overflow %v, changes (-want +got):\n%s", overflow, diff)
	}
	if changes, overflow := m.take(); len(changes) > 0 || overflow || len(m.wake) > 0 {
		t.Errorf("what was taken is there again: %v, %v", changes, overflow)
	}
}
