// Package follow keeps what is in memory the same as the database: it loads it at
// the start, follows the changes that this instance and others write, and finds by
// itself what nobody told it.
//
// Pattern: the database numbers the changes of each scope (a tenant's catalogue,
// all places) in the order in which they become visible. A Follower remembers up to
// which number it has applied each scope, its mark, and asks for what is newer when
// it has a reason: an own write (Wrote), a broadcast of another instance, or the
// poll, which reads the numbers of all scopes every PollEvery. Broadcasts carry
// numbers and no data, so that one that is lost, doubled, late or out of order costs
// time at most, and an instance that cannot hear the others is late by one poll.
//
// Marks begin with the numbers read before the load, so that what is written during
// it is followed afterwards. A number that is lower than the mark, or another epoch,
// means that the database is not the one it was (it was restored from a backup, or a
// standby that may lack the last changes took over); then everything is loaded again.
// Only the epoch tells that where as much was written since as had been lost.
//
// Concurrency: one goroutine (Run) owns the marks and decides; a few others read
// the database for it, one at a time per scope and one page at a time, so that a
// slow scope or a large import does not hold up the rest. A further one sends what
// was written here, many scopes in one message. Every queue is bounded: what does
// not fit is replaced by a poll, here or at the others.
//
// Failure: a database that is away is asked again at every poll; Since says how long
// the index may lack changes. A row whose Apply panics is told of in the log, tried
// again at every poll, and keeps Since growing until it succeeds; the other rows are
// applied. A row that the source cannot read is told of in the log and counted as
// failed until somebody has written it again; the index lacks nothing that could be
// shown.
package follow

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"sync/atomic"
	"time"
)

// Bounds of a follower that are nobody's choice.
const (
	fetchers      = 4                      // scopes that are read at a time
	pageRows      = 1000                   // asked for at once
	maxHints      = 10_000                 // scopes that may wait in a mailbox
	maxFailedRows = 1000                   // rows that could not be applied and are tried again
	minBackoff    = 100 * time.Millisecond // between attempts to load or to listen
	maxBackoff    = 10 * time.Second
	progressEvery = time.Second            // of a load, in the log
	healedAfter   = 200 * time.Millisecond // a row younger than that may have a broadcast on its way
)

// Source is where the data lies and how its changes are numbered. It is safe for
// concurrent use.
type Source[R any] interface {
	// Versions returns the number of the last change of each scope that ever had one, and
	// an epoch: which database they are of. After a failover or when a backup was restored
	// the epoch is another one, and numbers may be of other changes than before. A source
	// that never is replaced has one epoch, which may be empty.
	Versions(ctx context.Context) (versions map[string]int64, epoch string, err error)
	// Load calls each with all rows of all scopes, in pages that the callee may keep.
	// It may do so from several goroutines. An error of each ends it and is returned.
	Load(ctx context.Context, each func([]R) error) error
	// Changes returns the rows of a scope whose change is more than after, in the order
	// of change and in one consistent view, without cutting a change in two, and whether
	// there are more than those. About limit rows are enough, and fewer if they are large:
	// all of them must be read within ChangesTimeout.
	Changes(ctx context.Context, scope string, after int64, limit int) (rows []R, more bool, err error)
}

// Peers are the other instances. A message may get lost or come twice, late and in
// any order, and may come back to who sent it.
type Peers interface {
	// Send tells all of them.
	Send(ctx context.Context, data []byte) error
	// Listen has h called with what others send, until stop. ctx bounds the call only.
	// h does not block; it may be called from several goroutines at once, and must not
	// be given data that is changed later while it runs.
	Listen(ctx context.Context, h func(data []byte)) (stop func(), err error)
}

// Options are what a Follower is made of. Name, Source, Load, Apply and Change are
// required, and Instance if there are Peers.
type Options[R any] struct {
	// Name is what is followed, in logs and metrics: "catalog".
	Name   string
	Source Source[R]
	Peers  Peers // nil: there are no others
	// Instance is this one's name among its peers, by which it knows its own messages.
	Instance string

	// Load gives all rows to the index: it calls feed once with a function that takes
	// pages, from several goroutines at once. It is called again if the first time
	// failed or the database went back: then what it is fed replaces all that is
	// there, older or not, when it returns without an error; own writes of that time
	// that the index was told of stay.
	Load func(feed func(add func([]R)) error) error
	// Apply gives changed rows to the index, which leaves out those it has newer. It is
	// called from several goroutines at once with rows of different scopes, and may be
	// given rows that it had before.
	Apply func(rows []R)
	// Change is the number of the row's change in its scope.
	Change func(*R) int64
	// At is when the row was written, for the lag; nil: the lag is not measured.
	At func(*R) time.Time

	// Unreadable says of a row that the source could not read what is in it; the index
	// shows nobody such a row. Called names a row for the log: "product X of tenant Y".
	// Nil: there are no such rows.
	Unreadable func(*R) bool
	Called     func(*R) string

	// PollEvery is how often the numbers of all scopes are read, a tenth more or less;
	// 2 s if zero.
	PollEvery time.Duration
	// LoadTimeout bounds one load, 5 min if zero; ChangesTimeout one call of
	// Source.Changes, 30 s if zero; CallTimeout any other call of Source or Peers, 5 s if
	// zero. One change cannot be read in parts, and is as large as what may be written at
	// once: 250 products of 0.9 MB are 225 MB, for which 5 s are too few over a network
	// that others use as well.
	LoadTimeout, ChangesTimeout, CallTimeout time.Duration

	Metrics *Metrics         // unregistered if nil
	Logger  *slog.Logger     // discard if nil
	Now     func() time.Time // time.Now if nil
}

func (o Options[R]) withDefaults() (Options[R], error) {
	var faults []error
	fault := func(wrong bool, what string) {
		if wrong {
			faults = append(faults, errors.New(what))
		}
	}
	fault(o.Name == "", "Name is required")
	fault(o.Source == nil, "Source is required")
	fault(o.Load == nil, "Load is required")
	fault(o.Apply == nil, "Apply is required")
	fault(o.Change == nil, "Change is required")
	fault((o.Unreadable == nil) != (o.Called == nil), "Unreadable and Called go together")
	fault(o.Peers != nil && o.Instance == "", "Instance is required with Peers")
	fault(len(o.Instance) > maxNameBytes, fmt.Sprintf("Instance has %d bytes, it may have %d", len(o.Instance), maxNameBytes))
	fault(o.PollEvery < 0 || o.LoadTimeout < 0 || o.ChangesTimeout < 0 || o.CallTimeout < 0, "no time may be negative")
	for _, d := range []struct {
		of        *time.Duration
		byDefault time.Duration
	}{{&o.PollEvery, 2 * time.Second}, {&o.LoadTimeout, 5 * time.Minute}, {&o.ChangesTimeout, 30 * time.Second}, {&o.CallTimeout, 5 * time.Second}} {
		if *d.of == 0 {
			*d.of = d.byDefault
		}
	}
	if o.Metrics == nil {
		o.Metrics = NewMetrics(nil)
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if len(faults) > 0 {
		return o, fmt.Errorf("the options of a follower are wrong: %w", errors.Join(faults...))
	}
	return o, nil
}

// Follower keeps one index up to date. Its methods are safe for concurrent use.
type Follower[R any] struct {
	o       Options[R]
	log     *slog.Logger
	metrics followerMetrics

	running  atomic.Bool
	loaded   atomic.Bool
	loading  atomic.Int64 // rows of the load that is under way
	failing  atomic.Bool  // the last attempt to load failed
	complete atomic.Int64 // when the index was last known to be complete, Unix ns; 0: never

	heard *mailbox // changes to follow here
	told  *mailbox // changes to tell the others
}

// New makes a Follower, which does nothing until Run.
func New[R any](o Options[R]) (*Follower[R], error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	f := &Follower[R]{o: o, log: o.Logger.With("index", o.Name), metrics: o.Metrics.of(o.Name),
		heard: newMailbox(maxHints), told: newMailbox(maxHints)}
	f.metrics.loaded.Set(0)
	o.Metrics.stale.watch(o.Name, f.Since)
	return f, nil
}

// Ready is nil once the index is loaded; before it says how far it is, in words that
// may be shown to anybody.
func (f *Follower[R]) Ready() error {
	switch n := f.loading.Load(); {
	case f.loaded.Load():
		return nil
	case f.failing.Load():
		return errors.New("loading failed and is tried again; the log says why")
	default:
		return fmt.Errorf("loading: %s records", thousands(n))
	}
}

// Wrote tells of an own write that the database has committed and that the index
// was given: it is followed here too, in case that more was written, and the others
// are told. It never blocks. A change of 0 is none.
func (f *Follower[R]) Wrote(scope string, change int64) {
	if change <= 0 {
		return
	}
	f.heard.put(scope, change)
	if f.o.Peers != nil {
		f.told.put(scope, change)
	}
}

// Since says for how long the index may lack changes: how long ago it was last known
// to be complete. It is 0 while all is well, which allows for two polls, and before
// the first load.
func (f *Follower[R]) Since() time.Duration {
	at := f.complete.Load()
	if at == 0 {
		return 0
	}
	since := f.o.Now().Sub(time.Unix(0, at))
	if since <= f.o.staleAfter() {
		return 0
	}
	return since
}

// thousands writes a number with commas, as people read it.
func thousands(n int64) string {
	s := strconv.FormatInt(n, 10)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}
