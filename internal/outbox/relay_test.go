package outbox_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"millrace/internal/outbox"
)

var errDown = errors.New("down for the test")

// fakeStore is an outbox in memory. It is safe for concurrent use.
type fakeStore struct {
	written chan struct{}

	mu       sync.Mutex // guards what follows
	rows     []outbox.Row
	next     int64
	reads    int
	removals [][]int64
	failRead func() error
	failRm   func() error
}

func newFakeStore(rows int) *fakeStore {
	s := &fakeStore{written: make(chan struct{}, 1)}
	s.write(rows)
	return s
}

// write adds rows without a signal, as another process would.
func (s *fakeStore) write(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for range n {
		s.next++
		s.rows = append(s.rows, row(s.next))
	}
}

func (s *fakeStore) insert(r outbox.Row) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rows = append(s.rows, r)
	slices.SortFunc(s.rows, func(a, b outbox.Row) int { return int(a.Seq - b.Seq) })
}

func (s *fakeStore) signal() {
	select {
	case s.written <- struct{}{}:
	default:
	}
}

func row(seq int64) outbox.Row {
	return outbox.Row{Seq: seq, Lane: outbox.LaneBus, TenantID: "demo", Subject: "orders.paid", ID: fmt.Sprint("id-", seq), At: time.Now()}
}

func (s *fakeStore) Pending(ctx context.Context, lane outbox.Lane, after int64, limit int) ([]outbox.Row, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reads++
	if s.failRead != nil {
		if err := s.failRead(); err != nil {
			return nil, err
		}
	}
	var out []outbox.Row
	for _, r := range s.rows {
		if r.Seq > after && len(out) < limit {
			out = append(out, r)
		}
	}
	return out, ctx.Err()
}

func (s *fakeStore) Remove(ctx context.Context, lane outbox.Lane, seqs []int64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failRm != nil {
		if err := s.failRm(); err != nil {
			return err
		}
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	s.removals = append(s.removals, slices.Clone(seqs))
	s.rows = slices.DeleteFunc(s.rows, func(r outbox.Row) bool { return slices.Contains(seqs, r.Seq) })
	return nil
}

func (s *fakeStore) Depth(context.Context, outbox.Lane) (int64, time.Time, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.rows) == 0 {
		return 0, time.Time{}, nil
	}
	return int64(len(s.rows)), s.rows[0].At, nil
}

func (s *fakeStore) Written(outbox.Lane) <-chan struct{} { return s.written }

func (s *fakeStore) left() []int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	var seqs []int64
	for _, r := range s.rows {
		seqs = append(seqs, r.Seq)
	}
	return seqs
}

// receiver notes what it is handed. It is safe for concurrent use.
type receiver struct {
	mu    sync.Mutex // guards what follows
	seqs  []int64
	times []time.Time // of the calls
	fail  func(rows []outbox.Row) error
}

func (r *receiver) deliver(_ context.Context, rows []outbox.Row) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.times = append(r.times, time.Now())
	if r.fail != nil {
		if err := r.fail(rows); err != nil {
			return err
		}
	}
	for _, row := range rows {
		r.seqs = append(r.seqs, row.Seq)
	}
	return nil
}

func (r *receiver) got() []int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.seqs)
}

func upTo(n int64) []int64 {
	var out []int64
	for i := int64(1); i <= n; i++ {
		out = append(out, i)
	}
	return out
}

func options(s *fakeStore, r *receiver) outbox.RelayOptions {
	return outbox.RelayOptions{Lane: outbox.LaneBus, Store: s, Deliver: r.deliver}
}

// start runs a relay until stop is called.
func start(t *testing.T, o outbox.RelayOptions) (stop func()) {
	t.Helper()
	relay, err := outbox.NewRelay(o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- relay.Run(ctx) }()
	return sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
}

// settle lets virtual time pass until the relay has nothing left to do.
func settle(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func same(t *testing.T, what string, want, got []int64) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s differs (-want +got):\n%s", what, diff)
	}
}

func TestRowsAreHandedOverInOrderAndRemoved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, r := newFakeStore(1000), &receiver{}
		o := options(s, r)
		o.Batch = 64
		stop := start(t, o)
		defer stop()
		settle(time.Second)
		same(t, "what was handed over", upTo(1000), r.got())
		same(t, "what is left", nil, s.left())
		for _, removal := range s.removals {
			if len(removal) > 9*64 {
				t.Errorf("%d rows were removed at once, want at most %d", len(removal), 9*64)
			}
		}
	})
}

func TestAWriteIsHandedOverAtOnceAndAWriteOfAnotherProcessByPolling(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, r := newFakeStore(0), &receiver{}
		o := options(s, r)
		o.Poll = time.Minute
		stop := start(t, o)
		defer stop()
		settle(0)
		s.write(1)
		s.signal()
		settle(0) // no time passes
		same(t, "what was handed over at once", upTo(1), r.got())
		settle(time.Second) // it is removed, and the relay rests
		s.write(1)
		settle(time.Second)
		same(t, "what was handed over without a signal", upTo(1), r.got())
		settle(time.Minute)
		same(t, "what was handed over after polling", upTo(2), r.got())
	})
}

func TestAnIdleRelayOnlyPolls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, r := newFakeStore(3), &receiver{}
		stop := start(t, options(s, r))
		defer stop()
		settle(10 * time.Second)
		if s.reads > 25 {
			t.Errorf("the store was read %d times in 10 s with nothing to do, want about 20", s.reads)
		}
		if len(s.removals) != 1 {
			t.Errorf("%d removals for 3 rows, want one: %v", len(s.removals), s.removals)
		}
	})
}

func TestRowsHandedOverAndNotRemovedComeAgainAfterACrash(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, r := newFakeStore(5), &receiver{}
		s.failRm = func() error { return errDown } // the process ends before the removal
		stop := start(t, options(s, r))
		settle(time.Second)
		stop()
		same(t, "what was handed over", upTo(5), r.got())
		same(t, "what is left", upTo(5), s.left())
		s.failRm = nil
		stop = start(t, options(s, r))
		defer stop()
		settle(time.Second)
		same(t, "what was handed over in both runs", append(upTo(5), upTo(5)...), r.got())
		same(t, "what is left in the end", nil, s.left())
	})
}

func TestStoppingRemovesWhatWasHandedOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, r := newFakeStore(5), &receiver{}
		o := options(s, r)
		o.RemoveEvery = time.Hour
		stop := start(t, o)
		settle(time.Second)
		same(t, "what is left while it runs", upTo(5), s.left())
		stop()
		same(t, "what is left", nil, s.left())
	})
}

func TestStoppingEndsACallUnderWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newFakeStore(1)
		o := outbox.RelayOptions{Lane: outbox.LaneBus, Store: s, Deliver: func(ctx context.Context, _ []outbox.Row) error {
			<-ctx.Done()
			return ctx.Err()
		}}
		stop := start(t, o)
		settle(time.Second)
		before := time.Now()
		stop()
		if passed := time.Since(before); passed > 0 {
			t.Errorf("stopping took %v", passed)
		}
		same(t, "what is left", upTo(1), s.left())
	})
}

func TestAReceiverThatHangsIsGivenUpAndAskedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, calls := newFakeStore(1), 0
		o := outbox.RelayOptions{Lane: outbox.LaneBus, Store: s, Deliver: func(ctx context.Context, _ []outbox.Row) error {
			if calls++; calls == 1 {
				<-ctx.Done()
			}
			return ctx.Err()
		}}
		stop := start(t, o)
		defer stop()
		settle(time.Minute)
		same(t, "what is left", nil, s.left())
	})
}

func TestFailuresAreTriedAgainLessAndLessOftenAndToldOnce(t *testing.T) {
	for name, fail := range map[string]func(s *fakeStore, r *receiver, err func() error){
		"of the receiver":    func(_ *fakeStore, r *receiver, err func() error) { r.fail = func([]outbox.Row) error { return err() } },
		"of reading":         func(s *fakeStore, _ *receiver, err func() error) { s.failRead = err },
		"of removing":        func(s *fakeStore, _ *receiver, err func() error) { s.failRm = err },
		"of panics in there": func(_ *fakeStore, r *receiver, err func() error) { r.fail = panicking(err) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, r := newFakeStore(3), &receiver{}
				var tries []time.Time
				begun := time.Now()
				fail(s, r, func() error {
					tries = append(tries, time.Now())
					if time.Since(begun) < 2*time.Minute {
						return errDown
					}
					return nil
				})
				var log bytes.Buffer
				reg := prometheus.NewPedanticRegistry()
				o := options(s, r)
				o.Logger, o.Metrics = slog.New(slog.NewTextHandler(&log, nil)), outbox.NewMetrics(reg)
				stop := start(t, o)
				settle(3 * time.Minute)
				stop()
				same(t, "what is left", nil, s.left())
				if first := tries[1].Sub(tries[0]); first < 50*time.Millisecond || first > 100*time.Millisecond {
					t.Errorf("the second try came after %v, want 50 to 100 ms", first)
				}
				failures := 0
				for i := 1; i < len(tries) && tries[i].Sub(begun) < 2*time.Minute; i++ {
					failures++
					if gap := tries[i].Sub(tries[i-1]); gap > 10*time.Second {
						t.Errorf("try %d came %v after the one before, want at most 10 s", i, gap)
					}
				}
				if failures < 12 || failures > 35 {
					t.Errorf("%d tries in 2 minutes, want about 20", failures)
				}
				if n := strings.Count(log.String(), "level=WARN"); n != 1 {
					t.Errorf("%d warnings, want one:\n%s", n, log.String())
				}
				if n := strings.Count(log.String(), "the outbox moves again"); n != 1 {
					t.Errorf("%d words of recovery, want one:\n%s", n, log.String())
				}
			})
		})
	}
}

func panicking(err func() error) func([]outbox.Row) error {
	return func([]outbox.Row) error {
		if e := err(); e != nil {
			panic(e)
		}
		return nil
	}
}

func TestARowThatCannotBeHandedOverIsSetAsideAndTheOthersGoOn(t *testing.T) {
	for _, known := range []bool{true, false} {
		t.Run(fmt.Sprint("the receiver knows which: ", known), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, r := newFakeStore(20), &receiver{}
				r.fail = func(rows []outbox.Row) error {
					for _, row := range rows {
						if row.Seq == 7 || row.Seq == 20 {
							e := &outbox.RowError{Reason: "too large"}
							if known {
								e.Seq = row.Seq
							}
							return fmt.Errorf("publish: %w", e)
						}
					}
					return nil
				}
				var condemned []int64
				failing := true // the first time
				o := options(s, r)
				o.Condemn = func(_ context.Context, row outbox.Row, reason string) error {
					if failing {
						failing = false
						return errDown
					}
					if reason != "too large" {
						t.Errorf("the reason is %q", reason)
					}
					condemned = append(condemned, row.Seq)
					return nil
				}
				stop := start(t, o)
				defer stop()
				settle(10 * time.Second)
				same(t, "what was set aside", []int64{7, 20}, condemned)
				same(t, "what is left", nil, s.left())
				got := r.got()
				slices.Sort(got)
				same(t, "what was handed over", slices.DeleteFunc(upTo(19), func(n int64) bool { return n == 7 }), slices.Compact(got))
			})
		})
	}
}

func TestWithoutACondemnFunctionSuchARowStaysAndIsToldOfOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, r := newFakeStore(10), &receiver{}
		r.fail = func(rows []outbox.Row) error {
			for _, row := range rows {
				if row.Seq <= 5 {
					return &outbox.RowError{Seq: row.Seq, Reason: "too large"}
				}
			}
			return nil
		}
		var log bytes.Buffer
		o := options(s, r)
		o.Batch = 2 // less than what is held
		o.Logger = slog.New(slog.NewTextHandler(&log, nil))
		stop := start(t, o)
		defer stop()
		settle(time.Minute)
		s.write(3)
		settle(time.Minute)
		same(t, "what is left", upTo(5), s.left())
		same(t, "what was handed over", upTo(13)[5:], r.got())
		if n := strings.Count(log.String(), "level=ERROR"); n != 5 {
			t.Errorf("%d errors in the log, want 5:\n%s", n, log.String())
		}
	})
}

func TestARowThatAppearsBeforeOthersAlreadyReadIsFound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, r := newFakeStore(0), &receiver{}
		stop := start(t, options(s, r))
		defer stop()
		s.insert(row(2))
		s.signal()
		settle(0)
		s.insert(row(1))
		s.signal()
		settle(time.Second)
		same(t, "what was handed over", []int64{2, 1}, r.got())
		same(t, "what is left", nil, s.left())
	})
}

func TestSuchARowIsFoundWhileTheRelayIsNeverIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, r := newFakeStore(0), &receiver{}
		for seq := int64(2); seq < 12; seq++ {
			s.insert(row(seq))
		}
		s.next = 11
		late := make(chan struct{})
		calls := 0
		r.fail = func(rows []outbox.Row) error {
			time.Sleep(10 * time.Millisecond) // virtual
			if rows[0].Seq == 1 {
				close(late)
			}
			if calls++; calls == 50 {
				s.insert(row(1))
			}
			if calls < 1000 {
				s.write(10)
			}
			return nil
		}
		o := options(s, r)
		o.Batch = 10
		stop := start(t, o)
		defer stop()
		select {
		case <-late:
		case <-time.After(2 * time.Second):
			t.Error("the row was not handed over while others kept coming")
		}
	})
}

func TestMetricsTellLagDepthAndFailures(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, r := newFakeStore(4), &receiver{}
		var up atomic.Bool
		r.fail = func([]outbox.Row) error {
			if !up.Load() {
				return errDown
			}
			return nil
		}
		reg := prometheus.NewPedanticRegistry()
		o := options(s, r)
		o.Metrics = outbox.NewMetrics(reg)
		stop := start(t, o)
		defer stop()
		settle(60 * time.Second)
		want := func(text string) {
			t.Helper()
			if err := testutil.GatherAndCompare(reg, strings.NewReader(text), "millrace_outbox_rows", "millrace_outbox_oldest_seconds", "millrace_outbox_handed_total"); err != nil {
				t.Error(err)
			}
		}
		const head = "# HELP millrace_outbox_handed_total Rows handed over.\n# TYPE millrace_outbox_handed_total counter\n" +
			"millrace_outbox_handed_total{lane=\"bus\"} %d\n" +
			"# HELP millrace_outbox_oldest_seconds Age of the oldest row in the outbox, 0 if there is none.\n# TYPE millrace_outbox_oldest_seconds gauge\n" +
			"millrace_outbox_oldest_seconds{lane=\"bus\"} %d\n" +
			"# HELP millrace_outbox_rows Rows in the outbox, counted up to 100,000.\n# TYPE millrace_outbox_rows gauge\n" +
			"millrace_outbox_rows{lane=\"bus\"} %d\n"
		want(fmt.Sprintf(head, 0, 60, 4))
		up.Store(true)
		settle(20 * time.Second)
		want(fmt.Sprintf(head, 4, 0, 0))
	})
}

func TestWrongOptionsAreRefusedWithWhatIsWrong(t *testing.T) {
	good := options(newFakeStore(0), &receiver{})
	for says, change := range map[string]func(*outbox.RelayOptions){
		"Lane":       func(o *outbox.RelayOptions) { o.Lane = "" },
		"Store":      func(o *outbox.RelayOptions) { o.Store = nil },
		"Deliver":    func(o *outbox.RelayOptions) { o.Deliver = nil },
		"Batch":      func(o *outbox.RelayOptions) { o.Batch = -1 },
		"time":       func(o *outbox.RelayOptions) { o.Poll = -1 },
		"MaxBackoff": func(o *outbox.RelayOptions) { o.MinBackoff = time.Hour },
	} {
		o := good
		change(&o)
		if _, err := outbox.NewRelay(o); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("the error does not speak of %s: %v", says, err)
		}
	}
	if _, err := outbox.NewRelay(good); err != nil {
		t.Errorf("good options were refused: %v", err)
	}
}

// TestEveryRowIsHandedOverAndRemovedOnlyAfterThat has everything fail at random,
// with crashes in between.
func TestEveryRowIsHandedOverAndRemovedOnlyAfterThat(t *testing.T) {
	for seed := range uint64(40) {
		synctest.Test(t, func(t *testing.T) {
			random := rand.New(rand.NewPCG(seed, 1))
			var mu sync.Mutex // guards random and calm
			calm := false
			sometimes := func() error {
				mu.Lock()
				defer mu.Unlock()
				if !calm && random.IntN(4) == 0 {
					return errDown
				}
				return nil
			}
			s, r := newFakeStore(0), &receiver{}
			s.failRead, s.failRm = sometimes, sometimes
			r.fail = func(rows []outbox.Row) error {
				for _, row := range rows {
					if row.Seq%97 == 0 {
						return &outbox.RowError{Seq: row.Seq, Reason: "odd"}
					}
				}
				return sometimes()
			}
			condemned := map[int64]bool{}
			var total int64
			for round := range 6 {
				o := options(s, r)
				o.Batch = 1 + random.IntN(50)
				o.Condemn = func(_ context.Context, row outbox.Row, _ string) error {
					condemned[row.Seq] = true
					return sometimes()
				}
				stop := start(t, o)
				for range 10 {
					mu.Lock()
					n, pause := random.IntN(60), time.Duration(random.IntN(400))*time.Millisecond
					mu.Unlock()
					s.write(n)
					total += int64(n)
					s.signal()
					time.Sleep(pause)
				}
				if round == 5 {
					mu.Lock()
					calm = true
					mu.Unlock()
					settle(time.Minute)
				}
				stop()
				handed := map[int64]bool{}
				for _, seq := range r.got() {
					handed[seq] = true
				}
				left := map[int64]bool{}
				for _, seq := range s.left() {
					left[seq] = true
				}
				for seq := int64(1); seq <= total; seq++ {
					if !left[seq] && !handed[seq] && !condemned[seq] {
						t.Fatalf("seed %d, round %d: row %d was removed before it was handed over", seed, round, seq)
					}
				}
			}
			if left := s.left(); len(left) > 0 {
				t.Fatalf("seed %d: %d rows are left in the end, the first is %d", seed, len(left), left[0])
			}
		})
	}
}
