package event

import (
	"context"
	"errors"
	"fmt"
	"time"

	"millrace/internal/deadletter"
	"millrace/internal/event/scan"
)

// Redriver puts dead letters of events back through an Ingester. It is a
// deadletter.Redriver.
type Redriver struct {
	Ingester *Ingester
	Store    Store
	Commits  CommitWaiter
}

// Redrive submits what the letter holds as if it came now. An event that has no
// id of its own gets the letter's, and one that is in the store already is not
// submitted again, so that a redrive that is repeated has no second effect.
func (r Redriver) Redrive(ctx context.Context, l deadletter.Letter, payload []byte) error {
	in := r.Ingester
	sub := in.begin(l.TenantID)
	defer in.end(sub)
	sub.mustSync = true // the letter is removed once this returns
	if err := in.read(sub, l, payload); err != nil {
		return err
	}
	for i := range sub.events {
		e := &sub.events[i]
		if e.Reason != "" {
			return &deadletter.RejectedError{Reason: e.Reason}
		}
		if reason := sub.refusal(e); reason != "" {
			return &deadletter.RejectedError{Reason: reason}
		}
		if len(e.ID) == 0 {
			e.ID = []byte(redrivenID(l.ID, i))
		}
	}
	if err := r.dropStored(ctx, sub); err != nil || len(sub.events) == 0 {
		return err
	}
	_, err := in.accept(ctx, sub)
	return err
}

// redrivenID is the id of the i-th event of a letter that named none.
func redrivenID(letterID string, i int) string {
	if i == 0 {
		return letterID
	}
	return fmt.Sprintf("%s-%d", letterID, i)
}

// read finds the events of a letter.
func (in *Ingester) read(sub *submission, l deadletter.Letter, payload []byte) error {
	if l.Kind == deadletter.KindWebhook {
		if err := in.checkPayload(sub, payload); err != nil {
			return &deadletter.RejectedError{Reason: err.Error()}
		}
		if l.Type == "" {
			return &deadletter.RejectedError{Reason: "the delivery named no type of event, so it cannot become one: send the event to /events, and delete this letter"}
		}
		sub.events = []scan.Event{{ID: []byte(l.EventID), Type: []byte(l.Type), Source: []byte(l.Source),
			Payload: payload, Raw: payload}}
		return nil
	}
	format := formatOf(l.ContentType)
	if l.Kind == deadletter.KindEvent {
		// One event out of a batch: give it its batch back.
		switch format {
		case scan.CloudEventBatch:
			format = scan.CloudEvent
		case scan.JSON, scan.NDJSON:
			format = scan.JSON
			payload = append(append([]byte{'['}, payload...), ']')
		}
	}
	events, err := sub.scanner.Scan(payload, format, in.o.Limits)
	var syntax *scan.SyntaxError
	if errors.As(err, &syntax) {
		return &deadletter.RejectedError{Reason: syntax.Error()}
	}
	sub.events, sub.format = events, format
	return err
}

// catchUp bounds how long a redrive waits for the store to have all of the log.
const catchUp = 10 * time.Second

// dropStored removes the events that are in the store already. What an earlier
// redrive put into the log must be there first.
func (r Redriver) dropStored(ctx context.Context, sub *submission) error {
	waitCtx, cancel := context.WithTimeout(ctx, catchUp)
	defer cancel()
	if err := r.Commits.WaitCommitted(waitCtx, r.Ingester.o.Log.Next()); err != nil {
		return &Unavailable{Reason: "store-behind", RetryAfter: catchUp, Err: err,
			Detail: "the database is behind the log, so it cannot be told whether this was redriven already; nothing was done, try again later"}
	}
	left := sub.events[:0]
	for _, e := range sub.events {
		stored, err := r.Store.Has(ctx, HashOf(sub.tenantID, string(e.Source), string(e.ID)))
		if err != nil {
			return fmt.Errorf("asking whether event %q is stored already: %w", e.ID, err)
		}
		if !stored {
			left = append(left, e)
		}
	}
	sub.events = left
	return nil
}

var _ deadletter.Redriver = Redriver{}
