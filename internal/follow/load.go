package follow

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"
)

// state is what a source says of itself at one moment.
type state struct {
	versions map[string]int64
	epoch    string
	began    time.Time // when it was asked
	// unreadable are rows of the load.
	unreadable *unreadable
}

// load reads everything once and returns the state of which it has all changes.
func (f *Follower[R]) load(ctx context.Context) (state, error) {
	ctx, cancel := context.WithTimeout(ctx, f.o.LoadTimeout)
	defer cancel()
	f.loading.Store(0)
	s, err := f.state(ctx)
	if err != nil {
		return s, err
	}
	s.unreadable = newUnreadable()
	stop := f.progress(ctx, s.began)
	defer stop()
	err = safely(func() error {
		return f.o.Load(func(add func([]R)) error { return f.feed(ctx, add, s.unreadable) })
	})
	if err != nil {
		return s, fmt.Errorf("after %d rows: %w", f.loading.Load(), err)
	}
	took := f.o.Now().Sub(s.began)
	f.metrics.loadSeconds.Set(took.Seconds())
	f.log.Info("index loaded", "records", f.loading.Load(), "scopes", len(s.versions), "took", took.Round(time.Millisecond))
	f.logUnreadable(slices.Collect(maps.Keys(s.unreadable.names)))
	return s, nil
}

// feed reads the pages in one goroutine and gives them to the index in several, as
// many as there are processors; few wait in between.
func (f *Follower[R]) feed(ctx context.Context, add func([]R), bad *unreadable) error {
	workers := runtime.GOMAXPROCS(0)
	pages := make(chan []R, workers)
	g, ctx := errgroup.WithContext(ctx)
	for range workers {
		g.Go(func() error {
			return safely(func() error {
				for page := range pages {
					add(page)
					bad.add(f.namesOf(page, true)...)
					f.loading.Add(int64(len(page)))
				}
				return nil
			})
		})
	}
	g.Go(func() error {
		defer close(pages)
		return safely(func() error {
			return f.o.Source.Load(ctx, func(page []R) error {
				select {
				case pages <- page:
					return nil
				case <-ctx.Done():
					return context.Cause(ctx)
				}
			})
		})
	})
	return g.Wait()
}

// progress writes to the log how far the load is, until it is stopped.
func (f *Follower[R]) progress(ctx context.Context, began time.Time) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		ticker := time.NewTicker(progressEvery)
		defer ticker.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-ticker.C:
				f.log.Info("loading the index", "records", f.loading.Load(), "for", f.o.Now().Sub(began).Round(time.Millisecond))
			}
		}
	}()
	return func() { cancel(); <-done }
}

// state asks the source for the numbers of changes.
func (f *Follower[R]) state(ctx context.Context) (state, error) {
	s := state{began: f.o.Now()}
	ctx, cancel := context.WithTimeout(ctx, f.o.CallTimeout)
	defer cancel()
	err := safely(func() (err error) {
		s.versions, s.epoch, err = f.o.Source.Versions(ctx)
		return err
	})
	if err != nil {
		return s, fmt.Errorf("read the numbers of changes: %w", err)
	}
	return s, nil
}

// firstLoad loads until it succeeds; it returns an error only if ctx ends.
func (f *Follower[R]) firstLoad(ctx context.Context) (state, error) {
	for failures := 0; ; failures++ {
		s, err := f.load(ctx)
		if err == nil {
			return s, nil
		}
		if ctx.Err() != nil {
			return s, ctx.Err()
		}
		f.failing.Store(true)
		wait := backoff(failures)
		f.logLoadFailure(err, wait)
		rest(ctx, wait)
		f.failing.Store(false)
	}
}

func (f *Follower[R]) logLoadFailure(err error, wait time.Duration) {
	if p := (*panicError)(nil); errors.As(err, &p) {
		f.log.Error("loading the index failed by a fault of this program; it is tried again, please report it", "error", err, "in", wait.Round(time.Millisecond))
		return
	}
	f.log.Warn("loading the index failed; it is tried again", "error", err, "in", wait.Round(time.Millisecond))
}
