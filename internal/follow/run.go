package follow

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"time"
)

// reloadPause is the least time between two loads because a number went back: of
// two databases that answer in turn, neither is worth a load at every poll.
const reloadPause = 10 * time.Second

// Run loads the index, trying again while the database is away, and follows until
// ctx ends; then it returns nil. It may be called once.
func (f *Follower[R]) Run(ctx context.Context) error {
	if !f.running.CompareAndSwap(false, true) {
		return errors.New("a follower runs once; make another")
	}
	var beside sync.WaitGroup
	defer beside.Wait()
	if f.o.Peers != nil {
		beside.Go(func() { f.listen(ctx) })
		beside.Go(func() { f.send(ctx) })
	}
	loaded, err := f.firstLoad(ctx)
	if err != nil {
		return nil // ctx ended
	}
	r := &run[R]{Follower: f, board: newBoard(), epoch: loaded.epoch, unreadable: loaded.unreadable, results: make(chan result[R], fetchers), polls: make(chan pollResult, 1), timer: time.NewTimer(0)}
	r.board.reset(loaded.versions)
	r.setFailed(nil)
	f.complete.Store(loaded.began.UnixNano())
	f.loaded.Store(true)
	f.metrics.loaded.Set(1)
	r.loop(ctx)
	return nil
}

// run is what a running Follower has. It belongs to the goroutine of Run.
type run[R any] struct {
	*Follower[R]
	board *board
	epoch string      // of the database that was loaded
	timer *time.Timer // of the next poll

	work     sync.WaitGroup  // the goroutines that read
	fetching int             // how many of them read changes
	results  chan result[R]  // what they read
	polling  bool            // one reads the versions
	again    bool            // and is to do so again when it has
	polls    chan pollResult // what it read
	away     time.Time       // since when polls fail

	failed []R // rows that could not be applied
	// unreadable are rows of which nothing can be shown.
	unreadable *unreadable
	lost       bool // there were too many of them: only a load brings them back
	// reload says that everything is to be loaded again when nothing is being read;
	// not before nextReload.
	reload     bool
	nextReload time.Time
}

func (r *run[R]) loop(ctx context.Context) {
	defer r.work.Wait()
	defer r.timer.Stop()
	for ctx.Err() == nil {
		if r.reload && r.fetching == 0 && !r.polling {
			r.loadAgain(ctx)
		}
		r.fetchNext(ctx)
		select {
		case <-ctx.Done():
		case <-r.heard.wake:
			r.takeHints(ctx)
		case res := <-r.results:
			r.fetched(res)
		case p := <-r.polls:
			r.polled(ctx, p)
		case <-r.timer.C:
			r.poll(ctx)
		}
	}
}

// takeHints notes what was told of. When too much was, a poll finds it.
func (r *run[R]) takeHints(ctx context.Context) {
	changes, overflow := r.heard.take()
	now := r.o.Now()
	for scope, change := range changes {
		r.board.hint(scope, change, now)
	}
	if overflow {
		r.poll(ctx)
	}
}

// poll starts reading the versions of all scopes, or has that done again when it is
// under way.
func (r *run[R]) poll(ctx context.Context) {
	if r.polling || r.reload {
		r.again = true
		return
	}
	r.polling, r.again = true, false
	r.board.polls++
	r.work.Go(func() {
		s, err := r.state(ctx)
		r.polls <- pollResult{s, err}
	})
}

// pollResult is what a poll read.
type pollResult struct {
	state
	err error
}

func (r *run[R]) polled(ctx context.Context, p pollResult) {
	r.polling = false
	r.timer.Reset(r.pause())
	switch {
	case ctx.Err() != nil:
		return
	case p.err != nil:
		r.metrics.pollsFailed.Inc()
		if r.away.IsZero() {
			r.away = p.began
			r.log.Warn("the database cannot be asked for changes; reads go on with what is known", "error", p.err)
		}
		return
	case !r.away.IsZero():
		r.log.Info("the database can be asked for changes again", "after", r.o.Now().Sub(r.away).Round(time.Millisecond))
		r.away = time.Time{}
	}
	r.retryFailed()
	if p.epoch != r.epoch { // its numbers mean nothing here
		r.metrics.pollsBack.Inc()
		r.wentBack("was", r.epoch, "is", p.epoch)
		return
	}
	if scope, back := r.board.poll(p.versions, p.began); back {
		r.metrics.pollsBack.Inc()
		r.wentBack("scope", scope)
		return
	}
	r.metrics.pollsOK.Inc()
	r.noteComplete()
	if r.lost && !r.o.Now().Before(r.nextReload) {
		r.reload = true
	}
	if r.again {
		r.poll(ctx)
	}
}

// pause is the time until the next poll: instances that were started together do not
// stay together.
func (r *run[R]) pause() time.Duration {
	tenth := r.o.PollEvery / 10
	return r.o.PollEvery - tenth + rand.N(2*tenth+1)
}

// noteComplete notes up to when everything that polls saw is in the index.
func (r *run[R]) noteComplete() {
	if at, ok := r.board.completed(); ok && len(r.failed) == 0 && !r.lost {
		r.complete.Store(at.UnixNano())
	}
}

// wentBack has everything loaded again; why are attributes for the log.
func (r *run[R]) wentBack(why ...any) {
	if r.o.Now().Before(r.nextReload) {
		return // the next poll finds it again
	}
	r.log.Warn("the database is not the one it was: it was restored, or another took over, which may lack the last changes; everything is loaded again", why...)
	r.reload = true
}

// loadAgain replaces all that is in the index. If it cannot, what is there stays,
// and the next poll finds again why it should.
func (r *run[R]) loadAgain(ctx context.Context) {
	r.reload = false
	loaded, err := r.load(ctx)
	r.nextReload = r.o.Now().Add(reloadPause)
	r.timer.Reset(0)
	if err != nil {
		if ctx.Err() == nil {
			r.logLoadFailure(err, reloadPause)
		}
		return
	}
	r.board.reset(loaded.versions)
	r.epoch, r.unreadable = loaded.epoch, loaded.unreadable
	r.setFailed(nil)
	r.lost = false
	r.complete.Store(loaded.began.UnixNano())
}
