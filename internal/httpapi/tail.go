package httpapi

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"sync"
	"time"

	"millrace/internal/auth"
	"millrace/internal/event"
)

// tails counts the open live tails.
type tails struct {
	max, perTenant int

	mu    sync.Mutex
	total int
	open  map[string]int // by tenant
}

// enter takes a place for a tail of the tenant, or says why there is none.
func (t *tails) enter(tenant string) *problem {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case t.open[tenant] >= t.perTenant:
		return newProblem(slugTooManyStreams, fmt.Sprintf("the tenant has %d live tails open, which is the most; close one", t.perTenant)).
			after(retryUnavailable)
	case t.total >= t.max:
		return newProblem(slugTooManyStreams, fmt.Sprintf("the server has %d live tails open, which is the most; try again later", t.max)).
			after(retryUnavailable)
	}
	t.total++
	t.open[tenant]++
	return nil
}

func (t *tails) leave(tenant string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.total--
	if t.open[tenant]--; t.open[tenant] == 0 {
		delete(t.open, tenant)
	}
}

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
	s.follow(ctx, end, newStream(ex, s.o.TailWriteTimeout), query, p.ExpiresAt)
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
// flushes, beats and watches for the end.
func (s *Server) follow(ctx context.Context, end context.CancelCauseFunc, st *stream, query event.TailQuery, expires time.Time) {
	var wait sync.WaitGroup
	done := make(chan struct{})
	wait.Go(func() {
		if query.Cursor == "" {
			st.open()
		}
		st.attend(done, s, end, expires)
	})
	err := s.o.Reader.Tail(ctx, query, func(e event.Event, cursor string) error {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return st.event(&e, cursor)
	})
	close(done)
	wait.Wait()
	st.close(ctx, err)
}

// attend serves an open stream until done: it opens it, flushes what was written
// since the last flush, beats when nothing was, and ends it when the server
// drains or the credential expires.
func (st *stream) attend(done <-chan struct{}, s *Server, end context.CancelCauseFunc, expires time.Time) {
	beat := time.NewTicker(s.o.TailHeartbeat)
	defer beat.Stop()
	grace := time.NewTimer(resumeGrace)
	defer grace.Stop()
	var expired <-chan time.Time
	if !expires.IsZero() {
		timer := time.NewTimer(time.Until(expires))
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
			err = st.open()
		case <-st.dirty:
			err = st.flush()
		case <-beat.C:
			err = st.beat()
		}
		if err != nil {
			end(err)
		}
	}
}

// stream writes server-sent events. Its methods are safe for concurrent use.
type stream struct {
	ex      *exchange
	rc      *http.ResponseController
	timeout time.Duration
	dirty   chan struct{} // holds one token while something waits to be flushed

	mu     sync.Mutex
	opened bool
	buf    []byte
	err    error
}

func newStream(ex *exchange, timeout time.Duration) *stream {
	return &stream{ex: ex, rc: http.NewResponseController(ex), timeout: timeout, dirty: make(chan struct{}, 1)}
}

// open sends the header, once. It tells the reader to wait two seconds before it
// reconnects.
func (st *stream) open() error {
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.opened {
		return st.err
	}
	st.begin()
	return st.push()
}

func (st *stream) begin() {
	st.opened = true
	h := st.ex.Header()
	h["Content-Type"] = []string{"text/event-stream"}
	h["X-Accel-Buffering"] = []string{"no"} // proxies must not hold events back
	st.ex.WriteHeader(http.StatusOK)
	st.buf = append(st.buf, "retry: 2000\n\n"...)
}

// event writes one event. It reaches the reader with the next flush, which is
// due at once; while one flush is under way, further events gather for the next.
func (st *stream) event(e *event.Event, cursor string) error {
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.err != nil {
		return st.err
	}
	if !st.opened {
		st.begin()
	}
	st.buf = append(append(append(st.buf, "id: "...), cursor...), "\nevent: event\ndata: "...)
	from := len(st.buf)
	st.buf = appendEvent(st.buf, e)
	oneLine(st.buf[from:])
	st.buf = append(st.buf, "\n\n"...)
	if len(st.buf) >= maxStreamBuffer {
		return st.push() // a slow reader holds the tail up here
	}
	select {
	case st.dirty <- struct{}{}:
	default:
	}
	return nil
}

// maxStreamBuffer is how much may wait for the flush that is under way.
const maxStreamBuffer = 64 << 10

// oneLine makes JSON one line: a raw line end can only stand between tokens.
func oneLine(b []byte) {
	for i, c := range b {
		if c == '\n' || c == '\r' {
			b[i] = ' '
		}
	}
}

func (st *stream) flush() error {
	st.mu.Lock()
	defer st.mu.Unlock()
	if len(st.buf) == 0 {
		return st.err
	}
	return st.push()
}

func (st *stream) beat() error {
	st.mu.Lock()
	defer st.mu.Unlock()
	if !st.opened {
		st.begin()
	}
	st.buf = append(st.buf, ": still here\n\n"...)
	return st.push()
}

// push sends what was written, within the time a reader has. The lock is held.
func (st *stream) push() error {
	if st.err != nil {
		return st.err
	}
	_ = st.rc.SetWriteDeadline(time.Now().Add(st.timeout)) // not every writer has one
	_, st.err = st.ex.Write(st.buf)
	if st.err == nil {
		st.err = st.rc.Flush()
	}
	if cap(st.buf) > 4*maxStreamBuffer {
		st.buf = nil
	}
	st.buf = st.buf[:0]
	return st.err
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
	_ = st.push()
}
