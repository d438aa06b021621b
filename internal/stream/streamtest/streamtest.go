// Package streamtest is the conformance suite of stream.Broker, the same for every
// technology.
package streamtest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"millrace/internal/event"
	"millrace/internal/stream"
)

// Settings are what a test wants of a stream.
type Settings struct {
	Partitions int
	// MaxBytes bounds a partition.
	MaxBytes int64
}

// Harness is servers and the ways to trouble them.
type Harness struct {
	// Open opens a Broker on a stream of the test's own; called again it opens another
	// on the same stream. It registers its own clean-up.
	Open func(t testing.TB, s Settings) stream.Broker
	// Recreate deletes a partition, or all of the stream; it is made anew when it is
	// next used.
	Recreate func(t testing.TB, partition int)
	// Remove deletes one message in the middle of a partition.
	Remove func(t testing.TB, partition int, seq uint64)

	// Gaps says why a function above is nil, by its name, or why a feature is missing:
	// "Repeat" for a broker that knows its own repeats only, "Full" for one whose
	// bound cannot be tested.
	Gaps map[string]string
}

func (h *Harness) lacks(t *testing.T, name string, there bool) bool {
	t.Helper()
	if why := h.Gaps[name]; why != "" {
		t.Logf("declared gap: %s: %s", name, why)
		return true
	}
	if !there {
		t.Fatalf("the harness has no %s and does not say why; declare the gap", name)
	}
	return false
}

const deadline = 60 * time.Second

// Broker runs the suite.
func Broker(t *testing.T, fresh func(t testing.TB) *Harness) {
	for _, c := range []struct {
		name string
		test func(*testing.T, *Harness)
	}{
		{"what was published is read in order, with the same times again", readAgain},
		{"a reader begins where it is asked to and waits for what comes", readFrom},
		{"partitions are apart", partitionsApart},
		{"who publishes at once is there once each", publishAtOnce},
		{"a message sent again under its id is there once", publishAgain},
		{"what is trimmed is gone and the sequences go on", trim},
		{"a message that is too large is refused for good", tooLarge},
		{"a full partition refuses, and takes again after it was trimmed", full},
		{"a partition that was made anew is another log", recreated},
		{"a message removed in the middle leaves a gap in the sequences", removed},
		{"a second broker on the same stream sees the same", second},
	} {
		t.Run(c.name, func(t *testing.T) { c.test(t, fresh(t)) })
	}
}

func testContext(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	t.Cleanup(cancel)
	return ctx
}

// Publish publishes a text and returns its sequence.
func Publish(t testing.TB, b stream.Broker, partition int, text string) uint64 {
	t.Helper()
	seq, err := b.Publish(testContext(t), partition, "id-"+text, []byte(text))
	if err != nil {
		t.Fatalf("publishing %.40q: %v", text, err)
	}
	return seq
}

func state(t testing.TB, b stream.Broker, partition int) stream.State {
	t.Helper()
	s, err := b.State(testContext(t), partition)
	if err != nil {
		t.Fatalf("the state of partition %d: %v", partition, err)
	}
	return s
}

var errEnough = errors.New("enough")

// Read returns n messages of a partition.
func Read(t testing.TB, b stream.Broker, partition int, from uint64, n int) []stream.Message {
	t.Helper()
	if n == 0 {
		return nil
	}
	var got []stream.Message
	err := b.Read(testContext(t), partition, state(t, b, partition).ID, from, func(m stream.Message) error {
		got = append(got, m)
		if len(got) == n {
			return errEnough
		}
		return nil
	})
	if !errors.Is(err, errEnough) {
		t.Fatalf("reading %d messages from %d ended after %d: %v", n, from, len(got), err)
	}
	return got
}

func texts(messages []stream.Message) []string {
	var list []string
	for _, m := range messages {
		list = append(list, string(m.Data))
	}
	return list
}

func numbered(first, n int) []string {
	var list []string
	for i := range n {
		list = append(list, fmt.Sprint("m", first+i))
	}
	return list
}

func readAgain(t *testing.T, h *Harness) {
	b := h.Open(t, Settings{Partitions: 1})
	s := state(t, b, 0)
	if s.First != 1 || s.Next != 1 || s.ID == (event.LogID{}) {
		t.Errorf("an empty partition: %+v", s)
	}
	began := time.Now()
	for _, text := range numbered(0, 20) {
		Publish(t, b, 0, text)
	}
	got := Read(t, b, 0, 1, 20)
	if diff := cmp.Diff(numbered(0, 20), texts(got)); diff != "" {
		t.Error(diff)
	}
	for i, m := range got {
		if m.Seq != uint64(i+1) || m.ReceivedAt.Before(began.Add(-time.Second)) || m.ReceivedAt.After(time.Now().Add(time.Second)) {
			t.Errorf("message %d has the sequence %d and was received at %v", i, m.Seq, m.ReceivedAt)
		}
	}
	if diff := cmp.Diff(got, Read(t, b, 0, 1, 20)); diff != "" {
		t.Errorf("read again it differs:\n%s", diff)
	}
	after := state(t, b, 0)
	if after.First != 1 || after.Next != 21 || after.ID != s.ID {
		t.Errorf("afterwards: %+v, before %+v", after, s)
	}
}

func readFrom(t *testing.T, h *Harness) {
	b := h.Open(t, Settings{Partitions: 1})
	for _, text := range numbered(0, 5) {
		Publish(t, b, 0, text)
	}
	if diff := cmp.Diff([]string{"m3", "m4"}, texts(Read(t, b, 0, 4, 2))); diff != "" {
		t.Error(diff)
	}
	got, ended := make(chan string), make(chan error, 1)
	ctx, cancel := context.WithCancel(testContext(t))
	id := state(t, b, 0).ID
	go func() {
		ended <- b.Read(ctx, 0, id, 6, func(m stream.Message) error { got <- string(m.Data); return nil })
	}()
	Publish(t, b, 0, "m5")
	if text := <-got; text != "m5" {
		t.Errorf("the reader that waited got %q", text)
	}
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("a reader whose context ended says %v", err)
	}
}

func partitionsApart(t *testing.T, h *Harness) {
	b := h.Open(t, Settings{Partitions: 3})
	if n := b.Partitions(); n != 3 {
		t.Fatalf("there are %d partitions", n)
	}
	ids := map[event.LogID]bool{}
	for n := range 3 {
		for i := range n + 1 {
			if seq := Publish(t, b, n, fmt.Sprint(n, "-", i)); seq != uint64(i+1) {
				t.Errorf("partition %d, message %d: sequence %d", n, i, seq)
			}
		}
		ids[state(t, b, n).ID] = true
	}
	if len(ids) != 3 {
		t.Errorf("the partitions have %d ids", len(ids))
	}
	if diff := cmp.Diff([]string{"1-0", "1-1"}, texts(Read(t, b, 1, 1, 2))); diff != "" {
		t.Error(diff)
	}
}

func publishAtOnce(t *testing.T, h *Harness) {
	b := h.Open(t, Settings{Partitions: 1})
	const n = 100
	var group sync.WaitGroup
	seqs := make([]uint64, n)
	for i, text := range numbered(0, n) {
		group.Go(func() {
			seq, err := b.Publish(testContext(t), 0, text, []byte(text))
			if err != nil {
				t.Error(err)
			}
			seqs[i] = seq
		})
	}
	group.Wait()
	if t.Failed() {
		return
	}
	for i, text := range texts(Read(t, b, 0, 1, n)) {
		if k := slices.Index(seqs, uint64(i+1)); k < 0 || text != fmt.Sprint("m", k) {
			t.Errorf("the sequence %d has %s, it was told to message %d", i+1, text, k)
		}
	}
}

func publishAgain(t *testing.T, h *Harness) {
	if h.lacks(t, "Repeat", true) {
		return
	}
	b := h.Open(t, Settings{Partitions: 1})
	first := Publish(t, b, 0, "a")
	Publish(t, b, 0, "b")
	if again := Publish(t, b, 0, "a"); again != first {
		t.Errorf("the sequence was %d, and %d the second time", first, again)
	}
	Publish(t, b, 0, "c")
	if diff := cmp.Diff([]string{"a", "b", "c"}, texts(Read(t, b, 0, 1, 3))); diff != "" {
		t.Error(diff)
	}
}

func trim(t *testing.T, h *Harness) {
	b := h.Open(t, Settings{Partitions: 1})
	for _, text := range numbered(0, 10) {
		Publish(t, b, 0, text)
	}
	s := state(t, b, 0)
	if err := b.Trim(testContext(t), 0, event.LogID{1}, 11); err != nil {
		t.Errorf("trimming as another log: %v", err)
	}
	if got := state(t, b, 0); got.First != 1 {
		t.Errorf("what was said of another log trimmed this one: %+v", got)
	}
	for _, step := range []struct{ upTo, first uint64 }{{5, 5}, {3, 5}, {11, 11}} {
		if err := b.Trim(testContext(t), 0, s.ID, step.upTo); err != nil {
			t.Fatal(err)
		}
		if got := state(t, b, 0); got.First != step.first || got.Next != 11 || got.ID != s.ID {
			t.Errorf("trimmed up to %d: %+v", step.upTo, got)
		}
		if step.first == 5 { // what is asked for and gone is passed over
			if m := Read(t, b, 0, 2, 1)[0]; m.Seq != 5 || string(m.Data) != "m4" {
				t.Errorf("from 2 on comes %d, %s", m.Seq, m.Data)
			}
		}
	}
	if seq := Publish(t, b, 0, "later"); seq != 11 {
		t.Errorf("the next sequence is %d, want 11", seq)
	}
}

func tooLarge(t *testing.T, h *Harness) {
	b := h.Open(t, Settings{Partitions: 1})
	largest := make([]byte, b.MaxMessageBytes())
	if seq, err := b.Publish(testContext(t), 0, "largest", largest); seq != 1 || err != nil {
		t.Errorf("a message of %d bytes: sequence %d, error %v", len(largest), seq, err)
	}
	if _, err := b.Publish(testContext(t), 0, "beyond", append(largest, 0)); !errors.Is(err, event.ErrLogTooLarge) {
		t.Errorf("one byte more: error %v, want ErrLogTooLarge", err)
	}
	if got := state(t, b, 0); got.Next != 2 {
		t.Errorf("afterwards %+v", got)
	}
}

func full(t *testing.T, h *Harness) {
	if h.lacks(t, "Full", true) {
		return
	}
	b := h.Open(t, Settings{Partitions: 1, MaxBytes: 1 << 20})
	ctx := testContext(t)
	data := make([]byte, 100<<10)
	var err error
	n := 0
	for ; err == nil && n < 100; n++ {
		_, err = b.Publish(ctx, 0, fmt.Sprint("f", n), data)
	}
	if !errors.Is(err, event.ErrLogFull) || n < 8 {
		t.Fatalf("message %d: error %v, want ErrLogFull", n, err)
	}
	s := state(t, b, 0)
	if got := len(Read(t, b, 0, 1, n-1)); got != n-1 || s.Next != uint64(n) {
		t.Errorf("%d messages are there, %d were acknowledged; %+v", got, n-1, s)
	}
	if err := b.Trim(ctx, 0, s.ID, s.Next); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Publish(ctx, 0, "after", data); err != nil {
		t.Errorf("after it was trimmed: %v", err)
	}
}

func recreated(t *testing.T, h *Harness) {
	if h.lacks(t, "Recreate", h.Recreate != nil) {
		return
	}
	b := h.Open(t, Settings{Partitions: 1})
	for _, text := range numbered(0, 3) {
		Publish(t, b, 0, text)
	}
	before := state(t, b, 0)
	h.Recreate(t, 0)
	after := state(t, b, 0)
	if after.ID == before.ID || after.First != 1 || after.Next != 1 {
		t.Errorf("before %+v, after %+v", before, after)
	}
	ctx := testContext(t)
	for {
		_, err := b.Publish(ctx, 0, "new", []byte("new"))
		if err == nil {
			break
		}
		if !errors.Is(err, event.ErrLogAway) || ctx.Err() != nil {
			t.Fatal(err)
		}
	}
	var replaced *stream.ReplacedError
	err := b.Read(ctx, 0, before.ID, 2, func(stream.Message) error { return errEnough })
	if !errors.As(err, &replaced) {
		t.Errorf("reading the old log: %v, want a ReplacedError", err)
	}
	if err := b.Trim(ctx, 0, before.ID, 10); err != nil {
		t.Error(err)
	}
	if diff := cmp.Diff([]string{"new"}, texts(Read(t, b, 0, 1, 1))); diff != "" {
		t.Error(diff)
	}
}

func removed(t *testing.T, h *Harness) {
	if h.lacks(t, "Remove", h.Remove != nil) {
		return
	}
	b := h.Open(t, Settings{Partitions: 1})
	for _, text := range numbered(0, 4) {
		Publish(t, b, 0, text)
	}
	h.Remove(t, 0, 2)
	var seqs []uint64
	for _, m := range Read(t, b, 0, 1, 3) {
		seqs = append(seqs, m.Seq)
	}
	if diff := cmp.Diff([]uint64{1, 3, 4}, seqs); diff != "" {
		t.Error(diff)
	}
}

func second(t *testing.T, h *Harness) {
	b := h.Open(t, Settings{Partitions: 2})
	Publish(t, b, 1, "a")
	other := h.Open(t, Settings{Partitions: 2})
	Publish(t, other, 1, "b")
	if diff := cmp.Diff(state(t, b, 1), state(t, other, 1), cmpopts.IgnoreFields(stream.State{}, "Bytes")); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"a", "b"}, texts(Read(t, other, 1, 1, 2))); diff != "" {
		t.Error(diff)
	}
}
