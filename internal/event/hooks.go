package event

import (
	"context"
	"fmt"

	"millrace/internal/event/hook"
	"millrace/internal/event/scan"
)

// IngestHook accepts one webhook delivery: its raw body becomes the payload of
// one event, whose id is the delivery's, so that a delivery that is repeated
// counts once. Besides the errors of Ingest it answers ErrUnknownHook, and
// *hook.Error for a delivery whose signature does not hold.
func (in *Ingester) IngestHook(ctx context.Context, s HookSubmission) (Receipt, error) {
	verifier, ok := in.o.Hooks[s.Source]
	if !ok {
		return Receipt{}, fmt.Errorf("%w: %q", ErrUnknownHook, s.Source)
	}
	delivery, err := verifier.Verify(s.Header, s.Body, in.o.Now())
	if err != nil && !hook.Verified(err) {
		return Receipt{}, err
	}
	sub := in.begin(verifier.TenantID())
	defer in.end(sub)
	if err == nil {
		err = in.checkPayload(sub, s.Body)
	}
	if err != nil {
		in.keepDelivery(sub, s, delivery, err)
		return Receipt{}, err
	}
	sub.hooked[0] = deliveryEvent(delivery, s.Source, s.Body)
	sub.events = sub.hooked[:]
	return in.accept(ctx, sub)
}

func deliveryEvent(d hook.Delivery, source string, body []byte) scan.Event {
	e := scan.Event{ID: []byte(d.ID), Type: []byte(d.Type), Source: []byte(source), Payload: body, Raw: body}
	if !d.Timestamp.IsZero() {
		e.HasTimestamp, e.Timestamp = true, d.Timestamp.UnixNano()
	}
	return e
}

// checkPayload holds a payload that comes without an envelope to the same
// limits as one that has one, by scanning it as the payload of an event.
func (in *Ingester) checkPayload(sub *submission, body []byte) error {
	if !scan.Valid(body) { // before it is wrapped: a half of it must not pass for the whole
		return &scan.SyntaxError{Code: scan.Malformed, Reason: "the payload is not JSON: send JSON"}
	}
	wrapped := make([]byte, 0, len(body)+32)
	wrapped = append(wrapped, `[{"type":"hook","payload":`...)
	wrapped = append(wrapped, body...)
	wrapped = append(wrapped, `}]`...)
	events, err := sub.scanner.Scan(wrapped, scan.JSON, in.o.Limits)
	if err != nil {
		return err
	}
	if reason := events[0].Reason; reason != "" {
		return &scan.SyntaxError{Code: scan.WrongShape, Reason: reason}
	}
	return nil
}

// keepDelivery makes a delivery that is genuine but cannot become an event a
// dead letter, from which it can be redriven once mended.
func (in *Ingester) keepDelivery(sub *submission, s HookSubmission, d hook.Delivery, cause error) {
	entry := deadEntry{kind: deadWebhook, reason: cause.Error(), id: []byte(d.ID), typ: []byte(d.Type),
		source: []byte(s.Source), payload: s.Body}
	in.keep(sub, entry)
}
