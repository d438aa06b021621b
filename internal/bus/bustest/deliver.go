package bustest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"millrace/internal/bus"
)

func everythingArrives(t *testing.T, b Broker, _ Gaps) {
	conn, in := open(t, b), newInbox()
	g := group(t, "workers")
	g.Concurrency = 1
	join(t, conn, g, in.handle)
	sent := []bus.Message{
		{Subject: "orders.placed", ID: "full", Data: []byte{0, 0xff, '\r', '\n', '{'}, Headers: map[string]string{
			bus.HeaderTrace:  "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
			bus.HeaderTenant: "demo", "X-Odd": "Grüße: 1, 2; \"3\"", "empty": "",
		}},
		{Subject: "orders.a.b-c_d.E9", ID: "", Data: []byte("without id and headers")},
		{Subject: "orders.empty", ID: "without data"},
		{Subject: "orders.large", ID: "large", Data: []byte(strings.Repeat("x", 200<<10))},
	}
	publish(t, conn, sent...)
	in.has(t, len(sent))
	var got []bus.Message
	for _, d := range in.all() {
		got = append(got, d.Message)
		if d.Attempt != 1 {
			t.Errorf("message %q came as attempt %d, want 1", d.ID, d.Attempt)
		}
	}
	if diff := cmp.Diff(sent, got, cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("what arrived differs (-sent +got):\n%s", diff)
	}
}

// everyGroup publishes to two groups of which one has two members.
func everyGroup(t *testing.T, b Broker, _ Gaps) {
	conn := open(t, b)
	first, second := newInbox(), newInbox()
	join(t, conn, group(t, "payment"), first.handle)
	join(t, conn, group(t, "payment"), first.handle)
	join(t, conn, group(t, "fulfilment"), second.handle)
	publish(t, conn, messages("m", 100)...)
	for _, in := range []*inbox{first, second} {
		in.has(t, 100)
		for id, n := range in.counts() {
			if n != 1 {
				t.Errorf("message %s was delivered %d times to one group, want once", id, n)
			}
		}
	}
}

// competing has three connections, each of which holds on to its first message
// until all have one.
func competing(t *testing.T, b Broker, gaps Gaps) {
	const n = 300
	in := newInbox()
	got, proceed := make(chan int, 3*n), make(chan struct{})
	g := group(t, "workers")
	g.Concurrency = 1
	for i := range 3 {
		join(t, open(t, b), g, func(_ context.Context, d *bus.Delivery) error {
			got <- i
			<-proceed
			in.put(d)
			return nil
		})
	}
	publishApart(t, open(t, b), gaps, messages("m", n)...)
	members := map[int]bool{}
	for len(members) < 3 {
		members[receive(t, "a message on each of three connections", got)] = true
	}
	close(proceed)
	in.has(t, n)
	for id, times := range in.counts() {
		if times != 1 && !gaps.ByPartition {
			t.Errorf("message %s was delivered %d times, want once", id, times)
		}
	}
}

// publishApart publishes messages at once, or in calls of their own where one call
// is one partition's.
func publishApart(t testing.TB, b bus.Bus, gaps Gaps, list ...bus.Message) {
	t.Helper()
	if !gaps.ByPartition {
		publish(t, b, list...)
		return
	}
	for len(list) > 0 {
		n := min(10, len(list))
		publish(t, b, list[:n]...)
		list = list[n:]
	}
}

func subjects(t *testing.T, b Broker, gaps Gaps) {
	conn := open(t, b)
	sent := []string{"orders.placed", "orders.paid", "orders.paid.twice", "orders.placed.by.hand", "orders.last"}
	groups := []struct {
		name  string
		takes []string
		want  []string
	}{
		{"exact", []string{"orders.paid", "orders.last"}, []string{"orders.paid", "orders.last"}},
		{"one-word", []string{"orders.*"}, []string{"orders.placed", "orders.paid", "orders.last"}},
		{"many-words", []string{"orders.placed.>", "orders.last"}, []string{"orders.placed.by.hand", "orders.last"}},
		{"all", []string{"orders.>"}, slices.Clone(sent)},
	}
	inboxes := make([]*inbox, len(groups))
	for i, c := range groups {
		inboxes[i] = newInbox()
		g := group(t, c.name)
		g.Subjects, g.Concurrency = c.takes, 1
		join(t, conn, g, inboxes[i].handle)
	}
	for _, s := range sent {
		publish(t, conn, bus.Message{Subject: s, ID: s})
	}
	for i, c := range groups { // the last message is in all of them
		inboxes[i].until(t, "the last message for group "+c.name, func(seen map[string]int) bool {
			return seen["orders.last"] > 0 && (!gaps.ByPartition || len(seen) >= len(c.want))
		})
		var got []string
		for _, d := range inboxes[i].all() {
			got = append(got, d.Subject)
		}
		if gaps.ByPartition { // each was a call of its own
			slices.Sort(c.want)
			slices.Sort(got)
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("group %s with %v got others (-want +got):\n%s", c.name, c.takes, diff)
		}
	}
}

func inOrder(t *testing.T, b Broker, gaps Gaps) {
	const n = 2000
	conn, in := open(t, b), newInbox()
	g := group(t, "workers")
	g.Concurrency = 1
	join(t, conn, g, in.handle)
	publish(t, conn, messages("first", n)...)
	publish(t, conn, messages("second", n)...)
	in.has(t, 2*n)
	got := in.all()
	if gaps.ByPartition { // in order within each call
		slices.SortStableFunc(got, func(a, b bus.Delivery) int { return strings.Compare(a.ID[:5], b.ID[:5]) })
	}
	for i, d := range got {
		want := fmt.Sprintf("first-%d", i)
		if i >= n {
			want = fmt.Sprintf("second-%d", i-n)
		}
		if d.ID != want {
			t.Fatalf("message %d is %s, want %s", i, d.ID, want)
		}
	}
}

func durable(t *testing.T, b Broker, _ Gaps) {
	early, late := newInbox(), newInbox()
	publisher := open(t, b)
	first := b.Open(t)
	s, err := first.Subscribe(within(t, patience), group(t, "workers"), early.handle)
	if err != nil {
		t.Fatal(err)
	}
	publish(t, publisher, message("while there"))
	early.has(t, 1)
	leave(t, s)
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	publish(t, publisher, messages("nobody there", 50)...)
	join(t, open(t, b), group(t, "workers"), late.handle)
	late.has(t, 50)
	if n := late.counts()["while there"]; n != 0 {
		t.Errorf("the message handled before came %d times more", n)
	}
}

func concurrency(t *testing.T, b Broker, _ Gaps) {
	const limit, n = 5, 40
	conn, in := open(t, b), newInbox()
	var now, most atomic.Int64
	busy, proceed := make(chan struct{}, n), make(chan struct{})
	g := group(t, "workers")
	g.Concurrency = limit
	join(t, conn, g, func(_ context.Context, d *bus.Delivery) error {
		if v := now.Add(1); v > most.Load() {
			most.Store(v)
		}
		busy <- struct{}{}
		<-proceed
		now.Add(-1)
		in.put(d)
		return nil
	})
	publish(t, conn, messages("m", n)...)
	for range limit {
		receive(t, "a handler at work", busy)
	}
	close(proceed)
	in.has(t, n)
	if most.Load() != limit {
		t.Errorf("%d handlers ran at once, want %d", most.Load(), limit)
	}
}

// backPressure has a member that is stuck. All but what it holds goes to another:
// at once, or, with partitions, when its AckWait is over.
func backPressure(t *testing.T, b Broker, gaps Gaps) {
	const n = 3000
	conn := open(t, b)
	stuck, proceed := make(chan struct{}, n), make(chan struct{})
	held, other, elsewhere := newInbox(), newInbox(), newInbox()
	g := group(t, "workers")
	g.Concurrency = 2
	if gaps.ByPartition {
		g.AckWait = 2 * time.Second
	}
	join(t, conn, g, func(_ context.Context, d *bus.Delivery) error {
		stuck <- struct{}{}
		<-proceed
		held.put(d)
		return nil
	})
	var once atomic.Bool
	free := func() {
		if once.CompareAndSwap(false, true) {
			close(proceed)
		}
	}
	t.Cleanup(free) // so that a failing test ends
	join(t, conn, group(t, "others"), elsewhere.handle)
	publish(t, conn, message("first"), message("second"))
	receive(t, "the first handler stuck", stuck)
	receive(t, "the second handler stuck", stuck)
	publish(t, conn, messages("m", n)...)
	elsewhere.has(t, n+2)
	join(t, open(t, b), g, other.handle)
	other.has(t, n-gaps.ReadAhead)
	free()
	if gaps.ByPartition {
		other.has(t, n+2) // those two as well
		return
	}
	both := func() int { return len(other.counts()) + len(held.counts()) }
	held.until(t, "what was held", func(map[string]int) bool { return both() == n+2 })
}

// nobody publishes to a broker on which nothing has been set up.
func nobody(t *testing.T, b Broker, _ Gaps) {
	conn, in := open(t, b), newInbox()
	publish(t, conn, messages("early", 600)...)
	join(t, open(t, b), group(t, "workers"), in.handle)
	publish(t, conn, message("m"))
	in.until(t, "the message", func(seen map[string]int) bool { return seen["m"] == 1 })
}

// repeats sends a message again within one call and in another. With the gap that
// the broker does not recognize it, all of them arrive and nothing else does.
func repeats(t *testing.T, b Broker, gaps Gaps) {
	want := map[string]int{"same": 1, "last": 1}
	if gaps.NoRepeats {
		want["same"] = 3
	}
	conn, in := open(t, b), newInbox()
	g := group(t, "workers")
	g.Concurrency = 1
	join(t, conn, g, in.handle)
	publish(t, conn, message("same"), message("same"))
	publish(t, conn, message("same"), message("last"))
	in.until(t, "the last message", func(seen map[string]int) bool { return seen["last"] > 0 })
	if diff := cmp.Diff(want, in.counts()); diff != "" {
		t.Errorf("deliveries differ (-want +got):\n%s", diff)
	}
}

// acknowledged lets the time for an answer pass: a later message that nobody
// answers for comes back, the earlier one does not.
func acknowledged(t *testing.T, b Broker, _ Gaps) {
	conn, in := open(t, b), newInbox()
	g := group(t, "workers")
	g.Concurrency, g.AckWait = 2, 150*time.Millisecond
	hang := make(chan struct{})
	join(t, conn, g, func(_ context.Context, d *bus.Delivery) error {
		in.put(d)
		if d.ID == "unanswered" && d.Attempt == 1 {
			<-hang
		}
		return nil
	})
	t.Cleanup(func() { close(hang) }) // before the subscription is closed
	publish(t, conn, message("answered"))
	in.has(t, 1)
	publish(t, conn, message("unanswered"))
	in.until(t, "the unanswered message again", func(seen map[string]int) bool { return seen["unanswered"] == 2 })
	if n := in.counts()["answered"]; n != 1 {
		t.Errorf("the answered message was delivered %d times, want once", n)
	}
}

func invalidMessages(t *testing.T, b Broker, _ Gaps) {
	conn, in := open(t, b), newInbox()
	g := group(t, "workers")
	g.Concurrency = 1
	join(t, conn, g, in.handle)
	for name, bad := range map[string]bus.Message{
		"an empty subject":              {},
		"a wildcard":                    {Subject: "orders.*"},
		"a space":                       {Subject: "orders.pl aced"},
		"an empty word":                 {Subject: "orders..placed"},
		"a subject the stream has not":  {Subject: "elsewhere.placed"},
		"a line break in a header":      {Subject: "orders.placed", Headers: map[string]string{"a": "b\r\nc: d"}},
		"a header name with a colon":    {Subject: "orders.placed", Headers: map[string]string{"a:b": "c"}},
		"a header of the broker's":      {Subject: "orders.placed", Headers: map[string]string{"Nats-Msg-Id": "c"}},
		"a line break in the id":        {Subject: "orders.placed", ID: "a\nb"},
		"more data than a broker takes": {Subject: "orders.placed", Data: make([]byte, 65<<20)},
	} {
		err := conn.Publish(within(t, patience), []bus.Message{message("not to be sent: " + name), bad})
		var invalid *bus.InvalidError
		if !errors.As(err, &invalid) || invalid.Index != 1 || invalid.Reason == "" {
			t.Errorf("a message with %s: got error %v, want an InvalidError for index 1", name, err)
		}
	}
	if err := conn.Publish(within(t, patience), nil); err != nil {
		t.Errorf("publishing nothing: %v", err)
	}
	publish(t, conn, message("good"))
	in.until(t, "the good message", func(seen map[string]int) bool { return seen["good"] > 0 })
	if diff := cmp.Diff(map[string]int{"good": 1}, in.counts()); diff != "" {
		t.Errorf("deliveries differ (-want +got):\n%s", diff)
	}
}

func invalidGroups(t *testing.T, b Broker, _ Gaps) {
	conn := open(t, b)
	for name, c := range map[string]struct {
		change func(*bus.Group)
		says   string
	}{
		"an upper-case name":    {func(g *bus.Group) { g.Name = "Workers" }, "a-z0-9-"},
		"no subjects":           {func(g *bus.Group) { g.Subjects = nil }, "Subjects"},
		"a wildcard inside":     {func(g *bus.Group) { g.Subjects = []string{"orders.*.paid"} }, "orders.*.paid"},
		"overlapping subjects":  {func(g *bus.Group) { g.Subjects = []string{"orders.>", "orders.paid"} }, "within"},
		"the same twice":        {func(g *bus.Group) { g.Subjects = []string{"orders.paid", "orders.paid"} }, "within"},
		"a subject of no one":   {func(g *bus.Group) { g.Subjects = []string{"elsewhere.>"} }, "elsewhere.>"},
		"no concurrency":        {func(g *bus.Group) { g.Concurrency = 0 }, "Concurrency"},
		"no time":               {func(g *bus.Group) { g.AckWait = 0 }, "AckWait"},
		"no attempts":           {func(g *bus.Group) { g.MaxAttempts = 0 }, "MaxAttempts"},
		"no dead letters":       {func(g *bus.Group) { g.DeadLetter = nil }, "DeadLetter"},
		"a name that is a path": {func(g *bus.Group) { g.Name = "a.b" }, "a-z0-9-"},
	} {
		g := group(t, "workers")
		c.change(&g)
		s, err := conn.Subscribe(within(t, patience), g, newInbox().handle)
		if err == nil {
			leave(t, s)
			t.Errorf("a group with %s was joined", name)
		} else if !strings.Contains(err.Error(), c.says) {
			t.Errorf("a group with %s: the error does not say %q: %v", name, c.says, err)
		}
	}
	if _, err := conn.Subscribe(within(t, patience), group(t, "workers"), nil); err == nil {
		t.Error("a group without a handler was joined")
	}
	if _, err := conn.Listen(within(t, patience), "a b", func(bus.Message) {}); err == nil {
		t.Error("a subject with a space was listened to")
	}
}
