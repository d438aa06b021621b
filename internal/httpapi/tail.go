package httpapi

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"sync"
	"time"

	"millrace/internal/auth"
	"millrace/internal/event"
)

// Ways a tail ends that are nobody's fault.
var (
	errDraining = errors.New("the server is shutting down")
	errExpired  = errors.New("the credential has expired")
)

// getTail streams a tenant's events as they become queryable.
func (sf *surface) getTail(ctx context.Context, ex *exchange, r *http.Request) {
	s := sf.server
	p, refused := sf.authorize(ctx, ex, r, auth.ScopeEventsRead)
	if refused != nil {
		ex.refuse(refused)
		return
	}
	query, refused := tailQuery(r, p.TenantID)
	if refused != nil {
		ex.refuse(refused)
		return
	}
	if r.Method == http.MethodHead {
		// There is nothing to stream: the header is all of the answer.
		streamHeader(ex)
		return
	}
	select {
	case <-s.drained:
		ex.refuse(newProblem("shutting-down", errDraining.Error()+"; connect again to another instance").after(time.Second))
		return
	default:
	}
	if refused := s.tails.enter(p.TenantID); refused != nil {
		ex.refuse(refused)
		return
	}
	s.metrics.streams.Inc()
	defer func() {
		s.metrics.streams.Dec()
		s.tails.leave(p.TenantID)
	}()
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	st := newStream(ex, s.o.TailWriteTimeout)
	st.expires, st.recheck = p.ExpiresAt, func() error { return sf.recheck(ctx, r) }
	s.follow(ctx, end, st, query)
}

// recheck says whether the credential of an open tail would still open one. That
// it cannot be told now ends nothing.
func (sf *surface) recheck(ctx context.Context, r *http.Request) error {
	ctx, cancel := context.WithTimeout(ctx, sf.server.o.TailWriteTimeout)
	defer cancel()
	p, refused := sf.identify(ctx, r)
	switch {
	case refused != nil && refused.Status == http.StatusUnauthorized:
		return refused
	case refused == nil && !p.Has(auth.ScopeEventsRead):
		return scopeMissing(p, auth.ScopeEventsRead)
	}
	return nil
}

// tailQuery reads what the caller wants to follow. A browser that reconnects
// sends the last id it saw as a header, which then goes before the parameter.
func tailQuery(r *http.Request, tenant string) (event.TailQuery, *problem) {
	values, err := url.ParseQuery(r.URL.RawQuery)
	in := params{values: values, err: err}
	q := in.reader()
	query := event.TailQuery{TenantID: tenant, Type: q.text("type", event.MaxTypeBytes), Cursor: q.text("cursor", maxCursorBytes)}
	if err := q.err(); err != nil {
		return query, problemOf(r.Context(), err)
	}
	if last := r.Header.Get("Last-Event-ID"); last != "" {
		if len(last) > maxCursorBytes {
			return query, newProblem(slugInvalidParameter, "the header Last-Event-ID is not one this server gave; begin again without it")
		}
		query.Cursor = last
	}
	return query, nil
}

// resumeGrace is how long a tail that resumes waits for its first event, or for
// the reader to refuse the cursor, before it commits to a 200.
const resumeGrace = 200 * time.Millisecond

// follow runs a tail: the reader yields events in this goroutine, and another one
// does all the writing until the tail ends.
func (s *Server) follow(ctx context.Context, end context.CancelCauseFunc, st *stream, query event.TailQuery) {
	var wait sync.WaitGroup
	done := make(chan struct{})
	wait.Go(func() {
		if query.Cursor == "" {
			if err := st.flush(open); err != nil {
				end(err)
			}
		}
		st.attend(done, s, end)
	})
	err := s.o.Reader.Tail(ctx, query, func(e event.Event, cursor string) error {
		return st.event(ctx, &e, cursor)
	})
	close(done)
	wait.Wait()
	st.close(ctx, err)
}

// attend serves a stream until done: it opens it, sends what was written since it
// last did, beats, and ends the tail when the server drains, the credential
// expires or is revoked, or the reader is gone.
func (st *stream) attend(done <-chan struct{}, s *Server, end context.CancelCauseFunc) {
	beat := time.NewTicker(s.o.TailHeartbeat)
	defer beat.Stop()
	grace := time.NewTimer(resumeGrace)
	defer grace.Stop()
	var expired <-chan time.Time
	if !st.expires.IsZero() {
		timer := time.NewTimer(time.Until(st.expires))
		defer timer.Stop()
		expired = timer.C
	}
	drained := s.drained
	for {
		var err error
		select {
		case <-done:
			return
		case <-drained:
			end(errDraining)
			drained = nil
		case <-expired:
			end(errExpired)
			expired = nil
		case <-grace.C:
			err = st.flush(open)
		case <-st.dirty:
			err = st.flush("")
		case <-beat.C:
			if err = st.recheck(); err == nil {
				err = st.flush(heartbeat)
			}
		}
		if err != nil {
			end(err)
		}
	}
}

const (
	// open tells the reader to wait two seconds before it reconnects.
	open      = "retry: 2000\n\n"
	heartbeat = ": still here\n\n"
	// maxStreamBuffer is how much may gather while a flush is under way; then the
	// tail waits, which costs nothing but its place.
	maxStreamBuffer = 64 << 10
)

// stream writes server-sent events. One goroutine at a time flushes; event may be
// called from another.
type stream struct {
	ex      *exchange
	rc      *http.ResponseController
	timeout time.Duration
	expires time.Time     // when the credential does; zero for never
	recheck func() error  // says why the credential is no longer good
	dirty   chan struct{} // holds a token while something waits to be flushed
	room    chan struct{} // holds a token after a flush

	// What only the flushing goroutine touches.
	opened bool
	spare  []byte
	err    error // how writing failed

	mu  sync.Mutex
	buf []byte
}

func newStream(ex *exchange, timeout time.Duration) *stream {
	return &stream{ex: ex, rc: http.NewResponseController(ex), timeout: timeout,
		dirty: make(chan struct{}, 1), room: make(chan struct{}, 1)}
}

// event adds one event. It is sent with the next flush, which is due at once;
// what comes while one is under way gathers for the next.
func (st *stream) event(ctx context.Context, e *event.Event, cursor string) error {
	for {
		st.mu.Lock()
		if len(st.buf) < maxStreamBuffer {
			break
		}
		st.mu.Unlock()
		select {
		case <-st.room:
		case <-ctx.Done():
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
	defer st.mu.Unlock()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	st.buf = append(append(append(st.buf, "id: "...), cursor...), "\nevent: event\ndata: "...)
	from := len(st.buf)
	st.buf = appendEvent(st.buf, e)
	oneLine(st.buf[from:])
	st.buf = append(st.buf, "\n\n"...)
	token(st.dirty)
	return nil
}

// token leaves a token in a channel that holds one.
func token(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// oneLine makes JSON one line: a raw line end can only stand between tokens.
func oneLine(b []byte) {
	for i, c := range b {
		if c == '\n' || c == '\r' {
			b[i] = ' '
		}
	}
}

// flush sends what has gathered, and text of its own before it, within the time a
// reader has. The first flush opens the stream.
func (st *stream) flush(text string) error {
	if st.err != nil {
		return st.err
	}
	if text == open && st.opened {
		return nil
	}
	st.mu.Lock()
	events := st.buf
	st.buf = st.spare[:0]
	st.mu.Unlock()
	defer token(st.room)
	if !st.opened {
		st.begin()
		text = open
	}
	_ = st.rc.SetWriteDeadline(time.Now().Add(st.timeout)) // not every writer has one
	if text != "" {
		_, st.err = st.ex.Write([]byte(text))
	}
	if st.err == nil && len(events) > 0 {
		_, st.err = st.ex.Write(events)
	}
	if st.err == nil {
		st.err = st.rc.Flush()
	}
	if st.err == nil {
		// HTTP/2 resets a stream whose deadline passes even if nothing waits to be
		// written.
		_ = st.rc.SetWriteDeadline(time.Time{})
	}
	st.spare = events
	if cap(events) > 4*maxStreamBuffer {
		st.spare = nil // an event that large is rare
	}
	return st.err
}

// begin sends the header.
func (st *stream) begin() {
	st.opened = true
	streamHeader(st.ex)
}

func streamHeader(ex *exchange) {
	h := ex.Header()
	h["Content-Type"] = []string{"text/event-stream"}
	h["X-Accel-Buffering"] = []string{"no"} // proxies must not hold events back
	ex.WriteHeader(http.StatusOK)
}

// close ends a stream and says why: as a problem if nothing was sent yet, else
// as a last event of its own.
func (st *stream) close(ctx context.Context, err error) {
	if err == nil || ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	var p *problem
	switch {
	case err == nil, errors.Is(err, errDraining):
		p = newProblem("shutting-down", errDraining.Error()+"; connect again with the last id").after(time.Second)
	case errors.Is(err, errExpired):
		p = unauthenticated(auth.CodeTokenExpired, errExpired.Error()+"; connect again with a new one and the last id")
	case st.err != nil, errors.Is(err, context.Canceled):
		st.ex.cause = context.Canceled // the reader went away: nobody is left to tell
		return
	default:
		p = problemOf(ctx, err)
	}
	if !st.opened {
		st.ex.refuse(p)
		return
	}
	st.ex.note(p)
	st.buf = append(st.buf, "event: end\ndata: "...)
	st.buf = append(p.appendJSON(st.buf), '\n')
	_ = st.flush("")
}
