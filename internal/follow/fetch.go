package follow

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// job is one page of a scope's changes to be read and applied.
type job struct {
	scope               string
	after, polled, told int64 // the scope's mark and what was known when it began
	unreadable          bool  // some rows are
}

// result is what became of a job.
type result[R any] struct {
	job
	last    int64 // the last change that was applied
	more    bool  // there are more
	failed  []R   // rows that could not be applied
	problem error // why the first of them could not
	err     error // why there was nothing to apply
	// unreadable are the names of rows that are, readable of those that are not, if there
	// were unreadable ones before.
	unreadable, readable []string
}

// fetchNext starts reading scopes that are behind, as many as may be read at once.
func (r *run[R]) fetchNext(ctx context.Context) {
	for r.fetching < fetchers && !r.reload {
		name, s, ok := r.board.next()
		if !ok {
			return
		}
		j := job{scope: name, after: s.mark, polled: s.polled, told: s.told, unreadable: r.unreadable.len() > 0}
		r.fetching++
		r.work.Go(func() { r.results <- r.fetch(ctx, j) })
	}
}

// fetch reads and applies one page. It runs in a goroutine of its own.
func (f *Follower[R]) fetch(ctx context.Context, j job) result[R] {
	res := result[R]{job: j, last: j.after}
	var rows []R
	res.err = safely(func() (err error) {
		ctx, cancel := context.WithTimeout(ctx, f.o.ChangesTimeout)
		defer cancel()
		rows, res.more, err = f.o.Source.Changes(ctx, j.scope, j.after, pageRows)
		return err
	})
	if res.err != nil || len(rows) == 0 && !res.more {
		return res
	}
	for i := range rows {
		res.last = max(res.last, f.o.Change(&rows[i]))
	}
	if res.last <= j.after {
		res.err = fmt.Errorf("the source gave %d rows that are not newer than what was asked for", len(rows))
		return res
	}
	res.failed, res.problem = f.apply(rows)
	res.unreadable = f.namesOf(rows, true)
	if j.unreadable {
		res.readable = f.namesOf(rows, false)
	}
	if f.o.At != nil && res.problem == nil {
		f.measure(rows, j.told)
	}
	return res
}

// apply gives rows to the index. Of rows that make it panic it returns those that do
// so alone; the others are applied.
func (f *Follower[R]) apply(rows []R) (failed []R, problem error) {
	all := func() error { f.o.Apply(rows); return nil }
	if safely(all) == nil {
		return nil, nil
	}
	for i := range rows {
		one := func() error { f.o.Apply(rows[i : i+1]); return nil }
		if err := safely(one); err != nil {
			failed = append(failed, rows[i])
			if problem == nil {
				problem = err
			}
		}
	}
	return failed, problem
}

// measure observes how late rows are, and counts those that nobody told of.
func (f *Follower[R]) measure(rows []R, told int64) {
	now := f.o.Now()
	healed := 0
	for i := range rows {
		age := now.Sub(f.o.At(&rows[i]))
		f.metrics.lagSeconds.Observe(max(age, 0).Seconds()) // clocks may differ
		if f.o.Change(&rows[i]) > told && age > healedAfter {
			healed++
		}
	}
	f.metrics.healed.Add(float64(healed))
}

// fetched notes what became of a job.
func (r *run[R]) fetched(res result[R]) {
	r.fetching--
	if res.err != nil {
		first := r.board.failed(res.scope, r.o.Now().Add(r.o.PollEvery/2))
		if first && !errors.Is(res.err, context.Canceled) {
			r.log.Warn("changes could not be read; polls try again until they can", "scope", res.scope, "after", res.after, "error", res.err)
		}
		return
	}
	if len(res.failed) > 0 {
		r.log.Error("changes could not be applied by a fault of this program; they are tried again, please report it",
			"scope", res.scope, "rows", len(res.failed), "change", r.o.Change(&res.failed[0]), "error", res.problem)
		r.setFailed(append(r.failed, res.failed...))
	}
	r.noteUnreadable(res)
	r.board.done(res.scope, res.last, res.polled, res.told, res.more)
	r.noteComplete()
}

// noteUnreadable notes which of the rows can be read.
func (r *run[R]) noteUnreadable(res result[R]) {
	if mended := r.unreadable.remove(res.readable...); len(mended) > 0 {
		r.log.Info("rows that could not be read can be", "rows", len(mended), "first", mended[:min(len(mended), namedInLog)])
	}
	r.logUnreadable(r.unreadable.add(res.unreadable...))
	r.setFailed(r.failed)
}

// retryFailed applies again what could not be applied. A newer change may have made
// it void, or a passing fault is over.
func (r *run[R]) retryFailed() {
	if len(r.failed) == 0 {
		return
	}
	failed, _ := r.apply(r.failed)
	if len(failed) == 0 {
		r.log.Info("changes that could not be applied are applied", "rows", len(r.failed))
	}
	r.setFailed(failed)
}

func (r *run[R]) setFailed(rows []R) {
	if len(rows) > maxFailedRows {
		rows, r.lost = rows[:maxFailedRows], true
	}
	r.failed = rows
	r.metrics.failedRows.Set(float64(len(rows) + r.unreadable.len()))
}

// staleAfter is from when on an index counts as out of date: two polls were missed.
func (o *Options[R]) staleAfter() time.Duration { return 2*o.PollEvery + o.PollEvery/4 }
