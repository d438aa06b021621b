package httpapi

import (
	"context"
	"net/http"
	"strconv"
	"strings"
	"time"

	"millrace/internal/auth"
	"millrace/internal/order"
)

// maxStatusWait bounds how long a request may wait for an order to change.
const maxStatusWait = time.Minute

// getOrderStatus tells where an order stands, and can wait for it to change: with
// If-None-Match for any change of that version, without it for the end.
func (sf *surface) getOrderStatus(ctx context.Context, ex *exchange, r *http.Request) {
	s := sf.server
	p, refused := sf.permit(ctx, ex, r, orderReaders)
	if refused != nil {
		ex.refuse(refused)
		return
	}
	q := queryOf(r)
	wait := q.wait("wait", maxStatusWait)
	if err := q.err(); err != nil {
		ex.refuse(problemOf(ctx, err))
		return
	}
	if r.Method == http.MethodHead {
		wait = 0
	}
	known := r.Header["If-None-Match"]
	view, err := s.statusOf(ctx, ex, p, r.PathValue("id"), known, wait)
	if err != nil {
		ex.refuse(problemOf(ctx, err))
		return
	}
	o, h := &view.Order, ex.Header()
	if status := s.staleStatus(ex.route.path, view.Stale, view.Age); status != "" {
		h["Cache-Status"] = []string{status}
	}
	h["Etag"] = []string{versionTag(o.Version)}
	h["Cache-Control"] = valueNoCache
	h["Vary"] = valueVaryCredential
	if matches(known, versionTag(o.Version)) {
		ex.WriteHeader(http.StatusNotModified)
		return
	}
	buf := s.answers.Get().(*[]byte)
	*buf = appendStatus((*buf)[:0], o)
	ex.answer(http.StatusOK, *buf)
	s.answers.Put(buf)
}

// valueVaryCredential says that a read tells each caller something else.
var valueVaryCredential = []string{"Authorization, X-Api-Key"}

// valueNoCache lets the caller keep an answer that it must ask about every time.
var valueNoCache = []string{"private, no-cache"}

// statusOf returns an order, after it changed or as it stands when the wait is
// over. Who waits is told what the store has, who does not what a cache may have.
func (s *Server) statusOf(ctx context.Context, ex *exchange, p *auth.Principal, id string, known []string, wait time.Duration) (order.View, error) {
	v := viewerOf(p)
	if wait == 0 {
		ctx, cancel := context.WithTimeout(ctx, s.o.QueryTimeout)
		defer cancel()
		return s.o.Orders.Cached(ctx, v, id)
	}
	var version int64
	switch e, ok := readETag(strings.Join(known, ",")); {
	case ok && known[0] == versionTag(e.version):
		version = e.version
	case len(known) > 0: // a list, or *: what stands now is what it is about
		o, err := s.o.Orders.Order(ctx, v, id)
		if err != nil || !matches(known, versionTag(o.Version)) {
			return order.View{Order: o}, err
		}
		version = o.Version
	}
	if v.CustomerID != "" {
		buyer := v.TenantID + "\x00" + v.CustomerID
		if refused := s.buyers.enter(buyer); refused != nil {
			return order.View{}, refused
		}
		defer s.buyers.leave(buyer)
	}
	if refused := s.waits.enter(p.TenantID); refused != nil {
		return order.View{}, refused
	}
	defer s.waits.leave(p.TenantID)
	if !p.ExpiresAt.IsZero() {
		wait = max(min(wait, time.Until(p.ExpiresAt)), time.Millisecond)
	}
	// The bound on the answer's time does not know of the wait.
	_ = http.NewResponseController(ex).SetWriteDeadline(time.Now().Add(wait + s.o.WriteTimeout)) // not every writer has one
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() { // ends with ctx, which is cancelled above
		select {
		case <-s.drained:
			cancel()
		case <-ctx.Done():
		}
	}()
	o, err := s.o.Orders.WaitStatus(ctx, v, id, version, wait)
	return order.View{Order: o}, err
}

// appendStatus appends where an order stands.
func appendStatus(b []byte, o *order.Order) []byte {
	b = append(b, `{"id":`...)
	b = appendString(b, o.ID)
	b = append(b, `,"status":`...)
	b = appendString(b, string(o.Status))
	b = append(b, `,"version":`...)
	b = strconv.AppendInt(b, o.Version, 10)
	b = append(b, `,"updatedAt":`...)
	b = appendTime(b, o.UpdatedAt)
	if o.Parked() {
		b = append(b, `,"parked":true`...)
	}
	return append(b, '}', '\n')
}
