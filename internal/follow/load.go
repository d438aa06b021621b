package follow

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"time"

	"golang.org/x/sync/errgroup"
)

// load reads everything once and returns the changes up to which it has.
func (f *Follower[R]) load(ctx context.Context) (versions map[string]int64, began time.Time, err error) {
	ctx, cancel := context.WithTimeout(ctx, f.o.LoadTimeout)
	defer cancel()
	began = f.o.Now()
	f.loading.Store(0)
	if versions, err = f.versions(ctx); err != nil {
		return nil, began, err
	}
	stop := f.progress(ctx, began)
	defer stop()
	err = safely(func() error {
		return f.o.Load(func(add func([]R)) error { return f.feed(ctx, add) })
	})
	if err != nil {
		return nil, began, fmt.Errorf("after %d rows: %w", f.loading.Load(), err)
	}
	took := f.o.Now().Sub(began)
	f.metrics.loadSeconds.Set(took.Seconds())
	f.log.Info("index loaded", "records", f.loading.Load(), "scopes", len(versions), "took", took.Round(time.Millisecond))
	return versions, began, nil
}

// feed reads the pages in one goroutine and gives them to the index in several, as
// many as there are processors; few wait in between.
func (f *Follower[R]) feed(ctx context.Context, add func([]R)) error {
	workers := runtime.GOMAXPROCS(0)
	pages := make(chan []R, workers)
	g, ctx := errgroup.WithContext(ctx)
	for range workers {
		g.Go(func() error {
			return safely(func() error {
				for page := range pages {
					add(page)
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

// versions asks the source for the numbers of changes.
func (f *Follower[R]) versions(ctx context.Context) (versions map[string]int64, err error) {
	ctx, cancel := context.WithTimeout(ctx, f.o.CallTimeout)
	defer cancel()
	err = safely(func() error {
		versions, err = f.o.Source.Versions(ctx)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read the numbers of changes: %w", err)
	}
	return versions, nil
}

// firstLoad loads until it succeeds; it returns an error only if ctx ends.
func (f *Follower[R]) firstLoad(ctx context.Context) (versions map[string]int64, began time.Time, err error) {
	for failures := 0; ; failures++ {
		versions, began, err = f.load(ctx)
		if err == nil {
			return versions, began, nil
		}
		if ctx.Err() != nil {
			return nil, began, ctx.Err()
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
