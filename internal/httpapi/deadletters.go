package httpapi

import (
	"context"
	"encoding/base64"
	"errors"
	"net/http"
	"time"
	"unicode/utf8"

	"github.com/danielgtaylor/huma/v2"

	"millrace/internal/auth"
	"millrace/internal/deadletter"
	"millrace/internal/event"
)

// deadLetter is a dead letter as the API shows it.
type deadLetter struct {
	ID              string     `json:"id" example:"5f0c7d1e-8a52-5f6b-9c51-0d9be1c7a2f4"`
	Kind            string     `json:"kind" enum:"event,body,webhook,order,delivery,message" doc:"What it was: an event that was refused, a body without events, a webhook that came in, an order whose work failed too often, a webhook that nobody took, or a message that could not be handled."`
	Reason          string     `json:"reason" doc:"What was wrong and what would mend it." example:"\"type\" is missing: give each event a \"type\""`
	ReceivedAt      time.Time  `json:"receivedAt" example:"2026-11-22T08:30:00.041Z"`
	Attempts        int        `json:"attempts" doc:"How often it was tried, the first time included." example:"1"`
	LastAttemptAt   *time.Time `json:"lastAttemptAt,omitempty" doc:"When it was last redriven."`
	Type            string     `json:"type,omitempty" doc:"The event's type as far as it could be read."`
	Source          string     `json:"source,omitempty"`
	EventID         string     `json:"eventId,omitempty" doc:"The event's id as far as it could be read."`
	BatchID         string     `json:"batchId,omitempty"`
	ContentType     string     `json:"contentType,omitempty" doc:"How the payload is written."`
	Payload         string     `json:"payload" doc:"The thing itself as it was received." example:"{\"id\":\"17\"}"`
	PayloadEncoding string     `json:"payloadEncoding" enum:"utf-8,base64" doc:"How payload is to be read: base64 when it is not valid UTF-8."`
	Truncated       bool       `json:"truncated,omitempty" doc:"Only the beginning was kept: a redrive needs a replacement."`
}

func showLetter(l *deadletter.Letter) deadLetter {
	d := deadLetter{
		ID: l.ID, Kind: string(l.Kind), Reason: l.Reason, ReceivedAt: l.ReceivedAt.UTC(), Attempts: l.Attempts,
		Type: l.Type, Source: l.Source, EventID: l.EventID, BatchID: l.BatchID, ContentType: l.ContentType, Truncated: l.Truncated,
	}
	d.LastAttemptAt = optionalTime(l.LastAttemptAt)
	if utf8.Valid(l.Payload) {
		d.Payload, d.PayloadEncoding = string(l.Payload), "utf-8"
	} else {
		d.Payload, d.PayloadEncoding = base64.StdEncoding.EncodeToString(l.Payload), "base64"
	}
	return d
}

type deadLetterPage struct {
	DeadLetters []deadLetter `json:"deadLetters" nullable:"false" doc:"Newest first."`
	NextCursor  string       `json:"nextCursor" doc:"Give it as cursor to get the next page; empty on the last."`
}

// redriveSummary says what became of a redrive by filter.
type redriveSummary struct {
	Redriven int  `json:"redriven" doc:"Letters that are events now." example:"40"`
	Failed   int  `json:"failed" doc:"Letters that were refused again, and stay." example:"2"`
	More     bool `json:"more" doc:"Letters beyond the limit match too: ask again."`
}

type deleteSummary struct {
	Deleted int  `json:"deleted" doc:"Letters that are gone." example:"42"`
	More    bool `json:"more" doc:"Letters beyond the limit match too: ask again."`
}

type redriven struct {
	ID       string `json:"id" doc:"The letter, which is gone now." example:"5f0c7d1e-8a52-5f6b-9c51-0d9be1c7a2f4"`
	Redriven bool   `json:"redriven" doc:"Always true: a refusal is answered 422."`
}

type letterInput struct {
	ID string `path:"id" maxLength:"64" doc:"The dead letter's id." example:"5f0c7d1e-8a52-5f6b-9c51-0d9be1c7a2f4"`
	params
}

type (
	filterInput      struct{ params }
	letterOutput     struct{ Body deadLetter }
	letterPageOutput struct{ Body deadLetterPage }
	redrivenOutput   struct{ Body redriven }
	redriveAllOutput struct{ Body redriveSummary }
	deleteAllOutput  struct{ Body deleteSummary }
	noContentOutput  struct{}
)

const (
	defaultBulk = 1000
	maxBulk     = 10_000
)

func (sf *surface) registerDeadLetters() {
	s, tags := sf.server, []string{"Dead letters"}
	filter := func() []*huma.Param { return []*huma.Param{kindParam(), typeParam(), fromParam(), toParam()} }
	register(sf, huma.Operation{
		OperationID: "listDeadLetters", Metadata: longRead(), Method: http.MethodGet, Path: "/dead-letters", Tags: tags,
		Summary: "List dead letters, newest first", Description: "What could not be processed, with the reason, as it was received.",
		Parameters: append(filter(), limitParam(), cursorParam()),
	}, auth.ScopeDeadLettersRead, s.listDeadLetters)
	register(sf, huma.Operation{
		OperationID: "getDeadLetter", Method: http.MethodGet, Path: "/dead-letters/{id}", Tags: tags,
		Summary: "Show one dead letter",
	}, auth.ScopeDeadLettersRead, s.getDeadLetter)
	register(sf, huma.Operation{
		OperationID: "redriveDeadLetter", Method: http.MethodPost, Path: "/dead-letters/{id}/redrive", Tags: tags,
		Summary: "Redrive one dead letter",
		Description: "Puts it back on its road as if it came now. A body, if there is one, goes in place of what the letter holds: " +
			"send the mended event, or for a letter of kind body a whole body, such as [{\"type\":\"a\"}], and for one of kind webhook the mended delivery. " +
			"A body needs the scope events:write too, since it makes new events. Repeating a redrive has no second effect.",
		SkipValidateBody: true, // the domain judges it
		RequestBody: &huma.RequestBody{Description: "The event, body or delivery to put in its place.", Content: map[string]*huma.MediaType{
			"application/json": {Schema: &huma.Schema{}, Example: exampleEvents()[0]}}},
	}, auth.ScopeDeadLettersWrite, s.redriveDeadLetter)
	register(sf, huma.Operation{
		OperationID: "redriveDeadLetters", Method: http.MethodPost, Path: "/dead-letters/redrive", Tags: tags,
		Summary: "Redrive dead letters by filter", Description: "Newest first. Without a filter all of the tenant's letters match.",
		Parameters: append(filter(), bulkParam()),
	}, auth.ScopeDeadLettersWrite, s.redriveDeadLetters)
	register(sf, huma.Operation{
		OperationID: "deleteDeadLetter", Method: http.MethodDelete, Path: "/dead-letters/{id}", Tags: tags,
		Summary: "Delete one dead letter", DefaultStatus: http.StatusNoContent,
	}, auth.ScopeDeadLettersWrite, s.deleteDeadLetter)
	register(sf, huma.Operation{
		OperationID: "deleteDeadLetters", Method: http.MethodDelete, Path: "/dead-letters", Tags: tags,
		Summary: "Delete dead letters by filter", Description: "At least one of kind, type, from and to is required.",
		Parameters: append(filter(), bulkParam()),
	}, auth.ScopeDeadLettersWrite, s.deleteDeadLetters)
}

// letterKinds are the kinds there are.
var letterKinds = []string{string(deadletter.KindEvent), string(deadletter.KindBody), string(deadletter.KindWebhook),
	string(deadletter.KindOrder), string(deadletter.KindDelivery), string(deadletter.KindMessage)}

// readFilter reads the parameters that select letters.
func readFilter(ctx context.Context, q *paramReader) deadletter.Filter {
	f := deadletter.Filter{TenantID: principalFrom(ctx).TenantID}
	f.Kind = deadletter.Kind(q.oneOf("kind", letterKinds...))
	f.Type = q.text("type", event.MaxTypeBytes)
	f.From, f.To = q.span()
	return f
}

func (s *Server) listDeadLetters(ctx context.Context, in *filterInput) (*letterPageOutput, error) {
	q := in.reader()
	f := readFilter(ctx, q)
	limit := q.number("limit", defaultLimit, 1, maxLimit)
	cursor := q.text("cursor", maxCursorBytes)
	if err := q.err(); err != nil {
		return nil, err
	}
	letters, next, err := s.o.DeadLetters.List(ctx, f, limit, cursor)
	if err != nil {
		return nil, err
	}
	out := &letterPageOutput{Body: deadLetterPage{DeadLetters: make([]deadLetter, len(letters)), NextCursor: next}}
	for i := range letters {
		out.Body.DeadLetters[i] = showLetter(&letters[i])
	}
	return out, nil
}

func (s *Server) getDeadLetter(ctx context.Context, in *letterInput) (*letterOutput, error) {
	if err := in.reader().err(); err != nil {
		return nil, err
	}
	l, err := s.o.DeadLetters.Get(ctx, principalFrom(ctx).TenantID, in.ID)
	if err != nil {
		return nil, err
	}
	return &letterOutput{Body: showLetter(&l)}, nil
}

func (s *Server) redriveDeadLetter(ctx context.Context, in *letterInput) (*redrivenOutput, error) {
	if err := in.reader().err(); err != nil {
		return nil, err
	}
	p, replacement := principalFrom(ctx), bodyFrom(ctx)
	if len(replacement) > 0 && !p.Has(auth.ScopeEventsWrite) {
		return nil, scopeMissing(p, auth.ScopeEventsWrite)
	}
	if err := s.mayRedrive(p.TenantID); err != nil {
		return nil, err
	}
	_, err := s.o.DeadLetters.Redrive(ctx, p.TenantID, in.ID, replacement, actorFrom(ctx))
	var rejected *deadletter.RejectedError
	if err == nil || errors.As(err, &rejected) {
		s.payRedrive(p.TenantID, 1)
	}
	if err != nil {
		return nil, err
	}
	return &redrivenOutput{Body: redriven{ID: in.ID, Redriven: true}}, nil
}

// mayRedrive says whether the tenant is within its rate, which a redrive counts
// against as if its events came now.
func (s *Server) mayRedrive(tenant string) error {
	if s.o.Rates == nil {
		return nil
	}
	if d := s.o.Rates.Allow(tenant); !d.Allowed {
		return usedUp(tenant, "events", &d)
	}
	return nil
}

// payRedrive takes what n letters cost from the tenant's rate.
func (s *Server) payRedrive(tenant string, n int) {
	if s.o.Rates != nil && n > 0 {
		s.o.Rates.Spend(tenant, int64(n))
	}
}

func (s *Server) redriveDeadLetters(ctx context.Context, in *filterInput) (*redriveAllOutput, error) {
	q := in.reader()
	f := readFilter(ctx, q)
	limit := q.number("limit", defaultBulk, 1, maxBulk)
	if err := q.err(); err != nil {
		return nil, err
	}
	if err := s.mayRedrive(f.TenantID); err != nil {
		return nil, err
	}
	sum, err := s.o.DeadLetters.RedriveAll(ctx, f, limit, actorFrom(ctx))
	s.payRedrive(f.TenantID, sum.Done+sum.Failed)
	if err = goOn(&sum, err); err != nil {
		return nil, err
	}
	return &redriveAllOutput{Body: redriveSummary{Redriven: sum.Done, Failed: sum.Failed, More: sum.More}}, nil
}

func (s *Server) deleteDeadLetter(ctx context.Context, in *letterInput) (*noContentOutput, error) {
	if err := in.reader().err(); err != nil {
		return nil, err
	}
	return nil, s.o.DeadLetters.Delete(ctx, principalFrom(ctx).TenantID, in.ID, actorFrom(ctx))
}

func (s *Server) deleteDeadLetters(ctx context.Context, in *filterInput) (*deleteAllOutput, error) {
	q := in.reader()
	f := readFilter(ctx, q)
	limit := q.number("limit", defaultBulk, 1, maxBulk)
	if err := q.err(); err != nil {
		return nil, err
	}
	if f.Kind == "" && f.Type == "" && f.From.IsZero() && f.To.IsZero() {
		return nil, newProblem(slugInvalidParameter, "deleting needs a filter: give at least one of kind, type, from and to")
	}
	sum, err := s.o.DeadLetters.DeleteAll(ctx, f, limit, actorFrom(ctx))
	if err = goOn(&sum, err); err != nil {
		return nil, err
	}
	return &deleteAllOutput{Body: deleteSummary{Deleted: sum.Done, More: sum.More}}, nil
}

// goOn makes work by filter that ran out of time, but got somewhere, an answer
// that asks the caller to go on.
func goOn(sum *deadletter.Summary, err error) error {
	if errors.Is(err, context.DeadlineExceeded) && sum.Done > 0 {
		sum.More = true
		return nil
	}
	return err
}
