package load

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/cespare/xxhash/v2"
)

// pageSize is the most events the server gives in one page.
const pageSize = "1000"

// maxPageBytes bounds an answer in memory.
const maxPageBytes = 512 << 20

// storedEvent is an event as the server shows it.
type storedEvent struct {
	ID         string          `json:"id"`
	Type       string          `json:"type"`
	Source     string          `json:"source"`
	Timestamp  time.Time       `json:"timestamp"`
	ReceivedAt time.Time       `json:"receivedAt"`
	Payload    json.RawMessage `json:"payload"`
}

// reader asks the server for events. It is safe for concurrent use.
type reader struct {
	base    *url.URL // …/events
	token   string
	timeout time.Duration
	client  *http.Client
}

func (r *reader) close() { r.client.CloseIdleConnections() }

// busyFor bounds how long a read is tried again that the server refuses for now.
const busyFor = 30 * time.Second

// get decodes the answer to a GET into v. It returns false for a 404. What is
// refused for now is tried again for a while.
func (r *reader) get(parent context.Context, u *url.URL, v any) (bool, error) {
	for began := time.Now(); ; {
		status, retryAfter, err := r.once(parent, u, v)
		switch {
		case status == http.StatusNotFound:
			return false, nil
		case err == nil:
			return true, nil
		case status != http.StatusTooManyRequests && status != http.StatusServiceUnavailable:
			return false, err
		}
		delay := max(retryAfter, 50*time.Millisecond)
		if time.Since(began)+delay > busyFor || !wait(parent, delay) {
			return false, err
		}
	}
}

// once makes one attempt. The error is nil for 200 alone; the status is 0 if there
// was no answer.
func (r *reader) once(parent context.Context, u *url.URL, v any) (status int, retryAfter time.Duration, err error) {
	ctx, cancel := context.WithTimeout(parent, r.timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return 0, 0, err
	}
	if r.token != "" {
		req.Header.Set("Authorization", "Bearer "+r.token)
	}
	resp, err := r.client.Do(req)
	if err != nil {
		return 0, 0, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxPageBytes))
	if err != nil {
		return 0, 0, fmt.Errorf("GET %s: %w", u.Redacted(), err)
	}
	if resp.StatusCode != http.StatusOK {
		err := fmt.Errorf("GET %s: %s", u.Redacted(), explain(answer{status: resp.StatusCode, body: body}))
		return resp.StatusCode, parseRetryAfter(resp.Header.Get("Retry-After"), time.Now()), err
	}
	if err := json.Unmarshal(body, v); err != nil {
		return http.StatusOK, 0, fmt.Errorf("GET %s: the answer is not what it should be: %w", u.Redacted(), err)
	}
	return http.StatusOK, 0, nil
}

// event asks for one event by id.
func (r *reader) event(ctx context.Context, id idBytes) (e storedEvent, found bool, err error) {
	found, err = r.get(ctx, r.base.JoinPath(id.String()), &e)
	return e, found, err
}

// walk calls visit with each page of the events received in [from, to).
func (r *reader) walk(ctx context.Context, from, to time.Time, visit func([]storedEvent)) error {
	q := url.Values{"from": {stamp(from)}, "to": {stamp(to)}, "limit": {pageSize}}
	for {
		u := *r.base
		u.RawQuery = q.Encode()
		var page struct {
			Events     []storedEvent `json:"events"`
			NextCursor string        `json:"nextCursor"`
		}
		if ok, err := r.get(ctx, &u, &page); err != nil {
			return err
		} else if !ok {
			return fmt.Errorf("GET %s: 404; is this a Millrace server?", u.Redacted())
		}
		visit(page.Events)
		if page.NextCursor == "" {
			return nil
		}
		if page.NextCursor == q.Get("cursor") {
			return fmt.Errorf("GET %s: the next cursor is the same again", u.Redacted())
		}
		q.Set("cursor", page.NextCursor)
	}
}

// stats returns the number of events and their payload bytes by type.
func (r *reader) stats(ctx context.Context, from, to time.Time, step time.Duration) (map[string]*typeCount, error) {
	u := *r.base.JoinPath("stats")
	u.RawQuery = url.Values{"from": {stamp(from)}, "to": {stamp(to)}, "step": {fmt.Sprintf("%dm", int(step/time.Minute))}}.Encode()
	var answer struct {
		Series []struct {
			Type   string `json:"type"`
			Points []struct {
				Count int64 `json:"count"`
				Bytes int64 `json:"bytes"`
			} `json:"points"`
		} `json:"series"`
	}
	if ok, err := r.get(ctx, &u, &answer); err != nil {
		return nil, err
	} else if !ok {
		return nil, fmt.Errorf("GET %s: 404; is this a Millrace server?", u.Redacted())
	}
	out := map[string]*typeCount{}
	for _, s := range answer.Series {
		c := out[s.Type]
		if c == nil {
			c = &typeCount{}
			out[s.Type] = c
		}
		for _, p := range s.Points {
			c.count += p.Count
			c.bytes += p.Bytes
		}
	}
	return out, nil
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339Nano) }

// check notes a page of walked events.
func (v *verifier) check(page []storedEvent) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, e := range page {
		v.report.Walked++
		typ := v.rows[e.Type]
		if typ == nil {
			typ = &typeCount{}
			v.rows[strings.Clone(e.Type)] = typ
		}
		typ.count++
		id, err := parseID([]byte(e.ID))
		i, known := v.set.index[id]
		if err != nil || !known {
			typ.bytes += int64(len(e.Payload))
			v.stranger(e)
			continue
		}
		sent := &v.set.events[i]
		typ.bytes += int64(v.set.payloads[sent.payload].Bytes)
		if sent.seen < 255 {
			sent.seen++
		}
		why, rewritten := v.difference(id, *sent, e)
		if why != "" {
			v.report.Changed++
			v.example("%s: %s", id, why)
		} else if rewritten {
			v.report.Rewritten++
		}
	}
}

// stranger notes an event that is not in the file, if it came during the run.
func (v *verifier) stranger(e storedEvent) {
	if e.ReceivedAt.Before(v.set.started) || (!v.set.ended.IsZero() && e.ReceivedAt.After(v.set.ended)) {
		return
	}
	v.report.Strangers++
	if !v.o.Shared {
		v.example("%s (%s, received %s) is not in the file; if other clients sent events at the same time, say so with --exclusive=false", clip([]byte(e.ID), 64), clip([]byte(e.Type), 64), stamp(e.ReceivedAt))
	}
}

// difference says how an event differs from what was sent, and whether its
// payload is only written differently.
func (v *verifier) difference(id idBytes, known ackedEvent, e storedEvent) (why string, rewritten bool) {
	p := v.set.payloads[known.payload]
	switch {
	case e.Type != p.Type:
		return fmt.Sprintf("the type was %q and is %q", p.Type, clip([]byte(e.Type), 64)), false
	case e.Source != p.Source:
		return fmt.Sprintf("the source was %q and is %q", p.Source, clip([]byte(e.Source), 64)), false
	case !e.Timestamp.Equal(id.time()):
		return fmt.Sprintf("the timestamp was %s and is %s", stamp(id.time()), stamp(e.Timestamp)), false
	case hashHex(xxhash.Sum64(e.Payload)) == p.Hash:
		return "", false
	}
	if m, err := meaningOf(e.Payload); err != nil || hashHex(m) != p.Meaning {
		return fmt.Sprintf("the payload is another one: %s", clip(e.Payload, 80)), false
	}
	return "", true
}
