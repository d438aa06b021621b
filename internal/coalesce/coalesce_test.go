package coalesce_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"millrace/internal/coalesce"
)

func noPanic[T any](t testing.TB) func([]T, *coalesce.PanicError) {
	return func(_ []T, cause *coalesce.PanicError) { t.Error(cause) }
}

// gate is a flush function that records batches and waits for leave to go on.
type gate struct {
	began   chan []int
	proceed chan struct{}
}

func newGate() *gate { return &gate{began: make(chan []int), proceed: make(chan struct{})} }

func (g *gate) flush(items []int) {
	g.began <- slices.Clone(items)
	<-g.proceed
}

func TestTheNextBatchFormsWhileOneIsFlushed(t *testing.T) {
	g := newGate()
	c := coalesce.New(coalesce.Options{MaxBatchWeight: 10, MaxQueuedWeight: 100}, g.flush, noPanic[int](t))
	add := func(item int, weight int64) {
		t.Helper()
		if err := c.Add(item, weight); err != nil {
			t.Fatal(err)
		}
	}
	add(1, 1)
	got := [][]int{<-g.began}
	for i := 2; i <= 5; i++ {
		add(i, 4)
	}
	add(6, 25) // more than a batch: alone
	add(7, 1)
	if q := c.Queued(); q != 1+4*4+25+1 {
		t.Errorf("queued %d", q)
	}
	for range 4 {
		g.proceed <- struct{}{}
		got = append(got, <-g.began)
	}
	g.proceed <- struct{}{}
	c.Close()
	want := [][]int{{1}, {2, 3}, {4, 5}, {6}, {7}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if q := c.Queued(); q != 0 {
		t.Errorf("%d are still queued after Close", q)
	}
}

func TestAFullQueueRefusesAtOnceAndAnEmptyOneTakesAnything(t *testing.T) {
	g := newGate()
	c := coalesce.New(coalesce.Options{MaxBatchWeight: 5, MaxQueuedWeight: 10}, g.flush, noPanic[int](t))
	if err := c.Add(1, 50); err != nil {
		t.Fatalf("an item larger than the queue was refused by an empty one: %v", err)
	}
	<-g.began
	if err := c.Add(2, 1); !errors.Is(err, coalesce.ErrFull) {
		t.Fatalf("want ErrFull while the large item is being flushed, got %v", err)
	}
	g.proceed <- struct{}{}
	// Queued falls after the flush; Add answers ErrFull until then.
	for errors.Is(c.Add(3, 10), coalesce.ErrFull) {
	}
	<-g.began
	if err := c.Add(4, 1); !errors.Is(err, coalesce.ErrFull) {
		t.Fatalf("want ErrFull, got %v", err)
	}
	g.proceed <- struct{}{}
	c.Close()
	if err := c.Add(5, 1); !errors.Is(err, coalesce.ErrClosed) {
		t.Fatalf("want ErrClosed, got %v", err)
	}
	c.Close() // twice is fine
}

func TestEveryItemIsFlushedOnceInTheOrderOfItsCaller(t *testing.T) {
	const callers, each = 16, 2000
	var got []int
	c := coalesce.New(coalesce.Options{MaxBatchWeight: 7, MaxQueuedWeight: 1 << 20}, func(items []int) {
		if len(items) == 0 || len(items) > 7 {
			t.Errorf("a batch of %d", len(items))
		}
		got = append(got, items...)
	}, noPanic[int](t))
	var wg sync.WaitGroup
	for caller := range callers {
		wg.Go(func() {
			for i := range each {
				if err := c.Add(caller*each+i, 1); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	c.Close()
	next := map[int]int{}
	for _, item := range got {
		caller, i := item/each, item%each
		if next[caller] != i {
			t.Fatalf("caller %d: item %d came instead of %d", caller, i, next[caller])
		}
		next[caller]++
	}
	if len(got) != callers*each {
		t.Errorf("%d items of %d were flushed", len(got), callers*each)
	}
}

func TestAPanicIsHandedOverAndTheNextBatchGoesOn(t *testing.T) {
	cause := errors.New("broken")
	panicked := make(chan []int, 1)
	flushed := make(chan []int, 1)
	c := coalesce.New(coalesce.Options{MaxBatchWeight: 1, MaxQueuedWeight: 10}, func(items []int) {
		if items[0] == 1 {
			panic(cause)
		}
		flushed <- slices.Clone(items)
	}, func(items []int, err *coalesce.PanicError) {
		if !errors.Is(err, cause) || len(err.Stack) == 0 {
			t.Errorf("the panic error is %v", err)
		}
		panicked <- slices.Clone(items)
	})
	defer c.Close()
	for i := 1; i <= 2; i++ {
		if err := c.Add(i, 1); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff([][]int{{1}, {2}}, [][]int{<-panicked, <-flushed}); diff != "" {
		t.Error(diff)
	}
}

func TestEachCallerGetsItsOwnAnswer(t *testing.T) {
	odd := errors.New("odd")
	c := coalesce.NewCaller(coalesce.Options{MaxBatchWeight: 64, MaxQueuedWeight: 1000}, func(calls []*coalesce.Call[int, string]) {
		for _, call := range calls {
			if call.Out = fmt.Sprint(call.In); call.In%2 == 1 {
				call.Err = odd
			}
		}
	})
	defer c.Close()
	var wg sync.WaitGroup
	for i := range 500 {
		wg.Go(func() {
			out, err := c.Do(t.Context(), i, 1)
			if out != fmt.Sprint(i) || errors.Is(err, odd) != (i%2 == 1) {
				t.Errorf("%d: %q, %v", i, out, err)
			}
		})
	}
	wg.Wait()
}

func TestACancelledCallerLeavesAlone(t *testing.T) {
	began, proceed := make(chan []int), make(chan struct{})
	c := coalesce.NewCaller(coalesce.Options{MaxBatchWeight: 10, MaxQueuedWeight: 10}, func(calls []*coalesce.Call[int, int]) {
		var in []int
		for _, call := range calls {
			in = append(in, call.In)
			call.Out = -call.In
		}
		began <- in
		<-proceed
	})
	type answer struct {
		out int
		err error
	}
	do := func(ctx context.Context, in int) <-chan answer {
		done := make(chan answer, 1)
		go func() {
			out, err := c.Do(ctx, in, 1)
			done <- answer{out, err}
		}()
		return done
	}
	running, cancelRunning := context.WithCancelCause(t.Context())
	queued, cancelQueued := context.WithCancel(t.Context())
	why := errors.New("the buyer left")

	first := do(running, 1)
	<-began
	second := do(queued, 2)
	for c.Queued() < 2 {
	}
	third := do(t.Context(), 3)
	for c.Queued() < 3 {
	}
	cancelRunning(why)
	if a := <-first; !errors.Is(a.err, coalesce.ErrAbandoned) || !errors.Is(a.err, why) {
		t.Errorf("the caller who left during its flush got %v", a.err)
	}
	cancelQueued()
	if a := <-second; !errors.Is(a.err, coalesce.ErrWithdrawn) || !errors.Is(a.err, context.Canceled) {
		t.Errorf("the caller who left before its flush got %v", a.err)
	}
	proceed <- struct{}{}
	if diff := cmp.Diff([]int{3}, <-began); diff != "" {
		t.Errorf("the next batch still has the caller who left: %s", diff)
	}
	proceed <- struct{}{}
	if a := <-third; a.err != nil || a.out != -3 {
		t.Errorf("the caller who stayed got %+v", a)
	}
	c.Close()
	if _, err := c.Do(t.Context(), 4, 1); !errors.Is(err, coalesce.ErrClosed) {
		t.Errorf("want ErrClosed, got %v", err)
	}
}

func TestAPanicAnswersEveryCallerOfTheBatch(t *testing.T) {
	var panics atomic.Int32
	c := coalesce.NewCaller(coalesce.Options{MaxBatchWeight: 4, MaxQueuedWeight: 1000}, func(calls []*coalesce.Call[int, int]) {
		for i, call := range calls {
			call.Out = call.In
			if i == 1 {
				panics.Add(1)
				panic("half way")
			}
		}
	})
	defer c.Close()
	var wg sync.WaitGroup
	for i := range 200 {
		wg.Go(func() {
			out, err := c.Do(t.Context(), i, 1)
			var cause *coalesce.PanicError
			if err != nil && !errors.As(err, &cause) {
				t.Errorf("%d: %v", i, err)
			}
			if err == nil && out != i {
				t.Errorf("%d: %d", i, out)
			}
		})
	}
	wg.Wait()
	t.Logf("%d flushes panicked", panics.Load())
}

func TestAddAllocatesNothingInSteadyState(t *testing.T) {
	flushed := make(chan struct{}, 1)
	c := coalesce.New(coalesce.Options{MaxBatchWeight: 8, MaxQueuedWeight: 100}, func([]int) { flushed <- struct{}{} }, noPanic[int](t))
	defer c.Close()
	got := testing.AllocsPerRun(1000, func() {
		_ = c.Add(1, 1)
		<-flushed
	})
	if got != 0 {
		t.Errorf("%v allocations per item", got)
	}
}

func BenchmarkAdd(b *testing.B) {
	c := coalesce.New(coalesce.Options{MaxBatchWeight: 1000, MaxQueuedWeight: 1 << 40}, func([]*int) {}, noPanic[*int](b))
	item := new(int)
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if err := c.Add(item, 1); err != nil {
				b.Error(err)
			}
		}
	})
	c.Close()
}

func TestWhoHasAnAnswerFindsRoomForTheNextItem(t *testing.T) {
	c := coalesce.NewCaller(coalesce.Options{MaxBatchWeight: 10, MaxQueuedWeight: 10}, func(calls []*coalesce.Call[int, int]) {
		if calls[0].In%10 == 9 {
			panic("every tenth")
		}
	})
	defer c.Close()
	for i := range 5000 {
		_, err := c.Do(t.Context(), i, 8)
		var panicked *coalesce.PanicError
		if errors.As(err, &panicked) != (i%10 == 9) || errors.Is(err, coalesce.ErrFull) {
			t.Fatalf("call %d of a lone caller: %v", i, err)
		}
	}
	if q := c.Queued(); q != 0 {
		t.Errorf("nobody waits, and %d is queued", q)
	}
}

func TestWhoWaitsToTheEndLeavesOnlyBeforeItsFlush(t *testing.T) {
	began, proceed := make(chan struct{}), make(chan struct{})
	c := coalesce.NewCaller(coalesce.Options{MaxBatchWeight: 1, MaxQueuedWeight: 10}, func(calls []*coalesce.Call[int, int]) {
		began <- struct{}{}
		<-proceed
		calls[0].Out = -calls[0].In
	})
	defer c.Close()
	type answer struct {
		out int
		err error
	}
	ask := func(ctx context.Context, in int, to chan answer) {
		out, err := c.DoToEnd(ctx, in, 1)
		to <- answer{out, err}
	}
	first, second := make(chan answer, 1), make(chan answer, 1)
	ctx, cancel := context.WithCancel(t.Context())
	go ask(ctx, 1, first)
	<-began
	go ask(ctx, 2, second)
	cancel()
	if a := <-second; !errors.Is(a.err, coalesce.ErrWithdrawn) || !errors.Is(a.err, context.Canceled) {
		t.Errorf("who had not begun: %v", a.err)
	}
	select {
	case a := <-first:
		t.Fatalf("who had begun was let go with %v", a)
	default:
	}
	proceed <- struct{}{}
	if a := <-first; a.out != -1 || a.err != nil {
		t.Errorf("who had begun: %+v", a)
	}
}

func TestFlushesAreSpacedUntilItIsClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var began []time.Duration
		var batches [][]int
		start := time.Now()
		c := coalesce.New(coalesce.Options{MaxBatchWeight: 10, MaxQueuedWeight: 100, MinInterval: 5 * time.Second}, func(items []int) {
			began = append(began, time.Since(start))
			batches = append(batches, slices.Clone(items))
		}, noPanic[int](t))
		add := func(item int) {
			if err := c.Add(item, 1); err != nil {
				t.Error(err)
			}
			synctest.Wait()
		}
		add(1) // alone: at once
		time.Sleep(time.Second)
		add(2)
		add(3)
		time.Sleep(time.Minute)
		for i := range 11 {
			add(10 + i) // the first after a pause: at once; then a full batch: at once too
		}
		time.Sleep(time.Minute)
		add(4)
		add(5)
		c.Close() // waits for nothing
		if diff := cmp.Diff([][]int{{1}, {2, 3}, {10}, {11, 12, 13, 14, 15, 16, 17, 18, 19, 20}, {4}, {5}}, batches); diff != "" {
			t.Error(diff)
		}
		if diff := cmp.Diff([]time.Duration{0, 5 * time.Second, 61 * time.Second, 61 * time.Second, 121 * time.Second, 121 * time.Second}, began); diff != "" {
			t.Error(diff)
		}
	})
}
