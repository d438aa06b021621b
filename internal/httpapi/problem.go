package httpapi

import (
	"io"
	"net/http"
	"strconv"
	"time"

	"millrace/internal/event"
)

// problemBase is what every problem type begins with. The addresses are names:
// what they mean is on the docs page.
const problemBase = "https://millrace.dev/problems/"

// problem is an RFC 9457 problem. It serves as the answer, as the error a route
// returns, and as the schema in the OpenAPI document.
type problem struct {
	Type       string           `json:"type" format:"uri" doc:"What kind of problem it is. Stable: switch on it." example:"https://millrace.dev/problems/backlog-full"`
	Title      string           `json:"title" doc:"The kind in words." example:"The backlog is full"`
	Status     int              `json:"status" doc:"The HTTP status." example:"503"`
	Detail     string           `json:"detail,omitempty" doc:"What happened this time and what to do."`
	Instance   string           `json:"instance,omitempty" doc:"The request id. Name it when you ask for help." example:"0d6f1c1e5b0f4a7c9be2f7a9c1d3e5f7"`
	RetryAfter int              `json:"retryAfter,omitempty" doc:"Seconds to wait before trying again, when waiting helps." example:"5"`
	Errors     []parameterError `json:"errors,omitempty" doc:"Each thing that is wrong, when it can be told apart."`
	BatchID    string           `json:"batchId,omitempty" doc:"The batch the rejected events belong to."`
	Rejected   []rejectedEvent  `json:"rejected,omitempty" doc:"The events that were not accepted. They are kept as dead letters."`
	Items      []refusedItem    `json:"items,omitempty" doc:"The items of the order that it is about."`

	cause  error       // for the log only
	header http.Header // further headers of the answer, nil if none
}

// parameterError names one thing that is wrong with a request.
type parameterError struct {
	Location string `json:"location" doc:"Where it is, for example query.limit or body.name." example:"query.limit"`
	Message  string `json:"message" doc:"What is wrong and what to do." example:"must be a whole number from 1 to 1000"`
}

// rejectedEvent is one event that was not accepted.
type rejectedEvent struct {
	Index  int    `json:"index" doc:"Its position in the batch, from 0."`
	ID     string `json:"id" doc:"The event's id, empty if it could not be read."`
	Reason string `json:"reason" doc:"What is wrong and what to do."`
}

// refusedItem is an item of an order that cannot be had.
type refusedItem struct {
	SKU       string `json:"sku" example:"tee-black-m"`
	Requested int64  `json:"requested" doc:"What all lines of the order with this SKU ask for." example:"3"`
	Available *int64 `json:"available,omitempty" doc:"What could be had now, if stock is the reason." example:"1"`
}

// newProblem returns a problem of a kind from the table.
func newProblem(slug, detail string) *problem {
	kind, ok := lookupKind(slug)
	if !ok {
		kind = problemKind{slug: slug, status: http.StatusInternalServerError, title: "Something went wrong"}
	}
	return &problem{Type: problemBase + slug, Title: kind.title, Status: kind.status, Detail: detail}
}

// after says when it makes sense to try again.
func (p *problem) after(d time.Duration) *problem {
	if d > 0 {
		p.RetryAfter = ceilSeconds(d)
	}
	return p
}

// because keeps the cause for the log.
func (p *problem) because(err error) *problem {
	p.cause = err
	return p
}

// with adds a header to the answer.
func (p *problem) with(name, value string) *problem {
	if p.header == nil {
		p.header = http.Header{}
	}
	p.header.Set(name, value)
	return p
}

func (p *problem) slug() string { return p.Type[len(problemBase):] }

// Error makes a problem an error, so that a route may return it.
func (p *problem) Error() string { return p.slug() + ": " + p.Detail }

func (p *problem) Unwrap() error { return p.cause }

// GetStatus, GetHeaders and ContentType are how huma asks an error about itself.
func (p *problem) GetStatus() int { return p.Status }

// GetHeaders returns the further headers of the answer.
func (p *problem) GetHeaders() http.Header {
	if p.RetryAfter > 0 {
		p.with("Retry-After", strconv.Itoa(p.RetryAfter))
	}
	return p.header
}

// ContentType returns the media type of a problem, whatever was negotiated.
func (p *problem) ContentType(string) string { return "application/problem+json" }

// appendJSON appends the problem as a JSON object.
func (p *problem) appendJSON(b []byte) []byte {
	b = append(b, `{"type":`...)
	b = appendString(b, p.Type)
	b = append(b, `,"title":`...)
	b = appendString(b, p.Title)
	b = append(b, `,"status":`...)
	b = strconv.AppendInt(b, int64(p.Status), 10)
	b = appendMember(b, "detail", p.Detail)
	b = appendMember(b, "instance", p.Instance)
	if p.RetryAfter > 0 {
		b = append(b, `,"retryAfter":`...)
		b = strconv.AppendInt(b, int64(p.RetryAfter), 10)
	}
	for i, e := range p.Errors {
		b = append(b, separator(i, `,"errors":[`)...)
		b = append(b, `{"location":`...)
		b = appendString(b, e.Location)
		b = append(b, `,"message":`...)
		b = appendString(b, e.Message)
		b = append(b, '}')
	}
	if len(p.Errors) > 0 {
		b = append(b, ']')
	}
	b = appendMember(b, "batchId", p.BatchID)
	for i, r := range p.Rejected {
		b = append(b, separator(i, `,"rejected":[`)...)
		b = appendRejected(b, r.Index, r.ID, r.Reason)
	}
	if len(p.Rejected) > 0 {
		b = append(b, ']')
	}
	for i, item := range p.Items {
		b = append(b, separator(i, `,"items":[`)...)
		b = append(b, `{"sku":`...)
		b = appendString(b, item.SKU)
		b = append(b, `,"requested":`...)
		b = strconv.AppendInt(b, item.Requested, 10)
		if item.Available != nil {
			b = append(b, `,"available":`...)
			b = strconv.AppendInt(b, *item.Available, 10)
		}
		b = append(b, '}')
	}
	if len(p.Items) > 0 {
		b = append(b, ']')
	}
	return append(b, '}', '\n')
}

func (p *problem) writeJSON(w io.Writer) error {
	_, err := w.Write(p.appendJSON(make([]byte, 0, 512)))
	return err
}

// rejectedEvents turns the domain's rejections into the answer's.
func rejectedEvents(list []event.Rejection) []rejectedEvent {
	out := make([]rejectedEvent, len(list))
	for i, r := range list {
		out[i] = rejectedEvent{Index: r.Index, ID: r.ID, Reason: r.Reason}
	}
	return out
}

// separator is what stands before element i of a list that begins with open.
func separator(i int, open string) string {
	if i == 0 {
		return open
	}
	return ","
}

// ceilSeconds rounds up to whole seconds, to at least one.
func ceilSeconds(d time.Duration) int {
	return max(int((d+time.Second-1)/time.Second), 1)
}
