package stream

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"millrace/internal/event"
)

// instance is an Assigner that runs.
type instance struct {
	*Assigner
	cancel context.CancelFunc
	ended  chan error
}

func startInstance(t testing.TB, o AssignerOptions) *instance {
	t.Helper()
	a, err := NewAssigner(o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	i := &instance{a, cancel, make(chan error, 1)}
	go func() { i.ended <- a.Run(ctx) }()
	return i
}

func (i *instance) stop(t testing.TB) {
	t.Helper()
	i.cancel()
	if err := <-i.ended; err != nil {
		t.Error(err)
	}
}

// shares returns how many partitions each has, in order, and checks that each
// partition has one owner.
func shares(t testing.TB, total int, instances ...*instance) []int {
	t.Helper()
	var counts, all []int
	for _, i := range instances {
		counts = append(counts, len(i.Owned()))
		all = append(all, i.Owned()...)
	}
	slices.Sort(counts)
	slices.Sort(all)
	if len(all) != total || len(slices.Compact(all)) != total {
		t.Errorf("owned are %v, want each of %d once", all, total)
	}
	return counts
}

func TestPartitionsAreSharedByThoseWhoLive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, leases, store := newMemBroker(8), newMemLeases(), newMemStore()
		start := func(name string) *instance {
			return startInstance(t, AssignerOptions{Broker: b, Leases: leases, Instance: name, NewSink: newSink(store)})
		}
		one := start("one")
		time.Sleep(30 * time.Second)
		if diff := cmp.Diff([]int{8}, shares(t, 8, one)); diff != "" {
			t.Error(diff)
		}
		two, three := start("two"), start("three")
		time.Sleep(30 * time.Second)
		if diff := cmp.Diff([]int{2, 3, 3}, shares(t, 8, one, two, three)); diff != "" {
			t.Error(diff)
		}
		two.stop(t)
		time.Sleep(10 * time.Second)
		if diff := cmp.Diff([]int{4, 4}, shares(t, 8, one, three)); diff != "" {
			t.Error(diff)
		}
		four, five := start("four"), start("five")
		time.Sleep(30 * time.Second)
		if diff := cmp.Diff([]int{2, 2, 2, 2}, shares(t, 8, one, three, four, five)); diff != "" {
			t.Error(diff)
		}
		for _, i := range []*instance{one, three, four, five} {
			if err := i.Probe(); err != nil {
				t.Error(err)
			}
			i.stop(t)
		}
		if left, _ := leases.Leases(t.Context(), "", time.Now()); len(left) != 0 {
			t.Errorf("leases are left: %v", left)
		}
	})
}

func TestTenInstancesShareFourPartitionsAndADeadOnesAreTakenOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, leases, store := newMemBroker(4), newMemLeases(), newMemStore()
		// A dead one: its leases are there until they end, and nobody prolongs them.
		for _, name := range []string{"sink/events/dead", "stream/events/0", "stream/events/1", "stream/events/2", "stream/events/3"} {
			if _, held, err := leases.Acquire(t.Context(), name, "dead", time.Now(), 10*time.Second); !held || err != nil {
				t.Fatal(err)
			}
		}
		began := time.Now()
		var instances []*instance
		for i := range 10 {
			instances = append(instances, startInstance(t, AssignerOptions{Broker: b, Leases: leases, Instance: fmt.Sprint("i", i), NewSink: newSink(store)}))
		}
		time.Sleep(9 * time.Second)
		for _, i := range instances {
			if n := len(i.Owned()); n != 0 {
				t.Errorf("%d partitions were taken after %v, while their lease lasted", n, time.Since(began))
			}
		}
		time.Sleep(6 * time.Second)
		if counts := shares(t, 4, instances...); counts[len(counts)-1] != 1 {
			t.Errorf("the shares are %v, want at most 1", counts)
		}
		for _, i := range instances {
			i.stop(t)
		}
	})
}

// message is a message with one event.
func message(t testing.TB, id string) []byte {
	t.Helper()
	b := newMemBroker(1)
	p := newPublisher(t, PublisherOptions{Broker: b})
	in, err := event.NewIngester(event.IngesterOptions{Log: p, Ack: event.AckStream})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := in.Ingest(t.Context(), event.Submission{TenantID: "demo", Body: fmt.Appendf(nil, `[{"id":%q,"type":"t","payload":1}]`, id)}); err != nil {
		t.Fatal(err)
	}
	closeNow(t, p)
	return b.parts[0].messages[0].Data
}

func TestMissingMessagesAreALoudErrorUntilTheLossIsAccepted(t *testing.T) {
	for name, lose := range map[string]func(b *memBroker, store *memStore){
		"before the first": func(b *memBroker, store *memStore) {
			store.next[b.parts[0].id] = 2
			b.parts[0].messages = b.parts[0].messages[2:]
		},
		"in the middle": func(b *memBroker, _ *memStore) {
			b.parts[0].messages = slices.Delete(b.parts[0].messages, 1, 2)
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b, store := newMemBroker(1), newMemStore()
				for _, id := range []string{"a", "b", "c", "d"} {
					b.add(0, message(t, id))
				}
				lose(b, store)
				options := AssignerOptions{Broker: b, Leases: newMemLeases(), Instance: "one", NewSink: newSink(store)}
				i := startInstance(t, options)
				time.Sleep(20 * time.Second)
				if err := i.Probe(); err == nil || !strings.Contains(err.Error(), "missing") {
					t.Errorf("the probe says %v", err)
				}
				if slices.Contains(store.stored(), "d") {
					t.Error("it went on all the same")
				}
				i.stop(t)
				options.AcceptLoss = true
				i = startInstance(t, options)
				time.Sleep(20 * time.Second)
				if err := i.Probe(); err != nil || !slices.Contains(store.stored(), "c") || !slices.Contains(store.stored(), "d") {
					t.Errorf("with the loss accepted: stored %v, the probe says %v", store.stored(), err)
				}
				i.stop(t)
			})
		})
	}
}

func TestAMessageThatIsNotOursStopsItsPartitionOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, store := newMemBroker(2), newMemStore()
		b.add(0, []byte("garbage"))
		b.add(1, message(t, "a"))
		i := startInstance(t, AssignerOptions{Broker: b, Leases: newMemLeases(), Instance: "one", NewSink: newSink(store)})
		time.Sleep(10 * time.Second)
		if err := i.Probe(); err == nil || !strings.Contains(err.Error(), "message 1") || !strings.Contains(err.Error(), "partition 0") {
			t.Errorf("the probe says %v", err)
		}
		if diff := cmp.Diff([]string{"a"}, store.stored()); diff != "" {
			t.Error(diff)
		}
		i.stop(t)
	})
}

func TestAPartitionMadeAnewIsSunkFromItsBeginning(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, store := newMemBroker(1), newMemStore()
		b.add(0, message(t, "a"))
		b.add(0, message(t, "b"))
		i := startInstance(t, AssignerOptions{Broker: b, Leases: newMemLeases(), Instance: "one", NewSink: newSink(store)})
		time.Sleep(5 * time.Second)
		b.set(func() { b.parts[0] = memPart{id: event.LogID{0, 2}, first: 1} })
		b.add(0, message(t, "c"))
		time.Sleep(20 * time.Second)
		if diff := cmp.Diff([]string{"a", "b", "c"}, store.stored()); diff != "" {
			t.Error(diff)
		}
		i.stop(t)
	})
}

func TestWhoCannotReachTheStreamSharesNoPartitions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		good, leases, store := newMemBroker(4), newMemLeases(), newMemStore()
		cut := newMemBroker(4)
		one := startInstance(t, AssignerOptions{Broker: good, Leases: leases, Instance: "one", NewSink: newSink(store)})
		two := startInstance(t, AssignerOptions{Broker: cut, Leases: leases, Instance: "two", NewSink: newSink(newMemStore())})
		time.Sleep(20 * time.Second)
		if n := len(two.Owned()); n != 2 {
			t.Fatalf("the second has %d partitions", n)
		}
		cut.set(func() { cut.away = errAway })
		time.Sleep(30 * time.Second)
		if err := two.Probe(); !errors.Is(err, errAway) {
			t.Errorf("the probe says %v", err)
		}
		if n := len(one.Owned()); n != 4 {
			t.Errorf("the first has %d partitions, the second %d", n, len(two.Owned()))
		}
		cut.set(func() { cut.away = nil })
		time.Sleep(20 * time.Second)
		if diff := cmp.Diff([]int{2, 2}, shares(t, 4, one, two)); diff != "" {
			t.Error(diff)
		}
		one.stop(t)
		two.stop(t)
	})
}

func TestWhatIsSunkIsTrimmedAndTheReaderHoldsNoMoreThanItMay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, store := newMemBroker(1), newMemStore()
		m := message(t, "a")
		for range 100 {
			b.add(0, m)
		}
		pack, err := open(m)
		if err != nil {
			t.Fatal(err)
		}
		p, err := openPartition(t.Context(), partitionOptions{broker: b, readAhead: int64(10 * len(pack)), trimEvery: time.Second, trimAfter: time.Minute, metrics: NewMetrics(nil)})
		if err != nil {
			t.Fatal(err)
		}
		frames, err := p.ReadFrames(1)
		if err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if n := len(frames.(*reader).queue); n != 10 {
			t.Errorf("%d messages were read ahead, want 10", n)
		}
		if err := errors.Join(frames.Close(), p.Release(50)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(59 * time.Second)
		if s, _ := b.State(t.Context(), 0); s.First != 1 {
			t.Errorf("while the messages can be sent again: %+v", s)
		}
		if err := p.Release(60); err != nil {
			t.Fatal(err)
		}
		time.Sleep(3 * time.Second)
		if s, _ := b.State(t.Context(), 0); s.First != 50 || s.Next != 101 {
			t.Errorf("after the release of 50: %+v", s)
		}
		p.Close()
		store.next[p.ID()] = 50
		i := startInstance(t, AssignerOptions{Broker: b, Leases: newMemLeases(), Instance: "one", NewSink: newSink(store)})
		time.Sleep(defaultDecideWithin)
		if s, _ := b.State(t.Context(), 0); s.First != 50 {
			t.Errorf("by default, while the messages can be sent again: %+v", s)
		}
		time.Sleep(20 * time.Second)
		if s, _ := b.State(t.Context(), 0); s.First != 101 || len(store.stored()) != 51 {
			t.Errorf("%d events are stored, %+v", len(store.stored()), s)
		}
		changed := i.Changed()
		b.add(0, m)
		select {
		case <-changed:
		case <-time.After(time.Minute):
			t.Error("nobody is told of a commit")
		}
		i.stop(t)
	})
}
