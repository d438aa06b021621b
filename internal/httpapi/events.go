package httpapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"millrace/internal/auth"
	"millrace/internal/event"
)

// storedEvent is an event as the API shows it. It is written by appendEvent; the
// fields are its schema.
type storedEvent struct {
	ID         string          `json:"id" doc:"The caller's id, or the one given on acceptance." example:"0198c5d4-5b1e-7c3a-9f00-1d2e3f405162"`
	Type       string          `json:"type" doc:"What happened." example:"device.reading"`
	Source     string          `json:"source,omitempty" doc:"Who says so." example:"sensors/eu/17"`
	TenantID   string          `json:"tenantId" example:"demo"`
	Timestamp  time.Time       `json:"timestamp" doc:"The caller's time of the event." example:"2026-11-22T08:30:00Z"`
	ReceivedAt time.Time       `json:"receivedAt" doc:"The time of receipt; queries go by it." example:"2026-11-22T08:30:00.041Z"`
	Attributes json.RawMessage `json:"attributes,omitempty" doc:"Envelope members without a field of their own, such as CloudEvents extensions."`
	Payload    json.RawMessage `json:"payload" doc:"The payload as it was sent."`

	event *event.Event
}

func (e storedEvent) writeJSON(w io.Writer) error {
	_, err := w.Write(append(appendEvent(make([]byte, 0, 512+len(e.event.Payload)), e.event), '\n'))
	return err
}

// eventPage is one page of events.
type eventPage struct {
	Events     []storedEvent `json:"events" nullable:"false" doc:"Newest first."`
	NextCursor string        `json:"nextCursor" doc:"Give it as cursor to get the next page; empty on the last."`

	page event.Page
}

// writeJSON writes a page piece by piece, since a page of large events is large.
func (p eventPage) writeJSON(w io.Writer) error {
	const piece = 64 << 10
	buf := append(make([]byte, 0, piece/4), `{"events":[`...)
	for i := range p.page.Events {
		if i > 0 {
			buf = append(buf, ',')
		}
		buf = appendEvent(buf, &p.page.Events[i])
		if len(buf) >= piece {
			if _, err := w.Write(buf); err != nil {
				return err
			}
			buf = buf[:0]
		}
	}
	buf = append(buf, `],"nextCursor":`...)
	buf = appendString(buf, p.page.Next)
	_, err := w.Write(append(buf, '}', '\n'))
	return err
}

// eventStats is counts over time.
type eventStats struct {
	Series []eventSeries `json:"series" nullable:"false" doc:"One per type and currency."`
}

type eventSeries struct {
	Type     string       `json:"type" example:"device.reading"`
	Currency string       `json:"currency,omitempty" doc:"ISO 4217 code of the amounts. Only events that Millrace itself makes, such as those of orders, have one; without it there are no amounts." example:"EUR"`
	Points   []eventPoint `json:"points" nullable:"false" doc:"Oldest first. Steps without events have no point."`
}

type eventPoint struct {
	Time  time.Time `json:"time" doc:"The beginning of the step." example:"2026-11-22T08:30:00Z"`
	Count int64     `json:"count" doc:"Events received in the step." example:"1200"`
	Bytes int64     `json:"bytes" doc:"Bytes of their payloads." example:"576000"`
	// Amount is nil without a currency: 0 is an amount too.
	Amount *int64 `json:"amount,omitempty" doc:"Sum of their amounts in minor units of the series' currency." example:"1999"`
}

const (
	defaultLimit = 50
	maxLimit     = 1000
	// maxPoints bounds the points of one series, and with it the work of a query.
	maxPoints = 10_000
	// maxAllPoints bounds the points of all series of an answer, and with it its
	// size: about eighty bytes a point.
	maxAllPoints = 50_000
	// defaultStatsSpan is how far back statistics go when "from" is not given.
	defaultStatsSpan = time.Hour
)

type eventsInput struct{ params }

type eventsOutput struct{ Body eventPage }

type eventInput struct {
	ID string `path:"id" maxLength:"256" doc:"The event's id." example:"0198c5d4-5b1e-7c3a-9f00-1d2e3f405162"`
	params
}

type eventOutput struct{ Body storedEvent }

type statsOutput struct{ Body eventStats }

func (sf *surface) registerEvents() {
	s := sf.server
	register(sf, huma.Operation{
		OperationID: "listEvents", Metadata: longRead(), Method: http.MethodGet, Path: "/events", Tags: []string{"Events"},
		Summary:     "List events, newest first",
		Description: "By time of receipt. An event appears about a second after it was accepted.",
		Parameters:  []*huma.Param{typeParam(), fromParam(), toParam(), limitParam(), cursorParam()},
	}, auth.ScopeEventsRead, s.listEvents)
	register(sf, huma.Operation{
		OperationID: "getEvent", Method: http.MethodGet, Path: "/events/{id}", Tags: []string{"Events"},
		Summary:     "Show one event",
		Description: "If several sources used the same id, the newest event is shown.",
	}, auth.ScopeEventsRead, s.getEvent)
	register(sf, huma.Operation{
		OperationID: "eventStats", Metadata: longRead(), Method: http.MethodGet, Path: "/events/stats", Tags: []string{"Events"},
		Summary: "Count events over time",
		Description: "Counts and payload bytes by type, by time of receipt, from per-minute rollups; for events about money, such as those of orders, " +
			"by currency too and with the sum of their amounts. Without from the last hour is shown.",
		Parameters: []*huma.Param{typeParam(), fromParam(), toParam(), stepParam()},
	}, auth.ScopeEventsRead, s.eventStats)
}

func (s *Server) listEvents(ctx context.Context, in *eventsInput) (*eventsOutput, error) {
	q := in.reader()
	query := event.Query{TenantID: principalFrom(ctx).TenantID, Type: q.text("type", event.MaxTypeBytes)}
	query.From, query.To = q.span()
	query.Limit = q.number("limit", defaultLimit, 1, maxLimit)
	query.Cursor = q.text("cursor", maxCursorBytes)
	if err := q.err(); err != nil {
		return nil, err
	}
	page, err := s.o.Reader.Events(ctx, query)
	if err != nil {
		return nil, err
	}
	return &eventsOutput{Body: eventPage{page: page}}, nil
}

func (s *Server) getEvent(ctx context.Context, in *eventInput) (*eventOutput, error) {
	if err := in.reader().err(); err != nil {
		return nil, err
	}
	e, err := s.o.Reader.Event(ctx, principalFrom(ctx).TenantID, in.ID)
	if err != nil {
		return nil, err
	}
	return &eventOutput{Body: storedEvent{event: &e}}, nil
}

func (s *Server) eventStats(ctx context.Context, in *eventsInput) (*statsOutput, error) {
	q := in.reader()
	query := event.StatsQuery{TenantID: principalFrom(ctx).TenantID, Type: q.text("type", event.MaxTypeBytes)}
	query.From, query.To = q.span()
	query.Step = q.minutes("step", time.Minute, time.Minute, 24*time.Hour)
	if query.To.IsZero() {
		query.To = s.o.Now().UTC()
	}
	if query.From.IsZero() {
		query.From = query.To.Add(-defaultStatsSpan)
	}
	if points := query.To.Sub(query.From) / query.Step; points > maxPoints {
		q.wrong("step", "makes %d points; use a longer step or a shorter range, for at most %d points", points, maxPoints)
	} else if !query.From.Before(query.To) && len(q.errs) == 0 {
		q.wrong("from", "is in the future; give a time before now, or a later \"to\"")
	}
	if err := q.err(); err != nil {
		return nil, err
	}
	query.MaxPoints = maxAllPoints
	series, err := s.o.Reader.Stats(ctx, query)
	if errors.Is(err, event.ErrTooManyPoints) {
		return nil, invalidParameter("type", fmt.Sprintf("is not given, and all types together have more than %d points; name a type, use a longer step or a shorter range", maxAllPoints))
	}
	if err != nil {
		return nil, fmt.Errorf("reading the rollups: %w", err)
	}
	out := &statsOutput{Body: eventStats{Series: make([]eventSeries, len(series))}}
	for i, sr := range series {
		points := make([]eventPoint, len(sr.Points))
		for j, p := range sr.Points {
			points[j] = eventPoint{Time: p.Time.UTC(), Count: p.Count, Bytes: p.Bytes}
			if sr.Currency != "" {
				points[j].Amount = &sr.Points[j].Amount
			}
		}
		out.Body.Series[i] = eventSeries{Type: sr.Type, Currency: sr.Currency, Points: points}
	}
	return out, nil
}
